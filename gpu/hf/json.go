package hf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Unmarshal is json.Unmarshal of a file of a model, whose errors say to people what is wrong with
// it: the line, or the field and what it is.
func Unmarshal(b []byte, v any) error {
	err := json.Unmarshal(b, v)
	if err == nil {
		return nil
	}
	text := bytes.TrimSpace(b)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case len(text) == 0:
		return errors.New("it is empty")
	case pointer(b):
		return errLFS
	case bytes.HasPrefix(b, []byte("\xef\xbb\xbf")):
		return errors.New("it begins with a byte-order mark, which is no JSON: save it as UTF-8 without")
	case errors.As(err, &syntax) && syntax.Offset >= int64(len(text)) && strings.HasPrefix(syntax.Error(), "unexpected end"):
		return errors.New("it ends too early: copy it whole")
	case errors.As(err, &syntax):
		return fmt.Errorf("line %d: %w", 1+bytes.Count(b[:min(int(syntax.Offset), len(b))], []byte("\n")), syntax)
	case errors.As(err, &kind):
		field := ""
		if kind.Field != "" {
			field = kind.Field + ": "
		}
		got := kind.Value
		switch word, _, _ := strings.Cut(got, " "); word {
		case "array", "object":
			got = "an " + got
		case "bool":
			got = "true or false"
		default:
			got = "a " + got
		}
		return fmt.Errorf("%sit is %s, want %s", field, got, wanted(kind.Type))
	}
	return err
}

// wanted names what JSON has for a type.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return wanted(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a whole number in range"
}

var errLFS = errors.New("it is only a pointer of Git LFS, not the file: run git lfs pull where it was cloned")

// pointer says whether b is what git leaves of a large file that was not downloaded.
func pointer(b []byte) bool { return bytes.HasPrefix(b, []byte("version https://git-lfs")) }

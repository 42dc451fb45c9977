package chat

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxRange = 1 << 20

// builtins defines the functions that templates call.
func (e *eval) builtins() {
	g := e.globals.vars
	g["range"] = function(span)
	g["namespace"] = function(func(e *eval, a args) (any, error) {
		d, err := makeDict(a)
		if err == nil {
			d.namespace = true
		}
		return d, err
	})
	g["dict"] = function(func(_ *eval, a args) (any, error) { d, err := makeDict(a); return d, err })
	g["raise_exception"] = function(func(e *eval, a args) (any, error) {
		s, err := e.str(a.get(0, "message", "it does not say why"))
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("the template refuses the conversation: %.500s", s)
	})
	if !e.now.IsZero() {
		g["strftime_now"] = function(func(e *eval, a args) (any, error) {
			f, ok := a.get(0, "format", nil).(string)
			if !ok {
				return nil, errors.New("strftime_now: want a format")
			}
			return e.strftime(f)
		})
	}
}

// makeDict is dict(other, name=value…).
func makeDict(a args) (*dict, error) {
	d := newDict()
	if len(a.list) > 0 {
		o, ok := a.list[0].(*dict)
		if !ok || len(a.list) > 1 {
			return d, errors.New("want a mapping and names")
		}
		for i, k := range o.keys {
			d.set(k, o.values[i])
		}
	}
	for _, k := range sortedKeys(a.named) {
		d.set(k, a.named[k])
	}
	return d, nil
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func span(e *eval, a args) (any, error) {
	at := [3]int64{0, 0, 1}
	if len(a.list) < 1 || len(a.list) > 3 {
		return nil, errors.New("range: want one to three numbers")
	}
	for i, v := range a.list {
		n, ok := whole(v)
		if !ok {
			return nil, fmt.Errorf("range: %s is no whole number", kindOf(v))
		}
		at[i] = n
	}
	if len(a.list) == 1 {
		at[0], at[1] = 0, at[0]
	}
	if at[2] == 0 {
		return nil, errors.New("range: a step of 0")
	}
	l := &list{}
	for i := at[0]; at[2] > 0 && i < at[1] || at[2] < 0 && i > at[1]; {
		if len(l.items) == maxRange {
			return nil, fmt.Errorf("range: more than %d numbers", maxRange)
		}
		l.items = append(l.items, i)
		v, err := integers("+", i, at[2])
		if err != nil {
			break
		}
		i = v.(int64)
	}
	return l, e.step(len(l.items))
}

// strftime is Python's, for the marks that templates use.
func (e *eval) strftime(f string) (any, error) {
	layouts := map[byte]string{'d': "02", 'b': "Jan", 'B': "January", 'Y': "2006", 'y': "06", 'm': "01", 'H': "15", 'I': "03", 'M': "04", 'S': "05",
		'p': "PM", 'a': "Mon", 'A': "Monday", 'Z': "MST", 'z': "-0700", 'j': "002"}
	var b strings.Builder
	for i := 0; i < len(f); i++ {
		if f[i] != '%' || i+1 == len(f) {
			b.WriteByte(f[i])
			continue
		}
		i++
		switch l, ok := layouts[f[i]]; {
		case f[i] == '%':
			b.WriteByte('%')
		case ok:
			b.WriteString(e.now.Format(l))
		case f[i] == '-' && i+1 < len(f) && layouts[f[i+1]] != "":
			i++
			s := strings.TrimLeft(e.now.Format(layouts[f[i]]), "0")
			if s == "" {
				s = "0"
			}
			b.WriteString(s)
		default:
			return nil, fmt.Errorf("strftime_now: %%%c is not supported", f[i])
		}
	}
	return b.String(), e.make(b.Len())
}

// takesOne are the tests that take an argument.
var takesOne = map[string]bool{"divisibleby": true, "equalto": true, "eq": true, "ne": true, "gt": true, "lt": true, "ge": true, "le": true, "in": true, "sameas": true}

type testFunc func(e *eval, v any, a args) (bool, error)

var tests map[string]testFunc

func init() {
	simple := func(f func(v any) bool) testFunc {
		return func(_ *eval, v any, _ args) (bool, error) { return f(v), nil }
	}
	compare := func(op string) testFunc {
		return func(e *eval, v any, a args) (bool, error) {
			y := a.get(0, "other", undefined{"the argument"})
			switch op {
			case "==", "!=":
				same, err := e.equal(v, y)
				return same == (op == "=="), err
			case "<":
				return e.less(v, y)
			case ">":
				return e.less(y, v)
			case "<=":
				b, err := e.less(y, v)
				return !b, err
			}
			b, err := e.less(v, y)
			return !b, err
		}
	}
	is := func(kinds ...string) testFunc {
		return simple(func(v any) bool { return slices.Contains(kinds, kindOf(v)) })
	}
	parity := func(odd bool) testFunc {
		return func(_ *eval, v any, _ args) (bool, error) {
			n, ok := whole(v)
			if !ok {
				return false, fmt.Errorf("%s is no whole number", kindOf(v))
			}
			return n&1 == 1 == odd, nil
		}
	}
	number := simple(func(v any) bool { _, ok := float(v); return ok })
	defined := simple(func(v any) bool { _, ok := v.(undefined); return !ok })
	tests = map[string]testFunc{
		"defined":   defined,
		"undefined": func(e *eval, v any, a args) (bool, error) { ok, err := defined(e, v, a); return !ok, err },
		"none":      is("none"), "string": is("a string"), "boolean": is("a boolean"), "mapping": is("a mapping"),
		"callable": is("a function"), "sequence": is("a string", "a list", "a mapping"), "iterable": is("a string", "a list", "a mapping"),
		"number": number, "float": simple(func(v any) bool { _, ok := v.(float64); return ok }),
		"integer": simple(func(v any) bool { _, ok := v.(int64); return ok }),
		"true":    simple(func(v any) bool { return v == true }), "false": simple(func(v any) bool { return v == false }),
		"odd": parity(true), "even": parity(false),
		"divisibleby": func(_ *eval, v any, a args) (bool, error) {
			x, ok := whole(v)
			y, okY := whole(a.get(0, "num", nil))
			if !ok || !okY || y == 0 {
				return false, errors.New("want whole numbers")
			}
			return x%y == 0, nil
		},
		"eq": compare("=="), "equalto": compare("=="), "sameas": compare("=="), "ne": compare("!="),
		"lt": compare("<"), "le": compare("<="), "gt": compare(">"), "ge": compare(">="),
		"in": func(e *eval, v any, a args) (bool, error) {
			return e.contains(a.get(0, "seq", undefined{"the argument"}), v)
		},
		"lower": simple(func(v any) bool { s, ok := v.(string); return ok && cased(s, unicode.IsUpper, unicode.IsLower) }),
		"upper": simple(func(v any) bool { s, ok := v.(string); return ok && cased(s, unicode.IsLower, unicode.IsUpper) }),
	}
}

// cased says whether s has a letter of the case want and none of the case not.
func cased(s string, not, want func(rune) bool) bool {
	return strings.IndexFunc(s, not) < 0 && strings.IndexFunc(s, want) >= 0
}

// length is that of Python's len.
func length(e *eval, v any) (int64, error) {
	switch v := v.(type) {
	case string:
		return int64(utf8.RuneCountInString(v)), e.step(len(v) / 64)
	case *list:
		return int64(len(v.items)), nil
	case *dict:
		return int64(len(v.keys)), nil
	case undefined:
		return 0, nil
	}
	return 0, fmt.Errorf("%s has no length", kindOf(v))
}

// strip cuts white space, or the characters of the argument, from the ends.
func strip(left, right bool) func(e *eval, s string, a args) (any, error) {
	return func(e *eval, s string, a args) (any, error) {
		drop := unicode.IsSpace
		switch c := a.get(0, "chars", nil).(type) {
		case nil:
		case string:
			drop = func(r rune) bool { return strings.ContainsRune(c, r) }
			if err := e.step(len(c) * len(s) / 16); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("the characters are %s", kindOf(c))
		}
		if err := e.step(len(s) / 16); err != nil {
			return nil, err
		}
		if left {
			s = strings.TrimLeftFunc(s, drop)
		}
		if right {
			s = strings.TrimRightFunc(s, drop)
		}
		return s, nil
	}
}

func (e *eval) replace(s string, a args) (any, error) {
	from, ok := a.get(0, "old", nil).(string)
	to, ok2 := a.get(1, "new", nil).(string)
	n, ok3 := whole(a.get(2, "count", int64(-1)))
	if a.get(2, "count", nil) == nil {
		n, ok3 = -1, true
	}
	if !ok || !ok2 || !ok3 {
		return nil, errors.New("replace: want two strings")
	}
	times := int64(strings.Count(s, from))
	if n >= 0 {
		times = min(times, n)
	}
	size := int64(len(s)) + times*int64(len(to))
	if size > maxBytes {
		return nil, e.make(maxBytes + 1)
	}
	if err := e.make(int(size)); err != nil {
		return nil, err
	}
	return strings.Replace(s, from, to, int(times)), nil
}

// integer is Python's int of a string.
func integer(s string, base int) (int64, bool) {
	i, err := strconv.ParseInt(strings.ReplaceAll(strings.TrimSpace(s), "_", ""), base, 64)
	return i, err == nil
}

// round is to the nearest, ties to even, as Python's.
func round(f float64, digits int64, how string) (float64, error) {
	p := math.Pow(10, float64(min(max(digits, -300), 300)))
	switch how {
	case "common":
		if digits == 0 {
			return math.RoundToEven(f), nil
		}
		r := math.RoundToEven(f * p)
		if math.IsInf(r, 0) {
			return f, nil
		}
		return r / p, nil
	case "ceil":
		return math.Ceil(f*p) / p, nil
	case "floor":
		return math.Floor(f*p) / p, nil
	}
	return 0, fmt.Errorf("method %.20q, want common, ceil or floor", how)
}

package chat

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf16"
)

// A jsonStyle is how Python's json.dumps writes, with transformers' defaults.
type jsonStyle struct {
	lines      bool   // each item on a line of its own
	indent     string // of a level
	comma      string
	colon      string
	ascii      bool // other characters as escapes
	sortedKeys bool
}

// tojson is transformers' filter: tojson(ensure_ascii, indent, separators, sort_keys).
func tojson(e *eval, v any, a args) (any, error) {
	s := jsonStyle{comma: ", ", colon: ": ", ascii: truth(a.get(0, "ensure_ascii", false)), sortedKeys: truth(a.get(3, "sort_keys", false))}
	switch n := a.get(1, "indent", nil).(type) {
	case nil:
	case string:
		s.lines, s.indent = true, n
	default:
		i, ok := whole(n)
		if !ok || i < 0 || i > 64 {
			return nil, errors.New("want an indent of 0 to 64")
		}
		s.lines, s.indent = true, strings.Repeat(" ", int(i))
	}
	if s.lines {
		s.comma = ","
	}
	if l, ok := a.get(2, "separators", nil).(*list); ok {
		if len(l.items) != 2 {
			return nil, errors.New("want two separators")
		}
		var okComma, okColon bool
		s.comma, okComma = l.items[0].(string)
		s.colon, okColon = l.items[1].(string)
		if !okComma || !okColon || len(s.comma)+len(s.colon) > 64 {
			return nil, errors.New("want two short strings as separators")
		}
	}
	var b strings.Builder
	err := e.json(&b, v, s, 0)
	return b.String(), errors.Join(err, e.make(b.Len()))
}

func (e *eval) json(b *strings.Builder, v any, s jsonStyle, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("a value deeper than %d", maxDepth)
	}
	if err := e.step(1); err != nil {
		return err
	}
	line := func(depth int) error {
		if !s.lines {
			return nil
		}
		if err := e.make(1 + depth*len(s.indent)); err != nil {
			return err
		}
		b.WriteByte('\n')
		for range depth {
			b.WriteString(s.indent)
		}
		return nil
	}
	// all writes the items of a list or dict, each on a line of its own where
	// there is an indent.
	all := func(open, end string, n int, item func(i int) error) error {
		err := series(b, open, s.comma, "", n, func(i int) error {
			if err := line(depth + 1); err != nil {
				return err
			}
			return item(i)
		})
		if err == nil && n > 0 {
			err = line(depth)
		}
		b.WriteString(end)
		return err
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case float64:
		switch { // Python's json writes what is no JSON, too
		case math.IsInf(v, 1):
			b.WriteString("Infinity")
		case math.IsInf(v, -1):
			b.WriteString("-Infinity")
		case math.IsNaN(v):
			b.WriteString("NaN")
		default:
			return e.number(b, v)
		}
	case int64, *big.Int:
		return e.number(b, v)
	case string:
		return e.quote(b, v, s.ascii)
	case *list:
		if v.lazy {
			return fmt.Errorf("%s is no JSON", kindOf(v))
		}
		return all("[", "]", len(v.items), func(i int) error { return e.json(b, v.items[i], s, depth+1) })
	case *dict:
		keys, values := v.keys, v.values
		if s.sortedKeys {
			p, err := e.pairs(v)
			if err == nil {
				p, err = e.sorted(p.(*list).items, func(x any) (any, error) { return x.(*list).items[0], nil }, false)
			}
			if err != nil {
				return err
			}
			keys, values = nil, nil
			for _, x := range p.(*list).items {
				keys, values = append(keys, x.(*list).items[0]), append(values, x.(*list).items[1])
			}
		}
		return all("{", "}", len(keys), func(i int) error {
			name, ok := keys[i].(string)
			if !ok {
				var w strings.Builder
				if err := e.json(&w, keys[i], s, depth+1); err != nil {
					return err
				}
				name = w.String()
			}
			if err := e.quote(b, name, s.ascii); err != nil {
				return err
			}
			b.WriteString(s.colon)
			return e.json(b, values[i], s, depth+1)
		})
	default:
		return fmt.Errorf("%s is no JSON", kindOf(v))
	}
	return nil
}

func (e *eval) quote(b *strings.Builder, s string, ascii bool) error {
	if err := e.make(len(s)); err != nil {
		return err
	}
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 && strings.ContainsRune("\n\r\t\b\f", r):
			b.WriteByte('\\')
			b.WriteByte("nrtbf"[strings.IndexRune("\n\r\t\b\f", r)])
		case ascii && r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(b, `\u%04x\u%04x`, hi, lo)
		case r < 0x20 || ascii && r > '~':
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return nil
}

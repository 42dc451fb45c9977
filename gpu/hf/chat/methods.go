package chat

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

var (
	stringMethods map[string]func(e *eval, s string, a args) (any, error)
	listMethods   map[string]func(e *eval, l *list, a args) (any, error)
	dictMethods   map[string]func(e *eval, d *dict, a args) (any, error)
)

func init() {
	mapped := func(f func(string) string) func(e *eval, s string, a args) (any, error) {
		return func(e *eval, s string, _ args) (any, error) {
			if err := e.step(len(s) / 16); err != nil {
				return nil, err
			}
			t := f(s)
			return t, e.make(len(t))
		}
	}
	all := func(f func(rune) bool) func(e *eval, s string, a args) (any, error) {
		return func(e *eval, s string, _ args) (any, error) {
			return s != "" && strings.IndexFunc(s, func(r rune) bool { return !f(r) }) < 0, e.step(len(s) / 16)
		}
	}
	affix := func(has func(s, x string) bool) func(e *eval, s string, a args) (any, error) {
		return func(e *eval, s string, a args) (any, error) {
			s, _, ok, err := e.within(s, a, 1)
			if err != nil {
				return nil, err
			}
			switch x := a.get(0, "prefix", nil).(type) {
			case string:
				return ok && has(s, x), nil
			case *list:
				for _, y := range x.items {
					if y, isString := y.(string); isString && ok && has(s, y) {
						return true, nil
					}
				}
				return false, nil
			}
			return nil, errors.New("want a string")
		}
	}
	find := func(index func(s, x string) int, must bool) func(e *eval, s string, a args) (any, error) {
		return func(e *eval, s string, a args) (any, error) {
			x, ok := a.get(0, "sub", nil).(string)
			if !ok {
				return nil, errors.New("want a string")
			}
			s, before, ok, err := e.within(s, a, 1)
			if err != nil {
				return nil, err
			}
			i := int64(-1)
			if k := index(s, x); ok && k >= 0 {
				i = before + int64(utf8.RuneCountInString(s[:k]))
			} else if must {
				return nil, errors.New("index: no such string")
			}
			return i, e.step(len(s) / 16)
		}
	}
	part := func(last bool) func(e *eval, s string, a args) (any, error) {
		return func(e *eval, s string, a args) (any, error) {
			sep, _ := a.get(0, "sep", nil).(string)
			if sep == "" {
				return nil, errors.New("partition: want a separator")
			}
			i, parts := strings.Index(s, sep), []any{s, "", ""}
			if last {
				i, parts = strings.LastIndex(s, sep), []any{"", "", s}
			}
			if i >= 0 {
				parts = []any{s[:i], sep, s[i+len(sep):]}
			}
			return &list{items: parts, tuple: true}, e.make(len(s))
		}
	}
	pad := func(align byte) func(e *eval, s string, a args) (any, error) {
		return func(e *eval, s string, a args) (any, error) {
			n, ok := whole(a.get(0, "width", nil))
			fill, ok2 := a.get(1, "fillchar", " ").(string)
			if !ok || !ok2 || utf8.RuneCountInString(fill) != 1 || n > maxWidth {
				return nil, fmt.Errorf("want a width of at most %d, and one character", maxWidth)
			}
			f := spec{align: align, width: int(n), precision: -1, verb: 's'}
			f.fill, _ = utf8.DecodeRuneInString(fill)
			if k := f.width - utf8.RuneCountInString(s); align == '^' && k > 0 && k&1 == 1 && f.width&1 == 1 {
				s = fill + s // Python's center puts the odd one before where the width is odd
			}
			return e.formatted(f, s)
		}
	}
	stringMethods = map[string]func(e *eval, s string, a args) (any, error){
		"strip": strip(true, true), "lstrip": strip(true, false), "rstrip": strip(false, true),
		"upper": mapped(upper), "lower": mapped(lower), "title": mapped(title), "capitalize": mapped(capitalize), "swapcase": mapped(swapcase), "casefold": mapped(casefold),
		"partition": part(false), "rpartition": part(true), "ljust": pad('<'), "rjust": pad('>'), "center": pad('^'),
		"startswith": affix(strings.HasPrefix), "endswith": affix(strings.HasSuffix),
		"find": find(strings.Index, false), "rfind": find(strings.LastIndex, false), "index": find(strings.Index, true), "rindex": find(strings.LastIndex, true),
		"isdecimal": all(unicode.IsDigit), "isdigit": all(func(r rune) bool {
			return unicode.IsDigit(r) || strings.ContainsRune("²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", r)
		}),
		"isnumeric": all(unicode.IsNumber), "isalpha": all(unicode.IsLetter), "isspace": all(blank),
		"isascii": func(e *eval, s string, _ args) (any, error) {
			return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0, e.step(len(s) / 16)
		},
		"istitle": func(e *eval, s string, _ args) (any, error) {
			return title(s) == s && strings.IndexFunc(s, cased) >= 0, e.make(len(s))
		},
		"zfill": func(e *eval, s string, a args) (any, error) {
			n, ok := whole(a.get(0, "width", nil))
			if !ok || n > maxWidth {
				return nil, fmt.Errorf("zfill: want a width of at most %d", maxWidth)
			}
			sign := ""
			if s != "" && (s[0] == '-' || s[0] == '+') {
				sign, s = s[:1], s[1:]
			}
			return sign + strings.Repeat("0", max(0, int(n)-len(sign)-utf8.RuneCountInString(s))) + s, e.make(len(s) + maxWidth)
		},
		"isalnum": all(alphanumeric),
		"isupper": func(_ *eval, s string, _ args) (any, error) {
			return allCased(s, unicode.IsLower, unicode.IsUpper), nil
		},
		"islower": func(_ *eval, s string, _ args) (any, error) {
			return allCased(s, unicode.IsUpper, unicode.IsLower), nil
		},
		"replace": func(e *eval, s string, a args) (any, error) { return e.replace(s, a) },
		"split":   func(e *eval, s string, a args) (any, error) { return e.split(s, a, false) },
		"rsplit":  func(e *eval, s string, a args) (any, error) { return e.split(s, a, true) },
		"removeprefix": func(_ *eval, s string, a args) (any, error) {
			x, _ := a.get(0, "", nil).(string)
			return strings.TrimPrefix(s, x), nil
		},
		"removesuffix": func(_ *eval, s string, a args) (any, error) {
			x, _ := a.get(0, "", nil).(string)
			return strings.TrimSuffix(s, x), nil
		},
		"splitlines": func(e *eval, s string, a args) (any, error) {
			l := &list{}
			for _, line := range lines(s, truth(a.get(0, "keepends", false))) {
				l.items = append(l.items, line)
			}
			return l, e.step(len(l.items) + len(s)/16)
		},
		"join": func(e *eval, s string, a args) (any, error) {
			return e.join(a.get(0, "iterable", undefined{"the argument"}), s, true)
		},
		"count": func(e *eval, s string, a args) (any, error) {
			x, ok := a.get(0, "sub", nil).(string)
			if !ok {
				return nil, errors.New("count: want a string")
			}
			s, _, ok, err := e.within(s, a, 1)
			if err != nil || !ok {
				return int64(0), err
			}
			return int64(strings.Count(s, x)), e.step(len(s) / 16)
		},
		"format": func(e *eval, s string, a args) (any, error) { return e.braces(s, a) },
	}
	listMethods = map[string]func(e *eval, l *list, a args) (any, error){
		"append": func(_ *eval, l *list, a args) (any, error) {
			l.items = append(l.items, a.get(0, "object", nil))
			return nil, nil
		},
		"extend": func(e *eval, l *list, a args) (any, error) {
			x, err := e.elements(a.get(0, "iterable", undefined{"the argument"}))
			l.items = append(l.items, x...)
			return nil, err
		},
		"insert": func(e *eval, l *list, a args) (any, error) {
			n, ok := whole(a.get(0, "index", nil))
			if !ok {
				return nil, errors.New("insert: want a place")
			}
			if n < 0 {
				n += int64(len(l.items))
			}
			i := int(min(max(n, 0), int64(len(l.items))))
			l.items = append(l.items, nil)
			copy(l.items[i+1:], l.items[i:])
			l.items[i] = a.get(1, "object", nil)
			return nil, e.step(len(l.items) - i)
		},
		"pop": func(e *eval, l *list, a args) (any, error) {
			n, ok := whole(a.get(0, "index", int64(-1)))
			if n < 0 {
				n += int64(len(l.items))
			}
			if !ok || n < 0 || n >= int64(len(l.items)) {
				return nil, errors.New("pop: no such element")
			}
			v := l.items[n]
			l.items = append(l.items[:n:n], l.items[n+1:]...)
			return v, e.step(len(l.items))
		},
		"reverse": func(e *eval, l *list, _ args) (any, error) {
			for i, j := 0, len(l.items)-1; i < j; i, j = i+1, j-1 {
				l.items[i], l.items[j] = l.items[j], l.items[i]
			}
			return nil, e.step(len(l.items))
		},
		"index": func(e *eval, l *list, a args) (any, error) {
			for i, v := range l.items {
				if same, err := e.equal(v, a.get(0, "value", nil)); err != nil || same {
					return int64(i), err
				}
			}
			return nil, errors.New("index: no such element")
		},
		"count": func(e *eval, l *list, a args) (any, error) {
			n := int64(0)
			for _, v := range l.items {
				same, err := e.equal(v, a.get(0, "value", nil))
				if err != nil {
					return nil, err
				}
				if same {
					n++
				}
			}
			return n, nil
		},
		"copy": func(e *eval, l *list, _ args) (any, error) {
			return &list{items: append([]any{}, l.items...)}, e.step(len(l.items))
		},
	}
	dictMethods = map[string]func(e *eval, d *dict, a args) (any, error){
		"items": func(e *eval, d *dict, _ args) (any, error) { return e.pairs(d) },
		"keys": func(e *eval, d *dict, _ args) (any, error) {
			return &list{items: append([]any{}, d.keys...)}, e.step(len(d.keys))
		},
		"values": func(e *eval, d *dict, _ args) (any, error) {
			return &list{items: append([]any{}, d.values...)}, e.step(len(d.keys))
		},
		"get": func(_ *eval, d *dict, a args) (any, error) {
			if v, ok := d.get(a.get(0, "key", nil)); ok {
				return v, nil
			}
			return a.get(1, "default", nil), nil
		},
		"update": func(e *eval, d *dict, a args) (any, error) {
			o, err := e.makeDict(a)
			if err != nil {
				return nil, err
			}
			for i, k := range o.keys {
				d.set(k, o.values[i])
			}
			return nil, e.step(len(o.keys))
		},
		"copy": func(e *eval, d *dict, _ args) (any, error) {
			o, err := e.makeDict(args{list: []any{d}})
			return o, errors.Join(err, e.step(len(d.keys)))
		},
		"pop": func(e *eval, d *dict, a args) (any, error) {
			k := a.get(0, "key", nil)
			v, ok := d.get(k)
			if !ok {
				if len(a.list) < 2 {
					return nil, fmt.Errorf("pop: no such key")
				}
				return a.list[1], nil
			}
			h, _ := key(k)
			i := d.at[h]
			d.keys, d.values = append(d.keys[:i:i], d.keys[i+1:]...), append(d.values[:i:i], d.values[i+1:]...)
			delete(d.at, h)
			for j := i; j < len(d.keys); j++ {
				h, _ := key(d.keys[j])
				d.at[h] = j
			}
			return v, e.step(len(d.keys))
		},
	}
}

// pairs are a dictionary's entries.
func (e *eval) pairs(d *dict) (any, error) {
	l := &list{}
	for i, k := range d.keys {
		l.items = append(l.items, &list{items: []any{k, d.values[i]}, tuple: true})
	}
	return l, e.step(3 * len(d.keys))
}

// join joins elements as text; strict wants them to be strings.
func (e *eval) join(v any, sep string, strict bool) (any, error) {
	items, err := e.elements(v)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i, x := range items {
		if i > 0 {
			b.WriteString(sep)
		}
		s, ok := x.(string)
		if !ok && strict {
			return nil, fmt.Errorf("join: element %d is %s", i, kindOf(x))
		}
		if !ok {
			if s, err = e.str(x); err != nil {
				return nil, err
			}
		}
		if err := e.make(len(s) + len(sep)); err != nil {
			return nil, err
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

func alphanumeric(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }

package chat

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

var (
	stringMethods map[string]func(e *eval, s string, a args) (any, error)
	listMethods   map[string]func(e *eval, l *list, a args) (any, error)
	dictMethods   map[string]func(e *eval, d *dict, a args) (any, error)
)

func init() {
	mapped := func(f func(string) string) func(e *eval, s string, a args) (any, error) {
		return func(e *eval, s string, _ args) (any, error) { t := f(s); return t, e.make(len(t)) }
	}
	all := func(f func(rune) bool) func(e *eval, s string, a args) (any, error) {
		return func(e *eval, s string, _ args) (any, error) {
			return s != "" && strings.IndexFunc(s, func(r rune) bool { return !f(r) }) < 0, e.step(len(s) / 16)
		}
	}
	affix := func(has func(s, x string) bool) func(e *eval, s string, a args) (any, error) {
		return func(_ *eval, s string, a args) (any, error) {
			switch x := a.get(0, "prefix", nil).(type) {
			case string:
				return has(s, x), nil
			case *list:
				for _, y := range x.items {
					if y, ok := y.(string); ok && has(s, y) {
						return true, nil
					}
				}
				return false, nil
			}
			return nil, errors.New("want a string")
		}
	}
	find := func(index func(s, x string) int) func(e *eval, s string, a args) (any, error) {
		return func(e *eval, s string, a args) (any, error) {
			x, ok := a.get(0, "sub", nil).(string)
			if !ok {
				return nil, errors.New("want a string")
			}
			i := index(s, x)
			if i > 0 {
				i = len([]rune(s[:i]))
			}
			return int64(i), e.step(len(s) / 16)
		}
	}
	stringMethods = map[string]func(e *eval, s string, a args) (any, error){
		"strip": strip(true, true), "lstrip": strip(true, false), "rstrip": strip(false, true),
		"upper": mapped(strings.ToUpper), "lower": mapped(strings.ToLower), "title": mapped(title), "capitalize": mapped(capitalize),
		"startswith": affix(strings.HasPrefix), "endswith": affix(strings.HasSuffix),
		"find": find(strings.Index), "rfind": find(strings.LastIndex),
		"isdigit": all(unicode.IsDigit), "isnumeric": all(unicode.IsNumber), "isalpha": all(unicode.IsLetter), "isspace": all(unicode.IsSpace),
		"isalnum": all(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
		"isupper": func(_ *eval, s string, _ args) (any, error) { return cased(s, unicode.IsLower, unicode.IsUpper), nil },
		"islower": func(_ *eval, s string, _ args) (any, error) { return cased(s, unicode.IsUpper, unicode.IsLower), nil },
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
		"splitlines": func(e *eval, s string, _ args) (any, error) {
			l := &list{}
			for s != "" {
				line, rest, _ := strings.Cut(s, "\n")
				l.items, s = append(l.items, strings.TrimSuffix(line, "\r")), rest
			}
			return l, e.step(len(l.items))
		},
		"join": func(e *eval, s string, a args) (any, error) {
			return e.join(a.get(0, "iterable", undefined{"the argument"}), s, true)
		},
		"count": func(e *eval, s string, a args) (any, error) {
			x, ok := a.get(0, "sub", nil).(string)
			if !ok {
				return nil, errors.New("count: want a string")
			}
			return int64(strings.Count(s, x)), e.step(len(s) / 16)
		},
		"format": func(*eval, string, args) (any, error) { return nil, errors.New("format is not supported") },
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
			o, err := makeDict(a)
			if err != nil {
				return nil, err
			}
			for i, k := range o.keys {
				d.set(k, o.values[i])
			}
			return nil, e.step(len(o.keys))
		},
		"copy": func(e *eval, d *dict, _ args) (any, error) {
			o, err := makeDict(args{list: []any{d}})
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
		l.items = append(l.items, &list{[]any{k, d.values[i]}, true})
	}
	return l, e.step(3 * len(d.keys))
}

// split is Python's: at white space where there is no separator.
func (e *eval) split(s string, a args, right bool) (any, error) {
	n, ok := whole(a.get(1, "maxsplit", int64(-1)))
	if !ok {
		return nil, errors.New("split: how often is no whole number")
	}
	var parts []string
	switch sep := a.get(0, "sep", nil).(type) {
	case nil:
		if n >= 0 {
			return nil, errors.New("split: a limit without a separator is not supported")
		}
		parts = strings.Fields(s)
	case string:
		if sep == "" {
			return nil, errors.New("split: an empty separator")
		}
		if n < 0 {
			n = int64(len(s))
		}
		if right {
			for ; n > 0; n-- {
				i := strings.LastIndex(s, sep)
				if i < 0 {
					break
				}
				parts, s = append(parts, s[i+len(sep):]), s[:i]
			}
			parts = append(parts, s)
			for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
				parts[i], parts[j] = parts[j], parts[i]
			}
		} else {
			parts = strings.SplitN(s, sep, int(min(n, int64(len(s))))+1)
		}
	default:
		return nil, fmt.Errorf("split: the separator is %s", kindOf(sep))
	}
	l := &list{}
	for _, p := range parts {
		l.items = append(l.items, p)
	}
	return l, e.step(len(parts) + len(s)/16)
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

// title is Python's: a letter after one that is none is upper case, others lower.
func title(s string) string {
	inside := false
	return strings.Map(func(r rune) rune {
		was := inside
		if inside = unicode.IsLetter(r); inside && was {
			return unicode.ToLower(r)
		}
		return unicode.ToTitle(r)
	}, s)
}

func capitalize(s string) string {
	first := true
	return strings.Map(func(r rune) rune {
		if first {
			first = false
			return unicode.ToTitle(r)
		}
		return unicode.ToLower(r)
	}, s)
}

// format is the string's % with %s, %d and %%.
func (e *eval) format(f string, v any) (any, error) {
	values := []any{v}
	if l, ok := v.(*list); ok {
		values = l.items
	}
	var b strings.Builder
	for i := 0; i < len(f); i++ {
		if f[i] != '%' {
			b.WriteByte(f[i])
			continue
		}
		i++
		switch {
		case i < len(f) && f[i] == '%':
			b.WriteByte('%')
		case i < len(f) && (f[i] == 's' || f[i] == 'd') && len(values) > 0:
			s, err := e.str(values[0])
			if _, ok := whole(values[0]); f[i] == 'd' && !ok {
				err = fmt.Errorf("%%d of %s", kindOf(values[0]))
			}
			if err == nil {
				err = e.make(len(s))
			}
			if err != nil {
				return nil, err
			}
			b.WriteString(s)
			values = values[1:]
		default:
			return nil, errors.New("a format with another mark than %s and %d, or with too few values")
		}
	}
	if len(values) > 0 {
		return nil, errors.New("a format with too many values")
	}
	return b.String(), e.make(len(f))
}

package chat

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

type filterFunc func(e *eval, v any, a args) (any, error)

var filters map[string]filterFunc

func init() {
	onString := func(f func(string) string) filterFunc {
		return func(e *eval, v any, _ args) (any, error) {
			s, err := e.str(v)
			if err != nil {
				return nil, err
			}
			s = f(s)
			return s, e.make(len(s))
		}
	}
	same := func(_ *eval, v any, _ args) (any, error) { return v, nil }
	size := func(e *eval, v any, _ args) (any, error) { n, err := length(e, v); return n, err }
	def := func(_ *eval, v any, a args) (any, error) {
		_, gone := v.(undefined)
		if gone || truth(a.get(1, "boolean", false)) && !truth(v) {
			return a.get(0, "default_value", ""), nil
		}
		return v, nil
	}
	end := func(last bool) filterFunc {
		return func(e *eval, v any, _ args) (any, error) {
			items, err := e.elements(v)
			if err != nil || len(items) == 0 {
				return undefined{"an element of what is empty"}, err
			}
			if last {
				return items[len(items)-1], nil
			}
			return items[0], nil
		}
	}
	extreme := func(most bool) filterFunc {
		return func(e *eval, v any, _ args) (any, error) {
			items, err := e.elements(v)
			if err != nil || len(items) == 0 {
				return undefined{"the extreme of what is empty"}, err
			}
			best := items[0]
			for _, x := range items[1:] {
				a, b := x, best
				if most {
					a, b = best, x
				}
				less, err := e.less(a, b)
				if err != nil {
					return nil, err
				}
				if less {
					best = x
				}
			}
			return best, nil
		}
	}
	filters = map[string]filterFunc{
		"trim": func(e *eval, v any, a args) (any, error) {
			s, err := e.str(v)
			if err != nil {
				return nil, err
			}
			return strip(true, true)(e, s, a)
		},
		"upper": onString(strings.ToUpper), "lower": onString(strings.ToLower), "title": onString(title), "capitalize": onString(capitalize),
		"string": onString(func(s string) string { return s }), "safe": same,
		"escape": onString(escape), "e": onString(escape),
		"length": size, "count": size, "default": def, "d": def, "first": end(false), "last": end(true), "min": extreme(false), "max": extreme(true),
		"list": func(e *eval, v any, _ args) (any, error) {
			items, err := e.elements(v)
			return &list{items: slices.Clone(items)}, err
		},
		"join": func(e *eval, v any, a args) (any, error) {
			if n, ok := a.get(1, "attribute", nil).(string); ok {
				l, err := e.mapped(v, n, nil)
				if err != nil {
					return nil, err
				}
				v = l
			}
			sep, err := e.str(a.get(0, "d", ""))
			if err != nil {
				return nil, err
			}
			return e.join(v, sep, false)
		},
		"replace": func(e *eval, v any, a args) (any, error) {
			s, err := e.str(v)
			if err != nil {
				return nil, err
			}
			return e.replace(s, a)
		},
		"int": func(_ *eval, v any, a args) (any, error) {
			switch v := v.(type) {
			case string:
				if i, ok := integer(v, 10); ok {
					return i, nil
				}
				if f, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil && math.Abs(f) < 1<<62 {
					return int64(f), nil
				}
			case float64:
				if math.Abs(v) < 1<<62 {
					return int64(v), nil
				}
			default:
				if i, ok := whole(v); ok {
					return i, nil
				}
			}
			return a.get(0, "default", int64(0)), nil
		},
		"float": func(_ *eval, v any, a args) (any, error) {
			if s, ok := v.(string); ok {
				if f, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err == nil {
					return f, nil
				}
			}
			if f, ok := float(v); ok {
				return f, nil
			}
			return a.get(0, "default", 0.0), nil
		},
		"abs": func(e *eval, v any, _ args) (any, error) {
			f, ok := float(v)
			if !ok {
				return nil, fmt.Errorf("of %s", kindOf(v))
			}
			if f < 0 {
				return e.unary("-", v)
			}
			return v, nil
		},
		"round": func(_ *eval, v any, a args) (any, error) {
			f, ok := float(v)
			n, ok2 := whole(a.get(0, "precision", int64(0)))
			how, ok3 := a.get(1, "method", "common").(string)
			if !ok || !ok2 || !ok3 {
				return nil, errors.New("want numbers")
			}
			return round(f, n, how)
		},
		"items": func(e *eval, v any, _ args) (any, error) {
			switch v := v.(type) {
			case undefined:
				return &list{}, nil
			case *dict:
				return e.pairs(v)
			}
			return nil, fmt.Errorf("of %s", kindOf(v))
		},
		"dictsort": func(e *eval, v any, _ args) (any, error) {
			d, ok := v.(*dict)
			if !ok {
				return nil, fmt.Errorf("of %s", kindOf(v))
			}
			p, err := e.pairs(d)
			if err != nil {
				return nil, err
			}
			return e.sorted(p.(*list).items, func(x any) (any, error) { return fold(x.(*list).items[0]), nil }, false)
		},
		"sort": func(e *eval, v any, a args) (any, error) {
			items, err := e.elements(v)
			if err != nil {
				return nil, err
			}
			by, _ := a.get(2, "attribute", nil).(string)
			exact := truth(a.get(1, "case_sensitive", false))
			return e.sorted(items, func(x any) (any, error) {
				if by != "" {
					var err error
					if x, err = e.path(x, by); err != nil {
						return nil, err
					}
				}
				if exact {
					return x, nil
				}
				return fold(x), nil
			}, truth(a.get(0, "reverse", false)))
		},
		"reverse": func(e *eval, v any, _ args) (any, error) {
			items, err := e.elements(v)
			if err != nil {
				return nil, err
			}
			items = slices.Clone(items)
			slices.Reverse(items)
			if _, ok := v.(string); ok {
				return e.join(&list{items: items}, "", true)
			}
			return &list{items: items}, nil
		},
		"unique": func(e *eval, v any, _ args) (any, error) {
			items, err := e.elements(v)
			if err != nil {
				return nil, err
			}
			out := &list{}
			for _, x := range items {
				has, err := e.contains(out, x)
				if err != nil {
					return nil, err
				}
				if !has {
					out.items = append(out.items, x)
				}
			}
			return out, nil
		},
		"sum": func(e *eval, v any, a args) (any, error) {
			if n, ok := a.get(0, "attribute", nil).(string); ok {
				l, err := e.mapped(v, n, nil)
				if err != nil {
					return nil, err
				}
				v = l
			}
			items, err := e.elements(v)
			sum := a.get(1, "start", int64(0))
			for _, x := range items {
				if err == nil {
					sum, err = e.arithmetic("+", sum, x)
				}
			}
			return sum, err
		},
		"map": func(e *eval, v any, a args) (any, error) {
			if n, ok := a.named["attribute"].(string); ok {
				return e.mapped(v, n, a.named["default"])
			}
			n, ok := a.get(0, "", nil).(string)
			f := filters[n]
			if !ok || f == nil {
				return nil, errors.New("want an attribute or a filter that is supported")
			}
			items, err := e.elements(v)
			if err != nil {
				return nil, err
			}
			out := &list{}
			for _, x := range items {
				y, err := f(e, x, args{a.list[1:], a.named})
				if err != nil {
					return nil, err
				}
				out.items = append(out.items, y)
			}
			return out, nil
		},
		"select": picked(false, true), "reject": picked(false, false), "selectattr": picked(true, true), "rejectattr": picked(true, false),
		"tojson": func(e *eval, v any, a args) (any, error) {
			indent := ""
			switch n := a.get(0, "indent", a.named["indent"]).(type) {
			case nil, bool: // tojson(ensure_ascii) has no place here: characters stay as they are
			case string:
				indent = n
			default:
				i, ok := whole(n)
				if !ok || i < 0 || i > 64 {
					return nil, errors.New("want an indent of 0 to 64")
				}
				indent = strings.Repeat(" ", int(i))
			}
			var b strings.Builder
			err := e.json(&b, v, indent, 0)
			return b.String(), errors.Join(err, e.make(b.Len()))
		},
		"indent": func(e *eval, v any, a args) (any, error) {
			s, ok := v.(string)
			by := "    "
			switch w := a.get(0, "width", nil).(type) {
			case string:
				by = w
			case int64:
				if w < 0 || w > 256 {
					return nil, errors.New("want a width of 0 to 256")
				}
				by = strings.Repeat(" ", int(w))
			}
			if !ok {
				return nil, fmt.Errorf("of %s", kindOf(v))
			}
			first, blank := truth(a.get(1, "first", false)), truth(a.get(2, "blank", false))
			var b strings.Builder
			for i, line := range strings.Split(s, "\n") {
				if err := e.make(len(by) + len(line) + 1); err != nil {
					return nil, err
				}
				if i > 0 {
					b.WriteByte('\n')
				}
				if (i > 0 || first) && (line != "" || blank) {
					b.WriteString(by)
				}
				b.WriteString(line)
			}
			return b.String(), nil
		},
	}
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;").Replace(s)
}

// fold makes sorting blind for case.
func fold(v any) any {
	if s, ok := v.(string); ok {
		return strings.ToLower(s)
	}
	return v
}

// path is the attribute a.b.c of v.
func (e *eval) path(v any, n string) (any, error) {
	for part := range strings.SplitSeq(n, ".") {
		var k any = part
		if i, ok := integer(part, 10); ok {
			k = i
		}
		var err error
		if v, err = e.index(v, k); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// mapped is an attribute of each element.
func (e *eval) mapped(v any, n string, def any) (any, error) {
	items, err := e.elements(v)
	if err != nil {
		return nil, err
	}
	out := &list{}
	for _, x := range items {
		y, err := e.path(x, n)
		if err != nil {
			return nil, err
		}
		if _, gone := y.(undefined); gone && def != nil {
			y = def
		}
		out.items = append(out.items, y)
	}
	return out, nil
}

// picked keeps the elements, or those whose attribute, pass a test.
func picked(attribute, keep bool) filterFunc {
	return func(e *eval, v any, a args) (any, error) {
		items, err := e.elements(v)
		if err != nil {
			return nil, err
		}
		by := ""
		if attribute {
			var ok bool
			if by, ok = a.get(0, "", nil).(string); !ok {
				return nil, errors.New("want an attribute")
			}
			a.list = a.list[1:]
		}
		test := func(_ *eval, v any, _ args) (bool, error) { return truth(v), nil }
		if len(a.list) > 0 {
			n, _ := a.list[0].(string)
			if s, ok := map[string]string{"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}[n]; ok {
				n = s
			}
			if test = tests[n]; test == nil {
				return nil, fmt.Errorf("test %.40q is not supported", n)
			}
			a.list = a.list[1:]
		}
		out := &list{}
		for _, x := range items {
			y := x
			if attribute {
				if y, err = e.path(x, by); err != nil {
					return nil, err
				}
			}
			ok, err := test(e, y, a)
			if err != nil {
				return nil, err
			}
			if ok == keep {
				out.items = append(out.items, x)
			}
		}
		return out, nil
	}
}

// sorted sorts stably by a key.
func (e *eval) sorted(items []any, by func(any) (any, error), reverse bool) (any, error) {
	type entry struct{ key, v any }
	all := make([]entry, len(items))
	for i, x := range items {
		k, err := by(x)
		if err != nil {
			return nil, err
		}
		all[i] = entry{k, x}
	}
	var failed error
	slices.SortStableFunc(all, func(a, b entry) int {
		if failed == nil {
			failed = e.step(1)
		}
		if failed != nil {
			return 0
		}
		x, y := a.key, b.key
		if reverse {
			x, y = y, x
		}
		less, err := e.less(x, y)
		if err == nil && less {
			return -1
		}
		more := false
		if err == nil {
			more, err = e.less(y, x)
		}
		if failed = err; more {
			return 1
		}
		return 0
	})
	out := &list{}
	for _, x := range all {
		out.items = append(out.items, x.v)
	}
	return out, failed
}

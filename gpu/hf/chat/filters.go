package chat

import (
	"errors"
	"fmt"
	"math"
	"math/big"
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
			if err := e.step(len(s) / 16); err != nil {
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
		return func(e *eval, v any, a args) (any, error) {
			items, err := e.elements(v)
			if err != nil || len(items) == 0 {
				return undefined{"the extreme of what is empty"}, err
			}
			by := keyed(a, 0, 1)
			var best, top any
			for i, x := range items {
				k, err := by(e, x)
				if err != nil {
					return nil, err
				}
				lo, hi := k, top
				if most {
					lo, hi = top, k
				}
				less := i == 0
				if !less {
					if less, err = e.less(lo, hi); err != nil {
						return nil, err
					}
				}
				if less {
					best, top = x, k
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
		"upper": onString(upper), "lower": onString(lower), "title": onString(titleWords), "capitalize": onString(capitalize),
		"string": onString(func(s string) string { return s }), "safe": same,
		"escape": onString(escape), "e": onString(escape), "forceescape": onString(escape),
		"length": size, "count": size, "default": def, "d": def, "first": end(false), "last": end(true), "min": extreme(false), "max": extreme(true),
		"list": func(e *eval, v any, _ args) (any, error) {
			items, err := e.elements(v)
			return &list{items: slices.Clone(items)}, err
		},
		"join": func(e *eval, v any, a args) (any, error) {
			if n, ok := attribute(a.get(1, "attribute", nil)); ok {
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
		"int": func(e *eval, v any, a args) (any, error) {
			base, ok := whole(a.get(1, "base", int64(10)))
			if !ok || base != 0 && base != 2 && base != 8 && base != 10 && base != 16 {
				return nil, errors.New("want a base of 2, 8, 10 or 16")
			}
			if s, ok := v.(string); ok {
				s = strings.TrimFunc(s, blank)
				if err := e.step(len(s) / 16); err != nil {
					return nil, err
				}
				if i, ok := decimal(s, int(base)); ok {
					return small(i)
				}
				if f, ok := parseFloat(s); ok {
					v = f
				}
			}
			if f, ok := v.(float64); ok && !math.IsInf(f, 0) && !math.IsNaN(f) {
				i, _ := big.NewFloat(f).Int(nil)
				return small(i)
			}
			if i := bigOf(v); i != nil {
				return small(i)
			}
			return a.get(0, "default", int64(0)), nil
		},
		"float": func(_ *eval, v any, a args) (any, error) {
			if s, ok := v.(string); ok {
				if f, ok := parseFloat(strings.TrimFunc(s, blank)); ok {
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
			return e.unary("+", v)
		},
		"round": func(e *eval, v any, a args) (any, error) {
			f, ok := float(v)
			n, ok2 := whole(a.get(0, "precision", int64(0)))
			how, ok3 := a.get(1, "method", "common").(string)
			if !ok || !ok2 || !ok3 {
				return nil, errors.New("want numbers")
			}
			if bigOf(v) != nil && how == "common" && n >= 0 {
				return e.unary("+", v)
			}
			return round(f, n, how)
		},
		"items": func(e *eval, v any, _ args) (any, error) {
			switch v := v.(type) {
			case undefined:
				return &list{lazy: true}, nil
			case *dict:
				p, err := e.pairs(v)
				return lazily(p, err)
			}
			return nil, fmt.Errorf("of %s", kindOf(v))
		},
		"dictsort": func(e *eval, v any, a args) (any, error) {
			d, ok := v.(*dict)
			if !ok {
				return nil, fmt.Errorf("of %s", kindOf(v))
			}
			p, err := e.pairs(d)
			if err != nil {
				return nil, err
			}
			by, ok := map[any]int{"key": 0, "value": 1}[a.get(1, "by", "key")]
			if !ok {
				return nil, errors.New("want by to be key or value")
			}
			exact := truth(a.get(0, "case_sensitive", false))
			return e.sorted(p.(*list).items, func(x any) (any, error) {
				if exact {
					return x.(*list).items[by], nil
				}
				return fold(x.(*list).items[by]), nil
			}, truth(a.get(2, "reverse", false)))
		},
		"sort": func(e *eval, v any, a args) (any, error) {
			items, err := e.elements(v)
			if err != nil {
				return nil, err
			}
			// As in Jinja what is compared are lists of attributes, so that equals need no order.
			names, _ := attribute(a.get(2, "attribute", nil))
			exact := truth(a.get(1, "case_sensitive", false))
			return e.sorted(items, func(x any) (any, error) {
				keys := &list{}
				for n := range strings.SplitSeq(names, ",") {
					k := x
					if names != "" {
						var err error
						if k, err = e.path(x, n); err != nil {
							return nil, err
						}
					}
					if !exact {
						k = fold(k)
					}
					keys.items = append(keys.items, k)
				}
				return keys, nil
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
			return &list{items: items, lazy: true}, nil
		},
		"unique": func(e *eval, v any, a args) (any, error) {
			items, err := e.elements(v)
			if err != nil {
				return nil, err
			}
			by := keyed(a, 0, 1)
			out, seen := &list{lazy: true}, &list{}
			for _, x := range items {
				k, err := by(e, x)
				if err != nil {
					return nil, err
				}
				has, err := e.contains(seen, k)
				if err != nil {
					return nil, err
				}
				if !has {
					out.items, seen.items = append(out.items, x), append(seen.items, k)
				}
			}
			return out, nil
		},
		"sum": func(e *eval, v any, a args) (any, error) {
			if n, ok := attribute(a.get(0, "attribute", nil)); ok {
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
			if !truth(v) {
				return &list{lazy: true}, nil
			}
			if n, ok := attribute(a.named["attribute"]); ok && len(a.list) == 0 {
				return lazily(e.mapped(v, n, a.named["default"]))
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
			out := &list{lazy: true}
			for _, x := range items {
				y, err := f(e, x, args{a.list[1:], a.names, a.named})
				if err != nil {
					return nil, err
				}
				out.items = append(out.items, y)
			}
			return out, nil
		},
		"select": picked(false, true), "reject": picked(false, false), "selectattr": picked(true, true), "rejectattr": picked(true, false),
		"tojson": tojson,
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
			first, all := truth(a.get(1, "first", false)), truth(a.get(2, "blank", false))
			var b strings.Builder
			for i, line := range lines(s+"\n", false) {
				if err := e.make(len(by) + len(line) + 1); err != nil {
					return nil, err
				}
				if i > 0 {
					b.WriteByte('\n')
				}
				if i == 0 && first || i > 0 && (line != "" || all) {
					b.WriteString(by)
				}
				b.WriteString(line)
			}
			return b.String(), nil
		},
	}
	regrouping()
	markup()
	wrapping()
}

// parseFloat is Python's float of a string: decimal only, and infinite beyond the range.
func parseFloat(s string) (float64, bool) {
	if strings.ContainsAny(s, "xX") {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil || errors.Is(err, strconv.ErrRange)
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;").Replace(s)
}

// fold makes sorting blind for case.
func fold(v any) any {
	if s, ok := v.(string); ok {
		return lower(s)
	}
	return v
}

// lazily makes a list a generator.
func lazily(v any, err error) (any, error) {
	if l, ok := v.(*list); ok {
		l.lazy = true
	}
	return v, err
}

// attribute is the name, or number, of what is asked of elements.
func attribute(v any) (string, bool) {
	if n, ok := whole(v); ok {
		return strconv.FormatInt(n, 10), true
	}
	s, ok := v.(string)
	return s, ok
}

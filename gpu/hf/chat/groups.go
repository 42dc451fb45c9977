package chat

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// regrouping adds the filters that regroup a sequence, or lay out text.
func regrouping() {
	filters["batch"] = func(e *eval, v any, a args) (any, error) {
		items, err := e.elements(v)
		n, ok := whole(a.get(0, "linecount", nil))
		if err != nil || !ok || n < 1 {
			return nil, errors.Join(err, errors.New("want how many"))
		}
		fill := a.get(1, "fill_with", nil)
		out := &list{lazy: true}
		for ; len(items) > 0; items = items[min(n, int64(len(items))):] {
			row := &list{items: append([]any{}, items[:min(n, int64(len(items)))]...)}
			for fill != nil && int64(len(row.items)) < n {
				if err := e.step(1); err != nil {
					return nil, err
				}
				row.items = append(row.items, fill)
			}
			out.items = append(out.items, row)
		}
		return out, nil
	}
	filters["slice"] = func(e *eval, v any, a args) (any, error) {
		items, err := e.elements(v)
		n, ok := whole(a.get(0, "slices", nil))
		if err != nil || !ok || n < 1 || n > maxRange {
			return nil, errors.Join(err, errors.New("want how many"))
		}
		fill := a.get(1, "fill_with", nil)
		out := &list{lazy: true}
		size, longer := int64(len(items))/n, int64(len(items))%n
		for i := range n {
			if err := e.step(1); err != nil {
				return nil, err
			}
			k := size
			if i < longer {
				k++
			}
			row := &list{items: append([]any{}, items[:k]...)}
			if items = items[k:]; fill != nil && i >= longer {
				row.items = append(row.items, fill)
			}
			out.items = append(out.items, row)
		}
		return out, nil
	}
	filters["groupby"] = func(e *eval, v any, a args) (any, error) {
		items, err := e.elements(v)
		by, ok := attribute(a.get(0, "attribute", nil))
		if err != nil || !ok {
			return nil, errors.Join(err, errors.New("want an attribute"))
		}
		def, exact := a.get(1, "default", nil), truth(a.get(2, "case_sensitive", false))
		of := func(x any) (any, error) {
			k, err := e.path(x, by)
			if _, gone := k.(undefined); gone && def != nil {
				k = def
			}
			return k, err
		}
		folded := func(x any) (any, error) {
			k, err := of(x)
			if !exact {
				k = fold(k)
			}
			return k, err
		}
		s, err := e.sorted(items, folded, false)
		if err != nil {
			return nil, err
		}
		out, last := &list{}, any(nil)
		for i, x := range s.(*list).items {
			k, err := folded(x)
			if err != nil {
				return nil, err
			}
			same := false
			if i > 0 {
				if same, err = e.equal(k, last); err != nil {
					return nil, err
				}
			}
			if !same {
				name, err := of(x)
				if err != nil {
					return nil, err
				}
				out.items = append(out.items, &list{items: []any{name, &list{}}, tuple: true})
			}
			group := out.items[len(out.items)-1].(*list).items[1].(*list)
			group.items, last = append(group.items, x), k
		}
		return out, nil
	}
	filters["attr"] = func(e *eval, v any, a args) (any, error) {
		n, ok := a.get(0, "name", nil).(string)
		if !ok {
			return nil, errors.New("want a name")
		}
		if d, ok := v.(*dict); ok && !d.namespace { // not the keys
			if dictMethods[n] == nil {
				return undefined{n}, nil
			}
		}
		return e.attr(v, n)
	}
	filters["format"] = func(e *eval, v any, a args) (any, error) {
		f, err := e.str(v)
		if err != nil {
			return nil, err
		}
		if len(a.list) > 0 && len(a.names) > 0 {
			return nil, errors.New("values with and without names")
		}
		if len(a.names) == 0 {
			return e.percent(f, &list{items: a.list, tuple: true})
		}
		d := newDict()
		for _, n := range a.names {
			d.set(n, a.named[n])
		}
		return e.percent(f, d)
	}
	filters["center"] = func(e *eval, v any, a args) (any, error) {
		s, err := e.str(v)
		if err != nil {
			return nil, err
		}
		return stringMethods["center"](e, s, args{list: []any{a.get(0, "width", int64(80))}})
	}
	filters["wordcount"] = func(e *eval, v any, _ args) (any, error) {
		s, err := e.str(v)
		if err != nil {
			return nil, err
		}
		words := strings.FieldsFunc(s, func(r rune) bool { return !alphanumeric(r) && r != '_' })
		return int64(len(words)), e.step(len(s) / 16)
	}
	filters["truncate"] = func(e *eval, v any, a args) (any, error) {
		s, err := e.str(v)
		if err != nil {
			return nil, err
		}
		n, ok := whole(a.get(0, "length", int64(255)))
		leeway, ok2 := whole(a.get(3, "leeway", int64(5)))
		if a.get(3, "leeway", nil) == nil {
			leeway, ok2 = 5, true
		}
		end, ok3 := a.get(2, "end", "...").(string)
		keep := n - int64(utf8.RuneCountInString(end))
		if !ok || !ok2 || !ok3 || keep < 0 || leeway < 0 {
			return nil, fmt.Errorf("want a length of at least that of %.40q", end)
		}
		if err := e.make(len(s)); err != nil {
			return nil, err
		}
		rs := []rune(s)
		if int64(len(rs))-leeway <= n {
			return s, nil
		}
		s = string(rs[:keep])
		if i := strings.LastIndexByte(s, ' '); !truth(a.get(1, "killwords", false)) && i >= 0 {
			s = s[:i]
		}
		return s + end, nil
	}
}

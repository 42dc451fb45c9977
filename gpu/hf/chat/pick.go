package chat

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// keyed is what elements are compared by: argument i says whether case counts,
// argument k names an attribute.
func keyed(a args, i, k int) func(e *eval, x any) (any, error) {
	exact := truth(a.get(i, "case_sensitive", false))
	by, ok := attribute(a.get(k, "attribute", nil))
	return func(e *eval, x any) (any, error) {
		if ok {
			var err error
			if x, err = e.path(x, by); err != nil {
				return nil, err
			}
		}
		if exact {
			return x, nil
		}
		return fold(x), nil
	}
}

// path is the attribute a.b.c of v.
func (e *eval) path(v any, n string) (any, error) {
	for part := range strings.SplitSeq(n, ".") {
		var k any = part
		if i, err := strconv.ParseInt(part, 10, 64); err == nil {
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
		if !truth(v) {
			return &list{lazy: true}, nil
		}
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
			if test = tests[n]; test == nil {
				return nil, fmt.Errorf("test %.40q is not supported", n)
			}
			a.list = a.list[1:]
		}
		out := &list{lazy: true}
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

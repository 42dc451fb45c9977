package chat

import (
	"errors"
	"fmt"
)

// loopState is what a loop's body knows as loop.
type loopState struct {
	items []any
	at    int
}

func (l *loopState) attr(n string) (any, bool) {
	i, all := int64(l.at), int64(len(l.items))
	switch n {
	case "index":
		return i + 1, true
	case "index0":
		return i, true
	case "revindex":
		return all - i, true
	case "revindex0":
		return all - i - 1, true
	case "first":
		return i == 0, true
	case "last":
		return i == all-1, true
	case "length":
		return all, true
	case "depth":
		return int64(1), true
	case "previtem":
		if i > 0 {
			return l.items[i-1], true
		}
	case "nextitem":
		if i+1 < all {
			return l.items[i+1], true
		}
	case "cycle":
		return function(func(_ *eval, a args) (any, error) {
			if len(a.list) == 0 {
				return nil, errors.New("cycle: no arguments")
			}
			return a.list[i%int64(len(a.list))], nil
		}), true
	}
	return nil, false
}

// unpack gives a value, or its parts, to names.
func (e *eval) unpack(names []string, v any, s *scope) error {
	if len(names) == 1 {
		s.vars[names[0]] = v
		return nil
	}
	parts, err := e.elements(v)
	if err != nil {
		return err
	}
	if len(parts) != len(names) {
		return fmt.Errorf("%d values for %d names", len(parts), len(names))
	}
	for i, n := range names {
		s.vars[n] = parts[i]
	}
	return nil
}

func (e *eval) loop(l loop, s *scope) error {
	v, err := e.value(l.over, s)
	if err != nil {
		return err
	}
	items, err := e.elements(v)
	if err != nil {
		return err
	}
	if l.where != nil {
		var kept []any
		for _, x := range items {
			in := newScope(s)
			if err := e.unpack(l.names, x, in); err != nil {
				return err
			}
			ok, err := e.value(l.where, in)
			if err != nil {
				return err
			}
			if truth(ok) {
				kept = append(kept, x)
			}
		}
		items = kept
	}
	if len(items) == 0 {
		return e.run(l.empty, s)
	}
	st := &loopState{items: items}
	for i, x := range items {
		st.at = i
		in := newScope(s)
		in.vars["loop"] = st
		if err := e.unpack(l.names, x, in); err != nil {
			return err
		}
		if err := e.run(l.body, in); err == errBreak {
			break
		} else if err != nil && err != errContinue {
			return err
		}
	}
	return nil
}

package chat

import (
	"errors"
	"fmt"
	"strings"
)

// loopState is what a loop's body knows as loop.
type loopState struct {
	items   []any
	at      int
	depth   int   // of recursion, from 0
	before  []any // what changed was last asked about
	recurse func(e *eval, v any, depth int) (any, error)
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
		return int64(l.depth + 1), true
	case "depth0":
		return int64(l.depth), true
	case "changed":
		return function(func(e *eval, a args) (any, error) {
			same, err := e.equal(&list{items: l.before}, &list{items: a.list})
			same = same && l.before != nil
			l.before = append([]any{}, a.list...)
			return !same, err
		}), true
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

func (e *eval) loop(l loop, s *scope) error {
	v, err := e.value(l.over, s)
	if err != nil {
		return err
	}
	return e.over(l, v, 0, s)
}

// over runs the loop over the elements of v.
func (e *eval) over(l loop, v any, depth int, s *scope) error {
	if e.depth++; e.depth > 2*maxDepth {
		return fmt.Errorf("deeper than %d", 2*maxDepth)
	}
	defer func() { e.depth-- }()
	items, err := e.elements(v)
	if err != nil {
		return err
	}
	if l.where != nil {
		var kept []any
		for _, x := range items {
			in := newScope(s)
			if err := e.give(l.to, x, in); err != nil {
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
	st := &loopState{items: items, depth: depth}
	if l.recursive {
		st.recurse = func(e *eval, v any, depth int) (any, error) {
			outer := e.out
			e.out = new(strings.Builder)
			defer func() { e.out = outer }()
			err := e.over(l, v, depth, s)
			return e.out.String(), errors.Join(err, e.make(e.out.Len()))
		}
	}
	for i, x := range items {
		st.at = i
		in := newScope(s)
		in.vars["loop"] = st
		if err := e.give(l.to, x, in); err != nil {
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

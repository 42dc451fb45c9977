package chat

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// eval is one rendering.
type eval struct {
	now     time.Time
	globals *scope
	out     *strings.Builder
	steps   int
	bytes   int
	depth   int
}

type scope struct {
	vars  map[string]any
	outer *scope
}

func newScope(outer *scope) *scope { return &scope{vars: map[string]any{}, outer: outer} }

func (s *scope) get(n string) any {
	for ; s != nil; s = s.outer {
		if v, ok := s.vars[n]; ok {
			return v
		}
	}
	return undefined{n}
}

// step counts n pieces of work.
func (e *eval) step(n int) error {
	if e.steps += n; e.steps > maxSteps {
		return errors.New("the template takes too many steps")
	}
	return nil
}

// make counts n bytes that are made.
func (e *eval) make(n int) error {
	if e.bytes += n; n < 0 || e.bytes > maxBytes {
		return errors.New("the template makes too much text")
	}
	return nil
}

func (e *eval) write(s string) error {
	if e.out.Len()+len(s) > MaxOutput {
		return fmt.Errorf("more than %d bytes", MaxOutput)
	}
	e.out.WriteString(s)
	return nil
}

var errBreak, errContinue = errors.New("break"), errors.New("continue")

// located says where in the template err came up, once.
func located(line int, err error) error {
	var l *lineError
	if err == nil || err == errBreak || err == errContinue || errors.As(err, &l) {
		return err
	}
	return &lineError{line, err}
}

type lineError struct {
	line int
	err  error
}

func (l *lineError) Error() string { return fmt.Sprintf("line %d: %v", l.line, l.err) }
func (l *lineError) Unwrap() error { return l.err }

// into runs body and returns what it writes.
func (e *eval) into(body []node, s *scope) (string, error) {
	outer := e.out
	e.out = new(strings.Builder)
	defer func() { e.out = outer }()
	err := e.run(body, s)
	return e.out.String(), errors.Join(err, e.make(e.out.Len()))
}

func (e *eval) run(body []node, s *scope) error {
	if e.out == nil {
		e.out = new(strings.Builder)
	}
	if e.depth++; e.depth > 2*maxDepth {
		return fmt.Errorf("deeper than %d", 2*maxDepth)
	}
	defer func() { e.depth-- }()
	for _, n := range body {
		if err := e.step(1); err != nil {
			return err
		}
		var err error
		switch n := n.(type) {
		case text:
			err = e.write(string(n))
		case print:
			err = located(n.line, e.print(n, s))
		case branch:
			err = e.branch(n, s)
		case loop:
			err = located(n.line, e.loop(n, s))
		case assign:
			err = located(n.line, e.assign(n, s))
		case macro:
			s.vars[n.name] = e.macro(n, s)
		case calling:
			err = located(n.line, e.calling(n, s))
		case with:
			err = located(n.line, e.with(n, s))
		case filtered:
			var t string
			if t, err = e.filtered(n.body, n.apply, s); err == nil {
				err = e.write(t)
			}
			err = located(n.line, err)
		case jump:
			if err = errContinue; n == "break" {
				err = errBreak
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *eval) print(p print, s *scope) error {
	v, err := e.value(p.x, s)
	if err != nil {
		return err
	}
	t, err := e.str(v)
	if err != nil {
		return err
	}
	return e.write(t)
}

// filtered is what body writes, after filters.
func (e *eval) filtered(body []node, fs []filter, s *scope) (string, error) {
	t, err := e.into(body, newScope(s))
	if err != nil {
		return "", err
	}
	return e.applied(fs, t, s)
}

// applied is text after filters.
func (e *eval) applied(fs []filter, t string, s *scope) (string, error) {
	var v any = t
	for _, f := range fs {
		a, err := e.args(f.args, s)
		if err != nil {
			return "", err
		}
		if v, err = filters[f.name](e, v, a); err != nil {
			return "", fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return e.str(v)
}

func (e *eval) branch(b branch, s *scope) error {
	for i, body := range b.bodies {
		if i < len(b.tests) {
			v, err := e.value(b.tests[i], s)
			if err != nil {
				return located(b.line, err)
			}
			if !truth(v) {
				continue
			}
		}
		return e.run(body, s)
	}
	return nil
}

func (e *eval) assign(a assign, s *scope) error {
	var v any
	var err error
	if a.x != nil {
		v, err = e.value(a.x, s)
	} else {
		v, err = e.filtered(a.body, a.apply, s)
	}
	if err != nil {
		return err
	}
	return e.give(a.to, v, s)
}

// give gives a value, or its parts, to names.
func (e *eval) give(to target, v any, s *scope) error {
	if to.parts == nil {
		if to.field == "" {
			s.vars[to.name] = v
			return nil
		}
		d, ok := s.get(to.name).(*dict)
		if !ok || !d.namespace {
			return fmt.Errorf("%s.%s is set, but %[1]s is no namespace", to.name, to.field)
		}
		d.set(to.field, v)
		return nil
	}
	parts, err := e.elements(v)
	if err != nil {
		return err
	}
	if len(parts) != len(to.parts) {
		return fmt.Errorf("%d values for %d names", len(parts), len(to.parts))
	}
	for i, t := range to.parts {
		if err := e.give(t, parts[i], s); err != nil {
			return err
		}
	}
	return nil
}

// args are evaluated arguments.
type args struct {
	list  []any
	names []string // of named, in order
	named map[string]any
}

func (a *args) set(name string, v any) {
	if a.named == nil {
		a.named = map[string]any{}
	}
	if _, ok := a.named[name]; !ok {
		a.names = append(a.names, name)
	}
	a.named[name] = v
}

// get is argument i, or the one of that name, or def.
func (a args) get(i int, name string, def any) any {
	if i < len(a.list) {
		return a.list[i]
	}
	if v, ok := a.named[name]; ok {
		return v
	}
	return def
}

func (e *eval) args(a arguments, s *scope) (out args, err error) {
	for _, x := range a.list {
		v, err := e.value(x, s)
		if err != nil {
			return out, err
		}
		out.list = append(out.list, v)
	}
	for i, n := range a.names {
		v, err := e.value(a.named[i], s)
		if err != nil {
			return out, err
		}
		out.set(n, v)
	}
	if a.rest != nil {
		v, err := e.value(a.rest, s)
		if err != nil {
			return out, err
		}
		items, err := e.elements(v)
		if err != nil {
			return out, err
		}
		out.list = append(out.list, items...)
	}
	if a.more != nil {
		v, err := e.value(a.more, s)
		if err != nil {
			return out, err
		}
		d, ok := v.(*dict)
		if !ok {
			return out, fmt.Errorf("** of %s", kindOf(v))
		}
		for i, k := range d.keys {
			n, ok := k.(string)
			if !ok {
				return out, fmt.Errorf("** with the key of %s", kindOf(k))
			}
			out.set(n, d.values[i])
		}
	}
	return out, nil
}

// operand is what a call, filter or test is made on, and with.
func (e *eval) operand(x expr, with arguments, s *scope) (v any, a args, err error) {
	if v, err = e.value(x, s); err == nil {
		a, err = e.args(with, s)
	}
	if err == nil {
		err = e.read(v)
	}
	for _, x := range a.list {
		if err == nil {
			err = e.read(x)
		}
	}
	return v, a, err
}

// read counts the reading of v, if it is text.
func (e *eval) read(v any) error {
	s, _ := v.(string)
	return e.step(len(s) / 64)
}

func (e *eval) value(x expr, s *scope) (any, error) {
	if err := e.step(1); err != nil {
		return nil, err
	}
	if e.depth++; e.depth > 2*maxDepth {
		return nil, fmt.Errorf("deeper than %d", 2*maxDepth)
	}
	defer func() { e.depth-- }()
	switch x := x.(type) {
	case literal:
		return x.v, nil
	case name:
		return s.get(string(x)), nil
	case listOf:
		return e.list(x, s, false)
	case tupleOf:
		return e.list(x, s, true)
	case dictOf:
		d := newDict()
		for i := range x.keys {
			k, err := e.value(x.keys[i], s)
			if err != nil {
				return nil, err
			}
			if _, err := key(k); err != nil {
				return nil, err
			}
			v, err := e.value(x.values[i], s)
			if err != nil {
				return nil, err
			}
			d.set(k, v)
		}
		return d, nil
	case unary:
		v, err := e.value(x.x, s)
		if err != nil {
			return nil, err
		}
		return e.unary(x.op, v)
	case binary:
		return e.binary(x, s)
	case compare:
		return e.compare(x, s)
	case choice:
		v, err := e.value(x.test, s)
		switch {
		case err != nil:
			return nil, err
		case truth(v):
			return e.value(x.x, s)
		case x.y == nil:
			return undefined{"the value of an if without else"}, nil
		}
		return e.value(x.y, s)
	case attr:
		v, err := e.value(x.x, s)
		if err != nil {
			return nil, err
		}
		return e.attr(v, x.name)
	case index:
		v, err := e.value(x.x, s)
		if err != nil {
			return nil, err
		}
		i, err := e.value(x.i, s)
		if err != nil {
			return nil, err
		}
		return e.index(v, i)
	case slice:
		return e.slice(x, s)
	case call:
		v, a, err := e.operand(x.f, x.args, s)
		if err != nil {
			return nil, err
		}
		if l, ok := v.(*loopState); ok && l.recurse != nil {
			return l.recurse(e, a.get(0, "iterable", nil), l.depth+1)
		}
		f, ok := v.(function)
		if !ok {
			return nil, fmt.Errorf("%s is called", kindOf(v))
		}
		return f(e, a)
	case filter:
		v, a, err := e.operand(x.x, x.args, s)
		if err != nil {
			return nil, err
		}
		if v, err = filters[x.name](e, v, a); err != nil {
			return nil, fmt.Errorf("%s: %w", x.name, err)
		}
		return v, nil
	case test:
		v, a, err := e.operand(x.x, x.args, s)
		if err != nil {
			return nil, err
		}
		ok, err := tests[x.name](e, v, a)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.name, err)
		}
		return ok != x.not, nil
	}
	return nil, fmt.Errorf("an expression %T", x)
}

func (e *eval) list(x []expr, s *scope, tuple bool) (any, error) {
	l := &list{items: make([]any, 0, len(x)), tuple: tuple}
	for _, y := range x {
		v, err := e.value(y, s)
		if err != nil {
			return nil, err
		}
		l.items = append(l.items, v)
	}
	return l, nil
}

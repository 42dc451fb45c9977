package chat

import "fmt"

func (p *parser) macro() (node, error) {
	m := macro{}
	var err error
	if m.name, err = p.word(); err != nil {
		return nil, err
	}
	if m.params, err = p.params(); err != nil {
		return nil, err
	}
	err = p.macroBody(&m, "endmacro")
	return m, err
}

// macroBody reads what is between the tag of a macro and its end.
func (p *parser) macroBody(m *macro, end string) error {
	if err := p.close(); err != nil {
		return err
	}
	loops, outer := p.loops, p.uses
	p.loops, p.uses = 0, uses{}
	var err error
	if m.body, _, err = p.until(end); err != nil {
		return err
	}
	m.uses = p.uses
	p.loops, p.uses = loops, uses{outer.varargs || m.uses.varargs, outer.kwargs || m.uses.kwargs, outer.caller || m.uses.caller}
	return p.close()
}

func (p *parser) params() ([]param, error) {
	if err := p.want("("); err != nil {
		return nil, err
	}
	var out []param
	for !p.accept(")") {
		if len(out) > 0 {
			if err := p.want(","); err != nil {
				return nil, err
			}
			if p.accept(")") {
				break
			}
		}
		x := param{}
		var err error
		if x.name, err = p.word(); err != nil {
			return nil, err
		}
		if p.accept("=") {
			if x.value, err = p.expr(); err != nil {
				return nil, err
			}
		} else if n := len(out); n > 0 && out[n-1].value != nil {
			return nil, p.errorf("parameter %s without a default after one with", x.name)
		}
		out = append(out, x)
	}
	return out, nil
}

func (p *parser) calling(line int) (node, error) {
	c := calling{line: line, caller: macro{name: "caller"}}
	var err error
	if p.is("(") {
		if c.caller.params, err = p.params(); err != nil {
			return nil, err
		}
	}
	x, err := p.expr()
	if err != nil {
		return nil, err
	}
	var ok bool
	if c.call, ok = x.(call); !ok {
		return nil, p.errorf("want the call of a macro")
	}
	err = p.macroBody(&c.caller, "endcall")
	return c, err
}

func (p *parser) with(line int) (node, error) {
	w := with{line: line}
	for p.peek().kind != tokClose {
		if len(w.to) > 0 {
			if err := p.want(","); err != nil {
				return nil, err
			}
		}
		name, err := p.word()
		if err == nil {
			err = p.want("=")
		}
		if err != nil {
			return nil, err
		}
		x, err := p.expr()
		if err != nil {
			return nil, err
		}
		w.to, w.values = append(w.to, target{name: name}), append(w.values, x)
	}
	if err := p.close(); err != nil {
		return nil, err
	}
	var err error
	if w.body, _, err = p.until("endwith"); err != nil {
		return nil, err
	}
	return w, p.close()
}

// calling calls a macro that may call the block's body.
func (e *eval) calling(c calling, s *scope) error {
	f, a, err := e.operand(c.call.f, c.call.args, s)
	if err != nil {
		return err
	}
	fn, ok := f.(function)
	if !ok {
		return fmt.Errorf("%s is called", kindOf(f))
	}
	a.set("caller", e.macro(c.caller, s))
	v, err := fn(e, a)
	if err != nil {
		return err
	}
	t, err := e.str(v)
	if err != nil {
		return err
	}
	return e.write(t)
}

func (e *eval) with(w with, s *scope) error {
	in := newScope(s)
	for i, x := range w.values {
		v, err := e.value(x, s)
		if err == nil {
			err = e.give(w.to[i], v, in)
		}
		if err != nil {
			return err
		}
	}
	return e.run(w.body, in)
}

func (e *eval) macro(m macro, s *scope) function {
	return func(e *eval, a args) (any, error) {
		in := newScope(s)
		rest := &list{tuple: true}
		if n := len(m.params); len(a.list) > n {
			if !m.uses.varargs {
				return nil, fmt.Errorf("%s: %d arguments, it takes %d", m.name, len(a.list), n)
			}
			rest.items = a.list[n:]
		}
		more, known := newDict(), map[string]bool{}
		for i, p := range m.params {
			known[p.name] = true
			v, given := a.named[p.name]
			switch {
			case i < len(a.list) && given:
				return nil, fmt.Errorf("%s: argument %s is given twice", m.name, p.name)
			case i < len(a.list):
				v = a.list[i]
			case given:
			case p.value != nil:
				var err error
				if v, err = e.value(p.value, in); err != nil {
					return nil, err
				}
			default:
				v = undefined{p.name}
			}
			in.vars[p.name] = v
		}
		for _, n := range a.names {
			switch {
			case known[n]:
			case n == "caller" && m.uses.caller:
				in.vars[n] = a.named[n]
			case m.uses.kwargs:
				more.set(n, a.named[n])
			default:
				return nil, fmt.Errorf("%s: it takes no argument %s", m.name, n)
			}
		}
		if _, given := in.vars["caller"]; m.uses.caller && !given {
			in.vars["caller"] = undefined{"caller"}
		}
		if m.uses.varargs {
			in.vars["varargs"] = rest
		}
		if m.uses.kwargs {
			in.vars["kwargs"] = more
		}
		return e.into(m.body, in)
	}
}

package chat

// tuple reads expressions with commas between: one is itself.
func (p *parser) tuple() (expr, error) {
	x, err := p.expr()
	if err != nil || !p.is(",") {
		return x, err
	}
	out := tupleOf{x}
	for p.accept(",") {
		if t := p.peek(); t.kind == tokClose || t.kind == tokOp && (t.text == ")" || t.text == "=") {
			break
		}
		x, err := p.expr()
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

func (p *parser) expr() (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	x, err := p.or()
	if err != nil {
		return nil, err
	}
	for p.accept("if") {
		c := choice{x: x}
		if c.test, err = p.or(); err != nil {
			return nil, err
		}
		if p.accept("else") {
			if c.y, err = p.expr(); err != nil {
				return nil, err
			}
		}
		x = c
	}
	return x, nil
}

// chain reads operands that are joined by ops, from the left.
func (p *parser) chain(operand func() (expr, error), ops ...string) (expr, error) {
	x, err := operand()
	if err != nil {
		return nil, err
	}
	deep := 0
	defer func() { p.depth -= deep }()
again:
	for _, op := range ops {
		if p.accept(op) {
			if err := p.enter(); err != nil { // the tree grows to the left
				return nil, err
			}
			deep++
			y, err := operand()
			if err != nil {
				return nil, err
			}
			x = binary{op, x, y}
			goto again
		}
	}
	return x, nil
}

func (p *parser) or() (expr, error)  { return p.chain(p.and, "or") }
func (p *parser) and() (expr, error) { return p.chain(p.not, "and") }

func (p *parser) not() (expr, error) {
	if !p.accept("not") {
		return p.compare()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	x, err := p.not()
	return unary{"not", x}, err
}

func (p *parser) compare() (expr, error) {
	x, err := p.sum()
	if err != nil {
		return nil, err
	}
	c := compare{x: x}
again:
	for _, op := range []string{"==", "!=", "<=", ">=", "<", ">", "in", "not"} {
		if !p.accept(op) {
			continue
		}
		if op == "not" {
			if err := p.want("in"); err != nil {
				return nil, err
			}
			op = "not in"
		}
		y, err := p.sum()
		if err != nil {
			return nil, err
		}
		c.ops, c.ys = append(c.ops, op), append(c.ys, y)
		goto again
	}
	if len(c.ops) == 0 {
		return x, nil
	}
	return c, nil
}

func (p *parser) sum() (expr, error)     { return p.chain(p.concat, "+", "-") }
func (p *parser) concat() (expr, error)  { return p.chain(p.product, "~") }
func (p *parser) product() (expr, error) { return p.chain(p.power, "*", "//", "/", "%") }
func (p *parser) power() (expr, error) {
	return p.chain(func() (expr, error) { return p.unary(true) }, "**")
}

func (p *parser) unary(filters bool) (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	var x expr
	var err error
	switch {
	case p.accept("-"):
		x, err = p.unary(false)
		x = unary{"-", x}
	case p.accept("+"):
		x, err = p.unary(false)
		x = unary{"+", x}
	default:
		x, err = p.primary()
	}
	if err != nil {
		return nil, err
	}
	return p.postfix(x, filters)
}

func (p *parser) primary() (expr, error) {
	t := p.next()
	switch t.kind {
	case tokString:
		s := t.text
		for p.peek().kind == tokString {
			s += p.next().text
		}
		return literal{s}, nil
	case tokInt, tokFloat:
		v, err := number(t)
		if err != nil {
			return nil, p.errorf("number %.40s: %w", t.text, err)
		}
		return literal{v}, nil
	case tokName:
		switch t.text {
		case "true", "True":
			return literal{true}, nil
		case "false", "False":
			return literal{false}, nil
		case "none", "None":
			return literal{nil}, nil
		case "if", "else", "elif", "and", "or", "in", "is", "for":
			p.at--
			return nil, p.errorf("%s, want a value", t)
		}
		switch t.text {
		case "varargs":
			p.uses.varargs = true
		case "kwargs":
			p.uses.kwargs = true
		case "caller":
			p.uses.caller = true
		}
		return name(t.text), nil
	case tokOp:
		switch t.text {
		case "(":
			if p.accept(")") {
				return tupleOf{}, nil
			}
			x, err := p.tuple()
			if err != nil {
				return nil, err
			}
			return x, p.want(")")
		case "[":
			out := listOf{}
			for !p.accept("]") {
				if len(out) > 0 {
					if err := p.want(","); err != nil {
						return nil, err
					}
					if p.accept("]") {
						break
					}
				}
				x, err := p.expr()
				if err != nil {
					return nil, err
				}
				out = append(out, x)
			}
			return out, nil
		case "{":
			d := dictOf{}
			for !p.accept("}") {
				if len(d.keys) > 0 {
					if err := p.want(","); err != nil {
						return nil, err
					}
					if p.accept("}") {
						break
					}
				}
				k, err := p.expr()
				if err == nil {
					err = p.want(":")
				}
				if err != nil {
					return nil, err
				}
				v, err := p.expr()
				if err != nil {
					return nil, err
				}
				d.keys, d.values = append(d.keys, k), append(d.values, v)
			}
			return d, nil
		}
	}
	if t.kind != tokEnd {
		p.at--
	}
	return nil, p.errorf("%s, want a value", t)
}

// postfix reads what follows a value: .name, [index], (arguments), and with
// filters |filter and is test.
func (p *parser) postfix(x expr, filters bool) (expr, error) {
	deep := 0
	defer func() { p.depth -= deep }()
	for {
		if err := p.enter(); err != nil {
			return nil, err
		}
		deep++
		switch {
		case p.accept("."):
			t := p.next()
			switch t.kind {
			case tokName:
				x = attr{x, t.text}
			case tokInt:
				v, err := number(t)
				if err != nil {
					return nil, p.errorf("number %.40s: %w", t.text, err)
				}
				x = index{x, literal{v}}
			default:
				return nil, p.errorf("%s, want a name", t)
			}
		case p.accept("["):
			y, err := p.subscript(x)
			if err != nil {
				return nil, err
			}
			x = y
		case p.is("("):
			a, err := p.arguments()
			if err != nil {
				return nil, err
			}
			x = call{x, a}
		case filters && p.accept("|"):
			f, err := p.filter(x)
			if err != nil {
				return nil, err
			}
			x = f
		case filters && p.accept("is"):
			t, err := p.test(x)
			if err != nil {
				return nil, err
			}
			x = t
		default:
			return x, nil
		}
	}
}

func (p *parser) subscript(x expr) (expr, error) {
	s := slice{x: x}
	var err error
	colons := 0
	for i, at := range []*expr{&s.from, &s.to, &s.step} {
		if !p.is(":") && !p.is("]") {
			if *at, err = p.tuple(); err != nil {
				return nil, err
			}
		}
		if i == 2 || !p.accept(":") {
			break
		}
		colons++
	}
	if err := p.want("]"); err != nil {
		return nil, err
	}
	if colons > 0 {
		return s, nil
	}
	if s.from == nil {
		return nil, p.errorf("an empty index")
	}
	return index{x, s.from}, nil
}

func (p *parser) arguments() (a arguments, err error) {
	if err := p.want("("); err != nil {
		return a, err
	}
	for n := 0; !p.accept(")"); n++ {
		if n > 0 {
			if err := p.want(","); err != nil {
				return a, err
			}
			if p.accept(")") {
				break
			}
		}
		if to := map[string]*expr{"*": &a.rest, "**": &a.more}[p.peek().text]; to != nil && p.peek().kind == tokOp {
			p.at++
			if *to != nil || a.more != nil {
				return a, p.errorf("arguments after those of **, or * twice")
			}
			if *to, err = p.expr(); err != nil {
				return a, err
			}
			continue
		}
		key := ""
		if t := p.peek(); t.kind == tokName && p.toks[p.at+1].kind == tokOp && p.toks[p.at+1].text == "=" {
			key = t.text
			p.at += 2
		}
		x, err := p.expr()
		if err != nil {
			return a, err
		}
		switch {
		case key != "":
			a.names, a.named = append(a.names, key), append(a.named, x)
		case len(a.named) > 0:
			return a, p.errorf("an argument without a name after one with")
		default:
			a.list = append(a.list, x)
		}
	}
	return a, nil
}

// filter reads the name of a filter and its arguments.
func (p *parser) filter(x expr) (f filter, err error) {
	f.x = x
	if f.name, err = p.word(); err != nil {
		return f, err
	}
	if filters[f.name] == nil {
		p.at--
		return f, p.errorf("filter %.40q is not supported", f.name)
	}
	if p.is("(") {
		f.args, err = p.arguments()
	}
	return f, err
}

func (p *parser) test(x expr) (t test, err error) {
	t.x, t.not = x, p.accept("not")
	if t.name, err = p.word(); err != nil {
		return t, err
	}
	if tests[t.name] == nil {
		p.at--
		return t, p.errorf("test %.40q is not supported", t.name)
	}
	// An argument may follow without brackets: x is divisibleby 3.
	switch n := p.peek(); {
	case p.is("("):
		t.args, err = p.arguments()
	case n.kind == tokString || n.kind == tokInt || n.kind == tokFloat,
		n.kind == tokName && n.text != "and" && n.text != "or" && n.text != "else" && n.text != "is" && n.text != "if" && n.text != "in" && n.text != "not" && takesOne[t.name],
		n.kind == tokOp && (n.text == "[" || n.text == "{"):
		var y expr
		if y, err = p.primary(); err == nil {
			y, err = p.postfix(y, false)
		}
		t.args.list = []expr{y}
	}
	return t, err
}

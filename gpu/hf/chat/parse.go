package chat

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Statements.
type (
	node  interface{}
	text  string
	print struct {
		x    expr
		line int
	}
	branch struct {
		tests  []expr // one a body; the last body may be without
		bodies [][]node
		line   int
	}
	loop struct {
		names       []string
		over, where expr // where may be nil
		body, empty []node
		line        int
	}
	assign struct {
		names []string // more than one where a sequence is taken apart
		field string   // of the namespace names[0]
		x     expr     // or
		body  []node
		apply []filter // to the body's text
		line  int
	}
	macro struct {
		name   string
		params []param
		body   []node
	}
	filtered struct {
		apply []filter
		body  []node
		line  int
	}
	jump string // "break" or "continue"
)

type param struct {
	name  string
	value expr // nil if it has no default
}

// Expressions.
type (
	expr    interface{}
	literal struct{ v any }
	name    string
	listOf  []expr
	tupleOf []expr
	dictOf  struct{ keys, values []expr }
	unary   struct {
		op string
		x  expr
	}
	binary struct {
		op   string
		x, y expr
	}
	compare struct {
		x   expr
		ops []string
		ys  []expr
	}
	choice struct{ test, x, y expr } // y may be nil
	attr   struct {
		x    expr
		name string
	}
	index struct{ x, i expr }
	slice struct{ x, from, to, step expr }
	call  struct {
		f    expr
		args arguments
	}
	filter struct {
		x    expr // nil in a filter block
		name string
		args arguments
	}
	test struct {
		x    expr
		name string
		args arguments
		not  bool
	}
)

type arguments struct {
	list  []expr
	names []string
	named []expr
}

type parser struct {
	toks  []token
	at    int
	depth int
	nodes int
	loops int // that surround
}

func (p *parser) peek() token { return p.toks[p.at] }

func (p *parser) next() token {
	t := p.toks[p.at]
	if t.kind != tokEnd {
		p.at++
	}
	return t
}

func (p *parser) errorf(format string, args ...any) error {
	return fmt.Errorf("line %d: %w", p.peek().line, fmt.Errorf(format, args...))
}

// is says whether the next token is this operator or word.
func (p *parser) is(s string) bool {
	t := p.peek()
	return (t.kind == tokOp || t.kind == tokName) && t.text == s
}

func (p *parser) accept(s string) bool {
	if p.is(s) {
		p.at++
		return true
	}
	return false
}

func (p *parser) want(s string) error {
	if !p.accept(s) {
		return p.errorf("%s, want %q", p.peek(), s)
	}
	return nil
}

// enter bounds nesting and size; leave is its opposite.
func (p *parser) enter() error {
	p.depth++
	p.nodes++
	if p.depth > maxDepth {
		return p.errorf("deeper than %d", maxDepth)
	}
	if p.nodes > maxNodes {
		return p.errorf("more than %d parts", maxNodes)
	}
	return nil
}

func (p *parser) leave() { p.depth-- }

func (p *parser) close() error {
	if t := p.peek(); t.kind != tokClose {
		return p.errorf("%s, want the end of the tag", t)
	}
	p.at++
	return nil
}

func (p *parser) word() (string, error) {
	t := p.peek()
	if t.kind != tokName {
		return "", p.errorf("%s, want a name", t)
	}
	p.at++
	return t.text, nil
}

// block reads statements up to the end or to a tag that is none of theirs, of
// which the opening is read.
func (p *parser) block() ([]node, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	var out []node
	for {
		t := p.peek()
		switch t.kind {
		case tokText:
			p.at++
			out = append(out, text(t.text))
			continue
		case tokPrint:
			p.at++
			x, err := p.tuple()
			if err == nil {
				err = p.close()
			}
			if err != nil {
				return nil, err
			}
			out = append(out, print{x, t.line})
			continue
		case tokEnd:
			return out, nil
		}
		p.at++ // {%
		if w := p.peek(); w.kind != tokName {
			return nil, p.errorf("%s, want a statement", w)
		} else if strings.HasPrefix(w.text, "end") || w.text == "else" || w.text == "elif" {
			return out, nil
		}
		n, err := p.statement(t.line)
		if err != nil {
			return nil, err
		}
		if n != nil {
			out = append(out, n)
		}
	}
}

// until reads a body and the tag that ends it, one of words, which it returns.
func (p *parser) until(words ...string) ([]node, string, error) {
	body, err := p.block()
	if err != nil {
		return nil, "", err
	}
	t := p.peek()
	if t.kind != tokName || !slices.Contains(words, t.text) {
		return nil, "", p.errorf("%s, want %s", t, strings.Join(words, " or "))
	}
	p.at++
	return body, t.text, nil
}

func (p *parser) statement(line int) (node, error) {
	w := p.next().text
	switch w {
	case "if":
		return p.branch(line)
	case "for":
		return p.loop(line)
	case "set":
		return p.set(line)
	case "macro":
		return p.macro()
	case "filter":
		f := filtered{line: line}
		var err error
		if f.apply, err = p.filters(true); err != nil {
			return nil, err
		}
		if err := p.close(); err != nil {
			return nil, err
		}
		if f.body, _, err = p.until("endfilter"); err != nil {
			return nil, err
		}
		return f, p.close()
	case "break", "continue":
		if p.loops == 0 {
			return nil, p.errorf("%s outside a loop", w)
		}
		return jump(w), p.close()
	case "generation": // transformers' mark of what the assistant says; it writes nothing
		if err := p.close(); err != nil {
			return nil, err
		}
		body, _, err := p.until("endgeneration")
		if err != nil {
			return nil, err
		}
		return filtered{body: body, line: line}, p.close()
	}
	p.at--
	return nil, p.errorf("statement %.40q is not supported", w)
}

func (p *parser) branch(line int) (node, error) {
	b := branch{line: line}
	for word := "if"; ; {
		if word != "else" {
			x, err := p.tuple()
			if err != nil {
				return nil, err
			}
			b.tests = append(b.tests, x)
		}
		if err := p.close(); err != nil {
			return nil, err
		}
		ends := []string{"elif", "else", "endif"}
		if word == "else" {
			ends = ends[2:]
		}
		body, w, err := p.until(ends...)
		if err != nil {
			return nil, err
		}
		b.bodies = append(b.bodies, body)
		if word = w; word == "endif" {
			return b, p.close()
		}
	}
}

// targets reads names that a value, or its parts, are given to.
func (p *parser) targets() ([]string, error) {
	paren := p.accept("(")
	var out []string
	for {
		w, err := p.word()
		if err != nil {
			return nil, err
		}
		out = append(out, w)
		if !p.accept(",") {
			break
		}
	}
	if paren {
		return out, p.want(")")
	}
	return out, nil
}

func (p *parser) loop(line int) (node, error) {
	l := loop{line: line}
	var err error
	if l.names, err = p.targets(); err != nil {
		return nil, err
	}
	if err := p.want("in"); err != nil {
		return nil, err
	}
	if l.over, err = p.or(); err != nil { // an "if" here is the loop's own
		return nil, err
	}
	if p.is(",") {
		items := tupleOf{l.over}
		for p.accept(",") {
			x, err := p.or()
			if err != nil {
				return nil, err
			}
			items = append(items, x)
		}
		l.over = items
	}
	if p.accept("if") {
		if l.where, err = p.expr(); err != nil {
			return nil, err
		}
	}
	if p.accept("recursive") {
		return nil, p.errorf("recursive loops are not supported")
	}
	if err := p.close(); err != nil {
		return nil, err
	}
	p.loops++
	body, w, err := p.until("else", "endfor")
	p.loops--
	if err != nil {
		return nil, err
	}
	l.body = body
	if w == "else" {
		if err := p.close(); err != nil {
			return nil, err
		}
		if l.empty, _, err = p.until("endfor"); err != nil {
			return nil, err
		}
	}
	return l, p.close()
}

func (p *parser) set(line int) (node, error) {
	a := assign{line: line}
	var err error
	if a.names, err = p.targets(); err != nil {
		return nil, err
	}
	if len(a.names) == 1 && p.accept(".") {
		if a.field, err = p.word(); err != nil {
			return nil, err
		}
	}
	if p.accept("=") {
		if a.x, err = p.tuple(); err != nil {
			return nil, err
		}
		return a, p.close()
	}
	if a.apply, err = p.filters(false); err != nil {
		return nil, err
	}
	if err := p.close(); err != nil {
		return nil, err
	}
	if a.body, _, err = p.until("endset"); err != nil {
		return nil, err
	}
	return a, p.close()
}

// filters reads a chain of filters without what they apply to; first says that
// the first has no bar before it.
func (p *parser) filters(first bool) ([]filter, error) {
	var out []filter
	for first || p.accept("|") {
		first = false
		f, err := p.filter(nil)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

func (p *parser) macro() (node, error) {
	m := macro{}
	var err error
	if m.name, err = p.word(); err != nil {
		return nil, err
	}
	if err := p.want("("); err != nil {
		return nil, err
	}
	for !p.accept(")") {
		if len(m.params) > 0 {
			if err := p.want(","); err != nil {
				return nil, err
			}
			if p.accept(")") {
				break
			}
		}
		x := param{}
		if x.name, err = p.word(); err != nil {
			return nil, err
		}
		if p.accept("=") {
			if x.value, err = p.expr(); err != nil {
				return nil, err
			}
		} else if n := len(m.params); n > 0 && m.params[n-1].value != nil {
			return nil, p.errorf("parameter %s without a default after one with", x.name)
		}
		m.params = append(m.params, x)
	}
	if err := p.close(); err != nil {
		return nil, err
	}
	loops := p.loops
	p.loops = 0
	if m.body, _, err = p.until("endmacro"); err != nil {
		return nil, err
	}
	p.loops = loops
	return m, p.close()
}

// number reads a literal.
func number(t token) (any, error) {
	s := strings.ReplaceAll(t.text, "_", "")
	if t.kind == tokInt {
		i, err := strconv.ParseInt(s, 10, 64)
		return i, err
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err
}

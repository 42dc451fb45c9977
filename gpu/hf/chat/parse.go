package chat

import (
	"fmt"
	"slices"
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
		to          target
		over, where expr // where may be nil
		body, empty []node
		recursive   bool
		line        int
	}
	assign struct {
		to    target
		x     expr // or
		body  []node
		apply []filter // to the body's text
		line  int
	}
	macro struct {
		name   string
		params []param
		body   []node
		uses   uses
	}
	calling struct { // a call block: the macro that it calls may call its body
		call   call
		caller macro
		line   int
	}
	with struct {
		to     []target
		values []expr
		body   []node
		line   int
	}
	filtered struct {
		apply []filter
		body  []node
		line  int
	}
	jump string // "break" or "continue"
)

// A target is a name that a value is given to, or a field of a namespace, or
// where a sequence is taken apart the targets of its parts.
type target struct {
	name, field string
	parts       []target
}

// uses are the names that a macro's body knows if it mentions them.
type uses struct{ varargs, kwargs, caller bool }

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
	list       []expr
	names      []string
	named      []expr
	rest, more expr // *rest and **more; nil if none
}

type parser struct {
	toks  []token
	at    int
	depth int
	nodes int
	loops int // that surround
	uses  uses
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
	case "call":
		return p.calling(line)
	case "with":
		return p.with(line)
	case "block": // nothing can extend a chat template: it is its body
		if _, err := p.word(); err != nil {
			return nil, err
		}
		if p.accept("scoped") || p.accept("required") {
			return nil, p.errorf("scoped and required blocks are not supported")
		}
		if err := p.close(); err != nil {
			return nil, err
		}
		body, _, err := p.until("endblock")
		if err != nil {
			return nil, err
		}
		if p.peek().kind == tokName {
			p.at++
		}
		return filtered{body: body, line: line}, p.close()
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

// target reads what a value is given to, up to one of ends.
func (p *parser) target(ends ...string) (target, error) {
	if err := p.enter(); err != nil {
		return target{}, err
	}
	defer p.leave()
	var parts []target
	for {
		var t target
		var err error
		if p.accept("(") {
			if t, err = p.target(")"); err == nil {
				err = p.want(")")
			}
		} else if t.name, err = p.word(); err == nil && p.accept(".") {
			t.field, err = p.word()
		}
		if err != nil {
			return t, err
		}
		comma := p.accept(",")
		if !comma && parts == nil {
			return t, nil
		}
		if parts = append(parts, t); !comma || slices.ContainsFunc(ends, p.is) {
			return target{parts: parts}, nil
		}
	}
}

func (p *parser) loop(line int) (node, error) {
	l := loop{line: line}
	var err error
	if l.to, err = p.target("in"); err != nil {
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
	l.recursive = p.accept("recursive")
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
	if a.to, err = p.target("="); err != nil {
		return nil, err
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

// number reads a literal.
func number(t token) (any, error) {
	s := strings.ReplaceAll(t.text, "_", "")
	if t.kind == tokInt {
		b, ok := decimal(s, 0)
		if !ok {
			return nil, errRange
		}
		return small(b)
	}
	f, ok := parseFloat(s)
	if !ok {
		return nil, fmt.Errorf("%.40q is no number", s)
	}
	return f, nil
}

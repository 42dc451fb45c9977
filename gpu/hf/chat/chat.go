// Package chat turns a conversation into a prompt as a model's chat template
// says: the Jinja of tokenizer_config.json's chat_template or of
// chat_template.jinja.
//
// A template is a stranger's program, so this is an evaluator of the part of
// Jinja that chat templates use, with bounds on everything that it does: steps,
// depth, bytes made, bytes written. It sees what it is given, and nothing else: no files, no
// other templates, no attributes of Go values, no clock. What it does not
// know is an error that names it, when the template is parsed where that can be
// told. Meanings are those of Jinja 3 as transformers sets it up: trim_blocks,
// lstrip_blocks, no escaping, loop controls, generation blocks, and a tojson that leaves
// characters as they are. Lists and dictionaries may be changed by their methods, which
// transformers forbids; what the filters safe and escape give is a plain string.
//
// (Of the libraries in Go, gonja renders more of Jinja, but runs without end on
// some malformed templates and cannot be stopped.)
package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// Limits of a template and of a rendering.
const (
	MaxTemplate = 1 << 20  // bytes
	MaxInput    = 16 << 20 // bytes of JSON
	MaxOutput   = 16 << 20 // bytes
	maxSteps    = 2 << 20  // nodes evaluated and elements gone over
	maxBytes    = 128 << 20
	maxDepth    = 500 // of expressions, statements, values and calls
	maxNodes    = 1 << 18
)

// A Template is a chat template. It may be rendered by many goroutines.
type Template struct{ body []node }

// Parse reads a template.
func Parse(source string) (*Template, error) {
	if len(source) > MaxTemplate {
		return nil, fmt.Errorf("chat template: %d bytes are over the limit of %d", len(source), MaxTemplate)
	}
	source = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(source)
	toks, err := lex(strings.TrimSuffix(source, "\n"))
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	p := parser{toks: toks}
	body, err := p.block()
	if err == nil && p.peek().kind != tokEnd {
		err = p.errorf("%s without its beginning", p.peek())
	}
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	return &Template{body}, nil
}

// Render writes what the template makes of variables, a JSON object: "messages",
// and whatever else it asks for, such as "tools", "bos_token",
// "add_generation_prompt" or "enable_thinking". now is the time that
// strftime_now tells; where it is zero that function is not defined.
func (t *Template) Render(variables []byte, now time.Time) (string, error) {
	vars, err := decode(variables)
	if err != nil {
		return "", fmt.Errorf("chat template: variables: %w", err)
	}
	top, ok := vars.(*dict)
	if !ok {
		return "", errors.New("chat template: variables: want a JSON object")
	}
	e := &eval{now: now, globals: newScope(nil)}
	e.builtins()
	for i, k := range top.keys {
		e.globals.vars[k.(string)] = top.values[i]
	}
	if err := e.run(t.body, newScope(e.globals)); err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	return e.out.String(), nil
}

// decode reads JSON with the order of its keys.
func decode(b []byte) (any, error) {
	if len(b) > MaxInput {
		return nil, fmt.Errorf("%d bytes are over the limit of %d", len(b), MaxInput)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("deeper than %d", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		if i, err := t.Int64(); err == nil {
			return i, nil
		}
		if b, ok := decimal(t.String(), 10); ok {
			return small(b)
		}
		f, err := t.Float64()
		if err != nil || math.IsInf(f, 0) {
			return nil, fmt.Errorf("number %.40s is out of range", t)
		}
		return f, nil
	case json.Delim:
		if t == '[' {
			l := &list{}
			for d.More() {
				v, err := decodeValue(d, depth+1)
				if err != nil {
					return nil, err
				}
				l.items = append(l.items, v)
			}
			_, err := d.Token()
			return l, err
		}
		m := newDict()
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			m.set(k, v)
		}
		_, err := d.Token()
		return m, err
	}
	return t, nil // string, bool, nil
}

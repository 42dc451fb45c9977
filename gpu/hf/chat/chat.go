// Package chat turns a conversation into a prompt as a model's chat template
// says: the Jinja of tokenizer_config.json or chat_template.jinja.
//
// A template is a stranger's program. It sees the conversation only: no file,
// no macro, no call of itself, filters of a short list. Its length, the loops
// that it starts, what they run over and what it writes are bounded; text that
// it doubles within itself is not, so render the templates of models that you
// chose to run.
package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
	"github.com/nikolalohinski/gonja/v2/nodes"
	"github.com/nikolalohinski/gonja/v2/parser"
)

// Limits of a template and of a rendering.
const (
	MaxTemplate = 64 << 10 // bytes
	MaxMessages = 4096
	MaxOutput   = 16 << 20 // bytes
	maxLoops    = 1 << 12  // loops started
	maxRange    = 1 << 6
)

// A Template is a chat template. It may be rendered more than once, by one
// goroutine at a time.
type Template struct {
	t     *exec.Template
	loops int // started by the rendering under way
}

// Options are what a template is told besides the messages.
type Options struct {
	Generate bool           // add_generation_prompt: end where the assistant begins
	Extra    map[string]any // others by name, such as enable_thinking, bos_token
}

var filters = []string{"abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "join", "last", "length", "list", "lower",
	"map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "sort", "string", "sum", "title", "trim", "unique", "upper"}

var statements = []string{"if", "set", "do", "break", "continue", "raw"}

// Parse reads a template.
func Parse(source string) (t *Template, err error) {
	if len(source) > MaxTemplate {
		return nil, fmt.Errorf("chat template: %d bytes are over the limit of %d", len(source), MaxTemplate)
	}
	defer func() {
		if r := recover(); r != nil { // the library's, on source that it does not expect
			t, err = nil, fmt.Errorf("chat template: %v", r)
		}
	}()
	t = &Template{}
	known := map[string]exec.FilterFunction{"tojson": toJSON}
	for _, name := range filters {
		known[name], _ = builtins.Filters.Get(name)
	}
	parsers := map[string]parser.ControlStructureParser{"for": t.loop}
	for _, name := range statements {
		parsers[name], _ = builtins.ControlStructures.Get(name)
	}
	globals := exec.EmptyContext()
	namespace, _ := builtins.GlobalFunctions.Get("namespace")
	globals.Set("namespace", namespace)
	globals.Set("range", span)
	globals.Set("raise_exception", func(_ *exec.Evaluator, v *exec.VarArgs) (string, error) {
		if len(v.Args) == 0 {
			return "", errors.New("the template refuses the conversation")
		}
		return "", fmt.Errorf("the template refuses the conversation: %.200s", v.Args[0].String())
	})
	c := config.New()
	c.TrimBlocks, c.LeftStripBlocks = true, true // as transformers sets them
	loader, err := loaders.NewMemoryLoader(map[string]string{"/chat": source})
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	t.t, err = exec.NewTemplate("/chat", c, loader, &exec.Environment{
		Context: globals, Filters: exec.NewFilterSet(known), Tests: builtins.Tests,
		ControlStructures: exec.NewControlStructureSet(parsers), Methods: builtins.Methods,
	})
	if err != nil {
		return nil, fmt.Errorf("chat template: %.300s", err.Error())
	}
	return t, nil
}

// Render writes messages, each with "role" and "content", as the template says.
func (t *Template) Render(messages []map[string]any, o Options) (text string, err error) {
	if len(messages) > MaxMessages {
		return "", fmt.Errorf("chat template: %d messages, at most %d", len(messages), MaxMessages)
	}
	defer func() {
		if r := recover(); r != nil {
			text, err = "", fmt.Errorf("chat template: %v", r)
		}
	}()
	data := map[string]any{}
	for k, v := range o.Extra {
		data[k] = v
	}
	list := make([]any, len(messages))
	for i, m := range messages {
		list[i] = m
	}
	data["messages"], data["add_generation_prompt"] = list, o.Generate
	t.loops = 0
	var out bounded
	if err := t.t.Execute(&out, exec.NewContext(data)); err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	return out.String(), nil
}

// bounded is a buffer that refuses more than MaxOutput.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxOutput {
		return 0, fmt.Errorf("more than %d bytes", MaxOutput)
	}
	return b.Buffer.Write(p)
}

func (b *bounded) WriteString(s string) (int, error) { return b.Write([]byte(s)) }

// loop is the library's for, counted.
func (t *Template) loop(p, args *parser.Parser) (nodes.ControlStructure, error) {
	parse, _ := builtins.ControlStructures.Get("for")
	s, err := parse(p, args)
	if err != nil {
		return nil, err
	}
	c, ok := s.(exec.ControlStructure)
	if !ok {
		return nil, errors.New("a loop that cannot run")
	}
	return &counted{c, t}, nil
}

type counted struct {
	exec.ControlStructure
	t *Template
}

// Execute starts the loop, unless too many were started.
func (c *counted) Execute(r *exec.Renderer, tag *nodes.ControlStructureBlock) error {
	if c.t.loops++; c.t.loops > maxLoops {
		return fmt.Errorf("more than %d loops", maxLoops)
	}
	return c.ControlStructure.Execute(r, tag)
}

// span is Jinja's range, as a list.
func span(_ *exec.Evaluator, v *exec.VarArgs) ([]int, error) {
	at := [3]int{0, 0, 1}
	if len(v.Args) < 1 || len(v.Args) > 3 {
		return nil, errors.New("range: want one to three numbers")
	}
	for i, a := range v.Args {
		if !a.IsInteger() {
			return nil, errors.New("range: want whole numbers")
		}
		at[i] = a.Integer()
	}
	if len(v.Args) == 1 {
		at[0], at[1] = 0, at[0]
	}
	if at[2] == 0 {
		return nil, errors.New("range: a step of 0")
	}
	var out []int
	for i := at[0]; at[2] > 0 && i < at[1] || at[2] < 0 && i > at[1]; i += at[2] {
		if len(out) == maxRange {
			return nil, fmt.Errorf("range: more than %d numbers", maxRange)
		}
		out = append(out, i)
	}
	return out, nil
}

// toJSON is transformers' tojson: Python's separators, characters as they are;
// keys are sorted, as Go's maps have no order of their own.
func toJSON(_ *exec.Evaluator, in *exec.Value, _ *exec.VarArgs) *exec.Value {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(in.Interface()); err != nil {
		return exec.AsValue(err)
	}
	var out strings.Builder
	quoted, escaped := false, false
	for _, r := range strings.TrimSuffix(b.String(), "\n") {
		out.WriteRune(r)
		switch {
		case escaped:
			escaped = false
		case quoted && r == '\\':
			escaped = true
		case r == '"':
			quoted = !quoted
		case !quoted && (r == ',' || r == ':'):
			out.WriteByte(' ')
		}
	}
	return exec.AsSafeValue(out.String())
}

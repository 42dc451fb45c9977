package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/hf/chat"
)

// chatFlags say what conversation a model's chat template makes a prompt of.
type chatFlags struct {
	on           bool
	system, file string
	vars         string
}

func (c *chatFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&c.on, "chat", false, "the prompt is a user's message")
	f.StringVar(&c.system, "system", "", "with --chat: the message of the system before it")
	f.StringVar(&c.file, "messages", "", `a whole conversation instead: a file with a JSON array of {"role", "content"}`)
	f.StringVar(&c.vars, "chat-vars", "", `more for the template: a JSON object, e.g. '{"enable_thinking": false}'`)
}

func (c *chatFlags) asked() bool { return c.on || c.file != "" || c.system != "" || c.vars != "" }

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// render makes the prompt.
func (c *chatFlags) render(files map[string][]byte, prompt string) (string, error) {
	source, vars, err := chatTemplate(files)
	if err != nil {
		return "", err
	}
	if c.vars != "" {
		err := hf.Unmarshal([]byte(c.vars), &vars)
		if err == nil && vars == nil {
			err = errors.New("null is no object")
		}
		if err != nil {
			return "", usageError{fmt.Errorf("--chat-vars: %w", err), `e.g. --chat-vars '{"enable_thinking": false}'`}
		}
	}
	var messages json.RawMessage
	switch {
	case c.file != "":
		if prompt != "" || c.system != "" {
			return "", usagef("--messages is a whole conversation: leave out -p and --system")
		}
		if messages, err = readBounded(c.file, chat.MaxInput); err != nil {
			return "", fmt.Errorf("--messages: %w", err)
		}
		var list []struct {
			Role *string `json:"role"`
		}
		if err := hf.Unmarshal(messages, &list); err != nil {
			return "", usageError{fmt.Errorf("--messages: %s: %w", c.file, err), `[{"role": "user", "content": "Hello"}]`}
		}
		for i, m := range list {
			if m.Role == nil {
				return "", usageError{fmt.Errorf("--messages: %s: message %d has no role", c.file, i), `[{"role": "user", "content": "Hello"}]`}
			}
		}
	case prompt == "":
		return "", usageError{errors.New("--chat: there is no message"), `say something with -p "Hello"`}
	default:
		var list []message
		if c.system != "" {
			list = append(list, message{"system", c.system})
		}
		if messages, err = json.Marshal(append(list, message{"user", prompt})); err != nil {
			return "", err
		}
	}
	vars["messages"], vars["add_generation_prompt"] = messages, json.RawMessage("true")
	b, err := json.Marshal(vars)
	if err != nil {
		return "", err
	}
	t, err := chat.Parse(source)
	if err != nil {
		return "", err
	}
	return t.Render(b, time.Now())
}

var errNoTemplate = errors.New("the model has no chat template")

// chatTemplate finds a model's template, and the special tokens that
// templates ask for.
func chatTemplate(files map[string][]byte) (string, map[string]json.RawMessage, error) {
	none := json.RawMessage("null") // as transformers has it: templates ask whether they are none
	vars := map[string]json.RawMessage{"tools": none, "documents": none}
	source := string(files[chatTemplateFile])
	if b := files[tokenizerConfigFile]; b != nil {
		var j map[string]json.RawMessage
		if err := hf.Unmarshal(b, &j); err != nil {
			return "", nil, fmt.Errorf("%s: %w", tokenizerConfigFile, err)
		}
		for _, k := range []string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"} {
			if s := tokenName(j[k]); s != "" {
				var err error
				if vars[k], err = json.Marshal(s); err != nil {
					return "", nil, err
				}
			}
		}
		var named []struct{ Name, Template string }
		if source == "" && json.Unmarshal(j["chat_template"], &source) != nil && json.Unmarshal(j["chat_template"], &named) == nil {
			for _, n := range named {
				if n.Name == "default" {
					source = n.Template
				}
			}
		}
	}
	if source == "" {
		return "", nil, advise(errNoTemplate, "leave out --chat, or add "+chatTemplateFile+" to its directory")
	}
	return source, vars, nil
}

// tokenName is a token of tokenizer_config.json: a string, or an object with one,
// as transformers 4 wrote it; "" where there is none.
func tokenName(b json.RawMessage) string {
	var name string
	if len(b) == 0 || json.Unmarshal(b, &name) == nil {
		return name
	}
	var o struct{ Content string }
	if json.Unmarshal(b, &o) != nil {
		return ""
	}
	return o.Content
}

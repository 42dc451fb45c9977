package chat

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func shared(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "shared", name))
	if err != nil {
		t.Skipf("SKIPPED, nothing was checked: %v", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

// The renderings are those of Hugging Face's own Jinja in JavaScript.
func TestVectors(t *testing.T) {
	var vectors []map[string]any
	shared(t, "vectors/chat_template.json", &vectors)
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for i, v := range vectors {
		var c struct {
			Template string `json:"chat_template"`
		}
		shared(t, "data/tokenizers/"+v["tokenizer"].(string)+"/tokenizer_config.json", &c)
		tpl, err := Parse(c.Template)
		if err != nil {
			t.Fatal(err)
		}
		var messages []map[string]any
		for _, m := range v["messages"].([]any) {
			messages = append(messages, m.(map[string]any))
		}
		o := Options{Generate: v["add_generation_prompt"].(bool), Extra: map[string]any{}}
		if x, ok := v["enable_thinking"]; ok {
			o.Extra["enable_thinking"] = x
		}
		if got, err := tpl.Render(messages, o); err != nil || got != v["rendered"] {
			t.Errorf("vector %d: %q, %v, want %q", i, got, err, v["rendered"])
		}
	}
}

var hi = []map[string]any{{"role": "user", "content": "<Hi> & 'you'"}}

func TestTemplates(t *testing.T) {
	for source, want := range map[string]string{
		"{% for m in messages %}\n[{{ m['role'] }}] {{ m.content | trim }}\n{% endfor %}\n": "[user] <Hi> & 'you'\n",
		"{{ bos_token }}{{ messages[0] | tojson }}":                                         `<s>{"content": "<Hi> & 'you'", "role": "user"}`,
		"{% for i in range(3) %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}":      "0,1,2",
		"{% if tools is defined %}x{% else %}{{ messages | length }}{% endif %}":            "1",
	} {
		tpl, err := Parse(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got, err := tpl.Render(hi, Options{Extra: map[string]any{"bos_token": "<s>"}}); err != nil || strings.TrimSuffix(got, "\n") != strings.TrimSuffix(want, "\n") {
			t.Errorf("%s: %q, %v, want %q", source, got, err, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	nested := "x"
	for range 6 {
		nested = "{% for i in range(60) %}" + nested + "{% endfor %}"
	}
	for source, want := range map[string]string{
		"{{ raise_exception('no system role') }}":      "no system role",
		"{% include '/etc/passwd' %}":                  "",
		"{% macro f() %}{{ f() }}{% endmacro %}":       "",
		"{{ 'x' | center(1000000000) }}":               "",
		"{% for i in range(1000000000) %}{% endfor %}": "range",
		strings.Replace(nested, "x", "", 1):            "loops",
		nested:                                         "more than",
		"{% if %}":                                     "",
		"{% for m in messages %}":                      "",
		strings.Repeat("x", MaxTemplate+1):             "limit",
	} {
		tpl, err := Parse(source)
		if err == nil {
			_, err = tpl.Render(hi, Options{})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want an error about %q", source, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"{{ messages }}", "{% for m in messages %}{{ m.role }}{% endfor %}", "{%- set x = 1 -%}{{ x }}", "{{ messages[0].content.split(' ')[-1] }}", "{#", "{{ a|b }}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if tpl, err := Parse(s); err == nil && len(s) < 200 {
			if out, err := tpl.Render(hi, Options{}); err == nil && len(out) > MaxOutput {
				t.Fatal("over the limit")
			}
		}
	})
}

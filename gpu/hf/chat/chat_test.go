package chat

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	var vectors []map[string]json.RawMessage
	shared(t, "vectors/chat_template.json", &vectors)
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for i, v := range vectors {
		var c struct {
			Template string `json:"chat_template"`
		}
		var tok, want string
		for k, to := range map[string]*string{"tokenizer": &tok, "rendered": &want} {
			if err := json.Unmarshal(v[k], to); err != nil {
				t.Fatal(err)
			}
			delete(v, k)
		}
		shared(t, "data/tokenizers/"+tok+"/tokenizer_config.json", &c)
		tpl, err := Parse(c.Template)
		if err != nil {
			t.Fatal(err)
		}
		vars, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tpl.Render(vars, time.Time{}); err != nil || got != want {
			t.Errorf("vector %d: %q, %v, want %q", i, got, err, want)
		}
	}
}

const conversation = `{"messages": [{"role": "user", "content": "<Hi> & 'you'"}, {"role": "assistant", "content": "é\n"}],
	"tools": [{"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": [true, null, 1.5, {}], "s": "\u2028\"\\\u0001"}}}],
	"add_generation_prompt": true, "bos_token": "<s>", "n": 7, "words": ["b", "A", "c"], "big": 12345678901234567890}`

// The cases of testdata/cases.json were rendered by Jinja2 3.1 in Python, set up
// as transformers sets it up; generate.py beside it makes them.
func TestCases(t *testing.T) {
	b, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Template string
		Want     string
		Fails    bool
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) < 250 {
		t.Fatalf("%d cases", len(cases))
	}
	now := time.Date(2026, 7, 4, 15, 6, 7, 123456000, time.UTC)
	for _, c := range cases {
		var got string
		tpl, err := Parse(c.Template)
		if err == nil {
			got, err = tpl.Render([]byte(conversation), now)
		}
		switch {
		case c.Fails:
			if err == nil {
				t.Errorf("%q: got %q, want a failure", c.Template, got)
			}
		case err != nil || got != c.Want:
			t.Errorf("%q: got %q, %v, want %q", c.Template, got, err, c.Want)
		}
	}
}

func TestRefusals(t *testing.T) {
	nested := "x"
	for range 8 {
		nested = "{% for i in range(60) %}" + nested + "{% endfor %}"
	}
	for source, want := range map[string]string{
		"{{ raise_exception('no system role') }}":      "no system role",
		"{% include '/etc/passwd' %}":                  `line 1: statement "include" is not supported`,
		"a\n{% import 'x' as y %}":                     "line 2",
		"{% extends 'x' %}":                            "not supported",
		"{{ 'x' | urlize }}":                           `filter "urlize" is not supported`,
		"{{ 1 is prime }}":                             `test "prime" is not supported`,
		"{{ 'x' | e is escaped }}":                     `test "escaped" is not supported`,
		"{{ [1] | pprint }}":                           `filter "pprint" is not supported`,
		"{{ [1] | random }}":                           `filter "random" is not supported`,
		"{{ lipsum() }}":                               "lipsum",
		"{{ ''.__class__.__mro__ }}":                   "not defined",
		"{{ messages.__class__ }}{{ x.y }}":            "not defined",
		"{% for i in range(1000000000) %}{% endfor %}": "range",
		strings.Replace(nested, "x", "", 1):            "steps",
		nested:                                         "steps",
		"{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}": "too much",
		"{{ 'x' * 1000000000000 }}":                                                                       "too much",
		"{{ ('x' * 10000000) | replace('x', 'y' * 1000) }}":                                               "too much",
		"{% set l = [] %}{% for i in range(60) %}{% set _ = l.append(l) %}{% endfor %}{{ l }}":            "deeper",
		"{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}": "steps",
		"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}":                                                 "deeper",
		"{% if %}":                 "want a value",
		"{% for m in messages %}":  "want else or endfor",
		"{% endif %}":              "without its beginning",
		"{{ 1":                     "without its",
		"{{ 'a":                    "without an end",
		"{# a":                     "without an end",
		"{% raw %}":                "endraw",
		"{{ a $ b }}":              "unexpected",
		"{% set messages.x = 1 %}": "no namespace",
		"{% break %}":              "outside a loop",
		"{{ 2 ** 99999 }}":         "out of range",
		"{{ 1 // 0 }}":             "division by 0",
		"{{ " + strings.Repeat("(", 1000) + "1" + strings.Repeat(")", 1000) + " }}": "deeper",
		"{{ 1" + strings.Repeat("+1", 1000) + " }}":                                 "deeper",
		"{{ " + strings.Repeat("not ", 1000) + "1 }}":                               "deeper",
		strings.Repeat("{% if 1 %}", 1000):                                          "deeper",
		strings.Repeat("x", MaxTemplate+1):                                          "limit",
	} {
		tpl, err := Parse(source)
		if err == nil {
			_, err = tpl.Render([]byte(conversation), time.Time{})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.70s: %v, want an error about %q", source, err, want)
		}
	}
	tpl, err := Parse("{{ x }}")
	if err != nil {
		t.Fatal(err)
	}
	for _, vars := range []string{"", "[]", "{", `{"x":1}{}`, `{"x":1e999}`, `{"x":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + "}"} {
		if got, err := tpl.Render([]byte(vars), time.Time{}); err == nil {
			t.Errorf("variables %.30q made %q", vars, got)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	b, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		f.Fatal(err)
	}
	var cases []struct{ Template string }
	if err := json.Unmarshal(b, &cases); err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		f.Add(c.Template, conversation)
	}
	f.Fuzz(func(t *testing.T, s, vars string) {
		tpl, err := Parse(s)
		if err != nil {
			return
		}
		if out, err := tpl.Render([]byte(vars), time.Unix(0, 0)); err == nil && len(out) > MaxOutput {
			t.Fatal("over the limit")
		}
	})
}

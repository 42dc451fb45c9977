package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
)

func TestStopTexts(t *testing.T) {
	for _, c := range []struct {
		stop  []string
		parts []string
		want  string
		ends  bool
	}{
		{nil, []string{"ab", "c"}, "abc", false},
		{[]string{"bc"}, []string{"ab", "b", "b", "cd"}, "abb", true},
		{[]string{"bcd"}, []string{"ab", "c"}, "abc", false},
		{[]string{"xyz", "b"}, []string{"ax", "yb", "z"}, "axy", true},
		{[]string{"cd", "bcde"}, []string{"ab", "cde"}, "a", true},
		{[]string{"é"}, []string{"e", "é"}, "e", true},
		{[]string{"aab"}, []string{"a", "a", "a", "b"}, "a", true},
	} {
		var out strings.Builder
		w := &speaker{out: &out, stop: c.stop}
		var err error
		for _, p := range c.parts {
			if err = w.put(p); err != nil {
				break
			}
		}
		if err2 := w.flush(); err2 != nil || errors.Is(err, errStopText) != c.ends || out.String() != c.want {
			t.Errorf("%q of %q: %q, %v", c.stop, c.parts, out.String(), err)
		}
	}
}

// A model in shards is the model in one file.
func TestShardedModel(t *testing.T) {
	tok, err := hf.NewChar("abc")
	if err != nil {
		t.Fatal(err)
	}
	cfg := hf.Config{HiddenSize: 8, IntermediateSize: 8, NumHiddenLayers: 1, NumAttentionHeads: 2, VocabSize: 3,
		MaxPositionEmbeddings: 16, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true}
	whole, parts := t.TempDir()+"/whole", t.TempDir()
	params := llama.Genesis(cfg, 1)
	if err := writeTrained(whole, cfg, tok.JSON(), params); err != nil {
		t.Fatal(err)
	}
	ts, index, from, off := cfg.Tensors(), map[string]string{}, 0, 0
	write := func(name string, b []byte, err error) {
		if err := errors.Join(err, os.WriteFile(filepath.Join(parts, name), b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for i, x := range ts {
		off += x.Len()
		if i == 4 || i == len(ts)-1 {
			name := fmt.Sprintf("model-%d.safetensors", i)
			n := 0
			for j := i; j >= 0 && index[ts[j].Name] == ""; j-- {
				index[ts[j].Name] = name
				n++
			}
			b, err := hf.WriteSafetensors(ts[i+1-n:i+1], params[from:off])
			write(name, b, err)
			from = off
		}
	}
	b, err := json.Marshal(map[string]any{"weight_map": index})
	write(shardIndexFile, b, err)
	for _, name := range []string{"config.json", "tokenizer.json"} {
		b, err := os.ReadFile(filepath.Join(whole, name))
		write(name, b, err)
	}
	write(generationFile, []byte(`{"eos_token_id": 1}`), nil)
	var first string
	for i, dir := range []string{whole, parts} {
		var out, errw strings.Builder
		if code := run([]string{"eval", "--model", dir, "--text", filepath.Join(whole, "tokenizer.json")}, os.Stdin, &out, &errw); code != 0 {
			t.Fatal(errw.String())
		}
		if i == 0 {
			first = out.String()
		} else if out.String() != first {
			t.Errorf("in shards %s, whole %s", out.String(), first)
		}
	}
	var out, errw strings.Builder
	if code := run([]string{"generate", parts, "-p", "abc", "-n", "200", "--json"}, os.Stdin, &out, &errw); code != 0 || strings.Contains(strings.SplitAfter(out.String(), `"text"`)[1], "b") {
		t.Errorf("wrote %s past the end that generation_config.json says: %s", out.String(), errw.String())
	}
	if err := os.Remove(filepath.Join(parts, "model-4.safetensors")); err != nil {
		t.Fatal(err)
	}
	if code := run([]string{"generate", parts, "-p", "abc"}, os.Stdin, &out, &errw); code != 1 || !strings.Contains(errw.String(), "model-4.safetensors") {
		t.Errorf("a missing shard: %d, %s", code, errw.String())
	}
}

func TestChat(t *testing.T) {
	tok := map[string][]byte{tokenizerConfigFile: []byte(`{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template":
		[{"name": "tool", "template": "no"}, {"name": "default", "template": "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ who }}:{% endif %}"}]}`)}
	file := filepath.Join(t.TempDir(), "m.json")
	if err := os.WriteFile(file, []byte(`[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flags  chatFlags
		prompt string
		want   string // or of the error
	}{
		{chatFlags{on: true}, "Hi", "<s>user: Hi</s>:"},
		{chatFlags{on: true, system: "Be", vars: `{"who": "assistant"}`}, "Hi", "<s>system: Be</s>user: Hi</s>assistant:"},
		{chatFlags{file: file}, "", "<s>user: a</s>assistant: b</s>:"},
		{chatFlags{file: file}, "Hi", "leave out -p"},
		{chatFlags{file: file + "x"}, "", "no such file"},
		{chatFlags{on: true}, "", "no message"},
		{chatFlags{on: true, vars: "x"}, "Hi", "--chat-vars"},
		{chatFlags{on: true, vars: "null"}, "Hi", "--chat-vars"},
	} {
		got, err := c.flags.render(tok, c.prompt)
		if err != nil && !strings.Contains(err.Error(), c.want) || err == nil && got != c.want {
			t.Errorf("%+v, %q: %q, %v", c.flags, c.prompt, got, err)
		}
	}
	if _, err := (&chatFlags{on: true}).render(nil, "Hi"); err == nil {
		t.Error("a model without a template made a prompt")
	}
	got, err := (&chatFlags{on: true}).render(map[string][]byte{chatTemplateFile: []byte("{% if tools is not none or documents is not none %}tools{% endif %}{{ messages[0].content }}!")}, "Hi")
	if err != nil || got != "Hi!" {
		t.Errorf("a template in a file: %q, %v", got, err)
	}
}

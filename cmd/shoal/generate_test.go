package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// What is told token by token is what all tokens decode to, also where they end
// within a character or are no characters at all.
func TestSpeakerTellsAll(t *testing.T) {
	tok, err := hf.LoadTokenizer(bytesTokenizer(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"abc", "é€😀", "a\xe2\x82", "\xe2", "\xf0\x9f\x98", "\xff\xfe a", "\uFFFD", "x\uFFFDy\uFFFD",
		strings.Repeat("\xe2", 20), strings.Repeat("\xe2", 40) + "a" + strings.Repeat("\xe2", 40),
	} {
		var out strings.Builder
		w := &speaker{tok: tok, ids: []int32{'>'}, out: &out, said: 1}
		var ids []int32
		for _, b := range []byte(text) {
			ids = append(ids, int32(b))
			if err := w.say(int32(b)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.flush(); err != nil || out.String() != tok.Decode(ids) {
			t.Errorf("%q: told %q, want %q (%v)", text, out.String(), tok.Decode(ids), err)
		}
	}
	// A character whose first byte was told as U+FFFD costs no other text.
	var out strings.Builder
	w := &speaker{tok: tok, ids: []int32{'>'}, out: &out, said: 1}
	for _, b := range []byte(strings.Repeat("\xe2", speakerHold) + "\x82\xac and on it goes, for a while") {
		if err := w.say(int32(b)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.flush(); err != nil || strings.Count(out.String(), "and on") != 1 || strings.Count(out.String(), "\uFFFD") > speakerHold {
		t.Errorf("told %q, %v", out.String(), err)
	}
	// A stop text may be the end of a text that ends within a character.
	out.Reset()
	w = &speaker{tok: tok, ids: []int32{'>'}, out: &out, said: 1, stop: []string{"\uFFFD"}}
	for _, b := range []byte("ab\xe2") {
		if err := w.say(int32(b)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.flush(); err != nil || out.String() != "ab" {
		t.Errorf("told %q, %v", out.String(), err)
	}
}

// bytesTokenizer is a tokenizer.json whose tokens are bytes, and <s> and </s>.
func bytesTokenizer(t *testing.T) []byte {
	t.Helper()
	vocab := map[string]int{}
	next := rune(256)
	for b := range rune(256) {
		r := b
		if !(b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae) {
			r, next = next, next+1
		}
		vocab[string(r)] = int(b)
	}
	vocab["<s>"], vocab["</s>"] = 256, 257
	b, err := json.Marshal(map[string]any{
		"added_tokens":  []any{map[string]any{"id": 256, "content": "<s>", "special": true}, map[string]any{"id": 257, "content": "</s>", "special": true}},
		"pre_tokenizer": map[string]any{"type": "ByteLevel", "add_prefix_space": false}, "decoder": map[string]any{"type": "ByteLevel"},
		"post_processor": map[string]any{"type": "TemplateProcessing",
			"single":         []any{map[string]any{"SpecialToken": map[string]any{"id": "<s>"}}, map[string]any{"Sequence": map[string]any{"id": "A"}}},
			"special_tokens": map[string]any{"<s>": map[string]any{"id": "<s>", "ids": []int{256}, "tokens": []string{"<s>"}}}},
		"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": []any{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What generation_config.json says stands for flags that are not given.
func TestGenerationConfig(t *testing.T) {
	g, err := hf.ParseGeneration([]byte(`{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.01,
		"repetition_penalty": 1.1, "max_new_tokens": 7, "eos_token_id": [3, 4]}`))
	if err != nil {
		t.Fatal(err)
	}
	gf := generateFlags{temperature: 0.8, topK: 5, tokens: 300, repetition: 1, eos: []int{9}, given: func(f string) bool { return f == "top-k" }}
	gf.follow(g)
	if gf.temperature != 0.6 || gf.topK != 5 || gf.topP != 0.95 || gf.minP != 0.01 || gf.repetition != 1.1 || gf.tokens != 7 || !slices.Equal(gf.eos, []int{3, 4}) {
		t.Errorf("%+v", gf)
	}
	if g, err = hf.ParseGeneration([]byte(`{"do_sample": false, "temperature": 0.6}`)); err != nil {
		t.Fatal(err)
	}
	none := func(string) bool { return false }
	yes := true
	gf = generateFlags{temperature: 0.8, given: none}
	if gf.follow(hf.Generation{Sample: &yes}); gf.temperature != 1 {
		t.Errorf("do_sample alone: %+v", gf)
	}
	gf = generateFlags{temperature: 0.8, tokens: 300, eos: []int{9}, given: none}
	if gf.follow(g); gf.temperature != 0 || gf.tokens != 300 || !slices.Equal(gf.eos, []int{9}) {
		t.Errorf("%+v", gf)
	}
	gf = generateFlags{temperature: 0.8, given: none}
	if gf.follow(hf.Generation{EOS: []int{1}}); gf.temperature != 0.8 {
		t.Errorf("%+v", gf)
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
	if err := writeTrained(whole, cfg, tok.JSON(), params, nil); err != nil {
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

package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
)

// reference is the path of a file that is not shipped; without it the test is
// skipped.
func reference(t *testing.T, name string) string {
	t.Helper()
	p := filepath.Join("..", "..", "..", "shared", name)
	if _, err := os.Stat(p); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
	return p
}

// The figures were made by two programs that share nothing with this one: C in
// float32 and JavaScript in float64, which agree to six decimals.
func TestEvalStories(t *testing.T) {
	model, text := reference(t, "data/models/stories260K-hf"), reference(t, "data/text/tinystories_sample_2MiB.txt")
	for _, c := range []struct {
		documents string
		want      float64
	}{{"40", 1.245884}, {"200", 1.479524}} {
		if c.documents == "200" && testing.Short() {
			continue
		}
		var out, errw bytes.Buffer
		code := run([]string{"eval", "--json", "--model", model, "--text", text, "--split", "<|endoftext|>", "--skip", "1", "--documents", c.documents}, os.Stdin, &out, &errw)
		if code != 0 {
			t.Fatalf("exit code %d: %s", code, errw.String())
		}
		var got evaluation
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if !(math.Abs(got.MeanNLL-c.want) < 2e-6) || math.Abs(float64(got.PPL)-math.Exp(got.MeanNLL)) > 1e-9 {
			t.Errorf("%s stories: %+v, want %.6f nats", c.documents, got, c.want)
		}
	}
}

// What is put around a text is what tokenizer(text) of transformers puts there.
func TestAround(t *testing.T) {
	char, err := hf.NewChar("ab", "<s>", "<e>")
	if err != nil {
		t.Fatal(err)
	}
	processed, err := hf.LoadTokenizer(bytes.Replace(char.JSON(), []byte(`"post_processor": null`), []byte(`"post_processor": {"type": "TemplateProcessing",
		"single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<e>"}}],
		"special_tokens": {"<s>": {"ids": [2]}, "<e>": {"ids": [3]}}}`), 1))
	if err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string][2]string{ // without a post-processor, and with this one
		``: {"ab", "<s>ab<e>"}, `{}`: {"ab", "<s>ab<e>"}, `{"bos_token": null}`: {"ab", "<s>ab<e>"},
		`{"bos_token": "<s>"}`:                                                                   {"ab", "<s>ab<e>"}, // named, and not asked for
		`{"bos_token": "b", "add_bos_token": true}`:                                              {"bab", "bab"},
		`{"bos_token": {"content": "<s>"}, "add_bos_token": true}`:                               {"<s>ab", "<s>ab"},
		`{"bos_token": "<s>", "eos_token": "<e>", "add_eos_token": true}`:                        {"ab<e>", "ab<e>"},
		`{"bos_token": "<s>", "eos_token": "<e>", "add_bos_token": true, "add_eos_token": true}`: {"<s>ab<e>", "<s>ab<e>"},
		`{"bos_token": "<s>", "add_bos_token": false}`:                                           {"ab", "ab"},
		`{"add_bos_token": true}`:                                                                {"ab", "ab"},
		`{"tokenizer_class": "LlamaTokenizer"}`:                                                  {"<s>ab", "<s>ab<e>"},
		`{"tokenizer_class": "LlamaTokenizerFast", "bos_token": "b"}`:                            {"bab", "<s>ab<e>"},
		`{"tokenizer_class": "LlamaTokenizer", "add_eos_token": true, "eos_token": "<e>"}`:       {"<s>ab<e>", "<s>ab<e>"},
		`{"tokenizer_class": "GemmaTokenizer"}`:                                                  {"ab", "<s>ab<e>"}, // it has no <bos>
		`{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}`:                     {"ab", "<s>ab<e>"},
		`{"bos_token": "<x>", "add_bos_token": true}`:                                            {"!", "!"},
		`[`: {"!", "!"},
	} {
		var b []byte
		if config != "" {
			b = []byte(config)
		}
		for i, tok := range []*hf.Tokenizer{char, processed} {
			before, after, err := around(tok, b)
			got := tok.Decode(slices.Concat(before, tok.Encode("ab"), after))
			if err != nil {
				got = "!"
			}
			if got != want[i] {
				t.Errorf("%s, tokenizer %d: %q, want %q (%v)", config, i, got, want[i], err)
			}
		}
	}
}

// A document that eval measures begins with a BOS wherever there is one that nobody has forbidden.
func TestBeginning(t *testing.T) {
	tok, err := hf.NewChar("ab", "<s>", "<e>")
	if err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string]string{
		``: "", `{}`: "", `{"bos_token": null}`: "", `{"add_bos_token": true}`: "",
		`{"bos_token": "<s>"}`: "<s>", // generate has none here
		`{"tokenizer_class": "GPT2Tokenizer", "bos_token": "b"}`:        "b",
		`{"bos_token": "<s>", "add_bos_token": false}`:                  "",
		`{"bos_token": "<s>", "add_bos_token": true}`:                   "<s>",
		`{"tokenizer_class": "LlamaTokenizer"}`:                         "<s>",
		`{"bos_token": "<s>", "eos_token": "b", "add_eos_token": true}`: "<s>",
		`{"bos_token": "<x>"}`:                                          "!",
		`[`:                                                             "!",
	} {
		var b []byte
		if config != "" {
			b = []byte(config)
		}
		ids, err := beginning(tok, b)
		got := tok.Decode(ids)
		if err != nil {
			got = "!"
		}
		if got != want {
			t.Errorf("%s: %q, want %q (%v)", config, got, want, err)
		}
	}
}

func TestTokenizeVectors(t *testing.T) {
	b, err := os.ReadFile(reference(t, "vectors/tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Strings []string
		IDs     map[string][]json.RawMessage
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"stories512": "data/models/stories260K-hf/tokenizer.json",
		"gpt2":       "data/tokenizers/gpt2/tokenizer.json",
		"qwen3":      "data/tokenizers/qwen3/tokenizer.json",
	} {
		raw, err := os.ReadFile(reference(t, file))
		if err != nil {
			t.Fatal(err)
		}
		tok, err := hf.LoadTokenizer(raw)
		if err != nil {
			t.Fatal(err)
		}
		var in, out, want bytes.Buffer
		e := json.NewEncoder(&in)
		for i, s := range v.Strings {
			if err := e.Encode(s); err != nil {
				t.Fatal(err)
			}
			if err := json.Compact(&want, v.IDs[name][i]); err != nil {
				t.Fatal(err)
			}
			want.WriteByte('\n')
		}
		if err := tokenizeLines(t.Context(), tok, &in, &out); err != nil || out.String() != want.String() {
			t.Errorf("%s: %v, or other tokens", name, err)
		}
	}
}

func TestTokenizeBounds(t *testing.T) {
	tok, err := hf.NewChar("ab")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = tokenizeLines(t.Context(), tok, strings.NewReader("\"ab\"\n\""+strings.Repeat("a", maxLine)), &out)
	if err == nil || !strings.Contains(err.Error(), "limit") || out.String() != "[0,1]\n" {
		t.Errorf("%v after %q", err, out.String())
	}
	out.Reset()
	err = tokenizeLines(t.Context(), tok, strings.NewReader("\"b\"\n\n\"a\xff\"\n"), &out)
	if err == nil || !strings.Contains(err.Error(), "line 3: it is not UTF-8") || out.String() != "[1]\n" {
		t.Errorf("%v after %q", err, out.String())
	}
}

// A model whose sums overflow has no loss; one that is sure of what does not come has no
// perplexity that a number could hold.
func TestEvalNotFinite(t *testing.T) {
	tok, err := hf.NewChar("ab")
	if err != nil {
		t.Fatal(err)
	}
	cfg := hf.Config{HiddenSize: 4, IntermediateSize: 4, NumHiddenLayers: 1, NumAttentionHeads: 1, HeadDim: 4, VocabSize: 2,
		MaxPositionEmbeddings: 8, RMSNormEps: 1e-5, RopeTheta: 10000}
	text := filepath.Join(t.TempDir(), "t.txt")
	if err := os.WriteFile(text, []byte("aaab"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		head float32
		code int
		want string
	}{"overflow": {3e38, 1, "document 1 of 1: what the model computes is not finite"}, "sure": {1e4, 0, `"ppl": null`}} {
		params := make([]float32, cfg.NumParams())
		at := 0
		for _, x := range cfg.Tensors() {
			part := params[at : at+x.Len()]
			for i := range part {
				switch {
				case strings.HasSuffix(x.Name, "norm.weight") || x.Name == "model.embed_tokens.weight":
					part[i] = 1
				case x.Name == "lm_head.weight" && i < 4: // a, not b
					part[i] = c.head
				}
			}
			at += x.Len()
		}
		dir := filepath.Join(t.TempDir(), "model")
		if err := writeTrained(dir, cfg, tok.JSON(), params); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if code := run([]string{"eval", "--json", "--model", dir, "--text", text}, os.Stdin, &out, &out); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: %d, %s", name, code, out.String())
		}
	}
}

package hf

import (
	"encoding/json"
	"slices"
	"testing"
)

func load(t testing.TB, b []byte) *Tokenizer {
	t.Helper()
	tok, err := LoadTokenizer(b)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// The vectors were made with the Rust library (npm @anush008/tokenizers 0.6.0).
func TestTokenizerVectors(t *testing.T) {
	var v struct {
		Strings []string
		IDs     map[string][][]int32
		Decoded map[string][]string
	}
	if err := json.Unmarshal(shared(t, "vectors/tokenizer.json"), &v); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"gpt2":       "data/tokenizers/gpt2/tokenizer.json",
		"qwen3":      "data/tokenizers/qwen3/tokenizer.json",
		"stories512": "data/models/stories260K-hf/tokenizer.json",
	} {
		t.Run(name, func(t *testing.T) {
			tok := load(t, shared(t, file))
			if len(v.Strings) == 0 || len(v.IDs[name]) != len(v.Strings) || len(v.Decoded[name]) != len(v.Strings) {
				t.Fatal("vectors are incomplete")
			}
			for i, s := range v.Strings {
				if got := tok.Encode(s); !slices.Equal(got, v.IDs[name][i]) {
					t.Errorf("%q: got %d, want %d", s, got, v.IDs[name][i])
				}
				if got := tok.Decode(v.IDs[name][i]); got != v.Decoded[name][i] {
					t.Errorf("decode %d: got %q, want %q", v.IDs[name][i], got, v.Decoded[name][i])
				}
			}
		})
	}
}

func TestStoriesBOS(t *testing.T) {
	tok := load(t, shared(t, "data/models/stories260K-hf/tokenizer.json"))
	if got := tok.EncodePrompt("Once"); len(got) < 2 || got[0] != 1 || !slices.Equal(got[1:], tok.Encode("Once")) {
		t.Errorf("got %d, want BOS (1) first", got)
	}
	if id, ok := tok.ID("</s>"); !ok || id != 2 {
		t.Errorf("</s> is %d, %v", id, ok)
	}
}

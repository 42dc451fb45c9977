package hf

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// randomBPE is a tokenizer.json of random merges of the first letters, of bytes, or of
// letters with what falls back to bytes.
func randomBPE(t *testing.T, rng *rand.Rand) *Tokenizer {
	t.Helper()
	j := map[string]any{}
	vocab, merges := map[string]int{}, [][]string{}
	add := func(s string) bool {
		if _, ok := vocab[s]; ok {
			return false
		}
		vocab[s] = len(vocab)
		return true
	}
	words := []string{"a", "b", "c", "d", "▁"}
	kind := rng.IntN(4)
	model := map[string]any{"type": "BPE", "fuse_unk": rng.IntN(2) == 0}
	switch kind {
	case 0:
		j["pre_tokenizer"] = map[string]any{"type": "ByteLevel", "use_regex": false}
		words[4] = "Ġ"
	case 1:
		model["byte_fallback"] = true
		for _, s := range []string{"<0x65>", "<0x66>", "<", "0x65>"} {
			add(s)
			words = append(words, s)
		}
	case 2:
		add("?")
		model["unk_token"] = "?"
		words = append(words, "?")
	}
	for _, s := range words {
		add(s)
	}
	for range 1 + rng.IntN(25) {
		l, r := words[rng.IntN(len(words))], words[rng.IntN(len(words))]
		if add(l + r) {
			words, merges = append(words, l+r), append(merges, []string{l, r})
		}
	}
	model["vocab"], model["merges"], j["model"] = vocab, merges, model
	b, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := LoadTokenizer(b)
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return tok
}

// A long piece is cut where no merge can reach across: to the same tokens.
func TestLongPiecesAreCut(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	cut, whole := 0, 0
	for range 400 {
		tok := randomBPE(t, rng)
		text := make([]byte, 70+rng.IntN(200))
		for i := range text {
			text[i] = "aabbccdd  ef"[rng.IntN(12)]
		}
		s := strings.ReplaceAll(string(text), " ", "▁")
		if tok.bytes {
			s = string(text)
		}
		got := tok.Encode(s)
		if tok.bpe.meets == nil {
			whole++
			continue
		}
		cut++
		tok.bpe.meets = nil
		if want := tok.Encode(s); !slices.Equal(got, want) {
			t.Fatalf("%s\n%q: got %d, want %d", tok.JSON(), s, got, want)
		}
	}
	if cut < 100 || whole < 5 {
		t.Errorf("%d tokenizers cut, %d do not: not all was tested", cut, whole)
	}
}

// Who encodes a long text is asked whether to go on, and can end it, with and without
// a split, and where nothing can be cut.
func TestEncodeWhile(t *testing.T) {
	same := `{"model": {"type": "BPE", "vocab": {"a": 0, "aa": 1, "aaaa": 2}, "merges": ["a a", "aa aa"]}}`
	split := `{"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "b"}, "behavior": "Isolated"}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}`
	for name, c := range map[string]struct{ json, text string }{
		"one piece": {same, strings.Repeat("a", 300_000)},
		"pieces":    {split, strings.Repeat("ab", 300_000)},
		"cut":       {same, strings.Repeat("ab", 300_000)},
	} {
		tok, err := LoadTokenizer([]byte(c.json))
		if err != nil {
			t.Fatal(err)
		}
		last, asked := 0, 0
		ids, ok := tok.EncodeWhile(c.text, func(done int) bool {
			if done < last || done > len(c.text) {
				t.Errorf("%s: %d bytes of %d done, after %d", name, done, len(c.text), last)
			}
			last = done
			asked++
			return true
		})
		if !ok || !slices.Equal(ids, tok.Encode(c.text)) || asked < 3 {
			t.Errorf("%s: asked %d times; %t, or other tokens", name, asked, ok)
		}
		for stop := range 3 {
			n := 0
			if _, ok := tok.EncodeWhile(c.text, func(int) bool { n++; return n <= stop }); ok || n != stop+1 {
				t.Errorf("%s: asked %d times though it was told to stop at %d (%t)", name, n, stop, ok)
			}
		}
	}
}

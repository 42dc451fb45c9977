package hf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// llama.cpp's kinds of tokens.
const (
	ggufNormal  = 1
	ggufUnknown = 2
	ggufControl = 3
	ggufUser    = 4
	ggufUnused  = 5
	ggufByte    = 6
)

// ggufSplits are llama.cpp's names of the patterns that it knows too.
var ggufSplits = map[string]string{
	patternGPT2: "gpt-2", patternGPT2Short: "gpt-2", patternLlama3: "llama-bpe", patternQwen: "qwen2",
}

// vocabulary writes the tokenizer as one of three that llama.cpp has: "gpt2",
// byte-level BPE; "llama", characters with byte fallback and a mark for spaces,
// whose scores order merges; and for single characters "rwkv", whose tokens are
// found as they are and which alone needs no token that ends a text.
func (g *gguf) vocabulary(t *Tokenizer) error {
	if t.VocabSize() > g.c.VocabSize {
		return fmt.Errorf("tokenizer: %d tokens, the config has %d", t.VocabSize(), g.c.VocabSize)
	}
	tokens, kinds := make([]string, g.c.VocabSize), make([]int, g.c.VocabSize)
	for id := range tokens {
		kinds[id] = ggufNormal
		if id < len(t.tokens) {
			tokens[id] = t.tokens[id]
		}
		if tokens[id] == "" {
			tokens[id], kinds[id] = fmt.Sprintf("[PAD%d]", id), ggufUnused
		}
	}
	for id, special := range t.added {
		kinds[id] = ggufUser
		if special {
			kinds[id] = ggufControl
		}
	}
	if id := t.bpe.unknown; id >= 0 {
		kinds[id] = ggufUnknown
	}
	unknown := int(t.bpe.unknown)
	marks, prefix := t.marksSpaces()
	switch {
	case t.bytes:
		pre, ok := ggufSplits[t.pattern]
		if !ok || len(t.stages) > 1 || t.stages[0].change != nil || t.bpe.whole != nil && pre != "llama-bpe" {
			return fmt.Errorf("tokenizer: llama.cpp has no split %.80q", t.pattern)
		}
		// It normalizes nothing. NFC changes little, and no more in Hugging Face's own exports.
		if s := " Aéq\u0301Ａﬁ\t "; t.normalized(s) != s {
			return errors.New("tokenizer: llama.cpp has no normalizer like it")
		}
		g.str("tokenizer.ggml.model", "gpt2")
		g.str("tokenizer.ggml.pre", pre)
		g.strs("tokenizer.ggml.merges", t.mergeList())
	case marks && !t.cuts():
		g.str("tokenizer.ggml.model", "llama")
		g.str("tokenizer.ggml.pre", "default")
		g.yes("tokenizer.ggml.add_space_prefix", prefix)
		if t.bpe.fallback != nil {
			for b, id := range t.bpe.fallback {
				if id < 0 { // llama.cpp ends the process where one that it asks for is missing
					return fmt.Errorf("tokenizer: llama.cpp needs a token <0x%02X>", b)
				}
				kinds[id] = ggufByte
			}
		}
		g.array("tokenizer.ggml.scores", ggufF32, len(tokens))
		for _, s := range t.scores(len(tokens)) {
			g.pairs = binary.LittleEndian.AppendUint32(g.pairs, math.Float32bits(s))
		}
	case len(t.normalize) == 0 && t.pattern == charPattern && len(t.stages) == 1 && len(t.bpe.merges) == 0 && t.bpe.fallback == nil:
		g.str("tokenizer.ggml.model", "rwkv")
		for id := range tokens { // its escapes
			tokens[id] = strings.ReplaceAll(tokens[id], `\`, `\\`)
		}
		// Without a token for characters that the vocabulary lacks, llama.cpp ends the
		// process at the first; Shoal leaves them out, which it cannot.
		if unknown < 0 {
			unknown = int(t.ids[" "]) // or the first
		}
	default:
		return errors.New("tokenizer: llama.cpp has none like it: want byte-level BPE, BPE that marks spaces with ▁, or single characters")
	}
	g.strs("tokenizer.ggml.tokens", tokens)
	g.array("tokenizer.ggml.token_type", ggufI32, len(kinds))
	for _, k := range kinds {
		g.pairs = binary.LittleEndian.AppendUint32(g.pairs, uint32(k))
	}
	if unknown >= 0 {
		g.u32("tokenizer.ggml.unknown_token_id", unknown)
	}
	return nil
}

// ends writes which tokens begin and end a text, and whether they are put around one.
func (g *gguf) ends(o GGUFOptions) error {
	bos, eos := g.c.BOS, g.c.EOS
	if n := len(o.Before); n > 1 {
		return fmt.Errorf("tokenizer: it puts %d tokens before a text, llama.cpp one", n)
	} else if n == 1 {
		first := int(o.Before[0])
		bos = &first
	}
	if n := len(o.After); n > 0 {
		at := slices.Index(eos, int(o.After[0]))
		if n > 1 || at < 0 {
			return fmt.Errorf("tokenizer: it puts %d after a text, llama.cpp an eos_token at most", o.After)
		}
		eos = slices.Concat(eos[at:at+1], eos[:at], eos[at+1:])
	}
	if bos != nil {
		g.u32("tokenizer.ggml.bos_token_id", *bos)
	}
	for i, name := range []string{"eos", "eot", "eom"} { // any of them ends a text
		if i < len(eos) {
			g.u32("tokenizer.ggml."+name+"_token_id", eos[i])
		}
	}
	g.yes("tokenizer.ggml.add_bos_token", len(o.Before) > 0)
	g.yes("tokenizer.ggml.add_eos_token", len(o.After) > 0)
	return nil
}

// cuts says whether the pre-tokenizer cuts a text into pieces.
func (t *Tokenizer) cuts() bool {
	return slices.ContainsFunc(t.stages, func(s stage) bool { return s.next != nil })
}

// marksSpaces says whether the tokenizer writes ▁ for a space, and whether it
// puts one before a text.
func (t *Tokenizer) marksSpaces() (marks, prefix bool) {
	if t.meta != "" {
		return t.meta == "▁" && len(t.normalize) == 0, t.metaScheme != "never"
	}
	return t.normalized("a b") == "a▁b" || t.normalized("a b") == "▁a▁b", strings.HasPrefix(t.normalized("a"), "▁")
}

// mergeList is the merges, the first first.
func (t *Tokenizer) mergeList() []string {
	type ranked struct {
		pair uint64
		rank int32
	}
	list := make([]ranked, 0, len(t.bpe.merges))
	for p, m := range t.bpe.merges {
		list = append(list, ranked{p, m.rank})
	}
	slices.SortFunc(list, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
	out := make([]string, len(list))
	for i, m := range list {
		out[i] = t.tokens[int32(m.pair>>32)] + " " + t.tokens[int32(m.pair)]
	}
	return out
}

// scores make llama.cpp, which merges to the token of the highest score, merge
// in the order of ranks.
func (t *Tokenizer) scores(n int) []float32 {
	s := make([]float32, n)
	for _, m := range t.bpe.merges {
		if v := -float32(m.rank + 1); s[m.id] == 0 || v > s[m.id] {
			s[m.id] = v
		}
	}
	return s
}

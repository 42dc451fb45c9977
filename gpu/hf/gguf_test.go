package hf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
)

// A file as a reader sees it; the tests' own reading of the format.
type readGGUF struct {
	pairs   map[string]any
	tensors map[string]struct {
		dims []uint64
		kind uint32
		data []byte
	}
}

func parseGGUF(t *testing.T, b []byte) readGGUF {
	t.Helper()
	whole := b
	u32 := func() (v uint32) { v, b = binary.LittleEndian.Uint32(b), b[4:]; return v }
	u64 := func() (v uint64) { v, b = binary.LittleEndian.Uint64(b), b[8:]; return v }
	str := func() (s string) { n := u64(); s, b = string(b[:n]), b[n:]; return s }
	if string(b[:4]) != "GGUF" {
		t.Fatalf("begins with %q", b[:4])
	}
	b = b[4:]
	if v := u32(); v != 3 {
		t.Fatalf("version %d", v)
	}
	n, pairs := u64(), u64()
	out := readGGUF{pairs: map[string]any{}}
	out.tensors = map[string]struct {
		dims []uint64
		kind uint32
		data []byte
	}{}
	var value func(kind uint32) any
	value = func(kind uint32) any {
		switch kind {
		case ggufU32, ggufI32:
			return int(u32())
		case ggufF32:
			return math.Float32frombits(u32())
		case ggufBool:
			v := b[0]
			b = b[1:]
			return v == 1
		case ggufString:
			return str()
		case ggufArray:
			of, n := u32(), u64()
			list := make([]any, n)
			for i := range list {
				list[i] = value(of)
			}
			return list
		}
		t.Fatalf("type %d", kind)
		return nil
	}
	for range pairs {
		k := str()
		if _, ok := out.pairs[k]; ok {
			t.Errorf("%s occurs twice", k)
		}
		out.pairs[k] = value(u32())
	}
	type info struct {
		name string
		dims []uint64
		kind uint32
		at   uint64
	}
	var infos []info
	for range n {
		x := info{name: str()}
		for range u32() {
			x.dims = append(x.dims, u64())
		}
		x.kind, x.at = u32(), u64()
		infos = append(infos, x)
	}
	b = b[(32-(len(whole)-len(b))%32)%32:]
	end := uint64(0)
	for _, x := range infos {
		size := uint64(4)
		if x.kind == ggmlBF16 {
			size = 2
		}
		for _, d := range x.dims {
			size *= d
		}
		if x.at%32 != 0 || x.at != end {
			t.Errorf("%s begins at %d, want %d", x.name, x.at, end)
		}
		end = (x.at + size + 31) / 32 * 32
		out.tensors[x.name] = struct {
			dims []uint64
			kind uint32
			data []byte
		}{x.dims, x.kind, b[x.at : x.at+size]}
	}
	if uint64(len(b)) != end {
		t.Errorf("%d bytes of tensors, want %d", len(b), end)
	}
	return out
}

func TestGGUF(t *testing.T) {
	tok, err := NewChar(`abcdefg\é `)
	if err != nil {
		t.Fatal(err)
	}
	for _, fam := range []string{"", Qwen2, Qwen3} {
		for _, bf16 := range []bool{false, true} {
			c := tiny()
			c.HeadDim, c.Family = 4, fam
			factors := 0
			switch fam {
			case "":
				c.RopeScaling, factors = &RopeScaling{Kind: RopeLlama3, Factor: 8, LowFreq: 1, HighFreq: 4, Original: 8192}, 1
			case Qwen2:
				c.NumAttentionHeads = 2 // heads as wide as the model
			}
			eos := 3
			c.EOS = []int{eos}
			flat := make([]float32, c.NumParams())
			for i := range flat {
				flat[i] = float32(i)
			}
			var out bytes.Buffer
			if err := WriteGGUF(&out, c, tok, vector(c, flat), GGUFOptions{Name: "x", BF16: bf16, Template: "{{ messages }}"}); err != nil {
				t.Fatal(err)
			}
			got := parseGGUF(t, out.Bytes())
			arch := c.ModelType()
			for k, want := range map[string]any{
				"general.architecture": arch, "general.name": "x", arch + ".block_count": 11, arch + ".attention.head_count_kv": 2,
				arch + ".attention.key_length": 4, arch + ".rope.freq_base": float32(10000), "tokenizer.ggml.model": "rwkv",
				"tokenizer.ggml.eos_token_id": 3, "tokenizer.ggml.unknown_token_id": 0, "tokenizer.chat_template": "{{ messages }}", "tokenizer.ggml.add_bos_token": false,
			} {
				if got.pairs[k] != want {
					t.Errorf("%s is %v, want %v", k, got.pairs[k], want)
				}
			}
			if _, ok := got.pairs["tokenizer.ggml.bos_token_id"]; ok {
				t.Error("a BOS that the config has not")
			}
			if s := fmt.Sprint(got.pairs["tokenizer.ggml.tokens"]); s != `[  \\ a b c d e f g é]` {
				t.Errorf("tokens %s", s)
			}
			off := 0
			for _, x := range c.Tensors() {
				if x.Name == "model.layers.2.self_attn.q_proj.weight" {
					q := got.tensors["blk.2.attn_q.weight"]
					if fmt.Sprint(q.dims) != fmt.Sprintf("[8 %d]", 4*c.NumAttentionHeads) {
						t.Fatalf("shape %d", q.dims)
					}
					// The second row of theirs is component d/2 of head 0 in a Llama.
					want := flat[off+8]
					if fam == "" {
						want = flat[off+2*8]
					}
					v := float32(0)
					if bf16 {
						v = math.Float32frombits(uint32(binary.LittleEndian.Uint16(q.data[2*8:])) << 16)
					} else {
						v = math.Float32frombits(binary.LittleEndian.Uint32(q.data[4*8:]))
					}
					if math.Abs(float64(v-want)) > float64(want)/256 || !bf16 && v != want {
						t.Errorf("%q: row 1 of q begins with %g, want %g", fam, v, want)
					}
				}
				off += x.Len()
			}
			if n := len(got.tensors); n != len(c.Tensors())+factors {
				t.Errorf("%d tensors of %d and rope_freqs", n, len(c.Tensors()))
			}
			f, ok := got.tensors["rope_freqs.weight"]
			if ok && math.Float32frombits(binary.LittleEndian.Uint32(f.data)) != 1 || f.kind != ggmlF32 {
				t.Errorf("the highest frequency is scaled: %x", f.data)
			}
		}
	}
}

func TestGGUFVocabularies(t *testing.T) {
	for file, want := range map[string]string{
		"data/tokenizers/gpt2/tokenizer.json": "gpt2 gpt-2", "data/tokenizers/qwen3/tokenizer.json": "gpt2 qwen2", "data/models/stories260K-hf/tokenizer.json": "llama default",
	} {
		tok := load(t, shared(t, file))
		c := tiny()
		c.VocabSize, c.NumHiddenLayers = tok.VocabSize()+3, 1
		var out bytes.Buffer
		if err := WriteGGUF(&out, c, tok, vector(c, make([]float32, c.NumParams())), GGUFOptions{}); err != nil {
			t.Fatal(err)
		}
		got := parseGGUF(t, out.Bytes())
		if s := fmt.Sprint(got.pairs["tokenizer.ggml.model"], " ", got.pairs["tokenizer.ggml.pre"]); s != want {
			t.Errorf("%s: %s, want %s", file, s, want)
		}
		tokens, kinds := got.pairs["tokenizer.ggml.tokens"].([]any), got.pairs["tokenizer.ggml.token_type"].([]any)
		if len(tokens) != c.VocabSize || tokens[7] != tok.tokens[7] || kinds[c.VocabSize-1] != ggufUnused {
			t.Errorf("%s: tokens do not fit", file)
		}
		if id, ok := tok.ID("<|im_end|>"); ok && kinds[id] != ggufControl {
			t.Errorf("<|im_end|> is of kind %v", kinds[id])
		}
		if m, ok := got.pairs["tokenizer.ggml.merges"].([]any); ok && len(m) != len(tok.bpe.merges) {
			t.Errorf("%d merges of %d", len(m), len(tok.bpe.merges))
		}
	}
}

type full struct{ n int }

func (f *full) Write(b []byte) (int, error) {
	if f.n -= len(b); f.n < 0 {
		return 0, errors.New("disk full")
	}
	return len(b), nil
}

// vector is flat as Values.
func vector(c Config, flat []float32) Values {
	v, err := NewVector(c.Tensors(), flat)
	if err != nil { // of another number: none is read
		return nil
	}
	return v
}

func TestGGUFRefuses(t *testing.T) {
	tok, err := NewChar("abcdefghijkl")
	if err != nil {
		t.Fatal(err)
	}
	c := tiny()
	flat := make([]float32, c.NumParams())
	if err := WriteGGUF(&full{}, c, tok, vector(c, flat), GGUFOptions{}); err == nil || !strings.Contains(err.Error(), "tokens") {
		t.Errorf("more tokens than rows: %v", err)
	}
	c.VocabSize = 12
	if _, err := NewVector(c.Tensors(), flat); err == nil || !strings.Contains(err.Error(), "parameters") {
		t.Errorf("too few parameters: %v", err)
	}
	flat = make([]float32, c.NumParams())
	if err := WriteGGUF(&full{}, c, tok, vector(c, flat), GGUFOptions{}); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("a full disk: %v", err)
	}
	for _, r := range []struct{ old, new, want string }{
		{"", "", "disk full"},
		{`"NFC"`, `"NFKC"`, "normalizer"},
		{`"NFC"`, `"Lowercase"`, "normalizer"},
		{`"NFC"`, `"StripAccents"`, "normalizer"},
		{`{"type":"NFC"}`, `{"type":"Strip","strip_right":true}`, "normalizer"},
		{`"add_prefix_space":false`, `"add_prefix_space":true`, "no split"},
		{`{"type":"ByteLevel","add_prefix_space":false}`, `{"type":"Sequence","pretokenizers":[{"type":"Digits"},{"type":"ByteLevel","add_prefix_space":false}]}`, "no split"},
		{`{"type":"ByteLevel","add_prefix_space":false}`, `{"type":"Split","pattern":{"Regex":"a"},"behavior":"Isolated"}`, "none like it"},
	} {
		s := strings.Replace(smallTokenizer, r.old, r.new, 1)
		if err := WriteGGUF(&full{}, c, load(t, []byte(s)), vector(c, flat), GGUFOptions{}); err == nil || !strings.Contains(err.Error(), r.want) {
			t.Errorf("%s: got %v, want an error about %s", r.new, err, r.want)
		}
	}
	partial := load(t, []byte(`{"normalizer":{"type":"Replace","pattern":{"String":" "},"content":"▁"},"decoder":{"type":"ByteFallback"},
		"model":{"type":"BPE","byte_fallback":true,"vocab":{"a":0,"<0x00>":1},"merges":[]}}`))
	if err := WriteGGUF(&full{}, c, partial, vector(c, flat), GGUFOptions{}); err == nil || !strings.Contains(err.Error(), "<0x01>") {
		t.Errorf("without some bytes: %v", err)
	}
}

// What llama.cpp has keys and tensors for: make interop compares what it writes then.
func TestGGUFRope(t *testing.T) {
	tok, err := NewChar("abcdefghij")
	if err != nil {
		t.Fatal(err)
	}
	write := func(family string, r RopeScaling) readGGUF {
		c := tiny()
		c.HeadDim, c.Family, c.RopeScaling = 4, family, &r
		var out bytes.Buffer
		if err := WriteGGUF(&out, c, tok, vector(c, make([]float32, c.NumParams())), GGUFOptions{}); err != nil {
			t.Fatal(err)
		}
		return parseGGUF(t, out.Bytes())
	}
	want := func(g readGGUF, pairs map[string]any) {
		t.Helper()
		for k, v := range pairs {
			if got := g.pairs[k]; got != v {
				t.Errorf("%s is %v, want %v", k, got, v)
			}
		}
	}
	yarn := RopeScaling{Kind: RopeYarn, Factor: 4, Original: 8}
	want(write(Qwen3, yarn), map[string]any{"qwen3.rope.scaling.type": "yarn", "qwen3.rope.scaling.factor": float32(4),
		"qwen3.rope.scaling.original_context_length": 8, "qwen3.rope.scaling.attn_factor": float32(1)})
	yarn.Attention = 2.2772588722239781 // twice 0.1·ln 4 + 1
	want(write("", yarn), map[string]any{"llama.rope.scaling.attn_factor": float32(2)})

	g := write("", RopeScaling{Kind: RopeLong, Factor: 4, Original: 8, Attention: 1.5, Short: []float64{1, 1.5}, Long: []float64{2, 3}})
	want(g, map[string]any{"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": nil,
		"llama.rope.scaling.original_context_length": 8, "llama.rope.scaling.attn_factor": float32(1.5)})
	for name, by := range map[string][]float32{"rope_factors_short.weight": {1, 1.5}, "rope_factors_long.weight": {2, 3}} {
		for i, x := range by {
			if got := math.Float32frombits(binary.LittleEndian.Uint32(g.tensors[name].data[4*i:])); got != x {
				t.Errorf("%s: number %d is %g, want %g", name, i, got, x)
			}
		}
	}
}

// What llama.cpp has no place for is not written: it would refuse the file, or
// compute something else.
func TestGGUFRefusesWhatLlamaCppLacks(t *testing.T) {
	tok, err := NewChar("abcdefghij")
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Config{
		"head_dim":       {Family: Qwen2, HeadDim: 4},
		"rope_scaling":   {Family: Qwen2, HeadDim: 2, RopeScaling: &RopeScaling{Kind: RopeLlama3, Factor: 8, LowFreq: 1, HighFreq: 4, Original: 8192}},
		"rope_scaling: ": {Family: Qwen3, HeadDim: 4, RopeScaling: &RopeScaling{Kind: RopeLlama3, Factor: 8, LowFreq: 1, HighFreq: 4, Original: 8192}},
		"attention_bias": {Family: Qwen3, HeadDim: 4, AttentionBias: true},
		"dynamic":        {HeadDim: 4, RopeScaling: &RopeScaling{Kind: RopeDynamic, Factor: 2}},
		"longrope":       {Family: Qwen3, HeadDim: 4, RopeScaling: &RopeScaling{Kind: RopeLong, Factor: 2, Original: 8, Short: []float64{1, 1}, Long: []float64{1, 2}}},
		"use_sliding":    {Family: Qwen3, HeadDim: 4, SlidingWindow: 15, Sliding: []bool{10: true}},
		"beta_fast":      {HeadDim: 4, RopeScaling: &RopeScaling{Kind: RopeYarn, Factor: 2, Original: 8, BetaFast: 16}},
		"truncate":       {HeadDim: 4, RopeScaling: &RopeScaling{Kind: RopeYarn, Factor: 2, Original: 8, Exact: true}},
	} {
		x := tiny()
		x.Family, x.HeadDim, x.RopeScaling, x.AttentionBias = c.Family, c.HeadDim, c.RopeScaling, c.AttentionBias
		x.SlidingWindow, x.Sliding = c.SlidingWindow, c.Sliding
		var out bytes.Buffer
		err := WriteGGUF(&out, x, tok, vector(x, make([]float32, x.NumParams())), GGUFOptions{})
		if err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%s: %v, %d bytes", want, err, out.Len())
		}
	}
}

func TestToBF16(t *testing.T) {
	for v, want := range map[float32]uint16{1: 0x3f80, -2.5: 0xc020, 1 + 1.0/256: 0x3f80, 1 + 3.0/256: 0x3f82, 1 + 1.0/256 + 1.0/65536: 0x3f81, 0: 0} {
		if got := toBF16(v); got != want {
			t.Errorf("%g: %04x, want %04x", v, got, want)
		}
	}
}

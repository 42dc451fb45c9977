package hf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"
)

// GGUFOptions say what WriteGGUF writes.
type GGUFOptions struct {
	Name          string  // general.name; may be empty
	BF16          bool    // matrices rounded to bfloat16; otherwise all is float32
	Template      string  // chat template, Jinja; may be empty
	Before, After []int32 // tokens put around a text: none or one each, that after it of Config.EOS
}

// WriteGGUF writes a model as one GGUF file, version 3, as llama.cpp reads it:
//
//	"GGUF"  u32 version  u64 tensors  u64 pairs
//	pairs   key (u64 length, bytes), u32 type, value
//	tensors name, u32 dimensions, u64 each the innermost first, u32 type, u64 offset
//	padding to 32, then the tensors, each padded to 32
//
// all little-endian. Llamas' query and key rows go into the order of the
// interleaved RoPE that llama.cpp gives them.
func WriteGGUF(w io.Writer, c Config, t *Tokenizer, from Values, o GGUFOptions) error {
	if err := c.Validate(); err != nil {
		return fmt.Errorf("gguf: config: %w", err)
	}
	if err := c.llamaCpp(); err != nil {
		return fmt.Errorf("gguf: %w", err)
	}
	g := &gguf{c: c, bf16: o.BF16}
	g.model(o)
	if err := g.vocabulary(t); err != nil {
		return fmt.Errorf("gguf: %w", err)
	}
	if err := g.ends(o); err != nil {
		return fmt.Errorf("gguf: %w", err)
	}
	if o.Template != "" {
		g.str("tokenizer.chat_template", o.Template)
	}
	if err := g.tensors(); err != nil {
		return fmt.Errorf("gguf: %w", err)
	}
	return g.write(w, from)
}

// GGUFSize is about how many bytes WriteGGUF writes: those of the tensors.
func GGUFSize(c Config, bf16 bool) (n int64) {
	for _, t := range c.Tensors() {
		if bf16 && len(t.Shape) > 1 {
			n += 2 * int64(t.Len())
		} else {
			n += 4 * int64(t.Len())
		}
	}
	return n
}

// llamaCpp refuses what transformers computes and llama.cpp's models of the same
// names have no place for.
func (c Config) llamaCpp() error {
	family, r := c.ModelType(), c.RopeScaling
	switch {
	case c.SlidingWindow > 0 && c.SlidingWindow < c.Context():
		return fmt.Errorf("use_sliding_window: llama.cpp's %s has full attention only", family)
	case c.Family == Qwen2 && c.HeadSize()*c.NumAttentionHeads != c.HiddenSize:
		return fmt.Errorf("head_dim: %d: llama.cpp's %s has hidden_size / num_attention_heads", c.HeadSize(), family)
	case r == nil:
	case r.Kind == RopeDynamic, c.Family != "" && (r.Kind == RopeLlama3 || r.Kind == RopeLong):
		return fmt.Errorf("rope_scaling: llama.cpp's %s does not know %s", family, r.Kind)
	case r.BetaFast != 0 && r.BetaFast != 32 || r.BetaSlow != 0 && r.BetaSlow != 1:
		return fmt.Errorf("rope_scaling: beta_fast and beta_slow: llama.cpp's %s has 32 and 1", family)
	case r.Exact:
		return fmt.Errorf("rope_scaling: truncate: llama.cpp's yarn always does")
	}
	switch {
	case c.Family == Qwen3 && c.AttentionBias:
		return fmt.Errorf("attention_bias: llama.cpp's %s has none", family)
	}
	return nil
}

// GGUF's types of values, and of tensors.
const (
	ggufU32    = 4
	ggufI32    = 5
	ggufF32    = 6
	ggufBool   = 7
	ggufString = 8
	ggufArray  = 9

	ggmlF32  = 0
	ggmlBF16 = 30

	ggufAlign = 32
)

type gguf struct {
	c     Config
	bf16  bool
	pairs []byte
	n     uint64
	list  []ggufTensor
}

type ggufTensor struct {
	name  string
	shape []int
	kind  uint32
	index int       // of Config.Tensors
	data  []float32 // instead, where it is none of them
	turn  int       // heads whose rows are reordered; 0 is none
}

func (g *gguf) key(k string, kind uint32) {
	g.n++
	g.pairs = binary.LittleEndian.AppendUint32(appendString(g.pairs, k), kind)
}

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

func (g *gguf) u32(k string, v int) {
	g.key(k, ggufU32)
	g.pairs = binary.LittleEndian.AppendUint32(g.pairs, uint32(v))
}

func (g *gguf) f32(k string, v float64) {
	g.key(k, ggufF32)
	g.pairs = binary.LittleEndian.AppendUint32(g.pairs, math.Float32bits(float32(v)))
}

func (g *gguf) str(k, v string) {
	g.key(k, ggufString)
	g.pairs = appendString(g.pairs, v)
}

func (g *gguf) yes(k string, v bool) {
	g.key(k, ggufBool)
	b := byte(0)
	if v {
		b = 1
	}
	g.pairs = append(g.pairs, b)
}

// array begins an array of n values.
func (g *gguf) array(k string, kind uint32, n int) {
	g.key(k, ggufArray)
	g.pairs = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(g.pairs, kind), uint64(n))
}

func (g *gguf) strs(k string, v []string) {
	g.array(k, ggufString, len(v))
	for _, s := range v {
		g.pairs = appendString(g.pairs, s)
	}
}

// model writes what the configuration says.
func (g *gguf) model(o GGUFOptions) {
	c, arch := g.c, g.c.ModelType()
	g.str("general.architecture", arch)
	if o.Name != "" {
		g.str("general.name", o.Name)
	}
	kind := 0 // all float32
	if g.bf16 {
		kind = 32 // mostly bfloat16
	}
	g.u32("general.file_type", kind)
	g.u32("general.alignment", ggufAlign)
	g.u32("general.quantization_version", 2)
	g.u32(arch+".vocab_size", c.VocabSize)
	g.u32(arch+".context_length", c.MaxPositionEmbeddings)
	g.u32(arch+".embedding_length", c.HiddenSize)
	g.u32(arch+".block_count", c.NumHiddenLayers)
	g.u32(arch+".feed_forward_length", c.IntermediateSize)
	g.u32(arch+".attention.head_count", c.NumAttentionHeads)
	g.u32(arch+".attention.head_count_kv", c.KVHeads())
	g.u32(arch+".attention.key_length", c.HeadSize())
	g.u32(arch+".attention.value_length", c.HeadSize())
	g.f32(arch+".attention.layer_norm_rms_epsilon", c.RMSNormEps)
	g.u32(arch+".rope.dimension_count", c.HeadSize())
	g.f32(arch+".rope.freq_base", c.RopeTheta)
	r := c.RopeScaling
	if r == nil || r.Kind == RopeLlama3 { // llama3 is in the tensors
		return
	}
	g.str(arch+".rope.scaling.type", r.Kind)
	if r.Kind != RopeLong { // whose factors are tensors
		g.f32(arch+".rope.scaling.factor", r.Factor)
	}
	switch r.Kind {
	case RopeYarn: // llama.cpp makes queries and keys longer by itself, which its key multiplies
		g.u32(arch+".rope.scaling.original_context_length", r.Original)
		g.f32(arch+".rope.scaling.attn_factor", r.attention()/(1+0.1*ln(r.Factor)))
	case RopeLong:
		g.u32(arch+".rope.scaling.original_context_length", r.Original)
		g.f32(arch+".rope.scaling.attn_factor", r.attention())
	}
}

// ggufNames maps the last parts of our names of tensors to theirs.
var ggufNames = map[string]string{
	"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
	"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
	"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
	"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}

func (g *gguf) tensors() error {
	for i, t := range g.c.Tensors() {
		x := ggufTensor{shape: t.Shape, index: i}
		if g.bf16 && len(t.Shape) > 1 {
			x.kind = ggmlBF16
		}
		switch t.Name {
		case "model.embed_tokens.weight":
			x.name = "token_embd.weight"
		case "model.norm.weight":
			x.name = "output_norm.weight"
		case "lm_head.weight":
			x.name = "output.weight"
		default:
			layer, rest, _ := strings.Cut(strings.TrimPrefix(t.Name, "model.layers."), ".")
			dot := strings.LastIndexByte(rest, '.')
			name, ok := ggufNames[rest[:dot]]
			if !ok {
				return fmt.Errorf("tensor %s has no name in GGUF", t.Name)
			}
			x.name = "blk." + layer + "." + name + rest[dot:]
			switch {
			case g.c.ModelType() != Llama: // their RoPE there is as ours
			case name == "attn_q":
				x.turn = g.c.NumAttentionHeads
			case name == "attn_k":
				x.turn = g.c.KVHeads()
			}
		}
		g.list = append(g.list, x)
	}
	r := g.c.RopeScaling
	if r != nil && r.Kind == RopeLong {
		for i, by := range [][]float64{r.Long, r.Short} {
			data := make([]float32, len(by))
			for j, x := range by {
				data[j] = float32(x)
			}
			name := [...]string{"rope_factors_long.weight", "rope_factors_short.weight"}[i]
			g.list = append(g.list, ggufTensor{name: name, shape: []int{len(by)}, data: data})
		}
	}
	if r != nil && r.Kind == RopeLlama3 {
		half := g.c.HeadSize() / 2
		factors := make([]float32, half)
		for i := range factors {
			f := math.Pow(g.c.RopeTheta, -float64(i)/float64(half))
			factors[i] = float32(f / r.scaled(f))
		}
		g.list = append(g.list, ggufTensor{name: "rope_freqs.weight", shape: []int{half}, data: factors})
	}
	return nil
}

// len is the number of elements.
func (t *ggufTensor) len() int { return Tensor{Shape: t.shape}.Len() }

func (t *ggufTensor) size() uint64 {
	if t.kind == ggmlBF16 {
		return 2 * uint64(t.len())
	}
	return 4 * uint64(t.len())
}

func (g *gguf) write(out io.Writer, from Values) error {
	b := []byte("GGUF")
	b = binary.LittleEndian.AppendUint32(b, 3)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(g.list)))
	b = binary.LittleEndian.AppendUint64(b, g.n)
	b = append(b, g.pairs...)
	pad := func(n uint64) uint64 { return (ggufAlign - n%ggufAlign) % ggufAlign }
	var at uint64
	for i := range g.list {
		t := &g.list[i]
		b = binary.LittleEndian.AppendUint32(appendString(b, t.name), uint32(len(t.shape)))
		for k := len(t.shape) - 1; k >= 0; k-- {
			b = binary.LittleEndian.AppendUint64(b, uint64(t.shape[k]))
		}
		b = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(b, t.kind), at)
		at += t.size() + pad(t.size())
	}
	b = append(b, make([]byte, pad(uint64(len(b))))...)
	w := bufio.NewWriterSize(out, 1<<20)
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("gguf: %w", err)
	}
	var values []float32
	var buf []byte
	for i := range g.list {
		t := &g.list[i]
		for at, n := 0, t.len(); at < n; at += len(values) {
			values = append(values[:0], make([]float32, min(t.part(), n-at))...)
			if t.data != nil {
				copy(values, t.data[at:])
			} else if err := from.Read(t.index, values, at); err != nil {
				return fmt.Errorf("gguf: %s: %w", t.name, err)
			}
			buf = t.append(buf[:0], values)
			if _, err := w.Write(buf); err != nil {
				return fmt.Errorf("gguf: %s: %w", t.name, err)
			}
		}
		if _, err := w.Write(make([]byte, pad(t.size()))); err != nil {
			return fmt.Errorf("gguf: %s: %w", t.name, err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("gguf: %w", err)
	}
	return nil
}

// part is how many elements are written at a time: those of a head where its rows are reordered.
func (t *ggufTensor) part() int {
	if t.turn > 0 {
		return t.len() / t.turn
	}
	return 1 << 16
}

// append appends a part as it is in the file: in a head that is reordered components i and i+d/2
// become neighbours.
func (t *ggufTensor) append(b []byte, part []float32) []byte {
	if t.turn == 0 {
		return t.appendRow(b, part)
	}
	d := t.shape[0] / t.turn
	cols := len(part) / d
	for r := range d {
		from := (r%2*(d/2) + r/2) * cols
		b = t.appendRow(b, part[from:from+cols])
	}
	return b
}

func (t *ggufTensor) appendRow(b []byte, row []float32) []byte {
	for _, v := range row {
		if t.kind == ggmlBF16 {
			b = binary.LittleEndian.AppendUint16(b, toBF16(v))
		} else {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
	}
	return b
}

// toBF16 rounds a finite number to the nearest bfloat16, ties to even.
func toBF16(v float32) uint16 {
	u := math.Float32bits(v)
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}

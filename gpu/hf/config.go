package hf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Config is what Shoal uses of the config.json of a LlamaForCausalLM, or of a
// dense Qwen 2 or 3. Counts are of elements; Validate states the limits.
type Config struct {
	Family                string       // "" for Llama, or Qwen2, Qwen3
	HiddenSize            int          // D, width of the residual stream
	IntermediateSize      int          // F, width of the SwiGLU
	NumHiddenLayers       int          // blocks
	NumAttentionHeads     int          // H, query heads
	NumKeyValueHeads      int          // K, divides H; 0 means H
	HeadDim               int          // d, even; 0 means D/H
	VocabSize             int          // V
	MaxPositionEmbeddings int          // longest sequence in tokens
	RMSNormEps            float64      // added to the mean square
	RopeTheta             float64      // base of the rotary frequencies
	RopeScaling           *RopeScaling // nil for the plain RoPE
	AttentionBias         bool         // see QKVBias
	MLPBias               bool         // of gate, up and down; Llama only
	SlidingWindow         int          // tokens that a sliding layer's token sees, itself included; Qwen only
	Sliding               []bool       // layers that have the window; nil where none has, and SlidingWindow is 0
	TieWordEmbeddings     bool         // the output head is the embedding
	BOS                   *int         // token that begins a text, nil if none
	EOS                   []int        // tokens that end one, none to 16
}

// Limits of a Config. They bound what a stranger's file can make us allocate
// and leave room above the largest dense Llama.
const (
	MaxHidden    = 1 << 17
	MaxInner     = 1 << 19
	MaxLayers    = 1024
	MaxHeads     = 1024
	MaxHeadDim   = 1 << 12
	MaxVocab     = 1 << 20
	MaxPositions = 1 << 24
	MaxParams    = 1 << 40
	maxConfig    = 1 << 20 // bytes of config.json
)

// HeadSize returns d: HeadDim, or D/H where that is unset.
func (c Config) HeadSize() int {
	if c.HeadDim == 0 && c.NumAttentionHeads > 0 {
		return c.HiddenSize / c.NumAttentionHeads
	}
	return c.HeadDim
}

// KVHeads returns K: NumKeyValueHeads, or H where that is unset.
func (c Config) KVHeads() int {
	if c.NumKeyValueHeads == 0 {
		return c.NumAttentionHeads
	}
	return c.NumKeyValueHeads
}

// Validate reports the first field that is out of range, by its name in
// config.json.
func (c Config) Validate() error {
	for _, f := range []struct {
		name   string
		v, max int
	}{
		{"hidden_size", c.HiddenSize, MaxHidden},
		{"intermediate_size", c.IntermediateSize, MaxInner},
		{"num_hidden_layers", c.NumHiddenLayers, MaxLayers},
		{"num_attention_heads", c.NumAttentionHeads, MaxHeads},
		{"num_key_value_heads", c.KVHeads(), MaxHeads},
		{"head_dim", c.HeadSize(), MaxHeadDim},
		{"vocab_size", c.VocabSize, MaxVocab},
		{"max_position_embeddings", c.MaxPositionEmbeddings, MaxPositions},
	} {
		if f.v < 1 || f.v > f.max {
			return fmt.Errorf("%s: %d is not in 1..%d", f.name, f.v, f.max)
		}
	}
	switch {
	case c.HeadDim == 0 && c.HiddenSize%c.NumAttentionHeads != 0:
		return fmt.Errorf("num_attention_heads: %d heads do not divide hidden_size %d", c.NumAttentionHeads, c.HiddenSize)
	case c.NumAttentionHeads%c.KVHeads() != 0:
		return fmt.Errorf("num_key_value_heads: %d does not divide num_attention_heads %d", c.KVHeads(), c.NumAttentionHeads)
	case c.HeadSize()%2 != 0:
		return fmt.Errorf("head_dim: %d is odd, RoPE turns pairs", c.HeadSize())
	case !(c.RMSNormEps > 0 && c.RMSNormEps <= 0.1):
		return fmt.Errorf("rms_norm_eps: %g is not in (0, 0.1]", c.RMSNormEps)
	case !(c.RopeTheta >= 1 && c.RopeTheta <= 1e12):
		return fmt.Errorf("rope_theta: %g is not in [1, 1e12]", c.RopeTheta)
	case c.BOS != nil && (*c.BOS < 0 || *c.BOS >= c.VocabSize):
		return fmt.Errorf("bos_token_id: %d is not below vocab_size %d", *c.BOS, c.VocabSize)
	case c.Family != "" && c.Family != Qwen2 && c.Family != Qwen3:
		return fmt.Errorf("model_type: %.40q, want llama, qwen2 or qwen3", c.Family)
	case c.AttentionBias && c.Family == Qwen2:
		return errors.New("attention_bias: a qwen2 has the biases that it has without")
	case c.MLPBias && c.Family != "":
		return fmt.Errorf("mlp_bias: a %s has none", c.Family)
	case len(c.EOS) > 16:
		return fmt.Errorf("eos_token_id: %d tokens, at most 16", len(c.EOS))
	}
	for _, e := range c.EOS {
		if e < 0 || e >= c.VocabSize {
			return fmt.Errorf("eos_token_id: %d is not below vocab_size %d", e, c.VocabSize)
		}
	}
	if err := c.RopeScaling.validate(&c); err != nil {
		return fmt.Errorf("rope_scaling: %w", err)
	}
	if err := c.validateWindow(); err != nil {
		return err
	}
	if n := c.NumParams(); n > MaxParams {
		return fmt.Errorf("model has %d parameters, at most %d", n, int64(MaxParams))
	}
	return nil
}

// NumParams returns the length of the flat parameter vector. It cannot
// overflow for fields within their limits.
func (c Config) NumParams() int64 {
	d, f, hd := int64(c.HiddenSize), int64(c.IntermediateSize), int64(c.HeadSize())
	q, kv := int64(c.NumAttentionHeads)*hd, int64(c.KVHeads())*hd
	n := int64(c.NumHiddenLayers)*(2*d+2*q*d+2*kv*d+3*f*d) + d
	for _, t := range c.extra(0) {
		n += int64(c.NumHiddenLayers) * int64(t.Len())
	}
	emb := int64(c.VocabSize) * d
	if !c.TieWordEmbeddings {
		emb *= 2
	}
	return n + emb
}

// A Tensor is one named array of the flat parameter vector.
type Tensor struct {
	Name  string
	Shape []int // rows first
}

// Len returns the number of elements.
func (t Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Tensors returns the tensors of the model sorted by name: the layout of the
// flat parameter vector. The Config must be valid.
func (c Config) Tensors() []Tensor {
	d, f, v := c.HiddenSize, c.IntermediateSize, c.VocabSize
	q, kv := c.NumAttentionHeads*c.HeadSize(), c.KVHeads()*c.HeadSize()
	t := []Tensor{
		{"model.embed_tokens.weight", []int{v, d}},
		{"model.norm.weight", []int{d}},
	}
	if !c.TieWordEmbeddings {
		t = append(t, Tensor{"lm_head.weight", []int{v, d}})
	}
	for n := range c.NumHiddenLayers {
		p := "model.layers." + strconv.Itoa(n) + "."
		t = append(t,
			Tensor{p + "input_layernorm.weight", []int{d}},
			Tensor{p + "mlp.down_proj.weight", []int{d, f}},
			Tensor{p + "mlp.gate_proj.weight", []int{f, d}},
			Tensor{p + "mlp.up_proj.weight", []int{f, d}},
			Tensor{p + "post_attention_layernorm.weight", []int{d}},
			Tensor{p + "self_attn.k_proj.weight", []int{kv, d}},
			Tensor{p + "self_attn.o_proj.weight", []int{d, q}},
			Tensor{p + "self_attn.q_proj.weight", []int{q, d}},
			Tensor{p + "self_attn.v_proj.weight", []int{kv, d}},
		)
		t = append(t, c.extra(n)...)
	}
	slices.SortFunc(t, func(a, b Tensor) int { return strings.Compare(a.Name, b.Name) })
	return t
}

// configJSON is config.json as transformers writes it. Pointers tell an absent
// field from a zero.
type configJSON struct {
	Architectures         []string        `json:"architectures"`
	AttentionBias         bool            `json:"attention_bias"`
	AttentionDropout      float           `json:"attention_dropout"`
	BOS                   *int            `json:"bos_token_id"`
	EOS                   tokenList       `json:"eos_token_id"`
	HeadDim               *int            `json:"head_dim"`
	HiddenAct             string          `json:"hidden_act"`
	HiddenSize            *int            `json:"hidden_size"`
	InitializerRange      float           `json:"initializer_range"`
	IntermediateSize      *int            `json:"intermediate_size"`
	LayerTypes            []string        `json:"layer_types,omitempty"`
	MaxPositionEmbeddings *int            `json:"max_position_embeddings"`
	MaxWindowLayers       *int            `json:"max_window_layers,omitempty"`
	MLPBias               bool            `json:"mlp_bias"`
	ModelType             string          `json:"model_type"`
	NumAttentionHeads     *int            `json:"num_attention_heads"`
	NumHiddenLayers       *int            `json:"num_hidden_layers"`
	NumKeyValueHeads      *int            `json:"num_key_value_heads"`
	Original              *int            `json:"original_max_position_embeddings,omitempty"`
	Partial               *float          `json:"partial_rotary_factor,omitempty"`
	PretrainingTP         int             `json:"pretraining_tp"`
	Quantization          json.RawMessage `json:"quantization_config,omitempty"`
	RMSNormEps            *float          `json:"rms_norm_eps"`
	RopeParameters        *ropeParameters `json:"rope_parameters,omitempty"`
	RopeScaling           *ropeParameters `json:"rope_scaling"`
	RopeTheta             *float          `json:"rope_theta"`
	SlidingWindow         json.RawMessage `json:"sliding_window,omitempty"`
	TieWordEmbeddings     *bool           `json:"tie_word_embeddings"`
	TorchDtype            string          `json:"torch_dtype"`
	UseCache              bool            `json:"use_cache"`
	UseSlidingWindow      bool            `json:"use_sliding_window,omitempty"`
	VocabSize             *int            `json:"vocab_size"`
}

// float is a number that is written with a point or an exponent even where it
// is whole, because Python tells 10000.0 from 10000.
type float float64

func (f float) MarshalJSON() ([]byte, error) {
	b, err := json.Marshal(float64(f))
	if err == nil && !bytes.ContainsAny(b, ".e") {
		b = append(b, ".0"...)
	}
	return b, err
}

// tokenList is a token, a list of tokens, or null.
type tokenList []int

func (l *tokenList) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		if err := Unmarshal(b, (*[]int)(l)); err != nil {
			return fmt.Errorf("eos_token_id: %w", err)
		}
		return nil
	}
	var one *int
	if err := Unmarshal(b, &one); err != nil {
		return fmt.Errorf("eos_token_id: %w", err)
	}
	*l = nil
	if one != nil {
		*l = tokenList{*one}
	}
	return nil
}

func (l tokenList) MarshalJSON() ([]byte, error) {
	switch len(l) {
	case 0:
		return []byte("null"), nil
	case 1:
		return json.Marshal(l[0])
	}
	return json.Marshal([]int(l))
}

// ParseConfig reads config.json. Fields that the forward pass does not depend
// on are ignored; a value that would change it in a way that is not implemented
// (another activation, an unknown kind of scaled RoPE, quantized weights) is
// refused, as is another architecture. Where transformers has a default for an
// absent field, so has ParseConfig.
func ParseConfig(b []byte) (Config, error) {
	var c Config
	if len(b) > maxConfig {
		return c, fmt.Errorf("config.json: %d bytes are over the limit of %d", len(b), maxConfig)
	}
	var j configJSON
	if err := Unmarshal(b, &j); err != nil {
		return c, fmt.Errorf("config.json: %w", err)
	}
	family, err := j.family()
	if err != nil {
		return c, fmt.Errorf("config.json: %w", err)
	}
	positions := 2048
	if family != "" {
		positions = 32768
	}
	positions = or(j.MaxPositionEmbeddings, positions)
	theta, scaling, err := j.rope(positions)
	if err != nil {
		return c, fmt.Errorf("config.json: %w", err)
	}
	for _, f := range []struct {
		name string
		v    *int
	}{
		{"hidden_size", j.HiddenSize},
		{"intermediate_size", j.IntermediateSize},
		{"num_hidden_layers", j.NumHiddenLayers},
		{"num_attention_heads", j.NumAttentionHeads},
		{"vocab_size", j.VocabSize},
	} {
		if f.v == nil {
			return c, fmt.Errorf("config.json: %s is missing", f.name)
		}
	}
	for name, v := range map[string]*int{"num_key_value_heads": j.NumKeyValueHeads, "head_dim": j.HeadDim} {
		if v != nil && *v == 0 { // unset is null
			return c, fmt.Errorf("config.json: %s: 0 is not a size", name)
		}
	}
	head := 0
	if family == Qwen3 {
		head = 128
	}
	c = Config{
		Family:                family,
		RopeScaling:           scaling,
		AttentionBias:         j.AttentionBias && family != Qwen2, // Qwen 2 has no such field
		MLPBias:               j.MLPBias,
		HiddenSize:            *j.HiddenSize,
		IntermediateSize:      *j.IntermediateSize,
		NumHiddenLayers:       *j.NumHiddenLayers,
		NumAttentionHeads:     *j.NumAttentionHeads,
		NumKeyValueHeads:      or(j.NumKeyValueHeads, 0),
		HeadDim:               or(j.HeadDim, head),
		VocabSize:             *j.VocabSize,
		MaxPositionEmbeddings: positions,
		RMSNormEps:            float64(or(j.RMSNormEps, 1e-6)),
		RopeTheta:             theta,
		TieWordEmbeddings:     or(j.TieWordEmbeddings, false),
		BOS:                   j.BOS,
		EOS:                   j.EOS,
	}
	err = c.Validate()
	if err == nil { // sizes are bounded
		if c.SlidingWindow, c.Sliding, err = j.windows(c); err == nil {
			err = c.Validate()
		}
	}
	if err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	c.NumKeyValueHeads, c.HeadDim = c.KVHeads(), c.HeadSize()
	return c, nil
}

func or[T any](p *T, v T) T {
	if p == nil {
		return v
	}
	return *p
}

// Marshal returns the config.json that transformers' from_pretrained loads as
// a float32 LlamaForCausalLM. Equal Configs give equal bytes.
func (c Config) Marshal() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	hd, kv := c.HeadSize(), c.KVHeads()
	eps, theta := float(c.RMSNormEps), float(c.RopeTheta)
	w := c.window()
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetIndent("", "  ")
	err := e.Encode(configJSON{
		Architectures:         []string{c.Architecture()},
		AttentionBias:         c.AttentionBias,
		MLPBias:               c.MLPBias,
		BOS:                   c.BOS,
		EOS:                   c.EOS,
		HeadDim:               &hd,
		HiddenAct:             "silu",
		HiddenSize:            &c.HiddenSize,
		InitializerRange:      0.02,
		IntermediateSize:      &c.IntermediateSize,
		MaxPositionEmbeddings: &c.MaxPositionEmbeddings,
		ModelType:             c.ModelType(),
		NumAttentionHeads:     &c.NumAttentionHeads,
		NumHiddenLayers:       &c.NumHiddenLayers,
		NumKeyValueHeads:      &kv,
		PretrainingTP:         1,
		RMSNormEps:            &eps,
		RopeScaling:           c.RopeScaling.json(),
		RopeTheta:             &theta,
		TieWordEmbeddings:     &c.TieWordEmbeddings,
		TorchDtype:            "float32",
		UseCache:              true,
		UseSlidingWindow:      c.SlidingWindow > 0,
		SlidingWindow:         w.size,
		MaxWindowLayers:       w.from,
		LayerTypes:            w.layers,
		VocabSize:             &c.VocabSize,
	})
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	return out.Bytes(), nil
}

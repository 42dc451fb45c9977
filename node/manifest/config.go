package manifest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Config is the model's config.json: a field that is here means what it means
// there, and what package hf refuses is refused. See hf.Config for the fields.
type Config struct {
	Architectures         []string `yaml:"architectures,flow" cbor:"architectures"` // LlamaForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM
	HiddenSize            int      `yaml:"hidden_size" cbor:"hidden_size"`
	IntermediateSize      int      `yaml:"intermediate_size" cbor:"intermediate_size"`
	NumHiddenLayers       int      `yaml:"num_hidden_layers" cbor:"num_hidden_layers"`
	NumAttentionHeads     int      `yaml:"num_attention_heads" cbor:"num_attention_heads"`
	NumKeyValueHeads      int      `yaml:"num_key_value_heads" cbor:"num_key_value_heads"` // default: num_attention_heads
	HeadDim               int      `yaml:"head_dim" cbor:"head_dim"`                       // default: hidden_size / num_attention_heads
	VocabSize             int      `yaml:"vocab_size" cbor:"vocab_size"`
	MaxPositionEmbeddings int      `yaml:"max_position_embeddings" cbor:"max_position_embeddings"` // default: inner.sequence
	RMSNormEps            float64  `yaml:"rms_norm_eps" cbor:"rms_norm_eps"`
	RopeTheta             float64  `yaml:"rope_theta" cbor:"rope_theta"`
	TieWordEmbeddings     bool     `yaml:"tie_word_embeddings" cbor:"tie_word_embeddings"`
	BOS                   *int     `yaml:"bos_token_id,omitempty" cbor:"bos_token_id,omitempty"`      // optional
	EOS                   []int    `yaml:"eos_token_id,omitempty,flow" cbor:"eos_token_id,omitempty"` // optional

	// All that follow are optional.

	AttentionBias bool         `yaml:"attention_bias,omitempty" cbor:"attention_bias,omitempty"` // Llama, Qwen 3; Qwen 2 has its own always
	MLPBias       bool         `yaml:"mlp_bias,omitempty" cbor:"mlp_bias,omitempty"`             // Llama
	RopeScaling   *RopeScaling `yaml:"rope_scaling,omitempty" cbor:"rope_scaling,omitempty"`

	// The window and the layers that have it go together, without use_sliding_window. Qwen.
	SlidingWindow int      `yaml:"sliding_window,omitempty" cbor:"sliding_window,omitempty"`
	LayerTypes    []string `yaml:"layer_types,omitempty,flow" cbor:"layer_types,omitempty"` // full_attention or sliding_attention, by layer
}

// RopeScaling is rope_scaling of config.json. See hf.RopeScaling for what each
// kind has; unlike there, transformers' defaults of original_max_position_embeddings
// and factor are to be spelled out.
type RopeScaling struct {
	Kind      string    `yaml:"rope_type" cbor:"rope_type"` // linear, dynamic, yarn, longrope or llama3
	Factor    float64   `yaml:"factor" cbor:"factor"`
	LowFreq   float64   `yaml:"low_freq_factor,omitempty" cbor:"low_freq_factor,omitempty"`
	HighFreq  float64   `yaml:"high_freq_factor,omitempty" cbor:"high_freq_factor,omitempty"`
	Original  int       `yaml:"original_max_position_embeddings,omitempty" cbor:"original_max_position_embeddings,omitempty"`
	Attention float64   `yaml:"attention_factor,omitempty" cbor:"attention_factor,omitempty"`
	BetaFast  float64   `yaml:"beta_fast,omitempty" cbor:"beta_fast,omitempty"`
	BetaSlow  float64   `yaml:"beta_slow,omitempty" cbor:"beta_slow,omitempty"`
	MScale    float64   `yaml:"mscale,omitempty" cbor:"mscale,omitempty"`
	MScaleAll float64   `yaml:"mscale_all_dim,omitempty" cbor:"mscale_all_dim,omitempty"`
	Truncate  *bool     `yaml:"truncate,omitempty" cbor:"truncate,omitempty"` // false, or left out
	Short     []float64 `yaml:"short_factor,omitempty,flow" cbor:"short_factor,omitempty"`
	Long      []float64 `yaml:"long_factor,omitempty,flow" cbor:"long_factor,omitempty"`
}

// HF returns the config as package hf has it.
func (c Config) HF() hf.Config {
	out := hf.Config{
		HiddenSize:            c.HiddenSize,
		IntermediateSize:      c.IntermediateSize,
		NumHiddenLayers:       c.NumHiddenLayers,
		NumAttentionHeads:     c.NumAttentionHeads,
		NumKeyValueHeads:      c.NumKeyValueHeads,
		HeadDim:               c.HeadDim,
		VocabSize:             c.VocabSize,
		MaxPositionEmbeddings: c.MaxPositionEmbeddings,
		RMSNormEps:            c.RMSNormEps,
		RopeTheta:             c.RopeTheta,
		AttentionBias:         c.AttentionBias,
		MLPBias:               c.MLPBias,
		SlidingWindow:         c.SlidingWindow,
		TieWordEmbeddings:     c.TieWordEmbeddings,
		BOS:                   c.BOS,
		EOS:                   c.EOS,
	}
	if len(c.Architectures) == 1 {
		out.Family, _ = hf.FamilyOf(c.Architectures[0])
	}
	if r := c.RopeScaling; r != nil {
		out.RopeScaling = &hf.RopeScaling{Kind: r.Kind, Factor: r.Factor, LowFreq: r.LowFreq, HighFreq: r.HighFreq, Original: r.Original,
			Attention: r.Attention, BetaFast: r.BetaFast, BetaSlow: r.BetaSlow, MScale: r.MScale, MScaleAll: r.MScaleAll,
			Exact: r.Truncate != nil && !*r.Truncate, Short: r.Short, Long: r.Long}
	}
	for _, kind := range c.LayerTypes {
		out.Sliding = append(out.Sliding, kind == hf.SlidingAttention)
	}
	return out
}

// ConfigOf is the inverse of HF. c must be valid.
func ConfigOf(c hf.Config) Config {
	out := Config{
		Architectures:         []string{c.Architecture()},
		HiddenSize:            c.HiddenSize,
		IntermediateSize:      c.IntermediateSize,
		NumHiddenLayers:       c.NumHiddenLayers,
		NumAttentionHeads:     c.NumAttentionHeads,
		NumKeyValueHeads:      c.KVHeads(),
		HeadDim:               c.HeadSize(),
		VocabSize:             c.VocabSize,
		MaxPositionEmbeddings: c.MaxPositionEmbeddings,
		RMSNormEps:            c.RMSNormEps,
		RopeTheta:             c.RopeTheta,
		TieWordEmbeddings:     c.TieWordEmbeddings,
		BOS:                   c.BOS,
		EOS:                   c.EOS,
		AttentionBias:         c.AttentionBias,
		MLPBias:               c.MLPBias,
		SlidingWindow:         c.SlidingWindow,
	}
	if r := c.RopeScaling; r != nil {
		out.RopeScaling = &RopeScaling{Kind: r.Kind, Factor: r.Factor, LowFreq: r.LowFreq, HighFreq: r.HighFreq, Original: r.Original,
			Attention: r.Attention, BetaFast: r.BetaFast, BetaSlow: r.BetaSlow, MScale: r.MScale, MScaleAll: r.MScaleAll, Short: r.Short, Long: r.Long}
		if r.Exact {
			out.RopeScaling.Truncate = new(bool)
		}
	}
	for _, sliding := range c.Sliding {
		kind := hf.FullAttention
		if sliding {
			kind = hf.SlidingAttention
		}
		out.LayerTypes = append(out.LayerTypes, kind)
	}
	return out
}

// Differs names the first field by which two models compute differently, as config.json
// has it, and its value in each; "" where they compute alike. Tokens that begin and end a
// text count for nothing, and how long one may be only where the frequencies follow from it.
func (c Config) Differs(o Config) (field, here, there string) {
	scaled := c.RopeScaling != nil && c.RopeScaling.Kind == hf.RopeDynamic
	for _, x := range []*Config{&c, &o} {
		x.BOS, x.EOS = nil, nil
		if !scaled {
			x.MaxPositionEmbeddings = 0
		}
		if x.RopeScaling != nil {
			r := *x.RopeScaling
			x.RopeScaling = &r
		}
		x.trim()
	}
	return differs(reflect.ValueOf(c), reflect.ValueOf(o))
}

func differs(a, b reflect.Value) (field, here, there string) {
	for i := range a.NumField() {
		x, y := a.Field(i), b.Field(i)
		if reflect.DeepEqual(x.Interface(), y.Interface()) {
			continue
		}
		name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("yaml"), ",")
		if s := reflect.TypeFor[*RopeScaling](); x.Type() == s && !x.IsNil() && !y.IsNil() {
			field, here, there = differs(x.Elem(), y.Elem())
			return name + "." + field, here, there
		}
		if x.Kind() == reflect.Slice && x.Len() > 1 && x.Len() == y.Len() {
			n := 0
			for x.Index(n).Equal(y.Index(n)) {
				n++
			}
			return fmt.Sprintf("%s[%d]", name, n), spelled(x.Index(n)), spelled(y.Index(n))
		}
		return name, spelled(x), spelled(y)
	}
	return "", "", ""
}

// spelled is a field's value in words: "none" where it is left out.
func spelled(v reflect.Value) string {
	if v.IsZero() && v.Kind() != reflect.Bool {
		return "none"
	}
	v = reflect.Indirect(v)
	if r, ok := v.Interface().(RopeScaling); ok {
		return r.Kind
	}
	return fmt.Sprintf("%.200s", fmt.Sprint(v))
}

// Resize returns c with another number of layers, the first ones.
func (c Config) Resize(layers int) Config {
	h := c.HF()
	h.NumHiddenLayers = layers
	if h.Sliding = h.Sliding[:min(layers, len(h.Sliding))]; !slices.Contains(h.Sliding, true) {
		h.SlidingWindow, h.Sliding = 0, nil
	}
	return ConfigOf(h)
}

// trim spells in one way what can be left out.
func (c *Config) trim() {
	if len(c.EOS) == 0 {
		c.EOS = nil
	}
	if len(c.LayerTypes) == 0 {
		c.LayerTypes = nil
	}
	r := c.RopeScaling
	if r == nil {
		return
	}
	if len(r.Short) == 0 {
		r.Short = nil
	}
	if len(r.Long) == 0 {
		r.Long = nil
	}
	if r.Truncate != nil && *r.Truncate {
		r.Truncate = nil
	}
}

// A count is a field of Config that must be set.
type count struct {
	name   string
	v, max int
}

func (c *Config) counts() []count {
	return []count{
		{"hidden_size", c.HiddenSize, hf.MaxHidden},
		{"intermediate_size", c.IntermediateSize, hf.MaxInner},
		{"num_hidden_layers", c.NumHiddenLayers, hf.MaxLayers},
		{"num_attention_heads", c.NumAttentionHeads, hf.MaxHeads},
		{"num_key_value_heads", c.NumKeyValueHeads, hf.MaxHeads},
		{"head_dim", c.HeadDim, hf.MaxHeadDim},
		{"vocab_size", c.VocabSize, hf.MaxVocab},
		{"max_position_embeddings", c.MaxPositionEmbeddings, hf.MaxPositions},
	}
}

func (m *Manifest) validateModel(p *Problems) {
	c := &m.Model.Config
	whole := true
	if len(c.Architectures) != 1 || !isArchitecture(c.Architectures[0]) {
		p.add("model.config.architectures", 0, "%.60q: only [LlamaForCausalLM], [Qwen2ForCausalLM] or [Qwen3ForCausalLM] can be trained", c.Architectures)
		whole = false
	}
	for _, kind := range c.LayerTypes {
		whole = p.oneOf("model.config.layer_types", kind, hf.FullAttention, hf.SlidingAttention) && whole
	}
	if r := c.RopeScaling; r != nil && r.Truncate != nil && *r.Truncate {
		p.add("model.config.rope_scaling.truncate", 0, "true is what it is without: leave it out")
	}
	for _, f := range c.counts() {
		path := "model.config." + f.name
		switch {
		case f.v != 0:
			whole = p.int(path, f.v, 1, f.max) && whole
			continue
		case f.name == "max_position_embeddings" && m.Inner.Sequence < 1, // derived from what has a problem itself
			f.name == "num_key_value_heads" && c.NumAttentionHeads < 1,
			f.name == "head_dim" && (c.HiddenSize < 1 || c.NumAttentionHeads < 1):
		case f.name == "head_dim":
			p.add("model.config.num_attention_heads", 0, "%d heads do not divide hidden_size %d: change one, or set head_dim", c.NumAttentionHeads, c.HiddenSize)
		default:
			p.add(path, 0, "missing")
		}
		whole = false
	}
	p.float("model.config.rms_norm_eps", c.RMSNormEps, above(0), from(0.1))
	p.float("model.config.rope_theta", c.RopeTheta, from(1), from(1e12))
	if c.VocabSize > 0 {
		if c.BOS != nil {
			p.int("model.config.bos_token_id", *c.BOS, 0, c.VocabSize-1)
		}
		if p.int("model.config.eos_token_id", len(c.EOS), 0, 16) {
			for _, e := range c.EOS {
				p.int("model.config.eos_token_id", e, 0, c.VocabSize-1)
			}
		}
	}
	if whole { // what remains are the relations between them
		if err := c.HF().Validate(); err != nil {
			name, what, ok := strings.Cut(err.Error(), ": ")
			if !ok {
				name, what = "hidden_size", err.Error()
			}
			if part, rest, ok := strings.Cut(what, ": "); ok && name == "rope_scaling" {
				name, what = name+"."+part, rest
			}
			p.add("model.config."+name, 0, "%s", what)
		}
	}
	link(p, "model.base", m.Model.Base, false, wire.CodecDagPB)
}

func isArchitecture(s string) bool {
	_, ok := hf.FamilyOf(s)
	return ok
}

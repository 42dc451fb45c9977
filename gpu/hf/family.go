package hf

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// The families of dense models that Config covers: the model_type of
// config.json. The zero Family is Llama.
const (
	Llama = "llama"
	Qwen2 = "qwen2" // biases of queries, keys and values
	Qwen3 = "qwen3" // queries and keys normed, head by head, before RoPE
)

var architectures = map[string]string{Llama: "LlamaForCausalLM", Qwen2: "Qwen2ForCausalLM", Qwen3: "Qwen3ForCausalLM"}

// bare are their models without a head: a tied one needs none.
var bare = map[string]string{Llama: "LlamaModel", Qwen2: "Qwen2Model", Qwen3: "Qwen3Model"}

// The kinds of RopeScaling.
const (
	RopeLinear = "linear" // positions divided by Factor
	RopeLlama3 = "llama3" // low frequencies divided by Factor (Llama 3.1)
)

// A RopeScaling stretches rotary frequencies beyond the length that a model was
// first trained on. With wavelength λ = 2π/frequency and Original O, llama3
// leaves frequencies of λ < O/HighFreq, divides those of λ > O/LowFreq by
// Factor, and blends the two in O/λ between.
type RopeScaling struct {
	Kind              string
	Factor            float64
	LowFreq, HighFreq float64 // llama3 only
	Original          int     // llama3 only: tokens
}

// Scaled is what r, which may be nil, makes of a frequency in radians a
// position. It rounds after every operation, so that every machine gets the
// same number.
func (r *RopeScaling) Scaled(f float64) float64 {
	if r == nil {
		return f
	}
	low := f / r.Factor
	if r.Kind == RopeLinear {
		return low
	}
	waves := float64(float64(r.Original)*f) / (2 * math.Pi) // O/λ
	switch {
	case waves > r.HighFreq:
		return f
	case waves < r.LowFreq:
		return low
	}
	mix := (waves - r.LowFreq) / (r.HighFreq - r.LowFreq)
	return float64((1-mix)*low) + float64(mix*f)
}

func (r *RopeScaling) validate() error {
	switch {
	case r == nil:
		return nil
	case r.Kind != RopeLinear && r.Kind != RopeLlama3:
		return fmt.Errorf("type %.40q is not supported, only linear and llama3", r.Kind)
	case !(r.Factor >= 1 && r.Factor <= 1e6):
		return fmt.Errorf("factor %g is not in [1, 1e6]", r.Factor)
	case r.Kind == RopeLinear && (r.LowFreq != 0 || r.HighFreq != 0 || r.Original != 0):
		return errors.New("linear has a factor only")
	case r.Kind == RopeLlama3 && !(r.LowFreq > 0 && r.LowFreq < r.HighFreq && r.HighFreq <= 1e6):
		return fmt.Errorf("low_freq_factor %g and high_freq_factor %g: want 0 < low < high", r.LowFreq, r.HighFreq)
	case r.Kind == RopeLlama3 && (r.Original < 1 || r.Original > MaxPositions):
		return fmt.Errorf("original_max_position_embeddings %d is not in 1..%d", r.Original, MaxPositions)
	}
	return nil
}

// ropeParameters is rope_scaling and, since transformers 5, rope_parameters.
type ropeParameters struct {
	Type      string `json:"type,omitempty"`
	RopeType  string `json:"rope_type,omitempty"`
	RopeTheta *float `json:"rope_theta,omitempty"`
	Partial   *float `json:"partial_rotary_factor,omitempty"`
	Factor    float  `json:"factor,omitempty"`
	LowFreq   float  `json:"low_freq_factor,omitempty"`
	HighFreq  float  `json:"high_freq_factor,omitempty"`
	Original  int    `json:"original_max_position_embeddings,omitempty"`

	Full json.RawMessage `json:"full_attention,omitempty"` // parameters by kind of layer
}

// scaling is what r says besides the base; nil for the plain RoPE.
func (r *ropeParameters) scaling() (*RopeScaling, error) {
	if r == nil {
		return nil, nil
	}
	if err := whole(r.Partial); err != nil {
		return nil, err
	}
	if len(r.Full) > 0 {
		return nil, errors.New("full_attention: layers that differ are not supported")
	}
	kind := r.RopeType
	switch {
	case r.Type != "" && kind != "" && kind != r.Type:
		return nil, fmt.Errorf("type %.40q and rope_type %.40q contradict one another", r.Type, kind)
	case kind == "":
		kind = r.Type
	}
	s := &RopeScaling{kind, float64(r.Factor), float64(r.LowFreq), float64(r.HighFreq), r.Original}
	switch kind {
	case "":
		if *s != (RopeScaling{}) {
			return nil, errors.New("rope_type is missing")
		}
		return nil, nil
	case "default":
		return nil, nil
	case RopeLinear: // what else it holds means nothing
		s = &RopeScaling{Kind: kind, Factor: float64(r.Factor)}
	}
	return s, s.validate()
}

// whole refuses heads that are rotated in part.
func whole(partial *float) error {
	if partial != nil && *partial != 1 {
		return fmt.Errorf("partial_rotary_factor: %g, only 1 is supported", float64(*partial))
	}
	return nil
}

// rope finds the base and the kind of RoPE, which configurations have in more than
// one place.
func (j *configJSON) rope() (theta float64, scaling *RopeScaling, err error) {
	if err := whole(j.Partial); err != nil {
		return 0, nil, err
	}
	if scaling, err = j.RopeScaling.scaling(); err != nil {
		return 0, nil, fmt.Errorf("rope_scaling: %w", err)
	}
	other, err := j.RopeParameters.scaling()
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("rope_parameters: %w", err)
	case j.RopeScaling == nil:
		scaling = other
	case j.RopeParameters != nil && (scaling == nil) != (other == nil), scaling != nil && other != nil && *scaling != *other:
		return 0, nil, errors.New("rope_scaling and rope_parameters contradict one another")
	}
	base := j.RopeTheta
	for _, p := range []*ropeParameters{j.RopeScaling, j.RopeParameters} {
		switch {
		case p == nil || p.RopeTheta == nil:
		case base != nil && *base != *p.RopeTheta:
			return 0, nil, fmt.Errorf("rope_theta: %g in one place and %g in another", float64(*base), float64(*p.RopeTheta))
		default:
			base = p.RopeTheta
		}
	}
	return float64(or(base, 10000)), scaling, nil
}

func (r *RopeScaling) json() *ropeParameters {
	if r == nil {
		return nil
	}
	return &ropeParameters{RopeType: r.Kind, Factor: float(r.Factor), LowFreq: float(r.LowFreq), HighFreq: float(r.HighFreq), Original: r.Original}
}

// ModelType is the family's name, "llama" where Family is unset.
func (c Config) ModelType() string {
	if c.Family == "" {
		return Llama
	}
	return c.Family
}

// QKVBias says whether queries, keys and values have biases, OBias whether the
// output of attention has one: Qwen 2 has the former, attention_bias of the
// others means both.
func (c Config) QKVBias() bool { return c.AttentionBias || c.Family == Qwen2 }

// OBias: see QKVBias.
func (c Config) OBias() bool { return c.AttentionBias && c.Family != Qwen2 }

// QKNorm says whether queries and keys are normed.
func (c Config) QKNorm() bool { return c.Family == Qwen3 }

// Biased says whether any projection has a bias.
func (c Config) Biased() bool { return c.QKVBias() || c.OBias() || c.MLPBias }

// extra are the tensors of layer n that a plain Llama lacks.
func (c Config) extra(n int) []Tensor {
	p := "model.layers." + strconv.Itoa(n) + ".self_attn."
	mlp := "model.layers." + strconv.Itoa(n) + ".mlp."
	q, kv := c.NumAttentionHeads*c.HeadSize(), c.KVHeads()*c.HeadSize()
	var t []Tensor
	if c.QKVBias() {
		t = append(t, Tensor{p + "q_proj.bias", []int{q}}, Tensor{p + "k_proj.bias", []int{kv}}, Tensor{p + "v_proj.bias", []int{kv}})
	}
	if c.OBias() {
		t = append(t, Tensor{p + "o_proj.bias", []int{c.HiddenSize}})
	}
	if c.MLPBias {
		f := []int{c.IntermediateSize}
		t = append(t, Tensor{mlp + "gate_proj.bias", f}, Tensor{mlp + "up_proj.bias", f}, Tensor{mlp + "down_proj.bias", []int{c.HiddenSize}})
	}
	if c.QKNorm() {
		t = append(t, Tensor{p + "q_norm.weight", []int{c.HeadSize()}}, Tensor{p + "k_norm.weight", []int{c.HeadSize()}})
	}
	return t
}

// family checks what j says of the model's kind.
func (j *configJSON) family() (string, error) {
	arch, ok := architectures[j.ModelType]
	if !ok {
		return "", fmt.Errorf("model_type: %.40q, want llama, qwen2 or qwen3", j.ModelType)
	}
	if len(j.Architectures) != 0 && !slices.Equal(j.Architectures, []string{arch}) && !slices.Equal(j.Architectures, []string{bare[j.ModelType]}) {
		return "", fmt.Errorf("architectures: %.60q, only %s can be run", j.Architectures, arch)
	}
	switch {
	case j.HiddenAct != "" && j.HiddenAct != "silu" && j.HiddenAct != "swish": // two names of one function
		return "", fmt.Errorf("hidden_act: %.40q, want \"silu\"", j.HiddenAct)
	case j.UseSlidingWindow:
		return "", errors.New("use_sliding_window: only full attention is supported")
	case slices.ContainsFunc(j.LayerTypes, func(s string) bool { return s != "full_attention" }):
		return "", errors.New("layer_types: only full_attention is supported")
	case len(j.Quantization) > 0 && string(j.Quantization) != "null":
		return "", errors.New("quantization_config: quantized weights are not supported")
	case j.ModelType == Llama:
		return "", nil
	}
	return j.ModelType, nil
}

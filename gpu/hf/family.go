package hf

import (
	"errors"
	"fmt"
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

// ModelType is the family's name, "llama" where Family is unset.
func (c Config) ModelType() string {
	if c.Family == "" {
		return Llama
	}
	return c.Family
}

// Architecture is the class that transformers has for the family, as in
// "LlamaForCausalLM": what config.json names in architectures.
func (c Config) Architecture() string { return architectures[c.ModelType()] }

// FamilyOf is the Family of an architecture; ok is false where it is none of
// those that Config covers.
func FamilyOf(architecture string) (family string, ok bool) {
	for f, a := range architectures {
		switch {
		case a != architecture:
		case f == Llama:
			return "", true
		default:
			return f, true
		}
	}
	return "", false
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
	case j.ModelType == Llama && j.UseSlidingWindow:
		return "", errors.New("use_sliding_window: a llama has full attention only")
	case j.ModelType == Llama && slices.ContainsFunc(j.LayerTypes, func(s string) bool { return s != FullAttention }):
		return "", errors.New("layer_types: a llama has full_attention only")
	case len(j.Quantization) > 0 && string(j.Quantization) != "null":
		return "", errors.New("quantization_config: quantized weights are not supported")
	case j.ModelType == Llama:
		return "", nil
	}
	return j.ModelType, nil
}

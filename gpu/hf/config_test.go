package hf

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func tiny() Config {
	return Config{HiddenSize: 8, IntermediateSize: 12, NumHiddenLayers: 11, NumAttentionHeads: 4, NumKeyValueHeads: 2,
		HeadDim: 2, VocabSize: 10, MaxPositionEmbeddings: 16, RMSNormEps: 1e-5, RopeTheta: 10000}
}

func windowed(family string, size int, has func(int) bool) Config {
	c := tiny()
	c.Family, c.SlidingWindow = family, size
	for n := range c.NumHiddenLayers {
		c.Sliding = append(c.Sliding, has(n))
	}
	return c
}

// shared names a file of the test data that lies beside a checkout; the test
// is skipped where there is none.
func shared(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", name))
	if err != nil {
		t.Skipf("SKIPPED, nothing was checked: %v", err)
	}
	return b
}

func TestTensorsSortedAndComplete(t *testing.T) {
	for i, tied := range []bool{false, true, true, true, false, true} {
		c := tiny()
		c.TieWordEmbeddings, c.AttentionBias, c.MLPBias, c.Family = tied, i > 2, i > 4, []string{"", "", Qwen2, Qwen3, "", ""}[i]
		var n int64
		ts := c.Tensors()
		for i, x := range ts {
			n += int64(x.Len())
			if i > 0 && ts[i-1].Name >= x.Name {
				t.Errorf("%s comes after %s", x.Name, ts[i-1].Name)
			}
			if tied && x.Name == "lm_head.weight" {
				t.Error("tied model has an lm_head")
			}
		}
		if n != c.NumParams() {
			t.Errorf("tied %v: tensors hold %d elements, NumParams says %d", tied, n, c.NumParams())
		}
	}
}

func TestConfigRoundTrip(t *testing.T) {
	one := 1
	for _, c := range []Config{
		tiny(),
		func() Config { c := tiny(); c.BOS, c.EOS, c.TieWordEmbeddings = &one, []int{2}, true; return c }(),
		func() Config { c := tiny(); c.EOS = []int{2, 3}; return c }(),
		func() Config { c := tiny(); c.Family = Qwen2; return c }(),
		func() Config { c := tiny(); c.MLPBias = true; return c }(),
		windowed(Qwen2, 5, func(n int) bool { return n > 6 }),
		windowed(Qwen3, 1, func(n int) bool { return n%3 == 0 }),
		func() Config {
			c := tiny()
			c.Family, c.AttentionBias, c.RopeScaling = Qwen3, true, &RopeScaling{Kind: RopeLlama3, Factor: 8, LowFreq: 1, HighFreq: 4, Original: 8192}
			return c
		}(),
		func() Config {
			c := tiny()
			c.HeadDim, c.RopeScaling = 4, &RopeScaling{Kind: RopeDynamic, Factor: 3}
			return c
		}(),
		func() Config {
			c := tiny()
			c.RopeScaling = &RopeScaling{Kind: RopeYarn, Factor: 4, Original: 4, Attention: 1.1, BetaFast: 16, BetaSlow: 2, MScale: 0.7, MScaleAll: 1, Exact: true}
			return c
		}(),
		func() Config {
			c := tiny()
			c.RopeScaling = &RopeScaling{Kind: RopeLong, Factor: 4, Original: 4, Short: []float64{1}, Long: []float64{2.5}}
			return c
		}(),
		func() Config { c := tiny(); c.RopeScaling = &RopeScaling{Kind: RopeLinear, Factor: 2.5}; return c }(),
	} {
		b, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseConfig(b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, c) {
			t.Errorf("got %+v, want %+v", got, c)
		}
	}
}

// Changing any byte of config.json changes the CID of every state: the form
// is frozen.
func TestConfigGolden(t *testing.T) {
	c := tiny()
	eos := 3
	c.BOS, c.EOS = &eos, []int{eos}
	b, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "config.json")
	if os.Getenv("REWRITE") != "" {
		if err := os.WriteFile(golden, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != string(want) {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
}

func TestParseConfigRefuses(t *testing.T) {
	const good = `{"model_type":"llama","architectures":["LlamaForCausalLM"],"hidden_size":64,"intermediate_size":172,
		"num_hidden_layers":5,"num_attention_heads":8,"num_key_value_heads":4,"vocab_size":512,"rms_norm_eps":1e-5,"extra":{"a":[1]}}`
	if _, err := ParseConfig([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"llama"`, `"gpt2"`, "model_type"},
		{`"LlamaForCausalLM"`, `"LlamaForSequenceClassification"`, "architectures"},
		{`"hidden_size":64,`, ``, "hidden_size is missing"},
		{`"hidden_size":64`, `"hidden_size":"64"`, "hidden_size"},
		{`"hidden_size":64`, `"hidden_size":65`, "do not divide"},
		{`"hidden_size":64`, `"hidden_size":0`, "hidden_size"},
		{`"hidden_size":64`, `"hidden_size":-64`, "hidden_size"},
		{`"hidden_size":64`, `"hidden_size":1e30`, "hidden_size"},
		{`"hidden_size":64`, `"hidden_size":24`, "odd"},
		{`"num_hidden_layers":5`, `"num_hidden_layers":100000000`, "num_hidden_layers"},
		{`"num_key_value_heads":4`, `"num_key_value_heads":3`, "num_key_value_heads"},
		{`"num_key_value_heads":4`, `"num_key_value_heads":0`, "num_key_value_heads: 0"},
		{`"num_key_value_heads":4`, `"head_dim":0`, "head_dim: 0"},
		{`"vocab_size":512`, `"vocab_size":0`, "vocab_size"},
		{`"vocab_size":512`, `"vocab_size":512,"bos_token_id":512`, "bos_token_id"},
		{`"vocab_size":512`, `"vocab_size":512,"eos_token_id":[1,-1]`, "eos_token_id"},
		{`"llama","architectures":["LlamaForCausalLM"]`, `"qwen2","mlp_bias":true`, "mlp_bias"},
		{`"vocab_size":512`, `"vocab_size":512,"use_sliding_window":true`, "sliding"},
		{`"vocab_size":512`, `"vocab_size":512,"rope_scaling":{"type":"linear"}`, "factor"},
		{`"vocab_size":512`, `"vocab_size":512,"rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":1,"original_max_position_embeddings":8192}`, "low_freq"},
		{`"vocab_size":512`, `"vocab_size":512,"hidden_act":"gelu"`, "hidden_act"},
		{`"vocab_size":512`, `"vocab_size":512,"rope_scaling":{"rope_type":"llama3"}`, "rope_scaling"},
		{`"vocab_size":512`, `"vocab_size":512,"rope_parameters":{"rope_type":"ntk"}`, "rope_parameters"},
		{`"vocab_size":512`, `"vocab_size":512,"rope_theta":0`, "rope_theta"},
		{`"vocab_size":512`, `"vocab_size":512,"rope_scaling":{"factor":4}`, "rope_scaling: rope_type is missing"},
		{`"vocab_size":512`, `"vocab_size":512,"rope_scaling":{"type":"linear","rope_type":"default","factor":4}`, "rope_scaling: type"},
		{`"vocab_size":512`, `"vocab_size":512,"rope_scaling":{"type":"linear","factor":4},"rope_parameters":{"rope_type":"default"}`, "rope_parameters contradict"},
		{`"vocab_size":512`, `"vocab_size":512,"rope_theta":10000,"rope_parameters":{"rope_theta":500000}`, "rope_theta: 10000"},
		{`"vocab_size":512`, `"vocab_size":512,"partial_rotary_factor":0.5`, "partial_rotary_factor: 0.5"},
		{`"vocab_size":512`, `"vocab_size":512,"rope_parameters":{"partial_rotary_factor":0.25}`, "rope_parameters: partial_rotary_factor"},
		{`"vocab_size":512`, `"vocab_size":512,"rope_parameters":{"full_attention":{"rope_type":"linear","factor":8}}`, "rope_parameters: full_attention"},
		{`"vocab_size":512`, `"vocab_size":512,"layer_types":["full_attention","sliding_attention"]`, "layer_types"},
		{`"vocab_size":512`, `"vocab_size":512,"quantization_config":{"quant_method":"fp8"}`, "quantization_config"},
		{`"rms_norm_eps":1e-5`, `"rms_norm_eps":0`, "rms_norm_eps"},
		{`{`, `[`, "config.json"},
	} {
		if _, err := ParseConfig([]byte(strings.Replace(good, c.old, c.new, 1))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error about %q", c.new, err, c.want)
		}
	}
	big := tiny()
	big.HiddenSize, big.HeadDim, big.IntermediateSize, big.NumHiddenLayers, big.VocabSize = MaxHidden, 64, MaxInner, MaxLayers, MaxVocab
	if err := big.Validate(); err == nil || !strings.Contains(err.Error(), "parameters") {
		t.Errorf("200 trillion parameters: %v", err)
	}
}

// What changes nothing is taken.
func TestParseConfigTakes(t *testing.T) {
	for _, s := range []string{
		`"partial_rotary_factor":1`, `"quantization_config":null`, `"layer_types":["full_attention"]`, `"layer_types":null`, `"hidden_act":"swish"`,
		`"sliding_window":4096`, `"pretraining_tp":2`, `"rope_scaling":{}`, `"architectures":["LlamaModel"]`,
		`"rope_theta":10000.0,"rope_scaling":{"rope_type":"default"},"rope_parameters":{"rope_type":"default","rope_theta":10000}`,
	} {
		c, err := ParseConfig([]byte(`{"model_type":"llama","hidden_size":64,"intermediate_size":172,"num_hidden_layers":1,
			"num_attention_heads":8,"vocab_size":512,` + s + `}`))
		if err != nil || c.RopeScaling != nil || c.RopeTheta != 10000 {
			t.Errorf("%s: %+v, %v", s, c, err)
		}
	}
}

func TestParseConfigTransformers5(t *testing.T) {
	c, err := ParseConfig([]byte(`{"model_type":"llama","hidden_size":64,"intermediate_size":172,"num_hidden_layers":1,
		"num_attention_heads":8,"vocab_size":512,"dtype":"bfloat16","rope_parameters":{"rope_theta":500000.0,"rope_type":"default"}}`))
	if err != nil || c.RopeTheta != 500000 || c.NumKeyValueHeads != 8 || c.HeadDim != 8 {
		t.Errorf("%+v, %v", c, err)
	}
}

// What Qwen publishes as the configuration of its smallest third model, less
// what no forward pass reads, and what Meta does of its Llama 3.2 1B.
func TestParseConfigFamilies(t *testing.T) {
	c, err := ParseConfig([]byte(`{"architectures":["Qwen3ForCausalLM"],"attention_bias":false,"bos_token_id":151643,"eos_token_id":151645,
		"head_dim":128,"hidden_act":"silu","hidden_size":1024,"intermediate_size":3072,"max_position_embeddings":40960,"max_window_layers":28,
		"model_type":"qwen3","num_attention_heads":16,"num_hidden_layers":28,"num_key_value_heads":8,"rms_norm_eps":1e-06,"rope_scaling":null,
		"rope_theta":1000000,"sliding_window":null,"tie_word_embeddings":true,"use_sliding_window":false,"vocab_size":151936}`))
	if err != nil || c.NumParams() != 596049920 || c.HeadDim != 128 || !c.QKNorm() || c.QKVBias() {
		t.Errorf("Qwen3-0.6B: %+v, %d parameters, %v", c, c.NumParams(), err)
	}
	c, err = ParseConfig([]byte(`{"architectures":["Qwen2ForCausalLM"],"hidden_act":"silu","hidden_size":896,"intermediate_size":4864,
		"max_position_embeddings":32768,"model_type":"qwen2","num_attention_heads":14,"num_hidden_layers":24,"num_key_value_heads":2,
		"rms_norm_eps":1e-06,"rope_theta":1000000.0,"tie_word_embeddings":true,"use_sliding_window":false,"vocab_size":151936}`))
	if err != nil || c.NumParams() != 494032768 || !c.QKVBias() || c.OBias() {
		t.Errorf("Qwen2.5-0.5B: %+v, %d parameters, %v", c, c.NumParams(), err)
	}
	c, err = ParseConfig([]byte(`{"architectures":["LlamaForCausalLM"],"head_dim":64,"hidden_size":2048,"intermediate_size":8192,
		"max_position_embeddings":131072,"model_type":"llama","num_attention_heads":32,"num_hidden_layers":16,"num_key_value_heads":8,
		"rms_norm_eps":1e-05,"rope_scaling":{"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,"original_max_position_embeddings":8192,
		"rope_type":"llama3"},"rope_theta":500000.0,"tie_word_embeddings":true,"vocab_size":128256}`))
	if err != nil || c.NumParams() != 1235814400 || c.RopeScaling == nil || !reflect.DeepEqual(*c.RopeScaling, RopeScaling{Kind: RopeLlama3, Factor: 32, LowFreq: 1, HighFreq: 4, Original: 8192}) {
		t.Errorf("Llama 3.2 1B: %+v, %d parameters, %v", c, c.NumParams(), err)
	}
}

func TestForeignModels(t *testing.T) {
	for name, params := range map[string]int64{"stories260K-hf": 260032, "opendiloco-llama-2m-fresh": 262464, "verl-digit-llama-0.8m": 0} {
		t.Run(name, func(t *testing.T) {
			c, err := ParseConfig(shared(t, "data/models/"+name+"/config.json"))
			if err != nil {
				t.Fatal(err)
			}
			f, err := ReadSafetensors(shared(t, "data/models/"+name+"/model.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			flat, err := f.Flat(c.Tensors())
			if err != nil {
				t.Fatal(err)
			}
			if int64(len(flat)) != c.NumParams() || params != 0 && c.NumParams() != params {
				t.Errorf("%d values, config says %d, want %d", len(flat), c.NumParams(), params)
			}
			var sum float64
			for _, v := range flat {
				sum += float64(v) * float64(v)
			}
			if sum == 0 {
				t.Error("all weights are zero")
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	b, err := tiny().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"model_type":"llama","eos_token_id":[1,2],"rope_scaling":{"type":"x"}}`))
	f.Add([]byte(withRope(`"rope_scaling":{"rope_type":"yarn","factor":null,"original_max_position_embeddings":64,"mscale":0.7,"mscale_all_dim":1,"truncate":false}`)))
	f.Add([]byte(withRope(`"original_max_position_embeddings":64,"rope_parameters":{"rope_type":"longrope","short_factor":[1,1,1,1],"long_factor":[1,2,3,4]}`)))
	f.Add([]byte(withRope(`"rope_scaling":{"type":"dynamic","factor":2}`)))
	f.Add([]byte(strings.Replace(withRope(`"use_sliding_window":true,"sliding_window":8,"max_window_layers":0,"layer_types":["sliding_attention"]`), "llama", "qwen3", 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		if most := c.Context(); most < c.MaxPositionEmbeddings || most > MaxPositions {
			t.Fatalf("%+v: a context of %d", c, most)
		}
		if d := c.HeadSize(); d <= 256 { // longer heads take long
			for _, n := range []int{1, c.MaxPositionEmbeddings, c.Context()} {
				freqs, scale := c.Rotary(n)
				for _, f := range freqs {
					if !(f > 0 && f <= 20) {
						t.Fatalf("%+v: a frequency of %g in a text of %d", c, f, n)
					}
				}
				if !(scale > 0 && scale < 1e7) {
					t.Fatalf("%+v: factor %g", c, scale)
				}
			}
		}
		out, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		d, err := ParseConfig(out)
		if err != nil || !reflect.DeepEqual(c, d) {
			t.Fatalf("%+v came back as %+v: %v", c, d, err)
		}
	})
}

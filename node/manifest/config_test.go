package manifest

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/p2p/wire"
)

// configs holds model.config as YAML, one of everything that can be trained.
var configs = map[string]string{
	"qwen2":    `{architectures: [Qwen2ForCausalLM], ` + sizes + `}`,
	"qwen3":    `{architectures: [Qwen3ForCausalLM], head_dim: 32, tie_word_embeddings: true, ` + sizes + `}`,
	"biases":   `{attention_bias: true, mlp_bias: true, ` + sizes + `}`,
	"qwen3 b":  `{architectures: [Qwen3ForCausalLM], attention_bias: true, ` + sizes + `}`,
	"linear":   `{rope_scaling: {rope_type: linear, factor: 2}, ` + sizes + `}`,
	"dynamic":  `{rope_scaling: {rope_type: dynamic, factor: 2.5}, ` + sizes + `}`,
	"llama3":   `{rope_theta: 500000, rope_scaling: {rope_type: llama3, factor: 32, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192}, ` + sizes + `}`,
	"yarn":     `{rope_scaling: {rope_type: yarn, factor: 4, original_max_position_embeddings: 64, attention_factor: 1.1, beta_fast: 16, beta_slow: 2, mscale: 0.7, mscale_all_dim: 1, truncate: false}, ` + sizes + `}`,
	"longrope": `{rope_scaling: {rope_type: longrope, factor: 4, original_max_position_embeddings: 64, short_factor: [1, 1, 1, 1, 1, 1, 1, 1], long_factor: [1, 1.5, 2, 2.5, 3, 3.5, 4, 1e3]}, ` + sizes + `}`,
	"windows":  `{architectures: [Qwen2ForCausalLM], sliding_window: 16, layer_types: [full_attention, sliding_attention], ` + sizes + `}`,
}

const sizes = `hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, vocab_size: 85, max_position_embeddings: 64`

// Whatever model a run has, its manifest is the same in YAML, in bytes and as package
// hf has it, whose config.json says the same again.
func TestConfigsRoundTrip(t *testing.T) {
	seen := map[string]bool{}
	for name, text := range configs {
		m, err := Parse(edit(t, goodYAML(), "model.config", text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if d, err := Decode(b); err != nil || !reflect.DeepEqual(d, m) {
			t.Errorf("%s: CBOR: got %+v, %v, want %+v", name, d, err, m)
		}
		y, err := m.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if p, err := Parse(y); err != nil || !reflect.DeepEqual(p, m) {
			t.Errorf("%s: YAML: got %+v, %v, want %+v", name, p, err, m)
		}
		c := m.Model.Config.HF()
		j, err := c.Marshal()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if read, err := hf.ParseConfig(j); err != nil || !reflect.DeepEqual(read, c) {
			t.Errorf("%s: config.json: got %+v, %v, want %+v", name, read, err, c)
		}
		if back := ConfigOf(c); !reflect.DeepEqual(back, m.Model.Config) {
			t.Errorf("%s: got %+v, want %+v", name, back, m.Model.Config)
		}
		if seen[string(j)] {
			t.Errorf("%s: the same as another: %s", name, j)
		}
		seen[string(j)] = true
		if one := m.Model.Config.Resize(1).HF(); one.Validate() != nil || one.NumHiddenLayers != 1 || one.SlidingWindow != 0 {
			t.Errorf("%s: of one layer: %+v, %v", name, one, one.Validate())
		}
	}
}

// Two spellings of one model are one run.
func TestConfigsHaveOneForm(t *testing.T) {
	cid := func(config string) string {
		m, err := Parse(edit(t, goodYAML(), "model.config", config))
		if err != nil {
			t.Fatal(err)
		}
		c, err := m.CID()
		if err != nil {
			t.Fatal(err)
		}
		return c.String()
	}
	plain := cid(`{` + sizes + `}`)
	if got := cid(`{attention_bias: false, mlp_bias: false, sliding_window: 0, layer_types: [], ` + sizes + `}`); got != plain {
		t.Error("what is spelled out and is so anyway makes another run")
	}
	yarn := `{rope_scaling: {rope_type: yarn, factor: 4, original_max_position_embeddings: 64%s}, ` + sizes + `}`
	if cid(strings.Replace(yarn, "%s", "", 1)) != cid(strings.Replace(yarn, "%s", ", truncate: true, short_factor: [], mscale: 0", 1)) {
		t.Error("the defaults of rope_scaling make another run")
	}
	// Strangers' bytes have the one form, too.
	m := good(t)
	yes := true
	m.Model.Config.RopeScaling = &RopeScaling{Kind: hf.RopeYarn, Factor: 4, Original: 64, Truncate: &yes}
	b, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(b); err == nil || !strings.Contains(err.Error(), "model.config.rope_scaling.truncate") {
		t.Errorf("truncate: true in CBOR: %v", err)
	}
	m.Model.Config.RopeScaling.Truncate = nil
	plainBytes, err := m.encode()
	if err != nil || bytes.Equal(b, plainBytes) {
		t.Fatal("the test shows nothing")
	}
	if _, err := Decode(plainBytes); err != nil {
		t.Error(err)
	}
}

// Continue's manifest says of the model what its config says, and lacks the data alone.
func TestContinue(t *testing.T) {
	base, tok, data := wire.SumCID(wire.CodecDagPB, []byte("base")), wire.SumCID(wire.CodecRaw, []byte("tok")), wire.SumCID(wire.CodecDagCBOR, []byte("index"))
	for name, text := range configs {
		of, err := Parse(edit(t, goodYAML(), "model.config", text))
		if err != nil {
			t.Fatal(err)
		}
		y, err := Continue("on", of.Model.Config.HF(), base, tok)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(y); err == nil || !strings.HasPrefix(err.Error(), "data: missing: a CID") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v\n%s", name, err, y)
			continue
		}
		m, err := Parse(edit(t, y, "data", data.String()))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(m.Model, Model{Config: of.Model.Config, Base: base}) || m.Tokenizer != tok || m.Name != "on" {
			t.Errorf("%s: got %+v, want %+v", name, m.Model, of.Model)
		}
		if m.Inner.Sequence > m.Model.Config.MaxPositionEmbeddings || m.Inner.LR >= good(t).Inner.LR {
			t.Errorf("%s: sequences of %d, a rate of %g", name, m.Inner.Sequence, m.Inner.LR)
		}
		for _, comment := range []string{"# the checkpoint", "inner:  ", "stop:\n"} {
			if !strings.Contains(string(y), comment) {
				t.Errorf("%s: no %q in\n%s", name, comment, y)
			}
		}
	}
	if _, err := Continue("on", hf.Config{}, base, tok); err == nil {
		t.Error("a config of nothing is continued")
	}
}

// Names and order of the optional fields are for ever, as those of the others are.
func TestGoldenConfigs(t *testing.T) {
	for name, want := range map[string]string{
		"biases":   "bafyreicju6l72f7ngrcq6nunbobtsbwam7ny3aawe6eybi75lazjz4g7eu",
		"yarn":     "bafyreibr63dcrphtmmyec3gryhz5kdqhhwcpyevczvykjiic5b2koyqoiu",
		"longrope": "bafyreicnhtx2d2gc6xcgj6zjl6m2tv7i3wbd6iblm3mvp7vc6clrvhvity",
		"windows":  "bafyreihnbgligdndl6kcyzjyv64uwlybzzmgrfe63ic6rnz3jg47optine",
	} {
		m, err := Parse(edit(t, goodYAML(), "model.config", configs[name]))
		if err != nil {
			t.Fatal(err)
		}
		if c, err := m.CID(); err != nil || c.String() != want {
			t.Errorf("%s: %s, %v, want %s", name, c, err, want)
		}
	}
}

// Packed documents and frequencies that change with a text's length exclude one
// another, and only those; a sequence is as long as the model can read.
func TestSequencesOfScaledModels(t *testing.T) {
	for _, c := range []struct {
		config, sequence string
		packed           bool
		want             string
	}{
		{"longrope", "64", true, ""},
		{"longrope 48", "64", true, "inner.separator: documents cannot be kept apart in sequences of 64 tokens"},
		{"longrope 48", "64", false, ""},
		{"longrope 48", "48", true, ""},
		{"dynamic", "64", true, ""},
		{"dynamic", "65", true, "inner.separator: documents cannot be kept apart in sequences of 65 tokens"},
		{"dynamic", "160", false, ""},
		{"dynamic", "161", false, "inner.sequence: 161 is above model.config.max_position_embeddings, 64, which rope_scaling stretches to 160"},
		{"yarn", "256", true, ""},
		{"yarn", "257", false, "stretches to 256"},
		{"linear", "65", false, "inner.sequence: 65 is above model.config.max_position_embeddings, 64"},
	} {
		name, original, other := strings.Cut(c.config, " ")
		config := configs[name]
		if other {
			config = strings.Replace(config, "original_max_position_embeddings: 64", "original_max_position_embeddings: "+original, 1)
		}
		y := edit(t, edit(t, goodYAML(), "model.config", config), "inner.sequence", c.sequence)
		if c.packed {
			y = edit(t, y, "inner.separator", "2")
		}
		if _, err := Parse(y); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// Two models that compute differently differ in a field, by its name in config.json; what
// changes no number does not count.
func TestDiffers(t *testing.T) {
	read := func(text string) Config {
		t.Helper()
		m, err := Parse(edit(t, goodYAML(), "model.config", text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return m.Model.Config
	}
	names := map[string]string{}
	for a, x := range configs {
		for b, y := range configs {
			field, _, _ := read(x).Differs(read(y))
			if (field == "") != (a == b) {
				t.Errorf("%s and %s differ in %q", a, b, field)
			}
			names[a+"/"+b] = field
		}
	}
	for pair, want := range map[string]string{"qwen2/qwen3": "architectures", "biases/linear": "attention_bias", "linear/dynamic": "rope_scaling.rope_type", "windows/qwen2": "sliding_window"} {
		if names[pair] != want {
			t.Errorf("%s: %q, want %q", pair, names[pair], want)
		}
	}
	for _, c := range []struct {
		name               string
		change             func(*Config)
		field, here, there string
	}{
		{"qwen2", func(c *Config) { c.RopeTheta = 5e5 }, "rope_theta", "10000", "500000"},
		{"qwen2", func(c *Config) { c.RMSNormEps = 1e-6 }, "rms_norm_eps", "1e-05", "1e-06"},
		{"qwen2", func(c *Config) { c.NumAttentionHeads, c.HeadDim, c.NumKeyValueHeads = 8, 8, 4 }, "num_attention_heads", "4", "8"},
		{"qwen2", func(c *Config) { c.NumKeyValueHeads = 1 }, "num_key_value_heads", "2", "1"},
		{"qwen3", func(c *Config) { c.HeadDim = 16 }, "head_dim", "32", "16"},
		{"qwen3", func(c *Config) { c.TieWordEmbeddings = false }, "tie_word_embeddings", "true", "false"},
		{"qwen2", func(c *Config) { c.NumHiddenLayers = 3 }, "num_hidden_layers", "2", "3"},
		{"qwen2", func(c *Config) { c.SlidingWindow, c.LayerTypes = 8, []string{hf.SlidingAttention, hf.FullAttention} }, "sliding_window", "none", "8"},
		{"windows", func(c *Config) { c.LayerTypes = []string{hf.SlidingAttention, hf.FullAttention} }, "layer_types[0]",
			hf.FullAttention, hf.SlidingAttention},
		{"qwen2", func(c *Config) { c.RopeScaling = &RopeScaling{Kind: hf.RopeLinear, Factor: 2} }, "rope_scaling", "none", "linear"},
		{"linear", func(c *Config) { c.RopeScaling = nil }, "rope_scaling", "linear", "none"},
		{"linear", func(c *Config) { c.RopeScaling = &RopeScaling{Kind: hf.RopeLinear, Factor: 4} }, "rope_scaling.factor", "2", "4"},
		{"yarn", func(c *Config) { r := *c.RopeScaling; r.Truncate = nil; c.RopeScaling = &r }, "rope_scaling.truncate", "false", "none"},
		{"longrope", func(c *Config) { r := *c.RopeScaling; r.Short = r.Long; c.RopeScaling = &r }, "rope_scaling.short_factor[1]", "1", "1.5"},
		{"dynamic", func(c *Config) { c.MaxPositionEmbeddings = 128 }, "max_position_embeddings", "64", "128"},
		{"qwen2", func(c *Config) { c.MaxPositionEmbeddings = 128 }, "", "", ""}, // how long a text may be
		{"qwen2", func(c *Config) { c.BOS, c.EOS = new(int), []int{2} }, "", "", ""},
	} {
		was := read(configs[c.name])
		is := was
		c.change(&is)
		if field, here, there := was.Differs(is); field != c.field || here != c.here || there != c.there {
			t.Errorf("%s: %q is %q, %q; want %q, %q, %q", c.name, field, here, there, c.field, c.here, c.there)
		}
	}
}

package testnet

import (
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A manifest takes over what a base is, and nothing else; what it says already must be the same.
func TestGoOn(t *testing.T) {
	base, tok, data := wire.SumCID(wire.CodecDagPB, []byte("base")), wire.SumCID(wire.CodecRaw, []byte("tok")), wire.SumCID(wire.CodecDagCBOR, []byte("data"))
	cfg := hf.Config{Family: hf.Qwen3, HiddenSize: 8, IntermediateSize: 8, NumHiddenLayers: 1, NumAttentionHeads: 2, NumKeyValueHeads: 2, HeadDim: 4,
		VocabSize: 3, MaxPositionEmbeddings: 8, RMSNormEps: 1e-5, RopeTheta: 1e4}
	from, err := manifest.Continue("other", cfg, base, tok)
	if err != nil {
		t.Fatal(err)
	}
	const plain = "version: 1\nname: mine\nlicence: MIT\ninner: {lr: 0.25, batch: 2, sequence: 8}\nround: {inner_steps: 2}\nstop: {rounds: 3}\n"
	for _, text := range []string{plain, "{version: 1, name: mine, licence: MIT, inner: {lr: 0.25, batch: 2, sequence: 8}, round: {inner_steps: 2}, stop: {rounds: 3}}", plain + "model: {seed: 3}\ntokenizer: \"\"\n", "# mine\n" + plain + "data: \"\"\n"} {
		raw, err := goOn([]byte(text), from)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if !strings.Contains(string(raw), "data: \"\"") {
			t.Fatalf("nothing to fill in:\n%s", raw)
		}
		m, err := manifest.Parse([]byte(strings.Replace(string(raw), `data: ""`, "data: "+data.String(), 1)))
		if err != nil {
			t.Errorf("%v\n%s", err, raw)
			continue
		}
		if field, here, there := m.Model.Config.Differs(manifest.ConfigOf(cfg)); field != "" || m.Model.Base != base || m.Tokenizer != tok || m.Name != "mine" || m.Inner.LR != 0.25 || m.Stop.Rounds != 3 {
			t.Errorf("%q %s %s: %+v", field, here, there, m)
		}
	}
	if raw, err := goOn(from, from); err != nil || !strings.Contains(string(raw), base.String()) {
		t.Errorf("one that names it already: %v\n%s", err, raw)
	}
	for text, want := range map[string]string{
		"- 1":  "mapping",
		"":     "mapping",
		"a: [": "yaml",
		plain + "model: {config: {hidden_size: 8}}":      "model.config of its own",
		plain + "model: {base: " + data.String() + "}\n": "model.base is " + data.String() + ", this model is " + base.String(),
	} {
		if _, err := goOn([]byte(text), from); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

package calibrate_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/shoalnet/shoal/toploc"
	"github.com/shoalnet/shoal/toploc/calibrate"
)

// measure calibrates a model with all forgers that can be made of it.
func measure(t *testing.T, net calibrate.Net, other []calibrate.Draft, text []int32, sequences, prompt, tokens, topk int) *calibrate.Report {
	t.Helper()
	best := device(t, 2, "")
	decode := device(t, 1, "")
	c := calibrate.Config{
		Model:   net,
		Params:  toploc.Params{Hidden: net.Config.HiddenSize, TopK: topk, Batch: 32},
		Prompts: prompts(text, sequences, prompt), Tokens: tokens, Temperature: 1,
		Verifier: calibrate.Machine{Name: "verifier", Device: best, Stretch: prompt + tokens},
		Honest: []calibrate.Machine{
			{Name: "same kernels, 1 thread, one token at a time", Device: decode, Stretch: 1},
			{Name: "portable kernels, 7 tokens at a time", Device: device(t, 2, "portable"), Stretch: 7},
			{Name: "bfloat16 activations, one token at a time", Device: calibrate.BF16(decode), Stretch: 1},
			{Name: "bfloat16 activations, portable kernels, prefill", Device: calibrate.BF16(device(t, 2, "portable")), Stretch: prompt + tokens},
		},
		Forgers: []calibrate.Forger{
			{Name: "half of the prompt dropped", Model: net, Prompt: func(p []int32) []int32 { return p[len(p)/2:] }},
			{Name: "last layer skipped", Model: net.Shallow(net.Config.NumHiddenLayers - 1)},
			{Name: "weights ± 5 %", Model: net.Perturbed(0.05, 1)},
			{Name: "weights ± 1 %", Model: net.Perturbed(0.01, 1)},
			{Name: "int4 weights", Model: net.Quantized(4, 32)},
			{Name: "fp8 weights", Model: net.FP8()},
			{Name: "int8 weights", Model: net.Quantized(8, 0)},
			{Name: "bfloat16 weights", Model: net.Rounded()},
		},
		Drafts: append([]calibrate.Draft{
			{Name: "greedy", Model: net, Temperature: 0},
			{Name: "temperature 0.7", Model: net, Temperature: 0.7},
			{Name: "temperature 1.3", Model: net, Temperature: 1.3},
			{Name: "int4 weights", Model: net.Quantized(4, 32), Temperature: 1},
			{Name: "without its last layer", Model: net.Shallow(net.Config.NumHiddenLayers - 1), Temperature: 1},
		}, other...),
		Progress: func(s string) { t.Log(s) },
	}
	r, err := calibrate.Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestTable calibrates a model that is trained here, and tries everything on it.
// With SHOAL_TOPLOC_TABLE=1 it is the README's table.
func TestTable(t *testing.T) {
	text := corpus(t)
	steps, sequences, tokens := 100, 12, 64
	if full() {
		steps, sequences, tokens = 600, 256, 256
	}
	net := trained(t, config(128, 3), text, steps, 1)
	small := trained(t, config(64, 1), text, steps, 2)
	r := measure(t, net, []calibrate.Draft{{Name: "a smaller model", Model: small, Temperature: 1}}, text, sequences, 48, tokens, 64)
	judge(t, r)
}

// TestTableStories does the same on stories260K, a model of other people's.
func TestTableStories(t *testing.T) {
	net, text := stories(t)
	if net == nil {
		t.Skip("SKIPPED: the shared models are not here")
	}
	sequences, tokens := 12, 64
	if full() {
		sequences, tokens = 256, 256
	}
	judge(t, measure(t, *net, nil, text, sequences, 48, tokens, 64))
}

// judge holds a report to what must be so on any model.
func judge(t *testing.T, r *calibrate.Report) {
	t.Helper()
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", r.Markdown())
	if _, err := toploc.ParsePolicy(b); err != nil {
		t.Errorf("the report is no policy: %v", err)
	}
	if f := r.FalseReject.Both; f.N == 0 || float64(f.K) > 0.01*float64(f.N) {
		t.Errorf("%d of %d honest chunks are rejected", f.K, f.N)
	}
	// What no inference of this text was done for, under both versions.
	must := map[string]bool{
		"constant polynomial": true, "modulus 1": true, "random record": true, "null proof": true, "template of the model": true,
		"replay of another text": true, "all signs flipped": true, "proofs in another order": true, "last layer skipped": true,
		"one proof too few": true, "one proof too many": true,
	}
	found := 0
	for _, g := range r.Forgeries {
		if must[g.Name] {
			found++
			if g.Calibrated > 0 || g.Margin1 >= 0 && g.Margin1 < 2 {
				t.Errorf("%s: %d of %d chunks pass version 1, margin %.2f", g.Name, g.Calibrated, g.Chunks, g.Margin1)
			}
			if !g.NoV2 && (g.V2 > 0 || g.Margin2 < 2) {
				t.Errorf("%s: %d of %d chunks pass version 2, margin %.2f", g.Name, g.V2, g.Chunks, g.Margin2)
			}
		}
		if g.Name == "int4 weights" && float64(g.V2) > 0.01*float64(g.Chunks) {
			t.Errorf("%s: %d of %d chunks pass version 2", g.Name, g.V2, g.Chunks)
		}
	}
	if found != len(must) {
		t.Errorf("%d of %d forgeries were tried", found, len(must))
	}
	for _, d := range r.Drafts {
		switch d.Name {
		case "honest":
			if d.Seeded < d.Sequences || d.Unseeded < d.Sequences {
				t.Errorf("honest texts are rejected: %d and %d of %d pass", d.Seeded, d.Unseeded, d.Sequences)
			}
		case "int4 weights", "one token edited, then honest": // near the right one at times
			if float64(d.Seeded) > 0.2*float64(d.Sequences) {
				t.Errorf("%s: %d of %d sequences pass", d.Name, d.Seeded, d.Sequences)
			}
		default:
			if d.Seeded > 0 {
				t.Errorf("%s: %d of %d sequences pass", d.Name, d.Seeded, d.Sequences)
			}
		}
	}
	for _, p := range r.Curve {
		if v := p.V2[1]; p.Error >= 0.1 && v.Passed > 0 {
			t.Errorf("activations with an error of %g pass version 2: %d of %d", p.Error, v.Passed, p.Chunks)
		}
	}
}

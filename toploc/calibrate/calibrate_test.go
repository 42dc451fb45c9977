package calibrate_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/toploc"
	"github.com/shoalnet/shoal/toploc/calibrate"
)

// measure calibrates a model with all that can be made of it.
func measure(t *testing.T, net calibrate.Net, other []calibrate.Draft, text []int32, sequences, prompt, tokens, topk int) *calibrate.Report {
	t.Helper()
	c := calibrate.Config{
		Model:   net,
		Params:  toploc.Params{Hidden: net.Config.HiddenSize, TopK: topk, Batch: 32},
		Prompts: prompts(text, sequences, prompt), Tokens: tokens, Temperature: 1,
		Progress: func(s string) { t.Log(s) },
	}
	c.Usual(calibrate.Devices{Best: device(t, 2, ""), Single: device(t, 1, ""), Portable: device(t, 2, "portable")}, prompt+tokens)
	c.Drafts = append(c.Drafts, other...)
	r, err := calibrate.Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestTable calibrates a model that is trained here, and tries everything on it.
// With SHOAL_TOPLOC_TABLE it is the README's table, of a larger model at the usual k.
func TestTable(t *testing.T) {
	text := corpus(t)
	hidden, topk, steps, sequences, tokens := 128, 64, 100, 16, 64
	if tables() != "" {
		hidden, topk, steps, sequences, tokens = 256, 128, 600, 256, 256
	}
	net := trained(t, config(hidden, 3), text, steps, 1)
	small := trained(t, config(64, 1), text, steps, 2)
	r := measure(t, net, []calibrate.Draft{{Name: "a smaller model", Model: small, Temperature: 1}}, text, sequences, 48, tokens, topk)
	keep(t, "trained", r)
	judge(t, r)
}

// TestTableStories does the same on stories260K, a model of other people's.
func TestTableStories(t *testing.T) {
	net, text := stories(t)
	if net == nil {
		t.Skip("SKIPPED: the shared models are not here")
	}
	sequences, tokens := 16, 128
	if tables() != "" {
		sequences, tokens = 256, 256
	}
	r := measure(t, *net, nil, text, sequences, 48, tokens, 64)
	keep(t, "stories260K", r)
	judge(t, r)
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
	if f := r.FalseReject.Both; f.N == 0 || float64(f.K) > max(1, 0.01*float64(f.N)) {
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
		switch {
		case d.Honest:
			if d.Seeded < d.Sequences || d.Unseeded < d.Sequences || d.Pooled < d.Pools {
				t.Errorf("%s: %d and %d of %d sequences pass", d.Name, d.Seeded, d.Unseeded, d.Sequences)
			}
		case d.Name == "int4 weights", strings.HasPrefix(d.Name, "one token"): // near the right one at times
			if float64(d.Seeded) > 0.7*float64(d.Sequences) {
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

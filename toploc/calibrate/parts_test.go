package calibrate_test

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/toploc"
	"github.com/shoalnet/shoal/toploc/calibrate"
)

func TestRate(t *testing.T) {
	for _, c := range []struct {
		k, n         int
		lower, upper float64
	}{
		{0, 1000, 0, 1 - math.Pow(0.05, 1.0/1000)},
		{1000, 1000, math.Pow(0.05, 1.0/1000), 1},
		{5, 10, 0.2224411, 0.7775589}, // tables of the binomial's exact one-sided 95 % bounds
		{1, 20, 0.0025614, 0.2161061},
		{0, 0, 0, 1},
	} {
		r := calibrate.NewRate(c.k, c.n, 0.95)
		if math.Abs(r.Lower-c.lower) > 1e-6 || math.Abs(r.Upper-c.upper) > 1e-6 {
			t.Errorf("%d of %d: %.7f to %.7f, want %.7f to %.7f", c.k, c.n, r.Lower, r.Upper, c.lower, c.upper)
		}
	}
}

func TestWeights(t *testing.T) {
	cfg := config(64, 2)
	net := calibrate.Net{Config: cfg, Weights: llama.Genesis(cfg, 3)}
	was := slices.Clone(net.Weights)
	differ := func(n calibrate.Net) (share, rms float64) {
		var e, x float64
		for i, w := range n.Weights {
			if w != net.Weights[i] {
				share++
			}
			d := float64(w - net.Weights[i])
			e += d * d
			x += float64(net.Weights[i]) * float64(net.Weights[i])
		}
		return share / float64(len(n.Weights)), math.Sqrt(e / x)
	}
	for name, c := range map[string]struct {
		net    calibrate.Net
		lo, hi float64 // relative error
	}{
		"int8": {net.Quantized(8, 0), 0.0005, 0.02}, "int4": {net.Quantized(4, 32), 0.01, 0.2}, "fp8": {net.FP8(), 0.003, 0.05},
		"bf16": {net.Rounded(), 0.0001, 0.004}, "perturbed": {net.Perturbed(0.01, 1), 0.0005, 0.01},
	} {
		if share, e := differ(c.net); share < 0.2 || e < c.lo || e > c.hi {
			t.Errorf("%s: %.2f of all weights differ, by %.4f", name, share, e)
		}
	}
	if !slices.Equal(net.Weights, was) {
		t.Error("the model itself was changed")
	}
	top := float32(448)
	for x, want := range map[float32]float32{448: 448, 17: 16, 18: 18, 25: 24, 0.01: 5.0 / 512, 0: 0, -27: -28} {
		one := calibrate.Net{Config: cfg, Weights: slices.Clone(net.Weights)}
		at := offset(cfg, "model.layers.0.mlp.down_proj.weight")
		one.Weights[at], one.Weights[at+1] = top, x
		if got := one.FP8().Weights[at+1]; got != want {
			t.Errorf("%g in float8 is %g, want %g", x, got, want)
		}
	}
	if s := net.Shallow(1); int64(len(s.Weights)) != s.Config.NumParams() || s.Config.NumHiddenLayers != 1 {
		t.Errorf("a shallow model of %d weights", len(s.Weights))
	}
}

func offset(cfg hf.Config, name string) int {
	off := 0
	for _, t := range cfg.Tensors() {
		if t.Name == name {
			return off
		}
		off += t.Len()
	}
	return -1
}

// A machine of bfloat16 gives activations that are bfloat16 numbers, near the
// others and not equal.
func TestBF16Machine(t *testing.T) {
	cfg := config(64, 2)
	w := llama.Genesis(cfg, 9)
	dev := device(t, 1, "")
	var all [2][]float32
	for i, d := range []bool{false, true} {
		m, err := llama.New(dev, cfg, w)
		if d {
			m, err = llama.New(calibrate.BF16(dev), cfg, w)
		}
		if err != nil {
			t.Fatal(err)
		}
		r, err := m.NewReader(20, 20)
		if err != nil {
			t.Fatal(err)
		}
		ids := make([]int32, 20)
		for i := range ids {
			ids[i] = int32(i * 5)
		}
		if err := r.Read(context.Background(), ids, func(h, _ []float32) error { all[i] = append(all[i], h...); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	var e, x float64
	for i, v := range all[1] {
		if math.Float32bits(v)&0xffff != 0 {
			t.Fatalf("activation %g is no bfloat16 number", v)
		}
		e += math.Pow(float64(v-all[0][i]), 2)
		x += float64(v) * float64(v)
	}
	if d := math.Sqrt(e / x); d < 1e-4 || d > 0.03 {
		t.Errorf("bfloat16 makes a difference of %g", d)
	}
}

func TestRunRefuses(t *testing.T) {
	cfg := config(64, 1)
	dev := device(t, 1, "")
	good := func() calibrate.Config {
		c := calibrate.Config{
			Model:   calibrate.Net{Config: cfg, Weights: llama.Genesis(cfg, 1)},
			Params:  toploc.Params{Hidden: 64, TopK: 16, Batch: 8},
			Prompts: [][]int32{{1}, {2}, {3}, {4}}, Tokens: 8, Temperature: 1,
		}
		c.Usual(calibrate.Devices{Best: dev, Single: dev, Portable: dev}, 9)
		c.Drafts = nil
		return c
	}
	for name, spoil := range map[string]func(*calibrate.Config){
		"hidden size": func(c *calibrate.Config) { c.Params.Hidden = 32 },
		"sequences":   func(c *calibrate.Config) { c.Prompts = c.Prompts[:3] },
		"multiple":    func(c *calibrate.Config) { c.Tokens = 9 },
		"temperature": func(c *calibrate.Config) { c.Temperature = 0 },
		"no honest":   func(c *calibrate.Config) { c.Honest = nil },
		"takes 1 to":  func(c *calibrate.Config) { c.Prompts[2] = make([]int32, 600) },
		"forger":      func(c *calibrate.Config) { c.Forgers[0].Model = calibrate.Net{Config: config(32, 1)} },
		"parameters":  func(c *calibrate.Config) { c.Model.Weights = c.Model.Weights[1:] },
	} {
		c := good()
		spoil(&c)
		if _, err := calibrate.Run(context.Background(), c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := calibrate.Run(ctx, good()); err == nil {
		t.Error("a cancelled run goes on")
	}
}

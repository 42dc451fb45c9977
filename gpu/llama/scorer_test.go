package llama

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
)

// A scorer's losses are Loss's, bit for bit on devices that say so, whatever was
// scored before; it tells how far it is and ends when it is asked to.
func TestScorer(t *testing.T) {
	windowed, dynamic, long := family(hf.Qwen3, true), small(true), small(true)
	windowed.SlidingWindow, windowed.Sliding = 100, make([]bool, windowed.NumHiddenLayers)
	windowed.Sliding[windowed.NumHiddenLayers-1] = true
	dynamic.RopeScaling = &hf.RopeScaling{Kind: hf.RopeDynamic, Factor: 3} // another RoPE for each length above 200
	half := long.HeadSize() / 2
	long.RopeScaling = &hf.RopeScaling{Kind: hf.RopeLong, Factor: 2, Original: 260, Short: slices.Repeat([]float64{1.2}, half), Long: slices.Repeat([]float64{3}, half)}
	for name, cfg := range map[string]hf.Config{"tied": small(true), "qwen2": family(hf.Qwen2, false), "qwen3": family(hf.Qwen3, true), "mlp bias": mlpBias(),
		"windowed": windowed, "dynamic": dynamic, "longrope": long} {
		cfg.MaxPositionEmbeddings = 600
		if name == "dynamic" {
			cfg.MaxPositionEmbeddings = 200
		}
		for _, dev := range devices(t) {
			rng := rand.New(rand.NewPCG(5, 12))
			m, err := New(dev, cfg, wild(cfg, rng))
			if err != nil {
				t.Fatal(err)
			}
			s, err := m.NewScorer(590)
			if err != nil {
				t.Fatal(err)
			}
			if s.once < 590 {
				t.Fatalf("%s: %d tokens at once", name, s.once)
			}
			s.once = 65
			for _, n := range []int{590, 2, 65, 257, 258, 300} {
				ids := batch(rng, 1, n-1, cfg.VocabSize)[0]
				want, err := m.Loss(ids)
				if err != nil {
					t.Fatal(err)
				}
				var told []int
				got, err := s.Score(t.Context(), ids, func(done int) { told = append(told, done) })
				if d := got - want; err != nil || d > 1e-6 || d < -1e-6 || told[len(told)-1] != n-1 || len(told) != (n-1+255)/256 {
					t.Errorf("%s, %s: %d tokens: loss %.9g, want %.9g (%v); told %d", name, dev.Name(), n, got, want, err, told)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			passes := 0
			_, err = s.Score(ctx, make([]int32, 590), func(int) { passes++; cancel() })
			if !errors.Is(err, context.Canceled) || passes != 1 {
				t.Errorf("%s, %s: ended after %d passes: %v", name, dev.Name(), passes, err)
			}
			for _, ids := range [][]int32{nil, {1}, make([]int32, 700), {1, int32(cfg.VocabSize)}} {
				if _, err := s.Score(t.Context(), ids, nil); err == nil {
					t.Errorf("%s, %s: %d tokens were scored", name, dev.Name(), len(ids))
				}
			}
			for _, n := range []int{-1, 0, 1, 602} {
				if _, err := m.NewScorer(n); err == nil {
					t.Errorf("%s: a scorer of %d tokens", name, n)
				}
			}
		}
	}
}

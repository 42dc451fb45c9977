package llama

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
)

// TestTextsOfAnyLength writes from before to beyond the length at which RoPE changes. Each
// token is the likeliest of one pass over all that precedes it, and who taps or reads again
// sees the same bits in whatever parts.
func TestTextsOfAnyLength(t *testing.T) {
	for _, kind := range []string{hf.RopeYarn, hf.RopeDynamic, hf.RopeLong} {
		cfg := stretched(kind)
		for _, dev := range devices(t) {
			rng := rand.New(rand.NewPCG(8, 8))
			params := wild(cfg, rng)
			m, err := New(dev, cfg, params)
			if err != nil {
				t.Fatal(err)
			}
			prompt := batch(rng, 1, 9, cfg.VocabSize)[0]
			write := func(prompt []int32, o GenerateOptions) (ids []int32, probs []float64) {
				o.LogProbs = true
				if err := m.Generate(context.Background(), prompt, o, func(x Token) bool {
					ids, probs = append(ids, x.ID), append(probs, x.LogProb)
					return true
				}); err != nil {
					t.Fatal(err)
				}
				return ids, probs
			}
			out, probs := write(prompt, GenerateOptions{})
			text := slices.Concat(prompt, out)
			if len(text) != cfg.Context()+1 {
				t.Fatalf("%s: %d tokens fill a context of %d", kind, len(text), cfg.Context())
			}
			for i := range out {
				var z []float64
				definition(cfg, params, text[:len(prompt)+i], func(_ int, x []float64) { z = x })
				best, sum := 0, 0.0
				for j, v := range z {
					if sum += math.Exp(v); v > z[best] {
						best = j
					}
				}
				if want := z[best] - math.Log(sum); int32(best) != out[i] || math.Abs(probs[i]-want) > 1e-4 {
					t.Errorf("%s, %s: token %d is %d (%.5f), the definition says %d (%.5f)", kind, dev.Name(), len(prompt)+i, out[i], probs[i], best, want)
				}
			}
			tapped := func(prompt []int32) (all []float32) {
				next := 0
				write(prompt, GenerateOptions{MaxTokens: len(text) - len(prompt), Hidden: func(at int, h []float32) {
					if at != next {
						t.Errorf("%s: position %d is told, want %d", kind, at, next)
					}
					next++
					all = append(all, h...)
				}})
				return all
			}
			hidden := tapped(prompt)
			if len(hidden) != (len(text)-1)*cfg.HiddenSize {
				t.Fatalf("%s: %d hidden values of %d tokens", kind, len(hidden), len(text))
			}
			if !slices.Equal(hidden, tapped(text[:30])) {
				t.Errorf("%s, %s: of a text that was given other states are told than of one that was written", kind, dev.Name())
			}
			for _, stretch := range []int{1, 7, len(text)} {
				r, err := m.NewReader(len(text)-1, stretch)
				if err != nil {
					t.Fatal(err)
				}
				var again []float32
				for part := range slices.Chunk(text[:len(text)-1], 11) {
					if err := r.Read(context.Background(), part, func(h, _ []float32) error {
						again = append(again, h...)
						return nil
					}); err != nil {
						t.Fatal(err)
					}
				}
				if !slices.Equal(hidden, again) {
					t.Errorf("%s, %s: read %d at a time the states are others", kind, dev.Name(), stretch)
				}
			}
		}
	}
}

func TestPackRefusesLengths(t *testing.T) {
	cfg := stretched(hf.RopeLong)
	o := DefaultOptions()
	o.Pack, o.Separator = true, 3
	dev := devices(t)[0]
	tr, err := NewTrainer(dev, cfg, Genesis(cfg, 1), o)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	if _, err := tr.Step(batch(rng, 1, 16, cfg.VocabSize), 1e-3); err != nil {
		t.Errorf("16 tokens: %v", err)
	}
	if _, err := tr.Step(batch(rng, 1, 17, cfg.VocabSize), 1e-3); err == nil || !strings.Contains(err.Error(), "longrope") || !strings.Contains(err.Error(), "at most 16") {
		t.Errorf("17 tokens: %v", err)
	}
}

// A text of one token more than the length at which RoPE changes has the other
// frequencies; the same tokens as a training window, whose last is not read, have not.
func TestLossAtTheLimit(t *testing.T) {
	for kind, limit := range map[string]int{hf.RopeDynamic: 20, hf.RopeLong: 16} {
		cfg := stretched(kind)
		rng := rand.New(rand.NewPCG(4, 8))
		params := wild(cfg, rng)
		m, err := New(devices(t)[0], cfg, params)
		if err != nil {
			t.Fatal(err)
		}
		ids := batch(rng, 1, limit, cfg.VocabSize)[0]
		if got, err := m.Loss(ids); err != nil || math.Abs(got-plain(cfg, params, ids)) > 2e-5*got {
			t.Errorf("%s: loss %.7f of %d tokens, by the definition %.7f, %v", kind, got, len(ids), plain(cfg, params, ids), err)
		}
		short := cfg // that never changes
		short.MaxPositionEmbeddings = 100
		if r := *cfg.RopeScaling; kind == hf.RopeLong {
			r.Long = r.Short
			short.RopeScaling = &r
		}
		if got, err := m.Eval([][]int32{ids}); err != nil || math.Abs(got-plain(short, params, ids)) > 2e-5*got {
			t.Errorf("%s: loss %.7f of a window of %d, by the definition %.7f, %v", kind, got, limit, plain(short, params, ids), err)
		}
	}
}

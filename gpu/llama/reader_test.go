package llama

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestReader holds a reader to Loss, and one pass to any other division of the
// sequence, and checks that its last hidden states give its logits.
func TestReader(t *testing.T) {
	for _, dev := range devices(t) {
		cfg := small(false)
		rng := rand.New(rand.NewPCG(3, 9))
		m, err := New(dev, cfg, wild(cfg, rng))
		if err != nil {
			t.Fatal(err)
		}
		ids := batch(rng, 1, 29, cfg.VocabSize)[0]
		read := func(stretch int, cuts ...int) (hidden, logits []float32) {
			r, err := m.NewReader(len(ids), stretch)
			if err != nil {
				t.Fatal(err)
			}
			for i := range len(cuts) - 1 {
				if err := r.Read(context.Background(), ids[cuts[i]:cuts[i+1]], func(h, z []float32) error {
					hidden, logits = append(hidden, h...), append(logits, z...)
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			}
			return hidden, logits
		}
		h1, z1 := read(len(ids), 0, len(ids))
		h2, z2 := read(1, 0, len(ids))
		h3, z3 := read(7, 0, 3, 18, len(ids))
		if !slices.Equal(h1, h2) || !slices.Equal(h1, h3) || !slices.Equal(z1, z2) || !slices.Equal(z1, z3) {
			t.Errorf("%s: a sequence read in parts has other activations", dev.Name())
		}
		if len(h1) != len(ids)*cfg.HiddenSize || len(z1) != len(ids)*cfg.VocabSize {
			t.Fatalf("%s: %d hidden values and %d logits", dev.Name(), len(h1), len(z1))
		}
		want, err := m.Loss(ids)
		if err != nil {
			t.Fatal(err)
		}
		var got float64
		for i, id := range ids[1:] {
			z, sum := z1[i*cfg.VocabSize:(i+1)*cfg.VocabSize], 0.0
			for _, v := range z {
				sum += math.Exp(float64(v))
			}
			got += (math.Log(sum) - float64(z[id])) / float64(len(ids)-1)
		}
		if diff := got - want; diff > 1e-4 || diff < -1e-4 {
			t.Errorf("%s: the logits' loss is %g, want %g", dev.Name(), got, want)
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	dev := devices(t)[0]
	cfg := small(true)
	m, err := New(dev, cfg, Genesis(cfg, 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]int{{0, 1}, {cfg.MaxPositionEmbeddings + 1, 1}, {4, 0}} {
		if _, err := m.NewReader(c[0], c[1]); err == nil {
			t.Errorf("a reader of %d tokens by %d is made", c[0], c[1])
		}
	}
	r, err := m.NewReader(4, 2)
	if err != nil {
		t.Fatal(err)
	}
	none := func(_, _ []float32) error { return nil }
	ctx, cancel := context.WithCancel(context.Background())
	if err := r.Read(ctx, make([]int32, 5), none); err == nil {
		t.Error("more than the limit is read")
	}
	if err := r.Read(ctx, []int32{int32(cfg.VocabSize)}, none); err == nil {
		t.Error("an unknown token is read")
	}
	stop := errors.New("stop")
	if err := r.Read(ctx, []int32{1, 2}, func(_, _ []float32) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("see's error is lost: %v", err)
	}
	cancel()
	if err := r.Read(ctx, []int32{1}, none); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled read: %v", err)
	}
}

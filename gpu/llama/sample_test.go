package llama

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/gpu/ref"
)

func TestSampler(t *testing.T) {
	logits := []float32{0, 3, 1, 3, -2, 2}
	pick := func(o GenerateOptions, n int) []float64 {
		s := sampler{opts: o}
		counts := make([]float64, len(logits))
		for i := range n {
			id, err := s.pick(logits, uint64(i))
			if err != nil {
				t.Fatal(err)
			}
			counts[id]++
		}
		return counts
	}
	if c := pick(GenerateOptions{}, 10); c[1] != 10 {
		t.Errorf("greedy chose %v; of equals the lower id comes first", c)
	}
	if c := pick(GenerateOptions{Temperature: 5, TopK: 1}, 10); c[1] != 10 {
		t.Errorf("top-1 chose %v", c)
	}
	const n = 40000
	for _, o := range []GenerateOptions{{Temperature: 1}, {Temperature: 2, TopK: 3}, {Temperature: 0.5, TopK: 4, Seed: 9}, {Temperature: 1, TopK: 99}} {
		order := []int{1, 3, 5, 2, 0, 4} // best first
		if o.TopK > 0 && o.TopK < len(order) {
			order = order[:o.TopK]
		}
		want := make([]float64, len(logits))
		var sum float64
		for _, id := range order {
			want[id] = math.Exp(float64(logits[id]) / o.Temperature)
			sum += want[id]
		}
		for id, c := range pick(o, n) {
			p := want[id] / sum
			if math.Abs(c/n-p) > 4*math.Sqrt(p*(1-p)/n) {
				t.Errorf("%+v: token %d came %.4f of the time, want %.4f", o, id, c/n, p)
			}
		}
	}
	s := sampler{opts: GenerateOptions{Temperature: 1}}
	if _, err := s.pick([]float32{0, float32(math.NaN())}, 0); err == nil {
		t.Error("NaN was sampled")
	}
}

func TestSamplerTopKAgainstSort(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for range 200 {
		logits := make([]float32, 1+rng.IntN(60))
		ids := make([]int32, len(logits))
		for i := range logits {
			logits[i], ids[i] = float32(rng.IntN(20)), int32(i)
		}
		slices.SortFunc(ids, func(a, b int32) int {
			if less(logits, a, b) {
				return 1
			}
			return -1
		})
		k := 1 + rng.IntN(len(logits))
		s := sampler{opts: GenerateOptions{TopK: k}}
		if got := s.cut(logits); got != ids[k-1] {
			t.Fatalf("best %d of %v end with %d, want %d", k, logits, got, ids[k-1])
		}
	}
}

func TestGenerateEnds(t *testing.T) {
	cfg := small(true)
	m, err := New(ref.New(), cfg, Genesis(cfg, 1))
	if err != nil {
		t.Fatal(err)
	}
	text := func(prompt int, o GenerateOptions, most int) []int32 {
		var got []int32
		p := batch(rand.New(rand.NewPCG(1, 1)), 1, prompt-1, cfg.VocabSize)[0]
		if err := m.Generate(context.Background(), p, o, func(id int32) bool {
			got = append(got, id)
			return len(got) < most
		}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	hot := GenerateOptions{Temperature: 3, Seed: 5}
	all := text(3, hot, 1000)
	if len(all) != cfg.MaxPositionEmbeddings-3+1 {
		t.Errorf("%d tokens fill a context of %d after 3", len(all), cfg.MaxPositionEmbeddings)
	}
	if got := text(3, hot, 1000); !slices.Equal(got, all) {
		t.Error("one seed gives two texts")
	}
	hot.Seed++
	if got := text(3, hot, 1000); slices.Equal(got, all) {
		t.Error("two seeds give one text")
	}
	hot.Seed--
	if got := text(3, hot, 4); !slices.Equal(got, all[:4]) {
		t.Errorf("yield's false gives %d tokens", len(got))
	}
	hot.MaxTokens = 7
	if got := text(3, hot, 1000); !slices.Equal(got, all[:7]) {
		t.Errorf("%d tokens, want 7", len(got))
	}
	hot.Stop = []int32{all[5]}
	if got := text(3, hot, 1000); !slices.Equal(got, all[:slices.Index(all, all[5])]) {
		t.Errorf("%d tokens before the stop", len(got))
	}
	if got := text(cfg.MaxPositionEmbeddings, GenerateOptions{}, 1000); len(got) != 1 {
		t.Errorf("%d tokens after a prompt that fills the context, want 1", len(got))
	}
}

// TestDecodeEqualsPrefill holds reading token by token to reading all at once,
// bit for bit on every kernel set: what a product's element is does not depend
// on the rows beside it. Audits of generated text rest on that.
func TestDecodeEqualsPrefill(t *testing.T) {
	cfg := size(48, 100, 2, 6, 2, 61, 128)
	rng := rand.New(rand.NewPCG(8, 8))
	params := wild(cfg, rng)
	ids := batch(rng, 1, 99, cfg.VocabSize)[0]
	for _, dev := range devices(t) {
		m, err := New(dev, cfg, params)
		if err != nil {
			t.Fatal(err)
		}
		m.rotary(len(ids))
		logits := func(rows int) []float32 {
			d := decoder{Model: m, cache: m.newCache(len(ids)), plan: newPlan(dev, cfg, rows, false), logits: make([]float32, cfg.VocabSize)}
			if err := d.read(context.Background(), ids); err != nil {
				t.Fatal(err)
			}
			return d.logits
		}
		want := logits(len(ids))
		for _, rows := range []int{1, 7} {
			if got := logits(rows); !slices.Equal(got, want) {
				t.Errorf("%s: %d tokens at a time give other logits than all at once", dev.Name(), rows)
			}
		}
	}
}

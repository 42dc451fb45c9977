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
			id, err := s.pick(logits, -1, uint64(i))
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
	if _, err := s.pick([]float32{0, float32(math.NaN())}, -1, 0); err == nil {
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
		if err := m.Generate(context.Background(), p, o, func(x Token) bool {
			got = append(got, x.ID)
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
		logits := func(rows int) (z []float32) {
			r, err := m.NewReader(len(ids), rows)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Read(context.Background(), ids, func(_, x []float32) error { z = append(z[:0], x...); return nil }); err != nil {
				t.Fatal(err)
			}
			return z
		}
		want := logits(len(ids))
		for _, rows := range []int{1, 7} {
			if got := logits(rows); !slices.Equal(got, want) {
				t.Errorf("%s: %d tokens at a time give other logits than all at once", dev.Name(), rows)
			}
		}
	}
}

// What is drawn, and how often, is what the definitions of top-p and min-p keep
// of softmax(logits/temperature).
func TestNucleusAndMinP(t *testing.T) {
	logits := []float32{1, 3, -2, 2.5, 0, 2.5, -1}
	for _, o := range []GenerateOptions{
		{TopP: 0.8}, {TopP: 0.1}, {TopP: 1}, {MinP: 0.3}, {MinP: 1}, {TopP: 0.9, MinP: 0.1}, {TopK: 4, TopP: 0.7}, {TopP: 0.5, Temperature: 2},
	} {
		if o.Temperature == 0 {
			o.Temperature = 1
		}
		s := sampler{opts: o}
		order := []int{1, 3, 5, 0, 4, 6, 2} // ties to the lower id
		if o.TopK > 0 {
			order = order[:o.TopK]
		}
		p := map[int32]float64{}
		sum, most := 0.0, 0.0
		for _, id := range order {
			p[int32(id)] = math.Exp(float64(logits[id]) / o.Temperature)
			sum += p[int32(id)]
			most = max(most, p[int32(id)])
		}
		cum := 0.0
		for _, id := range order {
			v := p[int32(id)]
			if o.TopP > 0 && cum >= o.TopP*sum || v < o.MinP*most {
				delete(p, int32(id))
			}
			cum += v
		}
		sum = 0
		for _, v := range p {
			sum += v
		}
		const n = 20000
		got := map[int32]int{}
		for i := range uint64(n) {
			id, err := s.pick(slices.Clone(logits), -1, i)
			if err != nil {
				t.Fatal(err)
			}
			got[id]++
		}
		for id := range int32(len(logits)) {
			want := p[id] / sum
			if math.Abs(float64(got[id])/n-want) > 4*math.Sqrt(want/n)+1e-12 {
				t.Errorf("%+v: token %d came %d times of %d, want a share of %.4f", o, id, got[id], n, want)
			}
		}
	}
}

func TestPenaltyAndLogProb(t *testing.T) {
	s := sampler{opts: GenerateOptions{Repetition: 2}}
	logits := []float32{4, -1, 3, -8}
	raw := s.penalize(logits, []int32{0, 1}, false)
	if !slices.Equal(logits, []float32{2, -2, 3, -8}) || !slices.Equal(raw, []float32{4, -1, 3, -8}) {
		t.Errorf("penalized to %g, kept %g", logits, raw)
	}
	cfg := small(true)
	m, err := New(devices(t)[0], cfg, wild(cfg, rand.New(rand.NewPCG(5, 5))))
	if err != nil {
		t.Fatal(err)
	}
	c := sampler{opts: GenerateOptions{Frequency: 0.5, Presence: 1}}
	for range 2 {
		logits = []float32{4, -1, 3, -8}
		c.penalize(logits, []int32{0, 1, 1}, c.seen != nil)
	}
	if !slices.Equal(logits, []float32{2.5, -3, 3, -8}) {
		t.Errorf("after 0, 1, 1 in the prompt and in the text: %g", logits)
	}
	var ids []int32
	var sum float64
	o := GenerateOptions{MaxTokens: 20, Temperature: 1, TopP: 0.9, Repetition: 1.5, Seed: 9, LogProbs: true}
	if err := m.Generate(context.Background(), []int32{7}, o, func(x Token) bool { ids, sum = append(ids, x.ID), sum+x.LogProb; return true }); err != nil {
		t.Fatal(err)
	}
	if want, err := m.Loss(append([]int32{7}, ids...)); err != nil || len(ids) != 20 || math.Abs(want*20+sum) > 1e-4 {
		t.Errorf("log-probabilities of %d tokens add up to %g, their loss is %g, %v", len(ids), sum, want*20, err)
	}
	for _, bad := range []GenerateOptions{{TopP: 1.5}, {MinP: -1}, {Repetition: -1}, {TopP: math.NaN()}, {Frequency: math.NaN()}, {Presence: 1000}} {
		if err := m.Generate(context.Background(), []int32{7}, bad, func(Token) bool { return false }); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

package llama

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/ref"
)

// gradientOf gives loss and gradient of tokens under options that o changes.
func gradientOf(t *testing.T, tr func(o Options) *Trainer, tokens [][]int32, change func(*Options)) (float64, []float32) {
	t.Helper()
	o := DefaultOptions()
	change(&o)
	x := tr(o)
	loss, err := x.gradient(tokens)
	if err != nil {
		t.Fatal(err)
	}
	return loss, slices.Clone(x.grads.Host)
}

// apart is the distance of two gradients as a part of the first's norm.
func apart(a, b []float32) float64 {
	var diff, norm float64
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		diff, norm = diff+d*d, norm+float64(a[i])*float64(a[i])
	}
	return math.Sqrt(diff / norm)
}

// TestMicroBatchesAndCheckpoints holds both to the gradients of whole batches.
func TestMicroBatchesAndCheckpoints(t *testing.T) {
	for name, cfg := range map[string]hf.Config{"tied": small(true), "untied": small(false), "qwen3": family(hf.Qwen3, true), "mlp bias": mlpBias(), "window": windowed(hf.Qwen2, 5, true, false)} {
		for _, dev := range devices(t) {
			rng := rand.New(rand.NewPCG(5, 6))
			params := wild(cfg, rng)
			tokens := batch(rng, 5, 13, cfg.VocabSize)
			trainer := func(o Options) *Trainer {
				tr, err := NewTrainer(dev, cfg, params, o)
				if err != nil {
					t.Fatal(err)
				}
				return tr
			}
			loss, want := gradientOf(t, trainer, tokens, func(*Options) {})
			again, got := gradientOf(t, trainer, tokens, func(o *Options) { o.Checkpoint = true })
			if again != loss || !slices.Equal(got, want) {
				t.Errorf("%s, %s: with checkpoints loss %g, gradient off by %g; want the same bits", name, dev.Name(), again-loss, apart(want, got))
			}
			for _, m := range []int{1, 2, 3, 9} {
				l, got := gradientOf(t, trainer, tokens, func(o *Options) { o.MicroBatch, o.Checkpoint = m, m == 2 })
				if math.Abs(l-loss) > 1e-6*loss || apart(want, got) > 1e-6 {
					t.Errorf("%s, %s: micro-batches of %d: loss %.9g, want %.9g; gradient off by %.2g", name, dev.Name(), m, l, loss, apart(want, got))
				}
			}
		}
	}
}

// TestPackedDocuments holds a packed sequence to its documents alone.
func TestPackedDocuments(t *testing.T) {
	for _, cfg := range []hf.Config{small(true), windowed(hf.Qwen3, 4, true, true)} {
		packedDocuments(t, cfg)
	}
}

func packedDocuments(t *testing.T, cfg hf.Config) {
	const sep = 3
	for _, dev := range devices(t) {
		rng := rand.New(rand.NewPCG(5, 8))
		params := wild(cfg, rng)
		trainer := func(o Options) *Trainer {
			tr, err := NewTrainer(dev, cfg, params, o)
			if err != nil {
				t.Fatal(err)
			}
			return tr
		}
		var packed []int32
		var loss float64
		want := make([]float32, len(params))
		lengths := []int{7, 1, 12, 2, 9}
		predictions := 0
		for _, n := range lengths {
			doc := make([]int32, n)
			for i := range doc {
				doc[i] = 4 + int32(rng.IntN(cfg.VocabSize-4))
			}
			doc = append(doc, sep)
			packed = append(packed, doc...)
			l, g := gradientOf(t, trainer, [][]int32{doc}, func(*Options) {})
			predictions += n
			loss += l * float64(n)
			for i := range g {
				want[i] += g[i] * float32(n)
			}
		}
		loss /= float64(predictions)
		for i := range want {
			want[i] /= float32(predictions)
		}
		packed = append(packed, 5) // the target of the last separator: none
		for _, checkpoint := range []bool{false, true} {
			l, got := gradientOf(t, trainer, [][]int32{packed}, func(o *Options) { o.Pack, o.Separator, o.Checkpoint = true, sep, checkpoint })
			if math.Abs(l-loss) > 1e-5*loss || apart(want, got) > 1e-5 {
				t.Errorf("%s: packed: loss %.9g, alone %.9g; gradient off by %.2g", dev.Name(), l, loss, apart(want, got))
			}
		}
		if l, _ := gradientOf(t, trainer, [][]int32{packed}, func(*Options) {}); math.Abs(l-loss) < 1e-3 {
			t.Errorf("%s: without masks the loss is the same, %g: nothing was tested", dev.Name(), l)
		}
	}
	o := DefaultOptions()
	o.Pack, o.Separator = true, 3
	tr, err := NewTrainer(ref.New(), cfg, Genesis(cfg, 1), o)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // what predicts nothing teaches nothing, and ends nothing
		if loss, err := tr.Step([][]int32{{3, 3, 3}, {3, 3, 9}}, 1e-3); err != nil || loss != 0 || tr.GradNorm() != 0 {
			t.Errorf("a batch of separators: loss %g, gradient of norm %g, %v", loss, tr.GradNorm(), err)
		}
		if loss, err := tr.Eval([][]int32{{3, 3}}); err != nil || loss != 0 {
			t.Errorf("a batch of separators evaluates to %g, %v", loss, err)
		}
		if loss, err := tr.Step([][]int32{{3, 4, 3}, {3, 4, 9}}, 0); err != nil || !(loss > 0) {
			t.Errorf("a batch with two predictions: loss %g, %v", loss, err)
		}
	}
	for _, sep := range []int32{-1, int32(cfg.VocabSize)} {
		o.Separator = sep
		if _, err := NewTrainer(ref.New(), cfg, Genesis(cfg, 1), o); err == nil || !strings.Contains(err.Error(), "separator") {
			t.Errorf("separator %d: %v", sep, err)
		}
	}
}

// TestPackedEval: a packed sequence evaluates to what its documents do, as in Step.
func TestPackedEval(t *testing.T) {
	const sep = 3
	cfg := small(true)
	for _, dev := range devices(t) {
		rng := rand.New(rand.NewPCG(5, 11))
		o := DefaultOptions()
		o.Pack, o.Separator = true, sep
		tr, err := NewTrainer(dev, cfg, wild(cfg, rng), o)
		if err != nil {
			t.Fatal(err)
		}
		tokens := batch(rng, 5, 13, cfg.VocabSize)
		for i, s := range tokens {
			s[3], s[4], s[5+i] = sep, sep, sep
		}
		before, err := tr.Eval(tokens)
		if err != nil {
			t.Fatal(err)
		}
		hidden, _ := tr.Hidden()
		hidden = slices.Clone(hidden)
		loss, err := tr.Step(tokens, 0)
		if again, _ := tr.Hidden(); err != nil || loss != before || !slices.Equal(again[:len(hidden)], hidden) {
			t.Errorf("%s: evaluates to %.9g, a step to %.9g (%v), or other hidden states", dev.Name(), before, loss, err)
		}
		var sum float64
		predictions := 0
		for _, s := range tokens {
			for from, at := 0, 0; at < len(s); at++ {
				if s[at] != sep && at+1 < len(s) {
					continue
				}
				if doc := s[from : at+1]; len(doc) > 1 {
					l, err := tr.Loss(doc)
					if err != nil {
						t.Fatal(err)
					}
					sum += l * float64(len(doc)-1)
					predictions += len(doc) - 1
				}
				from = at + 1
			}
		}
		if want := sum / float64(predictions); math.Abs(loss-want) > 1e-6*want {
			t.Errorf("%s: packed %.9g, the documents alone %.9g", dev.Name(), loss, want)
		}
		if whole, err := tr.Model.Eval(tokens); err != nil || math.Abs(whole-loss) < 1e-3 {
			t.Errorf("%s: without masks %.9g, with them %.9g (%v): nothing was tested", dev.Name(), whole, loss, err)
		}
	}
}

// TestOptionsAllocateNothing holds steps with all options to no allocation.
func TestOptionsAllocateNothing(t *testing.T) {
	cfg := wide()
	o := DefaultOptions()
	o.MicroBatch, o.Checkpoint, o.Pack, o.Separator = 2, true, true, 7
	tr, err := NewTrainer(newCPU(t, cpu.Options{Threads: 2}), cfg, Genesis(cfg, 3), o)
	if err != nil {
		t.Fatal(err)
	}
	tokens := batch(rand.New(rand.NewPCG(9, 9)), 5, 33, cfg.VocabSize)
	step := func() {
		if _, err := tr.Step(tokens, 1e-3); err != nil {
			t.Fatal(err)
		}
	}
	step()
	if n := testing.AllocsPerRun(10, step); n != 0 {
		t.Errorf("%g allocations a step", n)
	}
}

// TestMicroBatchesKeepHidden: the hidden states of a step are those of all its
// sequences, however many went through the model at a time.
func TestMicroBatchesKeepHidden(t *testing.T) {
	cfg := small(true)
	for _, dev := range devices(t) {
		rng := rand.New(rand.NewPCG(5, 9))
		params := wild(cfg, rng)
		tokens := batch(rng, 5, 13, cfg.VocabSize)
		var want []float32
		for _, m := range []int{0, 1, 2, 9} {
			o := DefaultOptions()
			o.MicroBatch = m
			x, err := NewTrainer(dev, cfg, params, o)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := x.Step(tokens, 0); err != nil {
					t.Fatal(err)
				}
			}
			rows, width := x.Hidden()
			if m == 0 {
				want = slices.Clone(rows)
			}
			if width != cfg.HiddenSize || len(rows) != 5*12*width && len(rows) != 5*13*width || !slices.Equal(rows, want) {
				t.Errorf("%s, micro-batches of %d: %d values of width %d, or not those of the whole batch", dev.Name(), m, len(rows), width)
			}
		}
	}
}

// TestMixedPrecision trains in mixed precision: about the loss of float32, weights that
// keep float32's precision, and one checksum on all instruction sets.
func TestMixedPrecision(t *testing.T) {
	cfg := wide()
	var want uint32
	for _, isa := range cpu.ISAs() {
		losses := [2]float64{}
		for i, half := range []bool{false, true} {
			tr := newTrainer(t, newCPU(t, cpu.Options{Threads: 2, ISA: isa, Reproducible: true, BF16: half}), cfg, Genesis(cfg, 3))
			tokens := batch(rand.New(rand.NewPCG(9, 9)), 4, 24, cfg.VocabSize)
			for range 30 {
				l, err := tr.Step(tokens, 3e-3)
				if err != nil {
					t.Fatal(err)
				}
				losses[i] = l
			}
			if !half {
				continue
			}
			fine := 0
			for _, x := range tr.Params() {
				if math.Float32bits(x)&0xffff != 0 {
					fine++
				}
			}
			if fine < len(tr.Params())*9/10 {
				t.Errorf("%s: only %d of %d weights have more than bfloat16's precision", isa, fine, len(tr.Params()))
			}
			if want == 0 {
				want = crc(tr.Params())
			}
			if got := crc(tr.Params()); got != want {
				t.Errorf("%s: weights have checksum %#x, want %#x", isa, got, want)
			}
		}
		if losses[0] > 3.5 || losses[0] == losses[1] || math.Abs(losses[0]-losses[1]) > 0.02*losses[0] {
			t.Errorf("%s: loss %.4f in float32, %.4f in bfloat16", isa, losses[0], losses[1])
		}
	}
}

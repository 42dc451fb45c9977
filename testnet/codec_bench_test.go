package testnet_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/diloco/outer"
	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// The swarm that BenchmarkLossPerCodec trains: four workers, H = 20, η = 0.7, μ = 0.6.
const (
	lossWorkers  = 4
	lossBatch    = 8 // sequences of each worker's step
	lossSequence = 32
	lossInner    = 20
)

// A lossBench holds what all of its arms share.
type lossBench struct {
	cfg        hf.Config
	dev        *cpu.Device
	train, val []int32
	genesis    []float32
	schedule   func(step uint64) float64
	steps      int // of each worker
	fp32       float64
}

// BenchmarkLossPerCodec trains one small character model per codec on equal tokens and
// reports its validation loss, also over that of exchanging plain float32, and the bytes a
// parameter that a worker sends each round. SHOAL_BENCH_STEPS sets the inner steps
// of each worker (300), SHOAL_BENCH_TEXT the text. Each arm is seeded: a second run gives the
// same numbers on the same machine.
func BenchmarkLossPerCodec(b *testing.B) {
	l := newLossBench(b)
	b.Run("one-worker-its-batch", func(b *testing.B) { l.single(b, lossBatch) })
	b.Run("one-worker-all-batches", func(b *testing.B) { l.single(b, lossBatch*lossWorkers) })
	b.Run("fp32", func(b *testing.B) { l.fp32 = l.swarm(b, nil) })
	for _, s := range []codec.Spec{{Kind: codec.Int8}, {Kind: codec.Int4}, {Kind: codec.TopK, Density: 1250}, {Kind: codec.TopK, Density: 156}} {
		name := s.Kind.String()
		if s.Kind == codec.TopK {
			name = fmt.Sprintf("%s-%.2f%%", name, float64(s.Density)/100)
		}
		b.Run(name, func(b *testing.B) { l.swarm(b, &s) })
	}
}

func newLossBench(b *testing.B) *lossBench {
	text := benchText(b)
	tok, err := hf.NewChar(text)
	if err != nil {
		b.Fatal(err)
	}
	ids := tok.Encode(text)
	l := &lossBench{steps: 300, train: ids[:len(ids)*9/10], val: ids[len(ids)*9/10:]}
	if s := os.Getenv("SHOAL_BENCH_STEPS"); s != "" {
		if l.steps, err = strconv.Atoi(s); err != nil || l.steps < lossInner {
			b.Fatalf("SHOAL_BENCH_STEPS=%s: want a number from %d on", s, lossInner)
		}
	}
	l.cfg = hf.Config{HiddenSize: 64, IntermediateSize: 172, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 4,
		VocabSize: tok.VocabSize(), MaxPositionEmbeddings: lossSequence, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true}
	m := &manifest.Manifest{Inner: manifest.Inner{Schedule: "cosine", LR: 5e-3, MinLR: 5e-4, Warmup: uint64(min(50, l.steps/4)), Steps: uint64(l.steps)}}
	l.schedule = func(step uint64) float64 { return node.LearningRate(m, step) }
	l.genesis = llama.Genesis(l.cfg, 1)
	if l.dev, err = cpu.New(cpu.Options{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.dev.Close(); err != nil {
			b.Error(err)
		}
	})
	return l
}

// benchText returns the text of SHOAL_BENCH_TEXT, that of the demo, or tinyshakespeare from a
// folder beside the repository.
func benchText(b *testing.B) string {
	paths, err := filepath.Glob("demo/*.txt")
	if err != nil {
		b.Fatal(err)
	}
	paths = append(paths, "../../shared/data/text/tinyshakespeare.txt")
	if p := os.Getenv("SHOAL_BENCH_TEXT"); p != "" {
		paths = []string{p}
	}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) && len(paths) > 1 {
			continue
		}
		if err != nil {
			b.Fatal(err)
		}
		if len(text) > 100_000 {
			b.Logf("text: %s, %d bytes", p, len(text))
			return string(text)
		}
	}
	b.Skip("SKIPPED: no text to train on; set SHOAL_BENCH_TEXT to a file of at least 100 kB")
	return ""
}

// batch returns n sequences of lossSequence+1 tokens from random places.
func batch(r *rand.Rand, tokens []int32, n int) [][]int32 {
	out := make([][]int32, n)
	for i := range out {
		at := r.IntN(len(tokens) - lossSequence)
		out[i] = tokens[at : at+lossSequence+1]
	}
	return out
}

func (l *lossBench) trainer(b *testing.B) *llama.Trainer {
	t, err := llama.NewTrainer(l.dev, l.cfg, l.genesis, llama.DefaultOptions())
	if err != nil {
		b.Fatal(err)
	}
	return t
}

// report evaluates params and reports the loss in nats a character.
func (l *lossBench) report(b *testing.B, params []float32) float64 {
	m, err := llama.New(l.dev, l.cfg, params)
	if err != nil {
		b.Fatal(err)
	}
	loss, err := m.Eval(batch(rand.New(rand.NewPCG(9, 9)), l.val, 1024))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(loss, "val_nats")
	if l.fp32 > 0 {
		b.ReportMetric(loss/l.fp32, "loss/fp32")
	}
	b.ReportMetric(0, "ns/op") // the time of a whole training says nothing here
	return loss
}

// single trains one worker without any exchange.
func (l *lossBench) single(b *testing.B, size int) {
	for b.Loop() {
		t := l.trainer(b)
		r := rand.New(rand.NewPCG(1, 0))
		for s := range l.steps {
			if _, err := t.Step(batch(r, l.train, size), l.schedule(uint64(s))); err != nil {
				b.Fatal(err)
			}
		}
		l.report(b, t.Params())
	}
}

// swarm trains lossWorkers workers that exchange payloads of spec, or plain float32 if it is nil.
func (l *lossBench) swarm(b *testing.B, spec *codec.Spec) (loss float64) {
	for b.Loop() {
		theta := slices.Clone(l.genesis)
		momentum := make([]float32, len(theta))
		var workers []*llama.Trainer
		var random []*rand.Rand
		var feedback []*codec.Feedback
		perParam := 4.0
		for i := range lossWorkers {
			workers = append(workers, l.trainer(b))
			random = append(random, rand.New(rand.NewPCG(1, uint64(i))))
		}
		if spec != nil {
			var layout codec.Layout
			for _, t := range l.cfg.Tensors() {
				layout = append(layout, t.Len())
			}
			c, err := codec.New(*spec, layout)
			if err != nil {
				b.Fatal(err)
			}
			perParam = float64(c.Size()) / float64(c.Params())
			for range workers {
				feedback = append(feedback, codec.NewFeedback(c))
			}
		}
		for done := 0; done < l.steps; done += lossInner {
			deltas := make([][]float32, len(workers))
			for i, w := range workers {
				if err := w.SetParams(theta); err != nil {
					b.Fatal(err)
				}
				for s := done; s < min(done+lossInner, l.steps); s++ {
					if _, err := w.Step(batch(random[i], l.train, lossBatch), l.schedule(uint64(s))); err != nil {
						b.Fatal(err)
					}
				}
				deltas[i] = slices.Clone(theta)
				for j, x := range w.Params() {
					deltas[i][j] -= x
				}
			}
			if spec == nil {
				plainStep(theta, momentum, deltas)
				continue
			}
			if err := codecStep(theta, momentum, deltas, feedback, done); err != nil {
				b.Fatal(err)
			}
		}
		loss = l.report(b, theta)
		b.ReportMetric(perParam, "B/param")
	}
	return loss
}

// plainStep is the outer step on the mean of float32 deltas, without clipping.
func plainStep(theta, momentum []float32, deltas [][]float32) {
	for j := range theta {
		g := float32(0)
		for _, d := range deltas {
			g += d[j] / float32(len(deltas))
		}
		momentum[j] = 0.6*momentum[j] + g
		theta[j] -= 0.7 * (g + 0.6*momentum[j])
	}
}

// codecStep sends the deltas through payloads.
func codecStep(theta, momentum []float32, deltas [][]float32, feedback []*codec.Feedback, round int) error {
	var in []outer.Input
	for i, f := range feedback {
		h := codec.Header{Run: wire.SumCID(wire.CodecDagCBOR, []byte("run")), Parent: wire.SumCID(wire.CodecDagCBOR, fmt.Append(nil, round))}
		h.Peer[0], h.Peer[1] = 2, byte(i)
		d, err := f.Encode(h, deltas[i])
		if err != nil {
			return err
		}
		f.Merged(h.Parent)
		in = append(in, outer.Input{Delta: d, Weight: 1})
	}
	return outer.Step(theta, momentum, in, outer.Config{LR: 0.7, Momentum: 0.6})
}

package llama

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/ref"
)

func size(d, f, layers, heads, kv, vocab, positions int) hf.Config {
	return hf.Config{HiddenSize: d, IntermediateSize: f, NumHiddenLayers: layers, NumAttentionHeads: heads, NumKeyValueHeads: kv,
		VocabSize: vocab, MaxPositionEmbeddings: positions, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true}
}

// BenchmarkStep gives tokens/s of training steps, and how many times as fast
// as the reference that is, measured in the same run.
func BenchmarkStep(b *testing.B) {
	for _, s := range []struct {
		name         string
		cfg          hf.Config
		seqs, tokens int
	}{
		{"0.1M", size(64, 176, 2, 4, 4, 90, 64), 8, 64},
		{"0.8M", size(128, 352, 4, 4, 4, 90, 64), 8, 64},
		{"6.1M", size(288, 768, 6, 6, 6, 512, 256), 8, 256},
	} {
		var base float64
		for _, dev := range benchDevices(b) {
			if dev.Name() == ref.New().Name() && s.name == "6.1M" {
				continue // minutes
			}
			b.Run(fmt.Sprintf("%s/%s", s.name, dev.Name()), func(b *testing.B) {
				tr := newTrainer(b, dev, s.cfg, Genesis(s.cfg, 1))
				tokens := batch(rand.New(rand.NewPCG(1, 1)), s.seqs, s.tokens, s.cfg.VocabSize)
				for b.Loop() {
					if _, err := tr.Step(tokens, 1e-3); err != nil {
						b.Fatal(err)
					}
				}
				rate := float64(b.N*s.seqs*s.tokens) / b.Elapsed().Seconds()
				if base == 0 {
					base = rate
				}
				n := float64(s.cfg.NumParams())
				b.ReportMetric(rate, "tokens/s")
				b.ReportMetric(6*n*rate/1e9, "GFLOP/s")
				b.ReportMetric(rate/base, "x-ref")
			})
		}
	}
}

// BenchmarkGenerate gives tokens/s of greedy decoding.
func BenchmarkGenerate(b *testing.B) {
	cfg := size(128, 352, 4, 4, 4, 90, 1024)
	for _, dev := range benchDevices(b) {
		b.Run(dev.Name(), func(b *testing.B) {
			m, err := New(dev, cfg, Genesis(cfg, 1))
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			for b.Loop() {
				err := m.Generate(context.Background(), []int32{1}, GenerateOptions{MaxTokens: 256}, func(Token) bool { n++; return true })
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

func benchDevices(b *testing.B) []gpu.Device {
	all := []gpu.Device{ref.New()}
	for _, isa := range cpu.ISAs() {
		for _, threads := range []int{1, 2} {
			all = append(all, newCPU(b, cpu.Options{Threads: threads, ISA: isa}))
		}
	}
	return all
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
)

// A measure is one line of bench.
type measure struct {
	Kind  string  `json:"kind"`  // gemm, step or decode
	What  string  `json:"what"`  // shape or model
	Rate  float64 `json:"rate"`  // the best of some times
	Unit  string  `json:"unit"`  // GFLOP/s, or tokens/s
	Flops float64 `json:"gflop"` // useful GFLOP/s
}

// measured is what bench prints.
type measured struct {
	Device   string    `json:"device"`
	Kernels  []string  `json:"kernels"` // that this machine and build have, the best first
	Threads  int       `json:"threads"`
	Measures []measure `json:"measures"`
}

func (a *app) benchCmd() *cobra.Command {
	var isa, config string
	var thr int
	var each time.Duration
	var quick, bf16 bool
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure what this machine can do",
		Long: `Matrix products in the three layouts of training, training steps, and the writing of
text, of models of 0.8 and 6.1 million parameters. What is said is the best of several
times, so that other work on the machine disturbs little.

With --config, instead, how this machine fits a run: what "shoal join" measures and
chooses, which keeps it for a day.`,
		Example: `  shoal bench
  shoal bench --config run.yaml
  shoal bench --threads 1 --json
  shoal bench --bf16             # what "train --bf16" gains here`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if each <= 0 || each > time.Minute {
				return usagef("--time %s: want up to a minute", each)
			}
			if config != "" {
				return a.showFit(cmd.Context(), config, thr)
			}
			dev, err := cpu.New(cpu.Options{Threads: threads(thr), ISA: isa, BF16: bf16})
			if err != nil {
				return usageError{err, "kernels here: " + strings.Join(cpu.ISAs(), ", ")}
			}
			defer func() { err = errors.Join(err, dev.Close()) }()
			b := bench{dev: dev, each: each, quick: quick, out: measured{Device: dev.Name(), Kernels: cpu.ISAs(), Threads: dev.Threads()}}
			if err := b.all(cmd.Context()); err != nil {
				return err
			}
			return a.show(b.out, b.text())
		},
	}
	f := c.Flags()
	f.IntVar(&thr, "threads", 0, "threads that compute (default: one for each core)")
	f.StringVar(&isa, "kernels", "", "which kernels, e.g. portable (default: the best)")
	f.StringVar(&config, "config", "", "a manifest, run.yaml: how this machine fits it")
	f.BoolVar(&bf16, "bf16", false, "products and steps with operands in bfloat16, as \"train --bf16\" makes them")
	f.BoolVar(&quick, "quick", false, "leave out the larger model")
	f.DurationVar(&each, "time", 500*time.Millisecond, "how long each measurement takes at least")
	return c
}

type bench struct {
	dev   *cpu.Device
	each  time.Duration
	quick bool
	out   measured
}

func (b *bench) all(ctx context.Context) error {
	for _, s := range []struct {
		l       gpu.Layout
		m, n, k int
	}{
		{gpu.NT, 2048, 768, 288}, {gpu.NN, 2048, 288, 768}, {gpu.TN, 768, 288, 2048}, {gpu.NN, 1024, 1024, 1024}, {gpu.NT, 1, 768, 288},
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.product(s.l, s.m, s.n, s.k)
	}
	small := hf.Config{HiddenSize: 128, IntermediateSize: 352, NumHiddenLayers: 4, NumAttentionHeads: 4, NumKeyValueHeads: 4,
		VocabSize: 90, MaxPositionEmbeddings: 256, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true}
	large := hf.Config{HiddenSize: 288, IntermediateSize: 768, NumHiddenLayers: 6, NumAttentionHeads: 6, NumKeyValueHeads: 6,
		VocabSize: 512, MaxPositionEmbeddings: 256, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true}
	for _, m := range []struct {
		name         string
		cfg          hf.Config
		seqs, tokens int
	}{{"0.8M, 8 sequences of 64", small, 8, 64}, {"6.1M, 8 sequences of 256", large, 8, 256}} {
		if b.quick && m.cfg.HiddenSize > small.HiddenSize {
			continue
		}
		if err := b.model(ctx, m.name, m.cfg, m.seqs, m.tokens); err != nil {
			return err
		}
	}
	return nil
}

// best calls f, which does work tokens or flops, for b.each at least and gives
// the best rate a second.
func (b *bench) best(ctx context.Context, work float64, f func() error) (float64, error) {
	var most float64
	if err := f(); err != nil { // the first allocates
		return 0, err
	}
	for start, n := time.Now(), 0; n < 2 || time.Since(start) < b.each; n++ {
		at := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		most = max(most, work/time.Since(at).Seconds())
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
	return most, nil
}

func (b *bench) product(l gpu.Layout, m, n, k int) {
	rng := rand.New(rand.NewPCG(1, 1))
	mat := func(r, c int) gpu.Matrix {
		host := make([]float32, r*c)
		for i := range host {
			host[i] = rng.Float32()
		}
		x := b.dev.Alloc(r * c)
		b.dev.Upload(x, host)
		return x.Matrix(r, c)
	}
	x, y, z := mat(m, k), mat(k, n), mat(m, n)
	switch l {
	case gpu.NT:
		y = mat(n, k)
	case gpu.TN:
		x = mat(k, m)
	}
	// Small products are many to a measurement: a clock has its grain.
	flops := 2 * float64(m) * float64(n) * float64(k)
	times := 1 + int(1e7/flops)
	rate, err := b.best(context.Background(), flops*float64(times)/1e9, func() error {
		for range times {
			b.dev.MatMul(l, z, x, y, false)
		}
		return b.dev.Sync()
	})
	if err == nil { // Sync of this device cannot fail
		b.out.Measures = append(b.out.Measures, measure{"gemm", fmt.Sprintf("%v %dx%dx%d", l, m, n, k), rate, "GFLOP/s", rate})
	}
}

func (b *bench) model(ctx context.Context, name string, cfg hf.Config, seqs, tokens int) error {
	params := llama.Genesis(cfg, 1)
	tr, err := llama.NewTrainer(b.dev, cfg, params, llama.DefaultOptions())
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(1, 1))
	batch := make([][]int32, seqs)
	for i := range batch {
		batch[i] = make([]int32, tokens+1)
		for j := range batch[i] {
			batch[i][j] = int32(rng.IntN(cfg.VocabSize))
		}
	}
	rate, err := b.best(ctx, float64(seqs*tokens), func() error {
		_, err := tr.Step(batch, 1e-4)
		return err
	})
	if err != nil {
		return err
	}
	// A weight is multiplied once forward and twice backward; attention's two
	// products are H·d wide and half masked.
	width := float64(cfg.NumAttentionHeads * cfg.HeadSize())
	attention := func(t float64) float64 { return 2 * width * t * float64(cfg.NumHiddenLayers) }
	weights := 2 * float64(cfg.NumParams())
	b.out.Measures = append(b.out.Measures, measure{"step", name, rate, "tokens/s", 3 * (weights + attention(float64(tokens))) * rate / 1e9})
	if err := tr.Close(); err != nil {
		return err
	}

	m, err := llama.New(b.dev, cfg, params)
	if err != nil {
		return err
	}
	const n = 64
	rate, err = b.best(ctx, n, func() error {
		return m.Generate(ctx, []int32{1}, llama.GenerateOptions{MaxTokens: n}, func(llama.Token) bool { return true })
	})
	if err != nil {
		return err
	}
	name, _, _ = strings.Cut(name, ",")
	b.out.Measures = append(b.out.Measures, measure{"decode", name + ", one text", rate, "tokens/s", (weights + attention(n)) * rate / 1e9})
	if rate, err = b.batch(ctx, m, n); err == nil {
		b.out.Measures = append(b.out.Measures, measure{"decode", fmt.Sprintf("%s, %d texts", name, texts), rate, "tokens/s", (weights + attention(n)) * rate / 1e9})
	}
	return err
}

const texts = 16 // that are written at once

// batch is the rate of texts of n tokens each, written at once.
func (b *bench) batch(ctx context.Context, m *llama.Model, n int) (rate float64, err error) {
	all, err := m.NewBatch(llama.BatchOptions{Streams: texts, Rows: 64, Positions: texts * (n + 1)})
	if err != nil {
		return 0, err
	}
	own, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { _ = all.Run(own) }) // a failure reaches Generate
	defer work.Wait()
	defer cancel()
	return b.best(ctx, float64(texts*n), func() error {
		errs := make([]error, texts)
		var ask sync.WaitGroup
		for i := range errs {
			ask.Go(func() {
				errs[i] = all.Generate(own, []int32{int32(i)}, llama.GenerateOptions{MaxTokens: n}, func(llama.Token) bool { return true })
			})
		}
		ask.Wait()
		return errors.Join(errs...)
	})
}

func (b *bench) text() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s, of %d (%s)\n", b.out.Device, runtime.NumCPU(), strings.Join(b.out.Kernels, ", "))
	for _, m := range b.out.Measures {
		fmt.Fprintf(&s, "%-7s %-26s %10.4g %s", m.Kind, m.What, m.Rate, m.Unit)
		if m.Unit != "GFLOP/s" {
			fmt.Fprintf(&s, " %8.3g GFLOP/s", m.Flops)
		}
		s.WriteByte('\n')
	}
	return s.String()
}

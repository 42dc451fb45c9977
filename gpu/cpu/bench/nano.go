package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
)

// nano trains nanoGPT's configuration for CPUs on -text, character by character:
// 4 layers, 4 heads, width 128, 64 x 12 tokens, 2000 steps, a tenth of the text
// kept for validation. nanoGPT reaches 1.88 on tinyshakespeare. PyTorch's time is that of
// as many of its steps on the same model.
func nano(o options, bins map[string]string) error {
	if o.text == "" {
		fmt.Println("SKIPPED nano: give -text tinyshakespeare.txt")
		return nil
	}
	raw, err := os.ReadFile(o.text)
	if err != nil {
		return err
	}
	letters := slices.Compact(slices.Sorted(slices.Values(raw)))
	ids := make([]int32, len(raw))
	for i, b := range raw {
		at, _ := slices.BinarySearch(letters, b)
		ids[i] = int32(at)
	}
	train, val := ids[:len(ids)*9/10], ids[len(ids)*9/10:]
	const steps, warmup, peak, least = 2000, 100, 1e-3, 1e-4
	m := model{dim: 128, layers: 4, heads: 4, inter: 352, vocab: len(letters), seq: 64, batch: 12}
	if len(val) <= m.seq {
		return fmt.Errorf("%s: %d characters are too few", o.text, len(ids))
	}
	cfg := hf.Config{HiddenSize: m.dim, IntermediateSize: m.inter, NumHiddenLayers: m.layers, NumAttentionHeads: m.heads, NumKeyValueHeads: m.heads,
		VocabSize: m.vocab, MaxPositionEmbeddings: m.seq, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true}
	opts := llama.DefaultOptions()
	opts.Beta2 = 0.99
	threads := o.threads[len(o.threads)-1]
	dev, err := cpu.New(cpu.Options{Threads: threads})
	if err != nil {
		return err
	}
	defer dev.Close()
	tr, err := llama.NewTrainer(dev, cfg, llama.Genesis(cfg, 1337), opts)
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(1337, 1))
	batch := make([][]int32, m.batch)
	wall, used := time.Now(), cpuTime()
	for s := range steps {
		for i := range batch {
			at := rng.IntN(len(train) - m.seq)
			batch[i] = train[at : at+m.seq+1]
		}
		lr := peak * float64(s+1) / warmup
		if s >= warmup {
			lr = least + (peak-least)*(1+math.Cos(math.Pi*float64(s-warmup)/(steps-warmup)))/2
		}
		if _, err := tr.Step(batch, lr); err != nil {
			return err
		}
	}
	took, proc := time.Since(wall).Seconds(), cpuTime()-used
	var windows [][]int32
	for at := 0; at+m.seq < len(val); at += m.seq {
		windows = append(windows, val[at:at+m.seq+1])
	}
	loss, err := tr.Eval(windows)
	if err != nil {
		return err
	}
	fmt.Printf("\nnanoGPT's configuration, %d steps on %d threads: validation loss %.4f (nanoGPT: 1.88) in %.1f s, of processors %.1f s\n", steps, threads, loss, took, proc)

	all, err := runners(o, m, threads)
	if err != nil {
		return err
	}
	for range o.rounds {
		for _, r := range all {
			t, err := r.ask("20")
			if err != nil {
				return fmt.Errorf("%w: %s", err, r.rss.String())
			}
			r.times = append(r.times, t)
		}
	}
	for _, r := range all {
		r.close()
		fmt.Printf("  %d steps by %s: %.1f s, of processors %.1f s\n", steps, r.name, steps*r.median(0), steps*r.median(1))
	}
	return nil
}

package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"

	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
)

// nano trains nanoGPT's configuration for CPUs on -text, character by character:
// 4 layers, 4 heads, width 128, 64 x 12 tokens, 2000 steps, a tenth of the text
// kept for validation. nanoGPT reaches 1.88 on tinyshakespeare. PyTorch takes turns and
// makes as many steps of the same model.
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
	const steps, turn, warmup, peak, least = 2000, 50, 100, 1e-3, 1e-4
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
	advance := func(from int) error {
		for s := from; s < from+turn; s++ {
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
		return nil
	}
	all, err := torches(o, m, threads, tuned)
	if err != nil {
		return err
	}
	var took [2]float64
	for s := 0; s < steps; s += turn {
		t := timedOnce(func() { err = advance(s) })
		if err != nil {
			return err
		}
		took[0], took[1] = took[0]+t[0], took[1]+t[1]
		for _, r := range all {
			t, err := r.ask(strconv.Itoa(turn))
			if err != nil {
				return err
			}
			r.times = append(r.times, t)
		}
	}
	var windows [][]int32
	for at := 0; at+m.seq < len(val); at += m.seq {
		windows = append(windows, val[at:at+m.seq+1])
	}
	loss, err := tr.Eval(windows)
	if err != nil {
		return err
	}
	fmt.Printf("\nnanoGPT's configuration, %d steps on %d threads in turns of %d; nanoGPT's validation loss is 1.88\n", steps, threads, turn)
	w := table()
	fmt.Fprintln(w, "\tvalidation loss\twall s\tprocessor s\tthis/shoal, wall\t")
	fmt.Fprintf(w, "shoal\t%.4f\t%.1f\t%.1f\t1.00\t\n", loss, took[0], took[1])
	for _, r := range all {
		if err := r.close(); err != nil {
			return fmt.Errorf("%s: %w: %s", r.name, err, r.rss.String())
		}
		var wall, proc float64
		for _, t := range r.times {
			wall, proc = wall+turn*t[0], proc+turn*t[1]
		}
		fmt.Fprintf(w, "%s\t-\t%.1f\t%.1f\t%.2f\t\n", r.name, wall, proc, wall/took[0])
	}
	return w.Flush()
}

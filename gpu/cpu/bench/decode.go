package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
)

// writers are llama2.c's models of 15 and 110 million parameters.
var writers = []struct {
	name string
	model
}{{"15M", model{288, 6, 6, 768, 32000, 256, 1}}, {"110M", model{768, 12, 12, 2048, 32000, 256, 1}}}

// many are the texts that are written at once beside one.
const many = 16

func (m model) config() hf.Config {
	return hf.Config{HiddenSize: m.dim, IntermediateSize: m.inter, NumHiddenLayers: m.layers, NumAttentionHeads: m.heads, NumKeyValueHeads: m.heads,
		VocabSize: m.vocab, MaxPositionEmbeddings: m.seq, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true}
}

// serveTexts is the engine as a process of its own, as decode.js is: "threads texts
// bf16 model...". Asked for n tokens of each text it answers with the seconds of one.
func serveTexts(args string) error {
	var threads, texts int
	var bf16 bool
	var m model
	if _, err := fmt.Sscan(args, &threads, &texts, &bf16, &m.dim, &m.layers, &m.heads, &m.inter, &m.vocab, &m.seq, &m.batch); err != nil {
		return fmt.Errorf("-texts %q: %w", args, err)
	}
	runtime.GOMAXPROCS(threads)
	dev, err := cpu.New(cpu.Options{Threads: threads})
	if err != nil {
		return err
	}
	defer dev.Close()
	cfg := m.config()
	x, err := llama.New(dev, cfg, llama.Genesis(cfg, 1))
	if err != nil {
		return err
	}
	b, err := x.NewBatch(llama.BatchOptions{Streams: texts, Rows: max(texts, 64), Positions: texts * m.seq, BF16: bf16})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- b.Run(ctx) }()
	defer func() {
		cancel()
		<-over
	}()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		n, err := strconv.Atoi(in.Text())
		if err != nil {
			return err
		}
		errs := make([]error, texts)
		t := timedOnce(func() {
			var work sync.WaitGroup
			for i := range errs {
				work.Go(func() {
					errs[i] = b.Generate(ctx, []int32{int32(1 + i)}, llama.GenerateOptions{MaxTokens: n}, func(llama.Token) bool { return true })
				})
			}
			work.Wait()
		})
		if err := errors.Join(errs...); err != nil {
			return err
		}
		fmt.Println(t[0]/float64(n*texts), t[1]/float64(n*texts))
	}
	return nil
}

// decode compares the writing of text, one token after the other.
func decode(o options, bins map[string]string, dir string) error {
	llamaCpp := o.llama != ""
	if llamaCpp {
		if _, err := os.Stat(filepath.Join(o.llama, "node_modules", "node-llama-cpp")); err != nil {
			fmt.Printf("SKIPPED llama.cpp: %v\n", err)
			llamaCpp = false
		} else if err := copyFile(filepath.Join(o.peers, "decode.js"), filepath.Join(o.llama, "decode.js")); err != nil {
			return err
		}
	} else {
		fmt.Println("SKIPPED llama.cpp: -llama names no folder with node-llama-cpp")
	}
	if o.llama2c == "" {
		fmt.Println("SKIPPED llama2.c: -llama2c names no run.c")
	}
	for _, m := range writers {
		for _, bf16 := range []bool{false, true} {
			gguf := filepath.Join(dir, fmt.Sprintf("%s-%t.gguf", m.name, bf16))
			if llamaCpp {
				if err := writeGGUF(gguf, m.config(), bf16); err != nil {
					return err
				}
			}
			for _, threads := range o.threads {
				if err := decodeOn(o, bins, m.name, m.model, bf16, threads, gguf, llamaCpp); err != nil {
					return err
				}
			}
			if llamaCpp {
				if err := os.Remove(gguf); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func decodeOn(o options, bins map[string]string, name string, m model, bf16 bool, threads int, gguf string, llamaCpp bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var all []*runner
	defer func() {
		for _, r := range all {
			_ = r.close() // it has answered
		}
	}()
	for _, texts := range []int{1, many} {
		r, err := launch(fmt.Sprintf("shoal, %d texts", texts), nil, "", self, "-texts", fmt.Sprintf("%d %d %t %s", threads, texts, bf16, m.args()))
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	if llamaCpp {
		r, err := launch("llama.cpp, 1 text", nil, o.llama, "node", "decode.js", gguf, strconv.Itoa(threads))
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	if bins["llama2c"] != "" && !bf16 {
		args := strings.Fields(m.args())
		r, err := launch("llama2.c, 1 text", []string{"OMP_NUM_THREADS=" + strconv.Itoa(threads)}, "", bins["llama2c"], args[:len(args)-1]...)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	var read *process
	if bins["read"] != "" {
		if read, err = start("read", nil, bins["read"]); err != nil {
			return err
		}
		defer read.close()
	}
	const mib = 256
	n := 64
	if m.dim > 500 {
		n = 24
	}
	var reads []float64
	for range o.rounds {
		for _, r := range all {
			t, err := r.ask(strconv.Itoa(n))
			if err != nil {
				return err
			}
			r.times = append(r.times, t)
		}
		if read != nil {
			t, err := read.ask(fmt.Sprintf("%d %d %g", mib, threads, o.seconds))
			if err != nil {
				return err
			}
			reads = append(reads, mib*(1<<20)/t[o.clock])
		}
	}
	kind, size := "f32", 4.0
	if bf16 {
		kind, size = "bf16", 2
	}
	bytes := size * float64(m.config().NumParams())
	fmt.Printf("\nDecode, %s (dim %d, %d layers, vocabulary %d), %s, %d threads; medians of %d turns of %d tokens; memory is read at %.1f GB/s by %s time\n",
		name, m.dim, m.layers, m.vocab, kind, threads, o.rounds, n, median(reads)/1e9, [...]string{"wall", "processor"}[o.clock])
	w := table()
	fmt.Fprintln(w, "\ttokens/s\tper core-s\tshoal/this\tper core-s\tof the memory's speed\t")
	first := all[0]
	for _, r := range all {
		wall, proc := r.median(0), r.median(1)
		share := "-"
		if r != all[1] && read != nil {
			share = fmt.Sprintf("%.0f %%", 100*bytes/r.median(o.clock)/median(reads))
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.2f\t%.2f\t%s\t\n", r.name, 1/wall, 1/proc, wall/first.median(0), proc/first.median(1), share)
	}
	return w.Flush()
}

// writeGGUF writes the model of seed 1, with a vocabulary of made-up characters.
func writeGGUF(name string, cfg hf.Config, bf16 bool) error {
	runes := make([]rune, cfg.VocabSize)
	for i := range runes {
		if runes[i] = 0x3400 + rune(i); runes[i] >= 0xd800 { // where surrogates begin
			runes[i] += 0x2000
		}
	}
	tok, err := hf.NewChar(string(runes))
	if err != nil {
		return err
	}
	weights, err := hf.NewVector(cfg.Tensors(), llama.Genesis(cfg, 1))
	if err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	return errors.Join(hf.WriteGGUF(w, cfg, tok, weights, hf.GGUFOptions{Name: "bench", BF16: bf16}), w.Flush(), f.Close())
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

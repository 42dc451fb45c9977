package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/llama"
)

// A model is what a step trains.
type model struct{ dim, layers, heads, inter, vocab, seq, batch int }

// models are those of the notes: 6.1 and 15.2 million parameters.
var models = []model{{288, 6, 6, 768, 512, 256, 8}, {288, 6, 6, 768, 32000, 256, 8}}

func (m model) args() string {
	return fmt.Sprintf("%d %d %d %d %d %d %d", m.dim, m.layers, m.heads, m.inter, m.vocab, m.seq, m.batch)
}

func (m model) tokens() int { return m.seq * m.batch }

// flop are the useful operations of a step: six for each weight of a product
// and token, and the causal half of attention.
func (m model) flop() float64 {
	weights := m.layers*(4*m.dim*m.dim+3*m.dim*m.inter) + m.vocab*m.dim
	return 6*float64(weights)*float64(m.tokens()) + 6*float64(m.layers)*float64(m.batch*m.seq*m.seq*m.dim)
}

// serve is the engine as a process of its own, as step.py is: "isa threads
// model...". The isa may be bf16: the best there is for that.
func serve(args string) error {
	var isa string
	var threads int
	var m model
	if _, err := fmt.Sscan(args, &isa, &threads, &m.dim, &m.layers, &m.heads, &m.inter, &m.vocab, &m.seq, &m.batch); err != nil {
		return fmt.Errorf("-serve %q: %w", args, err)
	}
	runtime.GOMAXPROCS(threads)
	cfg := m.config()
	o := cpu.Options{Threads: threads, ISA: isa}
	if isa == "bf16" {
		o.ISA, o.BF16 = "", true
	}
	dev, err := cpu.New(o)
	if err != nil {
		return err
	}
	defer dev.Close()
	tr, err := llama.NewTrainer(dev, cfg, llama.Genesis(cfg, 1), llama.DefaultOptions())
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(1, 1))
	tokens := make([][]int32, m.batch)
	for i := range tokens {
		tokens[i] = make([]int32, m.seq+1)
		for j := range tokens[i] {
			tokens[i][j] = int32(rng.IntN(m.vocab))
		}
	}
	step := func() {
		if _, e := tr.Step(tokens, 1e-3); e != nil {
			err = e
		}
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan() && err == nil; {
		n, e := strconv.Atoi(in.Text())
		if e != nil {
			return e
		}
		t := timed(0, func() {
			for range n {
				step()
			}
		})
		t[0], t[1] = t[0]/float64(n), t[1]/float64(n)
		fmt.Println(t[0], t[1])
	}
	fmt.Fprintln(os.Stderr, mostMemory())
	return err
}

// mostMemory is the most that this process has held, in KiB. (What getrusage says begins
// with what its parent held.)
func mostMemory() int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(b), "VmHWM:")
	n := 0
	fmt.Sscan(after, &n)
	return n
}

// A runner is a process that makes steps.
type runner struct {
	name string
	*process
	times [][2]float64
	peaks []float64 // measured after each, operations a second
	rss   strings.Builder
}

func (r *runner) median(clock int) float64 {
	var x []float64
	for _, t := range r.times {
		x = append(x, t[clock])
	}
	return median(x)
}

// launch starts a runner. What it prints on standard error is kept, the peak of its memory
// among it.
func launch(name string, env []string, dir, bin string, args ...string) (*runner, error) {
	r := &runner{name: name, process: &process{name: name, cmd: exec.Command(bin, args...)}}
	r.cmd.Dir, r.cmd.Stderr = dir, &r.rss
	return r, r.start(env)
}

// ask is the process's, with what it said where it failed.
func (r *runner) ask(request string) ([2]float64, error) {
	t, err := r.process.ask(request)
	if err != nil {
		_ = r.close() // what it printed is whole then
		err = fmt.Errorf("%w: %s", err, r.rss.String())
	}
	return t, err
}

// engine starts the engine on m.
func engine(isa string, m model, threads int) (*runner, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return launch(isa, nil, "", self, "-serve", fmt.Sprintf("%s %d %s", isa, threads, m.args()))
}

// The kernels that OpenBLAS, and PyTorch with it, is told to use: the best, and those it chooses.
var tuned, installed = core{"tuned", "SkylakeX"}, core{"AVX2", "Haswell"}

type core struct{ name, blas string }

// torches starts PyTorch on m, once for each of cores; none where there is none.
func torches(o options, m model, threads int, cores ...core) ([]*runner, error) {
	out, err := exec.Command(o.python, "-c", "import torch; print(torch.__version__)").CombinedOutput()
	if err != nil {
		fmt.Printf("SKIPPED PyTorch: %s cannot import torch: %v\n", o.python, err)
		return nil, nil
	}
	version := strings.TrimSpace(string(out))
	args := append([]string{filepath.Join(o.peers, "step.py"), strconv.Itoa(threads)}, strings.Fields(m.args())...)
	var all []*runner
	for _, c := range cores {
		env := []string{"OPENBLAS_CORETYPE=" + c.blas, "OMP_NUM_THREADS=" + strconv.Itoa(threads), "OPENBLAS_NUM_THREADS=" + strconv.Itoa(threads)}
		r, err := launch("torch "+version+" "+c.name, env, "", o.python, args...)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// runners starts the engine and PyTorch on m.
func runners(o options, m model, threads int) ([]*runner, error) {
	var all []*runner
	for _, isa := range append(cpu.ISAs(), "bf16") {
		if isa == "portable" && len(all) > 0 {
			continue // minutes
		}
		r, err := engine(isa, m, threads)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	others, err := torches(o, m, threads, tuned, installed)
	return append(all, others...), err
}

// step compares training steps.
func step(o options, bins map[string]string) error {
	for _, m := range models {
		for _, threads := range o.threads {
			if err := stepOn(o, bins, m, threads); err != nil {
				return err
			}
		}
	}
	return nil
}

func stepOn(o options, bins map[string]string, m model, threads int) error {
	all, err := runners(o, m, threads)
	if err != nil {
		return err
	}
	var peak *process
	if bins["peak"] != "" {
		if peak, err = start("peak", nil, bins["peak"]); err != nil {
			return err
		}
		defer peak.close()
	}
	for range o.rounds {
		for _, r := range all {
			settle(threads)
			t, err := r.ask("1")
			if err != nil {
				return err
			}
			r.times = append(r.times, t)
			if peak == nil {
				continue
			}
			// What a core can do changes with what the machine's others do: each step has its own peak.
			if t, err = peak.ask("512 0.02"); err != nil {
				return err
			}
			r.peaks = append(r.peaks, 2*24*16e6/t[1])
		}
	}
	for _, r := range all {
		if err := r.close(); err != nil {
			return fmt.Errorf("%s: %w: %s", r.name, err, r.rss.String())
		}
	}
	fmt.Printf("\nTraining step, dim %d, %d layers, vocabulary %d, %d x %d tokens, %d threads; medians of %d, by wall and by processor time\n",
		m.dim, m.layers, m.vocab, m.batch, m.seq, threads, o.rounds)
	w := table()
	fmt.Fprintln(w, "\ttokens/s\tper core-s\tGFLOP/core-s\tof AVX-512 peak\tfirst/this\tper core-s\tMiB\t")
	first := all[0]
	for _, r := range all {
		wall, proc := r.median(0), r.median(1)
		kib, _ := strconv.ParseFloat(strings.TrimSpace(lastLine(r.rss.String())), 64)
		share := "-"
		if peak != nil {
			var shares []float64
			for i, t := range r.times {
				shares = append(shares, m.flop()/t[1]/r.peaks[i])
			}
			share = fmt.Sprintf("%.0f %%", 100*median(shares))
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.1f\t%s\t%.2f\t%.2f\t%.0f\t\n", r.name, float64(m.tokens())/wall, float64(m.tokens())/proc,
			m.flop()/proc/1e9, share, wall/first.median(0), proc/first.median(1), kib/1024)
	}
	return w.Flush()
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// load measures steps on all cores with and without as many busy processes.
func load(o options) error {
	m := models[0]
	threads := o.threads[len(o.threads)-1]
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var idle, busy []float64
	r, err := engine(cpu.ISAs()[0], m, threads)
	if err != nil {
		return err
	}
	for range o.rounds {
		t, err := r.ask("1")
		if err != nil {
			return err
		}
		idle = append(idle, t[0])
		var spinners []*exec.Cmd
		for range runtime.NumCPU() {
			c := exec.Command(self, "-serve", "spin")
			if err := c.Start(); err != nil {
				return err
			}
			spinners = append(spinners, c)
		}
		t, err = r.ask("1")
		for _, c := range spinners {
			c.Process.Kill()
			c.Wait()
		}
		if err != nil {
			return err
		}
		busy = append(busy, t[0])
	}
	fmt.Printf("\nWith %d other processes that compute: %.2f of the speed without (%d threads, medians of %d steps in turns)\n",
		runtime.NumCPU(), median(idle)/median(busy), threads, o.rounds)
	return r.close()
}

package main

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/cpu"
)

type shape struct {
	l       gpu.Layout
	m, n, k int
}

// shapes are those of the forward and backward passes of small models.
var shapes = []shape{
	{gpu.NN, 512, 288, 288}, {gpu.NN, 512, 768, 288}, {gpu.NN, 2048, 768, 288}, {gpu.NN, 1024, 2048, 512},
	{gpu.NN, 1024, 1024, 1024}, {gpu.TN, 288, 768, 2048}, {gpu.TN, 512, 2048, 1024}, {gpu.NT, 2048, 288, 768},
	{gpu.NT, 1024, 512, 2048}, {gpu.NT, 1024, 32000, 288}, {gpu.NT, 256, 256, 48},
}

func (s shape) String() string { return fmt.Sprintf("%v %d %d %d", s.l, s.m, s.n, s.k) }

// ours is the engine as a peer.
type ours struct {
	dev     *cpu.Device
	a, b, c gpu.Matrix
	s       shape
	seconds float64
}

func (o *ours) ask(string) ([2]float64, error) {
	return timed(o.seconds, func() { o.dev.MatMul(o.s.l, o.c, o.a, o.b, false) }), nil
}

// set makes the operands of s.
func (o *ours) set(s shape) {
	rng := rand.New(rand.NewPCG(1, 1))
	mat := func(r, c int) gpu.Matrix {
		m := o.dev.Alloc(r*c).Matrix(r, c)
		for i := range m.Host {
			m.Host[i] = rng.Float32() - 0.5
		}
		return m
	}
	o.s, o.a, o.b, o.c = s, mat(s.m, s.k), mat(s.k, s.n), mat(s.m, s.n)
	switch s.l {
	case gpu.NT:
		o.b = mat(s.n, s.k)
	case gpu.TN:
		o.a = mat(s.k, s.m)
	}
}

// A column of the table: a peer and what type it is asked for.
type column struct {
	name, kind string
	peer       peer
	set        func(shape)
	times      []float64
}

func gemm(o options, bins map[string]string) error {
	for _, threads := range o.threads {
		if err := gemmOn(o, bins, threads); err != nil {
			return err
		}
	}
	return nil
}

// columns starts the peers on a number of threads.
func columns(o options, bins map[string]string, threads int) (cols []*column, end func(), err error) {
	n := strconv.Itoa(threads)
	var closers []func()
	end = func() {
		for _, f := range closers {
			f()
		}
	}
	for _, isa := range cpu.ISAs() {
		dev, err := cpu.New(cpu.Options{Threads: threads, ISA: isa})
		if err != nil {
			return nil, end, err
		}
		closers = append(closers, func() { dev.Close() })
		u := &ours{dev: dev, seconds: o.seconds}
		cols = append(cols, &column{name: isa, kind: "f32", peer: u, set: u.set})
	}
	dev, err := cpu.New(cpu.Options{Threads: threads, BF16: true})
	if err != nil {
		return nil, end, err
	}
	closers = append(closers, func() { dev.Close() })
	u := &ours{dev: dev, seconds: o.seconds}
	cols = append(cols, &column{name: "bf16", kind: "bf16", peer: u, set: u.set})
	for _, p := range []struct {
		name, bin, kind string
		env, args       []string
	}{
		{"OpenBLAS", "openblas", "f32", []string{"OPENBLAS_CORETYPE=SkylakeX"}, nil},
		{"OpenBLAS-avx2", "openblas", "f32", []string{"OPENBLAS_CORETYPE=Haswell"}, nil},
		{"oneDNN", "onednn", "f32", nil, nil},
		{"oneDNN-sgemm", "onednn", "f32", nil, []string{"sgemm"}},
		{"oneDNN-bf16", "onednn", "bf16", nil, nil},
	} {
		if bins[p.bin] == "" {
			continue
		}
		c, err := start(p.name, append(p.env, "OPENBLAS_NUM_THREADS="+n, "OMP_NUM_THREADS="+n), bins[p.bin], p.args...)
		if err != nil {
			return nil, end, err
		}
		closers = append(closers, func() { c.close() })
		cols = append(cols, &column{name: p.name, kind: p.kind, peer: c})
	}
	return cols, end, nil
}

func gemmOn(o options, bins map[string]string, threads int) error {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(threads))
	cols, end, err := columns(o, bins, threads)
	defer end()
	if err != nil {
		return err
	}
	clock := o.clock
	if threads > 1 {
		clock = 0
	}
	fmt.Printf("\nProducts on %d threads, GFLOP/s of %s time, medians of %d turns\n", threads, [...]string{"wall", "processor"}[clock], o.rounds)
	w := table()
	fmt.Fprint(w, "\t")
	for _, c := range cols {
		fmt.Fprintf(w, "%s\t", c.name)
	}
	fmt.Fprintln(w, "best/f32\tbf16/oneDNN\tavx2/OpenBLAS-avx2\tavx2/portable\t")
	var best, half, avx2, portable []float64
	for _, s := range shapes {
		if !strings.Contains(s.String(), o.shapes) {
			continue
		}
		med := map[string]float64{}
		for _, c := range cols {
			c.times = nil
			if c.set != nil {
				c.set(s)
			}
		}
		for round := range o.rounds {
			for _, c := range cols {
				if c.name == "portable" && (round > 2 || s.m*s.n*s.k > 1<<31) {
					continue // slow
				}
				settle(threads)
				t, err := c.peer.ask(fmt.Sprintf("%v %s %g", s, c.kind, o.seconds))
				if err != nil {
					return err
				}
				c.times = append(c.times, t[clock])
			}
		}
		fmt.Fprintf(w, "%v\t", s)
		for _, c := range cols {
			if len(c.times) == 0 {
				fmt.Fprint(w, "-\t")
				continue
			}
			med[c.name] = median(c.times)
			fmt.Fprintf(w, "%.1f\t", 2e-9*float64(s.m)*float64(s.n)*float64(s.k)/med[c.name])
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", ratio(&best, least(med, "OpenBLAS", "OpenBLAS-avx2", "oneDNN", "oneDNN-sgemm"), med[cols[0].name]),
			ratio(&half, med["oneDNN-bf16"], med["bf16"]),
			ratio(&avx2, med["OpenBLAS-avx2"], med["avx2"]), ratio(&portable, med["portable"], med["avx2"]))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Printf("geometric means: %s / best f32 peer %.3f; bf16 / oneDNN's %.3f; AVX2 / OpenBLAS's AVX2 %.3f; AVX2 / portable %.2f\n",
		cols[0].name, geomean(best), geomean(half), geomean(avx2), geomean(portable))
	return nil
}

// least is the least of the named times, 0 where none is there.
func least(times map[string]float64, names ...string) float64 {
	var best float64
	for _, n := range names {
		if t := times[n]; t > 0 && (best == 0 || t < best) {
			best = t
		}
	}
	return best
}

// ratio appends theirs/ours to all, where both are there.
func ratio(all *[]float64, theirs, ours float64) string {
	if theirs == 0 || ours == 0 {
		return "-"
	}
	*all = append(*all, theirs/ours)
	return fmt.Sprintf("%.3f", theirs/ours)
}

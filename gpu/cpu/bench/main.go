// Command bench holds the engine to what else a volunteer could run on the same
// machine: OpenBLAS, oneDNN and PyTorch, as Debian ships them, and llama.cpp as npm
// does. Their drivers in peers/ are compiled when it starts; `make bench-engine`
// installs them.
//
// Every number is a ratio of measurements that took turns in one run, because
// absolute times of a machine that others use mean nothing. With -clock cpu
// processor time is compared, which other work on the cores disturbs least; with
// -clock wall what a stopwatch says.
package main

import (
	"flag"
	"fmt"
	"log"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// options are the flags.
type options struct {
	clock   int // 0 wall, 1 processor
	rounds  int
	seconds float64
	threads []int
	peers   string // folder of peers' sources
	python  string
	only    string
	text    string
	shapes  string // of products: those that contain it
	llama   string // folder in which npm has installed node-llama-cpp
	llama2c string // run.c of llama2.c
}

func main() {
	log.SetFlags(0)
	var o options
	clock := flag.String("clock", "cpu", "compare `wall` or cpu time; products on more than one thread are compared by wall time always")
	flag.IntVar(&o.rounds, "rounds", 7, "turns that each peer has; medians are compared")
	flag.Float64Var(&o.seconds, "seconds", 0.05, "processor time of a turn")
	flag.StringVar(&o.peers, "peers", "gpu/cpu/bench/peers", "where the sources of the peers' drivers are")
	flag.StringVar(&o.python, "python", "/usr/bin/python3", "Python that has PyTorch")
	flag.StringVar(&o.only, "only", "gemm,step,decode,load,nano", "parts to measure")
	flag.StringVar(&o.text, "text", "", "tinyshakespeare.txt, for nano")
	flag.StringVar(&o.shapes, "shapes", "", "products whose name contains this only")
	engine := flag.String("serve", "", "be the engine of `isa threads model...`; for the program itself")
	flag.StringVar(&o.llama, "llama", "", "folder in which npm has installed node-llama-cpp, for decode")
	flag.StringVar(&o.llama2c, "llama2c", "", "llama2.c's `run.c`, for decode")
	texts := flag.String("texts", "", "write `threads texts bf16 model...`; for the program itself")
	threads := flag.Int("threads", runtime.NumCPU(), "most threads to measure with; one is always measured")
	flag.Parse()
	if *engine == "spin" {
		for {
		}
	}
	if *engine != "" {
		if err := serve(*engine); err != nil {
			log.Fatalf("bench: %v", err)
		}
		return
	}
	if *texts != "" {
		if err := serveTexts(*texts); err != nil {
			log.Fatalf("bench: %v", err)
		}
		return
	}
	switch *clock {
	case "cpu":
		o.clock = 1
	case "wall":
	default:
		log.Fatalf("bench: -clock %s: want cpu or wall", *clock)
	}
	if o.rounds < 1 || o.seconds <= 0 || *threads < 1 {
		log.Fatal("bench: -rounds, -seconds and -threads must be above 0")
	}
	o.threads = []int{1}
	if *threads > 1 {
		o.threads = append(o.threads, *threads)
	}
	if err := run(o); err != nil {
		log.Fatalf("bench: %v", err)
	}
}

func run(o options) error {
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Printf("%d cores, %s, load %s", runtime.NumCPU(), runtime.Version(), load)
	}
	dir, err := os.MkdirTemp("", "shoal-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bins := build(o, dir)
	for _, part := range strings.Split(o.only, ",") {
		var err error
		switch part {
		case "gemm":
			err = gemm(o, bins)
		case "step":
			err = step(o, bins)
		case "decode":
			err = decode(o, bins, dir)
		case "load":
			err = load(o)
		case "nano":
			err = nano(o, bins)
		default:
			err = fmt.Errorf("-only %s: want gemm, step, decode, load or nano", part)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// build compiles the peers' drivers. What cannot be built is named and left out.
func build(o options, dir string) map[string]string {
	bins := map[string]string{}
	flags := map[string][]string{"peak": nil, "openblas": {"-lopenblas"}, "onednn": {"-ldnnl"}, "read": {"-O3", "-mavx2", "-pthread"}}
	if o.llama2c != "" {
		run, err := filepath.Abs(o.llama2c)
		if err != nil {
			run = o.llama2c
		}
		flags["llama2c"] = []string{"-Ofast", "-march=native", "-fopenmp", fmt.Sprintf("-DRUN_C=%q", run), "-lm"}
	}
	for name, libs := range flags {
		bin := dir + "/" + name
		out, err := exec.Command("gcc", append([]string{"-O2", "-o", bin, o.peers + "/" + name + ".c"}, libs...)...).CombinedOutput()
		if err != nil {
			fmt.Printf("SKIPPED %s: cannot be built: %v\n%s\n", name, err, firstLine(out))
			continue
		}
		bins[name] = bin
	}
	return bins
}

func firstLine(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\n")
	return s
}

func median(x []float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

func geomean(x []float64) float64 {
	s := 0.0
	for _, v := range x {
		s += math.Log(v)
	}
	return math.Exp(s / float64(len(x)))
}

func table() *tabwriter.Writer {
	return tabwriter.NewWriter(os.Stdout, 0, 8, 1, ' ', tabwriter.AlignRight)
}

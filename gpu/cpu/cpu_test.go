package cpu

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/gputest"
)

func newDevice(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// allKernels names all kernels, those for products in bfloat16 alone, which ISAs leaves out, among them.
func allKernels() []string {
	names := []string{"portable"}
	for _, k := range native() {
		names = append(names, k.name)
	}
	return names
}

func TestConformance(t *testing.T) {
	for _, isa := range ISAs() {
		for _, threads := range []int{1, 3} {
			t.Run(isa+"/"+strconv.Itoa(threads), func(t *testing.T) {
				gputest.Run(t, newDevice(t, Options{Threads: threads, ISA: isa}))
			})
		}
	}
}

// countJob counts how often each task runs.
type countJob []atomic.Int32

func (j countJob) run(_ *worker, task int) {
	j[task].Add(1)
	runtime.Gosched() // let helpers come in at odd moments
}

func TestPoolRunsEachTaskOnce(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, threads := range []int{1, 2, 3, 8} {
		d := newDevice(t, Options{Threads: threads})
		for range 500 {
			j := make(countJob, 1+rng.IntN(20))
			d.pool.run(j, len(j), rng.IntN(2)<<20)
			for i := range j {
				if n := j[i].Load(); n != 1 {
					t.Fatalf("%d threads: task %d of %d ran %d times", threads, i, len(j), n)
				}
			}
		}
	}
}

func TestCloseEndsHelpers(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 3 {
		d, err := New(Options{Threads: 5})
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
		d.Close()
	}
	for i := 0; i < 10_000 && runtime.NumGoroutine() > before; i++ {
		runtime.Gosched() // Close waits for their work: the last of them may still be on its way out
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Threads: -1}, {Threads: 1 << 20}, {ISA: "mmx"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	if d := newDevice(t, Options{}); d.Threads() != runtime.GOMAXPROCS(0) {
		t.Errorf("%d threads by default", d.Threads())
	}
}

// TestGenerated holds the committed assembly to the generator that lies beside
// it: who changes asm must run go generate.
func TestGenerated(t *testing.T) {
	sources, err := filepath.Glob(filepath.Join("asm", "*.go"))
	if err != nil || len(sources) == 0 {
		t.Fatalf("no generator: %v", err)
	}
	h := sha256.New()
	for _, name := range sources {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(b)
	}
	tables, err := os.ReadFile("tables_amd64.go")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("// Generator: %x", h.Sum(nil)); !strings.Contains(string(tables), want) {
		t.Error("gpu/cpu/asm has changed since kernels_amd64.s was written: run go generate in gpu/cpu")
	}
}

// TestNoSSELoads keeps SSE instructions that write a register out of the assembly:
// where the wide part of any register is in use, each costs hundreds of cycles.
func TestNoSSELoads(t *testing.T) {
	for _, name := range []string{"kernels_amd64.s"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(b), "\n") {
			f := strings.Fields(line)
			if len(f) > 2 && strings.HasPrefix(f[0], "MOVS") && strings.HasPrefix(f[len(f)-1], "X") {
				t.Errorf("%s:%d: %s", name, i+1, strings.TrimSpace(line))
			}
		}
	}
}

// TestMomentsEnd holds the moments of what has no gradient any more to ending at 0.
func TestMomentsEnd(t *testing.T) {
	for _, isa := range ISAs() {
		d := newDevice(t, Options{Threads: 1, ISA: isa})
		p, g, m, v := d.Alloc(40), d.Alloc(40), d.Alloc(40), d.Alloc(40)
		for i := range g.Host {
			g.Host[i] = float32(i-20) / 20
		}
		for range 2500 {
			d.AdamW(p, g, m, v, gpu.AdamW{Scale: 1, Beta1: 0.9, Beta2: 0.95, Rate: 1e-3, Correct2: 1, Eps: 1e-8, Keep: 1})
		}
		for i := range m.Host {
			if m.Host[i] != 0 || v.Host[i] != 0 {
				t.Fatalf("%s: moments %g and %g", isa, m.Host[i], v.Host[i])
			}
		}
	}
}

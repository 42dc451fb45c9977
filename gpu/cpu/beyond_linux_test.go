package cpu

import (
	"math/rand/v2"
	"os"
	"runtime/debug"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/shoalnet/shoal/gpu"
)

// fenced is memory of n values that ends where a page begins that nobody may touch.
func fenced(t *testing.T, n int) []float32 {
	t.Helper()
	page := os.Getpagesize()
	size := (4*n + page - 1) / page * page
	b, err := unix.Mmap(-1, 0, size+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	if err := unix.Mprotect(b[size:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[size-4*n])), n)
}

// TestNothingBeyond holds products to the memory of their operands, of which tiles
// read whole vectors.
func TestNothingBeyond(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	rng := rand.New(rand.NewPCG(8, 1))
	for _, isa := range allKernels() {
		for _, half := range []bool{false, true} {
			d := newDevice(t, Options{Threads: 1, ISA: isa, BF16: half})
			for range 60 {
				m, n, k := 1+rng.IntN(40), 1+rng.IntN(70), 1+rng.IntN(40)
				a, b, c := fenced(t, m*k), fenced(t, k*n), fenced(t, m*n)
				of := func(s []float32, r, c int) gpu.Matrix { return gpu.Buffer{Host: s, N: len(s)}.Matrix(r, c) }
				for _, acc := range []bool{false, true} {
					d.MatMul(gpu.NN, of(c, m, n), of(a, m, k), of(b, k, n), acc)
					d.MatMul(gpu.NT, of(c, m, n), of(a, m, k), of(b, n, k), acc)
					d.MatMul(gpu.TN, of(c, m, n), of(a, k, m), of(b, k, n), acc)
					if d.k.few != nil {
						d.k.few(m, n, k, a, k, b, n, c, n, acc)
					}
				}
			}
		}
	}
}

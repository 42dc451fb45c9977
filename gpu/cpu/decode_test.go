package cpu

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/gpu"
)

// TestNoGarbage holds products whose edges fill no tile or panel to memory that was there
// before.
func TestNoGarbage(t *testing.T) {
	for _, isa := range ISAs() {
		d := newDevice(t, Options{Threads: 1, ISA: isa})
		const m, n, k = 7, 77, 50
		a, b, c := d.Alloc(m*k).Matrix(m, k), d.Alloc(n*k).Matrix(n, k), d.Alloc(m*n).Matrix(m, n)
		var best [m]int32
		f32, bf16 := gpu.Pack(d, false, b), gpu.Pack(d, true, b)
		for name, f := range map[string]func(){
			"matmul":      func() { d.MatMul(gpu.NT, c, a, b, true) },
			"linear":      func() { d.Linear(c, a, f32, true) },
			"linear bf16": func() { d.Linear(c, a, bf16, true) },
			"greatest":    func() { d.Greatest(best[:], c) },
		} {
			if got := testing.AllocsPerRun(10, f); got > 0 {
				t.Errorf("%s %s: %g allocations", isa, name, got)
			}
		}
	}
}

// TestFewRows holds products by what is not packed to those by what is, bit for bit, and to the edges
// of their matrices.
func TestFewRows(t *testing.T) {
	const most, n, k, apart = 9, 131, 70, 7
	rng := rand.New(rand.NewPCG(3, 4))
	fill := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	tested := false
	for _, isa := range ISAs() {
		w := newDevice(t, Options{Threads: 1, ISA: isa}).workers[0]
		if w.k.few == nil {
			continue
		}
		tested = true
		for m := 1; m <= most; m++ {
			for cols := 1; cols <= n; cols++ {
				inner, acc := 1+rng.IntN(k), rng.IntN(2) == 0
				// No value of B lies behind its last row's.
				a, b, c := fill(m*(inner+apart)), fill((inner-1)*(cols+apart)+cols), fill(m*(cols+apart))
				want := slices.Clone(c)
				w.k.product(w, gpu.NN, m, cols, inner, a, inner+apart, b, cols+apart, want, cols+apart, acc, 0)
				w.k.few(m, cols, inner, a, inner+apart, b, cols+apart, c, cols+apart, acc)
				for i := range c {
					if math.Float32bits(c[i]) != math.Float32bits(want[i]) {
						t.Fatalf("%s: (%d, %d)·(%d, %d), add %t: value %d is %g, want %g", isa, m, inner, inner, cols, acc, i, c[i], want[i])
					}
				}
			}
		}
	}
	if !tested {
		t.Skip("no kernels of this machine have it")
	}
}

package cpu

import (
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
		f32, bf16 := d.Pack(false, b), d.Pack(true, b)
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

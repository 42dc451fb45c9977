package cpu

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/gpu"
)

// TestTriangles holds products that leave out what causality hides to those that
// do not.
func TestTriangles(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 1))
	for _, isa := range ISAs() {
		d := newDevice(t, Options{Threads: 1, ISA: isa})
		w := d.workers[0]
		for range 30 {
			rows, width := 1+rng.IntN(150)*(1+rng.IntN(8)), 1+rng.IntN(70)
			seen := 1 + rng.IntN(400) // of the first row
			cols := seen + rows - 1
			random := func(r, c int) []float32 {
				x := make([]float32, r*c)
				for i := range x {
					x[i] = rng.Float32() - 0.5
				}
				return x
			}
			tri := random(rows, cols)
			for i := range rows {
				clear(tri[i*cols+seen+i : i*cols+min(cols, seen+i+d.k.slack)])
			}
			zeroed := func(a []float32) []float32 {
				if len(a) != len(tri) || &a[0] != &tri[0] {
					return a
				}
				z := slices.Clone(a)
				for i := range rows {
					clear(z[i*cols+seen+i : (i+1)*cols])
				}
				return z
			}
			check := func(l gpu.Layout, m, n, k int, a, b []float32, acc bool, inside func(i, j int) bool) {
				lda, ldb := k, n
				switch l {
				case gpu.NT:
					ldb = k
				case gpu.TN:
					lda = m
				}
				whole := random(m, n)
				part := slices.Clone(whole)
				w.k.product(w, l, m, n, k, zeroed(a), lda, b, ldb, whole, n, acc, 0)
				w.k.product(w, l, m, n, k, a, lda, b, ldb, part, n, acc, seen)
				for i := range m {
					for j := range n {
						if inside(i, j) && whole[i*n+j] != part[i*n+j] {
							t.Fatalf("%s %v %dx%dx%d seen %d: (%d,%d) is %g, want %g", isa, l, m, n, k, seen, i, j, part[i*n+j], whole[i*n+j])
						}
					}
				}
			}
			all := func(int, int) bool { return true }
			check(gpu.NN, rows, width, cols, tri, random(cols, width), false, all)
			check(gpu.NN, rows, width, cols, tri, random(cols, width), true, all)
			check(gpu.TN, cols, width, rows, tri, random(rows, width), true, all)
			check(gpu.TN, cols, width, rows, tri, random(rows, width), false, all)
			check(gpu.NT, rows, cols, width, random(rows, width), random(cols, width), false, func(i, j int) bool { return j < seen+i })
		}
	}
}

package cpu

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoalnet/shoal/gpu"
)

// TestCut holds a product that several threads share, in pieces for which B is packed once, to
// that of one thread, bit for bit, and pieces to covering C once.
func TestCut(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	shapes := [][3]int{{256, 256, 48}, {512, 288, 288}, {300, 770, 1100}, {1000, 33, 700}, {17, 2000, 130}, {700, 16, 513}, {90, 5000, 64}, {2000, 1600, 8}}
	for _, isa := range allKernels() {
		if isa == "portable" {
			continue // it packs nothing for later
		}
		for _, half := range []bool{false, true} {
			one := newDevice(t, Options{Threads: 1, ISA: isa, BF16: half})
			for i, s := range shapes {
				many := newDevice(t, Options{Threads: 2 + i%5, ISA: isa, BF16: half})
				for l := gpu.NN; l <= gpu.TN; l++ {
					m, n, k := s[0], s[1], s[2]
					mat := func(r, c int) gpu.Matrix {
						x := one.Alloc(r*c).Matrix(r, c)
						for i := range x.Host {
							x.Host[i] = float32(rng.NormFloat64())
						}
						return x
					}
					a, b, want := mat(m, k), mat(k, n), mat(m, n)
					switch l {
					case gpu.NT:
						b = mat(n, k)
					case gpu.TN:
						a = mat(k, m)
					}
					got := one.Alloc(m*n).Matrix(m, n)
					copy(got.Host, want.Host)
					acc := rng.IntN(2) == 0
					one.MatMul(l, want, a, b, acc)
					many.MatMul(l, got, a, b, acc)
					for i := range want.Host {
						if math.Float32bits(want.Host[i]) != math.Float32bits(got.Host[i]) {
							t.Fatalf("%s, bf16 %v, %v %dx%dx%d on %d threads: at %d got %g, want %g", isa, half, l, m, n, k, many.Threads(), i, got.Host[i], want.Host[i])
						}
					}
					covered := make([]int, m*n)
					for _, r := range many.matmul.rects {
						for y := r.i; y < r.i+r.rows; y++ {
							for x := r.j; x < r.j+r.cols; x++ {
								covered[y*n+x]++
							}
						}
					}
					for i, c := range covered {
						if c != 1 {
							t.Fatalf("%v %dx%dx%d on %d threads: element %d is in %d pieces", l, m, n, k, many.Threads(), i, c)
						}
					}
				}
			}
		}
	}
}

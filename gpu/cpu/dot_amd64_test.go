//go:build amd64 && !purego

package cpu

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/gpu"
)

// TestPairs holds VDPBF16PS and what packs for it to that definition, bit for bit.
func TestPairs(t *testing.T) {
	if !hasDots() {
		t.Skip("SKIPPED: this processor has no VDPBF16PS as Intel defines it")
	}
	d := newDevice(t, Options{Threads: 1, ISA: "avx512bf16", BF16: true})
	rng := rand.New(rand.NewPCG(11, 1))
	for try := range 400 {
		m, n, k := 1+rng.IntN(60), 1+rng.IntN(90), rng.IntN(90)
		if try%20 == 0 { // more than a block
			k += 1000 + rng.IntN(1500)
		}
		scale := []float64{0, 0, 20, 60}[rng.IntN(4)] // of exponents: sums that cancel, that end below or above what is finite
		odd := rng.IntN(4) == 0
		mat := func(r, c int) gpu.Matrix {
			pad := rng.IntN(2) * rng.IntN(5)
			x := gpu.Matrix{Buffer: d.Alloc(r * (c + pad)), Rows: r, Cols: c, Stride: c + pad}
			for i := range x.Host {
				x.Host[i] = float32(rng.NormFloat64() * math.Exp2(scale*rng.NormFloat64()))
				if odd && rng.IntN(50) == 0 {
					x.Host[i] = math.Float32frombits(rng.Uint32()) // anything: NaN, Inf, subnormal
				}
			}
			return x
		}
		l := gpu.Layout(try % 3)
		a, b, c := mat(m, k), mat(k, n), mat(m, n)
		switch l {
		case gpu.NT:
			b = mat(n, k)
		case gpu.TN:
			a = mat(k, m)
		}
		acc := rng.IntN(2) == 0
		was := slices.Clone(c.Host)
		d.MatMul(l, c, a, b, acc)
		x, y := make([]float32, k), make([]float32, k)
		for i := range m {
			for p := range k {
				if l == gpu.TN {
					x[p] = a.Host[p*a.Stride+i]
				} else {
					x[p] = a.Host[i*a.Stride+p]
				}
			}
			roundGo(x)
			for j := range n {
				for p := range k {
					if l == gpu.NT {
						y[p] = b.Host[j*b.Stride+p]
					} else {
						y[p] = b.Host[p*b.Stride+j]
					}
				}
				roundGo(y)
				want := float32(0)
				if acc {
					want = was[i*c.Stride+j]
				}
				want = pairs(want, x, y)
				if got := c.Host[i*c.Stride+j]; math.Float32bits(got) != math.Float32bits(want) && (got == got || want == want) {
					t.Fatalf("%v %dx%dx%d, accumulate %v: at %d,%d got %g, want %g", l, m, n, k, acc, i, j, got, want)
				}
			}
		}
	}
}

// TestClassOfPairs holds devices with other bits to another class.
func TestClassOfPairs(t *testing.T) {
	if !hasDots() {
		t.Skip("SKIPPED: this processor has no VDPBF16PS as Intel defines it")
	}
	class := func(o Options) string { return newDevice(t, o).Class() }
	full, half := class(Options{}), class(Options{ISA: "avx512", BF16: true})
	own := class(Options{ISA: "avx512bf16", BF16: true})
	if full == half || half == own || full == own {
		t.Errorf("classes of float32, bfloat16 and pairs: %q, %q, %q", full, half, own)
	}
	for want, all := range map[string][]Options{
		full: {{ISA: "avx2"}, {ISA: "avx512bf16"}, {ISA: "portable", Reproducible: true}},
		half: {{ISA: "avx2", BF16: true}, {ISA: "avx512bf16", BF16: true, Reproducible: true}, {ISA: "portable", BF16: true, Reproducible: true}, {BF16: true, Reproducible: true}},
	} {
		for _, o := range all {
			if got := class(o); got != want {
				t.Errorf("%+v is of class %q, want %q", o, got, want)
			}
		}
	}
}

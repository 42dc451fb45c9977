//go:build amd64 && !purego

package cpu

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/cpu"

	"github.com/shoalnet/shoal/gpu"
)

// dots are the kernels of avx512 with products in bfloat16 by VDPBF16PS, which multiplies and adds two
// pairs where a fused multiply-add has one, and rounds in between and to no subnormal number. All
// processors of AVX-512 with that instruction have it, but some take four times as long for one.
var dots = func() kernels {
	k := avx512
	k.name, k.paired, k.exact = "avx512bf16", true, &avx512
	k.half = func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
		tiled(&tilingDot, w, true, l, m, n, k, a, lda, b, ldb, c, ldc, acc, 0)
	}
	return k
}()

var tilingDot = tiling{
	lanes: 16, unit: 2, vectors: 2, rows: 14,
	row: tiles512Dot[:], col: tiles512Dot[:], rowEdge: tiles512Dot[:], colEdge: tiles512Dot[:], strip: tiles512Dot[:],
	transpose: transposeDot512, strips: stripsDot512x1, panels: stripsDot512x2,
}

// hasDots says whether VDPBF16PS is there and computes what Intel's manual says, on which the equality of
// bits rests; packing for it exchanges words.
var hasDots = sync.OnceValue(func() bool {
	if !cpu.X86.HasAVX512BF16 || !cpu.X86.HasAVX512BW {
		return false
	}
	// Sixteen elements of C, each of a row of A and a column of B: sums that cancel and lose digits, then
	// such that come and go among the subnormals.
	const k = 64 // pairs
	rng := rand.New(rand.NewPCG(1, 1))
	x, y, col := make([]float32, 2*k), make([]float32, 2*k*16), make([]float32, 2*k)
	a, b, c := aligned(16*k), aligned(32*k), aligned(16)
	for _, scale := range []int{0, -69} {
		for _, s := range [][]float32{x, y} {
			for i := range s {
				s[i] = float32(rng.NormFloat64() * math.Exp2(float64(rng.IntN(9)+scale)))
			}
			roundGo(s)
		}
		transposeDot512(2*k, 1, ptr(x, 0), 0, ptr(a, 0), 64)
		stripsDot512x2(2*k, 1, 32, 16, ptr(y, 0), 64, ptr(b, 0), 0)
		tiles512Dot[1][1](k, ptr(a, 0), 64, ptr(b, 0), 128, ptr(c, 0), 64, false, 16, ptr(c, 0), 1, nil, place(b, 0), 0)
		for j := range 16 {
			for i := range col {
				col[i] = y[16*i+j]
			}
			if math.Float32bits(c[j]) != math.Float32bits(pairs(0, x, col)) {
				return false
			}
		}
	}
	return true
})

// normal is x, or a 0 of its sign where x is subnormal.
func normal(x float32) float32 {
	if math.Float32bits(x)&0x7f800000 == 0 {
		return math.Float32frombits(math.Float32bits(x) & 0x80000000)
	}
	return x
}

// pairs is c plus x·y as Intel's manual (volume 2, VDPBF16PS) defines it: of each pair the second
// product first, each added by one rounding; no operand and no sum is subnormal.
func pairs(c float32, x, y []float32) float32 {
	for k := 0; k < len(x); k += 2 {
		for i := min(k+2, len(x)) - 1; i >= k; i-- {
			c = normal(fma(normal(x[i]), normal(y[i]), normal(c)))
		}
	}
	return c
}

// withHalf are the kernels like best whose products in bfloat16 are the fastest.
func withHalf(best *kernels) *kernels {
	if best == &avx512 && hasDots() && dotsPay() {
		return &dots
	}
	return best
}

// dotsPay says whether VDPBF16PS does more in a given time here than fused multiply-adds of float32,
// which depends on the processor's model. The difference is a factor of two either way, so that a
// noisy measurement does not change the answer.
var dotsPay = sync.OnceValue(func() bool {
	const k = 256
	a, b, c := aligned(16*k), aligned(32*k), aligned(14*32)
	least := func(f tile) time.Duration {
		best := time.Duration(math.MaxInt64)
		for range 30 {
			start := time.Now()
			f(k, ptr(a, 0), 64, ptr(b, 0), 128, ptr(c, 0), 128, false, 32, ptr(c, 0), 1, nil, place(b, 0), 0)
			best = min(best, time.Since(start))
		}
		return best
	}
	return 2*least(tiles512Dot[2][14]) < 3*least(tiles512Strip[2][14])
})

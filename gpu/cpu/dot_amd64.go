//go:build amd64 && !purego

package cpu

import (
	"math"
	"sync"
	"time"
	"unsafe"

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

// hasDots says whether VDPBF16PS is there; packing for it exchanges words.
func hasDots() bool { return cpu.X86.HasAVX512BF16 && cpu.X86.HasAVX512BW }

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
			f(k, ptr(a, 0), 64, ptr(b, 0), 128, ptr(c, 0), 128, false, 32, ptr(c, 0), 1, nil, uintptr(unsafe.Pointer(ptr(b, 0))), 0)
			best = min(best, time.Since(start))
		}
		return best
	}
	return 2*least(tiles512Dot[2][14]) < 3*least(tiles512Strip[2][14])
})

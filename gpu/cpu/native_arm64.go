//go:build !purego

package cpu

import (
	"math"
	"unsafe"

	"github.com/shoalnet/shoal/gpu"
)

// native lists the kernels in assembly: NEON, which every arm64 processor has.
func native() []*kernels { return []*kernels{&neon} }

// neon leaves to Go what costs little beside products and exponentials.
var neon = kernels{
	name: "neon", class: "fma", pack: neonB, strips: neonM * neonK, slack: 16,
	product: func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool, seen int) {
		productNEON(false, w, l, m, n, k, a, lda, b, ldb, c, ldc, acc, seen)
	},
	half: func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
		productNEON(true, w, l, m, n, k, a, lda, b, ldb, c, ldc, acc, 0)
	},
	dot: func(x, y []float32) float32 {
		var s [lanes]float32
		n := len(x) &^ (lanes - 1)
		dotNEON(n, unsafe.SliceData(x), unsafe.SliceData(y), &s)
		for i, v := range x[n:] {
			s[i] = fma(v, y[n+i], s[i])
		}
		return tree(&s)
	},
	dot3: func(x, y, z []float32) float32 {
		var s [lanes]float32
		n := len(x) &^ (lanes - 1)
		dotThreeNEON(n, unsafe.SliceData(x), unsafe.SliceData(y), unsafe.SliceData(z), &s)
		for i, v := range x[n:] {
			s[i] = fma(float32(v*y[n+i]), z[n+i], s[i])
		}
		return tree(&s)
	},
	add: addGo, greatest: greatestGo, normalize: normalizeGo, normBack: normBackGo,
	softmax: softmaxNEON,
	softmaxBack: func(dp, p []float32, a, m, inv, d float32) {
		n := len(dp) &^ 3
		softmaxBackNEON(n, unsafe.SliceData(dp), unsafe.SliceData(p), a, m, inv, d)
		softmaxBackGo(dp[n:], p[n:], a, m, inv, d)
	},
	rope: ropeGo,
	swiglu: func(out, gate, up []float32) {
		n := len(out) &^ 3
		swigluNEON(n, unsafe.SliceData(out), unsafe.SliceData(gate), unsafe.SliceData(up))
		swigluGo(out[n:], gate[n:], up[n:])
	},
	swigluBack: func(dgate, dup, dout, gate, up []float32) {
		n := len(dgate) &^ 3
		swigluBackNEON(n, unsafe.SliceData(dgate), unsafe.SliceData(dup), unsafe.SliceData(dout), unsafe.SliceData(gate), unsafe.SliceData(up))
		swigluBackGo(dgate[n:], dup[n:], dout[n:], gate[n:], up[n:])
	},
	adamw: adamwGo,
}

func softmaxNEON(y []float32, a, b float32) (m, sum float32) {
	m = float32(math.Inf(-1))
	n := len(y) &^ (lanes - 1)
	if n > 0 {
		m = greatestNEON(n, &y[0])
		if m != m { // all are NaN
			m = float32(math.Inf(-1))
		}
	}
	for _, v := range y[n:] {
		if v > m {
			m = v
		}
	}
	m = float32(m * a)
	var s [lanes]float32
	expNEON(n, unsafe.SliceData(y), a, m, &s)
	for i, v := range y[n:] {
		y[n+i] = expGo(fma(a, v, -m))
		s[i] += y[n+i]
	}
	sum = tree(&s)
	b /= sum
	n = len(y) &^ 3
	scaleNEON(n, unsafe.SliceData(y), b)
	for i := n; i < len(y); i++ {
		y[i] *= b
	}
	return m, sum
}

var panelsNEON = panelKernels{
	full: []panelKernel{linearNEONF32x1, linearNEONF32x2, linearNEONF32x3},
	half: []panelKernel{linearNEONBF16x1, linearNEONBF16x2, linearNEONBF16x3},
}

// withHalf are the kernels like best whose products in bfloat16 are the fastest.
func withHalf(best *kernels) *kernels { return best }

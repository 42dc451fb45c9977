//go:build !purego

package cpu

import "github.com/shoalnet/shoal/gpu"

// native lists the kernels in assembly: NEON, which every arm64 processor has.
func native() []*kernels { return []*kernels{&neon} }

// neon leaves to Go what costs little beside products.
var neon = kernels{
	name: "neon", pack: neonB, strips: neonM * neonK, slack: 16,
	product: func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool, seen int) {
		productNEON(false, w, l, m, n, k, a, lda, b, ldb, c, ldc, acc, seen)
	},
	half: func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
		productNEON(true, w, l, m, n, k, a, lda, b, ldb, c, ldc, acc, 0)
	},
	dot: dotGo, dot3: dot3Go, add: addGo,
	normalize: normalizeGo, normBack: normBackGo,
	softmax: softmaxGo, softmaxBack: softmaxBackGo, rope: ropeGo,
	swiglu: swigluGo, swigluBack: swigluBackGo, adamw: adamwGo,
}

var panelsNEON = panelKernels{
	full: []panelKernel{linearNEONF32x1, linearNEONF32x2, linearNEONF32x3},
	half: []panelKernel{linearNEONBF16x1, linearNEONBF16x2, linearNEONBF16x3},
}

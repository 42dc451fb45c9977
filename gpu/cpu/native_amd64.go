//go:build amd64 && !purego

package cpu

import (
	"golang.org/x/sys/cpu"

	"github.com/shoalnet/shoal/gpu"
)

//go:generate sh -c "cd asm && go run . -out ../kernels_amd64.s -stubs ../stubs_amd64.go -pkg cpu"

// native lists the kernels in assembly that this processor runs, the best
// first.
func native() []*kernels {
	var all []*kernels
	x := cpu.X86
	if x.HasAVX512F && x.HasAVX2 && x.HasFMA && x.HasBMI2 {
		all = append(all, &avx512)
		if hasDots() {
			all = append(all, &dots)
		}
	}
	if x.HasAVX2 && x.HasFMA && x.HasBMI2 {
		all = append(all, &avx2)
	}
	return all
}

var avx512 = kernels{
	name: "avx512", class: "fma", pack: maxPanels, strips: maxStrips, slack: 16, keeps: true,
	product: func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool, seen int) {
		tiled(&tiling512, w, false, l, m, n, k, a, lda, b, ldb, c, ldc, acc, seen)
	},
	half: func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
		tiled(&tiling512, w, true, l, m, n, k, a, lda, b, ldb, c, ldc, acc, 0)
	},
	few: few512,
	ask: askRows, dot: dot512, dot3: dotThree512, add: add512, greatest: greatest512, normalize: normalize512, normBack: normBack512,
	softmax: softmax512, softmaxBack: softmaxBack512, rope: rope512,
	swiglu: swiglu512, swigluBack: swigluBack512,
	adamw: func(p, g, m, v []float32, o *gpu.AdamW) {
		adamw512(p, g, m, v, o.Scale, o.Beta1, o.Beta2, o.Rate, o.Correct2, o.Eps, o.Keep)
	},
}

var avx2 = kernels{
	name: "avx2", class: "fma", pack: maxPanels, strips: maxStrips, slack: 16, keeps: true,
	product: func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool, seen int) {
		tiled(&tiling256, w, false, l, m, n, k, a, lda, b, ldb, c, ldc, acc, seen)
	},
	half: func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
		tiled(&tiling256, w, true, l, m, n, k, a, lda, b, ldb, c, ldc, acc, 0)
	},
	ask: askRows, dot: dot256, dot3: dotThree256, add: add256, greatest: greatest256, normalize: normalize256, normBack: normBack256,
	softmax: softmax256, softmaxBack: softmaxBack256, rope: rope256,
	swiglu: swiglu256, swigluBack: swigluBack256,
	adamw: func(p, g, m, v []float32, o *gpu.AdamW) {
		adamw256(p, g, m, v, o.Scale, o.Beta1, o.Beta2, o.Rate, o.Correct2, o.Eps, o.Keep)
	},
}

var tiling512 = tiling{
	lanes: 16, unit: 1, vectors: 2, rows: 14,
	row: tiles512Row[:], col: tiles512Col[:], rowEdge: tiles512Row[:], colEdge: tiles512Col[:],
	strip: tiles512Strip[:], rowPack: tiles512RowPack[:], stripPack: tiles512StripPack[:],
	transpose: transpose512, strips: strips512x1, panels: strips512x2, round: round512,
}

var tiling256 = tiling{
	lanes: 8, unit: 1, vectors: 2, rows: 6,
	row: tiles256Row[:], col: tiles256Col[:], rowEdge: tiles256RowMasked[:], colEdge: tiles256ColMasked[:],
	transpose: transpose256, strips: strips256x1, panels: strips256x2, round: round256,
}

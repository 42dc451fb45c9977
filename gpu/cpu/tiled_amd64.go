//go:build amd64 && !purego

package cpu

import (
	"unsafe"

	"github.com/shoalnet/shoal/gpu"
)

// A tile is a block of C that stays in registers while k runs; see
// asm/tile.go. Strides are in bytes.
type tile func(k int, a *float32, sa int, b *float32, sb int, c *float32, sc int, acc bool, cols int)

// A tiling is the tiles of one instruction set, by vectors and rows.
type tiling struct {
	lanes            int      // of a vector
	vectors          int      // at most, side by side
	row, col         [][]tile // A as it lies, and transposed
	rowEdge, colEdge [][]tile // the same where the last vector is not full
	// transpose writes blocks of (lanes, lanes) of src, side by side, to dst.
	transpose func(blocks int, src *float32, ss int, dst *float32, ds int)
}

// ptr is the address of s[i], unchecked: the shapes were checked before.
func ptr(s []float32, i int) *float32 {
	return (*float32)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(s)), 4*i))
}

const (
	// blockK is how much of k is done at a time: a panel of B of so many rows
	// stays in the first- or second-level cache. C waits in memory between.
	blockK = 512
	// blockM is how many rows of A pass by a panel of B before the next panel,
	// so that they stay in the second-level cache.
	blockM = 96
)

// tiled computes C (m, n) = or += op(A)·op(B).
func tiled(t *tiling, w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
	if k == 0 && !acc {
		for i := range m {
			clear(c[i*ldc : i*ldc+n])
		}
		return
	}
	// Panels of B are as equal as whole vectors allow.
	vecs := (n + t.lanes - 1) / t.lanes
	panels := (vecs + t.vectors - 1) / t.vectors
	for k0 := 0; k0 < k; k0 += blockK {
		kb := min(blockK, k-k0)
		for p := range panels {
			v0, v1 := vecs*p/panels, vecs*(p+1)/panels
			j0 := v0 * t.lanes
			cols := min(v1*t.lanes, n) - j0
			nv := v1 - v0
			row, col := t.row[nv], t.col[nv]
			if cols < nv*t.lanes {
				row, col = t.rowEdge[nv], t.colEdge[nv]
			}
			bp, sb := ptr(b, k0*ldb+j0), 4*ldb
			if l == gpu.NT {
				bp, sb = t.pack(w, nv, kb, cols, b, j0*ldb+k0, ldb), 4*nv*t.lanes
			}
			blocks := (m + len(row) - 2) / (len(row) - 1)
			for i := range blocks {
				i0, i1 := m*i/blocks, m*(i+1)/blocks
				cp := ptr(c, i0*ldc+j0)
				if l == gpu.TN {
					col[i1-i0](kb, ptr(a, k0*lda+i0), 4*lda, bp, sb, cp, 4*ldc, acc || k0 > 0, cols)
				} else {
					row[i1-i0](kb, ptr(a, i0*lda+k0), 4*lda, bp, sb, cp, 4*ldc, acc || k0 > 0, cols)
				}
			}
		}
	}
}

// pack transposes kb columns of cols rows of B from b[at] on into a panel of
// nv vectors; missing columns are 0.
func (t *tiling) pack(w *worker, nv, kb, cols int, b []float32, at, ldb int) *float32 {
	width := nv * t.lanes
	dst := grow(&w.pack, kb*width)
	for j := 0; j < width; j += t.lanes {
		whole := 0
		if j+t.lanes <= cols {
			if whole = kb / t.lanes; whole > 0 {
				t.transpose(whole, ptr(b, at+j*ldb), 4*ldb, &dst[j], 4*width)
			}
		}
		for x := whole * t.lanes; x < kb; x++ {
			for i := j; i < j+t.lanes; i++ {
				if i < cols {
					dst[x*width+i] = b[at+i*ldb+x]
				} else {
					dst[x*width+i] = 0
				}
			}
		}
	}
	return &dst[0]
}

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
	// blockK is how much of k is done at a time; C waits in memory between.
	blockK = 512
	// blockM is how many rows of A meet all panels before the next rows, so
	// that they come from the second-level cache.
	blockM = 96
	// maxPanels is how many values of B are held in panels at a time: at least
	// one panel's.
	maxPanels = 128 << 10
	// B that is not transposed is read where it lies while a block of it is
	// small; a larger one would miss the TLB and the first-level cache.
	direct = 32 << 10
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
		pack := l == gpu.NT || (m > blockM && kb*ldb > direct)
		group := panels
		if pack {
			group = max(1, min(panels, maxPanels/(kb*t.vectors*t.lanes)))
		}
		for p0 := 0; p0 < panels; p0 += group {
			p1 := min(panels, p0+group)
			if pack {
				for p := p0; p < p1; p++ {
					v0, v1 := vecs*p/panels, vecs*(p+1)/panels
					t.pack(l, v1-v0, kb, b, k0, v0*t.lanes, n, ldb, w.pack[(p-p0)*kb*t.vectors*t.lanes:])
				}
			}
			for r0 := 0; r0 < m; r0 += blockM {
				rows := min(blockM, m-r0)
				for p := p0; p < p1; p++ {
					v0, v1 := vecs*p/panels, vecs*(p+1)/panels
					j0, nv := v0*t.lanes, v1-v0
					cols := min(nv*t.lanes, n-j0)
					row, col := t.row[nv], t.col[nv]
					if cols < nv*t.lanes {
						row, col = t.rowEdge[nv], t.colEdge[nv]
					}
					var bp *float32
					sb := 4 * ldb
					if pack {
						bp, sb = ptr(w.pack, (p-p0)*kb*t.vectors*t.lanes), 4*nv*t.lanes
					} else {
						bp = ptr(b, k0*ldb+j0)
					}
					blocks := (rows + len(row) - 2) / (len(row) - 1)
					for i := range blocks {
						i0, i1 := r0+rows*i/blocks, r0+rows*(i+1)/blocks
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
	}
}

// pack writes the panel of nv vectors of op(B) that begins at k0, j0 to dst,
// whose rows are full vectors; columns from n on are 0.
func (t *tiling) pack(l gpu.Layout, nv, kb int, b []float32, k0, j0, n, ldb int, dst []float32) {
	width := nv * t.lanes
	cols := min(width, n-j0)
	if l != gpu.NT {
		for x := range kb {
			d := dst[x*width : (x+1)*width]
			clear(d[copy(d, b[(k0+x)*ldb+j0:][:cols]):])
		}
		return
	}
	for j := 0; j < width; j += t.lanes {
		whole := 0
		if j+t.lanes <= cols {
			if whole = kb / t.lanes; whole > 0 {
				t.transpose(whole, ptr(b, (j0+j)*ldb+k0), 4*ldb, &dst[j], 4*width)
			}
		}
		for x := whole * t.lanes; x < kb; x++ {
			for i := j; i < j+t.lanes; i++ {
				if i < cols {
					dst[x*width+i] = b[(j0+i)*ldb+k0+x]
				} else {
					dst[x*width+i] = 0
				}
			}
		}
	}
}

//go:build !purego

package cpu

import (
	"github.com/shoalnet/shoal/gpu"
)

// The NEON matrix product: tiles of 8 by 12 elements of C fill 24 of the 32 registers while k
// runs. A and B are copied to strips as wide as a tile, so that a step of k is five loads and 24
// multiplications by element.
const (
	neonRows = 8
	neonCols = 12
	neonK    = 256       // of k in a block: a strip of A and one of B fit the first-level cache
	neonM    = 128       // rows of A in a block
	neonB    = 128 << 10 // values of B in strips: half a MiB, of the second-level cache
)

func productNEON(half bool, w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool, seen int) {
	if !acc {
		for i := range m {
			clear(c[i*ldc : i*ldc+n])
		}
	}
	for k0 := 0; k0 < k; k0 += neonK {
		kb := min(neonK, k-k0)
		group := neonB / (neonCols * kb) * neonCols
		for j0 := 0; j0 < n; j0 += group {
			cols := min(group, n-j0)
			packNEON(w.pack, b, ldb, l == gpu.NT, half, j0, neonCols, cols, k0, kb)
			for i0 := 0; i0 < m; i0 += neonM {
				rows := min(neonM, m-i0)
				packNEON(w.strips, a, lda, l != gpu.TN, half, i0, neonRows, rows, k0, kb)
				for j := 0; j < cols; j += neonCols {
					for i := 0; i < rows; i += neonRows {
						end := i0 + min(i+neonRows, rows)
						from, to := needed(l, seen, k0, kb, i0+i, end)
						if from < to && !(l == gpu.NT && seen > 0 && j0+j >= seen+end-1) {
							tilesNEON(to-from, w.strips[i*kb+from*neonRows:], w.pack[j*kb+from*neonCols:], c[(i0+i)*ldc+j0+j:], ldc, rows-i, cols-j)
						}
					}
				}
			}
		}
	}
}

// tilesNEON adds one tile, of which rows by cols elements count.
func tilesNEON(k int, a, b, c []float32, ldc, rows, cols int) {
	if rows >= neonRows && cols >= neonCols {
		tileNEON(k, &a[0], &b[0], &c[0], 4*ldc)
		return
	}
	rows, cols = min(rows, neonRows), min(cols, neonCols)
	var t [neonRows * neonCols]float32
	for i := range rows {
		copy(t[i*neonCols:], c[i*ldc:i*ldc+cols])
	}
	tileNEON(k, &a[0], &b[0], &t[0], 4*neonCols)
	for i := range rows {
		copy(c[i*ldc:i*ldc+cols], t[i*neonCols:])
	}
}

// packNEON packs n columns of kb rows of x from column at and row k0 on, or as many rows of
// columns, into strips of width, rounded to bfloat16 for half.
func packNEON(dst, x []float32, ld int, rows, half bool, at, width, n, k0, kb int) {
	if rows {
		across(dst, x[at*ld+k0:], width, n, kb, ld)
	} else {
		along(dst, x[k0*ld+at:], width, n, kb, ld)
	}
	if half {
		roundGo(dst[:(n+width-1)/width*width*kb])
	}
}

// along copies n columns of kb rows of src, ss apart, to strips of width columns. What a
// strip holds beyond n is of no matter.
func along(dst, src []float32, width, n, kb, ss int) {
	for s := 0; s < n; s += width {
		cols := min(width, n-s)
		for x := range kb {
			copy(dst[s*kb+x*width:][:cols], src[x*ss+s:])
		}
	}
}

// across is along for n rows of kb columns, which become columns.
func across(dst, src []float32, width, n, kb, ss int) {
	for i := range n {
		d := dst[i/width*width*kb+i%width:]
		at := 0
		for _, v := range src[i*ss : i*ss+kb] {
			d[at] = v
			at += width
		}
	}
}

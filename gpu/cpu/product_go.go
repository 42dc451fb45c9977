package cpu

import (
	"math"

	"github.com/shoalnet/shoal/gpu"
)

// The portable matrix product: tiles of 2 by 4 elements of C stay in registers
// while k runs along rows of A and rows of Bᵀ; operands that lie otherwise are
// copied so, block by block. Each element of C is one chain over k, as in the
// assembly.

const (
	goRows = 256 // of A in a block: what copying B is spread over
	goCols = 16  // of B: a cache line
	goK    = 512 // of k
)

// A tileGo adds two rows of A, ai apart, times four of Bᵀ, bj apart, k elements
// each, to two rows of C. (Two slices, because arguments beyond nine words go through
// memory.)
//
// Processors that compute two vectors of 8 float32 by fused multiply-adds at a time, as
// AVX2 is used here, add or multiply three scalars, so that its speed is 32/3 of the best
// that Go can do, and tileFast is within a tenth of that. math.FMA is no way out: below GOAMD64=v3
// it is a branch around a call, for whose sake the compiler keeps nothing in registers.
type tileGo func(k int, a []float32, ai int, b []float32, bj int, c0, c1 *[4]float32)

// wholly computes what may be left out too.
func wholly(product func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool)) func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool, _ int) {
	return func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool, _ int) {
		product(w, l, m, n, k, a, lda, b, ldb, c, ldc, acc)
	}
}

func productGo(tile tileGo, half bool) func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
	return func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
		if !acc {
			for i := range m {
				clear(c[i*ldc : i*ldc+n])
			}
		}
		for k0 := 0; k0 < k; k0 += goK {
			kb := min(goK, k-k0)
			for i0 := 0; i0 < m; i0 += goRows {
				rows := min(goRows, m-i0)
				at, la := a, lda
				switch {
				case l == gpu.TN:
					at, la = w.strips, kb
					turn(at, a[k0*lda+i0:], rows, kb, lda)
				case half:
					at, la = w.strips, kb
					lay(at, a[i0*lda+k0:], rows, kb, lda)
				default:
					at = a[i0*lda+k0:]
				}
				if half {
					roundGo(at[:rows*kb])
				}
				for j0 := 0; j0 < n; j0 += goCols {
					cols := min(goCols, n-j0)
					bt, lb := b, ldb
					switch {
					case l != gpu.NT:
						bt, lb = w.pack, kb
						turn(bt, b[k0*ldb+j0:], cols, kb, ldb)
					case half || cols%4 > 0:
						bt, lb = w.pack, kb
						lay(bt, b[j0*ldb+k0:], cols, kb, ldb)
					default:
						bt = b[j0*ldb+k0:]
					}
					if half {
						roundGo(bt[:cols*kb])
					}
					block(w, tile, rows, cols, kb, at, la, bt, lb, c[i0*ldc+j0:], ldc)
				}
			}
		}
	}
}

// turn copies cols columns of src, kb rows ss apart, to rows of dst, some lines of the
// cache at a time.
func turn(dst, src []float32, cols, kb, ss int) {
	const lines = 8
	for x0 := 0; x0 < kb; x0 += lines {
		for j := range cols {
			at := x0*ss + j
			d := dst[j*kb+x0 : j*kb+min(x0+lines, kb)]
			for x := range d {
				d[x] = src[at]
				at += ss
			}
		}
	}
}

// lay copies rows rows of src, ss apart.
func lay(dst, src []float32, rows, kb, ss int) {
	for i := range rows {
		copy(dst[i*kb:(i+1)*kb], src[i*ss:])
	}
}

// roundGo rounds to bfloat16, ties to even; NaN stays NaN.
func roundGo(x []float32) {
	for i, v := range x {
		u := math.Float32bits(v)
		if u&0x7fffffff > 0x7f800000 {
			u |= 0x7fc00000
		} else {
			u += 0x7fff + u>>16&1
		}
		x[i] = math.Float32frombits(u & 0xffff0000)
	}
}

// block adds rows of A times rows of Bᵀ, of which a multiple of four are in memory. Where
// a row of A is missing, its neighbour is taken again; what comes of that is dropped, as are
// columns too many.
func block(w *worker, tile tileGo, rows, cols, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int) {
	t0, t1 := (*[4]float32)(w.edge[:]), (*[4]float32)(w.edge[4:])
	for i := 0; i < rows; i += 2 {
		other := min(i+1, rows-1)
		r0, r1 := c[i*ldc:][:cols], c[other*ldc:][:cols]
		for j := 0; j < cols; j += 4 {
			c0, c1 := t0, t1
			if j+4 <= cols {
				c0 = (*[4]float32)(r0[j:])
			} else {
				copy(c0[:], r0[j:])
			}
			if j+4 <= cols && other > i {
				c1 = (*[4]float32)(r1[j:])
			} else {
				copy(c1[:], r1[j:])
			}
			tile(k, a[i*lda:], (other-i)*lda, b[j*ldb:], ldb, c0, c1)
			if j+4 > cols {
				copy(r1[j:], c1[:])
				copy(r0[j:], c0[:])
			}
		}
	}
}

// tileFast rounds each product before it is added, as the compiler can do
// without waiting.
func tileFast(k int, a []float32, ai int, b []float32, bj int, c0, c1 *[4]float32) {
	s00, s01, s02, s03 := c0[0], c0[1], c0[2], c0[3]
	s10, s11, s12, s13 := c1[0], c1[1], c1[2], c1[3]
	r0, r1 := a[:k], a[ai:ai+k]
	b0, b1, b2, b3 := b[:k], b[bj:bj+k], b[2*bj:2*bj+k], b[3*bj:3*bj+k]
	for x, a0 := range r0 {
		a1 := r1[x]
		s00 += float32(a0 * b0[x])
		s01 += float32(a0 * b1[x])
		s02 += float32(a0 * b2[x])
		s03 += float32(a0 * b3[x])
		s10 += float32(a1 * b0[x])
		s11 += float32(a1 * b1[x])
		s12 += float32(a1 * b2[x])
		s13 += float32(a1 * b3[x])
	}
	c0[0], c0[1], c0[2], c0[3] = s00, s01, s02, s03
	c1[0], c1[1], c1[2], c1[3] = s10, s11, s12, s13
}

// tileFused is tileFast with fused multiply-adds: the bits of the assembly.
func tileFused(k int, a []float32, ai int, b []float32, bj int, c0, c1 *[4]float32) {
	s00, s01, s02, s03 := float64(c0[0]), float64(c0[1]), float64(c0[2]), float64(c0[3])
	s10, s11, s12, s13 := float64(c1[0]), float64(c1[1]), float64(c1[2]), float64(c1[3])
	r0, r1 := a[:k], a[ai:ai+k]
	b0, b1, b2, b3 := b[:k], b[bj:bj+k], b[2*bj:2*bj+k], b[3*bj:3*bj+k]
	for x, v := range r0 {
		x0, x1 := float64(v), float64(r1[x])
		y0, y1, y2, y3 := float64(b0[x]), float64(b1[x]), float64(b2[x]), float64(b3[x])
		u0, u1, u2, u3 := x0*y0+s00, x0*y1+s01, x0*y2+s02, x0*y3+s03
		f0, f1, f2, f3 := float32(u0), float32(u1), float32(u2), float32(u3)
		if twice(u0) {
			f0 = fmaOdd(x0*y0, s00)
		}
		if twice(u1) {
			f1 = fmaOdd(x0*y1, s01)
		}
		if twice(u2) {
			f2 = fmaOdd(x0*y2, s02)
		}
		if twice(u3) {
			f3 = fmaOdd(x0*y3, s03)
		}
		s00, s01, s02, s03 = float64(f0), float64(f1), float64(f2), float64(f3)
		u0, u1, u2, u3 = x1*y0+s10, x1*y1+s11, x1*y2+s12, x1*y3+s13
		f0, f1, f2, f3 = float32(u0), float32(u1), float32(u2), float32(u3)
		if twice(u0) {
			f0 = fmaOdd(x1*y0, s10)
		}
		if twice(u1) {
			f1 = fmaOdd(x1*y1, s11)
		}
		if twice(u2) {
			f2 = fmaOdd(x1*y2, s12)
		}
		if twice(u3) {
			f3 = fmaOdd(x1*y3, s13)
		}
		s10, s11, s12, s13 = float64(f0), float64(f1), float64(f2), float64(f3)
	}
	c0[0], c0[1], c0[2], c0[3] = float32(s00), float32(s01), float32(s02), float32(s03)
	c1[0], c1[1], c1[2], c1[3] = float32(s10), float32(s11), float32(s12), float32(s13)
}

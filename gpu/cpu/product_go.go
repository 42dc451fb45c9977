package cpu

import "github.com/shoalnet/shoal/gpu"

// productGo is the portable matrix product: tiles of 2 by 4 elements of C stay
// in registers while k runs.
func productGo(_ *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
	// Element (i, x) of op(A) is at i·ai + x·ax, element (x, j) of op(B) at
	// x·bx + j·bj.
	ai, ax, bx, bj := lda, 1, ldb, 1
	switch l {
	case gpu.NT:
		bx, bj = 1, ldb
	case gpu.TN:
		ai, ax = 1, lda
	}
	if !acc {
		for i := range m {
			clear(c[i*ldc : i*ldc+n])
		}
	}
	if k == 0 {
		return
	}
	i := 0
	for ; i+2 <= m; i += 2 {
		c0, c1 := c[i*ldc:i*ldc+n], c[(i+1)*ldc:(i+1)*ldc+n]
		j := 0
		for ; j+4 <= n; j += 4 {
			t0, t1 := (*[4]float32)(c0[j:]), (*[4]float32)(c1[j:])
			if bj == 1 {
				tile2x4(k, a[i*ai:], ai, ax, b[j:], bx, t0, t1)
			} else {
				tile2x4T(k, a[i*ai:], ai, b[j*bj:], bj, t0, t1)
			}
		}
		for ; j < n; j++ {
			c0[j] = chain(c0[j], k, a[i*ai:], ax, b[j*bj:], bx)
			c1[j] = chain(c1[j], k, a[(i+1)*ai:], ax, b[j*bj:], bx)
		}
	}
	for ; i < m; i++ {
		for j := range n {
			c[i*ldc+j] = chain(c[i*ldc+j], k, a[i*ai:], ax, b[j*bj:], bx)
		}
	}
}

// chain is s + Σ a·b over k, one after another.
func chain(s float32, k int, a []float32, ax int, b []float32, bx int) float32 {
	for x := range k {
		s += float32(a[x*ax] * b[x*bx])
	}
	return s
}

// tile2x4 adds two rows of op(A) times four columns of B, rows of B being
// contiguous.
func tile2x4(k int, a []float32, ai, ax int, b []float32, bx int, t0, t1 *[4]float32) {
	s00, s01, s02, s03 := t0[0], t0[1], t0[2], t0[3]
	s10, s11, s12, s13 := t1[0], t1[1], t1[2], t1[3]
	for x := range k {
		a0, a1 := a[x*ax], a[x*ax+ai]
		v := (*[4]float32)(b[x*bx:])
		s00 += float32(a0 * v[0])
		s01 += float32(a0 * v[1])
		s02 += float32(a0 * v[2])
		s03 += float32(a0 * v[3])
		s10 += float32(a1 * v[0])
		s11 += float32(a1 * v[1])
		s12 += float32(a1 * v[2])
		s13 += float32(a1 * v[3])
	}
	*t0, *t1 = [4]float32{s00, s01, s02, s03}, [4]float32{s10, s11, s12, s13}
}

// tile2x4T is tile2x4 with four rows of B, contiguous along k as A's are.
func tile2x4T(k int, a []float32, ai int, b []float32, bj int, t0, t1 *[4]float32) {
	s00, s01, s02, s03 := t0[0], t0[1], t0[2], t0[3]
	s10, s11, s12, s13 := t1[0], t1[1], t1[2], t1[3]
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
	*t0, *t1 = [4]float32{s00, s01, s02, s03}, [4]float32{s10, s11, s12, s13}
}

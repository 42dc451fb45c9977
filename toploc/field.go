package toploc

import "sync"

// Arithmetic in GF(p), p = 65497 = 2^16 - 39, on uint32 below p.

// inverses returns the table of inverses: inv[a]·a = 1 (mod p), inv[0] = 0.
var inverses = sync.OnceValue(func() *[Prime]uint16 {
	inv := new([Prime]uint16)
	inv[1] = 1
	for a := uint32(2); a < Prime; a++ {
		// p = (p/a)·a + p%a, so 1/a = -(p/a) · 1/(p%a).
		inv[a] = uint16((Prime - Prime/a) * uint32(inv[Prime%a]) % Prime)
	}
	return inv
})

func mulmod(a, b uint32) uint32 { return a * b % Prime }

func submod(a, b uint32) uint32 {
	if a < b {
		a += Prime
	}
	return a - b
}

// newton is interpolate in portable Go: it sets c to the coefficients, lowest
// degree first, of the polynomial of degree below n with P(x[i]) = y[i]. The x
// must be distinct and below p, the y below p.
//
// Newton's divided differences, level by level so that the steps of one level
// do not wait for each other; inverses come from a table.
func newton(c []uint16, x, y []uint32) {
	n := len(x)
	inv := inverses()
	var stack [128]uint32
	d := stack[:]
	if n > len(stack) {
		d = make([]uint32, n)
	}
	d = d[:n]
	copy(d, y)
	for level := 1; level < n; level++ {
		// d[j] becomes the difference over x[j-level..j]; downwards, as it reads d[j-1].
		for j := n - 1; j >= level; j-- {
			dx := submod(x[j], x[j-level])
			d[j] = mulmod(submod(d[j], d[j-1]), uint32(inv[dx]))
		}
	}
	// Horner: P = d[n-1]; P = P·(t - x[i]) + d[i]. The product is accumulated
	// in place from the top, so that neighbours are independent.
	var acc [128]uint32
	p := acc[:]
	if n > len(acc) {
		p = make([]uint32, n)
	}
	p = p[:n]
	p[0] = d[n-1]
	for i := n - 2; i >= 0; i-- {
		deg := n - 2 - i
		nx := Prime - x[i]
		if x[i] == 0 {
			nx = 0
		}
		p[deg+1] = p[deg]
		for j := deg; j > 0; j-- {
			p[j] = (p[j-1] + p[j]*nx) % Prime
		}
		p[0] = (p[0]*nx + d[i]) % Prime
	}
	for i, v := range p {
		c[i] = uint16(v)
	}
}

// evaluateGeneric is evaluate in portable Go: it sets out[i] = P(at[i]) for the
// polynomial with coefficients c, lowest degree first; c and at are below p.
//
// Blocks of 8 coefficients are summed without reduction (each product is below
// 2^32), so that a point costs one reduction in eight terms.
func evaluateGeneric(out []uint32, c []uint16, at []uint32) {
	n := len(c)
	for i, x := range at {
		var pw [9]uint64 // powers of x
		pw[0], pw[1] = 1, uint64(x)
		for k := 2; k <= 8; k++ {
			pw[k] = pw[k-1] * uint64(x) % Prime
		}
		var acc uint64
		top := (n + 7) &^ 7
		for b := top - 8; b >= 0; b -= 8 {
			acc *= pw[8] // below 2^32
			if b+8 <= n {
				q := c[b : b+8 : b+8]
				acc += uint64(q[0]) + uint64(q[1])*pw[1] + uint64(q[2])*pw[2] + uint64(q[3])*pw[3] +
					uint64(q[4])*pw[4] + uint64(q[5])*pw[5] + uint64(q[6])*pw[6] + uint64(q[7])*pw[7]
			} else {
				for k, v := range c[b:n] {
					acc += uint64(v) * pw[k]
				}
			}
			acc %= Prime
		}
		out[i] = uint32(acc)
	}
}

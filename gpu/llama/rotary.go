package llama

import (
	"math"

	"github.com/shoalnet/shoal/gpu"
)

// math.Pow, Cos and Sin may differ in their last bit from one architecture to
// another, because the compiler fuses products with sums where it can. What
// ends in weights goes through the functions of this file, which round after
// every operation.

// rotary makes the tables of RoPE hold at least n positions. Angles are
// products of float32 numbers, as Hugging Face computes them.
func (m *Model) rotary(n int) {
	if n <= m.cos.Rows {
		return
	}
	n = min(max(n, 2*m.cos.Rows), m.cfg.MaxPositionEmbeddings)
	half := m.cfg.HeadSize() / 2
	cos, sin := make([]float32, n*half), make([]float32, n*half)
	// Frequency i is θ^(-i/half): powers of θ's root.
	root, power := nthRoot(m.cfg.RopeTheta, half), 1.0
	for i := range half {
		freq := float32(m.cfg.RopeScaling.Scaled(1 / power))
		power *= root
		for p := range n {
			s, c := sincos(float64(float32(p) * freq))
			cos[p*half+i], sin[p*half+i] = float32(c), float32(s)
		}
	}
	upload := func(v []float32) gpu.Matrix {
		b := m.dev.Alloc(len(v))
		m.dev.Upload(b, v)
		return b.Matrix(n, half)
	}
	m.cos, m.sin = upload(cos), upload(sin)
}

// nthRoot is the n-th root of x >= 1, by Newton's method from above.
func nthRoot(x float64, n int) float64 {
	r := x
	for {
		p := 1.0
		for range n - 1 {
			p *= r
		}
		var next float64
		if math.IsInf(p, 0) {
			next = float64(r * (1 - 1/float64(n)))
		} else {
			next = r - float64((r-x/p)/float64(n))
		}
		if !(next < r) {
			return r
		}
		r = next
	}
}

// Cody and Waite's reduction by π/2 in three parts, exact for quotients of 30
// bits, and the polynomials of fdlibm's __kernel_sin and __kernel_cos
// (Sun Microsystems 1993).
const (
	halfPi1 = 1.57079625129699707031
	halfPi2 = 7.54978941586159635336e-8
	halfPi3 = 5.39030285815811905290e-15
)

var (
	sinPoly = [...]float64{1.58969099521155010221e-10, -2.50507602534068634195e-08, 2.75573137070700676789e-06,
		-1.98412698298579493134e-04, 8.33333333332248946124e-03, -1.66666666666666324348e-01}
	cosPoly = [...]float64{-1.13596475577881948265e-11, 2.08757232129817482790e-09, -2.75573143513906633035e-07,
		2.48015872894767294178e-05, -1.38888888888741095749e-03, 4.16666666666666019037e-02}
)

// sincos is the sine and cosine of x in [0, 2^29).
func sincos(x float64) (sin, cos float64) {
	q := math.Floor(float64(x*(2/math.Pi)) + 0.5)
	r := x - float64(q*halfPi1)
	r -= float64(q * halfPi2)
	r -= float64(q * halfPi3)
	z := float64(r * r)
	s, c := 0.0, 0.0
	for i := range sinPoly {
		s = float64(s*z) + sinPoly[i]
		c = float64(c*z) + cosPoly[i]
	}
	s = r + float64(float64(r*z)*s)
	c = 1 - float64(0.5*z) + float64(float64(z*z)*c)
	switch int64(q) & 3 {
	case 1:
		s, c = c, -s
	case 2:
		s, c = -s, -c
	case 3:
		s, c = -c, s
	}
	return s, c
}

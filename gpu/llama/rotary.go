package llama

import (
	"math"

	"github.com/shoalnet/shoal/gpu"
)

// math.Pow, Cos and Sin may differ in their last bit from one architecture to
// another, because the compiler fuses products with sums where it can. What
// ends in weights goes through the functions of this file, which round after
// every operation.

// tables are the cosines and sines of RoPE, those of a position in a row, for the
// texts that hf.Config.RopeLength gives one number.
type tables struct{ cos, sin gpu.Matrix }

// mostTables bounds how many tables of other lengths are kept: dynamic RoPE has
// one for every length.
const mostTables = 32

// tables are those of a text of n tokens, for its first rows positions at least.
// Angles are products of float32 numbers, as Hugging Face computes them.
func (m *Model) tables(n, rows int) *tables {
	key := m.cfg.RopeLength(n)
	have := m.rope[key]
	if have != nil && rows <= have.cos.Rows {
		return have
	}
	switch {
	case m.rope == nil:
		m.rope = map[int]*tables{}
	case len(m.rope) > mostTables:
		clear(m.rope)
	}
	if have != nil {
		rows = max(rows, 2*have.cos.Rows)
	}
	if key == n { // nobody reads beyond
		rows = n
	}
	rows = min(rows, m.cfg.Context())
	freqs, scale := m.cfg.Rotary(n)
	half := len(freqs)
	cos, sin := make([]float32, rows*half), make([]float32, rows*half)
	for i, f := range freqs {
		freq := float32(f)
		for p := range rows {
			s, c := sincos(float64(float32(p) * freq))
			cos[p*half+i], sin[p*half+i] = float32(c*scale), float32(s*scale)
		}
	}
	upload := func(v []float32) gpu.Matrix {
		b := m.dev.Alloc(len(v))
		m.dev.Upload(b, v)
		return b.Matrix(rows, half)
	}
	t := &tables{upload(cos), upload(sin)}
	m.rope[key] = t
	return t
}

// alike is how many of the first n tokens of a text RoPE turns as it does its first k,
// in passes over no more than these.
func (m *Model) alike(k, n int) int {
	key := m.cfg.RopeLength(k)
	if m.cfg.RopeLength(n) == key {
		return n
	}
	for k < n && m.cfg.RopeLength(k+1) == key {
		k++
	}
	return k
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

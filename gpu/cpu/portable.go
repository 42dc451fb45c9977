package cpu

import (
	"math"

	"github.com/shoalnet/shoal/gpu"
)

// The portable kernels do what the assembly does, lane by lane: reductions run
// in sixteen lanes, and what is fused there is fused here (fma). Every other
// product is converted to float32 before it is added to something: the Go
// specification lets a compiler fuse x*y + z, even where an assignment stands
// between, and for arm64 and GOAMD64=v3 it does, but never across a conversion.

// portable has the matrix product that a compiler makes fastest; its sums are
// rounded more often than the assembly's.
var portable = goKernels("portable", tileFast, &exact)

// exact gives the assembly's bits.
var exact = goKernels("fma", tileFused, nil)

func goKernels(class string, tile tileGo, exact *kernels) kernels {
	return kernels{
		name: "portable", class: class, exact: exact, pack: goCols * goK, strips: goRows * goK,
		slack: 1 << 30, product: wholly(productGo(tile, false)), half: productGo(tile, true),
		dot: dotGo, dot3: dot3Go, add: addGo, greatest: greatestGo,
		normalize: normalizeGo, normBack: normBackGo,
		softmax: softmaxGo, softmaxBack: softmaxBackGo, rope: ropeGo,
		swiglu: swigluGo, swigluBack: swigluBackGo, adamw: adamwGo,
	}
}

// lanes is how many partial sums a reduction keeps.
const lanes = 16

// tree adds lanes in the order of the assembly: halves, quarters, pairs.
func tree(s *[lanes]float32) float32 {
	for w := lanes / 2; w > 0; w /= 2 {
		for i := range w {
			s[i] += s[i+w]
		}
	}
	return s[0]
}

func dotGo(x, y []float32) float32 {
	var s [lanes]float32
	y = y[:len(x)]
	for len(x) >= lanes {
		a, b := x[:lanes], y[:lanes]
		for i := range s {
			s[i] = fma(a[i], b[i], s[i])
		}
		x, y = x[lanes:], y[lanes:]
	}
	for i := range x {
		s[i] = fma(x[i], y[i], s[i])
	}
	return tree(&s)
}

func dot3Go(x, y, z []float32) float32 {
	var s [lanes]float32
	y, z = y[:len(x)], z[:len(x)]
	for i := range x {
		s[i%lanes] = fma(float32(x[i]*y[i]), z[i], s[i%lanes])
	}
	return tree(&s)
}

func addGo(y, x []float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] += x[i]
	}
}

func normalizeGo(out, x, gain []float32, a float32) {
	x, gain = x[:len(out)], gain[:len(out)]
	for i := range out {
		out[i] = float32(x[i]*a) * gain[i]
	}
}

func normBackGo(dx, dgain, dy, x, gain []float32, a, b float32) {
	n := len(dx)
	dgain, dy, x, gain = dgain[:n], dy[:n], x[:n], gain[:n]
	for i := range dx {
		t := float32(a * dy[i])
		dgain[i] = fma(t, x[i], dgain[i])
		dx[i] = fma(-b, x[i], fma(t, gain[i], dx[i]))
	}
}

// The exponential of Cephes (Moshier 1992, expf): x = n·ln 2 + r, e^r by a
// polynomial of degree 7, within two units in the last place. Below -87.33,
// where results would be subnormal, it is 0.
const (
	expLow  = -87.33
	expHigh = 100 // anything whose exponential is infinite
	log2e   = 1.44269504088896341
	ln2High = 0.693359375
	ln2Low  = -2.12194440e-4
)

// expPoly are the coefficients from r^7 down to r^2; r and 1 have 1.
var expPoly = [6]float32{1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1}

func expGo(x float32) float32 {
	switch {
	case x < expLow:
		return 0
	case x != x:
		return x
	}
	x = min(x, expHigh)
	n := float32(math.RoundToEven(float64(float32(x * log2e))))
	r := fma(-n, ln2Low, fma(-n, ln2High, x))
	p := expPoly[0]
	for _, c := range expPoly[1:] {
		p = fma(p, r, c)
	}
	p = fma(p, float32(r*r), r) + 1
	// 2^n in two factors, because 2^128 is not a float32.
	h := int32(n) >> 1
	p = float32(p * math.Float32frombits(uint32(h+127)<<23))
	return float32(p * math.Float32frombits(uint32(int32(n)-h+127)<<23))
}

func softmaxGo(y []float32, a, b float32) (m, sum float32) {
	m = float32(math.Inf(-1))
	for _, v := range y {
		if v > m {
			m = v
		}
	}
	m = float32(m * a)
	var s [lanes]float32
	for i := range y {
		y[i] = expGo(fma(a, y[i], -m))
		s[i%lanes] += y[i]
	}
	sum = tree(&s)
	b /= sum
	for i := range y {
		y[i] *= b
	}
	return m, sum
}

func softmaxBackGo(dp, p []float32, a, m, inv, d float32) {
	p = p[:len(dp)]
	for i := range dp {
		p[i] = float32(expGo(fma(a, p[i], -m)) * inv)
		dp[i] = float32(float32(dp[i]-d)*a) * p[i]
	}
}

func ropeGo(x, c, s []float32, heads int, a float32) {
	n := len(c)
	s = s[:n]
	for h := range heads {
		x0, x1 := x[2*h*n:][:n], x[(2*h+1)*n:][:n]
		for i := range x0 {
			u, v, t := x0[i], x1[i], float32(a*s[i])
			x0[i] = fma(u, c[i], -float32(v*t))
			x1[i] = fma(v, c[i], float32(u*t))
		}
	}
}

func swigluGo(out, gate, up []float32) {
	gate, up = gate[:len(out)], up[:len(out)]
	for i := range out {
		out[i] = float32(gate[i]/(1+expGo(-gate[i]))) * up[i]
	}
}

func swigluBackGo(dgate, dup, dout, gate, up []float32) {
	n := len(dgate)
	dup, dout, gate, up = dup[:n], dout[:n], gate[:n], up[:n]
	for i := range dgate {
		g, u, d := gate[i], up[i], dout[i]
		sigma := 1 / (1 + expGo(-g))
		silu := float32(sigma * g)
		dup[i] = silu * d
		dgate[i] = float32(u*d) * fma(1-sigma, silu, sigma)
	}
}

func adamwGo(p, g, m, v []float32, o *gpu.AdamW) {
	n := len(p)
	g, m, v = g[:n], m[:n], v[:n]
	r1, r2 := 1-o.Beta1, 1-o.Beta2
	for i := range p {
		x := float32(g[i] * o.Scale)
		mi := fma(m[i], o.Beta1, float32(r1*x))
		vi := fma(v[i], o.Beta2, float32(r2*float32(x*x)))
		mi, vi = flush(mi), flush(vi)
		m[i], v[i], g[i] = mi, vi, 0
		root := float32(math.Sqrt(float64(float32(vi*o.Correct2)))) + o.Eps
		p[i] = fma(p[i], o.Keep, -float32(float32(mi*o.Rate)/root))
	}
}

// flush makes 0 of subnormal numbers: every operation with one takes some hundred cycles, and a
// moment that decays would end at the smallest of them and stay there.
func flush(x float32) float32 {
	if math.Float32bits(x)&0x7fffffff < 0x00800000 {
		return 0
	}
	return x
}

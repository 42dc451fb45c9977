package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func add(a, b, c Op) { VADDPS(a, b, c) }

// begin opens a function and loads the length and addresses of its slices.
func begin(w width, name, signature string, slices ...string) (reg.Register, []reg.Register) {
	TEXT(name+w.name, attr.NOSPLIT, signature)
	Pragma("noescape")
	n := Load(Param(slices[0]).Len(), GP64())
	return n, bases(slices...)
}

func bases(slices ...string) []reg.Register {
	p := make([]reg.Register, len(slices))
	for i, s := range slices {
		p[i] = Load(Param(s).Base(), GP64())
	}
	return p
}

func end() {
	VZEROUPPER()
	RET()
}

// vectorKernels emits the kernels that kernels.go of package cpu describes.
func vectorKernels(w width) {
	dot(w)
	dot3(w)
	addTo(w)
	greatest(w)
	normalize(w)
	normBack(w)
	softmax(w)
	softmaxBack(w)
	rope(w)
	swiglu(w)
	swigluBack(w)
	adamw(w)
	round(w)
}

func dot(w width) {
	n, p := begin(w, "dot", "func(x, y []float32) float32", "x", "y")
	s := w.zeros()
	w.over(n, p, func(l *loop, h int) {
		x, y := l.load(p[0], h), l.load(p[1], h)
		VFMADD231PS(x, y, s[h])
	})
	Store(w.fold(s, add), ReturnIndex(0))
	end()
}

func dot3(w width) {
	n, p := begin(w, "dotThree", "func(x, y, z []float32) float32", "x", "y", "z")
	s := w.zeros()
	w.over(n, p, func(l *loop, h int) {
		x, y, z := l.load(p[0], h), l.load(p[1], h), l.load(p[2], h)
		VMULPS(y, x, x)
		VFMADD231PS(x, z, s[h])
	})
	Store(w.fold(s, add), ReturnIndex(0))
	end()
}

func addTo(w width) {
	n, p := begin(w, "add", "func(y, x []float32)", "y", "x")
	w.over(n, p, func(l *loop, h int) {
		y, x := l.load(p[0], h), l.load(p[1], h)
		VADDPS(x, y, y)
		l.store(y, p[0], h)
	})
	end()
}

// greatest adds up zeros, which values that are not finite make NaN.
func greatest(w width) {
	n, p := begin(w, "greatest", "func(x []float32) float32", "x")
	z, sum, s := w.zeros(), w.zeros(), make([]reg.VecVirtual, w.halves)
	for h := range s {
		s[h] = w.vec()
		VMOVUPS(constants["cNegInf"], s[h])
	}
	w.over(n, p, func(l *loop, h int) {
		x := l.load(p[0], h)
		VFMADD231PS(x, z[h], sum[h])
		l.orNegInf(x, h)
		VMAXPS(x, s[h], s[h])
	})
	m := w.fold(s, func(a, b, c Op) { VMAXPS(a, b, c) })
	VADDSS(w.fold(sum, add), m, m)
	Store(m, ReturnIndex(0))
	end()
}

func normalize(w width) {
	n, p := begin(w, "normalize", "func(out, x, gain []float32, a float32)", "out", "x", "gain")
	a := w.scalar("a")
	w.over(n, p, func(l *loop, h int) {
		x, g := l.load(p[1], h), l.load(p[2], h)
		VMULPS(a, x, x)
		VMULPS(g, x, x)
		l.store(x, p[0], h)
	})
	end()
}

func normBack(w width) {
	n, p := begin(w, "normBack", "func(dx, dgain, dy, x, gain []float32, a, b float32)", "dx", "dgain", "dy", "x", "gain")
	a, b := w.scalar("a"), w.scalar("b")
	w.over(n, p, func(l *loop, h int) {
		dx, dg, t, x, g := l.load(p[0], h), l.load(p[1], h), l.load(p[2], h), l.load(p[3], h), l.load(p[4], h)
		VMULPS(a, t, t)
		VFMADD231PS(x, t, dg)
		l.store(dg, p[1], h)
		VFMADD231PS(g, t, dx)
		VFNMADD231PS(x, b, dx)
		l.store(dx, p[0], h)
	})
	end()
}

func softmax(w width) {
	n0, p0 := begin(w, "softmax", "func(y []float32, a, b float32) (m, sum float32)", "y")
	n, p := GP64(), GP64()
	again := func() {
		MOVQ(n0, n)
		MOVQ(p0[0], p)
	}
	s := make([]reg.VecVirtual, w.halves)
	for h := range s {
		s[h] = w.vec()
		VMOVUPS(constants["cNegInf"], s[h])
	}
	again()
	w.over(n, []reg.Register{p}, func(l *loop, h int) {
		y := l.load(p, h)
		l.orNegInf(y, h)
		VMAXPS(y, s[h], s[h])
	})
	m1, a1 := w.fold(s, func(a, b, c Op) { VMAXPS(a, b, c) }), XMM()
	VMOVSS(param("a"), a1)
	VMULSS(a1, m1, m1)
	Store(m1, Return("m"))
	m, a := w.broadcast(m1), w.broadcast(a1)
	s = w.zeros()
	again()
	w.over(n, []reg.Register{p}, func(l *loop, h int) {
		y := l.load(p, h)
		VFMSUB213PS(m, a, y)
		w.exp(y)
		l.store(y, p, h)
		l.keep(y, h)
		VADDPS(y, s[h], s[h])
	})
	sum, b1 := w.fold(s, add), XMM()
	Store(sum, Return("sum"))
	VMOVSS(param("b"), b1)
	VDIVSS(sum, b1, b1)
	b := w.broadcast(b1)
	again()
	w.over(n, []reg.Register{p}, func(l *loop, h int) {
		y := l.load(p, h)
		VMULPS(b, y, y)
		l.store(y, p, h)
	})
	end()
}

func softmaxBack(w width) {
	n, p := begin(w, "softmaxBack", "func(dp, p []float32, a, m, inv, d float32)", "dp", "p")
	a, m, inv, d := w.scalar("a"), w.scalar("m"), w.scalar("inv"), w.scalar("d")
	w.over(n, p, func(l *loop, h int) {
		v := l.load(p[1], h)
		VFMSUB213PS(m, a, v)
		w.exp(v)
		VMULPS(inv, v, v)
		l.store(v, p[1], h)
		dp := l.load(p[0], h)
		VSUBPS(d, dp, dp)
		VMULPS(a, dp, dp)
		VMULPS(v, dp, dp)
		l.store(dp, p[0], h)
	})
	end()
}

// rope runs over the heads of a row; the pairs of one head are len(c) apart.
func rope(w width) {
	TEXT("rope"+w.name, attr.NOSPLIT, "func(x, c, s []float32, heads int, a float32)")
	Pragma("noescape")
	heads := Load(Param("heads"), GP64())
	half := Load(Param("c").Len(), GP64())
	base := bases("x", "c", "s")
	a := w.scalar("a")
	TESTQ(heads, heads)
	JE(LabelRef("end"))
	Label("head")
	n, x0, x1, c, s := GP64(), GP64(), GP64(), GP64(), GP64()
	MOVQ(half, n)
	MOVQ(base[0], x0)
	LEAQ(Mem{Base: base[0], Index: half, Scale: 4}, x1)
	LEAQ(Mem{Base: base[0], Index: half, Scale: 8}, base[0])
	MOVQ(base[1], c)
	MOVQ(base[2], s)
	w.over(n, []reg.Register{x0, x1, c, s}, func(l *loop, h int) {
		u, v, co, t := l.load(x0, h), l.load(x1, h), l.load(c, h), l.load(s, h)
		VMULPS(a, t, t)
		p, q := w.vec(), w.vec()
		VMULPS(v, t, p)
		VFMSUB231PS(u, co, p)
		VMULPS(u, t, q)
		VFMADD231PS(v, co, q)
		l.store(p, x0, h)
		l.store(q, x1, h)
	})
	DECQ(heads)
	JNE(LabelRef("head"))
	Label("end")
	end()
}

func swiglu(w width) {
	n, p := begin(w, "swiglu", "func(out, gate, up []float32)", "out", "gate", "up")
	sign := w.signBit()
	w.over(n, p, func(l *loop, h int) {
		e, g := w.vec(), l.load(p[1], h)
		VSUBPS(g, sign, e)
		w.exp(e)
		VADDPS(constants["cOne"], e, e)
		VDIVPS(e, g, g)
		u := l.load(p[2], h)
		VMULPS(u, g, g)
		l.store(g, p[0], h)
	})
	end()
}

// signBit is -0 in all lanes, from which VSUBPS negates.
func (w width) signBit() reg.VecVirtual { return w.zeros()[0] }

func swigluBack(w width) {
	n, p := begin(w, "swigluBack", "func(dgate, dup, dout, gate, up []float32)", "dgate", "dup", "dout", "gate", "up")
	zero := w.signBit()
	w.over(n, p, func(l *loop, h int) {
		e, g := w.vec(), l.load(p[3], h)
		VSUBPS(g, zero, e)
		w.exp(e)
		one := w.vec()
		VMOVUPS(constants["cOne"], one)
		VADDPS(one, e, e)
		VDIVPS(e, one, e) // sigma
		VMULPS(e, g, g)   // silu
		d, u := l.load(p[2], h), l.load(p[4], h)
		VMULPS(d, u, u)
		VMULPS(g, d, d)
		VSUBPS(e, one, one)
		VFMADD231PS(one, g, e)
		VMULPS(e, u, u)
		l.store(u, p[0], h)
		l.store(d, p[1], h)
	})
	end()
}

func adamw(w width) {
	TEXT("adamw"+w.name, attr.NOSPLIT, "func(p, g, m, v []float32, scale, beta1, beta2, rate, correct2, eps, keep float32)")
	Pragma("noescape")
	n := Load(Param("p").Len(), GP64())
	b := bases("p", "g", "m", "v")
	scale, b1, b2, rate := w.scalar("scale"), w.scalar("beta1"), w.scalar("beta2"), w.scalar("rate")
	correct, eps, keep := w.scalar("correct2"), w.scalar("eps"), w.scalar("keep")
	abs, most := w.bits(0x7fffffff), w.bits(0x007fffff)
	w.over(n, b, func(l *loop, h int) {
		g, t, m, v := l.load(b[1], h), w.vec(), w.vec(), w.vec()
		VMULPS(scale, g, g)
		VMOVUPS(constants["cOne"], t)
		VSUBPS(b1, t, t)
		VMULPS(g, t, t) // (1-β1)·g
		m = l.load(b[2], h)
		VFMADD213PS(t, b1, m)
		w.flush(m, abs, most)
		l.store(m, b[2], h)
		VMOVUPS(constants["cOne"], t)
		VSUBPS(b2, t, t)
		VMULPS(g, g, g)
		VMULPS(g, t, t) // (1-β2)·g²
		v = l.load(b[3], h)
		VFMADD213PS(t, b2, v)
		w.flush(v, abs, most)
		l.store(v, b[3], h)
		VMULPS(correct, v, v)
		VSQRTPS(v, v)
		VADDPS(eps, v, v)
		VMULPS(rate, m, m)
		VDIVPS(v, m, m)
		p := l.load(b[0], h)
		VFMSUB213PS(m, keep, p)
		l.store(p, b[0], h)
		if w.halves == 1 {
			VPXORD(g, g, g)
		} else {
			VXORPS(g, g, g)
		}
		l.store(g, b[1], h)
	})
	end()
}

// flush makes 0 of what is no more than most besides its sign: subnormal numbers, whose every
// operation takes some hundred cycles, and which decay to no less than the smallest of them.
func (w width) flush(x, abs, most reg.VecVirtual) {
	t := w.vec()
	if w.halves == 1 {
		VPANDD(abs, x, t)
		VPCMPGTD(most, t, reg.K3)
		VMOVAPS_Z(x, reg.K3, x)
		return
	}
	VPAND(abs, x, t)
	VPCMPGTD(most, t, t)
	VPAND(t, x, x)
}

// bits are the same 32 in every lane.
func (w width) bits(b uint32) reg.VecVirtual {
	r, x, v := GP32(), XMM(), w.vec()
	MOVL(U32(b), r)
	VMOVD(r, x)
	VPBROADCASTD(x, v)
	return v
}

// round rounds to bfloat16, ties to even; NaN stays NaN.
func round(w width) {
	n, p := begin(w, "round", "func(x []float32)", "x")
	one, half, keep, sign, inf, nan := w.bits(1), w.bits(0x7fff), w.bits(0x7fff0000), w.bits(0x80000000), w.bits(0x7f800000), w.bits(0x7fc00000)
	w.over(n, p, func(l *loop, h int) {
		x, s, t := l.load(p[0], h), w.vec(), w.vec()
		if w.halves == 1 {
			VPANDD(x, sign, s)
			VPANDND(x, sign, x) // the magnitude
			VPSRLD(U8(16), x, t)
			VPANDD(one, t, t)
			VPADDD(half, t, t)
			VPCMPGTD(inf, x, reg.K3)
			VPADDD(x, t, t)
			VPANDD(keep, t, t)
			VPORD(nan, t, reg.K3, t)
			VPORD(s, t, t)
		} else {
			m := w.vec()
			VPAND(x, sign, s)
			VPANDN(x, sign, x)
			VPSRLD(U8(16), x, t)
			VPAND(one, t, t)
			VPADDD(half, t, t)
			VPCMPGTD(inf, x, m)
			VPAND(nan, m, m)
			VPADDD(x, t, t)
			VPAND(keep, t, t)
			VPOR(m, t, t)
			VPOR(s, t, t)
		}
		l.store(t, p[0], h)
	})
	end()
}

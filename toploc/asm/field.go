package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A field holds what arithmetic mod p on 16-bit lanes needs in registers.
type field struct {
	width
	p reg.VecVirtual
}

func newField(w width) field { return field{w, w.set(prime)} }

// sub emits a = a - b mod p, for a and b up to p, not both p.
func (f field) sub(a, b reg.VecVirtual) {
	if f.wide() {
		k := K()
		VPCMPUW(Imm(1), b, a, k) // a < b
		VPSUBW(b, a, a)
		VPADDW(f.p, a, k, a)
		return
	}
	t := f.vec()
	VPMAXUW(a, b, t)
	VPCMPEQW(a, t, t) // a ≥ b
	VPANDN(f.p, t, t) // p where something is borrowed
	VPSUBW(b, a, a)
	VPADDW(t, a, a)
}

// mul emits a·x mod p by Montgomery's reduction for 2^16, where xm holds
// x·2^16 mod p and xp is xm/p mod 2^16; a is any 16 bits.
//
// The low halves of a·xm and q·p are equal for q = a·xp mod 2^16, so that the
// difference of the high halves is (a·xm - q·p)/2^16 exactly.
func (f field) mul(a reg.VecVirtual, xm, xp Op) reg.VecVirtual {
	hi, q := f.vec(), f.vec()
	VPMULHUW(xm, a, hi)
	VPMULLW(xp, a, q)
	VPMULHUW(f.p, q, q)
	f.sub(hi, q)
	return hi
}

// horner: see kernels_amd64.go.
func horner(w width) {
	begin(w, "horner", "func(out, xm, xp, neg []uint16)")
	Doc(fmt.Sprintf("len(out) must be a multiple of %d.", 4*w.lanes()))
	out, n := slice("out")
	xm, xp := base("xm"), base("xp")
	neg, terms := slice("neg")
	f := newField(w)
	const group = 4 // vectors at a time
	Label("group")
	TESTQ(n, n)
	JE(LabelRef("done"))
	var acc [group]reg.VecVirtual
	var m, p [group]Op
	for i := range acc {
		acc[i] = w.zero()
		m[i] = w.load(Mem{Base: xm, Disp: i * w.bytes})
		if p[i] = (Mem{Base: xp, Disp: i * w.bytes}); w.wide() {
			p[i] = w.load(p[i].(Mem))
		}
	}
	at := GP64()
	MOVQ(terms, at)
	Label("step")
	DECQ(at)
	c := w.vec()
	VPBROADCASTW(Mem{Base: neg, Index: at, Scale: 2}, c)
	for i := range acc {
		r := f.mul(acc[i], m[i], p[i])
		f.sub(r, c)
		w.mov(r, acc[i])
	}
	TESTQ(at, at)
	JNE(LabelRef("step"))
	for i := range acc {
		w.store(acc[i], Mem{Base: out, Disp: i * w.bytes})
	}
	for _, r := range []reg.Register{out, xm, xp} {
		ADDQ(I32(int32(group*w.bytes)), r)
	}
	SUBQ(I32(int32(group*w.lanes())), n)
	JMP(LabelRef("group"))
	Label("done")
	end()
}

// master: see kernels_amd64.go.
func master(w width) {
	begin(w, "master", "func(m, xm, xp []uint16)")
	Doc("m[:32] is padding, and so are the last 32 elements.")
	m := base("m")
	xm, n := slice("xm")
	xp := base("xp")
	ADDQ(Imm(64), m)
	one := GP32()
	MOVL(U32(1), one)
	MOVW(one.As16(), Mem{Base: m})
	f := newField(w)
	j := GP64()
	XORQ(j, j)
	Label("point")
	CMPQ(j, n)
	JGE(LabelRef("done"))
	x, y := w.vec(), w.vec()
	VPBROADCASTW(Mem{Base: xm, Index: j, Scale: 2}, x)
	VPBROADCASTW(Mem{Base: xp, Index: j, Scale: 2}, y)
	// The degree becomes j+1; k is the block that holds it, in bytes.
	k := GP64()
	LEAQ(Mem{Base: j, Disp: 1}, k)
	ADDQ(k, k)
	ANDQ(I32(-w.bytes), k)
	Label("block")
	v := w.load(Mem{Base: m, Index: k, Scale: 1})
	lower := w.load(Mem{Base: m, Index: k, Scale: 1, Disp: -2})
	r := f.mul(v, x, y)
	f.sub(lower, r)
	w.store(lower, Mem{Base: m, Index: k, Scale: 1})
	SUBQ(Imm(uint64(w.bytes)), k)
	JGE(LabelRef("block"))
	INCQ(j)
	JMP(LabelRef("point"))
	Label("done")
	end()
}

// combine: see kernels_amd64.go.
func combine(w width) {
	begin(w, "combine", "func(sum []uint32, xm, xp, am, ap, neg []uint16)")
	Doc("len(xm) must be a multiple of 64.")
	sum, terms := slice("sum")
	xm, n := slice("xm")
	xp, am, ap, neg := base("xp"), base("am"), base("ap"), base("neg")
	const group = 2 // vectors at a time
	f := newField(w)
	low := w.vec()
	r := GP32()
	MOVL(U32(0xffff), r)
	x := XMM()
	VMOVD(r, x)
	VPBROADCASTD(x, low)
	Label("group")
	TESTQ(n, n)
	JE(LabelRef("done"))
	var b, mx, px [group]reg.VecVirtual
	var ma, pa [group]Op
	for i := range b {
		b[i] = w.zero()
		mx[i] = w.load(Mem{Base: xm, Disp: i * w.bytes})
		px[i] = w.load(Mem{Base: xp, Disp: i * w.bytes})
		ma[i], pa[i] = Mem{Base: am, Disp: i * w.bytes}, Mem{Base: ap, Disp: i * w.bytes}
		if w.wide() {
			ma[i], pa[i] = w.load(ma[i].(Mem)), w.load(pa[i].(Mem))
		}
	}
	k := GP64()
	MOVQ(terms, k)
	Label("step")
	DECQ(k)
	c := w.vec()
	VPBROADCASTW(Mem{Base: neg, Index: k, Scale: 2, Disp: 2}, c)
	total := w.zero()
	for i := range b {
		t := f.mul(b[i], mx[i], px[i])
		f.sub(t, c)
		w.mov(t, b[i])
		s := f.mul(t, ma[i], pa[i])
		h := w.vec()
		VPSRLD(Imm(16), s, h)
		w.and(low, s, s)
		VPADDD(s, total, total)
		VPADDD(h, total, total)
	}
	y := YMM()
	if w.wide() {
		VEXTRACTI64X4(Imm(1), total, y)
		VPADDD(total.AsY(), y, y)
	} else {
		w.mov(total, y)
	}
	z := XMM()
	VEXTRACTI128(Imm(1), y, z)
	VPADDD(y.AsX(), z, z)
	u := XMM()
	VPSHUFD(Imm(0x4e), z, u)
	VPADDD(u, z, z)
	VPSHUFD(Imm(0xb1), z, u)
	VPADDD(u, z, z)
	s := GP32()
	VMOVD(z, s)
	ADDL(s, Mem{Base: sum, Index: k, Scale: 4})
	TESTQ(k, k)
	JNE(LabelRef("step"))
	for _, r := range []reg.Register{xm, xp, am, ap} {
		ADDQ(I32(int32(group*w.bytes)), r)
	}
	SUBQ(I32(int32(group*w.lanes())), n)
	JMP(LabelRef("group"))
	Label("done")
	end()
}

package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A scan walks over bfloat16 bits.
type scan struct {
	width
	mag, floor reg.VecVirtual // 0x7fff and the floor, in all lanes
}

// above sets a mask register, or a vector of ones and zeros, where the
// magnitude at m is above the floor; it returns the bits at m too.
func (s scan) above(m Mem) (v reg.VecVirtual, mask reg.Register) {
	v = s.load(m)
	t := s.vec()
	s.and(v, s.mag, t)
	if s.wide() {
		k := K()
		VPCMPUW(Imm(6), s.floor, t, k) // t > floor
		return v, k
	}
	VPCMPGTW(s.floor, t, t) // both below 2^15
	return v, t
}

func newScan(w width) scan {
	s := scan{width: w, mag: w.set(0x7fff)}
	r := Load(Param("floor"), GP16()).(reg.GPVirtual)
	z := GP32()
	MOVWLZX(r, z)
	s.floor = w.broadcast(z)
	return s
}

// gather: see kernels_amd64.go.
func gather(w width) {
	begin(w, "gather", "func(a []uint16, floor uint16, at uint32, bits []uint16, pos []uint32) (read, wrote int)")
	const unroll = 4
	a, n := slice("a")
	bits, room := slice("bits")
	pos := base("pos")
	at := Load(Param("at"), GP32()).(reg.GPVirtual)
	s := newScan(w)
	i, wrote := GP64(), GP64()
	XORQ(i, i)
	XORQ(wrote, wrote)
	SUBQ(I32(int32(unroll*w.lanes())), room)
	SUBQ(I32(int32(unroll*w.lanes())), n)
	var iota, step reg.VecVirtual
	if w.wide() {
		iota, step = ramp(at)
	}
	Label("block")
	CMPQ(i, n)
	JG(LabelRef("done"))
	CMPQ(wrote, room)
	JG(LabelRef("done"))
	var v [unroll]reg.VecVirtual
	var k [unroll]reg.Register
	for u := range v {
		v[u], k[u] = s.above(Mem{Base: a, Index: i, Scale: 2, Disp: u * w.bytes})
	}
	if w.wide() {
		any, other := K(), K()
		KORD(k[0], k[1], any)
		KORD(k[2], k[3], other)
		KORTESTD(any, other)
	} else {
		any, other := w.vec(), w.vec()
		w.or(k[0].(reg.VecVirtual), k[1].(reg.VecVirtual), any)
		w.or(k[2].(reg.VecVirtual), k[3].(reg.VecVirtual), other)
		w.or(any, other, any)
		VPTEST(any, any)
	}
	JNE(LabelRef("some"))
	ADDQ(I32(int32(unroll*w.lanes())), i)
	JMP(LabelRef("block"))
	Label("some")
	for u := range v {
		if w.wide() {
			place := w.vec()
			r := GP32()
			MOVL(i.As32(), r)
			ADDL(Imm(uint64(u*w.lanes())), r)
			VPBROADCASTD(r, place)
			VPADDD(iota, place, place)
			upper := w.vec()
			VPADDD(step, place, upper)
			compress(v[u], place, upper, k[u], bits, pos, wrote)
			continue
		}
		each256(u, k[u].(reg.VecVirtual), a, i, at, bits, pos, wrote)
	}
	ADDQ(I32(int32(unroll*w.lanes())), i)
	JMP(LabelRef("block"))
	Label("done")
	Store(i, ReturnIndex(0))
	Store(wrote, ReturnIndex(1))
	end()
}

// ramp returns at, at+1, … at+15 and a step of 16.
func ramp(at reg.GPVirtual) (iota, step reg.VecVirtual) {
	m := GLOBL("ramp", attr.RODATA|attr.NOPTR)
	for i := range 16 {
		DATA(4*i, U32(uint32(i)))
	}
	iota, step = ZMM(), ZMM()
	VPBROADCASTD(at.As32(), iota)
	VPADDD(m, iota, iota)
	r := GP32()
	MOVL(U32(16), r)
	VPBROADCASTD(r, step)
	return iota, step
}

// compress appends the lanes of v that k names, and their positions.
func compress(v, lower, upper reg.VecVirtual, k reg.Register, bits, pos reg.Register, wrote reg.GPVirtual) {
	out := ZMM()
	VPCOMPRESSW_Z(v, k, out)
	VMOVDQU16(out, Mem{Base: bits, Index: wrote, Scale: 2})
	mask := GP32()
	KMOVD(k, mask)
	all, low := GP32(), GP32()
	POPCNTL(mask, all)
	MOVWLZX(mask.As16(), low)
	POPCNTL(low, low)
	high := K()
	KSHIFTRD(Imm(16), k, high)
	VPCOMPRESSD_Z(lower, k, out)
	VMOVDQU32(out, Mem{Base: pos, Index: wrote, Scale: 4})
	next := GP64()
	LEAQ(Mem{Base: pos, Index: wrote, Scale: 4}, next)
	VPCOMPRESSD_Z(upper, high, out)
	VMOVDQU32(out, Mem{Base: next, Index: low.As64(), Scale: 4})
	ADDQ(all.As64(), wrote)
}

// each256 appends the elements that vector u's mask names, one by one.
func each256(u int, mask reg.VecVirtual, a reg.Register, i, at reg.GPVirtual, bits, pos reg.Register, wrote reg.GPVirtual) {
	next, over := "next"+string(rune('0'+u)), "over"+string(rune('0'+u))
	m := GP32()
	VPMOVMSKB(mask, m) // two bits a lane
	ANDL(U32(0x55555555), m)
	Label(next)
	TESTL(m, m)
	JE(LabelRef(over))
	lane := GP32()
	BSFL(m, lane)
	BLSRL(m, m)
	SHRL(Imm(1), lane)
	ADDL(Imm(uint64(u*16)), lane)
	where := GP64()
	LEAQ(Mem{Base: i, Index: lane.As64(), Scale: 1}, where)
	b := GP32()
	MOVWLZX(Mem{Base: a, Index: where, Scale: 2}, b)
	MOVW(b.As16(), Mem{Base: bits, Index: wrote, Scale: 2})
	ADDL(at.As32(), where.As32())
	MOVL(where.As32(), Mem{Base: pos, Index: wrote, Scale: 4})
	INCQ(wrote)
	JMP(LabelRef(next))
	Label(over)
}

// count: see kernels_amd64.go.
func count(w width) {
	begin(w, "count", "func(a []uint16, floor uint16) int")
	const unroll = 2
	a, n := slice("a")
	s := newScan(w)
	total := GP64()
	XORQ(total, total)
	var sums [unroll]reg.VecVirtual
	if !w.wide() {
		for u := range sums {
			sums[u] = w.zero()
		}
	}
	Label("loop")
	TESTQ(n, n)
	JE(LabelRef("done"))
	for u := range unroll {
		_, k := s.above(Mem{Base: a, Disp: u * w.bytes})
		if w.wide() {
			m := GP32()
			KMOVD(k, m)
			POPCNTL(m, m)
			ADDQ(m.As64(), total)
		} else {
			VPSUBW(k, sums[u], sums[u])
		}
	}
	ADDQ(I32(int32(unroll*w.bytes)), a)
	SUBQ(I32(int32(unroll*w.lanes())), n)
	JMP(LabelRef("loop"))
	Label("done")
	if !w.wide() {
		// Lanes count to 2^15 at most: see the caller's bound.
		one := w.set(1)
		VPADDW(sums[0], sums[1], sums[0])
		VPMADDWD(one, sums[0], sums[0])
		z, t := XMM(), XMM()
		VEXTRACTI128(Imm(1), sums[0], z)
		VPADDD(sums[0].AsX(), z, z)
		VPSHUFD(Imm(0x4e), z, t)
		VPADDD(t, z, z)
		VPSHUFD(Imm(0xb1), z, t)
		VPADDD(t, z, z)
		r := GP32()
		VMOVD(z, r)
		MOVL(r, total.As32())
	}
	Store(total, ReturnIndex(0))
	end()
}

// compact512: see kernels_amd64.go.
func compact512() {
	begin(zmm, "compact", "func(bits []uint16, pos []uint32, floor uint16) int")
	bits, n := slice("bits")
	pos := base("pos")
	s := newScan(zmm)
	i, wrote := GP64(), GP64()
	XORQ(i, i)
	XORQ(wrote, wrote)
	Label("loop")
	CMPQ(i, n)
	JGE(LabelRef("done"))
	v, k := s.above(Mem{Base: bits, Index: i, Scale: 2})
	lower, upper := ZMM(), ZMM()
	VMOVDQU32(Mem{Base: pos, Index: i, Scale: 4}, lower)
	VMOVDQU32(Mem{Base: pos, Index: i, Scale: 4, Disp: 64}, upper)
	compress(v, lower, upper, k, bits, pos, wrote)
	ADDQ(Imm(32), i)
	JMP(LabelRef("loop"))
	Label("done")
	Store(wrote, ReturnIndex(0))
	end()
}

// project: see kernels_amd64.go.
func project(w width) {
	begin(w, "project", "func(lanes *[16]int32, row []uint16, gain []float32)")
	Doc("len(row) must be a multiple of 16.")
	to := Load(Param("lanes"), GP64())
	row, n := slice("row")
	gain := base("gain")
	parts := 64 / w.bytes
	var sum [2]reg.VecVirtual
	limit := [2]reg.VecVirtual{}
	for i, bits := range []uint32{0x4e800000, 0xce800000} { // ±2^30
		r, x := GP32(), XMM()
		MOVL(U32(bits), r)
		VMOVD(r, x)
		limit[i] = w.vec()
		VPBROADCASTD(x, limit[i])
	}
	for i := range parts {
		sum[i] = w.load(Mem{Base: to, Disp: i * w.bytes})
	}
	Label("loop")
	TESTQ(n, n)
	JE(LabelRef("done"))
	for i := range parts {
		v := w.vec()
		VPMOVZXWD(Mem{Base: row, Disp: i * w.bytes / 2}, v)
		VPSLLD(Imm(16), v, v)
		VMULPS(Mem{Base: gain, Disp: i * w.bytes}, v, v)
		VMINPS(limit[0], v, v)
		VMAXPS(limit[1], v, v)
		VCVTPS2DQ(v, v)
		VPADDD(v, sum[i], sum[i])
	}
	ADDQ(Imm(32), row)
	ADDQ(Imm(64), gain)
	SUBQ(Imm(16), n)
	JMP(LabelRef("loop"))
	Label("done")
	for i := range parts {
		w.store(sum[i], Mem{Base: to, Disp: i * w.bytes})
	}
	end()
}

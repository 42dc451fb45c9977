package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// strips emits a packing that reads memory in its order: each of k rows of src, ss
// bytes apart, holds n pieces of h elements (for nv > 1 whole vectors) that follow one another, the last piece of last
// elements; they go into rows of nv vectors of n blocks of dst, ds bytes apart. What lies in
// a row beyond its piece is of no matter. Rows are asked for before they are read.
func strips(w width, nv int) {
	k, n, h, last, s, ss, d, ds := stripsText(fmt.Sprintf("strips%sx%d", w.name, nv))
	at := func(p reg.Register, i int) Mem { return Mem{Base: p, Disp: w.bytes * i} }
	v, masks, full := w.some(nv), w.some(nv), w.vec()
	if w.halves == 1 {
		loadMasks(h, 1)
		KMOVW(reg.K1, reg.K4)
		loadMasks(last, nv)
		SHLQ(Imm(2), h)
	} else {
		p := GP64()
		LEAQ(tailMask.Offset(4*lanes), p)
		SHLQ(Imm(2), last)
		SUBQ(last, p)
		for i, m := range masks {
			VMOVUPS(at(p, i), m)
		}
		LEAQ(tailMask.Offset(4*lanes), p)
		SHLQ(Imm(2), h)
		SUBQ(h, p)
		VMOVUPS(at(p, 0), full)
	}
	DECQ(n)
	from, to, left := GP64(), GP64(), GP64()
	piece := func(load func(i int)) {
		for i := 0; i < nv; i += 64 / w.bytes {
			PREFETCHT0(Mem{Base: from, Index: ss, Scale: 8, Disp: w.bytes * i})
		}
		for i := range nv {
			load(i)
		}
		for i := range nv {
			VMOVUPS(v[i], at(to, i))
		}
	}
	Label("row")
	MOVQ(s, from)
	MOVQ(d, to)
	MOVQ(n, left)
	TESTQ(left, left)
	JE(LabelRef("last"))
	Label("strip")
	piece(func(i int) {
		switch {
		case nv > 1:
			VMOVUPS(at(from, i), v[i])
		case w.halves == 1: // the memory of what follows may be shorter than a vector
			VMOVUPS_Z(at(from, i), reg.K4, v[i])
		default:
			VMASKMOVPS(at(from, i), full, v[i])
		}
	})
	ADDQ(h, from)
	ADDQ(ds, to)
	DECQ(left)
	JNE(LabelRef("strip"))
	Label("last")
	piece(func(i int) {
		if w.halves == 1 {
			VMOVUPS_Z(at(from, i), ks[i], v[i])
		} else {
			VMASKMOVPS(at(from, i), masks[i], v[i])
		}
	})
	ADDQ(ss, s)
	ADDQ(Imm(uint64(nv*w.bytes)), d)
	DECQ(k)
	JNE(LabelRef("row"))
	end()
}

// stripsText begins a function of strips' signature.
func stripsText(name string) (k, n, h, last, src, ss, dst, ds reg.Register) {
	TEXT(name, attr.NOSPLIT, "func(k, n, h, last int, src *float32, ss int, dst *float32, ds int)")
	Pragma("noescape")
	arg := func(name string) reg.Register { return Load(Param(name), GP64()) }
	return arg("k"), arg("n"), arg("h"), arg("last"), arg("src"), arg("ss"), arg("dst"), arg("ds")
}

// some are n registers.
func (w width) some(n int) []reg.VecVirtual {
	v := make([]reg.VecVirtual, n)
	for i := range v {
		v[i] = w.vec()
	}
	return v
}

// loadMasks sets the lower n bits of the first nv mask registers, 16 to each.
func loadMasks(n reg.Register, nv int) {
	m := GP64()
	MOVQ(I64(-1), m)
	BZHIQ(n, m, m)
	for v := range nv {
		KMOVW(m.As32(), ks[v])
		if v < nv-1 {
			SHRQ(Imm(16), m)
		}
	}
}

// turning is the frame of the two packings of transposed rows: up to lanes rows
// of src, each k elements and ss bytes after the other, become the columns of
// k rows of dst, each one vector and ds bytes after the other. Where there are fewer rows
// the last is repeated. turn emits the exchange among registers, of which out are the results.
//
// With pairs two elements of a row become one, in bfloat16; beside the last of an odd k is 0.
func turning(w width, name string, in, out []reg.VecPhysical, pairs bool, turn func()) {
	TEXT(name, attr.NOSPLIT, "func(k, rows int, src *float32, ss int, dst *float32, ds int)")
	Pragma("noescape")
	n := Load(Param("k"), GP64())
	rows := Load(Param("rows"), GP64())
	s := Load(Param("src"), GP64())
	ss := Load(Param("ss"), GP64())
	d := Load(Param("dst"), GP64())
	ds := Load(Param("ds"), GP64())
	most := len(in)
	read, unit := uint64(w.bytes), 1 // of a row in a turn, elements that become one
	if pairs {
		read, unit = 2*read, 2
	}
	zero := GP64()
	XORQ(zero, zero)
	p, left, step := GP64(), GP64(), GP64()
	block := func(get func(i int)) {
		MOVQ(s, p)
		MOVQ(rows, left)
		MOVQ(ss, step)
		for i := range most {
			get(i)
			if i < most-1 {
				DECQ(left)
				CMOVQEQ(zero, step)
				ADDQ(step, p)
			}
		}
		turn()
	}
	CMPQ(n, Imm(uint64(unit*most)))
	JL(LabelRef("tail"))
	Label("loop")
	block(func(i int) {
		VMOVUPS(Mem{Base: p}, in[i])
		if pairs {
			VMOVUPS(Mem{Base: p, Disp: w.bytes}, reg.Z16)
			vcvtne2ps2bf16(in[i], reg.Z16, in[i])
		}
	})
	for i := range most {
		VMOVUPS(out[i], Mem{Base: d})
		ADDQ(ds, d)
	}
	ADDQ(U32(uint32(read)), s)
	SUBQ(Imm(uint64(unit*most)), n)
	CMPQ(n, Imm(uint64(unit*most)))
	JGE(LabelRef("loop"))
	Label("tail")
	TESTQ(n, n)
	JE(LabelRef("done"))
	if w.halves == 1 {
		loadMasks(n, unit)
		block(func(i int) {
			VMOVUPS_Z(Mem{Base: p}, reg.K1, in[i])
			if pairs {
				VMOVUPS_Z(Mem{Base: p, Disp: w.bytes}, reg.K2, reg.Z16)
				vcvtne2ps2bf16(in[i], reg.Z16, in[i])
			}
		})
		if pairs {
			INCQ(n)
			SHRQ(Imm(1), n)
		}
	} else {
		m := GP64()
		LEAQ(tailMask.Offset(4*lanes), m)
		q := GP64()
		MOVQ(n, q)
		SHLQ(Imm(2), q)
		SUBQ(q, m)
		// out[0] is free until the exchange.
		block(func(i int) {
			VMOVUPS(Mem{Base: m}, out[0])
			VMASKMOVPS(Mem{Base: p}, out[0], in[i])
		})
	}
	for i := range most - 1 + unit - 1 {
		VMOVUPS(out[i], Mem{Base: d})
		ADDQ(ds, d)
		DECQ(n)
		JE(LabelRef("done"))
	}
	Label("done")
	end()
}

// turn512 exchanges z[:16].
func turn512() {
	z := zs
	for i := 0; i < 16; i += 2 { // pairs of rows
		VUNPCKLPS(z[i+1], z[i], z[16+i])
		VUNPCKHPS(z[i+1], z[i], z[17+i])
	}
	for i := 0; i < 16; i += 4 { // quads: z[i+c] holds column 4L+c of rows i to i+3 in lane L
		VUNPCKLPD(z[18+i], z[16+i], z[i])
		VUNPCKHPD(z[18+i], z[16+i], z[i+1])
		VUNPCKLPD(z[19+i], z[17+i], z[i+2])
		VUNPCKHPD(z[19+i], z[17+i], z[i+3])
	}
	for c := range 4 { // even and odd lanes of the upper and the lower eight rows
		VSHUFF32X4(U8(0x88), z[4+c], z[c], z[16+c])
		VSHUFF32X4(U8(0xdd), z[4+c], z[c], z[20+c])
		VSHUFF32X4(U8(0x88), z[12+c], z[8+c], z[24+c])
		VSHUFF32X4(U8(0xdd), z[12+c], z[8+c], z[28+c])
	}
	for c := range 4 {
		VSHUFF32X4(U8(0x88), z[24+c], z[16+c], z[c])
		VSHUFF32X4(U8(0x88), z[28+c], z[20+c], z[4+c])
		VSHUFF32X4(U8(0xdd), z[24+c], z[16+c], z[8+c])
		VSHUFF32X4(U8(0xdd), z[28+c], z[20+c], z[12+c])
	}
}

func transpose256() {
	y := ys
	turning(ymm, "transpose256", y[:8], y[8:16], false, func() {
		for i := 0; i < 8; i += 2 {
			VUNPCKLPS(y[i+1], y[i], y[8+i])
			VUNPCKHPS(y[i+1], y[i], y[9+i])
		}
		for i := 0; i < 8; i += 4 {
			VUNPCKLPD(y[10+i], y[8+i], y[i])
			VUNPCKHPD(y[10+i], y[8+i], y[i+1])
			VUNPCKLPD(y[11+i], y[9+i], y[i+2])
			VUNPCKHPD(y[11+i], y[9+i], y[i+3])
		}
		for c := range 4 {
			VPERM2F128(U8(0x20), y[4+c], y[c], y[8+c])
			VPERM2F128(U8(0x31), y[4+c], y[c], y[12+c])
		}
	})
}

// askRows asks for n bytes, above 0, of each of some rows, stride bytes apart.
func askRows() {
	TEXT("askRows", attr.NOSPLIT, "func(rows, n int, p *float32, stride int)")
	Pragma("noescape")
	rows := Load(Param("rows"), GP64())
	n := Load(Param("n"), GP64())
	p := Load(Param("p"), GP64())
	stride := Load(Param("stride"), GP64())
	at := GP64()
	Label("row")
	XORQ(at, at)
	Label("line")
	PREFETCHT1(Mem{Base: p, Index: at, Scale: 1})
	ADDQ(Imm(64), at)
	CMPQ(at, n)
	JLT(LabelRef("line"))
	ADDQ(stride, p)
	DECQ(rows)
	JNE(LabelRef("row"))
	RET()
}

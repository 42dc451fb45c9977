package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

var zs = []reg.VecPhysical{reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10,
	reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15, reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
	reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31}
var ys = []reg.VecPhysical{reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7, reg.Y8, reg.Y9, reg.Y10,
	reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15}

// rows512 and rows256 are the most rows of a tile by its number of vectors:
// for two, as many as the registers hold beside a row of B.
var (
	rows512 = []int{0, 14, 14}
	rows256 = []int{0, 6, 6}
)

func tiles() {
	for nv := 1; nv < len(rows512); nv++ {
		for mr := 1; mr <= rows512[nv]; mr++ {
			tile(zmm, mr, nv, false, false)
			tile(zmm, mr, nv, true, false)
		}
	}
	for nv := 1; nv < len(rows256); nv++ {
		for mr := 1; mr <= rows256[nv]; mr++ {
			for _, masked := range []bool{false, true} {
				tile(ymm, mr, nv, false, masked)
				tile(ymm, mr, nv, true, masked)
			}
		}
	}
	transpose512()
	transpose256()
	for _, w := range []width{zmm, ymm} {
		strips(w, 1)
		strips(w, 2)
	}
}

// tile emits C (mr, cols) = or += op(A)·B with C in registers while k runs, so
// that each element is one chain of fused multiply-adds. A is read where it
// lies: rows sa bytes apart, or, transposed (col), mr contiguous elements for
// each k, sa bytes apart. B's rows are nv whole vectors, sb bytes apart: masks there
// would take turns on the ports of the multiplications. cols is at most nv vectors, and
// more than nv-1.
//
// While it multiplies it asks for the rows of C at next, which the following tile will
// load: from the third-level cache they take longer than what hides loads otherwise.
//
// AVX-512 masks every access to C by cols; AVX2 has a masked twin.
func tile(w width, mr, nv int, col, masked bool) {
	form, suffix := "Row", ""
	if col {
		form = "Col"
	}
	if masked {
		suffix = "Masked"
	}
	TEXT(fmt.Sprintf("tile%s%s%dx%d%s", w.name, form, mr, nv, suffix), attr.NOSPLIT,
		"func(k int, a *float32, sa int, b *float32, sb int, c *float32, sc int, acc bool, cols int, next *float32)")
	Pragma("noescape")
	t := &tileRegs{width: w, mr: mr, nv: nv, masked: masked}
	k := Load(Param("k"), GP64())
	a := Load(Param("a"), GP64())
	sa := Load(Param("sa"), GP64())
	b := Load(Param("b"), GP64())
	sb := Load(Param("sb"), GP64())
	c := Load(Param("c"), GP64())
	sc := Load(Param("sc"), GP64())
	t.begin()
	acc := Load(Param("acc"), GP8())
	cp := GP64()
	MOVQ(c, cp)
	TESTB(acc, acc)
	JE(LabelRef("zero"))
	for i := range mr {
		for v := range nv {
			t.loadC(cp, i, v)
		}
		if i < mr-1 {
			ADDQ(sc, cp)
		}
	}
	JMP(LabelRef("start"))
	Label("zero")
	for i := range mr {
		for v := range nv {
			t.clear(t.c(i, v))
		}
	}
	Label("start")
	ps := []reg.Register{a}
	if !col {
		for j := 1; j < (mr+2)/3; j++ {
			q := GP64()
			LEAQ(Mem{Base: ps[j-1], Index: sa, Scale: 2}, q)
			ADDQ(sa, q)
			ps = append(ps, q)
		}
	}
	step := func(u int) {
		for v := range nv {
			t.loadB(b, v)
		}
		ADDQ(sb, b)
		for i := range mr {
			m := Mem{Base: a, Disp: 4 * i}
			if !col {
				m = Mem{Base: ps[i/3], Disp: 4 * u}
				if i%3 > 0 {
					m.Index, m.Scale = sa, uint8(i%3)
				}
			}
			t.multiply(m, i)
		}
		if col {
			ADDQ(sa, a)
		}
	}
	advance := func(n int) {
		if !col {
			for _, p := range ps {
				ADDQ(Imm(uint64(4*n)), p)
			}
		}
	}
	const unroll = 2
	rest := GP64()
	MOVQ(k, rest)
	ANDQ(Imm(unroll-1), rest)
	SHRQ(Imm(1), k)
	JE(LabelRef("rest"))
	// The first turns ask for the rows of the next tile's C.
	Load(Param("next"), cp)
	left := GP64()
	MOVQ(U64(uint64(mr)), left)
	CMPQ(k, left)
	CMOVQLT(k, left)
	SUBQ(left, k)
	Label("ask")
	for v := 0; v < nv; v += 64 / w.bytes {
		PREFETCHT0(Mem{Base: cp, Disp: w.bytes * v})
	}
	ADDQ(sc, cp)
	for u := range unroll {
		step(u)
	}
	advance(unroll)
	DECQ(left)
	JNE(LabelRef("ask"))
	TESTQ(k, k)
	JE(LabelRef("rest"))
	Label("loop")
	for u := range unroll {
		step(u)
	}
	advance(unroll)
	DECQ(k)
	JNE(LabelRef("loop"))
	Label("rest")
	TESTQ(rest, rest)
	JE(LabelRef("done"))
	Label("one")
	step(0)
	advance(1)
	DECQ(rest)
	JNE(LabelRef("one"))
	Label("done")
	for i := range mr {
		for v := range nv {
			t.storeC(c, i, v)
		}
		if i < mr-1 {
			ADDQ(sc, c)
		}
	}
	end()
}

// tileRegs names a tile's registers: C first, then a row of B, then scratch.
type tileRegs struct {
	width
	mr, nv int
	masked bool
	masks  reg.Register // ymm: address of the masks
}

func (t *tileRegs) reg(i int) reg.VecPhysical {
	if t.halves == 1 {
		return zs[i]
	}
	return ys[i]
}

func (t *tileRegs) c(i, v int) reg.VecPhysical { return t.reg(i*t.nv + v) }
func (t *tileRegs) b(v int) reg.VecPhysical    { return t.reg(t.mr*t.nv + v) }

// scratch is one of the registers that are left.
func (t *tileRegs) scratch(i int) reg.VecPhysical {
	first, all := (t.mr+1)*t.nv, 32
	if t.halves == 2 {
		all = 16
	}
	return t.reg(first + i%min(4, all-first))
}

var ks = []reg.OpmaskPhysical{reg.K1, reg.K2, reg.K3, reg.K4}

func (t *tileRegs) begin() {
	if t.halves == 2 && !t.masked {
		return
	}
	cols := Load(Param("cols"), GP64())
	if t.halves == 1 {
		loadMasks(cols, t.nv)
		return
	}
	p := GP64()
	LEAQ(tailMask.Offset(4*lanes), p)
	SHLQ(Imm(2), cols)
	SUBQ(cols, p)
	t.masks = p
}

// mask loads the mask of vector v into scratch register i.
func (t *tileRegs) mask(v, i int) reg.VecPhysical {
	m := t.scratch(i)
	VMOVUPS(Mem{Base: t.masks, Disp: 32 * v}, m)
	return m
}

func (t *tileRegs) clear(r reg.VecPhysical) {
	if t.halves == 1 {
		VPXORD(r, r, r)
	} else {
		VXORPS(r, r, r)
	}
}

func (t *tileRegs) loadC(p reg.Register, i, v int) {
	m := Mem{Base: p, Disp: t.bytes * v}
	switch {
	case t.halves == 1:
		VMOVUPS_Z(m, ks[v], t.c(i, v))
	case t.masked:
		VMASKMOVPS(m, t.mask(v, v), t.c(i, v))
	default:
		VMOVUPS(m, t.c(i, v))
	}
}

func (t *tileRegs) storeC(p reg.Register, i, v int) {
	m := Mem{Base: p, Disp: t.bytes * v}
	switch {
	case t.halves == 1:
		VMOVUPS(t.c(i, v), ks[v], m)
	case t.masked:
		VMASKMOVPS(t.c(i, v), t.mask(v, v), m)
	default:
		VMOVUPS(t.c(i, v), m)
	}
}

func (t *tileRegs) loadB(p reg.Register, v int) {
	VMOVUPS(Mem{Base: p, Disp: t.bytes * v}, t.b(v))
}

// multiply adds element a of A's row i times the row of B.
func (t *tileRegs) multiply(a Mem, i int) {
	if t.halves == 1 && t.nv == 1 {
		VFMADD231PS_BCST(a, t.b(0), t.c(i, 0))
		return
	}
	x := t.scratch(i)
	VBROADCASTSS(a, x)
	for v := range t.nv {
		VFMADD231PS(t.b(v), x, t.c(i, v))
	}
}

// strips emits a packing that reads memory in its order: each of k rows of src, ss
// bytes apart, holds n pieces of h elements that follow one another, the last piece of last
// elements; they go into rows of nv vectors of n blocks of dst, ds bytes apart. What lies in
// a row beyond its piece is of no matter. Rows are asked for before they are read.
func strips(w width, nv int) {
	TEXT(fmt.Sprintf("strips%sx%d", w.name, nv), attr.NOSPLIT, "func(k, n, h, last int, src *float32, ss int, dst *float32, ds int)")
	Pragma("noescape")
	k := Load(Param("k"), GP64())
	n := Load(Param("n"), GP64())
	h := Load(Param("h"), GP64())
	last := Load(Param("last"), GP64())
	s := Load(Param("src"), GP64())
	ss := Load(Param("ss"), GP64())
	d := Load(Param("dst"), GP64())
	ds := Load(Param("ds"), GP64())
	at := func(p reg.Register, i int) Mem { return Mem{Base: p, Disp: w.bytes * i} }
	v, masks := w.some(nv), w.some(nv)
	if w.halves == 1 {
		loadMasks(last, nv)
	} else {
		p := GP64()
		LEAQ(tailMask.Offset(4*lanes), p)
		SHLQ(Imm(2), last)
		SUBQ(last, p)
		for i, m := range masks {
			VMOVUPS(at(p, i), m)
		}
	}
	SHLQ(Imm(2), h)
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
	piece(func(i int) { VMOVUPS(at(from, i), v[i]) })
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
// the last is repeated. load reads the element of each row that p is at; turn emits
// the exchange among registers, of which out are the results.
func turning(w width, name string, in, out []reg.VecPhysical, turn func()) {
	TEXT(name, attr.NOSPLIT, "func(k, rows int, src *float32, ss int, dst *float32, ds int)")
	Pragma("noescape")
	n := Load(Param("k"), GP64())
	rows := Load(Param("rows"), GP64())
	s := Load(Param("src"), GP64())
	ss := Load(Param("ss"), GP64())
	d := Load(Param("dst"), GP64())
	ds := Load(Param("ds"), GP64())
	most := len(in)
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
	CMPQ(n, Imm(uint64(most)))
	JL(LabelRef("tail"))
	Label("loop")
	block(func(i int) { VMOVUPS(Mem{Base: p}, in[i]) })
	for i := range most {
		VMOVUPS(out[i], Mem{Base: d})
		ADDQ(ds, d)
	}
	ADDQ(Imm(uint64(w.bytes)), s)
	SUBQ(Imm(uint64(most)), n)
	CMPQ(n, Imm(uint64(most)))
	JGE(LabelRef("loop"))
	Label("tail")
	TESTQ(n, n)
	JE(LabelRef("done"))
	if w.halves == 1 {
		loadMasks(n, 1)
		block(func(i int) { VMOVUPS_Z(Mem{Base: p}, reg.K1, in[i]) })
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
	for i := range most - 1 {
		VMOVUPS(out[i], Mem{Base: d})
		ADDQ(ds, d)
		DECQ(n)
		JE(LabelRef("done"))
	}
	Label("done")
	end()
}

func transpose512() {
	z := zs
	turning(zmm, "transpose512", z[:16], z[:16], func() {
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
	})
}

func transpose256() {
	y := ys
	turning(ymm, "transpose256", y[:8], y[8:16], func() {
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

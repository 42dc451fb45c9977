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
			tile(zmm, mr, nv, "Col", false)
			for _, form := range []string{"Row", "Strip"} {
				panelTile(mr, nv, form, false)
				panelTile(mr, nv, form, true)
			}
		}
	}
	for nv := 1; nv < len(rows256); nv++ {
		for mr := 1; mr <= rows256[nv]; mr++ {
			for _, masked := range []bool{false, true} {
				tile(ymm, mr, nv, "Row", masked)
				tile(ymm, mr, nv, "Col", masked)
			}
		}
	}
	turning(zmm, "transpose512", zs[:16], zs[:16], false, turn512)
	transpose256()
	for _, w := range []width{zmm, ymm} {
		strips(w, 1)
		strips(w, 2)
	}
}

// tile emits C (mr, cols) = or += op(A)·B with C in registers while k runs, so
// that each element is one chain of fused multiply-adds, for n blocks of mr rows one
// below another. A is read where it
// lies: rows sa bytes apart (Row), or, transposed (Col), mr contiguous elements for
// each k, sa bytes apart. B's rows are nv whole vectors, sb bytes apart: masks there
// would take turns on the ports of the multiplications. cols is at most nv vectors, and
// more than nv-1.
//
// While it multiplies it asks for the rows of C that the following block will load, after the
// last those at next: from the third-level cache they take longer than what hides loads otherwise.
//
// AVX-512 masks every access to C by cols; AVX2 has a masked twin.
func tile(w width, mr, nv int, form string, masked bool) {
	col, suffix := form == "Col", ""
	if masked {
		suffix = "Masked"
	}
	TEXT(fmt.Sprintf("tile%s%s%dx%d%s", w.name, form, mr, nv, suffix), attr.NOSPLIT,
		tileSignature)
	Pragma("noescape")
	t := &tileRegs{width: w, mr: mr, nv: nv, masked: masked}
	Label("again")
	k, a, sa, b, sb, c, sc := operands()
	t.begin()
	t.startC(c, sc)
	var ps []reg.Register
	if !col {
		ps = rows(a, sa, mr)
	}
	step := func(u int) {
		for v := range nv {
			t.loadB(b, v)
		}
		ADDQ(sb, b)
		for i := range mr {
			m := Mem{Base: a, Disp: 4 * i}
			if !col {
				m = ofRow(ps, sa, i, u)
			}
			t.multiply(m, i, col && i*direct/tallest < (i+1)*direct/tallest)
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
	// The first turns ask for the rows of the next tile's C.
	overK(k, 1, step, advance, func(turn func()) {
		cp := t.nextC(c, sc)
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
		turn()
		DECQ(left)
		JNE(LabelRef("ask"))
		TESTQ(k, k)
		JE(LabelRef("rest"))
	})
	t.endC(func() {
		if col {
			ADDQ(Imm(uint64(4*mr)), param("a"))
			return
		}
		down := GP64()
		IMUL3Q(Imm(uint64(mr)), sa, down)
		ADDQ(down, param("a"))
	})
}

// overK takes k steps along k, 1<<log of them to a turn: step emits the one at u of a turn, advance moves
// on by n. first, where there is one, emits some of the turns itself, and goes to rest where none are left.
func overK(k reg.Register, log int, step func(u int), advance func(n int), first func(turn func())) {
	unroll := 1 << log
	rest := GP64()
	MOVQ(k, rest)
	ANDQ(Imm(uint64(unroll-1)), rest)
	SHRQ(Imm(uint64(log)), k)
	JE(LabelRef("rest"))
	turn := func() {
		for u := range unroll {
			step(u)
		}
		advance(unroll)
	}
	if first != nil {
		first(turn)
	}
	Label("loop")
	turn()
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
}

// operands loads what products of A, B and C begin with.
func operands() (k, a, sa, b, sb, c, sc reg.Register) {
	for _, p := range []struct {
		to   *reg.Register
		name string
	}{{&k, "k"}, {&a, "a"}, {&sa, "sa"}, {&b, "b"}, {&sb, "sb"}, {&c, "c"}, {&sc, "sc"}} {
		*p.to = Load(Param(p.name), GP64())
	}
	return k, a, sa, b, sb, c, sc
}

const tileSignature = "func(k int, a *float32, sa int, b *float32, sb int, c *float32, sc int, acc bool, cols int, next *float32, n int, to *float32, far uintptr, sf int)"

// startC loads C, or makes it 0.
func (t *tileRegs) startC(c, sc reg.Register) {
	acc := Load(Param("acc"), GP8())
	cp := GP64()
	MOVQ(c, cp)
	TESTB(acc, acc)
	JE(LabelRef("zero"))
	for i := range t.mr {
		for v := range t.nv {
			t.loadC(cp, i, v)
		}
		if i < t.mr-1 {
			ADDQ(sc, cp)
		}
	}
	JMP(LabelRef("start"))
	Label("zero")
	for i := range t.mr {
		for v := range t.nv {
			t.clear(t.c(i, v))
		}
	}
	Label("start")
}

// nextC is where the C begins that will be loaded next.
func (t *tileRegs) nextC(c, sc reg.Register) reg.Register {
	cp := GP64()
	IMUL3Q(Imm(uint64(t.mr)), sc, cp)
	ADDQ(c, cp)
	CMPQ(param("n"), Imm(1))
	CMOVQEQ(param("next"), cp)
	return cp
}

// endC stores C and, where a block follows, goes on to it; a moves on A.
func (t *tileRegs) endC(a func()) {
	c := Load(Param("c"), GP64())
	sc := Load(Param("sc"), GP64())
	for i := range t.mr {
		for v := range t.nv {
			t.storeC(c, i, v)
		}
		ADDQ(sc, c)
	}
	DECQ(param("n"))
	JE(LabelRef("end"))
	MOVQ(c, param("c"))
	a()
	JMP(LabelRef("again"))
	Label("end")
	end()
}

// tileRegs names a tile's registers: C first, then a row of B, then scratch.
type tileRegs struct {
	width
	mr, nv int
	masked bool
	pairs  bool         // elements of A and B are pairs of bfloat16
	masks  reg.Register // ymm: address of the masks
}

// registers are all that there are.
func (w width) registers() []reg.VecPhysical {
	if w.halves == 1 {
		return zs
	}
	return ys
}

// clear makes a register 0.
func (w width) clear(r reg.VecPhysical) {
	if w.halves == 1 {
		VPXORD(r, r, r)
	} else {
		VXORPS(r, r, r)
	}
}

// rows are the addresses of every third of mr rows from a on, sa bytes apart.
func rows(a, sa reg.Register, mr int) []reg.Register {
	ps := []reg.Register{a}
	for j := 1; j < (mr+2)/3; j++ {
		q := GP64()
		LEAQ(Mem{Base: ps[j-1], Index: sa, Scale: 2}, q)
		ADDQ(sa, q)
		ps = append(ps, q)
	}
	return ps
}

// ofRow is element u of row i.
func ofRow(ps []reg.Register, sa reg.Register, i, u int) Mem {
	m := Mem{Base: ps[i/3], Disp: 4 * u}
	if i%3 > 0 {
		m.Index, m.Scale = sa, uint8(i%3)
	}
	return m
}

func (t *tileRegs) reg(i int) reg.VecPhysical { return t.registers()[i] }

func (t *tileRegs) c(i, v int) reg.VecPhysical { return t.reg(i*t.nv + v) }
func (t *tileRegs) b(v int) reg.VecPhysical    { return t.reg(t.mr*t.nv + v) }

// scratch is one of the registers that are left.
func (t *tileRegs) scratch(i int) reg.VecPhysical {
	first, all := (t.mr+1)*t.nv, len(t.registers())
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
func (t *tileRegs) multiply(a Mem, i int, direct bool) {
	if t.pairs {
		x := t.scratch(i)
		VBROADCASTSS(a, x)
		for v := range t.nv {
			vdpbf16ps(x, t.b(v), t.c(i, v))
		}
		return
	}
	if t.halves == 1 && (t.nv == 1 || direct) {
		for v := range t.nv {
			VFMADD231PS_BCST(a, t.b(v), t.c(i, v))
		}
		return
	}
	x := t.scratch(i)
	VBROADCASTSS(a, x)
	for v := range t.nv {
		VFMADD231PS(t.b(v), x, t.c(i, v))
	}
}

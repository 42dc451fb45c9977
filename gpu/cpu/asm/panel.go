package main

import (
	"fmt"
	"math/bits"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	// pointers is how many rows of A have a register for their address. An operand in memory
	// whose address has no index is one operation with the multiplication, else two.
	pointers = 9
	// direct of tallest rows of a tile are such operands, where they can be, for both vectors:
	// that is one operation less to issue than one broadcast, but one load more.
	direct, tallest = 10, 14
	// rowOfB is the distance of rows in a panel of B.
	rowOfB = 2 * 64
)

// panelTile emits the AVX-512 tile of a packed panel of B, see tile: rows of B are two vectors,
// even where nv is 1. A lies in rows (Row) or in packed blocks that follow one another, of a
// vector for each k (Strip; Dot, where an element is a pair, see dot.go).
//
// With pack B is read where it lies, sb bytes from row to row and masked by cols, and written to
// the panel at to, beside the multiplications; n is 1 then. Its rows may lie too far apart for the
// hardware to foresee: they are asked for sixteen rows before they are read.
//
// Each turn of the loop over k but those that ask for C asks for 128 bytes at far, which moves on by sf.
//
// The other half of a core may be busy with other work, of which a guest knows nothing: then what can be
// issued decides, not what can be multiplied.
func panelTile(mr, nv int, form string, pack bool) {
	w, suffix := zmm, ""
	if pack {
		suffix = "Pack"
	}
	TEXT(fmt.Sprintf("tile512%s%s%dx%d", form, suffix, mr, nv), attr.NOSPLIT, tileSignature)
	Pragma("noescape")
	t := &tileRegs{width: w, mr: mr, nv: nv, pairs: form == "Dot"}
	Label("again")
	a := Load(Param("a"), GP64())
	c := Load(Param("c"), GP64())
	sc := Load(Param("sc"), GP64())
	t.begin()
	t.startC(c, sc)
	left := Load(Param("k"), GP64())
	b := Load(Param("b"), GP64())
	var to, sb, sa, far reg.Register
	if pack {
		to = Load(Param("to"), GP64())
		sb = Load(Param("sb"), GP64())
		far = GP64()
		MOVQ(sb, far)
		SHLQ(Imm(4), far)
	}
	unroll := 4
	rows := []place{}
	var ps []reg.Register
	if form == "Row" {
		unroll = 8
		sa = Load(Param("sa"), GP64())
		rows, ps = spread(a, sa, mr)
	} else {
		ps = []reg.Register{a}
		for i := range mr {
			rows = append(rows, place{base: a, at: 4 * i})
		}
	}
	can := 0
	for _, r := range rows {
		if r.index == nil {
			can++
		}
	}
	nth, want := 0, min(can, mr*direct/tallest)
	for i := range rows {
		if rows[i].index == nil {
			rows[i].direct = nth*want/can < (nth+1)*want/can
			nth++
		}
	}
	size := 4 // bytes of A for each k
	if form != "Row" {
		size = w.bytes
	}
	step := func(u int) {
		for v := range nv {
			switch {
			case pack:
				PREFETCHT0(Mem{Base: b, Index: far, Scale: 1, Disp: w.bytes * v})
				VMOVUPS_Z(Mem{Base: b, Disp: w.bytes * v}, ks[v], t.b(v))
				VMOVUPS(t.b(v), Mem{Base: to, Disp: u*rowOfB + w.bytes*v})
			default:
				VMOVUPS(Mem{Base: b, Disp: u*rowOfB + w.bytes*v}, t.b(v))
			}
		}
		if pack {
			ADDQ(sb, b)
		}
		for i, r := range rows {
			m := Mem{Base: r.base, Disp: r.at + u*size}
			if r.index != nil {
				m.Index, m.Scale = r.index, 1
			}
			t.multiply(m, i, r.direct)
		}
	}
	advance := func(n int) {
		for _, p := range ps {
			ADDQ(U32(uint32(n*size)), p)
		}
		if pack {
			ADDQ(U32(uint32(n*rowOfB)), to)
		} else {
			ADDQ(U32(uint32(n*rowOfB)), b)
		}
	}
	pf, sf := GP64(), GP64()
	shift := bits.Len(uint(unroll)) - 1
	turns := func(label string, before func()) {
		Label(label)
		before()
		for u := range unroll {
			step(u)
		}
		advance(unroll)
		DECQ(left)
		JNE(LabelRef(label))
	}
	SHRQ(Imm(uint64(shift)), left)
	JE(LabelRef("rest"))
	if !pack {
		// The first turns ask for the rows of the next block's C, for each 56 values of k all.
		each := unroll / 4
		asked := uint64((mr + each - 1) / each)
		cp, limit := t.nextC(c, sc), GP64()
		MOVQ(U64(asked), limit)
		CMPQ(left, limit)
		CMOVQGT(limit, left)
		turns("ask", func() {
			for range each {
				for v := range nv {
					PREFETCHT0(Mem{Base: cp, Disp: w.bytes * v})
				}
				ADDQ(sc, cp)
			}
		})
		Load(Param("k"), left)
		SHRQ(Imm(uint64(shift)), left)
		SUBQ(Imm(asked), left)
		JLE(LabelRef("rest"))
		Load(Param("far"), pf)
		Load(Param("sf"), sf)
	}
	turns("loop", func() {
		if !pack {
			PREFETCHT1(Mem{Base: pf})
			PREFETCHT1(Mem{Base: pf, Disp: w.bytes})
			ADDQ(sf, pf)
		}
	})
	if !pack {
		MOVQ(pf, param("far"))
	}
	Label("rest")
	Load(Param("k"), left)
	ANDQ(Imm(uint64(unroll-1)), left)
	JE(LabelRef("done"))
	Label("one")
	step(0)
	advance(1)
	DECQ(left)
	JNE(LabelRef("one"))
	Label("done")
	t.endC(func() {
		if form != "Row" {
			MOVQ(a, param("a"))
			return
		}
		down := GP64()
		IMUL3Q(Imm(uint64(mr)), sa, down)
		ADDQ(down, param("a"))
	})
}

// A place is where a row's elements lie.
type place struct {
	base, index reg.Register
	at          int
	direct      bool // a multiplication's operand
}

// spread gives mr rows from a on, sa bytes apart, their addresses: as many as there are
// pointers their own, the others that of the row before and an index.
func spread(a, sa reg.Register, mr int) (rows []place, ps []reg.Register) {
	indexed := max(0, mr-pointers)
	for i := range mr {
		switch n := len(ps); {
		case i == 0:
			ps = append(ps, a)
		case i*(indexed+1)/mr > (i-1)*(indexed+1)/mr:
			rows = append(rows, place{base: ps[n-1], index: sa})
			continue
		default:
			p := GP64()
			m := Mem{Base: ps[n-1], Index: sa, Scale: 1}
			if rows[i-1].index != nil {
				m.Scale = 2
			}
			LEAQ(m, p)
			ps = append(ps, p)
		}
		rows = append(rows, place{base: ps[len(ps)-1]})
	}
	return rows, ps
}

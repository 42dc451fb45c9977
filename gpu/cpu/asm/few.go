package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// few512 are the most rows and vectors of C of a product by a B that is read once.
const few512 = 4

// fews emits, for few rows by what is not worth packing, C (mr, cols) = or += A·B with C in registers
// while k runs: each element is one chain of fused multiply-adds. All rows lie where they are, sa, sb
// and sc bytes apart; cols is at most nv vectors, and more than nv-1.
func fews() {
	for nv := 1; nv <= few512; nv++ {
		for mr := 1; mr <= few512; mr++ {
			few(mr, nv)
		}
	}
}

func few(mr, nv int) {
	w := zmm
	TEXT(fmt.Sprintf("few512x%dx%d", mr, nv), attr.NOSPLIT,
		"func(k int, a *float32, sa int, b *float32, sb int, c *float32, sc int, acc bool, cols int)")
	Pragma("noescape")
	t := &tileRegs{width: w, mr: mr, nv: nv}
	cols := Load(Param("cols"), GP64())
	SUBQ(Imm(uint64(lanes*(nv-1))), cols)
	m := GP32()
	MOVL(U32(0xffff), m)
	BZHIL(cols.(reg.GPVirtual).As32(), m, m)
	KMOVW(m, reg.K1)
	k, a, sa, b, sb, c, sc := operands()
	acc := Load(Param("acc"), GP8())
	at := func(v int) (p Mem, masked bool) { return Mem{Base: c, Disp: w.bytes * v}, v == nv-1 }
	each := func(f func(i, v int)) {
		cp := GP64()
		MOVQ(c, cp)
		old := c
		c = cp
		for i := range mr {
			for v := range nv {
				f(i, v)
			}
			if i < mr-1 {
				ADDQ(sc, cp)
			}
		}
		c = old
	}
	TESTB(acc, acc)
	JE(LabelRef("zero"))
	each(func(i, v int) {
		if p, masked := at(v); masked {
			VMOVUPS_Z(p, reg.K1, t.c(i, v))
		} else {
			VMOVUPS(p, t.c(i, v))
		}
	})
	JMP(LabelRef("start"))
	Label("zero")
	for i := range mr {
		for v := range nv {
			w.clear(t.c(i, v))
		}
	}
	Label("start")
	ps := rows(a, sa, mr)
	step := func(u int) {
		for v := range nv {
			m := Mem{Base: b, Disp: w.bytes * v}
			if v == nv-1 {
				VMOVUPS_Z(m, reg.K1, t.b(v))
			} else {
				VMOVUPS(m, t.b(v))
			}
		}
		ADDQ(sb, b)
		for i := range mr {
			t.multiply(ofRow(ps, sa, i, u), i, false)
		}
	}
	advance := func(n int) {
		for _, p := range ps {
			ADDQ(Imm(uint64(4*n)), p)
		}
	}
	overK(k, 2, step, advance, nil)
	each(func(i, v int) {
		if p, masked := at(v); masked {
			VMOVUPS(t.c(i, v), reg.K1, p)
		} else {
			VMOVUPS(t.c(i, v), p)
		}
	})
	end()
}

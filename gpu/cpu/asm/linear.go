package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	panel = 32 // columns
)

// linear512 and linear256 are the most rows that the registers hold: C, one row of A's
// elements, one vector of B.
const (
	linear512 = 8
	linear256 = 3
)

// linears emits package cpu's Linear: few rows by weights that were put into panels.
func linears() {
	upperHalves := GLOBL("upperHalves", attr.RODATA|attr.NOPTR)
	for i := range lanes {
		DATA(4*i, U32(0xffff0000))
	}
	for _, half := range []bool{false, true} {
		for mr := 1; mr <= linear512; mr++ {
			linear(zmm, mr, half, upperHalves)
		}
		for mr := 1; mr <= linear256; mr++ {
			linear(ymm, mr, half, upperHalves)
		}
	}
}

// linear emits C (mr, 32) = or += A·B with C in registers while k runs: each
// element is one chain of fused multiply-adds. Rows of A and C are sa and sc
// bytes apart, those of B, float32 or bfloat16, follow one another; of bfloat16 a word of 32
// bits holds column i in its lower and column 16 + i in its upper half.
//
// For each k it asks for what of a row of B lies at next, which moves on by step bytes.
func linear(w width, mr int, half bool, upperHalves Mem) {
	kind, size := "F32", 4
	if half {
		kind, size = "BF16", 2
	}
	TEXT(fmt.Sprintf("linear%s%sx%d", w.name, kind, mr), attr.NOSPLIT,
		"func(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)")
	Pragma("noescape")
	nv, r := panel*4/w.bytes, w.registers()
	k := Load(Param("k"), GP64())
	a := Load(Param("a"), GP64())
	sa := Load(Param("sa"), GP64())
	b := Load(Param("b"), GP64())
	c := Load(Param("c"), GP64())
	sc := Load(Param("sc"), GP64())
	acc := Load(Param("acc"), GP8())
	next := Load(Param("next"), GP64())
	moves := Load(Param("step"), GP64())
	at := func(i, v int) reg.VecPhysical { return r[i*nv+v] }
	x := func(i int) reg.VecPhysical { return r[mr*nv+i] }
	spare := len(r) - mr*nv - mr
	if half && w.bytes == 64 {
		spare-- // for upperHalves
		VMOVUPS(upperHalves, r[len(r)-1])
	}
	y := func(v int) reg.VecPhysical { return r[mr*nv+mr+v%spare] }
	cp := GP64()
	MOVQ(c, cp)
	TESTB(acc, acc)
	JE(LabelRef("zero"))
	for i := range mr {
		for v := range nv {
			VMOVUPS(Mem{Base: cp, Disp: w.bytes * v}, at(i, v))
		}
		if i < mr-1 {
			ADDQ(sc, cp)
		}
	}
	JMP(LabelRef("start"))
	Label("zero")
	for i := range mr {
		for v := range nv {
			w.clear(at(i, v))
		}
	}
	Label("start")
	ps := rows(a, sa, mr)
	step := func(u int) {
		for i := range mr {
			VBROADCASTSS(ofRow(ps, sa, i, u), x(i))
		}
		for at := 0; at < panel*size; at += 64 {
			PREFETCHT0(Mem{Base: next, Disp: at})
		}
		ADDQ(moves, next)
		for v := range nv {
			m := Mem{Base: b, Disp: panel*size*u + w.bytes*v}
			switch {
			case !half:
				VMOVUPS(m, y(v))
			case v < nv/2 && w.bytes == 64:
				VPSLLD(U8(16), m, y(v))
			case v < nv/2:
				VMOVUPS(m, y(v))
				VPSLLD(U8(16), y(v), y(v))
			default: // the upper halves of what the lower ones were read from
				m.Disp -= w.bytes * nv / 2
				if w.bytes == 64 {
					VPANDD(m, r[len(r)-1], y(v))
				} else {
					VMOVUPS(m, y(v))
					VPAND(upperHalves, y(v), y(v))
				}
			}
			for i := range mr {
				VFMADD231PS(y(v), x(i), at(i, v))
			}
		}
	}
	advance := func(n int) {
		for _, p := range ps {
			ADDQ(Imm(uint64(4*n)), p)
		}
		ADDQ(U32(panel*size*n), b)
	}
	overK(k, 2, step, advance, nil)
	for i := range mr {
		for v := range nv {
			VMOVUPS(at(i, v), Mem{Base: c, Disp: w.bytes * v})
		}
		if i < mr-1 {
			ADDQ(sc, c)
		}
	}
	end()
}

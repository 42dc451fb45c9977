package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Products in bfloat16 by AVX512_BF16: what is one element of A or B elsewhere is here a pair of
// bfloat16 that follow one another in k, the first in the lower half.

// evex writes op of three whole registers, which neither avo nor Go's assembler knows: an opcode of map
// 0F38 with a prefix, 2 for F3 and 3 for F2 (Intel's manual, volume 2, section 2.7.1).
func evex(prefix, opcode int, rm, v, r reg.VecPhysical) {
	bits := func(p reg.VecPhysical) int { return int(p.PhysicalIndex()) }
	not := func(x, bit, at int) int { return (^x >> bit & 1) << at }
	m, s, d := bits(rm), bits(v), bits(r)
	b1 := not(d, 3, 7) | not(m, 4, 6) | not(m, 3, 5) | not(d, 4, 4) | 2
	b2 := (^s&15)<<3 | 4 | prefix
	b3 := 2<<5 | not(s, 4, 3)
	Instruction(&ir.Instruction{Opcode: "LONG", Operands: []Op{U32(uint32(0x62 | b1<<8 | b2<<16 | b3<<24))}})
	Instruction(&ir.Instruction{Opcode: "WORD", Operands: []Op{U16(uint16(opcode | (0xc0|d&7<<3|m&7)<<8))}})
}

// vdpbf16ps adds to each element of c the products of the pairs in a and b, the second one's first.
func vdpbf16ps(a, b, c reg.VecPhysical) { evex(2, 0x52, a, b, c) }

// vcvtne2ps2bf16 rounds low and high to one register.
func vcvtne2ps2bf16(low, high, out reg.VecPhysical) { evex(3, 0x72, low, high, out) }

// dots emits what a product in pairs needs beside what all have.
func dots() {
	for nv := 1; nv < len(rows512); nv++ {
		for mr := 1; mr <= rows512[nv]; mr++ {
			panelTile(mr, nv, "Dot", false)
		}
	}
	z := zs
	turning(zmm, "transposeDot512", z[:16], z[:16], true, turn512)
	together := GLOBL("together", attr.RODATA|attr.NOPTR)
	for i := range 32 { // word i of the first half, then of the second
		DATA(2*i, U16(uint16(i/2+i%2*16)))
	}
	for nv := 1; nv <= 2; nv++ {
		stripsDot(nv, together)
	}
}

// stripsDot is strips for pairs: two rows of src become one row of pairs. k counts rows of src; the
// last of an odd number has a row of 0 beside it.
func stripsDot(nv int, together Mem) {
	w := zmm
	k, n, h, last, s, ss, d, ds := stripsText(fmt.Sprintf("stripsDot512x%d", nv))
	// Masks of whole pieces are K3 for the first row and K4 for the second, of the last piece K1 and
	// K2, K5 and K6.
	if nv == 1 { // the memory of what follows may be shorter than a vector
		loadMasks(h, 1)
		KMOVW(reg.K1, reg.K3)
		SHLQ(Imm(2), h)
	} else {
		KXNORW(reg.K3, reg.K3, reg.K3)
	}
	KMOVW(reg.K3, reg.K4)
	loadMasks(last, nv)
	KMOVW(reg.K1, reg.K5)
	if nv > 1 {
		KMOVW(reg.K2, reg.K6)
	}
	index := reg.Z31
	VMOVDQU16(together, index)
	DECQ(n)
	from, second, to, left := GP64(), GP64(), GP64(), GP64()
	piece := func(whole bool) {
		for i := range nv {
			PREFETCHT0(Mem{Base: from, Index: ss, Scale: 8, Disp: w.bytes * i})
			PREFETCHT0(Mem{Base: second, Index: ss, Scale: 8, Disp: w.bytes * i})
		}
		for i := range nv {
			even, odd, at := reg.K3, reg.K4, Mem{Base: from, Disp: w.bytes * i}
			if !whole {
				even, odd = []reg.OpmaskPhysical{reg.K1, reg.K2}[i], []reg.OpmaskPhysical{reg.K5, reg.K6}[i]
			}
			low, high := zs[2*i], zs[2*i+1]
			VMOVUPS_Z(at, even, low)
			at.Base = second
			VMOVUPS_Z(at, odd, high)
			vcvtne2ps2bf16(low, high, low)
			VPERMW(low, index, low)
			VMOVUPS(low, Mem{Base: to, Disp: w.bytes * i})
		}
	}
	Label("row")
	CMPQ(k, Imm(1))
	JNE(LabelRef("pair"))
	KXORW(reg.K4, reg.K4, reg.K4)
	KXORW(reg.K5, reg.K5, reg.K5)
	if nv > 1 {
		KXORW(reg.K6, reg.K6, reg.K6)
	}
	Label("pair")
	MOVQ(s, from)
	LEAQ(Mem{Base: s, Index: ss, Scale: 1}, second)
	MOVQ(d, to)
	MOVQ(n, left)
	TESTQ(left, left)
	JE(LabelRef("last"))
	Label("strip")
	piece(true)
	if nv == 1 {
		ADDQ(h, from)
		ADDQ(h, second)
	} else {
		ADDQ(Imm(uint64(nv*w.bytes)), from)
		ADDQ(Imm(uint64(nv*w.bytes)), second)
	}
	ADDQ(ds, to)
	DECQ(left)
	JNE(LabelRef("strip"))
	Label("last")
	piece(false)
	LEAQ(Mem{Base: s, Index: ss, Scale: 2}, s)
	ADDQ(Imm(uint64(nv*w.bytes)), d)
	SUBQ(Imm(2), k)
	JG(LabelRef("row"))
	end()
}

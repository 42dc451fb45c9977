// Command decode writes the assembly of package cpu's Linear with avo: few rows
// by weights that were put into panels. `go generate` in gpu/cpu runs it; what
// it writes is committed.
package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const panel = 32 // columns

var zs = []reg.VecPhysical{reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10,
	reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15, reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
	reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31}
var ys = []reg.VecPhysical{reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7, reg.Y8, reg.Y9, reg.Y10,
	reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15}

// rows are the most that the registers hold: C, one row of A's elements, one vector of B.
const (
	rows512 = 8
	rows256 = 3
)

func main() {
	ConstraintExpr("amd64,!purego")
	for mr := 1; mr <= rows512; mr++ {
		linear("512", zs, 64, mr, false)
		linear("512", zs, 64, mr, true)
	}
	for mr := 1; mr <= rows256; mr++ {
		linear("256", ys, 32, mr, false)
		linear("256", ys, 32, mr, true)
	}
	Generate()
}

// linear emits C (mr, 32) = or += A·B with C in registers while k runs: each
// element is one chain of fused multiply-adds. Rows of A and C are sa and sc
// bytes apart, those of B, float32 or bfloat16, follow one another.
func linear(name string, r []reg.VecPhysical, bytes, mr int, half bool) {
	kind, width := "F32", 4
	if half {
		kind, width = "BF16", 2
	}
	TEXT(fmt.Sprintf("linear%s%sx%d", name, kind, mr), attr.NOSPLIT,
		"func(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool)")
	Pragma("noescape")
	nv := panel * 4 / bytes
	k := Load(Param("k"), GP64())
	a := Load(Param("a"), GP64())
	sa := Load(Param("sa"), GP64())
	b := Load(Param("b"), GP64())
	c := Load(Param("c"), GP64())
	sc := Load(Param("sc"), GP64())
	acc := Load(Param("acc"), GP8())
	at := func(i, v int) reg.VecPhysical { return r[i*nv+v] }
	x := func(i int) reg.VecPhysical { return r[mr*nv+i] }
	w := func(v int) reg.VecPhysical { return r[mr*nv+mr+v%(len(r)-mr*nv-mr)] }
	cp := GP64()
	MOVQ(c, cp)
	TESTB(acc, acc)
	JE(LabelRef("zero"))
	for i := range mr {
		for v := range nv {
			VMOVUPS(Mem{Base: cp, Disp: bytes * v}, at(i, v))
		}
		if i < mr-1 {
			ADDQ(sc, cp)
		}
	}
	JMP(LabelRef("start"))
	Label("zero")
	for i := range mr {
		for v := range nv {
			if bytes == 64 {
				VPXORD(at(i, v), at(i, v), at(i, v))
			} else {
				VXORPS(at(i, v), at(i, v), at(i, v))
			}
		}
	}
	Label("start")
	ps := []reg.Register{a}
	for j := 1; j < (mr+2)/3; j++ {
		q := GP64()
		LEAQ(Mem{Base: ps[j-1], Index: sa, Scale: 2}, q)
		ADDQ(sa, q)
		ps = append(ps, q)
	}
	step := func(u int) {
		for i := range mr {
			m := Mem{Base: ps[i/3], Disp: 4 * u}
			if i%3 > 0 {
				m.Index, m.Scale = sa, uint8(i%3)
			}
			VBROADCASTSS(m, x(i))
		}
		for v := range nv {
			m := Mem{Base: b, Disp: panel*width*u + bytes*width/4*v}
			if half {
				VPMOVZXWD(m, w(v))
				VPSLLD(U8(16), w(v), w(v))
			} else {
				VMOVUPS(m, w(v))
			}
			for i := range mr {
				VFMADD231PS(w(v), x(i), at(i, v))
			}
		}
	}
	advance := func(n int) {
		for _, p := range ps {
			ADDQ(Imm(uint64(4*n)), p)
		}
		ADDQ(U32(panel*width*n), b)
	}
	const unroll = 4
	rest := GP64()
	MOVQ(k, rest)
	ANDQ(Imm(unroll-1), rest)
	SHRQ(Imm(2), k)
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
			VMOVUPS(at(i, v), Mem{Base: c, Disp: bytes * v})
		}
		if i < mr-1 {
			ADDQ(sc, c)
		}
	}
	VZEROUPPER()
	RET()
}

// Command asm writes the assembly of package cpu with avo. It is a module of
// its own so that avo is no dependency of Shoal. `go generate` in gpu/cpu runs
// it; what it writes is committed.
package main

import (
	"log"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A width is a vector register size. A kernel always works on sixteen lanes:
// one zmm register or two ymm halves.
type width struct {
	name   string
	bytes  int
	halves int
	vec    func() reg.VecVirtual
}

var (
	zmm = width{"512", 64, 1, ZMM}
	ymm = width{"256", 32, 2, YMM}
)

const lanes = 16

// tailMask is sixteen words of ones and sixteen of zeros: the mask of the
// first n lanes begins 16-n words in.
var tailMask Mem

func constraints() {
	ConstraintExpr("amd64,!purego")
	tailMask = GLOBL("tailMask", attr.RODATA|attr.NOPTR)
	for i := range 2 * lanes {
		v := uint32(0)
		if i < lanes {
			v = 0xffffffff
		}
		DATA(4*i, U32(v))
	}
}

func main() {
	constraints()
	vectors()
	for _, w := range []width{zmm, ymm} {
		vectorKernels(w)
	}
	askRows()
	tiles()
	dots()
	linears()
	fews()
	if err := writeTables("../tables_amd64.go"); err != nil {
		log.Fatal(err)
	}
	Generate()
}

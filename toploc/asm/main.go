// Command asm writes the assembly of package toploc with avo. It is a module
// of its own so that avo is no dependency of Shoal. `go generate` in toploc
// runs it; what it writes is committed.
//
// Each kernel comes in two widths: AVX-512 (BW and VBMI2, 32 lanes of 16 bits)
// and AVX2 (16 lanes). kernels_amd64.go of package toploc says what each must do.
package main

import (
	"crypto/sha256"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const prime = 65497

// A width is a vector register size.
type width struct {
	name  string
	bytes int
	vec   func() reg.VecVirtual
}

var (
	zmm = width{"512", 64, ZMM}
	ymm = width{"256", 32, YMM}
)

func (w width) lanes() int { return w.bytes / 2 }

func (w width) wide() bool { return w.bytes == 64 }

// set returns a vector with v in all lanes of 16 bits.
func (w width) set(v uint16) reg.VecVirtual {
	r := GP32()
	MOVL(U32(uint32(v)), r)
	return w.broadcast(r)
}

func (w width) broadcast(r reg.GPVirtual) reg.VecVirtual {
	out := w.vec()
	if w.wide() {
		VPBROADCASTW(r.As32(), out)
		return out
	}
	x := XMM()
	VMOVD(r.As32(), x)
	VPBROADCASTW(x, out)
	return out
}

func (w width) load(m Mem) reg.VecVirtual {
	v := w.vec()
	w.mov(m, v)
	return v
}

func (w width) store(v reg.VecVirtual, m Mem) { w.mov(v, m) }

func (w width) mov(from, to Op) {
	if w.wide() {
		VMOVDQU16(from, to)
	} else {
		VMOVDQU(from, to)
	}
}

func (w width) zero() reg.VecVirtual {
	v := w.vec()
	w.clear(v)
	return v
}

func (w width) clear(v reg.VecVirtual) {
	if w.wide() {
		VPXORD(v, v, v)
	} else {
		VPXOR(v, v, v)
	}
}

func (w width) and(a, b, out reg.VecVirtual) {
	if w.wide() {
		VPANDD(a, b, out)
	} else {
		VPAND(a, b, out)
	}
}

func (w width) or(a, b, out reg.VecVirtual) {
	if w.wide() {
		VPORD(a, b, out)
	} else {
		VPOR(a, b, out)
	}
}

func slice(name string) (reg.Register, reg.Register) {
	return Load(Param(name).Base(), GP64()), Load(Param(name).Len(), GP64())
}

func base(name string) reg.Register { return Load(Param(name).Base(), GP64()) }

func begin(w width, name, signature string) {
	TEXT(name+w.name, attr.NOSPLIT, signature)
	Pragma("noescape")
}

func end() {
	VZEROUPPER()
	RET()
}

func main() {
	ConstraintExpr("amd64,!purego")
	for _, w := range []width{zmm, ymm} {
		gather(w)
		count(w)
		horner(w)
		master(w)
		combine(w)
		project(w)
	}
	compact512()
	if err := writeSum(); err != nil {
		log.Fatal(err)
	}
	Generate()
}

// writeSum leaves the SHA-256 of this program's sources, in the order of their
// names, where a test of package toploc finds it.
func writeSum() error {
	names, err := filepath.Glob("*.go")
	if err != nil {
		return err
	}
	h := sha256.New()
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		h.Write(b)
	}
	return os.WriteFile("../testdata/generator.sum", fmt.Appendf(nil, "%x\n", h.Sum(nil)), 0o644)
}

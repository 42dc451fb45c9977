package main

import (
	"log"
	"math"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// constants are float32 numbers repeated over a zmm register.
var constants = map[string]Mem{}

func constant(name string, bits uint32) {
	m := GLOBL(name, attr.RODATA|attr.NOPTR)
	for i := range lanes {
		DATA(4*i, U32(bits))
	}
	constants[name] = m
}

// vectors declares what the exponential needs; see portable.go for the numbers.
func vectors() {
	f := func(name string, v float32) { constant(name, math.Float32bits(v)) }
	f("cLow", -87.33)
	f("cHigh", 100)
	f("cLog2e", math.Log2E)
	f("cLn2High", 0.693359375)
	f("cLn2Low", -2.12194440e-4)
	for i, v := range []float32{1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1} {
		f("cExp"+string(rune('0'+i)), v)
	}
	f("cOne", 1)
	f("cNegInf", float32(math.Inf(-1)))
	constant("cBias", 127)
}

// A loop runs over n values, sixteen at a time, the last ones masked.
type loop struct {
	width
	n     reg.Register
	ptrs  []reg.Register
	tail  bool
	masks []reg.VecVirtual // ymm: of each half
}

var labels int

// over emits body for all lanes of all values. body handles half h; it must
// advance nothing.
func (w width) over(n reg.Register, ptrs []reg.Register, body func(l *loop, h int)) {
	labels++
	id := string(rune('a' + labels%26))
	start, tail, done := "loop_"+id, "tail_"+id, "done_"+id
	l := &loop{width: w, n: n, ptrs: ptrs}
	CMPQ(n, Imm(lanes))
	JL(LabelRef(tail))
	Label(start)
	for h := range w.halves {
		body(l, h)
	}
	for _, p := range ptrs {
		ADDQ(Imm(4*lanes), p)
	}
	SUBQ(Imm(lanes), n)
	CMPQ(n, Imm(lanes))
	JGE(LabelRef(start))
	Label(tail)
	TESTQ(n, n)
	JE(LabelRef(done))
	l.tail = true
	if w.halves == 1 {
		m := GP32()
		MOVL(U32(0xffff), m)
		BZHIL(n.(reg.GPVirtual).As32(), m, m)
		KMOVW(m, reg.K1)
	} else {
		p := GP64()
		LEAQ(tailMask.Offset(4*lanes), p)
		NEGQ(n)
		for h := range 2 {
			m := YMM()
			VMOVUPS(Mem{Base: p, Index: n, Scale: 4, Disp: 32 * h}, m)
			l.masks = append(l.masks, m)
		}
		NEGQ(n)
	}
	for h := range w.halves {
		body(l, h)
	}
	Label(done)
}

// load reads half h of what pointer p is at; lanes past the end are 0.
func (l *loop) load(p reg.Register, h int) reg.VecVirtual {
	v, m := l.vec(), Mem{Base: p, Disp: l.bytes * h}
	switch {
	case !l.tail:
		VMOVUPS(m, v)
	case l.halves == 1:
		VMOVUPS_Z(m, reg.K1, v)
	default:
		VMASKMOVPS(m, l.masks[h], v)
	}
	return v
}

func (l *loop) store(v reg.VecVirtual, p reg.Register, h int) {
	m := Mem{Base: p, Disp: l.bytes * h}
	switch {
	case !l.tail:
		VMOVUPS(v, m)
	case l.halves == 1:
		VMOVUPS(v, reg.K1, m)
	default:
		VMASKMOVPS(v, l.masks[h], m)
	}
}

// keep clears lanes past the end.
func (l *loop) keep(v reg.VecVirtual, h int) {
	switch {
	case !l.tail:
	case l.halves == 1:
		VMOVAPS_Z(v, reg.K1, v)
	default:
		VANDPS(l.masks[h], v, v)
	}
}

// orNegInf makes lanes past the end -Inf.
func (l *loop) orNegInf(v reg.VecVirtual, h int) {
	if !l.tail {
		return
	}
	inf := l.vec()
	VMOVUPS(constants["cNegInf"], inf)
	if l.halves == 1 {
		VBLENDMPS(v, inf, reg.K1, v)
	} else {
		VBLENDVPS(l.masks[h], v, inf, v)
	}
}

func (w width) zeros() []reg.VecVirtual {
	s := make([]reg.VecVirtual, w.halves)
	for h := range s {
		s[h] = w.vec()
		if w.halves == 1 {
			VPXORD(s[h], s[h], s[h])
		} else {
			VXORPS(s[h], s[h], s[h])
		}
	}
	return s
}

// fold reduces sixteen lanes to one: halves, quarters, pairs.
func (w width) fold(s []reg.VecVirtual, op func(a, b, c Op)) reg.VecVirtual {
	y, x, t := YMM(), XMM(), XMM()
	if w.halves == 1 {
		VEXTRACTF64X4(U8(1), s[0], y)
		op(y, s[0].AsY(), y)
	} else {
		op(s[1], s[0], y)
	}
	VEXTRACTF128(U8(1), y, x)
	op(x, y.AsX(), x)
	VPERMILPS(U8(0x4e), x, t)
	op(t, x, x)
	VPERMILPS(U8(0xb1), x, t)
	op(t, x, x)
	return x
}

func (w width) broadcast(x reg.VecVirtual) reg.VecVirtual {
	v := w.vec()
	VBROADCASTSS(x, v)
	return v
}

// scalar is a float32 parameter in all lanes.
func (w width) scalar(name string) reg.VecVirtual {
	v := w.vec()
	VBROADCASTSS(param(name), v)
	return v
}

// param is where a parameter lies. avo's Load would read it by an SSE instruction, which
// costs some 400 cycles on Intel once a wide register was written.
func param(name string) Mem {
	b, err := Param(name).Resolve()
	if err != nil {
		log.Fatalf("asm: parameter %s: %v", name, err)
	}
	return b.Addr
}

// exp replaces x by its exponential.
func (w width) exp(x reg.VecVirtual) {
	c, n, p, r := w.vec(), w.vec(), w.vec(), w.vec()
	// The second source wins where either is NaN.
	VMOVUPS(constants["cLow"], c)
	VMAXPS(x, c, r)
	VMOVUPS(constants["cHigh"], c)
	VMINPS(r, c, r)
	VMULPS(constants["cLog2e"], r, n)
	if w.halves == 1 {
		VRNDSCALEPS(U8(0), n, n)
	} else {
		VROUNDPS(U8(0), n, n)
	}
	VFNMADD231PS(constants["cLn2High"], n, r)
	VFNMADD231PS(constants["cLn2Low"], n, r)
	VMOVUPS(constants["cExp0"], p)
	for _, k := range []string{"cExp1", "cExp2", "cExp3", "cExp4", "cExp5"} {
		VFMADD213PS(constants[k], r, p)
	}
	VMULPS(r, r, c)
	VFMADD213PS(r, c, p)
	VADDPS(constants["cOne"], p, p)
	if w.halves == 1 {
		VSCALEFPS(n, p, p)
		VCMPPS(U8(0x15), constants["cLow"], x, reg.K2) // not less than
		VMOVAPS_Z(p, reg.K2, x)
		return
	}
	// 2^n in two factors, because 2^128 is not a float32.
	half := w.vec()
	VCVTPS2DQ(n, n)
	VPSRAD(U8(1), n, half)
	VPSUBD(half, n, n)
	for _, e := range []reg.VecVirtual{half, n} {
		VPADDD(constants["cBias"], e, e)
		VPSLLD(U8(23), e, e)
		VMULPS(e, p, p)
	}
	VCMPPS(U8(0x15), constants["cLow"], x, c)
	VANDPS(c, p, x)
}

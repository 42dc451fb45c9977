package codec

import (
	"errors"
	"math"
)

var (
	errExponent = errors.New("its exponent is outside the window")
	errCode     = errors.New("it has a code out of range")
	errLoose    = errors.New("its exponent is larger than its codes need")
	errPadding  = errors.New("its padding is not zero")
)

// window is the largest exponent byte.
const window = MaxExponent - MinExponent

// exponent returns s−MinExponent for the smallest s in the window with
// m ≤ q·2^s, or the window's end: s = ⌈log2(m/q)⌉, clamped. m is at least 0;
// q is 127 or 7, so m/2^s lies in (q/2, q] unless clamped.
func exponent(m float64, q int) byte {
	if m == 0 {
		return 0
	}
	f, e := math.Frexp(m) // m = f·2^e, f in [1/2, 1)
	g, h := math.Frexp(float64(q))
	s := e - h
	if f > g {
		s++
	}
	return byte(min(max(s-MinExponent, 0), window))
}

// scale returns 2^−s for the exponent byte e.
func scale(e byte) float64 { return math.Ldexp(1, -(int(e) + MinExponent)) }

// round returns x·inv rounded to the nearest integer, ties to even, within ±q.
// inv is a power of two: the product is exact.
func round(x float32, inv float64, q int) int {
	y := float64(float64(x) * inv)
	lim := float64(q)
	return int(math.RoundToEven(min(max(y, -lim), lim)))
}

func maxAbs(v []float32) float64 {
	var m float32
	for _, x := range v {
		m = max(m, x, -x)
	}
	return float64(m)
}

// encodeInt8 writes the codes of v and returns their exponent byte.
func encodeInt8(dst []byte, v []float32) byte {
	e := exponent(maxAbs(v), 127)
	inv := scale(e)
	dst = dst[:len(v)]
	for i, x := range v {
		dst[i] = byte(int8(round(x, inv, 127)))
	}
	return e
}

// checkInt8 returns Σ q² of one chunk, or why it is not canonical.
func checkInt8(codes []byte, e byte) (uint64, error) {
	if e > window {
		return 0, errExponent
	}
	var sum uint64
	top := 0
	for _, b := range codes {
		q := int(int8(b))
		top = max(top, q, -q)
		sum += uint64(q * q)
	}
	return sum, checkTop(top, e, 127)
}

// checkTop judges a chunk by its largest absolute code.
func checkTop(top int, e byte, q int) error {
	if top > q {
		return errCode
	}
	if e > 0 && top < (q+1)/2 {
		return errLoose
	}
	return nil
}

// encodeInt4 writes the codes of v, two a byte, and returns their exponent byte.
func encodeInt4(dst []byte, v []float32) byte {
	e := exponent(maxAbs(v), 7)
	inv := scale(e)
	for i := 0; i < len(v); i += 2 {
		b := byte(round(v[i], inv, 7)) & 15
		if i+1 < len(v) {
			b |= byte(round(v[i+1], inv, 7)) << 4
		}
		dst[i/2] = b
	}
	return e
}

// nibble returns code j of int4.
func nibble(codes []byte, j int) int {
	b := codes[j>>1] >> (4 * (j & 1))
	return int(int8(b<<4) >> 4)
}

// checkInt4 returns Σ q² of one chunk of n codes, or why it is not canonical.
func checkInt4(codes []byte, n int, e byte) (uint64, error) {
	if e > window {
		return 0, errExponent
	}
	if n&1 == 1 && codes[n/2]>>4 != 0 {
		return 0, errPadding
	}
	var sum uint64
	top := 0
	for j := range n {
		q := nibble(codes, j)
		top = max(top, q, -q)
		sum += uint64(q * q)
	}
	return sum, checkTop(top, e, 7)
}

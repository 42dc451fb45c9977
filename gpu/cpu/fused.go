package cpu

import "math"

// twice says whether rounding s to float32 could differ from rounding what s
// was rounded from: s lies half-way between two float32, or is so small that the
// distance of float32s is not that of float64s times 2^29.
func twice(s float64) bool {
	b := math.Float64bits(s)
	return b&(1<<29-1) == 1<<28 || b<<1>>53 < 1023-126
}

// fmaOdd is p + z rounded once.
func fmaOdd(p, z float64) float32 {
	s := p + z
	t := s - p
	e := (p - (s - t)) + (z - t) // the exact error of s (Knuth's TwoSum)
	b := math.Float64bits(s)
	if e != 0 && b&1 == 0 && !math.IsNaN(e) {
		if (e > 0) == (s > 0) {
			b++
		} else {
			b--
		}
	}
	return float32(math.Float64frombits(b))
}

// log is the natural logarithm of a positive, normal x, by fdlibm's
// polynomial (Sun Microsystems 1993); every operation is rounded, so that all
// machines get the same bits.
func log(x float64) float64 {
	if !(x > 0) || math.IsInf(x, 1) {
		return math.Log(x)
	}
	f, e := math.Frexp(x)
	if f < math.Sqrt2/2 {
		f, e = 2*f, e-1
	}
	f--
	k := float64(e)
	s := f / (2 + f)
	z := float64(s * s)
	r := 0.0
	for _, c := range [...]float64{1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01,
		2.222219843214978396e-01, 2.857142874366239149e-01, 3.999999999940941908e-01, 6.666666666666735130e-01} {
		r = float64(r*z) + c
	}
	r = float64(r * z)
	half := float64(float64(0.5*f) * f)
	low := float64(s*(half+r)) + float64(k*1.90821492927058770002e-10)
	return float64(k*6.93147180369123816490e-01) - ((half - low) - f)
}

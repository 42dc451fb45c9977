//go:build !arm64 || purego

package cpu

// fma is x·y + z rounded once, as the assembly's fused multiply-adds round:
// the product of two float32 is exact in float64, and the sum is rounded to odd
// before it is rounded to float32, where rounding twice could go wrong
// (Boldo and Melquiond 2008, theorem 1).
func fma(x, y, z float32) float32 {
	s := float64(x)*float64(y) + float64(z) // the product is exact: fused or not is one
	if twice(s) {
		return fmaOdd(float64(x)*float64(y), float64(z))
	}
	return float32(s)
}

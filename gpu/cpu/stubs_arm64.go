//go:build !purego

package cpu

//go:noescape
func tileNEON(k int, a, b, c *float32, sc int)

//go:noescape
func linearNEONF32x1(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)

//go:noescape
func linearNEONBF16x1(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)

//go:noescape
func linearNEONF32x2(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)

//go:noescape
func linearNEONBF16x2(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)

//go:noescape
func linearNEONF32x3(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)

//go:noescape
func linearNEONBF16x3(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool, next uintptr, step int)

//go:noescape
func dotNEON(n int, x, y *float32, s *[16]float32)

//go:noescape
func dotThreeNEON(n int, x, y, z *float32, s *[16]float32)

//go:noescape
func greatestNEON(n int, y *float32) float32

//go:noescape
func expNEON(n int, y *float32, a, m float32, s *[16]float32)

//go:noescape
func scaleNEON(n int, y *float32, b float32)

//go:noescape
func softmaxBackNEON(n int, dp, p *float32, a, m, inv, d float32)

//go:noescape
func swigluNEON(n int, out, gate, up *float32)

//go:noescape
func swigluBackNEON(n int, dgate, dup, dout, gate, up *float32)

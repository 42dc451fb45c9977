//go:build !purego

package cpu

//go:noescape
func tileNEON(k int, a, b, c *float32, sc int)

//go:noescape
func linearNEONF32x1(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool)

//go:noescape
func linearNEONBF16x1(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool)

//go:noescape
func linearNEONF32x2(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool)

//go:noescape
func linearNEONBF16x2(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool)

//go:noescape
func linearNEONF32x3(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool)

//go:noescape
func linearNEONBF16x3(k int, a *float32, sa int, b *byte, c *float32, sc int, acc bool)

//go:build !purego

package cpu

// fma is x·y + z rounded once: the compiler makes one instruction of it, as the language lets it
// and TestFMA holds it to.
func fma(x, y, z float32) float32 { return x*y + z }

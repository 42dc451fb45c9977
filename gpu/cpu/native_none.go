//go:build !(amd64 || arm64) || purego

package cpu

// native lists the kernels in assembly, the best first: none in this build.
func native() []*kernels { return nil }

// withHalf are the kernels like best whose products in bfloat16 are the fastest.
func withHalf(best *kernels) *kernels { return best }

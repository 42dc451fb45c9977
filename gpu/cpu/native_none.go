//go:build !amd64 || purego || noasm

package cpu

// native lists the kernels in assembly, the best first: none in this build.
func native() []*kernels { return nil }

//go:build !(amd64 || arm64) || purego

package cpu

// native lists the kernels in assembly, the best first: none in this build.
func native() []*kernels { return nil }

//go:build !amd64 || purego

package cpu

func panelsOf(*kernels) *panelKernels { return nil }

//go:build !purego

package cpu

// panelsOf finds the kernels of Linear that go with k; nil if none.
func panelsOf(k *kernels) *panelKernels {
	if k == &neon {
		return &panelsNEON
	}
	return nil
}

//go:build amd64 && !purego

package cpu

// panelsOf finds the kernels of Linear that go with k; nil if none.
func panelsOf(k *kernels) *panelKernels {
	switch k.name {
	case avx512.name:
		return &panels512
	case avx2.name:
		return &panels256
	}
	return nil
}

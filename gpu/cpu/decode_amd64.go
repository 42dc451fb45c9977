//go:build amd64 && !purego

package cpu

//go:generate sh -c "cd asm && go run ./decode -out ../decode_amd64.s -stubs ../decode_stubs_amd64.go -pkg cpu"

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

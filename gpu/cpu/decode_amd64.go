//go:build amd64 && !purego

package cpu

//go:generate sh -c "cd asm && go run ./decode -out ../decode_amd64.s -stubs ../decode_stubs_amd64.go -pkg cpu"

var panels512 = panelKernels{
	full: []panelKernel{linear512F32x1, linear512F32x2, linear512F32x3, linear512F32x4, linear512F32x5, linear512F32x6, linear512F32x7, linear512F32x8},
	half: []panelKernel{linear512BF16x1, linear512BF16x2, linear512BF16x3, linear512BF16x4, linear512BF16x5, linear512BF16x6, linear512BF16x7, linear512BF16x8},
}

var panels256 = panelKernels{
	full: []panelKernel{linear256F32x1, linear256F32x2, linear256F32x3},
	half: []panelKernel{linear256BF16x1, linear256BF16x2, linear256BF16x3},
}

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

//go:build amd64 && !purego

package cpu

// A fewKernel multiplies rows of A by columns of B, up to 4 vectors, where both lie.
type fewKernel func(k int, a *float32, sa int, b *float32, sb int, c *float32, sc int, acc bool, cols int)

// few512 is kernels.few.
func few512(m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
	const lanes = 16
	rows, width := len(fews512), len(fews512[0])*lanes
	for i := 0; i < m; i += rows {
		of := fews512[min(rows, m-i)-1]
		for j := 0; j < n; j += width {
			cols := min(width, n-j)
			of[(cols-1)/lanes](k, ptr(a, i*lda), 4*lda, ptr(b, j), 4*ldb, ptr(c, i*ldc+j), 4*ldc, acc, cols)
		}
	}
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

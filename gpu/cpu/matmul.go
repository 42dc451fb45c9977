package cpu

import "github.com/shoalnet/shoal/gpu"

// matmulJob is a product whose C is cut into rectangles.
type matmulJob struct {
	l          gpu.Layout
	c, a, b    gpu.Matrix
	m, n, k    int
	acc        bool
	rows, cols int // of a rectangle
	across     int // rectangles side by side
	half       bool
}

// MatMul implements gpu.Device.
func (d *Device) MatMul(l gpu.Layout, c, a, b gpu.Matrix, accumulate bool) {
	m, n, k := gpu.CheckMatMul(l, c, a, b)
	if m == 0 || n == 0 {
		return
	}
	j := &d.matmul
	*j = matmulJob{l: l, c: c, a: a, b: b, m: m, n: n, k: k, acc: accumulate, half: d.half}
	j.cut(len(d.workers))
	cost := m * n / 16 * max(k, 1)
	d.pool.run(j, (m+j.rows-1)/j.rows*j.across, cost)
}

// cut chooses rectangles: enough that no thread waits long for another, along
// n first, because rectangles side by side share no panel of B, and never so
// small that their edges cost more than they gain. Results do not depend on
// the choice.
func (j *matmulJob) cut(threads int) {
	const panel, least, small = 64, 48, 1 << 20
	j.rows, j.cols = j.m, j.n
	want := min(4*threads, j.m*j.n*j.k/small)
	if threads == 1 || want < 2 {
		want = 1
	}
	panels := (j.n + panel - 1) / panel
	across := min(want, panels)
	if want > 1 {
		j.cols = (panels + across - 1) / across * panel
		j.rows = max(least, (j.m*across+want-1)/want)
		j.rows = (j.rows + 7) &^ 7
	}
	j.across = (j.n + j.cols - 1) / j.cols
}

func (j *matmulJob) run(w *worker, task int) {
	i0, j0 := task/j.across*j.rows, task%j.across*j.cols
	m, n := min(j.rows, j.m-i0), min(j.cols, j.n-j0)
	a, b := j.a.Host, j.b.Host
	if j.k > 0 {
		switch j.l {
		case gpu.NN:
			a, b = a[i0*j.a.Stride:], b[j0:]
		case gpu.NT:
			a, b = a[i0*j.a.Stride:], b[j0*j.b.Stride:]
		case gpu.TN:
			a, b = a[i0:], b[j0:]
		}
	}
	product := w.k.product
	if j.half {
		product = w.k.half
	}
	product(w, j.l, m, n, j.k, a, j.a.Stride, b, j.b.Stride, j.c.Host[i0*j.c.Stride+j0:], j.c.Stride, j.acc)
}

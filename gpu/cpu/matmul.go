package cpu

import (
	"math"

	"github.com/shoalnet/shoal/gpu"
)

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

// cut chooses rectangles: enough that no thread waits long for another, of the
// shape that packs least (rectangles side by side share no panel of B, those one below
// another no strip of A), and never so small that their edges cost more than they gain.
// Results do not depend on the choice.
func (j *matmulJob) cut(threads int) {
	const panel, least, small = 32, 56, 1 << 20
	j.rows, j.cols, j.across = j.m, j.n, 1
	want := min(4*threads, j.m*j.n*j.k/small)
	if threads == 1 || want < 2 {
		return
	}
	panels := (j.n + panel - 1) / panel
	best := math.MaxInt
	for across := 1; across <= min(want, panels); across++ {
		down := min((want+across-1)/across, (j.m+least-1)/least)
		if across*down < (want+1)/2 && across < min(want, panels) {
			continue // too few
		}
		cost := 4*down*j.n + across*j.m // A is read once more for each
		if j.l == gpu.TN || j.half {
			cost += 3 * across * j.m
		}
		// An uneven last rectangle makes others wait.
		cols := (panels + across - 1) / across
		cost += (cols*across - panels) * panel * 8
		if cost < best {
			best = cost
			j.cols, j.rows = cols*panel, ((j.m+down-1)/down+13)/14*14
		}
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
	c := j.c.Host[i0*j.c.Stride+j0:]
	if j.half {
		w.k.half(w, j.l, m, n, j.k, a, j.a.Stride, b, j.b.Stride, c, j.c.Stride, j.acc)
	} else {
		w.k.product(w, j.l, m, n, j.k, a, j.a.Stride, b, j.b.Stride, c, j.c.Stride, j.acc, 0)
	}
}

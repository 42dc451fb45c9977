package cpu

import (
	"math"

	"github.com/shoalnet/shoal/gpu"
)

// matmulJob is a product whose C is cut into rectangles.
type matmulJob struct {
	l       gpu.Layout
	c, a, b gpu.Matrix
	m, n, k int
	acc     bool
	half    bool
	rects   []rect
}

// MatMul implements gpu.Device.
func (d *Device) MatMul(l gpu.Layout, c, a, b gpu.Matrix, accumulate bool) {
	m, n, k := gpu.CheckMatMul(l, c, a, b)
	if m == 0 || n == 0 {
		return
	}
	j := &d.matmul
	*j = matmulJob{l: l, c: c, a: a, b: b, m: m, n: n, k: k, acc: accumulate, half: d.half, rects: j.rects}
	j.rects = j.cut(len(d.workers), j.rects)
	cost := m * n / 16 * max(k, 1)
	d.pool.run(j, len(j.rects), cost)
}

// A rect is a rectangle of C.
type rect struct{ i, j, rows, cols int }

// cut makes rectangles, each of a share of what is left, down to what is hardly worth taking
// (guided self-scheduling, Polychronopoulos and Kuck 1987): no thread waits long for
// another, whenever each began. How much it costs to pack a panel of B, and to fetch or pack a
// strip of A, decides about their form. Results do not depend on them.
func (j *matmulJob) cut(threads int, all []rect) []rect {
	const (
		panel, strip = 32, 14
		least        = 8 * strip // rows of a rectangle
		small        = 2 << 20   // multiplications that one thread does before another is awake
		worth        = 1 << 20
		near         = 256 << 10 // values that stay in the second-level cache
	)
	tall, wide := 28.0, 32.0 // what packing and fetching are worth in rows and columns
	switch {
	case j.l == gpu.TN || j.half:
		wide = 48
	case j.m*j.k <= near:
		wide = 4
	}
	if j.l == gpu.NT {
		tall = 14
	}
	all = all[:0]
	left := j.m * j.n * j.k // multiplications
	if threads == 1 || left < small {
		return append(all, rect{0, 0, j.m, j.n})
	}
	share, last := left/(2*threads), max(worth, left/(32*threads))
	cols := max(panel, math.Sqrt(float64(share/j.k)*wide/tall))
	across := max(1, int(float64(j.n)/cols+0.5))
	for x := range across {
		at, end := j.n*x/across, j.n
		if at = at / panel * panel; x < across-1 {
			end = j.n * (x + 1) / across / panel * panel
		}
		for i := 0; i < j.m && at < end; {
			share = max(last, left/(2*threads))
			rows := max(least, share/((end-at)*j.k)/strip*strip)
			if rows = min(rows, j.m-i); j.m-i-rows < least {
				rows = j.m - i
			}
			pieces := max(1, min(rows*(end-at)*j.k/share, (end-at)/panel))
			for p := range pieces {
				from, to := at+(end-at)*p/pieces/panel*panel, end
				if p < pieces-1 {
					to = at + (end-at)*(p+1)/pieces/panel*panel
				}
				all = append(all, rect{i, from, rows, to - from})
			}
			left -= rows * (end - at) * j.k
			i += rows
		}
	}
	return all
}

func (j *matmulJob) run(w *worker, task int) {
	i0, j0, m, n := j.rects[task].i, j.rects[task].j, j.rects[task].rows, j.rects[task].cols
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

// needed is the part of kb values of k from k0 on that counts for rows i0 to i1 of op(A),
// see kernels.product.
func needed(l gpu.Layout, seen, k0, kb, i0, i1 int) (from, to int) {
	switch {
	case seen == 0:
	case l == gpu.NN:
		kb = min(kb, seen+i1-1-k0)
	case l == gpu.TN:
		from = max(0, i0-seen+1-k0)
	}
	return from, kb
}

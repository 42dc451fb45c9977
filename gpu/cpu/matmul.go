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
	id      uint64 // counts the device's products
	packs   *packs
}

// MatMul implements gpu.Device.
func (d *Device) MatMul(l gpu.Layout, c, a, b gpu.Matrix, accumulate bool) {
	m, n, k := gpu.CheckMatMul(l, c, a, b)
	if m == 0 || n == 0 {
		return
	}
	j := &d.matmul
	*j = matmulJob{l: l, c: c, a: a, b: b, m: m, n: n, k: k, acc: accumulate, half: d.half, rects: j.rects, id: j.id + 1, packs: d.packs}
	j.rects = j.cut(len(d.workers), j.rects)
	cost := m * n / 16 * max(k, 1)
	d.pool.run(j, len(j.rects), cost)
}

// A rect is a rectangle of C.
type rect struct{ i, j, rows, cols int }

// pieces are what a worker's part of C is cut into, in 16ths: whoever is done takes the others' last
// ones, so that no thread waits long for another (guided self-scheduling, Polychronopoulos and Kuck
// 1987).
var pieces = [...]int{0, 8, 12, 14, 16}

// cut gives every worker a part of C, and cuts that into pieces of decreasing size. What it costs to
// pack a panel of B, and to fetch or pack a strip of A, decides about the form of parts. Pieces lie one
// below another, for which a worker packs B once. Results do not depend on them.
func (j *matmulJob) cut(threads int, all []rect) []rect {
	const (
		panel, strip = 32, 14
		small        = 2 << 20 // multiplications that one thread does before another is awake
	)
	all = all[:0]
	if threads == 1 || j.m*j.n*j.k < small {
		return append(all, rect{0, 0, j.m, j.n})
	}
	tall, wide := 28.0, 32.0 // what packing and fetching are worth in rows and columns
	if j.l == gpu.TN || j.half {
		wide = 48
	}
	if j.l == gpu.NT {
		tall = 14
	}
	down, best := 1, math.Inf(1)
	for r := 1; r <= threads; r++ {
		if threads%r != 0 || r > 1 && j.m < r*strip {
			continue
		}
		if cost := tall*float64(r)/float64(j.m) + wide*float64(threads/r)/float64(j.n); cost < best {
			down, best = r, cost
		}
	}
	across := threads / down
	// whole rounds x to a multiple of unit, but not beyond n.
	whole := func(x, unit, n int) int { return min((x+unit/2)/unit*unit, n) }
	edge := func(i, of, unit, n int) int {
		if i == of {
			return n
		}
		return whole(n*i/of, unit, n)
	}
	for w := range threads {
		y, x := w/across, w%across
		i0, i1 := edge(y, down, strip, j.m), edge(y+1, down, strip, j.m)
		j0, j1 := edge(x, across, panel, j.n), edge(x+1, across, panel, j.n)
		for p := range len(pieces) - 1 {
			from, to := edge(pieces[p], 16, strip, i1-i0), edge(pieces[p+1], 16, strip, i1-i0)
			all = append(all, rect{i0 + from, j0, to - from, j1 - j0})
		}
	}
	return all
}

func (j *matmulJob) run(w *worker, task int) {
	r := &j.rects[task]
	i0, j0, m, n := r.i, r.j, r.rows, r.cols
	if m == 0 || n == 0 {
		return
	}
	w.packed = w.kept && w.of == j.id && w.col == j0
	w.of, w.col = j.id, j0
	if j.packs != nil && j.k > 0 {
		mine, x := w.pack, j.packs.of(j.l, &j.b, n, j.k)
		w.pack, w.packed = x.at, x.ready
		defer func() { w.pack, x.ready, w.of = mine, w.kept, 0 }()
	}
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
	w.packed = false
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

package cpu

import "github.com/shoalnet/shoal/gpu"

// flatChunk is how many values of a flat vector make one partial sum.
const flatChunk = 4096

// reduceJob sums chunks of a vector, each into its own place.
type reduceJob struct {
	x       []float32
	squares bool
	part    []float64
}

func (j *reduceJob) run(w *worker, task int) {
	x := j.x[task*flatChunk : min((task+1)*flatChunk, len(j.x))]
	if j.squares {
		j.part[task] = float64(w.k.dot(x, x))
		return
	}
	var s float64
	for _, v := range x {
		s += float64(v)
	}
	j.part[task] = s
}

func (d *Device) total(x []float32, squares bool) float64 {
	n := (len(x) + flatChunk - 1) / flatChunk
	if len(d.part) < n {
		d.part = make([]float64, n)
	}
	d.reduce = reduceJob{x, squares, d.part[:n]}
	d.pool.run(&d.reduce, n, len(x)/16)
	var s float64
	for _, v := range d.part[:n] {
		s += v
	}
	return s
}

// Sum implements gpu.Device.
func (d *Device) Sum(x gpu.Buffer) float64 { return d.total(x.Host, false) }

// SumSquares implements gpu.Device. Squares are summed in float32 within a
// chunk: a gradient whose values pass 1e18 overflows.
func (d *Device) SumSquares(x gpu.Buffer) float64 { return d.total(x.Host, true) }

type adamJob struct {
	p, g, m, v []float32
	o          gpu.AdamW
}

func (j *adamJob) run(w *worker, task int) {
	a := task * flatChunk
	b := min(a+flatChunk, len(j.p))
	w.k.adamw(j.p[a:b], j.g[a:b], j.m[a:b], j.v[a:b], &j.o)
}

// AdamW implements gpu.Device.
func (d *Device) AdamW(p, g, m, v gpu.Buffer, o gpu.AdamW) {
	gpu.CheckLen("adamw", g, p.N)
	gpu.CheckLen("adamw", m, p.N)
	gpu.CheckLen("adamw", v, p.N)
	d.adam = adamJob{p.Host, g.Host, m.Host, v.Host, o}
	d.pool.run(&d.adam, (p.N+flatChunk-1)/flatChunk, p.N)
}

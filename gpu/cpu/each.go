package cpu

import (
	"unsafe"

	"github.com/shoalnet/shoal/gpu"
)

// eachJob gives stretches of rows to threads. Every thread has a device of its own for them, whose
// products pack each of the job's weights once.
type eachJob struct {
	job  gpu.RowJob
	n    int
	each int // stretches of a thread
	subs []*Device
}

const (
	stretch    = 128     // rows, whose activations stay in the second-level cache
	fewRows    = 384     // of a thread, for which packing weights once more does not pay
	mostPacked = 8 << 20 // values of weights that a thread packs
)

// EachRow is what gpu.EachRow calls.
func (d *Device) EachRow(n, weights int, job gpu.RowJob) {
	threads := len(d.workers)
	if !d.k.keeps || n < threads*fewRows || weights > mostPacked {
		job.Rows(d, 0, n)
		return
	}
	j := &d.rowwise
	for i := len(j.subs); i < threads; i++ {
		w := d.workers[i : i+1 : i+1]
		j.subs = append(j.subs, &Device{k: d.k, half: d.half, workers: w, pool: newPool(w), packs: &packs{}})
	}
	for _, s := range j.subs {
		s.packs.used = 0
	}
	j.job, j.n = job, n
	j.each = (n/threads + stretch - 1) / stretch
	if threads > 1 {
		j.each++ // the last is halved, so that nobody waits long for another
	}
	d.pool.run(j, threads*j.each, n*(weights/16+1))
	j.job = nil
}

func (j *eachJob) run(w *worker, task int) {
	threads := len(j.subs)
	first, end := j.n*(task/j.each)/threads, j.n*(task/j.each+1)/threads
	edge := func(i int) int {
		if threads == 1 {
			return j.n * i / j.each
		}
		return first + (end-first)*min(2*i, j.each-2+i)/(2*(j.each-1)) // in halves of a stretch
	}
	if from, to := edge(task%j.each), edge(task%j.each+1); from < to {
		j.job.Rows(j.subs[w.id], from, to)
	}
}

// packs are matrices B, which nothing changes meanwhile, that one thread has packed in the course of a job.
type packs struct {
	all  []packed
	used int
}

type packed struct {
	b        *float32
	l        gpu.Layout
	n, k, ld int
	at       []float32
	ready    bool
	scratch  []float32
}

// of finds B, or makes room for it.
func (p *packs) of(l gpu.Layout, b *gpu.Matrix, n, k int) *packed {
	at := unsafe.SliceData(b.Host)
	for i := range p.all[:p.used] {
		if x := &p.all[i]; x.b == at && x.l == l && x.n == n && x.k == k && x.ld == b.Stride {
			return x
		}
	}
	if p.used == len(p.all) {
		p.all = append(p.all, packed{})
	}
	x := &p.all[p.used]
	p.used++
	x.b, x.l, x.n, x.k, x.ld, x.ready = at, l, n, k, b.Stride, false
	x.at = grow(&x.scratch, max(1, wholePanels(n)*k))
	return x
}

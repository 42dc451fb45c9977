package cpu

import (
	"math"

	"github.com/shoalnet/shoal/gpu"
)

// attentionJob computes attention block by block of queries, so that no
// (T, T) matrix is ever kept: the scores of a block live in a worker's scratch,
// and the backward pass makes them again from the softmax's maximum and sum
// (as FlashAttention does, Dao et al. 2022, algorithm 4; the rows of a block
// are whole here, so nothing is rescaled).
type attentionJob struct {
	s          gpu.AttentionShape
	backward   bool
	out, stats gpu.Matrix
	q, k, v    gpu.Matrix
	dq, dk, dv gpu.Matrix
	dout       gpu.Matrix
	block      int // queries at a time
	keys       int // that a block sees at most
}

// A block's scores are few enough to stay in the second-level cache, if as many rows share the packing of
// keys and values, and the traffic of their gradients, as pay for that: scores are read and
// written in order, for which a further level will do.
const (
	fewScores  = 64 << 10 // values
	sharing    = 112      // rows; tiles have 14
	mostScores = 1 << 20  // values
)

// plan chooses the block, gives every worker the scratch for it, and says how many
// keys a query's time is for.
func (d *Device) plan(j *attentionJob) (keys int) {
	s := &j.s
	j.keys, keys = s.Keys, s.Keys
	rows := func(scores int) int { return scores / max(1, s.Keys) / 14 * 14 }
	j.block = max(rows(fewScores), min(sharing, rows(mostScores)), 28)
	if s.Queries*s.Keys <= fewScores {
		j.block = s.Queries
	}
	if w := s.Window; w > 0 && w < s.Keys {
		// A block of n queries sees n + w - 1 keys, of which the diagonal hides half of n; all together
		// would see the half of all.
		n := max(28, min(w/2, fewScores/(2*w))/14*14)
		if w+n/2 < s.Keys-s.Queries/2 {
			j.block, keys = min(n, s.Queries), min(s.Keys, w+n/2)
		}
		j.keys = min(s.Keys, j.block+w-1)
	}
	for _, w := range d.workers {
		grow(&w.score, j.block*j.keys)
		if j.backward {
			grow(&w.dp, j.block*j.keys)
		}
	}
	return keys
}

// Attention implements gpu.Device: a task is one head of one sequence.
func (d *Device) Attention(s gpu.AttentionShape, out, stats, q, k, v gpu.Matrix) {
	s.Check("attention", out, stats, q, k, v)
	d.attn = attentionJob{s: s, out: out, stats: stats, q: q, k: k, v: v}
	keys := d.plan(&d.attn)
	d.pool.run(&d.attn, s.Seqs*s.Heads, s.Seqs*s.Heads*s.Queries*keys/8*(s.HeadDim/8+1))
}

// AttentionBackward implements gpu.Device: a task is one head of keys of one
// sequence with all its query heads, so that one task writes each gradient.
func (d *Device) AttentionBackward(s gpu.AttentionShape, dq, dk, dv, dout, out, stats, q, k, v gpu.Matrix) {
	s.CheckBackward(dq, dk, dv, dout, out, stats, q, k, v)
	d.attn = attentionJob{s: s, backward: true, out: out, stats: stats, q: q, k: k, v: v, dq: dq, dk: dk, dv: dv, dout: dout}
	keys := d.plan(&d.attn)
	d.pool.run(&d.attn, s.Seqs*s.KVHeads, s.Seqs*s.Heads*s.Queries*keys/4*(s.HeadDim/8+1))
}

// at is m's memory from row i, column c on.
func at(m *gpu.Matrix, i, c int) []float32 { return m.Host[i*m.Stride+c:] }

func (j *attentionJob) run(w *worker, task int) {
	if j.backward {
		j.back(w, task/j.s.KVHeads, task%j.s.KVHeads)
	} else {
		j.forward(w, task/j.s.Heads, task%j.s.Heads)
	}
}

// asked is how many rows are asked for at a time.
const asked = 8

// ask has the second-level cache fetch the next rows, from row i of a sequence on and not beyond end, of the
// head that comes after h of sequence b: of the queries' matrices, and of the keys' where it has others.
// A head's rows lie too far apart for the hardware to foresee.
func (j *attentionJob) ask(w *worker, b, h, i, end int, queries, keys []*gpu.Matrix) {
	group := j.s.Heads / j.s.KVHeads
	kv := h / group
	if h++; h == j.s.Heads {
		b, h = b+1, 0
	}
	if w.k.ask == nil || b == j.s.Seqs {
		return
	}
	fetch := func(h int, from []*gpu.Matrix) {
		for _, m := range from {
			w.k.ask(min(asked, end-i), 4*j.s.HeadDim, &m.Host[(b*j.s.Queries+i)*m.Stride+h*j.s.HeadDim], 4*m.Stride)
		}
	}
	fetch(h, queries)
	if h/group != kv {
		fetch(h/group, keys)
	}
}

// floor is the first key that any of the n query rows from t on sees.
func (j *attentionJob) floor(t, n int) int {
	lo := j.s.First(t)
	for i := 1; i < n && lo > 0; i++ {
		lo = min(lo, j.s.First(t+i))
	}
	return lo
}

func (j *attentionJob) forward(w *worker, b, h int) {
	dim, kern := j.s.HeadDim, w.k
	scale := float32(1 / math.Sqrt(float64(dim)))
	kv := h / (j.s.Heads / j.s.KVHeads)
	for i0 := 0; i0 < j.s.Queries; i0 += j.block {
		n := min(j.block, j.s.Queries-i0)
		t := b*j.s.Queries + i0
		lo, hi := j.floor(t, n), j.s.Keys-j.s.Queries+i0+n // keys that the block's queries see
		keys := hi - lo
		k, v := at(&j.k, b*j.s.Keys+lo, kv*dim), at(&j.v, b*j.s.Keys+lo, kv*dim)
		p := w.score[:n*keys]
		kern.product(w, gpu.NT, n, keys, dim, at(&j.q, t, h*dim), j.q.Stride, k, j.k.Stride, p, keys, false, keys-n+1)
		for i := range n {
			if i%asked == 0 {
				j.ask(w, b, h, i0+i, i0+n, []*gpu.Matrix{&j.q, &j.out}, []*gpu.Matrix{&j.k, &j.v})
			}
			from, seen := j.s.First(t+i)-lo, keys-n+i+1
			r := p[i*keys : (i+1)*keys]
			m, sum := kern.softmax(r[from:seen], scale, 1)
			clear(r[:from])
			clear(r[seen:min(keys, seen+kern.slack)])
			st := at(&j.stats, t+i, 2*h)
			st[0], st[1] = m, 1/sum
		}
		kern.product(w, gpu.NN, n, dim, keys, p, keys, v, j.v.Stride, at(&j.out, t, h*dim), j.out.Stride, false, keys-n+1)
	}
}

func (j *attentionJob) back(w *worker, b, kv int) {
	dim, kern, group := j.s.HeadDim, w.k, j.s.Heads/j.s.KVHeads
	scale := float32(1 / math.Sqrt(float64(dim)))
	base := b * j.s.Keys
	whole := j.block >= j.s.Queries && j.s.From == nil // a block has all keys
	for i := 0; i < j.s.Keys && !whole; i++ {
		clear(at(&j.dk, base+i, kv*dim)[:dim])
		clear(at(&j.dv, base+i, kv*dim)[:dim])
	}
	for h := kv * group; h < (kv+1)*group; h++ {
		for i0 := 0; i0 < j.s.Queries; i0 += j.block {
			n, t := min(j.block, j.s.Queries-i0), base+i0
			lo := j.floor(t, n)
			keys := i0 + n - lo
			k, v := at(&j.k, base+lo, kv*dim), at(&j.v, base+lo, kv*dim)
			dk, dv := at(&j.dk, base+lo, kv*dim), at(&j.dv, base+lo, kv*dim)
			p, dp := w.score[:n*keys], w.dp[:n*keys]
			q, do := at(&j.q, t, h*dim), at(&j.dout, t, h*dim)
			kern.product(w, gpu.NT, n, keys, dim, q, j.q.Stride, k, j.k.Stride, p, keys, false, keys-n+1)
			kern.product(w, gpu.NT, n, keys, dim, do, j.dout.Stride, v, j.v.Stride, dp, keys, false, keys-n+1)
			for i := range n {
				if i%asked == 0 {
					j.ask(w, b, h, i0+i, i0+n, []*gpu.Matrix{&j.q, &j.dout, &j.out, &j.dq}, []*gpu.Matrix{&j.k, &j.v, &j.dk, &j.dv})
				}
				from, seen := j.s.First(t+i)-lo, keys-n+i+1
				r, dr := p[i*keys:(i+1)*keys], dp[i*keys:(i+1)*keys]
				st := at(&j.stats, t+i, 2*h)
				delta := kern.dot(do[i*j.dout.Stride:i*j.dout.Stride+dim], at(&j.out, t+i, h*dim))
				kern.softmaxBack(dr[from:seen], r[from:seen], scale, st[0], st[1], delta)
				clear(r[:from])
				clear(dr[:from])
				end := min(keys, seen+kern.slack)
				clear(r[seen:end])
				clear(dr[seen:end])
			}
			acc := !whole || h > kv*group
			kern.product(w, gpu.TN, keys, dim, n, p, keys, do, j.dout.Stride, dv, j.dv.Stride, acc, keys-n+1)
			kern.product(w, gpu.NN, n, dim, keys, dp, keys, k, j.k.Stride, at(&j.dq, t, h*dim), j.dq.Stride, false, keys-n+1)
			kern.product(w, gpu.TN, keys, dim, n, dp, keys, q, j.q.Stride, dk, j.dk.Stride, acc, keys-n+1)
		}
	}
}

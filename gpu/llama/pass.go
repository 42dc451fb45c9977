package llama

import (
	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/hf"
)

// A plan is the memory of a pass, allocated once. For training each block
// keeps what its backward pass reads; otherwise all blocks share one set.
type plan struct {
	rows    int // N at most
	ids     []int32
	targets []int32
	from    []int32 // of packed sequences: the first key that each token sees
	packed  bool
	loss    gpu.Buffer // (N)
	layers  []acts
	x       gpu.Matrix // (N, D) the last block's output
	inv     gpu.Buffer // (N)
	h       gpu.Matrix // (N, D) normed x
	logits  gpu.Matrix // (chunk, V)
	grad    *grads     // nil where nothing is learnt
	job     passJob
	again   bool // blocks share their activations but x: the backward pass computes them again
}

// acts are the activations of one block.
type acts struct {
	x, h1, x2, h2 gpu.Matrix // (N, D) input, normed; after attention, normed
	inv1, inv2    gpu.Buffer // (N)
	qkv           gpu.Matrix // (N, K·d + H·d + K·d): k, q, v
	stats         gpu.Matrix // (N, 2H)
	o             gpu.Matrix // (N, H·d)
	gu            gpu.Matrix // (N, 2F)
	a             gpu.Matrix // (N, F)

	ones          gpu.Matrix // (N, 1) of 1, the same for all blocks; empty without biases
	kq            gpu.Matrix // (N, K·d + H·d) keys and queries before their norm; empty without
	kqInv         gpu.Buffer // (N·(K+H)) by head, of kqRows each, from kqRow on
	kqRow, kqRows int
}

// grads are the gradients of one block's activations.
type grads struct {
	dx, dh gpu.Matrix // (N, D)
	dqkv   gpu.Matrix // as qkv
	do     gpu.Matrix // (N, H·d)
	dgu    gpu.Matrix // (N, 2F)
	da     gpu.Matrix // (N, F)
	dkq    gpu.Matrix // as kq
}

func newPlan(dev gpu.Device, cfg hf.Config, n int, train bool) *plan {
	return newPlanOf(dev, cfg, n, train, false)
}

// newPlanOf is newPlan with the choice of keeping what the backward pass reads,
// or only each block's input (checkpointing, Chen et al. 2016).
func newPlanOf(dev gpu.Device, cfg hf.Config, n int, train, again bool) *plan {
	d, f, q := cfg.HiddenSize, cfg.IntermediateSize, cfg.NumAttentionHeads*cfg.HeadSize()
	qkv := q + 2*cfg.KVHeads()*cfg.HeadSize()
	mat := func(rows, cols int) gpu.Matrix { return dev.Alloc(rows*cols).Matrix(rows, cols) }
	// Rows a multiple of 1 KiB apart fall into few sets of a cache, and devices would have
	// to copy them: such matrices get a cache line between rows.
	apart := func(rows, cols int) gpu.Matrix {
		stride := cols
		if cols%256 == 0 {
			stride += 16
		}
		return gpu.Matrix{Buffer: dev.Alloc(rows * stride), Rows: rows, Cols: cols, Stride: stride}
	}
	p := &plan{
		rows: n, ids: make([]int32, n), targets: make([]int32, n), from: make([]int32, n), again: again,
		loss: dev.Alloc(n), x: mat(n, d), inv: dev.Alloc(n), h: mat(n, d),
		// Packing the head pays with more rows, up to 64 MiB.
		logits: mat(min(n, max(256, 1<<18/cfg.VocabSize, min(512, 1<<24/cfg.VocabSize))), cfg.VocabSize),
		layers: make([]acts, cfg.NumHiddenLayers),
	}
	var ones, dkq gpu.Matrix
	kq := q + cfg.KVHeads()*cfg.HeadSize()
	if cfg.Biased() {
		ones = mat(n, 1)
		host := make([]float32, n)
		for i := range host {
			host[i] = 1
		}
		dev.Upload(ones.Buffer, host)
	}
	for i := range p.layers {
		if !train && i > 0 {
			p.layers[i] = p.layers[0]
			continue
		}
		if again && i > 0 {
			p.layers[i] = p.layers[0]
			p.layers[i].x = mat(n, d)
			continue
		}
		p.layers[i] = acts{
			x: mat(n, d), h1: mat(n, d), x2: mat(n, d), h2: mat(n, d),
			inv1: dev.Alloc(n), inv2: dev.Alloc(n),
			qkv: mat(n, qkv), stats: mat(n, 2*cfg.NumAttentionHeads), o: mat(n, q),
			gu: apart(n, 2*f), a: apart(n, f), ones: ones,
		}
		if cfg.QKNorm() {
			p.layers[i].kq, p.layers[i].kqInv = mat(n, kq), dev.Alloc(n*kq/cfg.HeadSize())
		}
	}
	if train {
		if cfg.QKNorm() {
			dkq = mat(n, kq)
		}
		p.grad = &grads{dx: mat(n, d), dh: mat(n, d), dqkv: mat(n, qkv), do: mat(n, q), dgu: apart(n, 2*f), da: apart(n, f), dkq: dkq}
	}
	return p
}

// load lays sequences of T+1 tokens out as ids and targets, each one document.
func (p *plan) load(tokens [][]int32) {
	t := len(tokens[0]) - 1
	p.packed = false
	for i, s := range tokens {
		copy(p.ids[i*t:(i+1)*t], s)
		copy(p.targets[i*t:(i+1)*t], s[1:])
	}
}

// columns splits a (N, qkv) matrix into its k, q and v.
func (m *Model) columns(qkv gpu.Matrix) (k, q, v gpu.Matrix) {
	nk, nq := m.cfg.KVHeads()*m.cfg.HeadSize(), m.cfg.NumAttentionHeads*m.cfg.HeadSize()
	return qkv.Columns(0, nk), qkv.Columns(nk, nq), qkv.Columns(nk+nq, nk)
}

// shape is that of layer i's attention in seqs sequences of t tokens each.
func (m *Model) shape(p *plan, i, seqs, t int) gpu.AttentionShape {
	return gpu.AttentionShape{
		Seqs: seqs, Queries: t, Keys: t, From: p.documents(seqs * t),
		Heads: m.cfg.NumAttentionHeads, KVHeads: m.cfg.KVHeads(), HeadDim: m.cfg.HeadSize(),
		Window: m.cfg.Window(i),
	}
}

func (m *Model) rotation(start, period, row int, inverse bool) gpu.Rotation {
	return gpu.Rotation{
		Heads: m.cfg.KVHeads() + m.cfg.NumAttentionHeads, HeadDim: m.cfg.HeadSize(),
		Start: start, Period: period, Row: row, Inverse: inverse,
	}
}

// forward computes the last hidden states, normed, of seqs sequences of t
// tokens each.
func (m *Model) forward(p *plan, seqs, t int) {
	n, last := seqs*t, len(p.layers)-1
	m.dev.Embed(p.layers[0].x.Row(0, n), m.w.embed, p.ids[:n])
	for i := range p.layers {
		if i == 0 {
			m.each(p, n, t, stages{begin: true})
		}
		m.attend(p, i, seqs, t)
		m.each(p, n, t, stages{layer: i, end: true, down: true, next: i < last, norm: i == last})
	}
}

// again computes the activations of block i but its output.
func (m *Model) again(p *plan, i, seqs, t int) {
	m.each(p, seqs*t, t, stages{layer: i, begin: true})
	m.attend(p, i, seqs, t)
	m.each(p, seqs*t, t, stages{layer: i, end: true})
}

func (m *Model) attend(p *plan, i, seqs, t int) {
	a := p.layers[i].rows(0, seqs*t)
	k, q, v := m.columns(a.qkv)
	m.dev.Attention(m.shape(p, i, seqs, t), a.o, a.stats, q, k, v)
}

// stages are what rows go through between one mixing of them and the next: parts of a pass in
// which each row is computed by itself.
type stages struct {
	layer int
	begin bool // from the block's input to k, q and v
	end   bool // from the attention's output to the MLP's activations
	down  bool // from there to the block's output
	next  bool // from there to k, q and v of the next block
	norm  bool // from there to the last hidden states

	mlpBack  bool // from dx to the gradients of the MLP's activations and its input's
	attnBack bool // from the gradients of k, q and v to those before RoPE
	projBack bool // from there to the block's normed input's
}

// A passJob is stages for gpu.EachRow.
type passJob struct {
	stages
	m *Model
	p *plan
	n int // rows
	t int // tokens of a sequence
}

// each does s for the first n rows.
func (m *Model) each(p *plan, n, t int, s stages) {
	p.job = passJob{stages: s, m: m, p: p, n: n, t: t}
	w := &m.w.layers[s.layer]
	qkv, gateUp := w.k.N+w.qv.N+w.q.N+w.v.N, w.gateUp.N+w.gate.N+w.up.N
	weights := 0
	for _, x := range []struct {
		does bool
		n    int
	}{{s.begin, qkv}, {s.end, w.o.N + gateUp}, {s.down, w.down.N}, {s.next, qkv}, {s.mlpBack, w.down.N + gateUp}, {s.projBack, qkv}} {
		if x.does {
			weights += x.n
		}
	}
	gpu.EachRow(m.dev, n, weights, &p.job)
}

// Rows implements gpu.RowJob.
func (j *passJob) Rows(dev gpu.Device, from, to int) {
	m, p := j.m, j.p
	eps := float32(m.cfg.RMSNormEps)
	w, a := &m.w.layers[j.layer], p.layers[j.layer].of(j.n).rows(from, to)
	begin := func(w *layer, a *acts) {
		dev.RMSNorm(a.h1, a.inv1, a.x, w.norm1, eps)
		m.project(dev, w, a)
		dev.RoPE(a.qkv, m.turn.cos, m.turn.sin, m.rotation(0, j.t, from, false))
	}
	if j.begin {
		begin(w, &a)
	}
	if j.end {
		dev.Copy(a.x2, a.x)
		dev.MatMul(gpu.NT, a.x2, a.o, w.o, true)
		bias(dev, a.x2, a.ones, w.ob)
		dev.RMSNorm(a.h2, a.inv2, a.x2, w.norm2, eps)
		gateUp(dev, w, &a)
		dev.SwiGLU(a.a, a.gu)
	}
	if j.down {
		x := p.x.Row(from, to-from)
		if j.next {
			x = p.layers[j.layer+1].x.Row(from, to-from)
		}
		dev.Copy(x, a.x2)
		dev.MatMul(gpu.NT, x, a.a, w.down, true)
		bias(dev, x, a.ones, w.db)
	}
	if j.next {
		a := p.layers[j.layer+1].of(j.n).rows(from, to)
		begin(&m.w.layers[j.layer+1], &a)
	}
	if j.norm {
		dev.RMSNorm(p.h.Row(from, to-from), p.inv.Slice(from, to), p.x.Row(from, to-from), m.w.norm, eps)
	}
	if p.grad == nil {
		return
	}
	d := p.grad.rows(from, to)
	if j.mlpBack {
		dev.MatMul(gpu.NN, d.da, d.dx, w.down, false)
		dev.SwiGLUBackward(d.dgu, d.da, a.gu)
		ungateUp(dev, w, &d)
	}
	if j.attnBack {
		dev.RoPE(d.dqkv, m.turn.cos, m.turn.sin, m.rotation(0, j.t, from, true))
	}
	if j.projBack {
		m.unproject(dev, w, &d)
	}
}

// of says that a pass is of n rows.
func (a *acts) of(n int) *acts {
	f := *a
	f.kqRow, f.kqRows = 0, n
	return &f
}

// rows is the view of rows from to to.
func (a *acts) rows(from, to int) acts {
	n := to - from
	f := acts{
		x: a.x.Row(from, n), h1: a.h1.Row(from, n), x2: a.x2.Row(from, n), h2: a.h2.Row(from, n),
		inv1: a.inv1.Slice(from, to), inv2: a.inv2.Slice(from, to),
		qkv: a.qkv.Row(from, n), stats: a.stats.Row(from, n), o: a.o.Row(from, n),
		gu: a.gu.Row(from, n), a: a.a.Row(from, n),
	}
	if a.ones.N > 0 {
		f.ones = a.ones.Row(from, n)
	}
	if a.kq.N > 0 {
		f.kq, f.kqInv, f.kqRow, f.kqRows = a.kq.Row(from, n), a.kqInv, a.kqRow+from, a.kqRows
	}
	return f
}

func (g *grads) rows(from, to int) grads {
	n := to - from
	f := grads{
		dx: g.dx.Row(from, n), dh: g.dh.Row(from, n), dqkv: g.dqkv.Row(from, n), do: g.do.Row(from, n),
		dgu: g.dgu.Row(from, n), da: g.da.Row(from, n),
	}
	if g.dkq.N > 0 {
		f.dkq = g.dkq.Row(from, n)
	}
	return f
}

// head computes the losses of the pass's n tokens, a chunk of rows at a time so
// that the logits of a large vocabulary are never all kept; with gradients g
// it also sets p.grad.dh and adds to the head's, of a loss that is the sum over
// tokens divided by that of all predictions of a step.
func (m *Model) head(p *plan, n, predictions int, g *weights) {
	scale := float32(1 / float64(predictions))
	for i := 0; i < n; i += p.logits.Rows {
		rows := min(p.logits.Rows, n-i)
		z, h := p.logits.Row(0, rows), p.h.Row(i, rows)
		m.dev.MatMul(gpu.NT, z, h, m.w.head, false)
		m.dev.CrossEntropy(p.loss.Slice(i, i+rows), z, p.targets[i:i+rows], scale)
		if g != nil {
			m.dev.MatMul(gpu.NN, p.grad.dh.Row(i, rows), z, m.w.head, false)
			m.dev.MatMul(gpu.TN, g.head, z, h, true)
		}
	}
}

// backward adds the gradients of the loss of the last forward pass and head to
// g.
func (m *Model) backward(p *plan, seqs, t int, g *weights) {
	n, dev := seqs*t, m.dev
	d := p.grad.rows(0, n)
	dev.Zero(d.dx.Buffer)
	dev.RMSNormBackward(d.dx, g.norm, d.dh, p.x.Row(0, n), m.w.norm, p.inv.Slice(0, n))
	for i := len(p.layers) - 1; i >= 0; i-- {
		w, dw, a := &m.w.layers[i], &g.layers[i], p.layers[i].of(n).rows(0, n)
		if p.again && i+1 < len(p.layers) {
			m.again(p, i, seqs, t)
		}
		// MLP
		m.each(p, n, t, stages{layer: i, mlpBack: true})
		dev.MatMul(gpu.TN, dw.down, d.dx, a.a, true)
		m.biasBackward(dw.db, a.ones, d.dx)
		m.gateUpBackward(dw, &a, &d)
		dev.RMSNormBackward(d.dx, dw.norm2, d.dh, a.x2, w.norm2, a.inv2)
		// attention
		dev.MatMul(gpu.NN, d.do, d.dx, w.o, false)
		dev.MatMul(gpu.TN, dw.o, d.dx, a.o, true)
		m.biasBackward(dw.ob, a.ones, d.dx)
		k, q, v := m.columns(a.qkv)
		dk, dq, dv := m.columns(d.dqkv)
		dev.AttentionBackward(m.shape(p, i, seqs, t), dq, dk, dv, d.do, a.o, a.stats, q, k, v)
		normed := w.kNorm.N > 0
		m.each(p, n, t, stages{layer: i, attnBack: true, projBack: !normed})
		if normed {
			m.normBackward(w, dw, &a, &d)
			m.each(p, n, t, stages{layer: i, projBack: true})
		}
		m.projectBackward(dw, &a, &d)
		dev.RMSNormBackward(d.dx, dw.norm1, d.dh, a.x, w.norm1, a.inv1)
	}
	dev.EmbedBackward(g.embed, d.dx, p.ids[:n])
}

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
	again   bool       // blocks share their activations but x: the backward pass computes them again
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

	ones  gpu.Matrix // (N, 1) of 1, the same for all blocks; empty without biases
	kq    gpu.Matrix // (N, K·d + H·d) keys and queries before their norm; empty without
	kqInv gpu.Buffer // (N·(K+H)) by head
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
		logits: mat(min(n, max(256, 1<<18/cfg.VocabSize)), cfg.VocabSize),
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

func (m *Model) shape(seqs, queries, keys int) gpu.AttentionShape {
	return gpu.AttentionShape{
		Seqs: seqs, Queries: queries, Keys: keys,
		Heads: m.cfg.NumAttentionHeads, KVHeads: m.cfg.KVHeads(), HeadDim: m.cfg.HeadSize(),
	}
}

func (m *Model) rotation(start, period int, inverse bool) gpu.Rotation {
	return gpu.Rotation{
		Heads: m.cfg.KVHeads() + m.cfg.NumAttentionHeads, HeadDim: m.cfg.HeadSize(),
		Start: start, Period: period, Inverse: inverse,
	}
}

// forward computes the last hidden states, normed, of seqs sequences of t
// tokens each.
func (m *Model) forward(p *plan, seqs, t int) {
	n, dev := seqs*t, m.dev
	dev.Embed(p.layers[0].x.Row(0, n), m.w.embed, p.ids[:n])
	for i := range p.layers {
		w, a := &m.w.layers[i], p.layers[i].first(n)
		next := p.x.Row(0, n)
		if i+1 < len(p.layers) {
			next = p.layers[i+1].x.Row(0, n)
		}
		m.block(p, w, &a, seqs, t)
		dev.Copy(next, a.x2)
		dev.MatMul(gpu.NT, next, a.a, w.down, true)
		m.bias(next, a.ones, w.db)
	}
	dev.RMSNorm(p.h.Row(0, n), p.inv.Slice(0, n), p.x.Row(0, n), m.w.norm, float32(m.cfg.RMSNormEps))
}

// block computes the activations of block i from its input a.x up to a.a; what
// follows is its output x2 + Wdown·a.
func (m *Model) block(p *plan, w *layer, a *acts, seqs, t int) {
	dev, eps := m.dev, float32(m.cfg.RMSNormEps)
	dev.RMSNorm(a.h1, a.inv1, a.x, w.norm1, eps)
	m.project(w, a)
	k, q, v := m.columns(a.qkv)
	dev.RoPE(a.qkv, m.cos, m.sin, m.rotation(0, t, false))
	s := m.shape(seqs, t, t)
	s.From = p.documents(seqs * t)
	dev.Attention(s, a.o, a.stats, q, k, v)
	dev.Copy(a.x2, a.x)
	dev.MatMul(gpu.NT, a.x2, a.o, w.o, true)
	m.bias(a.x2, a.ones, w.ob)
	dev.RMSNorm(a.h2, a.inv2, a.x2, w.norm2, eps)
	m.gateUp(w, a)
	dev.SwiGLU(a.a, a.gu)
}

// first is the view of the first n rows.
func (a *acts) first(n int) acts {
	f := acts{
		x: a.x.Row(0, n), h1: a.h1.Row(0, n), x2: a.x2.Row(0, n), h2: a.h2.Row(0, n),
		inv1: a.inv1.Slice(0, n), inv2: a.inv2.Slice(0, n),
		qkv: a.qkv.Row(0, n), stats: a.stats.Row(0, n), o: a.o.Row(0, n),
		gu: a.gu.Row(0, n), a: a.a.Row(0, n),
	}
	if a.ones.N > 0 {
		f.ones = a.ones.Row(0, n)
	}
	if a.kq.N > 0 {
		f.kq, f.kqInv = a.kq.Row(0, n), a.kqInv.Slice(0, a.kqInv.N/a.kq.Rows*n)
	}
	return f
}

func (g *grads) first(n int) grads {
	f := grads{
		dx: g.dx.Row(0, n), dh: g.dh.Row(0, n), dqkv: g.dqkv.Row(0, n), do: g.do.Row(0, n),
		dgu: g.dgu.Row(0, n), da: g.da.Row(0, n),
	}
	if g.dkq.N > 0 {
		f.dkq = g.dkq.Row(0, n)
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
	d := p.grad.first(n)
	dev.Zero(d.dx.Buffer)
	dev.RMSNormBackward(d.dx, g.norm, d.dh, p.x.Row(0, n), m.w.norm, p.inv.Slice(0, n))
	for i := len(p.layers) - 1; i >= 0; i-- {
		w, dw, a := &m.w.layers[i], &g.layers[i], p.layers[i].first(n)
		if p.again && i+1 < len(p.layers) {
			m.block(p, w, &a, seqs, t)
		}
		// MLP
		dev.MatMul(gpu.NN, d.da, d.dx, w.down, false)
		dev.MatMul(gpu.TN, dw.down, d.dx, a.a, true)
		m.biasBackward(dw.db, a.ones, d.dx)
		dev.SwiGLUBackward(d.dgu, d.da, a.gu)
		m.gateUpBackward(w, dw, &a, &d)
		dev.RMSNormBackward(d.dx, dw.norm2, d.dh, a.x2, w.norm2, a.inv2)
		// attention
		dev.MatMul(gpu.NN, d.do, d.dx, w.o, false)
		dev.MatMul(gpu.TN, dw.o, d.dx, a.o, true)
		m.biasBackward(dw.ob, a.ones, d.dx)
		k, q, v := m.columns(a.qkv)
		dk, dq, dv := m.columns(d.dqkv)
		s := m.shape(seqs, t, t)
		s.From = p.documents(n)
		dev.AttentionBackward(s, dq, dk, dv, d.do, a.o, a.stats, q, k, v)
		dev.RoPE(d.dqkv, m.cos, m.sin, m.rotation(0, t, true))
		m.projectBackward(w, dw, &a, &d)
		dev.RMSNormBackward(d.dx, dw.norm1, d.dh, a.x, w.norm1, a.inv1)
	}
	dev.EmbedBackward(g.embed, d.dx, p.ids[:n])
}

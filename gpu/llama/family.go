package llama

import (
	"github.com/shoalnet/shoal/gpu"
)

// What Qwen 2, Qwen 3 and Llamas with attention_bias or mlp_bias have besides a
// plain Llama's block: x·Wᵀ + b for the projections, and
//
//	q = RoPE(rmsnorm(q_h)), k = RoPE(rmsnorm(k_h))   for each head h (Qwen 3)
//
// Both are made of kernels that there are: a bias is the product of a column of
// ones with it, its gradient that column's product with the output's.

// bias adds b (cols), where there is one, to every row of y.
func bias(dev gpu.Device, y gpu.Matrix, ones, b gpu.Matrix) {
	if b.N > 0 {
		dev.MatMul(gpu.NN, y, ones, b, true)
	}
}

// biasBackward adds the sum of dy's rows to db, where there is one.
func (m *Model) biasBackward(db, ones, dy gpu.Matrix) {
	if db.N > 0 {
		m.dev.MatMul(gpu.TN, db, ones, dy, true)
	}
}

// project sets the columns k, q and v of a.qkv to the projections of a.h1.
func (m *Model) project(dev gpu.Device, w *layer, a *acts) {
	k, q, v := m.columns(a.qkv)
	dev.MatMul(gpu.NT, k, a.h1, w.k, false)
	if w.qv.N > 0 {
		dev.MatMul(gpu.NT, a.qkv.Columns(k.Cols, q.Cols+v.Cols), a.h1, w.qv, false)
	} else {
		dev.MatMul(gpu.NT, q, a.h1, w.q, false)
		dev.MatMul(gpu.NT, v, a.h1, w.v, false)
	}
	m.biasAndNorm(dev, w, a)
}

// biasAndNorm makes k, q and v of the products in a.qkv.
func (m *Model) biasAndNorm(dev gpu.Device, w *layer, a *acts) {
	k, q, v := m.columns(a.qkv)
	bias(dev, k, a.ones, w.kb)
	bias(dev, q, a.ones, w.qb)
	bias(dev, v, a.ones, w.vb)
	if w.kNorm.N == 0 {
		return
	}
	d, eps := m.cfg.HeadSize(), float32(m.cfg.RMSNormEps)
	dev.Copy(a.kq, a.qkv.Columns(0, a.kq.Cols))
	for h := range a.kq.Cols / d {
		dev.RMSNorm(a.qkv.Columns(h*d, d), m.headInv(a, h), a.kq.Columns(h*d, d), m.headNorm(w, h), eps)
	}
}

// normBackward makes dqkv the gradient before the norm of keys and queries, where there is one.
func (m *Model) normBackward(w, dw *layer, a *acts, d *grads) {
	if w.kNorm.N == 0 {
		return
	}
	c := m.cfg.HeadSize()
	m.dev.Zero(d.dkq.Buffer)
	for h := range a.kq.Cols / c {
		m.dev.RMSNormBackward(d.dkq.Columns(h*c, c), m.headNorm(dw, h), d.dqkv.Columns(h*c, c), a.kq.Columns(h*c, c), m.headNorm(w, h), m.headInv(a, h))
	}
	m.dev.Copy(d.dqkv.Columns(0, a.kq.Cols), d.dkq)
}

// unproject sets dh to the gradient of h1, from that of the projections.
func (m *Model) unproject(dev gpu.Device, w *layer, d *grads) {
	dk, dq, dv := m.columns(d.dqkv)
	dev.MatMul(gpu.NN, d.dh, dk, w.k, false)
	if w.qv.N > 0 {
		dev.MatMul(gpu.NN, d.dh, d.dqkv.Columns(dk.Cols, dq.Cols+dv.Cols), w.qv, true)
	} else {
		dev.MatMul(gpu.NN, d.dh, dq, w.q, true)
		dev.MatMul(gpu.NN, d.dh, dv, w.v, true)
	}
}

// projectBackward adds to the gradients of the projections' weights.
func (m *Model) projectBackward(dw *layer, a *acts, d *grads) {
	dk, dq, dv := m.columns(d.dqkv)
	if dw.qv.N > 0 {
		m.dev.MatMul(gpu.TN, dw.k, dk, a.h1, true)
		m.dev.MatMul(gpu.TN, dw.qv, d.dqkv.Columns(dk.Cols, dq.Cols+dv.Cols), a.h1, true)
	} else {
		m.dev.MatMul(gpu.TN, dw.k, dk, a.h1, true)
		m.dev.MatMul(gpu.TN, dw.q, dq, a.h1, true)
		m.dev.MatMul(gpu.TN, dw.v, dv, a.h1, true)
	}
	m.biasBackward(dw.kb, a.ones, dk)
	m.biasBackward(dw.qb, a.ones, dq)
	m.biasBackward(dw.vb, a.ones, dv)
}

// gateUp sets a.gu to the two projections of a.h2.
func gateUp(dev gpu.Device, w *layer, a *acts) {
	if w.gateUp.N > 0 {
		dev.MatMul(gpu.NT, a.gu, a.h2, w.gateUp, false)
		return
	}
	gate, up := halves(a.gu)
	dev.MatMul(gpu.NT, gate, a.h2, w.gate, false)
	dev.MatMul(gpu.NT, up, a.h2, w.up, false)
	bias(dev, gate, a.ones, w.gb)
	bias(dev, up, a.ones, w.ub)
}

// ungateUp sets d.dh to the gradient of h2.
func ungateUp(dev gpu.Device, w *layer, d *grads) {
	if w.gateUp.N > 0 {
		dev.MatMul(gpu.NN, d.dh, d.dgu, w.gateUp, false)
		return
	}
	gate, up := halves(d.dgu)
	dev.MatMul(gpu.NN, d.dh, gate, w.gate, false)
	dev.MatMul(gpu.NN, d.dh, up, w.up, true)
}

// gateUpBackward adds to the gradients of the two projections' weights.
func (m *Model) gateUpBackward(dw *layer, a *acts, d *grads) {
	if dw.gateUp.N > 0 {
		m.dev.MatMul(gpu.TN, dw.gateUp, d.dgu, a.h2, true)
		return
	}
	gate, up := halves(d.dgu)
	m.dev.MatMul(gpu.TN, dw.gate, gate, a.h2, true)
	m.dev.MatMul(gpu.TN, dw.up, up, a.h2, true)
	m.biasBackward(dw.gb, a.ones, gate)
	m.biasBackward(dw.ub, a.ones, up)
}

// halves are the columns of gate and of up.
func halves(gu gpu.Matrix) (gate, up gpu.Matrix) {
	return gu.Columns(0, gu.Cols/2), gu.Columns(gu.Cols/2, gu.Cols/2)
}

// headNorm is the gain of head h of keys, then queries.
func (m *Model) headNorm(w *layer, h int) gpu.Buffer {
	if h < m.cfg.KVHeads() {
		return w.kNorm
	}
	return w.qNorm
}

// headInv is where head h keeps its inverse norms.
func (m *Model) headInv(a *acts, h int) gpu.Buffer {
	at := h*a.kqRows + a.kqRow
	return a.kqInv.Slice(at, at+a.kq.Rows)
}

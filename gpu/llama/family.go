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
func (m *Model) bias(y gpu.Matrix, ones, b gpu.Matrix) {
	if b.N > 0 {
		m.dev.MatMul(gpu.NN, y, ones, b, true)
	}
}

// biasBackward adds the sum of dy's rows to db, where there is one.
func (m *Model) biasBackward(db, ones, dy gpu.Matrix) {
	if db.N > 0 {
		m.dev.MatMul(gpu.TN, db, ones, dy, true)
	}
}

// project sets the columns k, q and v of a.qkv to the projections of a.h1.
func (m *Model) project(w *layer, a *acts) {
	k, q, v := m.columns(a.qkv)
	m.dev.MatMul(gpu.NT, k, a.h1, w.k, false)
	if w.qv.N > 0 {
		m.dev.MatMul(gpu.NT, a.qkv.Columns(k.Cols, q.Cols+v.Cols), a.h1, w.qv, false)
	} else {
		m.dev.MatMul(gpu.NT, q, a.h1, w.q, false)
		m.dev.MatMul(gpu.NT, v, a.h1, w.v, false)
	}
	m.biasAndNorm(w, a)
}

// biasAndNorm makes k, q and v of the products in a.qkv.
func (m *Model) biasAndNorm(w *layer, a *acts) {
	k, q, v := m.columns(a.qkv)
	m.bias(k, a.ones, w.kb)
	m.bias(q, a.ones, w.qb)
	m.bias(v, a.ones, w.vb)
	if w.kNorm.N == 0 {
		return
	}
	d, eps := m.cfg.HeadSize(), float32(m.cfg.RMSNormEps)
	m.dev.Copy(a.kq, a.qkv.Columns(0, a.kq.Cols))
	for h := range a.kq.Cols / d {
		m.dev.RMSNorm(a.qkv.Columns(h*d, d), m.headInv(a, h), a.kq.Columns(h*d, d), m.headNorm(w, h), eps)
	}
}

// projectBackward sets dh to the gradient of a.h1 and adds to the weights', from
// the gradients dqkv before RoPE.
func (m *Model) projectBackward(w, dw *layer, a *acts, d *grads) {
	if w.kNorm.N > 0 {
		c := m.cfg.HeadSize()
		m.dev.Zero(d.dkq.Buffer)
		for h := range a.kq.Cols / c {
			m.dev.RMSNormBackward(d.dkq.Columns(h*c, c), m.headNorm(dw, h), d.dqkv.Columns(h*c, c), a.kq.Columns(h*c, c), m.headNorm(w, h), m.headInv(a, h))
		}
		m.dev.Copy(d.dqkv.Columns(0, a.kq.Cols), d.dkq)
	}
	dk, dq, dv := m.columns(d.dqkv)
	m.dev.MatMul(gpu.NN, d.dh, dk, w.k, false)
	if w.qv.N > 0 {
		dqv := d.dqkv.Columns(dk.Cols, dq.Cols+dv.Cols)
		m.dev.MatMul(gpu.NN, d.dh, dqv, w.qv, true)
		m.dev.MatMul(gpu.TN, dw.k, dk, a.h1, true)
		m.dev.MatMul(gpu.TN, dw.qv, dqv, a.h1, true)
	} else {
		m.dev.MatMul(gpu.NN, d.dh, dq, w.q, true)
		m.dev.MatMul(gpu.NN, d.dh, dv, w.v, true)
		m.dev.MatMul(gpu.TN, dw.k, dk, a.h1, true)
		m.dev.MatMul(gpu.TN, dw.q, dq, a.h1, true)
		m.dev.MatMul(gpu.TN, dw.v, dv, a.h1, true)
	}
	m.biasBackward(dw.kb, a.ones, dk)
	m.biasBackward(dw.qb, a.ones, dq)
	m.biasBackward(dw.vb, a.ones, dv)
}

// gateUp sets a.gu to the two projections of a.h2.
func (m *Model) gateUp(w *layer, a *acts) {
	if w.gateUp.N > 0 {
		m.dev.MatMul(gpu.NT, a.gu, a.h2, w.gateUp, false)
		return
	}
	gate, up := a.gu.Columns(0, a.a.Cols), a.gu.Columns(a.a.Cols, a.a.Cols)
	m.dev.MatMul(gpu.NT, gate, a.h2, w.gate, false)
	m.dev.MatMul(gpu.NT, up, a.h2, w.up, false)
	m.bias(gate, a.ones, w.gb)
	m.bias(up, a.ones, w.ub)
}

// gateUpBackward sets d.dh to the gradient of a.h2 and adds to the weights'.
func (m *Model) gateUpBackward(w, dw *layer, a *acts, d *grads) {
	if w.gateUp.N > 0 {
		m.dev.MatMul(gpu.NN, d.dh, d.dgu, w.gateUp, false)
		m.dev.MatMul(gpu.TN, dw.gateUp, d.dgu, a.h2, true)
		return
	}
	gate, up := d.dgu.Columns(0, a.a.Cols), d.dgu.Columns(a.a.Cols, a.a.Cols)
	m.dev.MatMul(gpu.NN, d.dh, gate, w.gate, false)
	m.dev.MatMul(gpu.NN, d.dh, up, w.up, true)
	m.dev.MatMul(gpu.TN, dw.gate, gate, a.h2, true)
	m.dev.MatMul(gpu.TN, dw.up, up, a.h2, true)
	m.biasBackward(dw.gb, a.ones, gate)
	m.biasBackward(dw.ub, a.ones, up)
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
	return a.kqInv.Slice(h*a.kq.Rows, (h+1)*a.kq.Rows)
}

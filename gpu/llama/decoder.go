package llama

import (
	"fmt"

	"github.com/shoalnet/shoal/gpu"
)

// A decoder computes passes over stretches of many sequences, whose keys and
// values lie in pages. Its results are those of forward, bit for bit, whatever
// else is in a pass.
type decoder struct {
	m *Model
	*packed
	caches []gpu.Cache
	rows   int // of a pass at most
	ids    []int32
	turns  []*tables  // of a pass's spans
	a      acts       // x, h1, qkv, o, gu, a, kq and ones are used
	h      gpu.Matrix // (rows, D) normed
	chosen gpu.Matrix // (want, D) the rows of h whose logits are wanted
	logits gpu.Matrix // (want, V)
}

// newDecoder makes a decoder of passes of up to rows rows, that keeps up to
// pages pages and gives the logits of up to want rows at a time. With half the
// matrices are rounded to bfloat16, unless they are packed already.
func (m *Model) newDecoder(rows, pages, want int, half bool) *decoder {
	cfg, dev := m.cfg, m.dev
	d, f, q := cfg.HiddenSize, cfg.IntermediateSize, cfg.NumAttentionHeads*cfg.HeadSize()
	kv := cfg.KVHeads() * cfg.HeadSize()
	mat := func(rows, cols int) gpu.Matrix { return dev.Alloc(rows*cols).Matrix(rows, cols) }
	x := &decoder{m: m, rows: rows, ids: make([]int32, 0, rows), h: mat(rows, d), chosen: mat(want, d), logits: mat(want, cfg.VocabSize)}
	x.a = acts{x: mat(rows, d), h1: mat(rows, d), inv1: dev.Alloc(rows), qkv: mat(rows, q+2*kv), stats: mat(rows, 0),
		o: mat(rows, q), gu: mat(rows, 2*f), a: mat(rows, f)}
	if cfg.Biased() {
		x.a.ones = mat(rows, 1)
		host := make([]float32, rows)
		for i := range host {
			host[i] = 1
		}
		dev.Upload(x.a.ones.Buffer, host)
	}
	if cfg.QKNorm() {
		x.a.kq, x.a.kqInv = mat(rows, q+kv), dev.Alloc(rows*(q+kv)/cfg.HeadSize())
	}
	if x.packed = m.packed; x.packed == nil {
		x.packed = m.pack(half)
	}
	for i := range x.layers {
		x.caches = append(x.caches, gpu.Cache{
			Buffer: dev.Alloc(gpu.CacheLen(pages, cfg.KVHeads(), cfg.HeadSize())), Pages: pages, KVHeads: cfg.KVHeads(), HeadDim: cfg.HeadSize(),
			Window: cfg.Window(i),
		})
	}
	return x
}

// pass reads ids, which are those of spans one after another, and leaves the last
// hidden states, normed, in the first rows of d.h. RoPE turns span i as a text of
// lengths[i] tokens; what the cache has of it must have been turned likewise.
func (d *decoder) pass(spans []gpu.Span, lengths []int, ids []int32) {
	m, dev, n, eps := d.m, d.m.dev, len(ids), float32(d.m.cfg.RMSNormEps)
	a := acts{x: d.a.x.Row(0, n), h1: d.a.h1.Row(0, n), inv1: d.a.inv1.Slice(0, n), qkv: d.a.qkv.Row(0, n),
		o: d.a.o.Row(0, n), gu: d.a.gu.Row(0, n), a: d.a.a.Row(0, n)}
	if d.a.ones.N > 0 {
		a.ones = d.a.ones.Row(0, n)
	}
	if d.a.kq.N > 0 {
		a.kq, a.kqInv, a.kqRows = d.a.kq.Row(0, n), d.a.kqInv, n
	}
	d.turns = d.turns[:0]
	for i, s := range spans {
		d.turns = append(d.turns, m.tables(lengths[i], s.Start+s.Rows))
	}
	k, q, v := m.columns(a.qkv)
	if m.packed != nil {
		dev.Unpack(a.x, d.embed, ids)
	} else {
		dev.Embed(a.x, m.w.embed, ids)
	}
	for i := range d.layers {
		w, p := &m.w.layers[i], &d.layers[i]
		dev.RMSNorm(a.h1, a.inv1, a.x, w.norm1, eps)
		dev.Linear(a.qkv, a.h1, p.kqv, false)
		m.biasAndNorm(dev, w, &a)
		at := 0
		for j := range spans {
			s := &spans[j]
			dev.RoPE(a.qkv.Row(at, s.Rows), d.turns[j].cos, d.turns[j].sin, m.rotation(s.Start, max(1, s.Rows), 0, false))
			at += s.Rows
		}
		dev.CacheWrite(d.caches[i], spans, k, v)
		dev.CacheAttention(d.caches[i], spans, m.cfg.NumAttentionHeads, a.o, q)
		dev.Linear(a.x, a.o, p.o, true)
		bias(dev, a.x, a.ones, w.ob)
		dev.RMSNorm(a.h1, a.inv1, a.x, w.norm2, eps)
		dev.Linear(a.gu, a.h1, p.gateUp, false)
		gate, up := halves(a.gu)
		bias(dev, gate, a.ones, w.gb)
		bias(dev, up, a.ones, w.ub)
		dev.SwiGLU(a.a, a.gu)
		dev.Linear(a.x, a.a, p.down, true)
		bias(dev, a.x, a.ones, w.db)
	}
	dev.RMSNorm(d.h.Row(0, n), a.inv1, a.x, m.w.norm, eps)
}

// score sets the first rows of d.logits to the logits after rows of d.h.
func (d *decoder) score(rows []int) gpu.Matrix {
	for i, r := range rows {
		d.m.dev.Copy(d.chosen.Row(i, 1), d.h.Row(r, 1))
	}
	z := d.logits.Row(0, len(rows))
	d.m.dev.Linear(z, d.chosen.Row(0, len(rows)), d.head, false)
	return z
}

// pages is how many pages n positions take.
func pages(n int) int { return (n + gpu.PageSize - 1) / gpu.PageSize }

// sequential are the pages of a sequence that has them all to itself.
func sequential(n int) []int32 {
	p := make([]int32, n)
	for i := range p {
		p[i] = int32(i)
	}
	return p
}

// checkPrompt refuses what cannot be a prompt.
func (m *Model) checkPrompt(prompt []int32) error {
	switch limit := m.cfg.Context(); {
	case len(prompt) == 0:
		return fmt.Errorf("the prompt is empty; give at least one token")
	case len(prompt) > limit:
		return fmt.Errorf("prompt of %d tokens, the model takes %d", len(prompt), limit)
	}
	if err := m.checkIDs(prompt); err != nil {
		return fmt.Errorf("prompt: %w", err)
	}
	return nil
}

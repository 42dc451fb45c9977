package ref

import (
	"github.com/shoalnet/shoal/gpu"
)

// NewPacked implements gpu.Decoder: rows as they are.
func (d Device) NewPacked(half bool, rows, cols int) gpu.Packed {
	p := gpu.Packed{Rows: rows, Cols: cols}
	if half {
		p.Half = make([]uint16, rows*cols)
	} else {
		p.Buffer = d.Alloc(rows * cols)
	}
	return p
}

// PackRows implements gpu.Decoder.
func (Device) PackRows(p gpu.Packed, at int, w gpu.Matrix) {
	gpu.CheckPackRows(p, at, w)
	for i := range w.Rows {
		for j, x := range row(w, i) {
			if k := (at+i)*p.Cols + j; p.Half != nil {
				p.Half[k] = gpu.RoundBF16(x)
			} else {
				p.Host[k] = x
			}
		}
	}
}

// Unpack implements gpu.Decoder.
func (Device) Unpack(out gpu.Matrix, w gpu.Packed, ids []int32) {
	gpu.CheckUnpack(out, w, ids)
	for t, id := range ids {
		for j := range row(out, t) {
			if k := int(id)*w.Cols + j; w.Half != nil {
				row(out, t)[j] = gpu.FromBF16(w.Half[k])
			} else {
				row(out, t)[j] = w.Host[k]
			}
		}
	}
}

// Linear implements gpu.Decoder.
func (Device) Linear(c, a gpu.Matrix, w gpu.Packed, accumulate bool) {
	gpu.CheckLinear(c, a, w)
	at := func(i int) float64 { return float64(w.Host[i]) }
	if w.Half != nil {
		at = func(i int) float64 { return float64(gpu.FromBF16(w.Half[i])) }
	}
	for i := range c.Rows {
		for j := range w.Rows {
			var s float64
			if accumulate {
				s = float64(row(c, i)[j])
			}
			for x, v := range row(a, i) {
				s += float64(v) * at(j*w.Cols+x)
			}
			row(c, i)[j] = float32(s)
		}
	}
}

// CacheWrite implements gpu.Decoder.
func (Device) CacheWrite(c gpu.Cache, spans []gpu.Span, k, v gpu.Matrix) {
	gpu.CheckShape("cache write", k, k.Rows, c.KVHeads*c.HeadDim)
	gpu.CheckShape("cache write", v, k.Rows, c.KVHeads*c.HeadDim)
	c.Check("cache write", spans, k.Rows)
	t := 0
	for _, s := range spans {
		for i := range s.Rows {
			at := s.Start + i
			pk, pv := c.Page(int(s.Pages[at/gpu.PageSize]))
			for j, x := range row(k, t) {
				row(pk, j)[at%gpu.PageSize] = x
			}
			copy(row(pv, at%gpu.PageSize), row(v, t))
			t++
		}
	}
}

// CacheAttention implements gpu.Decoder: the keys and values that a span sees,
// laid out for Attention.
func (d Device) CacheAttention(c gpu.Cache, spans []gpu.Span, heads int, out, q gpu.Matrix) {
	c.CheckAttention(spans, heads, out, q)
	t, cols := 0, c.KVHeads*c.HeadDim
	for _, s := range spans {
		n := s.Start + s.Rows
		k, v := d.Alloc(n*cols).Matrix(n, cols), d.Alloc(n*cols).Matrix(n, cols)
		for at := range n {
			pk, pv := c.Page(int(s.Pages[at/gpu.PageSize]))
			for j := range cols {
				row(k, at)[j] = row(pk, j)[at%gpu.PageSize]
			}
			copy(row(v, at), row(pv, at%gpu.PageSize))
		}
		shape := gpu.AttentionShape{Seqs: 1, Queries: s.Rows, Keys: n, Heads: heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, Window: c.Window}
		d.Attention(shape, out.Row(t, s.Rows), d.Alloc(s.Rows*2*heads).Matrix(s.Rows, 2*heads), q.Row(t, s.Rows), k, v)
		t += s.Rows
	}
}

// Greatest implements gpu.Decoder.
func (Device) Greatest(best []int32, z gpu.Matrix) {
	gpu.CheckGreatest(best, z)
	for t := range best {
		r := row(z, t)
		best[t] = 0
		for i, v := range r {
			if v-v != 0 {
				best[t] = -1
				break
			}
			if v > r[best[t]] {
				best[t] = int32(i)
			}
		}
	}
}

package gputest

import (
	"math"
	"slices"

	"github.com/shoalnet/shoal/gpu"
)

// same fails unless got and want are the same bits, but for the sign of 0.
func (s *suite) same(what string, got, want []float32) {
	s.Helper()
	for i := range got {
		if got[i] != want[i] && (got[i] == got[i] || want[i] == want[i]) {
			s.Fatalf("%s: value %d is %g, want %g", what, i, got[i], want[i])
		}
	}
}

// linear holds Linear to the reference, and, bit for bit, to MatMul and to itself
// a row at a time.
func linear(s *suite) {
	for range 60 {
		m, n, k := 1+s.rng.IntN(20), s.size(), s.size()
		if s.rng.IntN(8) == 0 {
			k = 700
		}
		if s.rng.IntN(8) == 0 {
			m = s.size()
		}
		cut := s.rng.IntN(n + 1)
		a, w := s.matrix(m, k, 1), s.matrix(n, k, 1)
		for _, half := range []bool{false, true} {
			pd := gpu.Pack(s.dev, half, w.dev.Row(0, cut), w.dev.Row(cut, n-cut))
			pr := gpu.Pack(s.ref, half, w.ref)
			s.unpacked(pd, pr)
			for _, acc := range []bool{false, true} {
				c := s.matrix(m, n, 1)
				before := download(s.dev, c.dev.Buffer)
				s.dev.Linear(c.dev, a.dev, pd, acc)
				s.ref.Linear(c.ref, a.ref, pr, acc)
				s.equal("linear", c, 4*eps*math.Sqrt(float64(k+1)))

				got := download(s.dev, c.dev.Buffer)
				s.dev.Upload(c.dev.Buffer, before)
				for i := range m {
					s.dev.Linear(c.dev.Row(i, 1), a.dev.Row(i, 1), pd, acc)
				}
				s.same("linear, row by row", download(s.dev, c.dev.Buffer), got)
				s.dev.Upload(c.dev.Buffer, before)
				weights := w.dev
				if half {
					weights = s.rounded(w.dev)
				}
				s.dev.MatMul(gpu.NT, c.dev, a.dev, weights, acc)
				s.same("linear and matmul", got, download(s.dev, c.dev.Buffer))
			}
		}
	}
}

// unpacked wants rows of what was packed, any of them, more than once and none, as they went in.
func (s *suite) unpacked(dev, ref gpu.Packed) {
	ids := make([]int32, s.rng.IntN(6))
	for i := range ids {
		ids[i] = int32(s.rng.IntN(ref.Rows))
	}
	out := s.matrix(len(ids), ref.Cols, 1)
	s.dev.Unpack(out.dev, dev, ids)
	s.ref.Unpack(out.ref, ref, ids)
	s.equal("unpack", out, 0)
}

// rounded is w with its values rounded to bfloat16.
func (s *suite) rounded(w gpu.Matrix) gpu.Matrix {
	x := download(s.dev, w.Buffer)
	for i := range x {
		x[i] = gpu.FromBF16(gpu.RoundBF16(x[i]))
	}
	w.Buffer = s.dev.Alloc(len(x))
	s.dev.Upload(w.Buffer, x)
	return w
}

// cached writes sequences span by span, in turns, into pages that are scattered
// and held something else before, and wants what Attention makes of the whole.
func cached(s *suite) {
	for range 20 {
		kv, group, dim, layer := 1+s.rng.IntN(3), 1+s.rng.IntN(3), 2*(1+s.rng.IntN(24)), 3
		heads, window := kv*group, s.rng.IntN(2)*(1+s.rng.IntN(150))
		type sequence struct {
			n, done int
			pages   []int32
			q, k, v pair
			out     pair
		}
		seqs := make([]sequence, 1+s.rng.IntN(4))
		var free []int32
		for i := range seqs {
			x := &seqs[i]
			x.n = 1 + s.rng.IntN(200)
			x.q, x.k, x.v = s.matrix(x.n, heads*dim, 1), s.matrix(x.n, kv*dim, 1), s.matrix(x.n, kv*dim, 1)
			x.out = s.matrix(x.n, heads*dim, 1)
			for range (x.n + gpu.PageSize - 1) / gpu.PageSize {
				free = append(free, int32(len(free)))
			}
		}
		pages := len(free)
		s.rng.Shuffle(pages, func(i, j int) { free[i], free[j] = free[j], free[i] })
		for i := range seqs {
			n := (seqs[i].n + gpu.PageSize - 1) / gpu.PageSize
			seqs[i].pages, free = free[:n], free[n:]
		}
		caches := make([]gpu.Cache, layer)
		for i := range caches {
			n := gpu.CacheLen(pages, kv, dim)
			caches[i] = gpu.Cache{Buffer: s.dev.Alloc(n), Pages: pages, KVHeads: kv, HeadDim: dim, Window: window}
			junk := make([]float32, n)
			for j := range junk {
				junk[j] = float32(math.NaN())
			}
			s.dev.Upload(caches[i].Buffer, junk)
		}
		for {
			var spans []gpu.Span
			var at []int
			rows := 0
			for i := range seqs {
				if x := &seqs[i]; x.done < x.n && s.rng.IntN(3) > 0 {
					n := 1
					if s.rng.IntN(3) == 0 {
						n = 1 + s.rng.IntN(x.n-x.done)
					}
					spans, at, rows = append(spans, gpu.Span{Rows: n, Start: x.done, Pages: x.pages}), append(at, i), rows+n
				}
			}
			q, k, v, out := s.matrix(rows, heads*dim, 1), s.matrix(rows, kv*dim, 1), s.matrix(rows, kv*dim, 1), s.matrix(rows, heads*dim, 1)
			move := func(there bool) {
				row := 0
				for i, sp := range spans {
					x := &seqs[at[i]]
					if there {
						s.dev.Copy(q.dev.Row(row, sp.Rows), x.q.dev.Row(x.done, sp.Rows))
						s.dev.Copy(k.dev.Row(row, sp.Rows), x.k.dev.Row(x.done, sp.Rows))
						s.dev.Copy(v.dev.Row(row, sp.Rows), x.v.dev.Row(x.done, sp.Rows))
					} else {
						s.dev.Copy(x.out.dev.Row(x.done, sp.Rows), out.dev.Row(row, sp.Rows))
						x.done += sp.Rows
					}
					row += sp.Rows
				}
			}
			move(true)
			for _, c := range caches {
				s.dev.CacheWrite(c, spans, k.dev, v.dev)
			}
			s.dev.CacheAttention(caches[s.rng.IntN(layer)], spans, heads, out.dev, q.dev)
			move(false)
			left := 0
			for i := range seqs {
				left += seqs[i].n - seqs[i].done
			}
			if left == 0 {
				break
			}
		}
		for i := range seqs {
			x := &seqs[i]
			shape := gpu.AttentionShape{Seqs: 1, Queries: x.n, Keys: x.n, Heads: heads, KVHeads: kv, HeadDim: dim, Window: window}
			stats := s.matrix(x.n, 2*heads, 1)
			s.ref.Attention(shape, x.out.ref, stats.ref, x.q.ref, x.k.ref, x.v.ref)
			s.equal("cache attention", x.out, 1e-5)
			got := download(s.dev, x.out.dev.Buffer)
			s.dev.Attention(shape, x.out.dev, stats.dev, x.q.dev, x.k.dev, x.v.dev)
			s.same("cache attention and attention", got, download(s.dev, x.out.dev.Buffer))
		}
	}
}

// greatest wants the first of the greatest values, wherever they are, and none where a value is not
// finite.
func greatest(s *suite) {
	want, got := make([]int32, 20), make([]int32, 20)
	check := func(what string, z pair) {
		s.Helper()
		rows := z.ref.Rows
		s.ref.Greatest(want[:rows], z.ref)
		s.dev.Greatest(got[:rows], z.dev)
		if !slices.Equal(got[:rows], want[:rows]) {
			s.Fatalf("%s, %d columns: %d, want %d", what, z.ref.Cols, got[:rows], want[:rows])
		}
	}
	for i := range 60 {
		cols := s.size()
		if i%4 == 0 {
			cols = 1 + s.rng.IntN(10000)
		}
		z := s.matrix(1+s.rng.IntN(20), cols, 1)
		check("random", z)
		t, at, again := s.rng.IntN(z.ref.Rows), s.rng.IntN(cols), s.rng.IntN(cols)
		s.set(z, t, at, math.MaxFloat32)
		s.set(z, t, again, math.MaxFloat32)
		if check("equals", z); got[t] != int32(min(at, again)) {
			s.Fatalf("of equals %d and %d: %d", at, again, got[t])
		}
		bad := []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))}[i%3]
		s.set(z, t, s.rng.IntN(cols), bad)
		if check("not finite", z); got[t] != -1 {
			s.Fatalf("with %g: %d", bad, got[t])
		}
		low := s.matrix(1, cols, 0)
		for j := range cols {
			s.set(low, 0, j, -math.MaxFloat32)
		}
		check("the least", low)
		for j := range cols {
			s.set(low, 0, j, []float32{float32(math.Copysign(0, -1)), 0}[s.rng.IntN(2)])
		}
		if check("zeros", low); got[0] != 0 {
			s.Fatalf("of zeros of either sign: %d", got[0])
		}
	}
}

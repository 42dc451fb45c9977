// Package gputest is the suite that every gpu.Device passes: each kernel
// against gpu/ref on random shapes, each backward pass against differences of
// its forward pass, what NaN and Inf do, and what panics.
package gputest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/ref"
)

// eps is the distance of 1 from the next float32.
const eps = 1.0 / (1 << 23)

// Run holds dev to the suite.
func Run(t *testing.T, dev gpu.Device) {
	s := &suite{T: t, dev: dev, ref: ref.New(), rng: rand.New(rand.NewPCG(1, 2))}
	for name, f := range map[string]func(*suite){
		"memory": memory, "matmul": matmul, "embed": embed, "rmsnorm": rmsnorm, "rope": rope,
		"attention": attention, "windows": windows, "swiglu": swiglu, "cross-entropy": crossEntropy, "sums": sums,
		"adamw": adamw, "not finite": notFinite, "panics": panics, "gradients": gradients,
		"linear": linear, "cache": cached, "greatest": greatest,
	} {
		t.Run(name, func(t *testing.T) {
			c := *s
			c.T = t
			c.rng = rand.New(rand.NewPCG(uint64(len(name)), 7))
			f(&c)
		})
	}
}

type suite struct {
	*testing.T
	dev gpu.Device
	ref gpu.Device
	rng *rand.Rand
}

// A pair is one operand, on the device under test and on the reference.
type pair struct{ dev, ref gpu.Matrix }

// sizes has numbers around the widths of vectors, tiles and chunks.
var sizes = []int{1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 80, 96, 100, 127, 130}

func (s *suite) size() int { return sizes[s.rng.IntN(len(sizes))] }

// matrix makes a random operand inside a larger allocation, so that strides
// and neighbours are tested; what lies outside is NaN.
func (s *suite) matrix(rows, cols int, scale float64) pair {
	pad := s.rng.IntN(2) * s.rng.IntN(20)
	host := make([]float32, rows*(cols+pad)+pad)
	for i := range host {
		host[i] = float32(math.NaN())
	}
	for i := range rows {
		for j := range cols {
			host[i*(cols+pad)+j] = float32(s.rng.NormFloat64() * scale)
		}
	}
	put := func(d gpu.Device) gpu.Matrix {
		b := d.Alloc(len(host))
		d.Upload(b, host)
		return gpu.Matrix{Buffer: b, Rows: rows, Cols: cols, Stride: cols + pad}
	}
	return pair{put(s.dev), put(s.ref)}
}

// vector makes a random dense operand.
func (s *suite) vector(n int, scale float64) pair {
	host := make([]float32, n)
	for i := range host {
		host[i] = float32(s.rng.NormFloat64() * scale)
	}
	put := func(d gpu.Device) gpu.Matrix {
		b := d.Alloc(n)
		d.Upload(b, host)
		return b.Matrix(1, n)
	}
	return pair{put(s.dev), put(s.ref)}
}

func download(d gpu.Device, b gpu.Buffer) []float32 {
	x := make([]float32, b.N)
	d.Download(x, b)
	return x
}

// equal fails unless the pair agrees to within bound times the largest
// magnitude in it, plus what lies around it is untouched.
func (s *suite) equal(what string, p pair, bound float64) {
	s.Helper()
	got, want := download(s.dev, p.dev.Buffer), download(s.ref, p.ref.Buffer)
	var most float64
	for i := range p.ref.Rows {
		for j := range p.ref.Cols {
			if v := math.Abs(float64(want[i*p.ref.Stride+j])); !math.IsInf(v, 0) && !math.IsNaN(v) {
				most = max(most, v)
			}
		}
	}
	for i := range got {
		inside := i%p.ref.Stride < p.ref.Cols && i/p.ref.Stride < p.ref.Rows
		if !inside {
			if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
				s.Fatalf("%s: wrote outside its matrix, at %d", what, i)
			}
			continue
		}
		g, w := float64(got[i]), float64(want[i])
		if math.IsNaN(g) != math.IsNaN(w) || (math.IsInf(w, 0) && g != w) {
			s.Fatalf("%s: at %d got %g, want %g", what, i, g, w)
		}
		if d := math.Abs(g - w); d > bound*most+1e-37 {
			s.Fatalf("%s: at row %d column %d got %g, want %g: off by %.2g of %.3g, bound %.2g",
				what, i/p.ref.Stride, i%p.ref.Stride, g, w, d, most, bound*most)
		}
	}
}

// both runs f on the device and on the reference.
func (s *suite) both(f func(d gpu.Device, of func(pair) gpu.Matrix)) {
	f(s.dev, func(p pair) gpu.Matrix { return p.dev })
	f(s.ref, func(p pair) gpu.Matrix { return p.ref })
}

func (s *suite) ids(n, vocab int, none bool) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(s.rng.IntN(vocab))
		if none && s.rng.IntN(5) == 0 {
			ids[i] = -1
		}
	}
	return ids
}

func memory(s *suite) {
	host := []float32{1, 2, 3, 4, 5, 6}
	b := s.dev.Alloc(6)
	if x := download(s.dev, b); x[0] != 0 || x[5] != 0 {
		s.Errorf("fresh memory holds %v", x)
	}
	s.dev.Upload(b, host)
	s.dev.Zero(b.Slice(2, 4))
	if x := fmt.Sprint(download(s.dev, b)); x != "[1 2 0 0 5 6]" {
		s.Errorf("after Zero: %s", x)
	}
	if x := fmt.Sprint(download(s.dev, s.dev.Import(host))); x != "[1 2 3 4 5 6]" {
		s.Errorf("Import: %s", x)
	}
	for range 20 {
		rows, cols := s.size(), s.size()
		dst, src := s.matrix(rows, cols, 1), s.matrix(rows, cols, 1)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.Copy(of(dst), of(src)) })
		s.equal("copy", dst, 0)
	}
	if err := s.dev.Sync(); err != nil {
		s.Error(err)
	}
}

func matmul(s *suite) {
	for try := range 150 {
		m, n, k := s.size(), s.size(), s.size()
		if try%25 == 0 {
			k = 600 + s.rng.IntN(900) // beyond any block
		}
		if try%40 == 7 {
			k = 0
		}
		l := gpu.Layout(try % 3)
		a, b := s.matrix(m, k, 1), s.matrix(k, n, 1)
		switch l {
		case gpu.NT:
			b = s.matrix(n, k, 1)
		case gpu.TN:
			a = s.matrix(k, m, 1)
		}
		c, acc := s.matrix(m, n, 1), try%2 == 1
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.MatMul(l, of(c), of(a), of(b), acc) })
		s.equal(fmt.Sprintf("matmul %v %dx%dx%d accumulate %v", l, m, n, k, acc), c, eps*(2+float64(k)/8))
	}
}

func embed(s *suite) {
	for range 20 {
		vocab, d, n := s.size(), s.size(), s.size()
		table, out := s.matrix(vocab, d, 1), s.matrix(n, d, 1)
		ids := s.ids(n, vocab, false)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.Embed(of(out), of(table), ids) })
		s.equal("embed", out, 0)
		// The same additions in the same order: equal bits.
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.EmbedBackward(of(table), of(out), ids) })
		s.equal("embed backward", table, 0)
	}
}

func rmsnorm(s *suite) {
	for range 30 {
		n, d := s.size()*(1+s.rng.IntN(3)), s.size()
		x, out, gain, inv := s.matrix(n, d, 2), s.matrix(n, d, 1), s.vector(d, 1), s.vector(n, 1)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) {
			d.RMSNorm(of(out), of(inv).Buffer, of(x), of(gain).Buffer, 1e-5)
		})
		s.equal("rmsnorm", out, 8*eps)
		s.equal("rmsnorm's inverse", inv, 8*eps)
		dx, dgain, dout := s.matrix(n, d, 1), s.vector(d, 1), s.matrix(n, d, 1)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) {
			d.RMSNormBackward(of(dx), of(dgain).Buffer, of(dout), of(x), of(gain).Buffer, of(inv).Buffer)
		})
		s.equal("rmsnorm backward", dx, 16*eps)
		s.equal("rmsnorm backward's gain", dgain, 32*eps)
	}
}

func rope(s *suite) {
	for range 30 {
		heads, half, period := 1+s.rng.IntN(5), 1+s.rng.IntN(40), s.size()
		r := gpu.Rotation{Heads: heads, HeadDim: 2 * half, Start: s.rng.IntN(9), Period: period, Inverse: s.rng.IntN(2) == 0}
		n := period * (1 + s.rng.IntN(3))
		x := s.matrix(n, heads*2*half+s.rng.IntN(5), 1)
		cos, sin := s.matrix(r.Start+period, half, 1), s.matrix(r.Start+period, half, 1)
		r.Row = s.rng.IntN(2) * s.rng.IntN(2*period)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.RoPE(of(x), of(cos), of(sin), r) })
		s.equal("rope", x, 4*eps)
	}
}

func (s *suite) shape(backward bool) gpu.AttentionShape {
	kv := 1 + s.rng.IntN(3)
	a := gpu.AttentionShape{Seqs: 1 + s.rng.IntN(3), Queries: s.size(), KVHeads: kv, Heads: kv * (1 + s.rng.IntN(3)), HeadDim: 1 + s.rng.IntN(40)}
	a.Keys = a.Queries
	if !backward {
		a.Keys += s.rng.IntN(30)
	}
	if a.Queries >= 8 && s.rng.IntN(2) == 0 { // documents
		from := int32(0)
		for t := range a.Seqs * a.Queries {
			i := t % a.Queries
			if i == 0 {
				from = 0
			}
			if s.rng.IntN(12) == 0 {
				from = int32(a.Keys - a.Queries + i)
			}
			a.From = append(a.From, from)
		}
	}
	if s.rng.IntN(2) == 0 {
		a.Window = 1 + s.rng.IntN(a.Keys+3)
	}
	return a
}

// windows are attentions of more queries than a block has: what a window hides is
// hidden as the beginning of a document hides it, bit for bit.
func windows(s *suite) {
	for _, a := range []gpu.AttentionShape{
		{Seqs: 2, Queries: 300, Keys: 300, Heads: 2, KVHeads: 1, HeadDim: 8, Window: 20},
		{Seqs: 1, Queries: 500, Keys: 500, Heads: 2, KVHeads: 2, HeadDim: 5, Window: 200},
		{Seqs: 1, Queries: 300, Keys: 301, Heads: 1, KVHeads: 1, HeadDim: 16, Window: 1},
		{Seqs: 1, Queries: 300, Keys: 300, Heads: 1, KVHeads: 1, HeadDim: 16, Window: 299},
		{Seqs: 1, Queries: 70, Keys: 600, Heads: 3, KVHeads: 1, HeadDim: 16, Window: 64},
	} {
		other := a
		other.Window = 0
		for t := range a.Seqs * a.Queries {
			other.From = append(other.From, int32(max(0, a.Keys-a.Queries+t%a.Queries-a.Window+1)))
		}
		nq, nk := a.Seqs*a.Queries, a.Seqs*a.Keys
		q, k, v := s.matrix(nq, a.Heads*a.HeadDim, 1), s.matrix(nk, a.KVHeads*a.HeadDim, 1), s.matrix(nk, a.KVHeads*a.HeadDim, 1)
		dq, dk, dv, dout := s.matrix(nq, q.ref.Cols, 1), s.matrix(nk, k.ref.Cols, 1), s.matrix(nk, v.ref.Cols, 1), s.matrix(nq, q.ref.Cols, 1)
		out, stats := s.matrix(nq, a.Heads*a.HeadDim, 1), s.matrix(nq, 2*a.Heads, 1)
		all := []pair{out, stats}
		if a.Queries == a.Keys {
			all = append(all, dq, dk, dv)
		}
		var first [][]float32
		for _, shape := range []gpu.AttentionShape{a, other} {
			s.both(func(d gpu.Device, of func(pair) gpu.Matrix) {
				d.Attention(shape, of(out), of(stats), of(q), of(k), of(v))
				if len(all) > 2 {
					d.AttentionBackward(shape, of(dq), of(dk), of(dv), of(dout), of(out), of(stats), of(q), of(k), of(v))
				}
			})
			for i, p := range all {
				s.equal("windows", p, 256*eps)
				if got := download(s.dev, p.dev.Buffer); len(first) < len(all) {
					first = append(first, got)
				} else {
					s.same("a window and first keys", got, first[i])
				}
			}
		}
	}
}

func attention(s *suite) {
	for try := range 24 {
		back := try%2 == 1
		a := s.shape(back)
		nq, nk := a.Seqs*a.Queries, a.Seqs*a.Keys
		q, k, v := s.matrix(nq, a.Heads*a.HeadDim, 1), s.matrix(nk, a.KVHeads*a.HeadDim, 1), s.matrix(nk, a.KVHeads*a.HeadDim, 1)
		out, stats := s.matrix(nq, a.Heads*a.HeadDim, 1), s.matrix(nq, 2*a.Heads, 1)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) {
			d.Attention(a, of(out), of(stats), of(q), of(k), of(v))
		})
		s.equal("attention", out, 64*eps)
		s.equal("attention's statistics", stats, 64*eps)
		if !back {
			continue
		}
		dq, dk, dv, dout := s.matrix(nq, q.ref.Cols, 1), s.matrix(nk, k.ref.Cols, 1), s.matrix(nk, v.ref.Cols, 1), s.matrix(nq, q.ref.Cols, 1)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) {
			d.AttentionBackward(a, of(dq), of(dk), of(dv), of(dout), of(out), of(stats), of(q), of(k), of(v))
		})
		if a.Queries > 1 && a.Window != 1 { // of one key they are 0 but for rounding
			s.equal("attention backward's dq", dq, 256*eps)
			s.equal("attention backward's dk", dk, 256*eps)
		}
		s.equal("attention backward's dv", dv, 256*eps)
	}
}

func swiglu(s *suite) {
	for range 30 {
		n, f := s.size(), s.size()
		gu, out, dout := s.matrix(n, 2*f, 4), s.matrix(n, f, 1), s.matrix(n, f, 1)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.SwiGLU(of(out), of(gu)) })
		s.equal("swiglu", out, 8*eps)
		dgu := s.matrix(n, 2*f, 1)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.SwiGLUBackward(of(dgu), of(dout), of(gu)) })
		s.equal("swiglu backward", dgu, 8*eps)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.SwiGLUBackward(of(gu), of(dout), of(gu)) })
		s.equal("swiglu backward in place", gu, 8*eps)
	}
}

func crossEntropy(s *suite) {
	for range 30 {
		n, v := s.size(), s.size()
		z, loss, targets := s.matrix(n, v, 5), s.vector(n, 1), s.ids(n, v, true)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.CrossEntropy(of(loss).Buffer, of(z), targets, 0.25) })
		s.equal("loss", loss, 16*eps)
		s.equal("gradient of logits", z, 32*eps)
	}
}

func sums(s *suite) {
	for range 20 {
		x := s.vector(s.size()*s.size()*3, 1)
		n := float64(x.ref.Cols)
		if got, want := s.dev.Sum(x.dev.Buffer), s.ref.Sum(x.ref.Buffer); math.Abs(got-want) > 1e-9*n {
			s.Errorf("sum of %g numbers: %g, want %g", n, got, want)
		}
		if got, want := s.dev.SumSquares(x.dev.Buffer), s.ref.SumSquares(x.ref.Buffer); math.Abs(got-want) > 32*eps*want {
			s.Errorf("sum of %g squares: %g, want %g", n, got, want)
		}
	}
}

func adamw(s *suite) {
	for step := range 20 {
		n := s.size() * s.size()
		p, g, m, v := s.vector(n, 1), s.vector(n, 1), s.vector(n, 0.1), s.vector(n, 0.1)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { // second moments are not negative
			x := download(d, of(v).Buffer)
			for i := range x {
				x[i] *= x[i]
			}
			d.Upload(of(v).Buffer, x)
		})
		o := gpu.AdamW{Scale: 0.5, Beta1: 0.9, Beta2: 0.95, Rate: 1e-2 * float32(step), Correct2: 2, Eps: 1e-8, Keep: 0.99}
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) {
			d.AdamW(of(p).Buffer, of(g).Buffer, of(m).Buffer, of(v).Buffer, o)
		})
		s.equal("adamw's parameters", p, 8*eps)
		s.equal("adamw's first moments", m, 4*eps)
		s.equal("adamw's second moments", v, 4*eps)
		s.equal("adamw's gradient", g, 0)
	}
}

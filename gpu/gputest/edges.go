package gputest

import (
	"math"

	"github.com/shoalnet/shoal/gpu"
)

// set puts x at row i, column j of both operands.
func (s *suite) set(p pair, i, j int, x float32) {
	s.both(func(d gpu.Device, of func(pair) gpu.Matrix) {
		m := of(p)
		d.Upload(m.Slice(i*m.Stride+j, i*m.Stride+j+1), []float32{x})
	})
}

// notFinite holds every kernel to what the reference does with NaN and Inf:
// nothing may hide them, and no other row may catch them.
func notFinite(s *suite) {
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		for l := gpu.NN; l <= gpu.TN; l++ {
			a, b, c := s.matrix(70, 70, 1), s.matrix(70, 70, 1), s.matrix(70, 70, 1)
			s.set(a, 3, 69, bad)
			s.set(b, 66, 2, bad)
			s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.MatMul(l, of(c), of(a), of(b), false) })
			s.equal("matmul", c, 1e-5)
		}
		// A zero does not hide what it multiplies.
		a, b, c := s.matrix(5, 20, 0), s.matrix(20, 40, 0), s.matrix(5, 40, 1)
		s.set(b, 7, 39, bad)
		s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.MatMul(gpu.NN, of(c), of(a), of(b), false) })
		s.equal("matmul by zero", c, 0)

		for _, at := range []int{0, 17, 36} {
			z, loss := s.matrix(3, 37, 1), s.vector(3, 1)
			s.set(z, 1, at, bad)
			s.both(func(d gpu.Device, of func(pair) gpu.Matrix) {
				d.CrossEntropy(of(loss).Buffer, of(z), []int32{1, 36, 2}, 1)
			})
			s.equal("loss", loss, 1e-5)
			s.equal("gradient of logits", z, 1e-5)

			x, out, gain, inv := s.matrix(3, 37, 1), s.matrix(3, 37, 1), s.vector(37, 1), s.vector(3, 1)
			s.set(x, 1, at, bad)
			s.both(func(d gpu.Device, of func(pair) gpu.Matrix) {
				d.RMSNorm(of(out), of(inv).Buffer, of(x), of(gain).Buffer, 1e-5)
			})
			s.equal("rmsnorm", out, 1e-5)

			gu, y, dy := s.matrix(3, 74, 1), s.matrix(3, 37, 1), s.matrix(3, 37, 1)
			s.set(gu, 1, at, bad)
			s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.SwiGLU(of(y), of(gu)) })
			s.equal("swiglu", y, 1e-5)
			s.both(func(d gpu.Device, of func(pair) gpu.Matrix) { d.SwiGLUBackward(of(gu), of(dy), of(gu)) })
			s.equal("swiglu backward", gu, 1e-5)
		}
		x := s.vector(9000, 1)
		s.set(x, 0, 8999, bad)
		for _, sum := range []float64{s.dev.SumSquares(x.dev.Buffer), s.dev.Sum(x.dev.Buffer)} {
			if !math.IsNaN(sum) && !math.IsInf(sum, 0) {
				s.Errorf("a sum hides %g: %g", bad, sum)
			}
		}
	}
	// Large but finite numbers: the exponential neither overflows nor sticks.
	gu, y := s.matrix(1, 64, 1), s.matrix(1, 32, 1)
	z, loss := s.matrix(1, 64, 1), s.vector(1, 1)
	for i := range 32 {
		s.set(gu, 0, i, float32(10*(i-16)))
		s.set(z, 0, 2*i, float32(100*(i-16)))
	}
	s.both(func(d gpu.Device, of func(pair) gpu.Matrix) {
		d.SwiGLU(of(y), of(gu))
		d.CrossEntropy(of(loss).Buffer, of(z), []int32{0}, 1)
	})
	s.equal("swiglu of large numbers", y, 8*eps)
	s.equal("loss of large logits", loss, 8*eps)
	s.equal("gradient of large logits", z, 8*eps)
}

// panics holds the device to refusing shapes that do not fit.
func panics(s *suite) {
	m := func(rows, cols int) gpu.Matrix { return s.dev.Alloc(rows*cols).Matrix(rows, cols) }
	b := s.dev.Alloc
	short := m(4, 4)
	short.Rows = 5
	shape := gpu.AttentionShape{Seqs: 1, Queries: 4, Keys: 4, Heads: 2, KVHeads: 2, HeadDim: 4}
	odd := shape
	odd.KVHeads = 3
	behind := shape
	behind.Window = -1
	for name, f := range map[string]func(){
		"matmul, inner":       func() { s.dev.MatMul(gpu.NN, m(4, 4), m(4, 3), m(4, 4), false) },
		"matmul, result":      func() { s.dev.MatMul(gpu.NT, m(4, 5), m(4, 4), m(4, 4), false) },
		"matmul, memory":      func() { s.dev.MatMul(gpu.TN, short, m(4, 5), m(4, 4), false) },
		"embed, id":           func() { s.dev.Embed(m(1, 4), m(4, 4), []int32{4}) },
		"embed, negative":     func() { s.dev.Embed(m(1, 4), m(4, 4), []int32{-1}) },
		"embed backward, id":  func() { s.dev.EmbedBackward(m(4, 4), m(1, 4), []int32{4}) },
		"rmsnorm, gain":       func() { s.dev.RMSNorm(m(4, 4), b(4), m(4, 4), b(3), 1) },
		"rmsnorm, inverse":    func() { s.dev.RMSNormBackward(m(4, 4), b(4), m(4, 4), m(4, 4), b(4), b(3)) },
		"rope, positions":     func() { s.dev.RoPE(m(4, 4), m(3, 2), m(3, 2), gpu.Rotation{Heads: 1, HeadDim: 4, Period: 4}) },
		"rope, columns":       func() { s.dev.RoPE(m(4, 4), m(4, 2), m(4, 2), gpu.Rotation{Heads: 2, HeadDim: 4, Period: 4}) },
		"attention, heads":    func() { s.dev.Attention(odd, m(4, 8), m(4, 4), m(4, 8), m(4, 8), m(4, 8)) },
		"attention, window":   func() { s.dev.Attention(behind, m(4, 8), m(4, 4), m(4, 8), m(4, 8), m(4, 8)) },
		"attention, keys":     func() { s.dev.Attention(shape, m(4, 8), m(4, 4), m(4, 8), m(3, 8), m(4, 8)) },
		"swiglu, width":       func() { s.dev.SwiGLU(m(4, 4), m(4, 7)) },
		"cross-entropy, rows": func() { s.dev.CrossEntropy(b(3), m(4, 4), []int32{0, 0, 0, 0}, 1) },
		"cross-entropy, id":   func() { s.dev.CrossEntropy(b(1), m(1, 4), []int32{4}, 1) },
		"adamw, moments":      func() { s.dev.AdamW(b(4), b(4), b(3), b(4), gpu.AdamW{}) },
		"upload":              func() { s.dev.Upload(b(4), make([]float32, 3)) },
		"copy":                func() { s.dev.Copy(m(4, 4), m(4, 3)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					s.Errorf("%s: shapes that do not fit were taken", name)
				}
			}()
			f()
		}()
	}
}

// gradients holds each backward pass to differences of its own forward pass:
// for f(x) = <w, forward(x)> and a random direction u, (f(x+hu)-f(x-hu))/2h
// equals <backward(w), u>.
func gradients(s *suite) {
	const n, d, f, vocab = 19, 24, 13, 29
	shape := gpu.AttentionShape{Seqs: 1, Queries: n, Keys: n, Heads: 4, KVHeads: 2, HeadDim: 6}
	dense := func(rows, cols int) gpu.Matrix {
		m := s.dev.Alloc(rows*cols).Matrix(rows, cols)
		x := make([]float32, m.N)
		for i := range x {
			x[i] = float32(s.rng.NormFloat64())
		}
		s.dev.Upload(m.Buffer, x)
		return m
	}
	empty := func(rows, cols int) gpu.Matrix { return s.dev.Alloc(rows*cols).Matrix(rows, cols) }

	x, gain, w, out, inv := dense(n, d), dense(1, d), dense(n, d), empty(n, d), s.dev.Alloc(n)
	forward := func() { s.dev.RMSNorm(out, inv, x, gain.Buffer, 1e-5) }
	dx, dgain := empty(n, d), empty(1, d)
	forward()
	s.dev.RMSNormBackward(dx, dgain.Buffer, w, x, gain.Buffer, inv)
	s.direction("rmsnorm by x", x, dx, out, w, forward)
	s.direction("rmsnorm by gain", gain, dgain, out, w, forward)

	gu, wf, outF, dgu := dense(n, 2*f), dense(n, f), empty(n, f), empty(n, 2*f)
	s.dev.SwiGLUBackward(dgu, wf, gu)
	s.direction("swiglu", gu, dgu, outF, wf, func() { s.dev.SwiGLU(outF, gu) })

	q, k, v := dense(n, 24), dense(n, 12), dense(n, 12)
	dq, dk, dv, stats := empty(n, 24), empty(n, 12), empty(n, 12), empty(n, 8)
	documents := []int32{0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 14, 14, 16, 16, 18}
	for _, see := range []struct {
		from   []int32
		window int
	}{{nil, 0}, {documents, 0}, {nil, 7}, {documents, 3}} {
		shape.From, shape.Window = see.from, see.window
		attend := func() { s.dev.Attention(shape, out, stats, q, k, v) }
		attend()
		s.dev.AttentionBackward(shape, dq, dk, dv, w, out, stats, q, k, v)
		s.direction("attention by q", q, dq, out, w, attend)
		s.direction("attention by k", k, dk, out, w, attend)
		s.direction("attention by v", v, dv, out, w, attend)
	}

	// The gradients of linear kernels are these kernels themselves.
	weights, dweights := dense(d, d), empty(d, d)
	multiply := func() { s.dev.MatMul(gpu.NT, out, x, weights, false) }
	s.dev.MatMul(gpu.NN, dx, w, weights, false)
	s.dev.MatMul(gpu.TN, dweights, w, x, true)
	s.direction("matmul by x", x, dx, out, w, multiply)
	s.direction("matmul by weights", weights, dweights, out, w, multiply)

	rot := gpu.Rotation{Heads: 4, HeadDim: 6, Period: n}
	cos, sin := dense(n, 3), dense(n, 3)
	s.dev.Copy(dx, w)
	rot.Inverse = true
	s.dev.RoPE(dx, cos, sin, rot)
	rot.Inverse = false
	s.direction("rope", x, dx, out, w, func() { s.dev.Copy(out, x); s.dev.RoPE(out, cos, sin, rot) })

	tableD, ids := empty(vocab, d), s.ids(n, vocab, false)
	words := dense(vocab, d)
	s.dev.EmbedBackward(tableD, w, ids)
	s.direction("embed", words, tableD, out, w, func() { s.dev.Embed(out, words, ids) })

	z, loss, targets := dense(n, vocab), empty(1, n), s.ids(n, vocab, true)
	ones, scratch := empty(1, n), empty(n, vocab)
	one := make([]float32, n)
	for i := range one {
		one[i] = 1
	}
	s.dev.Upload(ones.Buffer, one)
	cross := func() {
		s.dev.Copy(scratch, z)
		s.dev.CrossEntropy(loss.Buffer, scratch, targets, 1)
	}
	cross()
	dz := empty(n, vocab)
	s.dev.Copy(dz, scratch)
	s.direction("cross-entropy", z, dz, loss, ones, cross)
}

func (s *suite) direction(what string, x, dx, out, w gpu.Matrix, forward func()) {
	s.Helper()
	at, grad, weight := download(s.dev, x.Buffer), download(s.dev, dx.Buffer), download(s.dev, w.Buffer)
	u := make([]float64, len(at))
	var want, length float64
	for i := range u {
		u[i] = s.rng.NormFloat64()
		want += u[i] * float64(grad[i])
		length += float64(grad[i]) * float64(grad[i])
	}
	const h = 2e-3
	f := func(h float64) float64 {
		moved := make([]float32, len(at))
		for i := range at {
			moved[i] = float32(float64(at[i]) + h*u[i])
		}
		s.dev.Upload(x.Buffer, moved)
		forward()
		var sum float64
		for i, y := range download(s.dev, out.Buffer) {
			sum += float64(y) * float64(weight[i])
		}
		return sum
	}
	got := (f(h) - f(-h)) / (2 * h)
	s.dev.Upload(x.Buffer, at)
	forward()
	if math.Abs(got-want) > 5e-3*math.Sqrt(length)+1e-2 {
		s.Errorf("%s: differences give %g, the backward pass %g", what, got, want)
	}
}

package cpu

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/shoalnet/shoal/gpu"
)

// everything runs each kernel on random shapes and gives a checksum of each
// result.
func everything(d *Device, seed uint64) (names []string, sums []uint32) {
	rng := rand.New(rand.NewPCG(seed, 3))
	size := func(most int) int { return 1 + rng.IntN(most) }
	mat := func(r, c int) gpu.Matrix {
		pad := rng.IntN(2) * rng.IntN(7)
		m := gpu.Matrix{Buffer: d.Alloc(r * (c + pad)), Rows: r, Cols: c, Stride: c + pad}
		for i := range m.Host {
			m.Host[i] = float32(rng.NormFloat64())
		}
		return m
	}
	note := func(name string, ms ...gpu.Matrix) {
		for _, m := range ms {
			names = append(names, fmt.Sprintf("%s of seed %d", name, seed))
			sums = append(sums, crc32.ChecksumIEEE(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(m.Host))), 4*m.N)))
		}
	}
	for l := gpu.NN; l <= gpu.TN; l++ {
		m, n, k := size(150), size(150), size(700)
		a, b, c := mat(m, k), mat(k, n), mat(m, n)
		switch l {
		case gpu.NT:
			b = mat(n, k)
		case gpu.TN:
			a = mat(k, m)
		}
		d.MatMul(l, c, a, b, rng.IntN(2) == 0)
		note(fmt.Sprintf("matmul %v %dx%dx%d", l, m, n, k), c)
	}
	s := gpu.AttentionShape{Seqs: size(2), Queries: size(90), KVHeads: size(2), HeadDim: size(40)}
	s.Keys, s.Heads = s.Queries, s.KVHeads*size(2)
	n := s.Seqs * s.Queries
	q, k, v := mat(n, s.Heads*s.HeadDim), mat(n, s.KVHeads*s.HeadDim), mat(n, s.KVHeads*s.HeadDim)
	out, stats := mat(n, q.Cols), mat(n, 2*s.Heads)
	dq, dk, dv, dout := mat(n, q.Cols), mat(n, k.Cols), mat(n, k.Cols), mat(n, q.Cols)
	d.Attention(s, out, stats, q, k, v)
	note("attention", out, stats)
	d.AttentionBackward(s, dq, dk, dv, dout, out, stats, q, k, v)
	note("attention backward", dq, dk, dv)

	r, f := size(200), size(90)
	x, y, gain, inv := mat(r, f), mat(r, f), mat(1, f).Slice(0, f), mat(1, r).Slice(0, r)
	d.RMSNorm(y, inv, x, gain, 1e-5)
	note("rmsnorm", y)
	dx, dgain := mat(r, f), mat(1, f).Slice(0, f)
	d.RMSNormBackward(dx, dgain, y, x, gain, inv)
	note("rmsnorm backward", dx, dgain.Matrix(1, f))
	gu, dgu := mat(r, 2*f), mat(r, 2*f)
	for i := range gu.Host {
		gu.Host[i] *= 30
	}
	d.SwiGLU(y, gu)
	d.SwiGLUBackward(dgu, x, gu)
	note("swiglu", y, dgu)
	rot := gpu.Rotation{Heads: 3, HeadDim: 2 * size(20), Period: r, Inverse: rng.IntN(2) == 0}
	z, cos, sin := mat(r, 3*rot.HeadDim), mat(r, rot.HeadDim/2), mat(r, rot.HeadDim/2)
	d.RoPE(z, cos, sin, rot)
	note("rope", z)
	loss, ids := mat(1, r), make([]int32, r)
	for i := range ids {
		ids[i] = int32(rng.IntN(f+1)) - 1
	}
	d.CrossEntropy(loss.Slice(0, r), x, ids, 0.3)
	note("cross-entropy", loss, x)
	vec := func(n int) gpu.Matrix { return mat(1, n).Slice(0, n).Matrix(1, n) }
	p, g, m1, m2 := vec(5000), vec(5000), vec(5000), vec(5000)
	for i := range m2.Host {
		m2.Host[i] *= m2.Host[i]
	}
	d.AdamW(p.Buffer, g.Buffer, m1.Buffer, m2.Buffer, gpu.AdamW{Scale: 0.3, Beta1: 0.9, Beta2: 0.95, Rate: 1e-3, Correct2: 3, Eps: 1e-8, Keep: 0.999})
	note("adamw", p, m1, m2)
	note("sums", gpu.Matrix{Buffer: gpu.Buffer{Host: []float32{float32(d.Sum(p.Buffer)), float32(d.SumSquares(p.Buffer))}, N: 2}})
	return names, sums
}

// TestReproducible holds every kernel to equal bits on all instruction sets.
func TestReproducible(t *testing.T) {
	want := newDevice(t, Options{Threads: 1, ISA: "portable", Reproducible: true})
	for seed := range uint64(30) {
		names, a := everything(want, seed)
		for _, isa := range ISAs() {
			_, b := everything(newDevice(t, Options{Threads: 3, ISA: isa, Reproducible: true}), seed)
			for i := range a {
				if a[i] != b[i] {
					t.Errorf("%s: %s gives other bits than portable", names[i], isa)
				}
			}
		}
	}
}

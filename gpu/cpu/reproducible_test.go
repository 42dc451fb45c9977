package cpu

import (
	"fmt"
	"hash/crc32"
	"math"
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
		if i%7 == 0 { // moments that decay
			m1.Host[i], m2.Host[i], g.Host[i] = math.Float32frombits(uint32(rng.IntN(1<<24))|uint32(rng.IntN(2))<<31), math.Float32frombits(uint32(rng.IntN(1<<24))), 0
		}
	}
	d.AdamW(p.Buffer, g.Buffer, m1.Buffer, m2.Buffer, gpu.AdamW{Scale: 0.3, Beta1: 0.9, Beta2: 0.95, Rate: 1e-3, Correct2: 3, Eps: 1e-8, Keep: 0.999})
	note("adamw", p, m1, m2)
	note("sums", gpu.Matrix{Buffer: gpu.Buffer{Host: []float32{float32(d.Sum(p.Buffer)), float32(d.SumSquares(p.Buffer))}, N: 2}})
	return names, sums
}

// TestReproducible holds every kernel to equal bits on all instruction sets.
func TestReproducible(t *testing.T) {
	for _, half := range []bool{false, true} {
		want := newDevice(t, Options{Threads: 1, ISA: "portable", Reproducible: true, BF16: half})
		for seed := range uint64(20) {
			names, a := everything(want, seed)
			for _, isa := range ISAs() {
				_, b := everything(newDevice(t, Options{Threads: 3, ISA: isa, Reproducible: true, BF16: half}), seed)
				for i := range a {
					if a[i] != b[i] {
						t.Errorf("%s: %s gives other bits than portable; bf16 %v", names[i], isa, half)
					}
				}
			}
		}
	}
}

// TestBF16 holds products in bfloat16 to those of operands that were rounded
// before, bit for bit, and rounding to its definition.
func TestBF16(t *testing.T) {
	for in, want := range map[uint32]uint32{
		0x3f800000: 0x3f800000, 0x3f808000: 0x3f800000, 0x3f818000: 0x3f820000, 0x3f808001: 0x3f810000, 0xbf818000: 0xbf820000,
		0x7f800000: 0x7f800000, 0x7f7fffff: 0x7f800000, 0x7fc00000: 0x7fc00000, 0x7f800001: 0x7fc00000, 0xffffffff: 0xffff0000,
		0x00000001: 0, 0x80000001: 0x80000000, 0x00008001: 0x00010000,
	} {
		x := []float32{math.Float32frombits(in)}
		if roundGo(x); math.Float32bits(x[0]) != want {
			t.Errorf("%#x is rounded to %#x, want %#x", in, math.Float32bits(x[0]), want)
		}
	}
	rng := rand.New(rand.NewPCG(2, 2))
	for _, isa := range ISAs() {
		full, half := newDevice(t, Options{Threads: 2, ISA: isa}), newDevice(t, Options{Threads: 2, ISA: isa, BF16: true})
		for try := range 30 {
			m, n, k := 1+rng.IntN(90), 1+rng.IntN(90), 1+rng.IntN(400)
			mat := func(r, c int) gpu.Matrix {
				x := full.Alloc(r*c).Matrix(r, c)
				for i := range x.Host {
					x.Host[i] = float32(rng.NormFloat64())
				}
				if rng.IntN(3) == 0 {
					x.Host[rng.IntN(x.N)] = float32(math.NaN())
				}
				return x
			}
			l := gpu.Layout(try % 3)
			a, b, c, d := mat(m, k), mat(k, n), mat(m, n), full.Alloc(m*n).Matrix(m, n)
			switch l {
			case gpu.NT:
				b = mat(n, k)
			case gpu.TN:
				a = mat(k, m)
			}
			copy(d.Host, c.Host)
			half.MatMul(l, c, a, b, try%2 == 0)
			roundGo(a.Host)
			roundGo(b.Host)
			full.MatMul(l, d, a, b, try%2 == 0)
			for i := range c.Host {
				if c.Host[i] != d.Host[i] && !(c.Host[i] != c.Host[i] && d.Host[i] != d.Host[i]) {
					t.Fatalf("%s, %v %dx%dx%d: at %d got %g, want %g", isa, l, m, n, k, i, c.Host[i], d.Host[i])
				}
			}
		}
	}
}

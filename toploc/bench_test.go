package toploc

import (
	"math/rand/v2"
	"testing"
	"time"
)

// fastest reports the shortest time of one call, because other processes only ever
// add to it, and how many times as fast as plain that is: the reference's algorithm in
// plain Go (see reference_test.go), timed in turns with f.
func fastest(b *testing.B, plain, f func()) {
	b.Helper()
	each := 1
	for start := time.Now(); time.Since(start) < 100*time.Microsecond; {
		f()
		each++
	}
	best, ref := time.Hour, time.Hour
	for b.Loop() {
		start := time.Now()
		for range each {
			f()
		}
		best = min(best, time.Since(start)/time.Duration(each))
		if plain != nil {
			start = time.Now()
			plain()
			ref = min(ref, time.Since(start))
		}
	}
	b.ReportMetric(0, "ns/op") // that is of a batch
	b.ReportMetric(float64(best.Nanoseconds())/1000, "min-µs")
	if plain != nil {
		b.ReportMetric(float64(ref.Nanoseconds())/1000, "plain-µs")
		b.ReportMetric(float64(ref)/float64(best), "×plain")
	}
}

func bench(b *testing.B, plain, f func()) {
	best := isa
	defer func() { isa = best }()
	for ; isa >= 0; isa-- {
		b.Run(isaNames[isa], func(b *testing.B) { fastest(b, plain, f) })
	}
}

func BenchmarkBuild32x4096(b *testing.B) {
	a := gauss(1, 32*4096)
	bench(b, func() { plainBuild(a, 128) }, func() {
		if _, err := BuildChunk(Default(4096), a); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkVerify32x4096(b *testing.B) {
	a := gauss(1, 32*4096)
	pf, err := BuildChunk(Default(4096), a)
	if err != nil {
		b.Fatal(err)
	}
	rec := pf.AppendBinary(nil)
	bench(b, func() { plainVerify(rec, a, 128, false) }, func() {
		if _, err := CompareChunk(Default(4096), Tensor, pf, a); err != nil {
			b.Fatal(err)
		}
	})
}

// The strict verdict, control points and hashes included.
func BenchmarkStrict32x4096(b *testing.B) {
	a := gauss(1, 32*4096)
	pf, err := BuildChunk(Default(4096), a)
	if err != nil {
		b.Fatal(err)
	}
	recs := [][]byte{pf.AppendBinary(nil)}
	s := Strict{Params: Default(4096), Prefill: Published, Decode: Published}
	bench(b, func() { plainVerify(recs[0], a, 128, false) }, func() {
		if v, err := s.Verify(recs, a, 0); err != nil || !v[0].OK {
			b.Fatal(err)
		}
	})
}

func ints[T uint16 | uint32](a []T) (out []int) {
	for _, v := range a {
		out = append(out, int(v))
	}
	return out
}

func BenchmarkInterpolate128(b *testing.B) {
	x, y, c := make([]uint32, 128), make([]uint32, 128), make([]uint16, 128)
	r := rand.New(rand.NewPCG(5, 5))
	for i, v := range r.Perm(Prime)[:128] {
		x[i], y[i] = uint32(v), uint32(r.IntN(Prime))
	}
	px, py := ints(x), ints(y)
	bench(b, func() { plainInterpolate(px, py) }, func() { interpolate(c, x, y) })
}

func BenchmarkEvaluate128(b *testing.B) {
	x, w, c := make([]uint32, 128), make([]uint32, 128), make([]uint16, 128)
	for i := range x {
		x[i], c[i] = uint32(i*509%Prime), uint16(i*313)
	}
	px, pc := ints(x), ints(c)
	bench(b, func() {
		for i, v := range px {
			px[i] = plainEvaluate(pc, v) // values are as good as points
		}
	}, func() { evaluate(w, c, x) })
}

func BenchmarkTopK32x4096(b *testing.B) {
	a := gauss(1, 32*4096)
	bench(b, func() { plainTop(a, 128) }, func() {
		if _, _, err := topK(a, 128, TiesLowest); err != nil {
			b.Fatal(err)
		}
	})
}

// 32 tokens, one row a call.
func BenchmarkProver32x4096(b *testing.B) {
	a := gauss(1, 32*4096)
	pr, err := NewProver(Default(4096), 0)
	if err != nil {
		b.Fatal(err)
	}
	bench(b, nil, func() {
		for i := 0; i < len(a); i += 4096 {
			if _, err := pr.Push(a[i : i+4096]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

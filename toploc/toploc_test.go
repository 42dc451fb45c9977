package toploc

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func gauss(seed uint64, n int) []uint16 {
	r := rand.New(rand.NewPCG(seed, 7))
	f := make([]float32, n)
	for i := range f {
		f[i] = float32(r.NormFloat64())
	}
	a := make([]uint16, n)
	RoundBF16(a, f)
	return a
}

func TestRoundBF16(t *testing.T) {
	for _, c := range []struct {
		bits uint32
		want uint16
	}{
		{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81},
		{0x7f7fffff, 0x7f80}, {0x80000000, 0x8000}, {0x7f800001, 0x7fc0}, {0xffc00000, 0x7fc0}, {0xff800000, 0xff80},
	} {
		var got [1]uint16
		RoundBF16(got[:], []float32{math.Float32frombits(c.bits)})
		if got[0] != c.want {
			t.Errorf("%08x: %04x, want %04x", c.bits, got[0], c.want)
		}
	}
}

// A stable sort is the obvious selection; the selector must agree with it.
func TestTopKAgainstSort(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		n := 1 + r.IntN(3000)
		a := make([]uint16, n)
		for i := range a {
			switch seed % 3 {
			case 0:
				a[i] = uint16(r.Uint32())
			case 1:
				a[i] = uint16(0x3f80 + r.IntN(4)) // ties everywhere
			default:
				a[i] = uint16(r.IntN(2))<<15 | uint16(0x7f7e+r.IntN(5)) // around infinity and NaN
			}
		}
		k := 1 + r.IntN(min(n, 200))
		got, _, err := topK(a, k, TiesLowest)
		if err != nil {
			t.Fatal(err)
		}
		order := make([]uint32, n)
		for i := range order {
			order[i] = uint32(i)
		}
		slices.SortStableFunc(order, func(x, y uint32) int { return int(key(a[y])) - int(key(a[x])) })
		want := order[:k]
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: n %d, k %d differ", seed, n, k)
		}
	}
}

func TestProverIsBuild(t *testing.T) {
	p := Params{Hidden: 64, TopK: 16, Batch: 8}
	a := gauss(1, 64*27)
	want, err := Build(p, a, 0)
	if err != nil {
		t.Fatal(err)
	}
	pr, err := NewProver(p, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []*Proof
	for i := 0; i < len(a); i += p.Hidden {
		pf, err := pr.Push(a[i : i+p.Hidden])
		if err != nil {
			t.Fatal(err)
		}
		if pf != nil {
			got = append(got, pf)
		}
	}
	if pf, err := pr.Flush(); err != nil || pf == nil {
		t.Fatalf("flush: %v %v", pf, err)
	} else {
		got = append(got, pf)
	}
	if len(got) != len(want) || len(got) != 4 {
		t.Fatalf("%d proofs, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i].Base64() != want[i].Base64() {
			t.Errorf("proof %d differs", i)
		}
	}
	if pf, err := pr.Flush(); pf != nil || err != nil {
		t.Error("an empty prover proves something")
	}
}

func TestInterpolateAndEvaluateAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for _, n := range []int{1, 2, 3, 7, 8, 9, 64, 128, 129, 300} {
		x, y := make([]uint32, n), make([]uint32, n)
		for i, v := range r.Perm(Prime)[:n] {
			x[i], y[i] = uint32(v), uint32(r.IntN(Prime))
		}
		x[0] = 0
		if i := slices.Index(x[1:], 0); i >= 0 {
			x[i+1] = Prime - 1
		}
		c, w := make([]uint16, n), make([]uint32, n)
		interpolate(c, x, y)
		evaluate(w, c, x)
		if !slices.Equal(w, y) {
			t.Errorf("n = %d: the polynomial misses its points", n)
		}
		for i := range x { // Horner, term by term
			v := uint64(0)
			for k := n - 1; k >= 0; k-- {
				v = (v*uint64(x[i]) + uint64(c[k])) % Prime
			}
			if uint32(v) != w[i] {
				t.Fatalf("n = %d: evaluate differs from Horner", n)
			}
		}
	}
}

func TestStrictReplayAndCounts(t *testing.T) {
	p := Params{Hidden: 256, TopK: 64, Batch: 8}
	a := gauss(11, 256*24)
	pfs, err := Build(p, a, 0)
	if err != nil {
		t.Fatal(err)
	}
	var recs [][]byte
	for _, pf := range pfs {
		recs = append(recs, pf.AppendBinary(nil))
	}
	seen := map[string]bool{}
	s := Strict{Params: p, Prefill: Published, Decode: Published, Seen: func(r []byte) bool {
		old := seen[string(r)]
		seen[string(r)] = true
		return old
	}}
	got, err := s.Verify(recs, a, 0)
	if err != nil || !got[0].OK || !got[2].OK {
		t.Fatalf("honest: %+v %v", got, err)
	}
	if got, _ = s.Verify(recs, a, 0); got[0].OK {
		t.Error("a replayed submission passes")
	}
	if _, err = s.Verify(recs[:2], a, 0); err == nil {
		t.Error("too few proofs pass")
	}
	if _, err = s.Verify(nil, nil, 0); err == nil {
		t.Error("nothing passes")
	}
}

func FuzzParseProof(f *testing.F) {
	f.Add([]byte{0xff, 0xd9, 0, 1, 0, 2}, uint16(2))
	f.Fuzz(func(t *testing.T, b []byte, k uint16) {
		pf, err := ParseProof(b, int(k))
		if err != nil {
			return
		}
		if !slices.Equal(pf.AppendBinary(nil), b) {
			t.Fatal("accepted record is not canonical")
		}
	})
}

func FuzzStrict(f *testing.F) {
	a := gauss(2, 64*8)
	p := Params{Hidden: 64, TopK: 8, Batch: 4}
	pfs, err := Build(p, a, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pfs[0].AppendBinary(nil), pfs[1].AppendBinary(nil))
	s := Strict{Params: p, Prefill: Published, Decode: Published}
	f.Fuzz(func(t *testing.T, r0, r1 []byte) {
		if _, err := s.Verify([][]byte{r0, r1}, a, 0); err != nil {
			t.Fatal(err)
		}
	})
}

// Honest polynomials at control points are as random numbers would be.
func TestControlsOfHonestProofs(t *testing.T) {
	for _, spread := range []float64{1, 30} { // few exponents in the top-k, and many
		worst, limit := 0, 0
		for seed := range uint64(200) {
			r := rand.New(rand.NewPCG(seed, 40))
			f := make([]float32, 64*32)
			for i := range f {
				f[i] = float32(r.NormFloat64() * math.Pow(spread, r.Float64()*2))
			}
			a := make([]uint16, len(f))
			RoundBF16(a, f)
			p := Params{Hidden: 64, TopK: 128, Batch: 32}
			pf, err := BuildChunk(p, a)
			if err != nil {
				t.Fatal(err)
			}
			pos, bits, err := topK(a, p.TopK, p.Ties)
			if err != nil {
				t.Fatal(err)
			}
			j := Strict{Params: p, Prefill: Published, Decode: Published, Seed: seed}.Judge()
			hits, tried, exps := j.s.controls(pf, &Top{Pos: pos, Bits: bits})
			worst, limit = max(worst, hits), max(limit, j.controlLimit(tried, exps))
			if tried != 256 || hits > j.controlLimit(tried, exps) {
				t.Errorf("spread %g: %d of %d hits with %d exponents", spread, hits, tried, exps)
			}
		}
		t.Logf("spread %g: at most %d hits, limit up to %d", spread, worst, limit)
	}
}

// With many points in more than p positions, honest moduli fall far below p.
func TestStrictOfLargeK(t *testing.T) {
	for _, k := range []int{256, 512, 640, 700, 900} {
		p := Params{Hidden: 4096, TopK: k, Batch: 256}
		for seed := range uint64(4) {
			a := gauss(seed, 256*4096)
			pf, err := BuildChunk(p, a)
			if err != nil {
				t.Fatal(err)
			}
			s := Strict{Params: p, Prefill: Published, Decode: Published.For(k), Seed: 1}
			v, err := s.Verify([][]byte{pf.AppendBinary(nil)}, a, 0)
			if err != nil || !v[0].OK {
				t.Errorf("k %d, modulus %d: %v %v", k, pf.Modulus, v, err)
			}
		}
	}
	// and then there is none at all.
	_, err := BuildChunk(Params{Hidden: 4096, TopK: 4096, Batch: 32}, gauss(1, 32*4096))
	if err == nil || !strings.Contains(err.Error(), "smaller top-k") {
		t.Errorf("4096 points: %v", err)
	}
}

package toploc

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func sampler(t testing.TB, job string, temperature float64) *Sampler {
	t.Helper()
	s, err := NewSampler([]byte(job), temperature)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func logitsOf(r *rand.Rand, vocab int, spread float64) []float32 {
	z := make([]float32, vocab)
	for i := range z {
		z[i] = float32(r.NormFloat64() * spread)
	}
	return z
}

// Anybody's sampler must draw these; the numbers are the first implementation's.
func TestSamplerGolden(t *testing.T) {
	s := sampler(t, "job 1", 1)
	if got := s.stream(0); got != goldenStream {
		t.Errorf("stream(0) = %#x", got)
	}
	z := make([]float32, 50000)
	var got []int32
	for pos := range uint64(8) {
		id, err := s.Pick(pos, z)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, id)
	}
	if !slices.Equal(got, goldenDraws) {
		t.Errorf("draws %v", got)
	}
	if g := gumbel(0); math.Abs(g-(-math.Log(53*math.Ln2))) > 1e-12 {
		t.Errorf("the least noise is %g", g)
	}
	if g := gumbel(math.MaxUint64); math.Abs(g-53*math.Ln2) > 1e-9 {
		t.Errorf("the largest noise is %g", g)
	}
}

func TestNoiseBound(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 200_000 {
		x := r.Uint64() | ^uint64(0)<<(64-r.IntN(64))
		if g, b := gumbel(x), noiseBound(x); g > b {
			t.Fatalf("gumbel(%#x) = %g is above its bound %g", x, g, b)
		}
	}
}

// Pick must choose as a plain loop does, and as often as softmax says.
func TestSamplerIsSoftmax(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 1))
	z := logitsOf(r, 40, 2)
	for _, temperature := range []float64{0.5, 1, 1.7} {
		s := sampler(t, "softmax", temperature)
		const n = 40000
		var hits [40]int
		for pos := range uint64(n) {
			id, err := s.Pick(pos, z)
			if err != nil {
				t.Fatal(err)
			}
			hits[id]++
			if pos < 2000 {
				best, at := math.Inf(-1), 0
				for i := range z {
					if v := float64(z[i])/temperature + noise(s.stream(pos), i); v > best {
						best, at = v, i
					}
				}
				if at != int(id) {
					t.Fatalf("position %d: Pick %d, the plain loop %d", pos, id, at)
				}
			}
		}
		var sum, chi float64
		for _, v := range z {
			sum += math.Exp(float64(v) / temperature)
		}
		for i, h := range hits {
			want := n * math.Exp(float64(z[i])/temperature) / sum
			chi += (float64(h) - want) * (float64(h) - want) / want
		}
		if chi > 39+6*math.Sqrt(2*39) {
			t.Errorf("temperature %g: χ² = %.1f over 39 degrees of freedom", temperature, chi)
		}
	}
}

func TestSamplerRefuses(t *testing.T) {
	for _, temperature := range []float64{-1, math.NaN(), math.Inf(1), 1e-9} {
		if _, err := NewSampler(nil, temperature); err == nil {
			t.Errorf("temperature %g is taken", temperature)
		}
	}
	s := sampler(t, "x", 1)
	for _, z := range [][]float32{nil, {1, float32(math.NaN())}, {float32(math.Inf(1))}} {
		if _, err := s.Pick(0, z); err == nil {
			t.Errorf("logits %v are taken", z)
		}
	}
	for _, id := range []int32{-1, 2} {
		if _, err := s.Check(0, []float32{1, 2}, id); err == nil {
			t.Errorf("token %d of 2 is taken", id)
		}
	}
	if id, err := sampler(t, "greedy", 0).Pick(5, []float32{1, 3, 3, 2}); err != nil || id != 1 {
		t.Errorf("greedy draws %d, %v", id, err)
	}
}

func TestSamplerWithout(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 1))
	s := sampler(t, "second", 1)
	for pos := range uint64(200) {
		z := logitsOf(r, 30, 2)
		first, err := s.Pick(pos, z)
		if err != nil {
			t.Fatal(err)
		}
		second, err := s.Without(pos, z, first)
		if err != nil {
			t.Fatal(err)
		}
		z[first] = -1e9
		if id, err := s.Pick(pos, z); err != nil || id != second {
			t.Fatalf("without %d it is %d, want %d (%v)", first, second, id, err)
		}
	}
	if _, err := s.Without(0, []float32{1}, 0); err == nil {
		t.Error("a token is drawn out of none")
	}
}

func TestTokenJudge(t *testing.T) {
	const n, vocab = 300, 64
	limits := TokenLimits{Beyond: []MarginRate{{0, 0.01}, {0.02, 1e-4}}, Outright: 4, MinEOS: 0.1}
	s, other := sampler(t, "job", 1), sampler(t, "other job", 1)
	cold, greedy := sampler(t, "job", 0.6), sampler(t, "job", 0)
	for _, c := range []struct {
		name     string
		draw     func(pos uint64, z []float32) int32 // under the prover's logits
		drift    float64
		unseeded bool
		reason   string
	}{
		{"honest", nil, 0, false, ""},
		{"honest, drifting", nil, 0.002, false, ""},
		{"honest, randomness of its own", func(p uint64, z []float32) int32 { id, _ := other.Pick(p, z); return id }, 0.002, true, ""},
		{"randomness of its own", func(p uint64, z []float32) int32 { id, _ := other.Pick(p, z); return id }, 0, false, "had to be drawn"},
		{"greedy", func(p uint64, z []float32) int32 { id, _ := greedy.Pick(p, z); return id }, 0, false, "had to be drawn"},
		{"greedy, unseeded", func(p uint64, z []float32) int32 { id, _ := greedy.Pick(p, z); return id }, 0, true, "uniform"},
		{"temperature 0.6", func(p uint64, z []float32) int32 { id, _ := cold.Pick(p, z); return id }, 0, false, "had to be drawn"},
		{"temperature 0.6, unseeded", func(p uint64, z []float32) int32 { id, _ := cold.Pick(p, z); return id }, 0, true, "uniform"},
		{"another model", nil, 1.5, false, "had to be drawn"},
		{"another model, unseeded", nil, 3, true, "another model"},
	} {
		r := rand.New(rand.NewPCG(7, 7))
		j, err := TokenRule{Sampler: s, Unseeded: c.unseeded, Max: n, Limits: limits, Seed: 99}.Judge()
		if err != nil {
			t.Fatal(err)
		}
		for pos := range uint64(n) {
			z := logitsOf(r, vocab, 2.5)
			theirs := slices.Clone(z)
			for i := range theirs {
				theirs[i] += float32(c.drift * r.NormFloat64())
			}
			id, err := s.Pick(pos, theirs)
			if c.draw != nil {
				id = c.draw(pos, theirs)
			}
			if err == nil {
				err = j.Push(id, z)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		v := j.Verdict()
		if v.OK != (c.reason == "") || !strings.Contains(v.Reason, c.reason) || v.Ended != "length" {
			t.Errorf("%s: %+v, want reason %q", c.name, v, c.reason)
		}
	}
}

// One token edited among honest ones is one too many.
func TestTokenJudgeFindsAnEdit(t *testing.T) {
	s := sampler(t, "edit", 1)
	r := rand.New(rand.NewPCG(1, 7))
	j, err := TokenRule{Sampler: s, Max: 128, Limits: TokenLimits{Beyond: []MarginRate{{0.01, 1e-4}}, Outright: 0.05}}.Judge()
	if err != nil {
		t.Fatal(err)
	}
	for pos := range uint64(128) {
		z := logitsOf(r, 50, 3)
		id, err := s.Pick(pos, z)
		if pos == 77 {
			z[id] -= 5 // for the verifier it is not the one to be drawn
		}
		if err == nil {
			err = j.Push(id, z)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if v := j.Verdict(); v.OK || v.Differ != 1 || v.Worst < 0.05 {
		t.Errorf("%+v", v)
	}
}

func TestTermination(t *testing.T) {
	s := sampler(t, "end", 1)
	flat := make([]float32, 20)
	sure := make([]float32, 20)
	sure[3] = 5
	for _, c := range []struct {
		name     string
		tokens   int
		end      bool // with token 3
		logits   []float32
		unseeded bool
		ended    string
		ok       bool
	}{
		{"cut short", 5, false, flat, true, "cut", false},
		{"nothing", 0, false, flat, true, "cut", false},
		{"full length", 8, false, flat, true, "length", true},
		{"likely end", 4, true, sure, true, "eos", true},
		{"unlikely end", 4, true, flat, true, "eos", false},
	} {
		j, err := TokenRule{Sampler: s, Unseeded: c.unseeded, EOS: []int32{3}, Max: 8, Limits: TokenLimits{MinEOS: 0.1}}.Judge()
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.tokens {
			if err := j.Push(int32(7+i), flat); err != nil {
				t.Fatal(err)
			}
		}
		if c.end {
			if err := j.Push(3, c.logits); err != nil {
				t.Fatal(err)
			}
			if err := j.Push(4, flat); err == nil {
				t.Errorf("%s: a token follows the end", c.name)
			}
		}
		if v := j.Verdict(); v.Ended != c.ended || v.OK != c.ok {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
	// Where the seed asks for it, an unlikely end is right.
	j, err := TokenRule{Sampler: s, EOS: []int32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, Max: 8, Limits: TokenLimits{MinEOS: 0.1}}.Judge()
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Pick(0, flat)
	if err == nil {
		err = j.Push(id, flat)
	}
	if v := j.Verdict(); err != nil || !v.OK || v.EndProb > 0.06 {
		t.Errorf("a seeded end: %+v %v", v, err)
	}
	if _, err := (TokenRule{Sampler: s}).Judge(); err == nil {
		t.Error("a rule without a length is taken")
	}
}

func TestBinomial(t *testing.T) {
	for _, c := range []struct {
		n int
		p float64
	}{{1, 0.3}, {10, 0.5}, {40, 0.01}, {60, 0.97}, {500, 0.002}} {
		// Pascal's rule, term by term.
		dist := []float64{1}
		for range c.n {
			next := make([]float64, len(dist)+1)
			for k, v := range dist {
				next[k] += v * (1 - c.p)
				next[k+1] += v * c.p
			}
			dist = next
		}
		tail := 1.0
		for m, v := range dist {
			tail -= v
			if got := BinomialTail(c.n, m, c.p); math.Abs(got-tail) > 1e-12 {
				t.Errorf("P(X > %d) of %d at %g is %g, want %g", m, c.n, c.p, got, tail)
			}
		}
		for _, alpha := range []float64{0.3, 1e-3, 1e-9} {
			m := BinomialLimit(c.n, c.p, alpha)
			if BinomialTail(c.n, m, c.p) > alpha || m > 0 && BinomialTail(c.n, m-1, c.p) <= alpha {
				t.Errorf("limit %d for %d at %g is not the least for %g", m, c.n, c.p, alpha)
			}
		}
	}
}

func TestRanksOfUniform(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 9))
	u := make([]float64, 4000)
	for i := range u {
		u[i] = r.Float64()
	}
	if err := TestRanks(u, 1e-6).Check(); err != nil {
		t.Error(err)
	}
	for i := range u {
		u[i] = math.Pow(u[i], 0.8)
	}
	if TestRanks(u, 1e-6).Check() == nil {
		t.Error("ranks that are not uniform pass")
	}
}

func FuzzTokenJudge(f *testing.F) {
	f.Add([]byte{0, 0, 128, 63, 0, 0, 0, 0}, int32(1), 1.0, uint64(3))
	f.Fuzz(func(t *testing.T, b []byte, token int32, temperature float64, seed uint64) {
		s, err := NewSampler(b, temperature)
		if err != nil {
			return
		}
		z := make([]float32, len(b)/4)
		for i := range z {
			z[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		j, err := TokenRule{Sampler: s, Max: 2, EOS: []int32{1}, Seed: seed}.Judge()
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Push(token, z); err != nil {
			return
		}
		v := j.Verdict()
		if math.IsNaN(v.KS) || v.OK == (v.Reason != "") {
			t.Fatalf("%+v", v)
		}
		if id, err := s.Pick(0, z); err != nil || id == token && v.Differ != 0 || id != token && v.Differ == 0 {
			t.Fatalf("Pick says %d (%v) of token %d: %+v", id, err, token, v)
		}
	})
}

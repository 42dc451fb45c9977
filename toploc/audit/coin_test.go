package audit

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
)

var testRun = wire.SumCID(wire.CodecDagCBOR, []byte("run"))

func subject(n int) wire.CID {
	return wire.SumCID(wire.CodecDagCBOR, binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// The vector was computed by testdata/coin.py.
const (
	coinFirst   = "3fb844ab36f151a9a1274ac9bdcd6269325dcabe7764e887d99293a8651aad64"
	coinReveal  = "b683f75ce55f5123a3c1c02325570099a1155e3cd128c7fb7b9fec900f06ac9c"
	coinAudit   = false
	coinSegment = 2
	coinSeed    = "d9781a26c1f69e808d3eaa6abd75e44b77e8e5902a62dd291eb9d40b424d454e"
)

func TestCoinVector(t *testing.T) {
	c := NewCoin([]byte("secret"), testRun)
	first := c.At(0)
	if got := hex.EncodeToString(first[:]); got != coinFirst {
		t.Errorf("first secret %s, want %s", got, coinFirst)
	}
	r := c.Reveal(7)
	if got := hex.EncodeToString(r); got != coinReveal {
		t.Errorf("reveal %s, want %s", got, coinReveal)
	}
	d := DrawFor(r, testRun, 5_000, 4)
	if got := hex.EncodeToString(d.Seed[:]); d.Audit != coinAudit || d.Segment != coinSegment || got != coinSeed {
		t.Errorf("draw %v %d %s, want %v %d %s", d.Audit, d.Segment, got, coinAudit, coinSegment, coinSeed)
	}
}

// A reveal leads to what was shown before, of the same coin, and to nothing else.
func TestRevealsLeadBack(t *testing.T) {
	c := NewCoin([]byte("secret"), testRun)
	other := NewCoin([]byte("secret"), subject(1))
	if c.At(0) == other.At(0) {
		t.Error("one secret has one coin for two runs")
	}
	for _, round := range []uint64{1, 2, stride - 1, stride, stride + 1, 1000, Rounds - 1, Rounds} {
		r := c.Reveal(round)
		for _, at := range []uint64{round - 1, round - min(round, 40)} {
			coin := c.At(at)
			if err := CheckReveal(coin, at, round, r); err != nil {
				t.Fatalf("round %d from %d: %v", round, at, err)
			}
			if !bytes.Equal(Earlier(r, round, at), coin[:]) {
				t.Errorf("round %d does not give away round %d", round, at)
			}
			for what, bad := range map[string]func() error{
				"another round":       func() error { return CheckReveal(coin, at, round+1, r) },
				"the round before":    func() error { return CheckReveal(coin, at, round-1, r) },
				"from another round":  func() error { return CheckReveal(coin, at+1, round, r) },
				"another's coin":      func() error { return CheckReveal(other.At(at), at, round, r) },
				"what is shown again": func() error { return CheckReveal(coin, at, at, coin[:]) },
				"too short":           func() error { return CheckReveal(coin, at, round, r[:len(r)-1]) },
				"too long":            func() error { return CheckReveal(coin, at, round, append(bytes.Clone(r), 0)) },
				"none":                func() error { return CheckReveal(coin, at, round, nil) },
			} {
				if bad() == nil {
					t.Errorf("round %d from %d: %s is accepted", round, at, what)
				}
			}
			for i := range r {
				r[i] ^= 1
				if CheckReveal(coin, at, round, r) == nil {
					t.Errorf("round %d from %d: byte %d changed is accepted", round, at, i)
				}
				r[i] ^= 1
			}
		}
	}
	if c.Reveal(Rounds+1) != nil || (*Coin)(nil).Reveal(1) != nil || c.At(math.MaxUint64) != [32]byte{} {
		t.Error("a coin that is worn out, or none, shows something")
	}
	if err := CheckReveal(c.At(Rounds), Rounds, Rounds+1, c.Reveal(Rounds)); err == nil {
		t.Error("a round beyond the coin's last has a secret")
	}
}

// chi2 of counts that should be equal.
func chi2(counts []int) float64 {
	n := 0
	for _, c := range counts {
		n += c
	}
	want := float64(n) / float64(len(counts))
	sum := 0.0
	for _, c := range counts {
		sum += (float64(c) - want) * (float64(c) - want) / want
	}
	return sum
}

// Draws are uniform over segments and audit at the rate, over rounds and over subjects.
func TestDrawsAreUniform(t *testing.T) {
	c := NewCoin([]byte("uniform"), testRun)
	const n, rate, segments = 40_000, 1_000, 8
	for name, draw := range map[string]func(i int) Draw{
		"subjects": func(i int) Draw { return DrawFor(c.Reveal(3), subject(i), rate, segments) },
		"rounds":   func(i int) Draw { return DrawFor(c.Reveal(uint64(i)), subject(0), rate, segments) },
	} {
		counts, audits := make([]int, segments), 0
		for i := range n {
			d := draw(i)
			counts[d.Segment]++
			if d.Audit {
				audits++
			}
		}
		if x := chi2(counts); x > 24.3 { // 7 degrees of freedom, p = 0.001
			t.Errorf("%s: segments %v, chi-square %.1f", name, counts, x)
		}
		if sd := math.Sqrt(n * 0.1 * 0.9); math.Abs(float64(audits)-n*0.1) > 4*sd {
			t.Errorf("%s: %d of %d audited, want a tenth", name, audits, n)
		}
	}
	if DrawFor(c.Reveal(1), subject(1), 0, 4).Audit || !DrawFor(c.Reveal(1), subject(1), 10_000, 0).Audit {
		t.Error("never is not never, or always not always")
	}
}

// What a coin has shown says nothing about what it will: secrets of different
// rounds, and draws of different coins, agree no more often than chance.
func TestDrawsAreIndependent(t *testing.T) {
	a, b := NewCoin([]byte("a"), testRun), NewCoin([]byte("b"), testRun)
	const n = 20_000
	next, both := 0, 0
	seen := map[[32]byte]bool{}
	for i := range uint64(n) {
		x := DrawFor(a.Reveal(i), subject(0), 5_000, 1)
		if x.Audit == DrawFor(a.Reveal(i+1), subject(0), 5_000, 1).Audit {
			next++
		}
		if x.Audit == DrawFor(b.Reveal(i), subject(0), 5_000, 1).Audit {
			both++
		}
		seen[[32]byte(a.Reveal(i))] = true
	}
	for what, same := range map[string]int{"rounds": next, "coins": both} {
		if math.Abs(float64(same)-n/2) > 4*math.Sqrt(n)/2 {
			t.Errorf("two %s draw the same in %d of %d", what, same, n)
		}
	}
	if len(seen) != n {
		t.Errorf("%d secrets in %d rounds", len(seen), n)
	}
}

// The formula against the real coin: for each rate, share of faked segments and
// number of validators, the share of 400 cheats caught within so many rounds.
func TestDetectionFormula(t *testing.T) {
	var coins []*Coin
	for i := range 4 {
		coins = append(coins, NewCoin([]byte{byte(i)}, testRun))
	}
	const segments, cheats = 4, 400
	n := 0
	for _, test := range []struct {
		rate               uint64
		faked              uint64 // segments, from the last
		validators, rounds int
	}{
		{500, 4, 2, 10}, {500, 1, 2, 20}, {1_000, 4, 1, 5}, {1_000, 3, 2, 10}, {2_000, 1, 4, 5}, {2_500, 4, 2, 3}, {10_000, 1, 1, 3}, {10_000, 4, 1, 1},
	} {
		caught := 0
		for range cheats {
			found := false
			for r := range test.rounds {
				n++
				for _, c := range coins[:test.validators] {
					d := DrawFor(c.Reveal(uint64(r)), subject(n), test.rate, segments)
					found = found || d.Audit && d.Segment >= segments-test.faked
				}
			}
			if found {
				caught++
			}
		}
		p := Detection(test.rate, float64(test.faked)/segments, test.validators, test.rounds)
		got, sd := float64(caught)/cheats, math.Sqrt(p*(1-p)/cheats)
		t.Logf("rate %5.1f %%, %d of %d segments faked, %d validators, %2d rounds: %.3f caught, formula %.3f ± %.3f", float64(test.rate)/100, test.faked, segments, test.validators, test.rounds, got, p, sd)
		if math.Abs(got-p) > 4*sd+1e-9 {
			t.Errorf("%+v: %.3f caught, the formula says %.3f", test, got, p)
		}
	}
}

func TestRoundsUntil(t *testing.T) {
	for _, test := range []struct {
		rate       uint64
		share      float64
		validators int
		confidence float64
		want       int
	}{
		{10_000, 1, 1, 0.99, 1}, {5_000, 1, 1, 0.5, 1}, {5_000, 1, 1, 0.75, 2}, {5_000, 1, 2, 0.75, 1},
		{1_000, 1, 2, 0.99, 22}, {1_000, 0.25, 2, 0.99, 91}, {0, 1, 3, 0.9, 0}, {100, 0, 3, 0.9, 0}, {100, 1, 1, 1, 0},
	} {
		got := RoundsUntil(test.rate, test.share, test.validators, test.confidence)
		if got != test.want {
			t.Errorf("%+v: %d rounds", test, got)
		}
		if got > 0 && (Detection(test.rate, test.share, test.validators, got) < test.confidence-1e-9 || got > 1 && Detection(test.rate, test.share, test.validators, got-1) >= test.confidence) {
			t.Errorf("%+v: after %d rounds it is not %v", test, got, test.confidence)
		}
	}
}

// What a coin chooses of a commit's work, and what of it is owed: one
// audit, nothing that came late, in an order that the works' authors cannot know.
func TestChoose(t *testing.T) {
	cfg := Config{Self: peer(0), Rate: 10_000, Every: 25}
	h := Head{Round: 9, Since: 3}
	for i := range 20 {
		h.Works = append(h.Works, Work{subject(i), peer(byte(i)), 8 - uint64(i%2), 100})
	}
	h.Works = append(h.Works, Work{subject(20), peer(20), 2, 100}) // from before it came
	coin := testCoin.Reveal(9)
	out := Choose(coin, h, cfg)
	if len(out) != 19 {
		t.Fatalf("%d of 21 works chosen, want all but its own and the old one", len(out))
	}
	for i, x := range out {
		d := DrawFor(coin, x.ID, 10_000, 4)
		if x.Draw != d || x.Owed != (i == 0) || i < 9 && x.Round != 8 || i != 0 && i != 9 && bytes.Compare(out[i-1].Seed[:], x.Seed[:]) >= 0 {
			t.Errorf("%d: %+v", i, x)
		}
	}
	slices.Reverse(h.Works)
	for i, x := range Choose(coin, h, cfg) {
		if x != out[i] {
			t.Error("the order of the works matters")
		}
	}
	cfg.Rate = 0
	if n := len(Choose(coin, h, cfg)); n != 0 {
		t.Errorf("%d chosen at no rate", n)
	}
}

// The account of misses: ten in a row, and how rarely an honest validator comes to that.
func TestForgiven(t *testing.T) {
	account, n := uint64(0), 0
	for ; account < MissLimit; n++ {
		account = Miss(account, true)
	}
	if n != 10 || Miss(5, false) != 4 || Miss(0, false) != 0 {
		t.Errorf("%d in a row", n)
	}
	t.Log("misses of the audits owed, removed within 20,000 of them:")
	for _, test := range []struct{ miss, least, most float64 }{
		{0.02, 0, 1e-10}, {0.05, 0, 2e-8}, {0.1, 1e-6, 6e-5}, {0.2, 0.2, 0.35}, {1.0 / 3, 0.99, 1}, {0.5, 1 - 1e-9, 1 + 1e-9},
	} {
		got := Removed(test.miss, 20_000)
		t.Logf("%5.1f %%  %.2g", 100*test.miss, got)
		if got < test.least || got > test.most {
			t.Errorf("one that misses %.2f is removed with probability %g, want %g to %g", test.miss, got, test.least, test.most)
		}
	}
	if Removed(1, 9) != 0 || Removed(1, 10) != 1 {
		t.Error("ten in a row do not remove, or nine do")
	}
	// Against the same by lot.
	rng := rand.New(rand.NewPCG(1, 2))
	gone, runs := 0, 4000
	for range runs {
		account := uint64(0)
		for range 100 {
			if account = Miss(account, rng.Float64() < 0.4); account >= MissLimit {
				gone++
				break
			}
		}
	}
	p := Removed(0.4, 100)
	if got := float64(gone) / float64(runs); math.Abs(got-p) > 4*math.Sqrt(p*(1-p)/float64(runs)) {
		t.Errorf("%.3f of %d are removed, want %.3f", got, runs, p)
	}
}

func TestSilentUntil(t *testing.T) {
	for _, test := range []struct {
		rate       uint64
		trainers   int
		confidence float64
		want       int
	}{
		{10_000, 4, 0.999, 10}, {10_000, 1, 0.999, 10}, {10_000, 200, 0.5, 10},
		{0, 4, 0.9, 0}, {1_000, 0, 0.9, 0}, {1_000, 4, 1, 0},
	} {
		if got := SilentUntil(test.rate, test.trainers, test.confidence); got != test.want {
			t.Errorf("%+v: %d rounds", test, got)
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{1, 4, 30} {
		r, gone := SilentUntil(1_000, n, 0.9), 0
		for range 4000 {
			owed := 0
			for range r {
				k := 0
				for range n {
					if rng.IntN(10) == 0 {
						k++
					}
				}
				owed += min(k, 1)
			}
			if owed >= 10 {
				gone++
			}
		}
		t.Logf("10 %% of %d trainers' work, silent for %d rounds: %d of 4000 are out", n, r, gone)
		if gone < 3500 || gone > 3800 {
			t.Errorf("%d trainers: of 4000 silent for %d rounds %d are out, want 0.9", n, r, gone)
		}
	}
}

func BenchmarkNewCoin(b *testing.B) {
	for b.Loop() {
		NewCoin([]byte("x"), testRun)
	}
}

package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
)

var testRun = wire.SumCID(wire.CodecDagCBOR, []byte("run"))

func subject(n int) wire.CID {
	return wire.SumCID(wire.CodecDagCBOR, binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// The vector was computed by testdata/coin.py.
const (
	coinRoot    = "6e96994d1a853651cda3f3b91c54401015c4a7688db889758e84e2a4ae249bba"
	coinReveal  = "2bf123bfbdc44180c0ed169d4121ac88a6edb4bdfe5ffe59405bb14743d64c6d"
	coinAudit   = false
	coinSegment = 2
	coinSeed    = "cc3bd806598d23b253f8db83d11b2bc8e36942b9dc55350753bc92fc2dc0b935"
)

func TestCoinVector(t *testing.T) {
	c := NewCoin([]byte("secret"), testRun)
	root := c.Root()
	if got := hex.EncodeToString(root[:]); got != coinRoot {
		t.Errorf("root %s, want %s", got, coinRoot)
	}
	r := c.Reveal(7)
	h := sha256.Sum256(r)
	if got := hex.EncodeToString(h[:]); got != coinReveal {
		t.Errorf("reveal's digest %s, want %s", got, coinReveal)
	}
	d := DrawFor(r, testRun, 5_000, 4)
	if got := hex.EncodeToString(d.Seed[:]); d.Audit != coinAudit || d.Segment != coinSegment || got != coinSeed {
		t.Errorf("draw %v %d %s, want %v %d %s", d.Audit, d.Segment, got, coinAudit, coinSegment, coinSeed)
	}
}

func TestRevealsLeadToTheRoot(t *testing.T) {
	c := NewCoin([]byte("secret"), testRun)
	other := NewCoin([]byte("secret"), subject(1))
	if c.Root() == other.Root() {
		t.Error("one secret has one coin for two runs")
	}
	for _, round := range []uint64{0, 1, 2, 1000, Rounds - 1, Rounds, Rounds + 5, math.MaxUint64} {
		r := c.Reveal(round)
		if err := CheckReveal(c.Root(), round, r); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for what, bad := range map[string]func() error{
			"another round":  func() error { return CheckReveal(c.Root(), round+1, r) },
			"another's root": func() error { return CheckReveal(other.Root(), round, r) },
			"too short":      func() error { return CheckReveal(c.Root(), round, r[:len(r)-1]) },
			"too long":       func() error { return CheckReveal(c.Root(), round, append(bytes.Clone(r), 0)) },
			"none":           func() error { return CheckReveal(c.Root(), round, nil) },
		} {
			if bad() == nil {
				t.Errorf("round %d: %s is accepted", round, what)
			}
		}
		for i := 0; i < len(r); i += 31 {
			r[i] ^= 1
			if CheckReveal(c.Root(), round, r) == nil {
				t.Errorf("round %d: byte %d changed is accepted", round, i)
			}
			r[i] ^= 1
		}
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
	// A reveal's path holds hashes of other rounds' secrets, never a secret.
	if r := a.Reveal(0); bytes.Contains(r, a.Reveal(1)[:32]) {
		t.Error("round 0's reveal holds round 1's secret")
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

func BenchmarkNewCoin(b *testing.B) {
	for b.Loop() {
		NewCoin([]byte("x"), testRun)
	}
}

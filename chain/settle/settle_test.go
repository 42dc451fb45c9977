package settle_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/chain/settle/settletest"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

func feed(t testing.TB, s *settletest.Script, d *settle.Deriver) []settle.Close {
	t.Helper()
	var out []settle.Close
	for i, c := range s.Commits {
		xs, err := d.Add(s.IDs[i], c)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, xs...)
	}
	return out
}

// words pay 90 coins an epoch to trainers and 10 to validators; every key of
// the Script belongs to the account with the same bytes but the last.
func words() settle.Words {
	return settle.Words{Sponsor: chain.Address{9}, Pool: chain.Coins(1_000_000), Rate: chain.Rate{Budget: chain.Coins(100), Split: [4]uint16{9000, 0, 1000, 0}},
		Owner: func(k chain.Address) (chain.Address, bool) { return owner(k), true }}
}

func owner(k chain.Address) chain.Address { k[19] ^= 0xff; return k }

func account(s *settletest.Script, i int) chain.Address { return owner(chain.AddressOf(s.Keys[i])) }

// earned adds up what account i has in the epochs' lines.
func earned(lines []settle.Line, who chain.Address) chain.Amount {
	sum := new(big.Int)
	for _, l := range lines {
		if l.Account == who {
			sum.Add(sum, l.Amount)
		}
	}
	return sum
}

func outcome(t testing.TB, c *settle.Close, p settle.Params, w settle.Words) *settle.Outcome {
	t.Helper()
	o, err := c.Outcome(p, w)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestEpochClosesWhenTheRunHasMovedOn(t *testing.T) {
	s := settletest.New(t, 3, 1)
	for range 4 { // rounds 1 to 4 are in epoch 5
		s.Round(5)
	}
	s.Round(7) // round 5: the clock passes 5
	s.Round(7)
	s.Round(7)
	s.Round(7)
	s.Round(7) // round 9 = 5 + LateRounds + 2
	d := settle.New(s.Params)
	closed := feed(t, s, d)
	if len(closed) != 1 || closed[0].Number != 5 || closed[0].Round != 9 || closed[0].Commit != s.IDs[9] {
		t.Fatalf("closed %+v", closed)
	}
	if d.Clock() != 7 || d.ClosedBelow() != 7 {
		t.Errorf("clock %d, closed below %d", d.Clock(), d.ClosedBelow())
	}
	if len(closed[0].Validators) != 1 || closed[0].Validators[0] != s.Keys[3].Peer() {
		t.Errorf("turns %v", closed[0].Validators)
	}
	o := outcome(t, &closed[0], s.Params, words())
	for i := range 3 {
		if got := earned(o.Lines, account(s, i)); got.Cmp(chain.Coins(30)) != 0 {
			t.Errorf("trainer %d earned %s", i, got)
		}
	}
}

func TestReasonsForZero(t *testing.T) {
	s := settletest.New(t, 6, 2)
	s.Round(1)
	s.Delta(0, 1, 1, 1000)
	s.Delta(1, 1, 0, 1000)                                                          // no receipt
	s.Delta(2, 1, 1, 1000, func(d *diloco.Delta) { d.Tokens = 5000 })               // receipt for another number
	s.Delta(3, 1, 99, 1000)                                                         // dated ahead
	d4 := s.Delta(4, 1, 1, 1000)                                                    // will be convicted
	s.Commit()                                                                      // 2
	s.Verdict(6, d4, 1, 1)                                                          // drawn: paid
	s.Verdict(7, d4, 1, 1, func(v *diloco.Verdict) { v.Finding = diloco.Withheld }) // found nothing
	s.Verdict(6, d4, 1, 1, func(v *diloco.Verdict) { v.Segment = 1 })               // another segment of the same delta is not paid again
	s.Delta(0, 1, 1, 1000)                                                          // the same payload again
	s.Delta(5, 2, 1, 1000)
	s.Ban(4, "wrong work")
	s.Ban(6, diloco.WhySilent) // what it did stays right
	s.Commit()                 // 3
	s.Round(2, 4)
	for range 5 {
		s.Round(2, 4)
	}
	closed := feed(t, s, settle.New(s.Params))
	if len(closed) != 1 {
		t.Fatalf("%d closed", len(closed))
	}
	w := words()
	w.Owner = func(k chain.Address) (chain.Address, bool) {
		return owner(k), k != chain.AddressOf(s.Keys[5])
	}
	o := outcome(t, &closed[0], s.Params, w)
	var got strings.Builder
	for _, l := range o.Lines {
		who := slices.IndexFunc(s.Keys, func(k *wire.Key) bool { return k.Peer() == l.Peer })
		fmt.Fprintf(&got, "%d round %d %s %d: %s %s\n", who, l.Round, l.Kind, l.Units, chain.FormatAmount(l.Amount), l.Why)
	}
	reasons := map[string]string{
		"0 round 2 training": "90", "1 round 2 training": "no receipt", "2 round 2 training": "bad receipt", "3 round 2 training": "dated ahead: epoch 99",
		"4 round 2 training": "convicted in round 3: wrong work", "6 round 3 validation": "10",
		"5 round 3 training": "key not registered",
	}
	for k, v := range reasons {
		if !strings.Contains(got.String(), k) || !strings.Contains(got.String(), v) {
			t.Errorf("no line %q with %q in\n%s", k, v, &got)
		}
	}
	for _, v := range []string{"withheld", "counted already in round 2", "not merged: no delta of round 2"} {
		if !strings.Contains(got.String(), v) {
			t.Errorf("no line with %q in\n%s", v, &got)
		}
	}
	if n := o.Settled.Epoch.Count; n != 2 {
		t.Errorf("%d receipts are paid, want 2:\n%s", n, &got)
	}
}

// One worker of three can neither hold the clock back nor push it on.
func TestAMinorityCannotMoveTheClock(t *testing.T) {
	for name, lie := range map[string]uint64{"held back": 1, "pushed on": 1000} {
		t.Run(name, func(t *testing.T) {
			s := settletest.New(t, 3, 1)
			s.Round(2)
			for e := uint64(2); e < 12; e++ {
				r := s.Next.Round - 1
				s.Delta(0, r, e, 1000)
				s.Delta(1, r, e, 1000)
				s.Delta(2, r, lie, 1000)
				s.Commit()
			}
			d := settle.New(s.Params)
			closed := feed(t, s, d)
			if d.Clock() != 11 {
				t.Errorf("clock %d, want 11", d.Clock())
			}
			if len(closed) == 0 || closed[len(closed)-1].Number != 6 {
				t.Errorf("closed %d epochs", len(closed))
			}
		})
	}
}

func TestAddRefusesWhatIsNotNext(t *testing.T) {
	s := settletest.New(t, 1, 0)
	s.Round(1)
	s.Round(1)
	d := settle.New(s.Params)
	if _, err := d.Add(s.IDs[1], s.Commits[1]); err == nil {
		t.Error("round 1 was taken before genesis")
	}
	if _, err := d.Add(s.IDs[0], s.Commits[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Add(s.IDs[2], s.Commits[2]); err == nil {
		t.Error("round 2 was taken after genesis")
	}
}

// A payment into a pool that does not cover the budget crosses with a proposal.
func TestMatchKnowsEveryPoolThatWas(t *testing.T) {
	s := settletest.New(t, 2, 1)
	s.Params.Stop, s.Params.AuditWindow = 3, 0
	for range 3 {
		s.Round(1)
	}
	c := feed(t, s, settle.New(s.Params))[0]
	w := words()
	w.Pool = chain.Coins(7)
	o := outcome(t, &c, s.Params, w)
	pools := []chain.Amount{chain.Coins(5), chain.Coins(7), chain.Coins(500), chain.Coins(501)}
	if m, err := c.Match(s.Params, w, pools, &o.Settled.Epoch); err != nil || m == nil {
		t.Errorf("%v, %v", m, err)
	}
	if m, err := c.Match(s.Params, w, pools[2:], &o.Settled.Epoch); err != nil || m != nil {
		t.Errorf("a pool that never was: %v, %v", m, err)
	}
	bad := o.Settled.Epoch
	bad.Rewards[0] ^= 1
	if m, err := c.Match(s.Params, w, pools, &bad); err != nil || m != nil {
		t.Errorf("another root: %v, %v", m, err)
	}
}

func TestFaultFindsWhatAProofCanShow(t *testing.T) {
	s := settletest.New(t, 3, 1)
	s.Params.Stop, s.Params.AuditWindow = 3, 0
	for range 3 {
		s.Round(1)
	}
	c := feed(t, s, settle.New(s.Params))[0]
	served := func(chain.Address) bool { return true }
	for name, f := range map[string]struct {
		lie  func(*chain.Settled)
		want string
	}{
		"nothing": {func(*chain.Settled) {}, "<nil>"},
		"twice": {func(x *chain.Settled) {
			x.Entries = append(x.Entries, x.Entries[0])
			x.Entries[len(x.Entries)-1].Index = uint64(len(x.Entries) - 1)
		}, "chain.ProveDuplicate"},
		"other units":    {func(x *chain.Settled) { x.Entries[1].Receipt.Units *= 2 }, "chain.ProveReceipt"},
		"a wrong sum":    {func(x *chain.Settled) { x.Rewards[1].Before = chain.Int(5) }, "chain.ProveRewards"},
		"one paid twice": {func(x *chain.Settled) { x.Rewards[1].Account = x.Rewards[0].Account }, "chain.ProveRewards"},
	} {
		x := outcome(t, &c, s.Params, words()).Settled
		f.lie(x)
		if err := x.Seal(s.Params.Book); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%T", settle.Fault(s.Params.Book, s.Params.ID, x, nil, served)); got != f.want {
			t.Errorf("%s: %s, want %s", name, got, f.want)
		}
	}
}

// random writes a chain of some rounds from a source of bytes.
func random(t testing.TB, seed uint64) *settletest.Script {
	r := rand.New(rand.NewPCG(seed, 6))
	s := settletest.New(t, 1+r.IntN(4), 1+r.IntN(3))
	s.Params.LateRounds = uint64(r.IntN(3))
	rounds := 8 + r.IntN(25)
	if r.IntN(3) == 0 {
		s.Params.AuditWindow = uint64(r.IntN(4))
		s.Params.Stop = uint64(rounds - r.IntN(3) - int(s.Params.AuditWindow))
	}
	epoch := uint64(1 + r.IntN(3))
	trainers := slices.Index(s.Roles, "validator")
	for range rounds {
		round := s.Next.Round - 1
		for i := range s.Keys {
			switch {
			case round == 0 || r.IntN(8) == 0:
			case i < trainers:
				e := epoch
				switch r.IntN(10) {
				case 0:
					e = 0
				case 1:
					e = uint64(r.IntN(12))
				}
				at := round - min(round, uint64(r.IntN(int(s.Params.LateRounds)+1)))
				s.Delta(i, at, e, uint64(r.IntN(2000)))
			case len(s.Commits[round].Deltas) > 0:
				ds := s.Commits[round].Deltas
				s.Verdict(i, ds[r.IntN(len(ds))], round-1, epoch, func(v *diloco.Verdict) {
					v.Finding = diloco.Finding(r.IntN(3))
					if r.IntN(5) == 0 {
						v.Coin = nil
					}
				})
			}
		}
		if r.IntN(12) == 0 {
			s.Ban(r.IntN(len(s.Keys)), "wrong work")
		}
		s.Commit()
		if r.IntN(3) == 0 {
			epoch += uint64(1 + r.IntN(2))
		}
	}
	return s
}

// check holds one chain to what must hold of every one.
func check(t *testing.T, s *settletest.Script) {
	d := settle.New(s.Params)
	closed := feed(t, s, d)
	// Equal, however often the peer restarts.
	again, at := settle.New(s.Params), 0
	for i, c := range s.Commits {
		b, err := again.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err = settle.Decode(s.Params, b); err != nil {
			t.Fatal(err)
		}
		xs, err := again.Add(s.IDs[i], c)
		if err != nil {
			t.Fatal(err)
		}
		for j := range xs {
			if at >= len(closed) || fmt.Sprint(xs[j]) != fmt.Sprint(closed[at]) {
				t.Fatalf("after restarts epoch %d came out otherwise", xs[j].Number)
			}
			at++
		}
	}
	if at != len(closed) {
		t.Fatalf("after restarts %d epochs are closed, before %d", at, len(closed))
	}
	banned := map[wire.PeerID]uint64{}
	for _, b := range d.Bans() {
		banned[b.Peer] = b.Round
	}
	w := words()
	last, paid := uint64(0), map[string]bool{}
	total := new(big.Int)
	for i := range closed {
		c := &closed[i]
		if c.Number <= last {
			t.Fatalf("epoch %d was closed after %d", c.Number, last)
		}
		last = c.Number
		o := outcome(t, c, s.Params, w)
		sum := new(big.Int)
		for _, l := range o.Lines {
			if (l.Amount.Sign() == 0) != (l.Why != "") {
				t.Fatalf("%+v: an amount of zero has a reason, and no other", l)
			}
			if l.Amount.Sign() == 0 {
				continue
			}
			sum.Add(sum, l.Amount)
			k := fmt.Sprint(l.Peer, l.Kind, l.Subject)
			if paid[k] {
				t.Fatalf("%+v was paid before", l)
			}
			paid[k] = true
			if r, ok := banned[l.Peer]; ok && r <= c.Round {
				t.Fatalf("%+v: the peer was convicted in round %d, the epoch closed in %d", l, r, c.Round)
			}
		}
		if sum.Cmp(w.Rate.Budget) > 0 {
			t.Fatalf("epoch %d pays %s of %s", c.Number, sum, w.Rate.Budget)
		}
		if o.Settled == nil {
			continue
		}
		total.Add(total, sum)
		if o.Settled.Epoch.Total.Cmp(total) != 0 {
			t.Fatalf("epoch %d: total %s, the lines say %s", c.Number, o.Settled.Epoch.Total, total)
		}
		if f := settle.Fault(s.Params.Book, s.Params.ID, o.Settled, nil, func(chain.Address) bool { return true }); f != nil {
			t.Fatalf("epoch %d could be disputed by %T", c.Number, f)
		}
		w.Before = settle.Cumulative(o.Settled)
	}
}

func TestRandomChains(t *testing.T) {
	n := uint64(60)
	if testing.Short() {
		n = 20
	}
	for seed := range n {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { check(t, random(t, seed)) })
	}
}

func FuzzChain(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { check(t, random(t, seed)) })
}

func FuzzDecode(f *testing.F) {
	s := random(f, 3)
	d := settle.New(s.Params)
	feed(f, s, d)
	b, err := d.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := settle.Decode(s.Params, b)
		if err != nil {
			return
		}
		if _, err := d.Encode(); err != nil {
			t.Fatal(err)
		}
	})
}

// The outcome of one chain, byte for byte: peers of other builds must agree.
func TestGolden(t *testing.T) {
	s := random(t, 11)
	w := words()
	var b strings.Builder
	closed := feed(t, s, settle.New(s.Params))
	for i := range closed {
		o := outcome(t, &closed[i], s.Params, w)
		fmt.Fprintf(&b, "epoch %d by round %d, %d works", closed[i].Number, closed[i].Round, len(o.Lines))
		if o.Settled != nil {
			h := o.Settled.Epoch.Hash()
			fmt.Fprintf(&b, ", hash %s", h)
			w.Before = settle.Cumulative(o.Settled)
		}
		lines, err := json.Marshal(o.Lines)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, ", lines %x\n", sha256.Sum256(lines))
	}
	const file = "testdata/golden.txt"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s(UPDATE_GOLDEN=1 writes it anew, once you know why it changed)", &b, want)
	}
}

// Nobody hides behind a ban for silence: what is worse replaces it, and nothing else
// replaces a ban.
func TestSilenceIsTheLeast(t *testing.T) {
	s := settletest.New(t, 2, 3)
	s.Ban(2, diloco.WhySilent)
	s.Ban(3, diloco.WhySilent)
	s.Ban(4, diloco.WhyVerdict)
	s.Commit()
	s.Ban(3, diloco.WhyVerdict)
	s.Ban(4, diloco.WhySilent)
	s.Commit()
	d := settle.New(s.Params)
	feed(t, s, d)
	why := map[wire.PeerID]string{}
	for _, b := range d.Bans() {
		why[b.Peer] = fmt.Sprint(b.Round, " ", b.Why)
	}
	for i, want := range map[int]string{2: "1 silent", 3: "2 false verdict", 4: "1 false verdict"} {
		if got := why[s.Keys[i].Peer()]; got != want {
			t.Errorf("%d: %s, want %s", i, got, want)
		}
	}
}

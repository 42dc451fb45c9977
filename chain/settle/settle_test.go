package settle_test

import (
	"bytes"
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
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// A script writes a chain of commits as a machine would, without one.
type script struct {
	t       testing.TB
	p       settle.Params
	keys    []*wire.Key // trainers, then validators
	roles   []string
	coins   map[wire.PeerID]*audit.Coin
	commits []*diloco.Commit
	ids     []wire.CID
	next    *diloco.Commit // being written
}

func key(t testing.TB, b byte) *wire.Key {
	t.Helper()
	k, err := wire.NewKey(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func cid(s string, args ...any) wire.CID {
	return wire.SumCID(wire.CodecDagCBOR, fmt.Appendf(nil, s, args...))
}

func newScript(t testing.TB, trainers, validators int) *script {
	s := &script{t: t, coins: map[wire.PeerID]*audit.Coin{}}
	run := cid("run")
	digest, err := chain.Digest(run)
	if err != nil {
		t.Fatal(err)
	}
	s.p = settle.Params{Run: run, ID: chain.RunID(digest, chain.Address{9}), Book: chain.MemoryBook(1), LateRounds: 2, AuditRate: 10_000, AuditWindow: 8}
	for i := range trainers + validators {
		k := key(t, byte(i+1))
		s.keys = append(s.keys, k)
		role := "trainer"
		if i >= trainers {
			role = "validator"
			s.coins[k.Peer()] = coin(k, run)
		}
		s.roles = append(s.roles, role)
	}
	g := &diloco.Commit{Version: 1, Run: run}
	s.add(g)
	return s
}

var coins = map[wire.PeerID]*audit.Coin{}

// coin remembers: each is 65,536 hashes.
func coin(k *wire.Key, run wire.CID) *audit.Coin {
	if coins[k.Peer()] == nil {
		coins[k.Peer()] = audit.NewCoin(k.Secret(), run)
	}
	return coins[k.Peer()]
}

func (s *script) add(c *diloco.Commit) {
	s.t.Helper()
	id, err := c.CID()
	if err != nil {
		s.t.Fatal(err)
	}
	s.commits, s.ids = append(s.commits, c), append(s.ids, id)
	s.next = &diloco.Commit{Version: 1, Run: s.p.Run, Round: c.Round + 1, Parent: id, Cases: slices.Clone(c.Cases)}
	for i, k := range s.keys {
		m := diloco.Member{Peer: k.Peer(), Role: s.roles[i], Weight: 1}
		if co := s.coins[k.Peer()]; co != nil {
			m.Coin = co.Root()
		}
		for j := range c.Roster {
			m.Banned = m.Banned || c.Roster[j].Peer == m.Peer && c.Roster[j].Banned
		}
		s.next.Roster = append(s.next.Roster, m)
	}
}

// sign makes the receipt of a peer.
func (s *script) sign(i int, epoch uint64, kind chain.Kind, subject wire.CID, units uint64) []byte {
	d, err := chain.Digest(subject)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.p.Book.SignReceipt(s.keys[i], chain.Receipt{Run: s.p.ID, Epoch: epoch, Kind: kind, Subject: d, Units: units}).Sig
}

// delta puts trainer i's delta of round into the next commit.
func (s *script) delta(i int, round, epoch, tokens uint64, change ...func(*diloco.Delta)) wire.Signed {
	s.t.Helper()
	d := diloco.Delta{Parent: s.ids[round], Round: round, State: cid("state"), Block: cid("payload %d %d", i, round), Tokens: tokens, Epoch: epoch}
	if epoch != 0 {
		d.Receipt = s.sign(i, epoch, chain.Training, d.Block, tokens)
	}
	for _, f := range change {
		f(&d)
	}
	m := s.say(i, wire.KindDelta, &d)
	s.next.Deltas = append(s.next.Deltas, m)
	return m
}

func (s *script) verdict(i int, of wire.Signed, round, epoch uint64, change ...func(*diloco.Verdict)) {
	s.t.Helper()
	v := diloco.Verdict{Subject: of.ID(), Peer: of.From, Round: round, Epoch: epoch, Coin: s.coins[s.keys[i].Peer()].Reveal(round)}
	if epoch != 0 {
		v.Receipt = s.sign(i, epoch, chain.Validation, v.Subject, 1)
	}
	for _, f := range change {
		f(&v)
	}
	s.next.Verdicts = append(s.next.Verdicts, s.say(i, wire.KindVerdict, &v))
}

func (s *script) say(i int, kind wire.Kind, body any) wire.Signed {
	b, err := wire.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.keys[i].Sign(kind, s.p.Run, b)
}

func (s *script) ban(i int, why string) {
	s.next.Convicted = append(s.next.Convicted, diloco.Conviction{Peer: s.keys[i].Peer(), Why: why, Subject: cid("subject %d", i), Evidence: cid("evidence")})
	s.next.Roster[i].Banned = true
}

func (s *script) commit() { s.t.Helper(); s.add(s.next) }

// round commits what all trainers but those named made in the round before.
func (s *script) round(epoch uint64, but ...int) {
	s.t.Helper()
	r := s.next.Round - 1
	for i := range s.keys {
		if s.roles[i] == "trainer" && r > 0 && !slices.Contains(but, i) && !s.next.Roster[i].Banned {
			s.delta(i, r, epoch, 1000)
		}
	}
	s.commit()
}

func (s *script) feed(d *settle.Deriver) []settle.Close {
	s.t.Helper()
	var out []settle.Close
	for i, c := range s.commits {
		xs, err := d.Add(s.ids[i], c)
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, xs...)
	}
	return out
}

// words pay 90 coins an epoch to trainers and 10 to validators; every key of
// the script belongs to the account with the same bytes but the last.
func (s *script) words() settle.Words {
	return settle.Words{Sponsor: chain.Address{9}, Pool: chain.Coins(1_000_000), Rate: chain.Rate{Budget: chain.Coins(100), Split: [4]uint16{9000, 0, 1000, 0}},
		Owner: func(k chain.Address) (chain.Address, bool) { return owner(k), true }}
}

func owner(k chain.Address) chain.Address { k[19] ^= 0xff; return k }

func (s *script) account(i int) chain.Address { return owner(chain.AddressOf(s.keys[i])) }

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
	s := newScript(t, 3, 1)
	for range 4 { // rounds 1 to 4 are in epoch 5
		s.round(5)
	}
	s.round(7) // round 5: the clock passes 5
	s.round(7)
	s.round(7)
	s.round(7)
	s.round(7) // round 9 = 5 + LateRounds + 2
	d := settle.New(s.p)
	closed := s.feed(d)
	if len(closed) != 1 || closed[0].Number != 5 || closed[0].Round != 9 || closed[0].Commit != s.ids[9] {
		t.Fatalf("closed %+v", closed)
	}
	if d.Clock() != 7 || d.ClosedBelow() != 7 {
		t.Errorf("clock %d, closed below %d", d.Clock(), d.ClosedBelow())
	}
	if len(closed[0].Validators) != 1 || closed[0].Validators[0] != s.keys[3].Peer() {
		t.Errorf("turns %v", closed[0].Validators)
	}
	o := outcome(t, &closed[0], s.p, s.words())
	for i := range 3 {
		if got := earned(o.Lines, s.account(i)); got.Cmp(chain.Coins(30)) != 0 {
			t.Errorf("trainer %d earned %s", i, got)
		}
	}
}

func TestReasonsForZero(t *testing.T) {
	s := newScript(t, 6, 2)
	s.round(1)
	s.delta(0, 1, 1, 1000)
	s.delta(1, 1, 0, 1000)                                                                           // no receipt
	s.delta(2, 1, 1, 1000, func(d *diloco.Delta) { d.Tokens = 5000 })                                // receipt for another number
	s.delta(3, 1, 99, 1000)                                                                          // dated ahead
	d4 := s.delta(4, 1, 1, 1000)                                                                     // will be convicted
	s.commit()                                                                                       // 2
	s.verdict(6, d4, 1, 1)                                                                           // drawn: paid
	s.verdict(7, d4, 1, 1, func(v *diloco.Verdict) { v.Coin = nil })                                 // nobody asked
	s.verdict(7, d4, 1, 1, func(v *diloco.Verdict) { v.Finding = diloco.Withheld })                  // found nothing
	s.verdict(6, d4, 1, 1, func(v *diloco.Verdict) { v.Coin = s.coins[s.keys[6].Peer()].Reveal(2) }) // counted already, and another round's coin
	s.delta(0, 1, 1, 1000)                                                                           // the same payload again
	s.delta(5, 2, 1, 1000)
	s.ban(4, "wrong work")
	s.commit() // 3
	s.round(2, 4)
	for range 5 {
		s.round(2, 4)
	}
	closed := s.feed(settle.New(s.p))
	if len(closed) != 1 {
		t.Fatalf("%d closed", len(closed))
	}
	w := s.words()
	w.Owner = func(k chain.Address) (chain.Address, bool) {
		return owner(k), k != chain.AddressOf(s.keys[5])
	}
	o := outcome(t, &closed[0], s.p, w)
	var got strings.Builder
	for _, l := range o.Lines {
		who := slices.IndexFunc(s.keys, func(k *wire.Key) bool { return k.Peer() == l.Peer })
		fmt.Fprintf(&got, "%d round %d %s %d: %s %s\n", who, l.Round, l.Kind, l.Units, chain.FormatAmount(l.Amount), l.Why)
	}
	reasons := map[string]string{
		"0 round 2 training": "90", "1 round 2 training": "no receipt", "2 round 2 training": "bad receipt", "3 round 2 training": "dated ahead: epoch 99",
		"4 round 2 training": "convicted in round 3: wrong work", "6 round 3 validation": "10", "7 round 3 validation": "nobody asked",
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
			s := newScript(t, 3, 1)
			s.round(2)
			for e := uint64(2); e < 12; e++ {
				r := s.next.Round - 1
				s.delta(0, r, e, 1000)
				s.delta(1, r, e, 1000)
				s.delta(2, r, lie, 1000)
				s.commit()
			}
			d := settle.New(s.p)
			closed := s.feed(d)
			if d.Clock() != 11 {
				t.Errorf("clock %d, want 11", d.Clock())
			}
			if len(closed) == 0 || closed[len(closed)-1].Number != 6 {
				t.Errorf("closed %d epochs", len(closed))
			}
		})
	}
}

func TestTheLastCommitClosesEverything(t *testing.T) {
	s := newScript(t, 2, 1)
	s.p.Last = 4
	for range 6 {
		s.round(3)
	}
	d := settle.New(s.p)
	closed := s.feed(d)
	if len(closed) != 1 || closed[0].Round != 4 || !d.Over() {
		t.Fatalf("closed %+v, over %v", closed, d.Over())
	}
}

func TestAddRefusesWhatIsNotNext(t *testing.T) {
	s := newScript(t, 1, 0)
	s.round(1)
	s.round(1)
	d := settle.New(s.p)
	if _, err := d.Add(s.ids[1], s.commits[1]); err == nil {
		t.Error("round 1 was taken before genesis")
	}
	if _, err := d.Add(s.ids[0], s.commits[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Add(s.ids[2], s.commits[2]); err == nil {
		t.Error("round 2 was taken after genesis")
	}
}

// A payment into a pool that does not cover the budget crosses with a proposal.
func TestMatchKnowsEveryPoolThatWas(t *testing.T) {
	s := newScript(t, 2, 1)
	s.p.Last = 3
	for range 3 {
		s.round(1)
	}
	c := s.feed(settle.New(s.p))[0]
	w := s.words()
	w.Pool = chain.Coins(7)
	o := outcome(t, &c, s.p, w)
	pools := []chain.Amount{chain.Coins(5), chain.Coins(7), chain.Coins(500), chain.Coins(501)}
	if m, err := c.Match(s.p, w, pools, &o.Settled.Epoch); err != nil || m == nil {
		t.Errorf("%v, %v", m, err)
	}
	if m, err := c.Match(s.p, w, pools[2:], &o.Settled.Epoch); err != nil || m != nil {
		t.Errorf("a pool that never was: %v, %v", m, err)
	}
	bad := o.Settled.Epoch
	bad.Rewards[0] ^= 1
	if m, err := c.Match(s.p, w, pools, &bad); err != nil || m != nil {
		t.Errorf("another root: %v, %v", m, err)
	}
}

func TestFaultFindsWhatAProofCanShow(t *testing.T) {
	s := newScript(t, 3, 1)
	s.p.Last = 3
	for range 3 {
		s.round(1)
	}
	c := s.feed(settle.New(s.p))[0]
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
		x := outcome(t, &c, s.p, s.words()).Settled
		f.lie(x)
		if err := x.Seal(s.p.Book); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%T", settle.Fault(s.p.Book, s.p.ID, x, nil, served)); got != f.want {
			t.Errorf("%s: %s, want %s", name, got, f.want)
		}
	}
}

// random writes a chain of some rounds from a source of bytes.
func random(t testing.TB, seed uint64) *script {
	r := rand.New(rand.NewPCG(seed, 6))
	s := newScript(t, 1+r.IntN(4), 1+r.IntN(3))
	s.p.LateRounds, s.p.AuditRate = uint64(r.IntN(3)), uint64(r.IntN(10_001))
	rounds := 8 + r.IntN(25)
	if r.IntN(3) == 0 {
		s.p.Last = uint64(rounds - r.IntN(3))
	}
	epoch := uint64(1 + r.IntN(3))
	trainers := slices.Index(s.roles, "validator")
	for range rounds {
		round := s.next.Round - 1
		for i := range s.keys {
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
				at := round - min(round, uint64(r.IntN(int(s.p.LateRounds)+1)))
				s.delta(i, at, e, uint64(r.IntN(2000)))
			case len(s.commits[round].Deltas) > 0:
				ds := s.commits[round].Deltas
				s.verdict(i, ds[r.IntN(len(ds))], round-1, epoch, func(v *diloco.Verdict) {
					v.Finding = diloco.Finding(r.IntN(3))
					if r.IntN(5) == 0 {
						v.Coin = nil
					}
				})
			}
		}
		if r.IntN(12) == 0 {
			s.ban(r.IntN(len(s.keys)), "wrong work")
		}
		s.commit()
		if r.IntN(3) == 0 {
			epoch += uint64(1 + r.IntN(2))
		}
	}
	return s
}

// check holds one chain to what must hold of every one.
func check(t *testing.T, s *script) {
	d := settle.New(s.p)
	closed := s.feed(d)
	// Equal, however often the peer restarts.
	again, at := settle.New(s.p), 0
	for i, c := range s.commits {
		b, err := again.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err = settle.Decode(s.p, b); err != nil {
			t.Fatal(err)
		}
		xs, err := again.Add(s.ids[i], c)
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
	w := s.words()
	last, paid := uint64(0), map[string]bool{}
	total := new(big.Int)
	for i := range closed {
		c := &closed[i]
		if c.Number <= last {
			t.Fatalf("epoch %d was closed after %d", c.Number, last)
		}
		last = c.Number
		o := outcome(t, c, s.p, w)
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
		if f := settle.Fault(s.p.Book, s.p.ID, o.Settled, nil, func(chain.Address) bool { return true }); f != nil {
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
	d := settle.New(s.p)
	s.feed(d)
	b, err := d.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := settle.Decode(s.p, b)
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
	w := s.words()
	var b strings.Builder
	closed := s.feed(settle.New(s.p))
	for i := range closed {
		o := outcome(t, &closed[i], s.p, w)
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

package agent

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/devchain"
	"github.com/shoalnet/shoal/chain/evm"
	"github.com/shoalnet/shoal/chain/settle/settletest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// embedded is a world on an embedded geth, in real time. Its accounts are the
// peers', the sponsor's, and nobody's who is not funded here.
func embedded(t *testing.T, trainers, validators int, epochLength uint64) *world {
	t.Helper()
	if os.Getenv("SHOAL_CHAIN") == "" {
		t.Skip("SKIPPED: epochs were NOT settled on an embedded chain (two minutes): set SHOAL_CHAIN=1 or run `make contracts`")
	}
	w := &world{t: t, ctx: t.Context(), sponsor: settletest.Key(t, 99), blobs: map[wire.CID][]byte{}}
	keys := []*wire.Key{w.sponsor}
	for i := range trainers + validators {
		keys = append(keys, settletest.Key(t, i))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	opt := devchain.Options{Dir: t.TempDir(), Port: port, ChainID: evm.DevChainID}
	for _, k := range keys {
		opt.Funded = append(opt.Funded, common.Address(chain.AddressOf(k)))
	}
	d, err := devchain.Start(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	p := evm.Presets["dev"]
	p.URL = d.URL
	c, err := evm.Dial(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	w.cfg = chain.DevConfig(chain.AddressOf(w.sponsor))
	w.cfg.Governor = chain.AddressOf(w.sponsor)
	var senders []*evm.Sender
	for _, k := range keys {
		s, err := evm.NewSender(c, k, evm.SenderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		senders = append(senders, s)
	}
	book, err := evm.Deploy(t.Context(), senders[0], w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if w.ledger, err = evm.Open(t.Context(), c, book, senders...); err != nil {
		t.Fatal(err)
	}
	w.settleIn(trainers, validators, epochLength, 15)
	return w
}

// rounds lets the script write a round every two seconds until done says so.
func (w *world) rounds(limit time.Duration, round func(epoch uint64), done func() bool) {
	w.t.Helper()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	end := time.NewTimer(limit)
	defer end.Stop()
	for !done() {
		select {
		case <-tick.C:
			w.now(round)
		case <-end.C:
			w.t.Fatalf("nothing came of it in %s", limit)
		}
	}
}

// On a real EVM: epochs derived from a scripted chain of commits with three
// workers and two validators, of whom one worker is convicted, are proposed,
// signed and final by signatures; the convicted is slashed after the time to
// appeal, the others are paid, shares minted, the books balanced.
func TestSettlesOnEmbeddedChain(t *testing.T) {
	w := embedded(t, 3, 2, 10)
	dir := t.TempDir()
	margin := func(o *Options) { o.Margin = 4 }
	a, stop := w.start(3, dir, margin)
	_, stop2 := w.start(4, t.TempDir(), margin)
	began := time.Now()
	cheated := false
	w.rounds(4*time.Minute, func(e uint64) {
		if e >= 2 && !cheated {
			w.s.Ban(2, "wrong work")
			cheated = true
		}
		w.round(e)
	}, func() bool { return w.final().Epoch >= 3 && len(w.events("ConvictionClosed")) > 0 })
	t.Logf("three epochs and a slash in %s", time.Since(began).Round(time.Second))
	w.rounds(time.Minute, func(uint64) {}, func() bool { return a.Status().Final >= 3 })
	stop()
	stop2()
	w.settledInPeace()
	earned := w.claimAll(dir)
	if num(earned[w.at(2)]).Sign() != 0 || num(earned[w.at(0)]).Sign() == 0 || num(earned[w.at(3)]).Sign() == 0 {
		t.Errorf("earned: %v", earned)
	}
	sh, err := w.ledger.SharesOf(t.Context(), w.s.Params.ID, w.at(0))
	if err != nil || sh.Balance.Cmp(num(earned[w.at(0)])) != 0 {
		t.Errorf("shares %+v for %s earned, %v", sh, earned[w.at(0)], err)
	}
	w.balanced()
}

// A wrong proposal on a real EVM is challenged and its proposer slashed; then the
// right one becomes final.
func TestChallengesOnEmbeddedChain(t *testing.T) {
	w := embedded(t, 2, 3, 10)
	liar := w.s.Keys[4]
	me := chain.AddressOf(liar)
	w.do(liar, chain.Approve{Spender: chain.Settlement, Amount: chain.Unlimited()})
	w.do(liar, chain.DepositBond{Amount: w.cfg.Bond})
	o := w.options(4, t.TempDir())
	o.Margin = 2
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.rounds(2*time.Minute, w.round, func() bool {
		if err := a.follow(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := a.ask(t.Context()); err != nil {
			t.Fatal(err)
		}
		return a.next != nil
	})
	lie := a.next.outcome.Settled
	lie.Rewards[0].Amount = add(lie.Rewards[0].Amount, chain.Int(1)) // and the sums do not fit
	total := lie.Epoch.Total
	if err := lie.Seal(w.s.Params.Book); err != nil {
		t.Fatal(err)
	}
	lie.Epoch.Total = total
	w.do(liar, chain.Propose{Epoch: lie.Epoch})
	margin := func(o *Options) { o.Margin = 2 }
	w.start(2, t.TempDir(), margin)
	w.start(3, t.TempDir(), margin)
	began := time.Now()
	w.rounds(3*time.Minute, w.round, func() bool { return w.final().Epoch > 0 })
	t.Logf("slashed, and the right epoch final, in %s", time.Since(began).Round(time.Second))
	r := w.events("Rejected")
	if len(r) != 1 || !r[0].Guilty || r[0].Account != me {
		t.Fatalf("rejected: %+v", r)
	}
	if got := w.stake(4); got.Cmp(chain.Coins(700)) != 0 {
		t.Errorf("the liar has %s at stake, want 700", chain.FormatAmount(got))
	}
	w.balanced()
}

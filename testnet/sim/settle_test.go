package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/big"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// epochs is a Ledger: real keys and receipts, and what package settle derives
// of the final chain. An epoch takes two minutes; no two peers read the same clock.
type epochs struct {
	cfg   Config
	book  chain.Book
	id    chain.Hash
	keys  []*wire.Key
	paid  *big.Int // to all, at the end
	lines int
}

var budget = chain.Rate{Budget: chain.Coins(1_000), Split: [4]uint16{8_000, 0, 2_000, 0}}

func newEpochs(c Config) *epochs {
	run := wire.SumCID(wire.CodecDagCBOR, binary.BigEndian.AppendUint64(nil, c.Seed)) // as newWorld
	d, err := chain.Digest(run)
	if err != nil {
		panic(err)
	}
	return &epochs{cfg: c, book: chain.MemoryBook(1), id: chain.RunID(d, chain.Address{9})}
}

func (l *epochs) key(n int) *wire.Key {
	for i := len(l.keys); i <= n; i++ {
		h := sha256.Sum256(fmt.Appendf(nil, "key %d", i))
		k, err := wire.NewKey(h[:])
		if err != nil {
			panic(err)
		}
		l.keys = append(l.keys, k)
	}
	return l.keys[n]
}

func (l *epochs) Peer(n int) wire.PeerID { return l.key(n).Peer() }

func (l *epochs) Sign(n int, kind wire.Kind, subject wire.CID, units uint64, now time.Duration) (uint64, []byte) {
	epoch := 1 + uint64((now+time.Duration(n)*time.Second)/(2*time.Minute))
	d, err := chain.Digest(subject)
	if err != nil {
		panic(err)
	}
	r := chain.Receipt{Run: l.id, Epoch: epoch, Kind: chain.Training, Subject: d, Units: units}
	if kind == wire.KindVerdict {
		r.Kind = chain.Validation
	}
	return epoch, l.book.SignReceipt(l.key(n), r).Sig
}

// Settle derives every epoch twice, once with a restart after each commit, and
// holds the result against who did what.
func (l *epochs) Settle(commits []*diloco.Commit, convicted func(wire.PeerID) uint64, honest func(wire.PeerID) bool) error {
	cfg := l.cfg.withDefaults()
	p := settle.Params{Run: commits[0].Run, ID: l.id, Book: l.book, LateRounds: 2, AuditWindow: cfg.Window, Stop: cfg.Stop}
	straight, torn := settle.New(p), settle.New(p)
	words := settle.Words{Sponsor: chain.Address{9}, Rate: budget, Pool: chain.Coins(1_000_000), Owner: func(k chain.Address) (chain.Address, bool) { return k, true }}
	before, epoch := new(big.Int), uint64(0)
	merged, earned := map[wire.PeerID]int{}, map[wire.PeerID]*big.Int{}
	for _, k := range commits {
		for _, w := range k.Merged() {
			merged[w.Peer]++
		}
		id, err := k.CID()
		if err != nil {
			return err
		}
		closed, err := straight.Add(id, k)
		if err != nil {
			return err
		}
		memo, err := torn.Encode()
		if err != nil {
			return err
		}
		if torn, err = settle.Decode(p, memo); err != nil {
			return err
		}
		again, err := torn.Add(id, k)
		if err != nil {
			return err
		}
		if len(closed) != len(again) {
			return fmt.Errorf("after a restart the commit of round %d closes %d epochs, without one %d", k.Round, len(again), len(closed))
		}
		for i := range closed {
			if closed[i].Number <= epoch {
				return fmt.Errorf("epoch %d is closed after epoch %d", closed[i].Number, epoch)
			}
			epoch = closed[i].Number
			a, err := closed[i].Outcome(p, words)
			if err != nil {
				return err
			}
			b, err := again[i].Outcome(p, words)
			if err != nil {
				return err
			}
			if (a.Settled == nil) != (b.Settled == nil) || a.Settled != nil && a.Settled.Epoch.Hash() != b.Settled.Epoch.Hash() {
				return fmt.Errorf("epoch %d has two outcomes", epoch)
			}
			if a.Settled == nil {
				continue
			}
			if err := l.balance(a, before, convicted, closed[i].Round, earned); err != nil {
				return fmt.Errorf("epoch %d: %w", epoch, err)
			}
			before = a.Settled.Epoch.Total
			words.Before = settle.Cumulative(a.Settled)
		}
	}
	for peer, n := range merged {
		if e := earned[peer]; honest(peer) && n > 0 && (e == nil || e.Sign() <= 0) {
			return fmt.Errorf("honest %s has %d deltas in the chain and earned nothing", peer.Short(), n)
		}
	}
	l.paid = before
	return nil
}

// balance: what lines earn is what the tree pays, within the budget, and nothing
// of it to whom the epoch's last commit, or one before, convicted.
func (l *epochs) balance(o *settle.Outcome, before *big.Int, convicted func(wire.PeerID) uint64, round uint64, earned map[wire.PeerID]*big.Int) error {
	sum := new(big.Int)
	for _, x := range o.Lines {
		l.lines++
		if r := convicted(x.Peer); r > 0 && r <= round && x.Amount.Sign() > 0 {
			return fmt.Errorf("%s, convicted in round %d, earns %s for round %d", x.Peer.Short(), r, chain.FormatAmount(x.Amount), x.Round)
		}
		sum.Add(sum, x.Amount)
		if earned[x.Peer] == nil {
			earned[x.Peer] = new(big.Int)
		}
		earned[x.Peer].Add(earned[x.Peer], x.Amount)
	}
	rewards := new(big.Int)
	for _, r := range o.Settled.Rewards {
		rewards.Add(rewards, r.Amount)
	}
	total := o.Settled.Epoch.Total
	amounts := new(big.Int)
	for _, a := range o.Settled.Epoch.Amounts {
		amounts.Add(amounts, a)
	}
	grown := new(big.Int).Sub(total, before)
	switch {
	case rewards.Cmp(total) != 0:
		return fmt.Errorf("the tree holds %s of %s", chain.FormatAmount(rewards), chain.FormatAmount(total))
	case grown.Cmp(sum) != 0 || grown.Cmp(amounts) != 0:
		return fmt.Errorf("the total grew by %s, the lines earn %s, the roles %s", chain.FormatAmount(grown), chain.FormatAmount(sum), chain.FormatAmount(amounts))
	case grown.Cmp(budget.Budget) > 0:
		return fmt.Errorf("%s is over the budget", chain.FormatAmount(grown))
	}
	return nil
}

// TestSettlement pays for universes with cheats, lies and faults: nobody who was
// convicted, everybody who was not, and to the last unit. SIM_SEEDS says how many.
func TestSettlement(t *testing.T) {
	n := number(t, "SIM_SEEDS", 30)
	if testing.Short() {
		n = 8
	}
	var next, bad atomic.Int64
	var mu sync.Mutex // guards lines and sum
	var sum Report
	lines := 0
	var work sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 16) {
		work.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(n) || bad.Load() >= 5 {
					return
				}
				c := Random(2*uint64(i) + 1) // the odd ones audit
				if c.AuditRate == 0 {
					continue
				}
				l := newEpochs(c)
				c.Ledger = l
				r, err := Run(c)
				if err != nil {
					bad.Add(1)
					t.Errorf("%v\n%v", err, c)
					continue
				}
				mu.Lock()
				lines += l.lines
				sum.add(r)
				mu.Unlock()
			}
		})
	}
	work.Wait()
	t.Logf("%d pieces of work settled; %s", lines, sum.audits())
	if lines == 0 || sum.Convicted == 0 {
		t.Error("nothing happened")
	}
}

package agent

import (
	"context"
	"errors"
	"math/big"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle/settletest"
	"github.com/shoalnet/shoal/diloco"
)

// away is a ledger that cannot be reached while down is set.
type away struct {
	chain.Ledger
	mu   sync.Mutex
	down bool // guarded by mu
}

var errAway = errors.New("connection refused")

func (l *away) gone() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return errAway
	}
	return nil
}

func (l *away) set(down bool) { l.mu.Lock(); l.down = down; l.mu.Unlock() }

func (l *away) Now(ctx context.Context) (uint64, error) {
	if err := l.gone(); err != nil {
		return 0, err
	}
	return l.Ledger.Now(ctx)
}

func (l *away) Do(ctx context.Context, from chain.Address, a chain.Action) (chain.Result, error) {
	if err := l.gone(); err != nil {
		return chain.Result{}, err
	}
	return l.Ledger.Do(ctx, from, a)
}

// The chain goes away for an hour: work goes on and is receipted, and afterwards
// every epoch is settled.
func TestAnHourWithoutTheChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 2, 120)
		w.do(w.sponsor, chain.Fund{Run: w.s.Params.ID, Amount: chain.Coins(100_000)})
		net := &away{Ledger: w.ledger}
		dir := t.TempDir()
		a, _ := w.start(2, dir, func(o *Options) { o.Ledger = net })
		w.start(3, t.TempDir(), func(o *Options) { o.Ledger = net })
		w.seconds(60, w.round)
		net.set(true)
		before := w.final().Epoch
		slow := func(f func(uint64)) func(uint64) { // a round in twelve seconds
			n := 0
			return func(e uint64) {
				if n++; n%3 == 0 {
					f(e)
				}
			}
		}
		w.seconds(3600, slow(func(e uint64) {
			if got, sig := a.Sign(0, settletest.CID("work"), 5); got != e || len(sig) != 65 {
				t.Errorf("while the chain is away a receipt is for epoch %d, want %d", got, e)
			}
			w.round(e)
		}))
		if a.Status().Trouble == "" {
			t.Error("the status does not say that the ledger is away")
		}
		if w.final().Epoch != before {
			t.Fatal("something was settled without a ledger")
		}
		net.set(false)
		w.seconds(1200, slow(w.round))
		synctest.Wait()
		if f, want := w.final().Epoch, uint64(4800/120-4); f < want {
			t.Errorf("epoch %d is settled after an hour away, want %d; %+v", f, want, a.Status())
		}
		w.claimAll(dir)
	})
}

// Killed at random, over and over: the same is settled, and nothing is paid twice.
func TestKilledAtAnyTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 2, 20)
		dirs := []string{t.TempDir(), t.TempDir()}
		stops := make([]func(), 2)
		for i := range 2 {
			_, stops[i] = w.start(2+i, dirs[i])
		}
		for n := range 40 {
			w.seconds(1+n%7, nil)
			w.now(func(e uint64) {
				if e == 3 && !slices.ContainsFunc(w.s.Next.Roster, func(m diloco.Member) bool { return m.Banned }) {
					w.s.Ban(1, "wrong work")
				}
				w.round(e)
			})
			i := n % 2
			stops[i]()
			w.mu.Lock()
			w.topics = slices.DeleteFunc(w.topics, func(p *topic) bool { return len(w.topics) > 2 && p == w.topics[0] })
			w.mu.Unlock()
			_, stops[i] = w.start(2+i, dirs[i])
		}
		w.seconds(60, w.round)
		synctest.Wait()
		if w.final().Epoch < 5 {
			t.Errorf("only epoch %d is settled", w.final().Epoch)
		}
		if n := len(w.events("Slashed")); n != 1 {
			t.Errorf("slashed %d times", n)
		}
		if n := len(w.events("Rejected")); n != 0 {
			t.Errorf("%d proposals were rejected", n)
		}
		w.claimAll(dirs[0])
		sum := new(big.Int)
		for _, i := range []int{2, 3} {
			b, err := w.ledger.Bonds(w.ctx, w.at(i))
			if err != nil {
				t.Fatal(err)
			}
			sum.Add(sum, b)
		}
		if sum.Cmp(new(big.Int).Mul(big.NewInt(2), w.cfg.Bond)) > 0 {
			t.Errorf("%s in bonds: put in more than once", sum)
		}
	})
}

// The ledger is set back to what it was before the first epoch, while nobody looks: what
// it had settled is settled again, and who was slashed is slashed again, once.
func TestLedgerIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 2, 20)
		began, err := w.ledger.Now(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		dirs, stops := []string{t.TempDir(), t.TempDir()}, make([]func(), 2)
		for i := range 2 {
			_, stops[i] = w.start(3+i, dirs[i])
		}
		w.seconds(50, w.round)
		w.now(func(uint64) { w.s.Ban(2, "wrong work") })
		w.seconds(80, w.round)
		was := w.final().Epoch
		if was < 3 || len(w.events("ConvictionClosed")) != 1 {
			t.Fatalf("epoch %d is settled, %d slashed", was, len(w.events("ConvictionClosed")))
		}
		for _, stop := range stops {
			stop()
		}
		synctest.Wait()
		now, err := w.ledger.Now(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		old := &world{t: t, ctx: w.ctx, cfg: w.cfg, sponsor: w.sponsor}
		if old.mem, err = chain.NewMemory(w.cfg, chain.MemoryBook(1), began); err != nil {
			t.Fatal(err)
		}
		old.ledger = old.mem
		old.settleIn(3, 2, 20, firstEpoch)
		old.mem.Advance(now - began)
		w.mu.Lock()
		w.ledger, w.mem, w.topics = old.ledger, old.mem, nil
		w.mu.Unlock()
		if w.final().Epoch != 0 {
			t.Fatal("the ledger was not set back")
		}
		for i := range 2 {
			_, stops[i] = w.start(3+i, dirs[i])
		}
		w.seconds(120, w.round)
		if w.final().Epoch < was {
			t.Errorf("only epoch %d is settled again, it was %d", w.final().Epoch, was)
		}
		if n := len(w.events("ConvictionClosed")); n != 1 {
			t.Errorf("slashed %d times", n)
		}
		synctest.Wait()
		w.settledInPeace()
		w.claimAll(dirs[0])
	})
}

package evm

import (
	"context"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/shoalnet/shoal/chain"
)

// deep is more blocks than geth looks back for transactions that a reorganization
// drops: it does not mine them again by itself.
const deep = 70

// rewind puts the chain back to a block, deep below, as a node that was restored from an
// older state does, and seals so many blocks on top of it.
func (s *sealing) rewind(t testing.TB, to *types.Header, blocks int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for range deep {
		s.sim.Commit()
	}
	if err := s.sim.Fork(to.Hash()); err != nil {
		t.Fatal(err)
	}
	for range blocks {
		s.sim.Commit()
	}
}

// beat seals a block every few milliseconds until the test ends.
func (s *sealing) beat(t testing.TB) {
	stop := make(chan struct{})
	var blocks sync.WaitGroup
	blocks.Go(func() {
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				s.mu.Lock()
				s.sim.Commit()
				s.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() { close(stop); blocks.Wait() })
}

func head(t testing.TB, b Backend) *types.Header {
	t.Helper()
	h, err := b.HeaderByNumber(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// other is a call that leaves a trace of its own.
func other(t testing.TB, l *Ledger, coins int64) (*common.Address, []byte) {
	t.Helper()
	at, data, err := l.Call(t.Context(), chain.Approve{Spender: chain.Runs, Amount: chain.Coins(coins)})
	if err != nil {
		t.Fatal(err)
	}
	return &at, data
}

func approved(t testing.TB, l *Ledger, coins int64) {
	t.Helper()
	data := tokenABI.PackAllowance(address(chain.AddressOf(testKeys(t, 1)[0])), l.at(chain.Runs))
	got, err := view(t.Context(), l, l.at(chain.Token), data, tokenABI.UnpackAllowance)
	if err != nil || got.Cmp(chain.Coins(coins)) != 0 {
		t.Fatalf("approved %v (%v), want %d coins", got, err, coins)
	}
}

// A chain loses a payment that was safe, and has been forgotten. The next
// transaction, of the same process or of one that was started since, is not to wait for
// the nonce that is missing: the payment is sent again, the very same, and counts once, also
// where its owner asks for it again.
func TestSafeTransactionIsLost(t *testing.T) {
	for name, test := range map[string]struct {
		blocks  int  // after the loss: fewer than before, or more
		restart bool // another process sends the next one
		same    bool // which is the same payment
		flying  bool // the loss comes when the next one is already signed
	}{
		"short":         {blocks: 1},
		"long":          {blocks: deep + 5},
		"restarted":     {blocks: deep + 5, restart: true},
		"asked again":   {blocks: deep + 5, same: true},
		"again, anew":   {blocks: 1, same: true, restart: true},
		"in flight":     {blocks: deep + 5, flying: true},
		"flying, short": {blocks: 1, flying: true},
	} {
		t.Run(name, func(t *testing.T) {
			s, m, c, l, file := moody(t)
			before := head(t, s)
			to, data, who := transfer(l, t)
			var told []Loss
			opt := SenderOptions{File: file, OnLoss: func(l Loss) { told = append(told, l) }}
			x := newSender(t, c, opt)
			if _, err := x.Send(t.Context(), to, data); err != nil {
				t.Fatal(err)
			}
			paid(t, l, who, 5)
			if !test.flying {
				s.rewind(t, before, test.blocks)
				paid(t, l, who, 0)
			} else {
				m.swallow = func(*types.Transaction) (bool, error) { // the first is the new one
					m.swallow = nil
					s.rewind(t, before, test.blocks)
					return true, errDown
				}
			}
			s.beat(t)
			if test.restart {
				x = newSender(t, c, opt)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			at, next := to, data
			if !test.same {
				at, next = other(t, l, 3)
			}
			if _, err := x.Send(ctx, at, next); err != nil {
				t.Fatal(err)
			}
			paid(t, l, who, 5)
			if !test.same {
				approved(t, l, 3)
			}
			if x.Pending() != 0 || len(x.Losses()) != 0 {
				t.Errorf("%d in flight, losses %v", x.Pending(), x.Losses())
			}
			if len(told) != 1 || !told[0].Again || told[0].Tx == (common.Hash{}) {
				t.Errorf("told: %v", told)
			}
			// Once it is there again, the same payment is a second one.
			if _, err := x.Send(ctx, to, data); err != nil {
				t.Fatal(err)
			}
			paid(t, l, who, 10)
		})
	}
}

// Several are lost, of two accounts, and nobody sends anything: who tends them brings all
// back, in the order in which one account needs them.
func TestLostIsTended(t *testing.T) {
	s, _, c, l, file := moody(t)
	ks := testKeys(t, 2)
	before := head(t, s)
	to, data, who := transfer(l, t)
	a := newSender(t, c, SenderOptions{File: file})
	b, err := NewSender(c, ks[1], SenderOptions{File: file + ".b"})
	if err != nil {
		t.Fatal(err)
	}
	back, reply, err := l.Call(t.Context(), chain.Transfer{To: chain.AddressOf(ks[0]), Amount: chain.Coins(2)})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second account has nothing but what the first pays it
		if _, err := a.Send(t.Context(), to, data); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Send(t.Context(), &back, reply); err != nil {
			t.Fatal(err)
		}
	}
	paid(t, l, who, 6)
	s.rewind(t, before, deep+9)
	s.beat(t)
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	work.Go(func() { a.Tend(ctx, func(err error) { t.Error(err) }) })
	for b, err := l.Balance(t.Context(), who); err != nil || b.Cmp(chain.Coins(10)) != 0; b, err = l.Balance(t.Context(), who) {
		if err := c.pause(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	work.Go(func() { b.Tend(ctx, func(err error) { t.Error(err) }) }) // now it has what it needs
	for b, err := l.Balance(t.Context(), who); err != nil || b.Cmp(chain.Coins(6)) != 0; b, err = l.Balance(t.Context(), who) {
		if err := c.pause(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// What the chain has mined again by itself, in another block, is not sent again; what
// reverts there is told of.
func TestLostAndMinedElsewhere(t *testing.T) {
	s, m, c, l, file := moody(t)
	before := head(t, s)
	to, data, who := transfer(l, t)
	var raw *types.Transaction
	m.swallow = func(tx *types.Transaction) (bool, error) { raw = tx; return false, nil }
	var told []Loss
	x := newSender(t, c, SenderOptions{File: file, OnLoss: func(l Loss) { told = append(told, l) }})
	if _, err := x.Send(t.Context(), to, data); err != nil {
		t.Fatal(err)
	}
	s.rewind(t, before, deep+5)
	if err := s.SendTransaction(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	sends := m.sends.Load()
	at, next := other(t, l, 3)
	if _, err := x.Send(t.Context(), at, next); err != nil {
		t.Fatal(err)
	}
	paid(t, l, who, 5)
	if len(told) != 0 || m.sends.Load() != sends+1 {
		t.Errorf("told %v, %d sent", told, m.sends.Load()-sends)
	}

	// The second account pays back of what it has then not got.
	ks := testKeys(t, 2)
	poor, err := NewSender(c, ks[1], SenderOptions{OnLoss: func(l Loss) { told = append(told, l) }})
	if err != nil {
		t.Fatal(err)
	}
	back, reply, err := l.Call(t.Context(), chain.Transfer{To: chain.AddressOf(ks[0]), Amount: chain.Coins(2)})
	if err != nil {
		t.Fatal(err)
	}
	m.swallow = func(tx *types.Transaction) (bool, error) { raw = tx; return false, nil }
	if _, err := poor.Send(t.Context(), &back, reply); err != nil {
		t.Fatal(err)
	}
	s.rewind(t, before, 2*deep)
	if err := s.SendTransaction(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	poor.look(t.Context())
	if len(told) != 1 || told[0].Again || !strings.Contains(told[0].Why, "reverts") {
		t.Errorf("told %v", told)
	}
}

// Another program has used the nonce on the chain as it is now: what was lost cannot be
// sent again, nobody waits for it, and that is said.
func TestLostForGood(t *testing.T) {
	s, _, c, l, file := moody(t)
	before := head(t, s)
	to, data, who := transfer(l, t)
	var told []Loss
	x := newSender(t, c, SenderOptions{File: file, OnLoss: func(l Loss) { told = append(told, l) }})
	if _, err := x.send(t.Context(), "Transfer", to, data, nil); err != nil {
		t.Fatal(err)
	}
	s.rewind(t, before, deep+5)
	at, next := other(t, l, 3)
	if _, err := newSender(t, c, SenderOptions{}).Send(t.Context(), at, next); err != nil {
		t.Fatal(err)
	}
	at, next = other(t, l, 4)
	if _, err := x.Send(t.Context(), at, next); err != nil {
		t.Fatal(err)
	}
	approved(t, l, 4)
	paid(t, l, who, 0)
	if len(told) != 1 || told[0].Again || !strings.Contains(told[0].String(), "Transfer (nonce") || !strings.Contains(told[0].Why, "do it again") {
		t.Errorf("told %v", told)
	}
	if got := x.Losses(); len(got) != 1 || got[0] != told[0] {
		t.Errorf("losses %v", got)
	}
}

// A nonce that nobody here knows anything of, since another program has used it: it has
// time to send it again, then an empty transaction takes its place.
func TestUnknownGap(t *testing.T) {
	for _, comes := range []bool{true, false} {
		s, m, c, l, file := moody(t)
		before := head(t, s)
		to, data, who := transfer(l, t)
		another := newSender(t, c, SenderOptions{File: filepath.Join(t.TempDir(), "other")})
		if _, err := another.Send(t.Context(), to, data); err != nil {
			t.Fatal(err)
		}
		ctx, kill := context.WithCancel(t.Context())
		m.swallow = func(*types.Transaction) (bool, error) { kill(); return true, errDown }
		at, next := other(t, l, 3)
		if _, err := newSender(t, c, SenderOptions{File: file}).Send(ctx, at, next); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		m.swallow = nil
		s.rewind(t, before, deep+5)
		s.beat(t)
		want := int64(0)
		c.Bump = 20 * time.Millisecond
		var told []Loss
		x := newSender(t, c, SenderOptions{File: file, OnLoss: func(l Loss) {
			told = append(told, l)
		}})
		var work sync.WaitGroup
		if comes {
			want, c.Bump = 5, time.Minute
			work.Go(func() {
				// Once the gap was told of, the other program comes back.
				for len(x.Losses()) == 0 && c.pause(t.Context()) == nil {
				}
				another.look(t.Context())
				if err := another.Resume(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		if err := x.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		work.Wait()
		approved(t, l, 3)
		paid(t, l, who, want)
		if n := len(told); comes && n != 1 || !comes && n != 2 || !strings.Contains(told[0].Why, "nobody here knows it") {
			t.Errorf("told %v", told)
		}
	}
}

// A chain that was begun anew under the same ID does not get the old one's
// transactions, and contracts can be deployed on it at once.
func TestAnotherChainOfThatID(t *testing.T) {
	for _, deploy := range []bool{false, true} {
		_, m, c, l, file := moody(t)
		to, data, _ := transfer(l, t)
		x := newSender(t, c, SenderOptions{File: file})
		for range 3 {
			if _, err := x.Send(t.Context(), to, data); err != nil {
				t.Fatal(err)
			}
		}
		ks := testKeys(t, 2)
		s2, c2 := simulate(t, ks)
		m.Backend = s2
		var told []Loss
		x = newSender(t, c, SenderOptions{File: file, OnLoss: func(l Loss) { told = append(told, l) }})
		if deploy {
			if _, err := Deploy(t.Context(), x, chain.DefaultConfig(chain.AddressOf(ks[0]))); err != nil {
				t.Fatal(err)
			}
		} else {
			l2 := world(t, chain.DefaultConfig(chain.AddressOf(ks[0])), c2, ks)
			if _, err := x.Send(t.Context(), to, data); err != nil {
				t.Fatal(err)
			}
			paid(t, l2, chain.AddressOf(ks[1]), 5)
		}
		if len(told) != 1 || told[0].Again || !strings.Contains(told[0].Why, "another one") {
			t.Errorf("told %v", told)
		}
	}
}

// What is remembered is bounded.
func TestLandedIsBounded(t *testing.T) {
	_, _, c, _, file := moody(t)
	x := newSender(t, c, SenderOptions{File: file})
	for i := range int64(maxLanded + 10) {
		if _, err := x.Pay(t.Context(), chain.Address{9}, big.NewInt(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil || len(x.landed) != maxLanded || len(b) > 100<<10 {
		t.Fatalf("%d remembered, %d bytes, %v", len(x.landed), len(b), err)
	}
	y := newSender(t, c, SenderOptions{File: file})
	if y.Pending() != 0 || len(y.landed) != maxLanded {
		t.Errorf("read: %d in flight, %d remembered", y.Pending(), len(y.landed))
	}
}

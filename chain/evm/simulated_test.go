package evm

import (
	"context"
	"math/big"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/core"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/eth/ethconfig"
	"github.com/ethereum/go-ethereum/ethclient/simulated"
	"github.com/ethereum/go-ethereum/node"
	"github.com/ethereum/go-ethereum/params"
	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/chaintest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// sealing is an embedded geth whose every transaction is a block, with a clock
// that tests move.
type sealing struct {
	Backend
	sim *simulated.Backend
	mu  sync.Mutex
}

func (s *sealing) SendTransaction(ctx context.Context, tx *types.Transaction) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.Backend.SendTransaction(ctx, tx); err != nil {
		return err
	}
	s.sim.Commit()
	return nil
}

// advance moves the clock. The pool of transactions learns a while after a block that
// its own are in it, and no clock is moved before.
func (s *sealing) advance(t testing.TB, seconds uint64) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for begun := time.Now(); ; runtime.Gosched() {
		err := s.sim.AdjustTime(time.Duration(seconds) * time.Second)
		switch {
		case err == nil:
			return
		case time.Since(begun) > time.Minute:
			t.Fatal(err)
		}
	}
}

// osaka are Base's rules: geth's own default for tests is ahead of them.
func osaka(_ *node.Config, c *ethconfig.Config) {
	rules := *params.MergedTestChainConfig
	rules.ChainID = big.NewInt(1337)
	c.Genesis.Config = &rules
}

func simulate(t testing.TB, accounts []*wire.Key) (*sealing, *Client) {
	t.Helper()
	alloc := types.GenesisAlloc{}
	for _, k := range accounts {
		alloc[address(chain.AddressOf(k))] = types.Account{Balance: new(big.Int).Lsh(big.NewInt(1), 80)}
	}
	for a, x := range core.SystemContractAllocs() {
		alloc[a] = x
	}
	sim := simulated.NewBackend(alloc, osaka)
	t.Cleanup(func() { _ = sim.Close() })
	b, ok := sim.Client().(Backend)
	if !ok {
		t.Fatal("the simulated client lacks a method")
	}
	s := &sealing{Backend: b, sim: sim}
	c, err := NewClient(t.Context(), s, Preset{URL: "simulated", ChainID: 1337, Poll: time.Millisecond, Bump: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func world(t testing.TB, cfg chain.Config, c *Client, accounts []*wire.Key) *Ledger {
	t.Helper()
	var senders []*Sender
	for _, k := range accounts {
		s, err := NewSender(c, k, SenderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		senders = append(senders, s)
	}
	book, err := Deploy(t.Context(), senders[0], cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(t.Context(), c, book, senders...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEmbeddedGeth(t *testing.T) { chaintest.Suite(t, embedded) }

func embedded(t testing.TB, cfg chain.Config, accounts []*wire.Key) chaintest.World {
	s, c := simulate(t, accounts)
	return chaintest.World{Ledger: world(t, cfg, c, accounts), Advance: func(t testing.TB, n uint64) { s.advance(t, n) }}
}

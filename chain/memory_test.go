package chain_test

import (
	"testing"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/chaintest"
	"github.com/shoalnet/shoal/p2p/wire"
)

func TestMemory(t *testing.T) {
	chaintest.Suite(t, func(t testing.TB, cfg chain.Config, _ []*wire.Key) chaintest.World {
		m, err := chain.NewMemory(cfg, chain.MemoryBook(1), 1_800_000_000)
		if err != nil {
			t.Fatal(err)
		}
		return chaintest.World{Ledger: m, Advance: func(_ testing.TB, seconds uint64) { m.Advance(seconds) }}
	})
}

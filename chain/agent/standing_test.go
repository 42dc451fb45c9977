package agent

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle/settletest"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Who has stake is known after a look, and that it has gone some looks later. While the
// ledger is away, nobody's stake is found gone.
func TestStanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 2, 20)
		net := &away{Ledger: w.ledger}
		a, _ := w.start(1, t.TempDir(), func(o *Options) { o.Ledger, o.MinTrainer = net, chain.Coins(1000) })
		v, tr, nobody := w.s.Keys[2].Peer(), w.s.Keys[0].Peer(), settletest.Key(t, 50).Peer()
		want := map[candidacy]diloco.Standing{}
		for _, p := range []wire.PeerID{v, tr, nobody} {
			want[candidacy{p, true}], want[candidacy{p, false}] = diloco.Unknown, diloco.Unknown
		}
		ask := func(when string) {
			t.Helper()
			for c, s := range want {
				if got := a.Standing(c.peer, c.validator); got != s {
					t.Errorf("%s: %s as a validator (%v): %d, want %d", when, c.peer, c.validator, got, s)
				}
			}
		}
		all := func(from, to diloco.Standing) {
			for c, s := range want {
				if s == from {
					want[c] = to
				}
			}
		}
		ask("before anybody looked")
		w.seconds(3, nil)
		all(diloco.Unknown, diloco.Unstaked)
		want[candidacy{v, true}], want[candidacy{tr, false}] = diloco.Staked, diloco.Staked
		ask("after a look")
		w.do(w.s.Keys[0], chain.Unbond{Role: chain.Trainer, Amount: chain.Coins(1)})
		w.seconds(6, nil)
		want[candidacy{tr, false}] = diloco.Unstaked
		ask("after it has unbonded a coin")
		net.set(true)
		w.seconds(2, nil)
		ask("while the ledger is away for seconds")
		w.seconds(10, nil)
		all(diloco.Unstaked, diloco.Unknown)
		ask("while the ledger is away")
		net.set(false)
		w.do(w.s.Keys[0], chain.Stake{Role: chain.Trainer, Amount: chain.Coins(1)})
		w.seconds(6, nil)
		all(diloco.Unknown, diloco.Unstaked)
		want[candidacy{tr, false}] = diloco.Staked
		ask("after it has staked again")
		if s := a.Status(); s.Trouble != "" {
			t.Errorf("a staked validator's trouble: %q", s.Trouble)
		}
		poor, _ := w.start(0, t.TempDir(), func(o *Options) { o.MinTrainer = chain.Coins(1001) })
		w.seconds(3, nil)
		if s := poor.Status(); !strings.Contains(s.Trouble, "shoal stake 1001 --role trainer") {
			t.Errorf("one with too little stake: %q", s.Trouble)
		}
		for i := range maxLooks + 100 { // strangers do not push out those who are asked about
			a.Standing(wire.PeerID{2, byte(i), byte(i >> 8)}, false)
			if i%1000 == 0 {
				w.seconds(1, nil)
				ask("among strangers")
			}
		}
		if n := len(a.looks); n != maxLooks {
			t.Errorf("remembers %d", n)
		}
	})
}

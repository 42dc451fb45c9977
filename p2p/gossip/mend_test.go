package gossip

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/p2ptest"
)

// A machine wakes up in another network, or starts again after a crash, and
// connects anew while its old connection still counts as alive elsewhere. When
// that one times out the two must still hear one another, also after the sixth time.
func TestOldConnectionDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lives = 6
		var at atomic.Int32 // the only address of the machine that packets reach
		at.Store(1)
		gone := func(i int) bool { return i > 0 && i != int(at.Load()) }
		net := p2ptest.New(t, p2ptest.Options{
			Delay:  10 * time.Millisecond,
			Drop:   func(from, to int) bool { return gone(from) || gone(to) },
			Config: func(i int, c *p2p.Config) { c.Key = p2ptest.Key(min(i, 1)) },
		})
		stays := join(t, net.Start(0), Config{}, acceptAll)
		for life := 1; life <= lives; life++ {
			at.Store(int32(life))
			moves := join(t, net.Start(life, p2ptest.Addr(0)), Config{}, acceptAll)
			time.Sleep(time.Minute) // QUIC gives the old connection up after half of it
			here, there := fmt.Sprintf("%d stays", life), fmt.Sprintf("%d moves", life)
			publish(t, stays, here)
			publish(t, moves, there)
			time.Sleep(time.Second)
			if !moves.got(here) || !stays.got(there) {
				t.Errorf("life %d: heard by who moves: %v, by who stays: %v", life, moves.got(here), stays.got(there))
			}
			if n, m := len(stays.t.Peers()), len(moves.t.Peers()); n != 1 || m != 1 {
				t.Errorf("life %d: who stays sees %d peers in the topic, who moves %d", life, n, m)
			}
		}
	})
}

package p2p_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/p2ptest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// within waits, in virtual time, until f holds and returns how long it took.
func within(t *testing.T, limit time.Duration, what string, f func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !f() {
		if time.Since(start) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(start)
}

func peerOf(h *p2p.Host, p wire.PeerID) (p2p.PeerInfo, bool) {
	all := h.Peers()
	i := slices.IndexFunc(all, func(x p2p.PeerInfo) bool { return x.Peer == p })
	if i < 0 {
		return p2p.PeerInfo{}, false
	}
	return all[i], true
}

// A partition is noticed, lasts, and heals: soon afterwards every host is
// connected to all others again, although nobody was told.
func TestPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5
		var cut atomic.Bool
		net := p2ptest.Swarm(t, n, p2ptest.Options{Drop: func(from, to int) bool {
			return cut.Load() && (from < 3) != (to < 3)
		}})
		all := func(want int) func() bool {
			return func() bool {
				for i := range n {
					if len(net.Host(i).Peers()) < want {
						return false
					}
				}
				return true
			}
		}
		t.Logf("all meet after %v", within(t, 20*time.Second, "everybody knows everybody", all(n-1)))
		time.Sleep(time.Minute)
		cut.Store(true)
		t.Logf("the partition is noticed after %v", within(t, 2*time.Minute, "the sides lose each other", func() bool {
			return len(net.Host(0).Peers()) == 2 && len(net.Host(4).Peers()) == 1
		}))
		time.Sleep(5 * time.Minute)
		cut.Store(false)
		t.Logf("healed after %v", within(t, time.Minute, "the sides find each other", all(n-1)))
	})
}

// Two hosts behind firewalls that nobody gets through: they take a relay, are
// asked over it, and then punch a direct way.
func TestHolePunch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.New(t, p2ptest.Options{
			Firewalled: func(i int) bool { return i > 0 },
			Config: func(i int, c *p2p.Config) {
				if i == 0 {
					c.Public, c.Relay.Mode = true, p2p.RelayAuto
				} else {
					c.BehindNAT = true
				}
			},
		})
		relay := net.Start(0)
		relay.Rendezvous("test") // so that its members may use the relay
		a, b := net.Start(1, p2ptest.Addr(0)), net.Start(2, p2ptest.Addr(0))
		b.Handle("/test/1", 10, func(context.Context, wire.PeerID, []byte) ([]byte, error) { return []byte("yes"), nil })
		a.Rendezvous("test")
		b.Rendezvous("test")
		hidden := func(h *p2p.Host) bool {
			return slices.ContainsFunc(h.Addrs(), func(a string) bool { return strings.Contains(a, "/p2p-circuit") })
		}
		t.Logf("relayed after %v", within(t, time.Minute, "both have a relay", func() bool { return hidden(a) && hidden(b) }))
		t.Logf("met after %v", within(t, time.Minute, "they meet", func() bool { _, ok := peerOf(a, b.Peer()); return ok }))
		if r, err := a.Ask(t.Context(), b.Peer(), "/test/1", nil, 10); err != nil || string(r) != "yes" {
			t.Errorf("asked over the relay: %q, %v", r, err)
		}
		if relay.RelayedBytes() == 0 {
			t.Error("nothing was relayed: the test shows nothing")
		}
		t.Logf("direct after %v", within(t, 2*time.Minute, "they punch a direct way", func() bool {
			p, ok := peerOf(a, b.Peer())
			return ok && !p.Relayed
		}))
	})
}

// Above the high mark the connection manager closes connections until low of
// those that are not protected are left, and never those that are.
func TestConnectionMarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, low, high = 16, 8, 10
		net := p2ptest.New(t, p2ptest.Options{Config: func(i int, c *p2p.Config) {
			if i == 0 {
				c.ConnLow, c.ConnHigh = low, high
			} else {
				c.DHT = p2p.DHTClient // servers in the routing table are protected too
			}
		}})
		hub := net.Start(0)
		for i := 1; i < n; i++ {
			hub.Protect(p2ptest.Key(i).Peer(), "test")
			if i > 3 {
				hub.Unprotect(p2ptest.Key(i).Peer(), "test")
			}
			if err := net.Start(i).Connect(t.Context(), p2ptest.Addr(0)); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(hub.Peers()); got != n-1 {
			t.Errorf("%d peers at first, want %d", got, n-1)
		}
		within(t, 2*time.Minute, "connections are trimmed", func() bool { return len(hub.Peers()) <= low+3 })
		for i := 1; i <= 3; i++ {
			if _, ok := peerOf(hub, p2ptest.Key(i).Peer()); !ok {
				t.Errorf("protected peer %d was cut off", i)
			}
		}
	})
}

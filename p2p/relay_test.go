package p2p

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/shoalnet/shoal/p2p/wire"
)

// hidden starts a peer that listens on nothing, so that only a relay reaches it.
func hidden(t *testing.T, i byte, relay *Host) *Host {
	t.Helper()
	c := local(t, i)
	c.Listen = []string{}
	c.BehindNAT = true
	c.Bootstrap = []string{loopback(relay)}
	return start(t, c)
}

// loopback returns the address at which a test reaches h.
func loopback(h *Host) string {
	return listening(h, "/ip4/127.0.0.1/tcp/") + "/p2p/" + h.Peer().String()
}

func relayed(h *Host) string {
	for _, a := range h.Addrs() {
		if strings.Contains(a, "/p2p-circuit") {
			return a
		}
	}
	return ""
}

// A peer that only a relay can reach takes one by itself and is asked over it,
// by a peer that is told its address. The relay counts the bytes and cuts the
// circuit when the quota is used up.
func TestRelay(t *testing.T) {
	const quota = 1 << 20
	c := local(t, 1)
	c.Relay = RelayConfig{Mode: RelayOn, Quota: quota}
	// A relay is announced by its public address only. Nobody dials this one:
	// who uses the relay is connected to it already.
	c.Announce = []string{"/ip4/1.2.3.4/udp/4747/quic-v1"}
	relay := start(t, c)
	members := []wire.PeerID{testKey(t, 2).Peer(), testKey(t, 3).Peer()}
	relay.SetACL(func(p wire.PeerID) bool { return slices.Contains(members, p) })

	far := hidden(t, 2, relay)
	far.Handle(echo, 1<<20, func(_ context.Context, _ wire.PeerID, req []byte) ([]byte, error) { return req, nil })
	soon(t, "the hidden peer has a relay", func() bool { return relayed(far) != "" })

	near := start(t, local(t, 3))
	if err := near.Connect(t.Context(), loopback(relay)); err != nil {
		t.Fatal(err)
	}
	if err := near.Connect(t.Context(), relayed(far)); err != nil {
		t.Fatal(err)
	}
	if p := near.Peers(); !slices.ContainsFunc(p, func(p PeerInfo) bool { return p.Peer == far.Peer() && p.Relayed }) {
		t.Errorf("no relayed peer in %+v", p)
	}
	req := bytes.Repeat([]byte("x"), 200_000) // more than a limited circuit would carry
	if r, err := near.Ask(t.Context(), far.Peer(), echo, req, 1<<20); err != nil || !bytes.Equal(r, req) {
		t.Fatalf("asked over the relay: %d bytes, %v", len(r), err)
	}
	if n := relay.RelayedBytes(); n < 400_000 || n > 500_000 {
		t.Errorf("%d bytes relayed, want a little over 400,000", n)
	}

	// Each peer has now used 400 kB of its 1 MiB; two more exchanges are too many.
	var err error
	for range 2 {
		if _, err = near.Ask(t.Context(), far.Peer(), echo, req, 1<<20); err != nil {
			break
		}
	}
	if err == nil {
		t.Fatalf("%d bytes relayed, quota %d", relay.RelayedBytes(), quota)
	}
	if n := relay.RelayedBytes(); n > quota {
		t.Errorf("%d bytes relayed, quota %d", n, quota)
	}
	soon(t, "the circuit is cut", func() bool { return !near.connected(far.host.ID()) })
	if err := near.Connect(t.Context(), relayed(far)); err == nil {
		t.Error("a new circuit although the quota is used up")
	}
}

// Without membership there is neither reservation nor circuit; whoever is in
// one of our namespaces is a member unless SetACL says otherwise.
func TestRelayACL(t *testing.T) {
	c := local(t, 1)
	c.Relay.Mode = RelayOn
	relay := start(t, c)
	relay.Rendezvous("test")
	client := func(i byte) (*Host, host.Host) {
		c := local(t, i)
		c.Listen = []string{} // else the two find a direct way
		c.Bootstrap = []string{relay.Addrs()[0]}
		h := start(t, c)
		soon(t, "connected", func() bool { return len(h.Peers()) > 0 })
		return h, h.Libp2p()
	}
	info := addrInfo(relay)
	far, farHost := client(2)
	reserve := func() error {
		_, err := circuit.Reserve(t.Context(), farHost, info)
		return err
	}
	soon(t, "the relay is up", func() bool {
		var refused circuit.ReservationError
		return errors.As(reserve(), &refused)
	})
	far.Rendezvous("test")
	soon(t, "a member gets a reservation", func() bool { return reserve() == nil })

	near, nearHost := client(3)
	addr := relay.Addrs()[0] + "/p2p-circuit/p2p/" + far.Peer().String()
	if err := near.Connect(t.Context(), addr); err == nil {
		t.Error("a circuit for a peer that is no member")
	}
	relay.SetACL(func(wire.PeerID) bool { return true })
	if err := nearHost.Connect(network.WithForceDirectDial(t.Context(), "test"), peer.AddrInfo{ID: farHost.ID()}); err == nil {
		t.Error("connected without an address") // else the next line shows nothing
	}
	if err := near.Connect(t.Context(), addr); err != nil {
		t.Error(err)
	}
	relay.SetACL(nil)
	if relay.relay.allows(nearHost.ID()) || !relay.relay.allows(farHost.ID()) {
		t.Error("SetACL(nil) does not return to the namespaces")
	}
	relay.Ban(far.Peer())
	if relay.relay.allows(farHost.ID()) {
		t.Error("a banned peer may relay")
	}
}

func TestRelayModes(t *testing.T) {
	for _, x := range []struct {
		mode         RelayMode
		public, want bool
	}{
		{RelayAuto, false, false}, {RelayAuto, true, true},
		{RelayOn, false, true}, {RelayOff, true, false},
	} {
		c := local(t, 1)
		c.Relay.Mode, c.Public = x.mode, x.public
		h, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		h.relay.update(h.Public())
		if got := h.relay.running != nil; got != x.want {
			t.Errorf("mode %d, public %v: relaying is %v", x.mode, x.public, got)
		}
		h.relay.update(false)
		if got := h.relay.running != nil; got != (x.mode == RelayOn) {
			t.Errorf("mode %d, no longer public: relaying is %v", x.mode, got)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		h.relay.update(true)
		if h.relay.running != nil {
			t.Error("a closed host relays")
		}
	}
}

func TestQuota(t *testing.T) {
	now := time.Unix(1000, 0)
	q := newQuota(100, 250, func() time.Time { return now })
	ids := []peer.ID{"a", "b", "c", "d"}
	charge := func(p peer.ID, n int, want bool) {
		t.Helper()
		if got := q.charge(p, n, true); got != want {
			t.Errorf("charge %s %d: %v", p, n, got)
		}
	}
	charge("a", 60, true)
	charge("a", 40, true)
	if q.left("a") || !q.left("b") {
		t.Error("what is left")
	}
	charge("a", 1, false)
	charge("b", 100, true)
	charge("c", 51, false) // more than is left of the total
	charge("d", 50, true)
	if q.left("c") || q.left("d") {
		t.Error("the total is used up, and someone has something left")
	}
	if q.relayed.Load() != 250 {
		t.Errorf("%d relayed", q.relayed.Load())
	}
	now = now.Add(quotaPeriod)
	for _, p := range ids {
		if !q.left(p) {
			t.Errorf("%s has nothing left after an hour", p)
		}
	}
	charge("a", 100, true)
	now = now.Add(quotaPeriod / 2)
	for i := range 2 * maxQuotaPeers {
		q.charge(peer.ID([]byte{byte(i), byte(i >> 8), 'x'}), 0, false)
	}
	if len(q.peers) > maxQuotaPeers {
		t.Errorf("%d peers are metered", len(q.peers))
	}
	if q.charge("new", 0, false) {
		t.Error("a peer beyond the bound is not metered, and may relay")
	}
	now = now.Add(quotaPeriod)
	charge("new", 1, true)
}

package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	lcrypto "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/shoalnet/shoal/p2p/wire"
)

var discard = slog.New(slog.DiscardHandler)

func testKey(t testing.TB, i byte) *wire.Key {
	t.Helper()
	k, err := wire.NewKey(append(make([]byte, 31), i))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// local is a configuration on loopback that bothers nobody else.
func local(t testing.TB, i byte) Config {
	return Config{
		Key:    testKey(t, i),
		Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"},
		NoMDNS: true, NoPortMap: true, NoAutoNAT: true,
		Log: discard,
	}
}

// start makes a host and runs it until the test ends.
func start(t testing.TB, c Config) *Host {
	t.Helper()
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return h
}

// soon waits until f holds, on the real clock.
func soon(t testing.TB, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func connect(t testing.TB, a, b *Host) {
	t.Helper()
	if err := a.Connect(t.Context(), b.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
}

// wire.PeerID and libp2p's peer.ID are the same identity.
func TestIdentity(t *testing.T) {
	for i := byte(1); i < 20; i++ {
		k := testKey(t, i)
		sk, err := libp2pKey(k)
		if err != nil {
			t.Fatal(err)
		}
		id, err := peer.IDFromPrivateKey(sk)
		if err != nil {
			t.Fatal(err)
		}
		if FromWire(k.Peer()) != id || id.String() != k.Peer().String() {
			t.Errorf("%s is not %s", FromWire(k.Peer()), id)
		}
		if p, err := ToWire(id); err != nil || p != k.Peer() {
			t.Errorf("ToWire(%s) = %s, %v", id, p, err)
		}
	}
	ed := ed25519Host(t)
	bad := FromWire(wire.PeerID{5: 1}) // not a point of the curve
	for _, id := range []peer.ID{"", "x", ed.ID(), bad, FromWire(testKey(t, 1).Peer()) + "x"} {
		if p, err := ToWire(id); err == nil {
			t.Errorf("ToWire(%q) = %s", string(id), p)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	edit := func(f func(*Config)) Config {
		c := local(t, 1)
		f(&c)
		return c
	}
	id := testKey(t, 2).Peer().String()
	for name, c := range map[string]Config{
		"key":                        edit(func(c *Config) { c.Key = nil }),
		"behind NAT":                 edit(func(c *Config) { c.BehindNAT, c.Public = true, true }),
		"connection mark":            edit(func(c *Config) { c.ConnLow, c.ConnHigh = 50, 40 }),
		"relay":                      edit(func(c *Config) { c.Relay.Quota = -1 }),
		"memory":                     edit(func(c *Config) { c.Memory = -1 }),
		"listen":                     edit(func(c *Config) { c.Listen = []string{"127.0.0.1:4747"} }),
		`/dns4/x/tcp/1": want an IP`: edit(func(c *Config) { c.Listen = []string{"/dns4/x/tcp/1"} }),
		`/ip4/1.2.3.4": want an IP`:  edit(func(c *Config) { c.Listen = []string{"/ip4/1.2.3.4"} }),
		`/udp/1": want an IP`:        edit(func(c *Config) { c.Listen = []string{"/ip4/127.0.0.1/udp/1"} }),
		"announce":                   edit(func(c *Config) { c.Announce = []string{"/ip4/1.2.3.4/nonsense"} }),
		"addresses":                  edit(func(c *Config) { c.Announce = make([]string, 17) }),
		"bootstrap":                  edit(func(c *Config) { c.Bootstrap = []string{"/ip4/127.0.0.1/tcp/1"} }),
		"16Uiu2":                     edit(func(c *Config) { c.Bootstrap = []string{"/p2p/" + id} }),
		"QmcZf59bWwK5": edit(func(c *Config) {
			c.Bootstrap = []string{"/ip4/127.0.0.1/tcp/1/p2p/QmcZf59bWwK5XFi76CZX8cbJ4BhTzzA3gU1ZjYZcYW3dwt"}
		}),
	} {
		h, err := New(c)
		if err == nil {
			h.Close()
			t.Errorf("%s: no error", name)
		} else if !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error does not name it: %v", name, err)
		}
	}
}

// listening returns the address at which h listens that contains part.
func listening(h *Host, part string) string {
	for _, a := range h.Libp2p().Network().ListenAddresses() {
		if strings.Contains(a.String(), part) {
			return a.String()
		}
	}
	return ""
}

// A port that another process has is refused by name, on UDP and on TCP, where
// libp2p would share it.
func TestPortInUse(t *testing.T) {
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	other := start(t, local(t, 1)) // its TCP port is open with SO_REUSEPORT
	tcpAddr := listening(other, "/tcp/")
	udpAddr := fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", u.LocalAddr().(*net.UDPAddr).Port)
	for _, addr := range []string{udpAddr, tcpAddr} {
		c := local(t, 2)
		c.Listen = append(c.Listen, addr)
		h, err := New(c)
		if err == nil {
			h.Close()
			t.Errorf("%s: taken, and no error", addr)
			continue
		}
		if !errors.Is(err, ErrPortInUse) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "another port") {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// One address that cannot be opened is an error although others can.
func TestListenStrict(t *testing.T) {
	c := local(t, 1)
	c.Listen = append(c.Listen, "/ip4/192.0.2.77/tcp/0") // not an address of this machine
	h, err := New(c)
	if err == nil {
		h.Close()
		t.Fatal("no error")
	}
	if !strings.Contains(err.Error(), "192.0.2.77") {
		t.Errorf("error does not name the address: %v", err)
	}
}

func TestBan(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	c := local(t, 1)
	c.CachePath = path
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, local(t, 2))
	var told wire.PeerID
	a.OnBan(func(p wire.PeerID) { told = p })
	connect(t, a, b)
	a.Ban(b.Peer())
	if told != b.Peer() || a.Admits(b.Peer()) || !slices.Equal(a.Banned(), []wire.PeerID{b.Peer()}) {
		t.Error("the ban is not known")
	}
	soon(t, "the connection is closed", func() bool { return len(a.Peers()) == 0 && len(b.Peers()) == 0 })
	if err := a.Connect(t.Context(), b.Addrs()[0]); err == nil {
		t.Error("a banned peer was dialled")
	}
	// A banned dialler may see success before it is cut off, but never an answer.
	a.Handle("/test/1", 10, func(context.Context, wire.PeerID, []byte) ([]byte, error) { return []byte("yes"), nil })
	b.Connect(t.Context(), a.Addrs()[0])
	if r, err := b.Ask(t.Context(), a.Peer(), "/test/1", nil, 10); err == nil {
		t.Errorf("a banned peer got %q", r)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}

	again := start(t, c)
	if again.Admits(b.Peer()) {
		t.Error("the ban is forgotten after a restart")
	}
	again.Unban(b.Peer())
	connect(t, again, b)
	again.Ban(again.Peer())
	if len(again.Banned()) != 0 {
		t.Error("a peer banned itself")
	}
}

// Bans are many but not without bound: the oldest goes first.
func TestBansBounded(t *testing.T) {
	g := &gater{ban: make(map[peer.ID]time.Time)}
	id := func(i int) peer.ID { return FromWire(wire.PeerID{2, byte(i), byte(i >> 8)}) }
	for i := range maxBans + 10 {
		g.add(id(i), time.Unix(int64(i), 0))
	}
	if len(g.ban) != maxBans || g.banned(id(9)) || !g.banned(id(10)) || !g.banned(id(maxBans+9)) {
		t.Errorf("%d bans", len(g.ban))
	}
}

func TestAllow(t *testing.T) {
	a, b, c := start(t, local(t, 1)), start(t, local(t, 2)), start(t, local(t, 3))
	connect(t, b, a)
	a.SetAllow(func(p wire.PeerID) bool { return p == c.Peer() })
	a.gate.dismiss(time.Now()) // housekeeping does it within seconds
	soon(t, "b is sent away", func() bool { return len(a.Peers()) == 0 })
	connect(t, c, a)
	soon(t, "c is let in", func() bool { return len(a.Peers()) == 1 && a.Peers()[0].Peer == c.Peer() })
	a.SetAllow(nil)
	connect(t, b, a)
}

// ed25519Host is a libp2p host of another kind of key, as AutoNAT's dial-back
// and every stranger from other networks has.
func ed25519Host(t testing.TB) host.Host {
	t.Helper()
	sk, _, err := lcrypto.GenerateEd25519Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(sk), libp2p.NoListenAddrs, libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func addrInfo(h *Host) peer.AddrInfo { return peer.AddrInfo{ID: h.host.ID(), Addrs: h.host.Addrs()} }

// A peer with another kind of key is refused; while AutoNAT needs dial-backs
// it is a guest: it gets no answers and is sent away.
func TestForeignKeys(t *testing.T) {
	a := start(t, local(t, 1))
	stranger := ed25519Host(t)
	stranger.Connect(t.Context(), addrInfo(a)) // may look like success at first
	soon(t, "the stranger is cut off", func() bool { return stranger.Network().Connectedness(a.host.ID()) != network.Connected })

	c := local(t, 2)
	c.NoAutoNAT = false
	b := start(t, c)
	b.Handle("/test/1", 10, func(context.Context, wire.PeerID, []byte) ([]byte, error) { return []byte("yes"), nil })
	if err := stranger.Connect(t.Context(), addrInfo(b)); err != nil {
		t.Fatal(err)
	}
	soon(t, "the guest is in", func() bool { return b.gate.countGuests() == 1 })
	if len(b.Peers()) != 0 {
		t.Error("a guest is listed as a peer")
	}
	if s, err := stranger.NewStream(t.Context(), b.host.ID(), "/test/1"); err == nil {
		s.Write([]byte{0})
		s.CloseWrite()
		if r, _ := io.ReadAll(s); len(r) > 0 {
			t.Errorf("a guest got the answer %q", r)
		}
	}
	b.gate.dismiss(time.Now())
	if b.gate.countGuests() != 1 {
		t.Error("a guest was dismissed at once")
	}
	b.gate.dismiss(time.Now().Add(guestTime + time.Second))
	soon(t, "the guest is gone", func() bool { return b.gate.countGuests() == 0 })

	var guests []host.Host
	for range maxGuests + 2 {
		g := ed25519Host(t)
		g.Connect(t.Context(), addrInfo(b))
		guests = append(guests, g)
	}
	soon(t, "guests are few", func() bool {
		in := 0
		for _, g := range guests {
			if g.Network().Connectedness(b.host.ID()) == network.Connected {
				in++
			}
		}
		return in == maxGuests
	})
}

// An ordinary IPFS client is let in where clients are, and stays; a closed run
// lets none in.
func TestClients(t *testing.T) {
	c := local(t, 1)
	c.Clients = 1
	h := start(t, c)
	client := ed25519Host(t)
	if err := client.Connect(t.Context(), addrInfo(h)); err != nil {
		t.Fatal(err)
	}
	soon(t, "the client is in", func() bool { return h.gate.countGuests() == 1 })
	h.gate.dismiss(time.Now().Add(guestTime + time.Second))
	if h.gate.countGuests() != 1 {
		t.Error("a client was sent away like AutoNAT's guests")
	}
	if len(h.Peers()) != 0 {
		t.Error("a client is listed as a peer")
	}
	second := ed25519Host(t)
	second.Connect(t.Context(), addrInfo(h)) // may look like success at first
	soon(t, "one client too many is cut off", func() bool { return second.Network().Connectedness(h.host.ID()) != network.Connected })
	h.SetAllow(func(wire.PeerID) bool { return true })
	h.gate.dismiss(time.Now().Add(guestTime + time.Second))
	soon(t, "the closed run's client is gone", func() bool { return h.gate.countGuests() == 0 })
}

// Peers that know only a and b find one another; the providers of a CID are
// found; when all restart, one needs no bootstrap, because it remembers.
func TestDiscovery(t *testing.T) {
	dir := t.TempDir()
	first := start(t, local(t, 1))
	c := local(t, 2)
	c.Bootstrap, c.CachePath = []string{first.Addrs()[0]}, filepath.Join(dir, "peers.json")
	second, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	third := start(t, func() Config { c := local(t, 3); c.Bootstrap = first.Addrs(); return c }())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- second.Run(ctx) }()
	second.Rendezvous("test")
	third.Rendezvous("test")
	third.Rendezvous("test")
	soon(t, "second and third meet", func() bool {
		return slices.Contains(second.Members("test"), third.Peer()) && len(second.Peers()) == 2
	})
	for _, p := range second.Peers() {
		if p.Peer == third.Peer() && !slices.Equal(p.Member, []string{"test"}) {
			t.Errorf("peer info: %+v", p)
		}
	}
	block := wire.SumCID(wire.CodecRaw, []byte("block"))
	if err := third.Provide(t.Context(), block); err != nil {
		t.Fatal(err)
	}
	found, err := second.FindProviders(t.Context(), block, 5)
	if err != nil || !slices.Equal(found, []wire.PeerID{third.Peer()}) {
		t.Errorf("providers: %v, %v", found, err)
	}
	third.Leave("test")
	if third.Members("test") != nil {
		t.Error("left, and still a member")
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil {
		t.Error("a closed host runs")
	}

	c.Bootstrap = nil
	again := start(t, c)
	soon(t, "the restarted peer is back", func() bool { return len(again.Peers()) == 2 })

	lonely := start(t, local(t, 9))
	if err := lonely.Provide(t.Context(), block); !errors.Is(err, ErrNoPeers) {
		t.Errorf("provide alone: %v", err)
	}
	if _, err := lonely.FindProviders(t.Context(), block, 1); !errors.Is(err, ErrNoPeers) {
		t.Errorf("find alone: %v", err)
	}
}

// Nothing is left when Run has returned, nor when New failed.
func TestNoLeak(t *testing.T) {
	once := func(i byte) {
		c := local(t, i)
		c.CachePath = filepath.Join(t.TempDir(), "peers.json")
		c.NoMDNS, c.NoAutoNAT = false, false
		c.Relay.Mode = RelayOn
		a, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		a.Rendezvous("test")
		b, err := New(local(t, i+1))
		if err != nil {
			t.Fatal(err)
		}
		connect(t, b, a)
		c.Key, c.Listen = testKey(t, 77), []string{listening(a, "/udp/")}
		if h, err := New(c); err == nil {
			h.Close()
			t.Error("a port was opened twice")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil { // never ran
			t.Error(err)
		}
		if _, err := os.Stat(c.CachePath); err != nil {
			t.Error(err)
		}
	}
	once(1) // libraries start a few goroutines once per process
	base := runtime.NumGoroutine()
	once(3)
	soon(t, "no goroutine is left", func() bool {
		return runtime.NumGoroutine() <= base
	})
}

// Two hosts that know nobody find each other on the local network.
func TestMDNS(t *testing.T) {
	ifaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(ifaces, func(i net.Interface) bool {
		return i.Flags&net.FlagMulticast != 0 && i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0
	}) {
		t.Skip("SKIPPED: no network interface with multicast, so mDNS is not tested")
	}
	add := func(i byte) *Host {
		c := local(t, i)
		c.Listen = []string{"/ip4/0.0.0.0/udp/0/quic-v1"}
		c.NoMDNS = false
		return start(t, c)
	}
	a, b := add(1), add(2)
	tick, late := time.NewTicker(20*time.Millisecond), time.After(5*time.Second)
	defer tick.Stop()
	for !a.connected(b.host.ID()) {
		select {
		case <-tick.C:
		case <-late:
			t.Skip("SKIPPED: multicast does not come back on this network, so mDNS is not tested")
		}
	}
}

// Package p2ptest makes swarms of real hosts on a simulated network, for tests
// inside a testing/synctest bubble: libp2p, QUIC, DHT and gossip are the real
// ones, links and time are not. CPU time counts as none, so latencies are those
// of the protocol.
package p2ptest

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Options describes the network. The zero value is a one-way delay of 50 ms
// and 100 Mbit/s up and down for each host.
type Options struct {
	// Delay is the one-way delay between any two hosts. Default 50 ms.
	Delay time.Duration

	// Mbps is each host's rate, up and down, in Mbit/s. Default 100.
	Mbps int

	// Link, if set, replaces Mbps for host i.
	Link func(i int) (upMbps, downMbps int)

	// Drop, if set, loses a packet from host i to host j, by index. It may
	// change its mind at any time: a partition.
	Drop func(from, to int) bool

	// Firewalled says which hosts sit behind a stateful firewall: they receive
	// packets only from whom they have sent some to.
	Firewalled func(i int) bool

	// Config, if set, changes host i's configuration before it is made.
	Config func(i int, c *p2p.Config)
}

// A Net is one simulated network and the hosts on it.
type Net struct {
	t     *testing.T
	opts  Options
	sim   *simnet.Simnet
	hosts map[int]*running
	index map[string]int // of hosts by IP; complete before the first packet

	mu   sync.Mutex      // guards following
	sent map[[2]int]bool // from, to: a packet went that way
}

type running struct {
	host *p2p.Host
	stop context.CancelFunc
	done chan error
}

// New makes an empty network. Call it inside a bubble (synctest.Test); at the
// end of the test every host is stopped and waited for.
func New(t *testing.T, o Options) *Net {
	t.Helper()
	if o.Delay == 0 {
		o.Delay = 50 * time.Millisecond
	}
	if o.Mbps == 0 {
		o.Mbps = 100
	}
	n := &Net{t: t, opts: o, hosts: make(map[int]*running), index: make(map[string]int), sent: make(map[[2]int]bool)}
	for i := range maxHosts {
		n.index[simnet.IntToPublicIPv4(i+1).String()] = i
	}
	n.sim = &simnet.Simnet{LatencyFunc: n.latency, Logger: slog.New(slog.DiscardHandler)}
	n.sim.Start()
	t.Cleanup(n.close)
	return n
}

// maxHosts bounds the index of a host.
const maxHosts = 1024

// lost is a delay that no test waits for.
const lost = 10000 * time.Hour

func (n *Net) latency(p *simnet.Packet) time.Duration {
	src, ok1 := p.From.(*net.UDPAddr)
	dst, ok2 := p.To.(*net.UDPAddr)
	if !ok1 || !ok2 {
		return lost
	}
	from, to := n.index[src.IP.String()], n.index[dst.IP.String()]
	if n.opts.Drop != nil && n.opts.Drop(from, to) {
		return lost
	}
	if n.opts.Firewalled != nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.sent[[2]int{from, to}] = true
		if n.opts.Firewalled(to) && !n.sent[[2]int{to, from}] {
			return lost
		}
	}
	return n.opts.Delay
}

// Key returns the key of host i, the same in every test.
func Key(i int) *wire.Key {
	secret := make([]byte, 32)
	secret[0] = 1
	binary.BigEndian.PutUint64(secret[24:], uint64(i)+1)
	k, err := wire.NewKey(secret)
	if err != nil {
		panic(err) // cannot happen: the secret is in range
	}
	return k
}

// Addr returns the address of host i, for others to bootstrap from.
func Addr(i int) string {
	return fmt.Sprintf("/ip4/%s/udp/8000/quic-v1/p2p/%s", simnet.IntToPublicIPv4(i+1), Key(i).Peer())
}

// Start makes host i, which knows the given bootstraps, and runs it. A host
// that was stopped can be started again; it gets the same key and address.
func (n *Net) Start(i int, bootstrap ...string) *p2p.Host {
	n.t.Helper()
	if n.hosts[i] != nil {
		n.t.Fatalf("host %d runs already", i)
	}
	up, down := n.opts.Mbps, n.opts.Mbps
	if n.opts.Link != nil {
		up, down = n.opts.Link(i)
	}
	link := simnet.NodeBiDiLinkSettings{
		Uplink:   simnet.LinkSettings{BitsPerSecond: up * 1_000_000},
		Downlink: simnet.LinkSettings{BitsPerSecond: down * 1_000_000},
	}
	c := p2p.Config{
		Key:       Key(i),
		Listen:    []string{fmt.Sprintf("/ip4/%s/udp/8000/quic-v1", simnet.IntToPublicIPv4(i+1))},
		Bootstrap: bootstrap,
		NoMDNS:    true, NoPortMap: true, NoAutoNAT: true,
		Relay:   p2p.RelayConfig{Mode: p2p.RelayOff},
		Log:     slog.New(slog.DiscardHandler),
		Options: []libp2p.Option{simlibp2p.QUICSimnet(n.sim, link)},
	}
	if n.opts.Config != nil {
		n.opts.Config(i, &c)
	}
	h, err := p2p.New(c)
	if err != nil {
		n.t.Fatalf("host %d: %v", i, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{h, cancel, make(chan error, 1)}
	n.hosts[i] = r
	go func() { r.done <- h.Run(ctx) }()
	return h
}

// Host returns host i, which must be running.
func (n *Net) Host(i int) *p2p.Host { return n.hosts[i].host }

// Stop closes host i and waits for it.
func (n *Net) Stop(i int) {
	n.t.Helper()
	r := n.hosts[i]
	delete(n.hosts, i)
	r.stop()
	if err := <-r.done; err != nil {
		n.t.Errorf("host %d: Run: %v", i, err)
	}
}

func (n *Net) close() {
	for i := range n.hosts {
		n.Stop(i)
	}
	n.sim.Close()
	// QUIC and yamux let go of closed connections after a while.
	time.Sleep(5 * time.Minute)
	synctest.Wait()
}

// Swarm makes n running hosts. All know host 0 as their bootstrap and nothing
// else, and look for one another under the namespace "test".
func Swarm(t *testing.T, n int, o Options) *Net {
	t.Helper()
	net := New(t, o)
	for i := range n {
		var boot []string
		if i > 0 {
			boot = []string{Addr(0)}
		}
		net.Start(i, boot...).Rendezvous("test")
	}
	return net
}

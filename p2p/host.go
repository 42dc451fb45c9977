package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	golog "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	routed "github.com/libp2p/go-libp2p/p2p/host/routed"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A Host is one peer in the swarm. Its methods are safe for concurrent use.
type Host struct {
	cfg       Config
	log       *slog.Logger
	self      wire.PeerID
	bootstrap []peer.AddrInfo
	announce  []ma.Multiaddr

	host  host.Host // with the DHT as its routing
	dht   *dht.IpfsDHT
	gate  *gater
	count *counter
	cache *cache
	relay *relayService
	asks  *askLimits

	ready  atomic.Bool // host and dht are set
	public atomic.Bool // found or declared publicly reachable

	ctx    context.Context // ends when the host closes
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine and handler of ours

	mu       sync.Mutex // guards following
	started  bool
	closed   bool
	done     chan struct{} // closed when the host is
	spaces   map[string]*space
	onBan    []func(wire.PeerID)
	closeErr error
}

// quiet keeps the libraries' logs to errors unless GOLOG_LOG_LEVEL, which
// libp2p reads by itself, says otherwise.
var quiet = sync.OnceFunc(func() {
	if os.Getenv("GOLOG_LOG_LEVEL") == "" {
		golog.SetAllLoggers(golog.LevelError)
	}
})

// New opens the ports of a host and joins nothing yet: Run does. Handlers may
// be set before Run. A port in use is an error that names it.
func New(c Config) (*Host, error) {
	quiet()
	c = c.withDefaults()
	listen, announce, bootstrap, err := c.validate()
	if err != nil {
		return nil, err
	}
	key, err := libp2pKey(c.Key)
	if err != nil {
		return nil, err
	}
	if err := probePorts(listen); err != nil {
		return nil, err
	}
	limits, err := newResourceManager(&c)
	if err != nil {
		return nil, err
	}
	conns, err := newConnManager(&c)
	if err != nil {
		return nil, errors.Join(err, limits.Close())
	}
	h := &Host{
		cfg: c, log: c.Log, self: c.Key.Peer(), bootstrap: bootstrap, announce: announce,
		gate:   &gater{guests: !c.NoAutoNAT && !c.BehindNAT && !c.Public, clients: c.Clients, ban: make(map[peer.ID]time.Time)},
		count:  newCounter(),
		asks:   newAskLimits(),
		done:   make(chan struct{}),
		spaces: make(map[string]*space),
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.public.Store(c.Public)
	h.SetAllow(c.Allow)
	h.cache = loadCache(c.CachePath, h.self, c.Log)
	for _, b := range h.cache.banned {
		h.gate.add(FromWire(b.Peer), b.At)
	}
	h.relay = newRelayService(h)

	opts := []libp2p.Option{
		libp2p.Identity(key),
		libp2p.Transport(quic.NewTransport), // named, so that no other transport opens a port
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(libp2ptls.ID, libp2ptls.New),
		libp2p.Security(noise.ID, noise.New),
		libp2p.UserAgent("shoal/1"),
		libp2p.ProtocolVersion("shoal/1"),
		libp2p.DisableMetrics(),
		libp2p.ResourceManager(limits),
		libp2p.ConnectionManager(conns),
		libp2p.ConnectionGater(h.gate),
		libp2p.BandwidthReporter(h.count),
		libp2p.AddrsFactory(h.advertised),
		libp2p.EnableRelay(),
		libp2p.EnableHolePunching(),
		h.autoRelay(),
	}
	if len(listen) > 0 {
		opts = append(opts, libp2p.ListenAddrs(listen...))
	} else {
		opts = append(opts, libp2p.NoListenAddrs) // else libp2p takes addresses of its own
	}
	if c.NoAutoNAT {
		opts = append(opts, libp2p.DisableIdentifyAddressDiscovery())
	} else {
		opts = append(opts, libp2p.EnableAutoNATv2(), libp2p.EnableNATService())
	}
	if !c.NoPortMap && !c.Public && slices.ContainsFunc(listen, func(a ma.Multiaddr) bool { return !manet.IsIPLoopback(a) }) {
		opts = append(opts, libp2p.NATPortMap())
	}
	switch {
	case c.BehindNAT:
		opts = append(opts, libp2p.ForceReachabilityPrivate())
	case c.Public:
		opts = append(opts, libp2p.ForceReachabilityPublic())
	}
	basic, err := libp2p.New(append(opts, c.Options...)...)
	if err != nil {
		err = fmt.Errorf("start libp2p on %v: %w", listen, err)
		return nil, errors.Join(err, conns.Close(), limits.Close())
	}
	net := basic.Network()
	h.gate.net.Store(&net)
	net.Notify(h.count.forgetOnDisconnect())
	if err := checkListening(basic, listen, c.Listen != nil); err != nil {
		return nil, errors.Join(err, basic.Close())
	}
	mode := map[DHTMode]dht.ModeOpt{DHTAuto: dht.ModeAutoServer, DHTServer: dht.ModeServer, DHTClient: dht.ModeClient}[c.DHT]
	h.dht, err = dht.New(basic,
		dht.Mode(mode),
		dht.ProtocolPrefix("/shoal"),
		dht.DisableValues(), // provider records and routing only
		dht.RoutingTableRefreshPeriod(5*time.Minute),
		dht.RoutingTableFilter(func(_ any, p peer.ID) bool { return h.gate.admits(p) }),
		// Provided again every few minutes, so a record outlives its provider
		// by an hour at most.
		dht.ProviderManagerOpts(records.ProvideValidity(time.Hour), records.CleanupInterval(10*time.Minute)),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the DHT: %w", err), basic.Close())
	}
	h.host = routed.Wrap(basic, h.dht)
	h.ready.Store(true)
	return h, nil
}

// advertised is libp2p's AddrsFactory: a public peer does not publish its
// private addresses, any other publishes what it has, and all of them what the
// user told them to announce.
func (h *Host) advertised(addrs []ma.Multiaddr) []ma.Multiaddr {
	if h.cfg.AnnounceOnly {
		return slices.Clone(h.announce)
	}
	out := slices.Clone(addrs)
	if h.public.Load() && slices.ContainsFunc(out, manet.IsPublicAddr) {
		out = slices.DeleteFunc(out, func(a ma.Multiaddr) bool { return !manet.IsPublicAddr(a) && !isRelayed(a) })
	}
	for _, a := range h.announce {
		if !ma.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// Libp2p returns the libp2p host, for the packages below p2p. Connect on it
// finds addresses through the DHT where none are known.
func (h *Host) Libp2p() host.Host { return h.host }

// Context ends when the host begins to close. What is built on the host lives
// under it.
func (h *Host) Context() context.Context { return h.ctx }

// Admits reports whether p may talk to us: not banned, and allowed where there
// is an allow-list.
func (h *Host) Admits(p wire.PeerID) bool { return h.gate.admits(FromWire(p)) }

// Peer returns who this host is.
func (h *Host) Peer() wire.PeerID { return h.self }

// Addrs returns the addresses under which others can reach this host, each
// with /p2p/ID at its end: any of them serves as a bootstrap for others.
func (h *Host) Addrs() []string {
	infos, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: h.host.ID(), Addrs: h.host.Addrs()})
	if err != nil { // cannot happen: the ID is ours
		return nil
	}
	out := make([]string, len(infos))
	for i, a := range infos {
		out[i] = a.String()
	}
	return out
}

// Public reports whether the host is known to be publicly reachable.
func (h *Host) Public() bool { return h.public.Load() }

// PeerInfo describes one connected peer.
type PeerInfo struct {
	Peer     wire.PeerID   `json:"peer"`
	Addr     string        `json:"addr"`               // of the connection
	Inbound  bool          `json:"inbound,omitempty"`  // it dialled us
	Relayed  bool          `json:"relayed,omitempty"`  // over a third peer
	Since    time.Time     `json:"since"`              // of the oldest connection
	Latency  time.Duration `json:"latency_ns"`         // moving average, 0 if unknown
	In, Out  uint64        `json:"-"`                  // payload bytes on all streams
	Agent    string        `json:"agent,omitempty"`    // as the peer says
	Member   []string      `json:"member,omitempty"`   // our namespaces that list it
	Protocol []string      `json:"protocol,omitempty"` // as the peer says
}

// Peers returns the connected peers, in the order of their keys.
func (h *Host) Peers() []PeerInfo {
	n, ps := h.host.Network(), h.host.Peerstore()
	var out []PeerInfo
	for _, id := range n.Peers() {
		p, err := ToWire(id)
		if err != nil {
			continue // a guest
		}
		conns := n.ConnsToPeer(id)
		if len(conns) == 0 {
			continue
		}
		best := conns[0]
		for _, c := range conns[1:] {
			if isRelayed(best.RemoteMultiaddr()) && !isRelayed(c.RemoteMultiaddr()) {
				best = c
			}
		}
		i := PeerInfo{
			Peer: p, Addr: best.RemoteMultiaddr().String(), Inbound: best.Stat().Direction == network.DirInbound,
			Relayed: isRelayed(best.RemoteMultiaddr()), Since: best.Stat().Opened, Latency: ps.LatencyEWMA(id),
			Member: h.memberOf(p),
		}
		for _, c := range conns {
			if c.Stat().Opened.Before(i.Since) {
				i.Since = c.Stat().Opened
			}
		}
		s := h.count.GetBandwidthForPeer(id)
		i.In, i.Out = uint64(s.TotalIn), uint64(s.TotalOut)
		if v, err := ps.Get(id, "AgentVersion"); err == nil {
			i.Agent, _ = v.(string)
		}
		if protos, err := ps.GetProtocols(id); err == nil {
			for _, x := range protos {
				i.Protocol = append(i.Protocol, string(x))
			}
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b PeerInfo) int { return a.Peer.Compare(b.Peer) })
	return out
}

// Connect connects to the peer at addr, a multiaddr with /p2p/ID at its end.
func (h *Host) Connect(ctx context.Context, addr string) error {
	info, err := parseAddr(addr)
	if err != nil {
		return err
	}
	h.forgive(info.ID)
	if err := h.host.Connect(ctx, info); err != nil {
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	return nil
}

// spawn runs f unless the host is closing; Run waits for it.
func (h *Host) spawn(f func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.spawnLocked(f)
}

func (h *Host) spawnLocked(f func()) bool {
	if h.closed {
		return false
	}
	h.wg.Go(f)
	return true
}

// Run finds peers, keeps the rendezvous namespaces, relays, and remembers,
// until ctx ends; then it closes the host. It returns nil after a clean end.
func (h *Host) Run(ctx context.Context) error {
	h.mu.Lock()
	if h.started || h.closed {
		h.mu.Unlock()
		return errors.New("p2p host: Run called twice or after Close")
	}
	h.started = true
	for _, s := range h.spaces {
		h.spawnLocked(s.run)
	}
	h.mu.Unlock()

	stop := context.AfterFunc(ctx, h.cancel)
	defer stop()
	h.spawn(h.keepConnected)
	h.spawn(h.watchEvents)
	h.spawn(h.housekeeping)
	if !h.cfg.NoMDNS {
		h.spawn(h.localDiscovery)
	}
	if err := h.dht.Bootstrap(h.ctx); err != nil {
		h.log.Warn("start DHT refresh", "err", err)
	}
	<-h.ctx.Done()
	return h.Close()
}

// Close ends Run, closes every connection and waits for what this host
// started. It is safe to call more than once, and instead of Run.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		<-h.done
		return h.closeErr
	}
	h.closed = true
	h.mu.Unlock()

	h.cancel()
	h.relay.close()
	h.remember(time.Now())
	err := errors.Join(h.cache.save(h.gate.list()), h.dht.Close(), h.host.Close())
	h.wg.Wait()
	h.closeErr = err
	close(h.done)
	return err
}

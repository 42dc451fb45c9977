package p2p

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	relayproto "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/shoalnet/shoal/p2p/wire"
)

// relayService relays for members while it should. libp2p's own service would
// have to be limited per circuit, and peers send neither gossip nor blocks over
// a limited circuit; so circuits are unlimited here, and what bounds them is
// the list of members and a quota of bytes per peer and hour.
type relayService struct {
	h     *Host
	quota *quota
	acl   atomic.Pointer[func(wire.PeerID) bool]

	mu      sync.Mutex // guards following
	running *circuit.Relay
	closed  bool
}

func newRelayService(h *Host) *relayService {
	c := h.cfg.Relay
	return &relayService{h: h, quota: newQuota(c.Quota, c.Total, time.Now)}
}

// SetACL replaces who may use this peer's relay. Until then it is whoever lists
// itself under one of our rendezvous namespaces; nil returns to that.
func (h *Host) SetACL(f func(wire.PeerID) bool) {
	if f == nil {
		h.relay.acl.Store(nil)
		return
	}
	h.relay.acl.Store(&f)
}

// RelayedBytes returns how many bytes this peer relayed for others, each
// counted once.
func (h *Host) RelayedBytes() uint64 { return h.relay.quota.relayed.Load() }

func (r *relayService) allows(id peer.ID) bool {
	p, err := ToWire(id)
	if err != nil || r.h.gate.banned(id) {
		return false
	}
	if f := r.acl.Load(); f != nil {
		return (*f)(p)
	}
	return len(r.h.memberOf(p)) > 0 || r.h.listed(id)
}

// AllowReserve implements relay.ACLFilter.
func (r *relayService) AllowReserve(p peer.ID, _ ma.Multiaddr) bool {
	return r.allows(p) && r.quota.left(p)
}

// AllowConnect implements relay.ACLFilter. Both ends must be members with
// quota left.
func (r *relayService) AllowConnect(src peer.ID, _ ma.Multiaddr, dest peer.ID) bool {
	return r.allows(src) && r.allows(dest) && r.quota.left(src) && r.quota.left(dest)
}

// update starts or stops relaying according to the mode.
func (r *relayService) update(public bool) {
	want := r.h.cfg.Relay.Mode == RelayOn || r.h.cfg.Relay.Mode == RelayAuto && public
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case want && r.running == nil && !r.closed:
		limits := circuit.DefaultResources()
		limits.Limit = nil // per circuit; see relayService
		limits.MaxCircuits = r.h.cfg.Relay.Circuits
		limits.BufferSize = 16 << 10
		s, err := circuit.New(&meteredHost{r.h.host, r.quota},
			circuit.WithResources(limits), circuit.WithACL(r),
			// Peers on a private network relay for one another too.
			circuit.WithReservationAddressFilter(func(a ma.Multiaddr) bool {
				return manet.IsPublicAddr(a) || !r.h.public.Load()
			}))
		if err != nil {
			r.h.log.Warn("start relay", "err", err)
			return
		}
		r.running = s
		r.h.log.Info("relaying for members")
	case !want && r.running != nil:
		r.stopLocked()
	}
}

func (r *relayService) stopLocked() {
	if err := r.running.Close(); err != nil {
		r.h.log.Debug("stop relay", "err", err)
	}
	r.running = nil
}

func (r *relayService) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.running != nil {
		r.stopLocked()
	}
}

// errQuota ends a circuit.
var errQuota = errors.New("relay quota is used up")

// quota meters bytes per peer and in total. An hour begins with a peer's first
// byte; bytes sent by a peer and bytes sent to it both count.
type quota struct {
	perPeer, total int64
	now            func() time.Time
	relayed        atomic.Uint64

	mu    sync.Mutex // guards following
	all   usage
	peers map[peer.ID]*usage
}

type usage struct {
	since time.Time
	bytes int64
}

const (
	quotaPeriod   = time.Hour
	maxQuotaPeers = 4096
)

func newQuota(perPeer, total int64, now func() time.Time) *quota {
	return &quota{perPeer: perPeer, total: total, now: now, peers: make(map[peer.ID]*usage)}
}

// usageLocked returns p's meter, begun anew if its hour is over; nil if there
// are too many.
func (q *quota) usageLocked(p peer.ID, now time.Time) *usage {
	if now.Sub(q.all.since) >= quotaPeriod {
		q.all = usage{since: now}
	}
	u := q.peers[p]
	if u == nil {
		if len(q.peers) >= maxQuotaPeers {
			for id, u := range q.peers {
				if now.Sub(u.since) >= quotaPeriod {
					delete(q.peers, id)
				}
			}
			if len(q.peers) >= maxQuotaPeers {
				return nil
			}
		}
		u = &usage{since: now}
		q.peers[p] = u
	}
	if now.Sub(u.since) >= quotaPeriod {
		*u = usage{since: now}
	}
	return u
}

// left reports whether p may start another circuit.
func (q *quota) left(p peer.ID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.usageLocked(p, q.now())
	return u != nil && u.bytes < q.perPeer && q.all.bytes < q.total
}

// charge counts n bytes of p and reports whether they may pass; if not, what p
// had left is forfeit. Bytes of a circuit pass two peers; only the sender's side
// adds to the total.
func (q *quota) charge(p peer.ID, n int, sender bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.usageLocked(p, q.now())
	if u == nil {
		return false
	}
	if u.bytes+int64(n) > q.perPeer || sender && q.all.bytes+int64(n) > q.total {
		u.bytes = q.perPeer
		return false
	}
	u.bytes += int64(n)
	if sender {
		q.all.bytes += int64(n)
		q.relayed.Add(uint64(n))
	}
	return true
}

// meteredHost is the host as the relay service sees it: every byte of its
// streams is charged to the peer at the other end.
type meteredHost struct {
	host.Host
	quota *quota
}

func (m *meteredHost) SetStreamHandler(id protocol.ID, f network.StreamHandler) {
	m.Host.SetStreamHandler(id, func(s network.Stream) { f(m.meter(s)) })
}

func (m *meteredHost) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	s, err := m.Host.NewStream(ctx, p, ids...)
	if err != nil {
		return nil, err
	}
	return m.meter(s), nil
}

func (m *meteredHost) meter(s network.Stream) network.Stream {
	return &meteredStream{s, m.quota, s.Conn().RemotePeer()}
}

type meteredStream struct {
	network.Stream
	quota *quota
	peer  peer.ID
}

// Read charges what the peer sent. Above its quota the read fails, and the
// relay resets both ends of the circuit.
func (s *meteredStream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if n > 0 && !s.quota.charge(s.peer, n, true) {
		return 0, fmt.Errorf("peer %s: %w", s.peer, errQuota)
	}
	return n, err
}

// Write charges what is sent on to the peer.
func (s *meteredStream) Write(b []byte) (int, error) {
	if !s.quota.charge(s.peer, len(b), false) {
		return 0, fmt.Errorf("peer %s: %w", s.peer, errQuota)
	}
	return s.Stream.Write(b)
}

// autoRelay makes libp2p look for a relay when this peer cannot be reached.
func (h *Host) autoRelay() libp2p.Option {
	return libp2p.EnableAutoRelayWithPeerSource(h.relayCandidates,
		autorelay.WithMinCandidates(1),
		autorelay.WithNumRelays(2),
		autorelay.WithBootDelay(2*time.Second),
		autorelay.WithMinInterval(5*time.Second),
		autorelay.WithBackoff(15*time.Second), // a relay may refuse only because it has not heard of us yet
	)
}

// relayCandidates offers up to n peers that may relay for us, as soon as any
// are known.
func (h *Host) relayCandidates(ctx context.Context, n int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo, max(n, 0))
	waits := h.spawn(func() {
		defer close(out)
		for ctx.Err() == nil {
			if h.ready.Load() {
				found := h.relayPeers()
				for _, p := range found[:min(n, len(found))] {
					out <- p
				}
				if len(found) > 0 {
					return
				}
			}
			if !h.sleep(quickRetry) {
				return
			}
		}
	})
	if !waits {
		close(out)
	}
	return out
}

// relayPeers returns connected peers that say they relay, then others from the
// routing table that may, each group in random order.
func (h *Host) relayPeers() []peer.AddrInfo {
	var say, may []peer.AddrInfo
	seen := make(map[peer.ID]bool)
	for _, id := range append(h.host.Network().Peers(), h.dht.RoutingTable().ListPeers()...) {
		if seen[id] || !h.gate.admits(id) {
			continue
		}
		seen[id] = true
		info := peer.AddrInfo{ID: id}
		for _, a := range h.host.Peerstore().Addrs(id) {
			if !isRelayed(a) {
				info.Addrs = append(info.Addrs, a)
			}
		}
		if len(info.Addrs) == 0 {
			continue
		}
		if p, err := h.host.Peerstore().SupportsProtocols(id, relayproto.ProtoIDv2Hop); err == nil && len(p) > 0 {
			say = append(say, info)
		} else if !h.connected(id) {
			may = append(may, info)
		}
	}
	for _, group := range [][]peer.AddrInfo{say, may} {
		rand.Shuffle(len(group), func(i, j int) { group[i], group[j] = group[j], group[i] })
	}
	return append(say, may...)
}

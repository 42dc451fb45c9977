package p2p

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/shoalnet/shoal/p2p/wire"
)

const (
	dialTime     = 10 * time.Second // one attempt to connect
	dialsAtOnce  = 8
	quickRetry   = 250 * time.Millisecond // the first pause while nobody is known
	slowRetry    = 15 * time.Second       // the longest
	healInterval = 10 * time.Second       // between attempts to reach those who went missing
	healPeers    = 16                     // at once
	fewPeers     = 4                      // below this, ask every entry point
	mdnsService  = "_shoal._udp"
)

// ErrNoPeers says that no other peer is known yet; trying again later helps.
var ErrNoPeers = errors.New("no peers are known yet")

// keepConnected dials bootstraps and remembered peers: all of them, quickly,
// while the routing table is empty, and later, now and then, those that went
// missing, so that the two sides of a healed partition find each other.
func (h *Host) keepConnected() {
	pause := quickRetry
	for {
		lonely := h.dht.RoutingTable().Size() == 0
		h.dialAll(h.entryPoints(lonely || len(h.host.Network().Peers()) < fewPeers))
		if lonely {
			pause = min(pause*2, slowRetry)
		} else {
			pause = healInterval
		}
		if !h.sleep(jitter(pause)) {
			return
		}
		if !lonely {
			pause = quickRetry
		}
	}
}

// entryPoints returns whom to dial to get into the swarm: everybody known if
// all is set; else who was here lately, and two others by chance.
func (h *Host) entryPoints(all bool) []peer.AddrInfo {
	now := time.Now()
	var out, rest []peer.AddrInfo
	cached := h.cache.infos(now)
	if all {
		out = append(slices.Clone(h.bootstrap), cached...)
		out = out[:min(len(out), len(h.bootstrap)+4*healPeers)]
	} else {
		rest = append(rest, h.bootstrap...)
		for _, p := range cached {
			if w, err := ToWire(p.ID); err == nil && len(out) < healPeers && now.Sub(h.cache.seen(w)) < 15*time.Minute {
				out = append(out, p)
			} else {
				rest = append(rest, p)
			}
		}
		rand.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		out = append(out, rest[:min(2, len(rest))]...)
	}
	return slices.DeleteFunc(out, func(p peer.AddrInfo) bool {
		return p.ID == h.host.ID() || h.connected(p.ID) || !h.gate.admits(p.ID)
	})
}

func (h *Host) connected(id peer.ID) bool {
	return h.host.Network().Connectedness(id) == network.Connected
}

// dialAll connects to peers, a few at once, and returns when all have answered
// or failed.
func (h *Host) dialAll(peers []peer.AddrInfo) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, dialsAtOnce)
	for _, p := range peers {
		select {
		case slots <- struct{}{}:
		case <-h.ctx.Done():
		}
		if h.ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(h.ctx, dialTime)
			defer cancel()
			h.forgive(p.ID) // the callers pace themselves
			if err := h.host.Connect(ctx, p); err != nil {
				h.log.Debug("dial", "peer", p.ID, "err", err)
			}
		})
	}
	wg.Wait()
}

// forgive forgets that dials to id failed. libp2p would refuse to try again for
// up to five minutes, and so keep the sides of a healed partition apart.
func (h *Host) forgive(id peer.ID) {
	if s, ok := h.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(id)
	}
}

// sleep waits for d and reports whether the host is still open.
func (h *Host) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-h.ctx.Done():
		return false
	}
}

// jitter spreads d by a fifth either way, so that peers started together do
// not act together for ever.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// watchEvents learns from libp2p whether we can be reached.
func (h *Host) watchEvents() {
	sub, err := h.host.EventBus().Subscribe([]any{
		new(event.EvtLocalReachabilityChanged),
		new(event.EvtHostReachableAddrsChanged),
	}, eventbus.BufSize(64))
	if err != nil {
		h.log.Warn("watch libp2p events: changes of reachability go unnoticed", "err", err)
		return
	}
	defer sub.Close()
	public := [2]bool{h.public.Load(), false} // by AutoNAT v1 or decree, by AutoNAT v2
	h.relay.update(h.public.Load())
	for {
		select {
		case <-h.ctx.Done():
			return
		case e, ok := <-sub.Out():
			if !ok {
				return
			}
			switch e := e.(type) {
			case event.EvtLocalReachabilityChanged:
				public[0] = e.Reachability == network.ReachabilityPublic
			case event.EvtHostReachableAddrsChanged:
				public[1] = slices.ContainsFunc(e.Reachable, manet.IsPublicAddr)
			}
			now := public[0] || public[1]
			if h.public.Swap(now) != now {
				h.log.Info("reachability changed", "public", now)
			}
			h.relay.update(now)
		}
	}
}

// housekeeping dismisses guests, and remembers on disk who is connected: soon
// after the start, then once a minute.
func (h *Host) housekeeping() {
	const first, tick, saveEvery = time.Second, 5 * time.Second, 12
	pause := first
	for i := 0; h.sleep(pause); i++ {
		pause = tick
		h.gate.dismiss(time.Now())
		h.remember(time.Now())
		if i > 2 && i%saveEvery != 0 {
			continue
		}
		if err := h.cache.save(h.gate.list()); err != nil {
			h.log.Warn("remember peers", "err", err)
		}
	}
}

// remember notes the connected peers and their addresses. Whoever only comes
// and goes is not among them, so a flood of new identities does not wash out
// the peers that were there.
func (h *Host) remember(now time.Time) {
	for _, id := range h.host.Network().Peers() {
		if p, err := ToWire(id); err == nil && h.gate.admits(id) {
			h.cache.note(p, h.host.Peerstore().Addrs(id), now)
		}
	}
}

// localDiscovery finds peers on the local network by mDNS.
func (h *Host) localDiscovery() {
	found := make(chan peer.AddrInfo, 64)
	s := mdns.NewMdnsService(h.host, mdnsService, notifee(found))
	if err := s.Start(); err != nil {
		h.log.Info("local discovery (mDNS) is off", "err", err)
		return
	}
	defer s.Close()
	for {
		select {
		case <-h.ctx.Done():
			return
		case p := <-found:
			if !h.connected(p.ID) && h.gate.admits(p.ID) {
				h.dialAll([]peer.AddrInfo{p})
			}
		}
	}
}

// notifee hands on peers found by mDNS, and drops them if there are too many.
type notifee chan<- peer.AddrInfo

func (n notifee) HandlePeerFound(p peer.AddrInfo) {
	select {
	case n <- p:
	default:
	}
}

// Provide says in the DHT that this peer has c, for an hour. It returns
// ErrNoPeers while nobody is known who could keep the record.
func (h *Host) Provide(ctx context.Context, c wire.CID) error {
	id, err := cid.Cast([]byte(c))
	if err != nil {
		return fmt.Errorf("provide: %w", err)
	}
	if err := h.provide(ctx, id); err != nil {
		return fmt.Errorf("provide %s: %w", c, err)
	}
	return nil
}

// provide keeps a record here even if nobody else is known: a server whose
// clients are all behind NATs has an empty routing table, and still answers.
func (h *Host) provide(ctx context.Context, c cid.Cid) error {
	err := h.dht.Provide(ctx, c, true)
	if err != nil && h.dht.RoutingTable().Size() == 0 {
		return fmt.Errorf("%w (%w)", ErrNoPeers, err)
	}
	return err
}

// FindProviders returns up to n other peers that say they have c. Their
// addresses are known to the host afterwards. The result may be short, or
// empty, if ctx ends early.
func (h *Host) FindProviders(ctx context.Context, c wire.CID, n int) ([]wire.PeerID, error) {
	id, err := cid.Cast([]byte(c))
	if err != nil {
		return nil, fmt.Errorf("find providers: %w", err)
	}
	var out []wire.PeerID
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for info := range h.dht.FindProvidersAsync(ctx, id, n+1) {
		if p, err := ToWire(info.ID); err == nil && p != h.self && h.gate.admits(info.ID) && len(out) < n {
			out = append(out, p)
		}
	}
	if len(out) == 0 && h.dht.RoutingTable().Size() == 0 {
		return nil, fmt.Errorf("find providers of %s: %w", c, ErrNoPeers)
	}
	return out, nil
}

package p2p

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A peer whose key is not secp256k1 is a guest, if it dials us. AutoNAT's
// servers dial back under a throw-away Ed25519 key: such guests are let in, few
// and briefly, while this host wants to know whether it is reachable. Ordinary
// IPFS clients are let in up to Config.Clients, for as long as a large model
// takes. Guests get no gossip, no answers and no relay.
const (
	maxGuests  = 8
	guestTime  = 20 * time.Second
	clientTime = time.Hour
	maxBans    = 4096
)

// gater implements connmgr.ConnectionGater: who may be dialled and let in.
type gater struct {
	guests  bool // AutoNAT's are expected; fixed at start
	clients int  // how many IPFS clients may come; fixed at start
	allow   atomic.Pointer[func(wire.PeerID) bool]
	net     atomic.Pointer[network.Network] // set once the host exists

	mu  sync.RWMutex // guards following
	ban map[peer.ID]time.Time
}

func (g *gater) admits(id peer.ID) bool {
	if !isSecp(id) || g.banned(id) {
		return false
	}
	if f := g.allow.Load(); f != nil {
		p, err := ToWire(id)
		return err == nil && (*f)(p)
	}
	return true
}

func (g *gater) banned(id peer.ID) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	_, ok := g.ban[id]
	return ok
}

// add bans id; above maxBans the oldest ban is dropped.
func (g *gater) add(id peer.ID, at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.ban[id]; !ok && len(g.ban) >= maxBans {
		var oldest peer.ID
		for p, t := range g.ban {
			if oldest == "" || t.Before(g.ban[oldest]) {
				oldest = p
			}
		}
		delete(g.ban, oldest)
	}
	g.ban[id] = at
}

func (g *gater) remove(id peer.ID) {
	g.mu.Lock()
	delete(g.ban, id)
	g.mu.Unlock()
}

type bannedPeer struct {
	Peer wire.PeerID `json:"peer"`
	At   time.Time   `json:"at"`
}

func (g *gater) list() []bannedPeer {
	g.mu.RLock()
	defer g.mu.RUnlock()
	var out []bannedPeer
	for id, at := range g.ban {
		if p, err := ToWire(id); err == nil {
			out = append(out, bannedPeer{p, at})
		}
	}
	slices.SortFunc(out, func(a, b bannedPeer) int {
		return cmp.Or(a.At.Compare(b.At), a.Peer.Compare(b.Peer))
	})
	return out
}

// InterceptPeerDial refuses to dial whom we would not let in.
func (g *gater) InterceptPeerDial(id peer.ID) bool { return g.admits(id) }

// InterceptAddrDial allows every address.
func (g *gater) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return true }

// InterceptAccept allows every address; the resource manager bounds them.
func (g *gater) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured decides once the other's key is proven.
func (g *gater) InterceptSecured(dir network.Direction, id peer.ID, a network.ConnMultiaddrs) bool {
	if g.admits(id) {
		return true
	}
	return dir == network.DirInbound && !isSecp(id) && !isRelayed(a.RemoteMultiaddr()) && g.countGuests() < g.room()
}

// room is how many guests may be here at a time. A closed run is not for clients.
func (g *gater) room() int {
	n := 0
	if g.guests {
		n = maxGuests
	}
	if g.allow.Load() == nil {
		n += g.clients
	}
	return n
}

// stay is how long a guest may stay.
func (g *gater) stay() time.Duration {
	if g.clients > 0 && g.allow.Load() == nil {
		return clientTime
	}
	return guestTime
}

// InterceptUpgraded allows what InterceptSecured did.
func (g *gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

func (g *gater) countGuests() (n int) {
	if net := g.net.Load(); net != nil {
		for _, p := range (*net).Peers() {
			if !isSecp(p) {
				n++
			}
		}
	}
	return n
}

// dismiss closes guests whose time is over, and connections to peers that are
// no longer admitted.
func (g *gater) dismiss(now time.Time) {
	net := g.net.Load()
	if net == nil {
		return
	}
	for _, c := range (*net).Conns() {
		id := c.RemotePeer()
		if !isSecp(id) && now.Sub(c.Stat().Opened) < g.stay() || g.admits(id) {
			continue
		}
		c.Close() // an error means that it is closed already
	}
}

func isRelayed(a ma.Multiaddr) bool {
	if a == nil {
		return false
	}
	_, err := a.ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}

// SetAllow replaces Config.Allow; nil admits everybody. Connections to peers
// that are no longer admitted are closed within a few seconds.
func (h *Host) SetAllow(f func(wire.PeerID) bool) {
	if f == nil {
		h.gate.allow.Store(nil)
		return
	}
	h.gate.allow.Store(&f)
}

// Ban refuses p from now on, across restarts if there is a peer cache, and
// closes the connections that there are. Hooks set by OnBan run before Ban
// returns.
func (h *Host) Ban(p wire.PeerID) {
	id := FromWire(p)
	if p == h.self {
		return
	}
	h.gate.add(id, time.Now())
	h.cache.forget(p)
	h.mu.Lock()
	hooks := slices.Clone(h.onBan)
	h.mu.Unlock()
	for _, f := range hooks {
		f(p)
	}
	if err := h.host.Network().ClosePeer(id); err != nil {
		h.log.Debug("close banned peer", "peer", p.Short(), "err", err)
	}
	h.host.Peerstore().ClearAddrs(id)
}

// Unban lifts a ban.
func (h *Host) Unban(p wire.PeerID) { h.gate.remove(FromWire(p)) }

// Banned returns the banned peers, longest banned first.
func (h *Host) Banned() []wire.PeerID {
	var out []wire.PeerID
	for _, b := range h.gate.list() {
		out = append(out, b.Peer)
	}
	return out
}

// OnBan runs f for each peer banned from now on. f must be quick.
func (h *Host) OnBan(f func(wire.PeerID)) {
	h.mu.Lock()
	h.onBan = append(h.onBan, f)
	h.mu.Unlock()
}

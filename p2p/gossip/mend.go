package gossip

import (
	"context"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A peer whose machine started again or has another address connects anew
// while its old connection still counts as alive here. When that one times out
// gossipsub forgets which topics the peer is in, although it said so on
// the new connection, and will not say it again; after a few such times within
// ten minutes it sends the peer nothing at all. Both are deaf to one another
// then, for as long as they stay connected (go-libp2p-pubsub v0.17.0,
// handleDeadPeers). So what peers say of their topics is remembered here, and
// one that gossipsub lost is disconnected and connected to again, which begins anew.
const (
	mendLook  = 3 * time.Second
	mendAfter = 2                // looks in a row that find a peer lost
	mendFirst = 10 * time.Second // until the same peer is mended again; doubled where it does not help
	mendLast  = 5 * time.Minute
	mendDial  = 10 * time.Second
)

// ailment is a peer that was found lost.
type ailment struct {
	looks int           // in a row
	rest  time.Duration // after the next mending
	until time.Time     // no mending before
}

// keepMended looks for lost peers until the gossip ends.
func (g *Gossip) keepMended() {
	t := time.NewTicker(mendLook)
	defer t.Stop()
	ill := make(map[peer.ID]*ailment)
	for {
		select {
		case <-t.C:
		case <-g.ctx.Done():
			return
		}
		now := time.Now()
		lost := g.lost()
		for id, a := range ill {
			if is, known := lost[id]; !is {
				a.looks = 0
				if known {
					a.rest = mendFirst
				}
			}
			if a.looks == 0 && now.Sub(a.until) > mendLast {
				delete(ill, id)
			}
		}
		for id, is := range lost {
			if !is {
				continue
			}
			a := ill[id]
			if a == nil {
				a = &ailment{rest: mendFirst}
				ill[id] = a
			}
			if a.looks++; a.looks >= mendAfter && !now.Before(a.until) {
				a.looks, a.until, a.rest = 0, now.Add(a.rest), min(2*a.rest, mendLast)
				g.wg.Go(func() { g.mend(id) })
			}
		}
	}
}

// lost returns the connected peers that said they are in a topic of ours: true
// for those that gossipsub does not know there.
func (g *Gossip) lost() map[peer.ID]bool {
	net := g.host.Libp2p().Network()
	g.filter.retain(func(id peer.ID) bool { return net.Connectedness(id) != network.NotConnected })
	g.mu.Lock()
	topics := make([]*Topic, 0, len(g.topics))
	for _, t := range g.topics {
		topics = append(topics, t)
	}
	g.mu.Unlock()
	out := make(map[peer.ID]bool)
	for _, t := range topics {
		said := g.filter.subscribed(t.name) // before gossipsub is asked, which hears of it after the filter
		there := g.ps.ListPeers(t.name)
		for _, id := range said {
			if g.admits(id, t.name) && net.Connectedness(id) == network.Connected {
				out[id] = out[id] || !slices.Contains(there, id)
			}
		}
	}
	return out
}

// mend ends all connections to a peer and makes one. Where only the peer can
// make one it does, as to anyone whom it misses.
func (g *Gossip) mend(id peer.ID) {
	g.log.Debug("gossip lost a connected peer, which is connected anew", "peer", id)
	h := g.host.Libp2p()
	if err := h.Network().ClosePeer(id); err != nil {
		g.log.Debug("disconnect a lost peer", "peer", id, "err", err)
	}
	ctx, cancel := context.WithTimeout(g.ctx, mendDial)
	defer cancel()
	if err := h.Connect(ctx, peer.AddrInfo{ID: id}); err != nil {
		g.log.Debug("connect anew to a lost peer", "peer", id, "err", err)
	}
}

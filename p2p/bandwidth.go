package p2p

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/metrics"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// flow counts bytes of streams' payload, both ways. Framing, TLS and UDP
// headers are not in it.
type flow struct{ in, out atomic.Uint64 }

func (f *flow) stats() metrics.Stats {
	if f == nil {
		return metrics.Stats{}
	}
	return metrics.Stats{TotalIn: int64(f.in.Load()), TotalOut: int64(f.out.Load())}
}

// counter implements metrics.Reporter without rates and so without the global
// goroutine that go-libp2p's own counter starts. Peers are forgotten when they
// disconnect; protocols are few and bounded.
type counter struct {
	total flow

	mu     sync.RWMutex // guards following
	peers  map[peer.ID]*flow
	protos map[protocol.ID]*flow
}

const (
	maxCountedPeers  = 4096
	maxCountedProtos = 64
)

func newCounter() *counter {
	return &counter{peers: make(map[peer.ID]*flow), protos: make(map[protocol.ID]*flow)}
}

func (c *counter) LogSentMessage(n int64) { c.total.out.Add(uint64(n)) }
func (c *counter) LogRecvMessage(n int64) { c.total.in.Add(uint64(n)) }

func (c *counter) LogSentMessageStream(n int64, proto protocol.ID, p peer.ID) {
	a, b := c.flows(proto, p)
	if a != nil {
		a.out.Add(uint64(n))
	}
	if b != nil {
		b.out.Add(uint64(n))
	}
}

func (c *counter) LogRecvMessageStream(n int64, proto protocol.ID, p peer.ID) {
	a, b := c.flows(proto, p)
	if a != nil {
		a.in.Add(uint64(n))
	}
	if b != nil {
		b.in.Add(uint64(n))
	}
}

func (c *counter) flows(proto protocol.ID, p peer.ID) (byProto, byPeer *flow) {
	c.mu.RLock()
	byProto, byPeer = c.protos[proto], c.peers[p]
	c.mu.RUnlock()
	if byProto != nil && byPeer != nil {
		return byProto, byPeer
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if byProto = c.protos[proto]; byProto == nil && len(c.protos) < maxCountedProtos {
		byProto = new(flow)
		c.protos[proto] = byProto
	}
	if byPeer = c.peers[p]; byPeer == nil && len(c.peers) < maxCountedPeers {
		byPeer = new(flow)
		c.peers[p] = byPeer
	}
	return byProto, byPeer
}

func (c *counter) forget(p peer.ID) {
	c.mu.Lock()
	delete(c.peers, p)
	c.mu.Unlock()
}

func (c *counter) GetBandwidthForPeer(p peer.ID) metrics.Stats {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.peers[p].stats()
}

func (c *counter) GetBandwidthForProtocol(proto protocol.ID) metrics.Stats {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.protos[proto].stats()
}

func (c *counter) GetBandwidthTotals() metrics.Stats { return c.total.stats() }

func (c *counter) GetBandwidthByPeer() map[peer.ID]metrics.Stats {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make(map[peer.ID]metrics.Stats, len(c.peers))
	for p, f := range c.peers {
		out[p] = f.stats()
	}
	return out
}

func (c *counter) GetBandwidthByProtocol() map[protocol.ID]metrics.Stats {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make(map[protocol.ID]metrics.Stats, len(c.protos))
	for p, f := range c.protos {
		out[p] = f.stats()
	}
	return out
}

// Reset and TrimIdle complete metrics.Reporter; libp2p does not call them and
// this counter forgets on its own.
func (c *counter) Reset()             {}
func (c *counter) TrimIdle(time.Time) {}

// Bandwidth returns how many bytes of stream payload were received and sent
// since the host was made. Packet headers and encryption are not counted.
func (h *Host) Bandwidth() (in, out uint64) {
	return h.count.total.in.Load(), h.count.total.out.Load()
}

// BandwidthByProtocol returns {received, sent} for each protocol ID.
func (h *Host) BandwidthByProtocol() map[string][2]uint64 {
	out := make(map[string][2]uint64)
	for p, s := range h.count.GetBandwidthByProtocol() {
		out[string(p)] = [2]uint64{uint64(s.TotalIn), uint64(s.TotalOut)}
	}
	return out
}

// forgetOnDisconnect drops a peer's counters with its last connection.
func (c *counter) forgetOnDisconnect() network.Notifiee {
	return &network.NotifyBundle{DisconnectedF: func(n network.Network, conn network.Conn) {
		if n.Connectedness(conn.RemotePeer()) != network.Connected {
			c.forget(conn.RemotePeer())
		}
	}}
}

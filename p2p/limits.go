package p2p

import (
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/shoalnet/shoal/p2p/wire"
)

// maxMemory caps the default memory limit, as lotus does.
const maxMemory = 2 << 30

// newResourceManager bounds what all peers together, and each peer, can make
// libp2p hold. Connections may be twice ConnHigh, so that the connection
// manager trims before the resource manager refuses.
func newResourceManager(c *Config) (network.ResourceManager, error) {
	scaling := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&scaling)
	auto := scaling.AutoScale()
	system := auto.ToPartialLimitConfig().System
	memory := min(int64(system.Memory), maxMemory)
	if c.Memory > 0 {
		memory = c.Memory
	}
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns:         rcmgr.LimitVal(2 * c.ConnHigh),
			ConnsInbound:  rcmgr.LimitVal(c.ConnHigh + c.ConnHigh/2),
			ConnsOutbound: rcmgr.LimitVal(2 * c.ConnHigh),
			FD:            system.FD,
			Memory:        rcmgr.LimitVal64(memory),
			// Half a dozen protocols of ours, a few streams each.
			Streams:         rcmgr.LimitVal(64 * c.ConnHigh),
			StreamsInbound:  rcmgr.LimitVal(32 * c.ConnHigh),
			StreamsOutbound: rcmgr.LimitVal(64 * c.ConnHigh),
		},
	}.Build(auto)
	// A classroom or a lab behind one address is a normal case: 32 rather
	// than 8 connections from one IPv4 address.
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits), rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet([]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: 32}}, nil))
	if err != nil {
		return nil, fmt.Errorf("resource manager: %w", err)
	}
	return m, nil
}

func newConnManager(c *Config) (*connmgr.BasicConnMgr, error) {
	m, err := connmgr.NewConnManager(c.ConnLow, c.ConnHigh, connmgr.WithGracePeriod(20*time.Second))
	if err != nil {
		return nil, fmt.Errorf("connection manager: %w", err)
	}
	return m, nil
}

// Protect keeps the connection to p while blocks are in transfer or p is in
// our roster; tag names the reason. Unprotect with the same tag ends it.
func (h *Host) Protect(p wire.PeerID, tag string) { h.host.ConnManager().Protect(FromWire(p), tag) }

// Unprotect lifts one reason; it reports whether others remain.
func (h *Host) Unprotect(p wire.PeerID, tag string) bool {
	return h.host.ConnManager().Unprotect(FromWire(p), tag)
}

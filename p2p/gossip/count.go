package gossip

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Counters is what happened to messages since New, over all topics.
type Counters struct {
	Published   uint64            `json:"published"`   // by this peer
	Delivered   uint64            `json:"delivered"`   // accepted, of others and ours
	Duplicates  uint64            `json:"duplicates"`  // copies from further peers
	Undelivered uint64            `json:"undelivered"` // accepted, but Next was too slow
	DroppedRPCs uint64            `json:"dropped_rpcs"`
	Rejected    map[string]uint64 `json:"rejected"` // dropped, by reason
}

type counts struct {
	published, delivered, duplicates, undelivered, dropped atomic.Uint64

	mu      sync.Mutex // guards following
	reasons map[string]uint64
}

func newCounts() *counts { return &counts{reasons: make(map[string]uint64)} }

// refuse counts a message that a topic did not accept. Reasons are constants
// of ours and of pubsub, so there are few.
func (c *counts) refuse(reason string) {
	c.mu.Lock()
	c.reasons[reason]++
	c.mu.Unlock()
}

// Counters returns a copy of the counters.
func (g *Gossip) Counters() Counters {
	c := g.count
	c.mu.Lock()
	defer c.mu.Unlock()
	return Counters{
		Published: c.published.Load(), Delivered: c.delivered.Load(), Duplicates: c.duplicates.Load(),
		Undelivered: c.undelivered.Load(), DroppedRPCs: c.dropped.Load(), Rejected: maps.Clone(c.reasons),
	}
}

// tracer implements pubsub.RawTracer to count.
type tracer struct{ *counts }

func (t *tracer) OnNewOutboundStream(peer.ID, protocol.ID) {}
func (t *tracer) OnClosedOutboundStream(peer.ID)           {}
func (t *tracer) Join(string)                              {}
func (t *tracer) Leave(string)                             {}
func (t *tracer) Graft(peer.ID, string)                    {}
func (t *tracer) Prune(peer.ID, string)                    {}
func (t *tracer) ValidateMessage(*pubsub.Message)          {}
func (t *tracer) DeliverMessage(*pubsub.Message)           { t.delivered.Add(1) }
func (t *tracer) DuplicateMessage(*pubsub.Message)         { t.duplicates.Add(1) }
func (t *tracer) UndeliverableMessage(*pubsub.Message)     { t.undelivered.Add(1) }
func (t *tracer) ThrottlePeer(peer.ID)                     {}
func (t *tracer) RecvRPC(*pubsub.RPC)                      {}
func (t *tracer) SendRPC(*pubsub.RPC, peer.ID)             {}
func (t *tracer) DropRPC(*pubsub.RPC, peer.ID)             { t.dropped.Add(1) }

// RejectMessage counts what pubsub itself refuses; what our validator refused
// is counted there, with a better reason.
func (t *tracer) RejectMessage(_ *pubsub.Message, reason string) {
	if reason != pubsub.RejectValidationFailed && reason != pubsub.RejectValidationIgnored {
		t.refuse(strings.ReplaceAll(reason, "blacklisted", "banned"))
	}
}

package gossip

import (
	"fmt"
	"maps"
	"sync"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Bounds of what other peers may subscribe to; beyond them subscriptions are
// not tracked.
const (
	maxSubsPerRPC  = 128
	maxSubsPerPeer = 256
)

// filter implements pubsub.SubscriptionFilter: well-formed topics of ours only,
// and so many per peer.
type filter struct {
	mu    sync.Mutex // guards following
	peers map[peer.ID]map[string]bool
}

func newFilter() *filter { return &filter{peers: make(map[peer.ID]map[string]bool)} }

// CanSubscribe reports whether name is a topic of this version.
func (f *filter) CanSubscribe(name string) bool { return validTopic(name) }

// FilterIncomingSubscriptions keeps what is well-formed and within bounds.
func (f *filter) FilterIncomingSubscriptions(from peer.ID, subs []*pb.RPC_SubOpts) ([]*pb.RPC_SubOpts, error) {
	if len(subs) > maxSubsPerRPC {
		return nil, fmt.Errorf("%d subscriptions at once, limit %d", len(subs), maxSubsPerRPC)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*pb.RPC_SubOpts
	for _, s := range subs {
		name := s.GetTopicid()
		if !validTopic(name) {
			continue
		}
		have := f.peers[from]
		if !s.GetSubscribe() {
			delete(have, name)
			if len(have) == 0 {
				delete(f.peers, from)
			}
			out = append(out, s)
			continue
		}
		if !have[name] && len(have) >= maxSubsPerPeer {
			continue
		}
		if have == nil {
			have = make(map[string]bool)
			f.peers[from] = have
		}
		have[name] = true
		out = append(out, s)
	}
	return out, nil
}

// subscribed returns who said last that it is in the topic.
func (f *filter) subscribed(name string) []peer.ID {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []peer.ID
	for id, have := range f.peers {
		if have[name] {
			out = append(out, id)
		}
	}
	return out
}

// retain forgets all peers but those that keep says.
func (f *filter) retain(keep func(peer.ID) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.peers, func(id peer.ID, _ map[string]bool) bool { return !keep(id) })
}

package p2p

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"
	"github.com/shoalnet/shoal/p2p/wire"
)

const (
	maxMembers       = 4096 // remembered in one namespace
	searchSize       = 64   // provider records asked for in one search
	enoughMembers    = 8    // connected: search at leisure from here on
	searchTime       = 20 * time.Second
	firstReadvertise = 10 * time.Second
	lastReadvertise  = 5 * time.Minute
)

// space is one rendezvous namespace: a key in the DHT whose providers are its
// members.
type space struct {
	h    *Host
	name string
	key  cid.Cid

	ctx    context.Context // ends with the host or with Leave
	cancel context.CancelFunc

	mu      sync.Mutex // guards following
	members map[peer.ID]bool
}

// Rendezvous keeps this peer listed under namespace ns and connected to others
// that are, from Run on until the host closes or Leave. Calling it again is
// harmless.
func (h *Host) Rendezvous(ns string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.spaces[ns] != nil || h.closed {
		return
	}
	ctx, cancel := context.WithCancel(h.ctx)
	s := &space{h: h, name: ns, key: rendezvousKey(ns), members: make(map[peer.ID]bool), ctx: ctx, cancel: cancel}
	h.spaces[ns] = s
	if h.started {
		h.spawnLocked(s.run)
	}
}

// Leave ends what Rendezvous began. The record in the DHT expires within an
// hour.
func (h *Host) Leave(ns string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.spaces[ns]; s != nil {
		s.cancel()
		delete(h.spaces, ns)
	}
}

// rendezvousKey is where the members of ns are listed: the raw CID of the
// namespace's name under our prefix.
func rendezvousKey(ns string) cid.Cid {
	sum := sha256.Sum256([]byte(Prefix + "/rendezvous/" + ns))
	mh, err := multihash.Encode(sum[:], multihash.SHA2_256)
	if err != nil { // cannot happen: the length matches the code
		return cid.Undef
	}
	return cid.NewCidV1(cid.Raw, mh)
}

// Members returns the peers that were found under ns, connected or not.
func (h *Host) Members(ns string) []wire.PeerID {
	h.mu.Lock()
	s := h.spaces[ns]
	h.mu.Unlock()
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []wire.PeerID
	for id := range s.members {
		if p, err := ToWire(id); err == nil {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, wire.PeerID.Compare)
	return out
}

// memberOf returns our namespaces under which p was found.
func (h *Host) memberOf(p wire.PeerID) []string {
	h.mu.Lock()
	spaces := make([]*space, 0, len(h.spaces))
	for _, s := range h.spaces {
		spaces = append(spaces, s)
	}
	h.mu.Unlock()
	var out []string
	for _, s := range spaces {
		s.mu.Lock()
		if s.members[FromWire(p)] {
			out = append(out, s.name)
		}
		s.mu.Unlock()
	}
	slices.Sort(out)
	return out
}

// listed reports whether id told this very peer that it is in one of our
// namespaces, which may be before our next search finds it.
func (h *Host) listed(id peer.ID) bool {
	if !h.ready.Load() {
		return false
	}
	h.mu.Lock()
	keys := make([]cid.Cid, 0, len(h.spaces))
	for _, s := range h.spaces {
		keys = append(keys, s.key)
	}
	h.mu.Unlock()
	for _, k := range keys {
		found, err := h.dht.ProviderStore().GetProviders(h.ctx, k.Hash())
		if err == nil && slices.ContainsFunc(found, func(p peer.AddrInfo) bool { return p.ID == id }) {
			return true
		}
	}
	return false
}

func (s *space) run() {
	var wg sync.WaitGroup
	wg.Go(s.advertise)
	s.search()
	wg.Wait()
}

// advertise provides the key: at once as soon as there is a routing table,
// then again after 10 s, 20 s and so on up to 5 min, because the first records
// went to the few peers that were known.
func (s *space) advertise() {
	retry, again := quickRetry, firstReadvertise
	for {
		ctx, cancel := context.WithTimeout(s.ctx, searchTime)
		err := s.h.provide(ctx, s.key)
		cancel()
		pause := again
		if err != nil {
			s.h.log.Debug("advertise", "namespace", s.name, "err", err)
			pause, retry = retry, min(retry*2, slowRetry)
		} else {
			retry, again = quickRetry, min(again*2, lastReadvertise)
		}
		if !s.sleep(pause) {
			return
		}
	}
}

// search finds members and connects to them: in quick succession while there
// are few, once per Config.Rediscover later.
func (s *space) search() {
	pause := quickRetry
	for {
		n := s.searchOnce()
		switch {
		case n == 0:
			pause = min(pause*2, slowRetry/2)
		case n < enoughMembers:
			pause = min(pause*2, slowRetry)
		default:
			pause = s.h.cfg.Rediscover
		}
		if !s.sleep(pause) {
			return
		}
		if n >= enoughMembers {
			pause = quickRetry
		}
	}
}

// searchOnce asks the DHT once, dials who is new, and returns how many members
// are connected.
func (s *space) searchOnce() int {
	h := s.h
	ctx, cancel := context.WithTimeout(s.ctx, searchTime)
	defer cancel()
	var found []peer.AddrInfo
	for info := range h.dht.FindProvidersAsync(ctx, s.key, searchSize) {
		if info.ID == h.host.ID() || !h.gate.admits(info.ID) {
			continue
		}
		s.mu.Lock()
		if len(s.members) < maxMembers {
			s.members[info.ID] = true
		}
		s.mu.Unlock()
		found = append(found, info)
	}
	room := h.cfg.ConnLow/2 - s.connected()
	found = slices.DeleteFunc(found, func(p peer.AddrInfo) bool { return h.connected(p.ID) })
	h.dialAll(found[:min(len(found), max(room, 0))])
	return s.connected()
}

func (s *space) connected() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.members {
		if s.h.connected(id) {
			n++
		}
	}
	return n
}

func (s *space) sleep(d time.Duration) bool {
	t := time.NewTimer(jitter(d))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

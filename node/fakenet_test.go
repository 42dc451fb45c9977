package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// A sea is an in-memory swarm: every host reaches every other after a fixed
// delay, unless a test has cut them apart.
type sea struct {
	delay time.Duration

	mu    sync.Mutex // guards the following
	hosts map[wire.PeerID]*host
	apart func(a, b wire.PeerID) bool
	heard map[wire.CID]bool // IDs of all that was published
}

func newSea(delay time.Duration) *sea {
	return &sea{delay: delay, hosts: map[wire.PeerID]*host{}, heard: map[wire.CID]bool{}}
}

// split makes peers of different groups unreachable for each other; no groups heal.
func (s *sea) split(groups ...[]wire.PeerID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apart = nil
	if len(groups) == 0 {
		return
	}
	of := map[wire.PeerID]int{}
	for i, g := range groups {
		for _, p := range g {
			of[p] = i + 1
		}
	}
	s.apart = func(a, b wire.PeerID) bool { return of[a] != of[b] }
}

// published reports whether anybody has said that to a topic.
func (s *sea) published(id wire.CID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard[id]
}

// reach returns the host of b if a can talk to it.
func (s *sea) reach(a, b wire.PeerID) *host {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[b]
	if h == nil || s.hosts[a] == nil || a == b || s.apart != nil && s.apart(a, b) {
		return nil
	}
	return h
}

func (s *sea) others(a wire.PeerID) []*host {
	s.mu.Lock()
	all := make([]wire.PeerID, 0, len(s.hosts))
	for p := range s.hosts {
		all = append(all, p)
	}
	s.mu.Unlock()
	slices.SortFunc(all, wire.PeerID.Compare)
	var out []*host
	for _, p := range all {
		if h := s.reach(a, p); h != nil {
			out = append(out, h)
		}
	}
	return out
}

// host is one peer's Net.
type host struct {
	sea    *sea
	self   wire.PeerID
	blocks *shelf // what its exchange serves

	mu       sync.Mutex // guards the following
	topics   map[string]*fakeTopic
	handlers map[string]Handler
	work     sync.WaitGroup
	ctx      context.Context
	in, out  uint64
}

// join puts a host into the sea; leave takes it out and waits for its deliveries.
func (s *sea) join(ctx context.Context, self wire.PeerID, b *shelf) *host {
	h := &host{sea: s, self: self, blocks: b, topics: map[string]*fakeTopic{}, handlers: map[string]Handler{}, ctx: ctx}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts[self] = h
	return h
}

func (h *host) leave() {
	h.sea.mu.Lock()
	if h.sea.hosts[h.self] == h {
		delete(h.sea.hosts, h.self)
	}
	h.sea.mu.Unlock()
	h.work.Wait()
}

// later does f beside the rest, unless h has left.
func (h *host) later(f func()) {
	h.sea.mu.Lock()
	defer h.sea.mu.Unlock()
	if h.sea.hosts[h.self] == h {
		h.work.Go(f)
	}
}

func (h *host) Self() wire.PeerID { return h.self }

func (h *host) Join(topic string, judge Judge) (Topic, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.topics[topic] != nil {
		return nil, fmt.Errorf("topic %s was joined before", topic)
	}
	t := &fakeTopic{host: h, name: topic, judge: judge, queue: make(chan delivery, 4096)}
	h.topics[topic] = t
	return t, nil
}

func (h *host) topic(name string) *fakeTopic {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.topics[name]
}

func (h *host) Handle(proto string, _ int, f Handler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handlers[proto] = f
}

func (h *host) Ask(ctx context.Context, to wire.PeerID, proto string, req []byte, maxResp int) ([]byte, error) {
	o := h.sea.reach(h.self, to)
	if o == nil {
		return nil, fmt.Errorf("peer %s is out of reach", to.Short())
	}
	o.mu.Lock()
	f := o.handlers[proto]
	o.mu.Unlock()
	if f == nil {
		return nil, fmt.Errorf("peer %s does not speak %s", to.Short(), proto)
	}
	if err := pause(ctx, 2*h.sea.delay); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(o.ctx, cancel)()
	out, err := f(ctx, h.self, req)
	if len(out) > maxResp {
		return nil, errors.New("answer is too long")
	}
	h.count(len(out), len(req))
	return out, err
}

func (h *host) count(in, out int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.in += uint64(in)
	h.out += uint64(out)
}

func (h *host) Peers() (out []wire.PeerID) {
	for _, o := range h.sea.others(h.self) {
		out = append(out, o.self)
	}
	return out
}

func (h *host) Rendezvous(string)                       {}
func (h *host) Provide(context.Context, wire.CID) error { return nil }
func (h *host) Bandwidth() (in, out uint64)             { h.mu.Lock(); defer h.mu.Unlock(); return h.in, h.out }
func (h *host) FindProviders(context.Context, wire.CID, int) ([]wire.PeerID, error) {
	return h.Peers(), nil
}

type delivery struct {
	data []byte
	from wire.PeerID
}

type fakeTopic struct {
	host  *host
	name  string
	judge Judge
	queue chan delivery
}

// Publish judges one's own message, as gossipsub does, and brings it to all in
// reach; they do not relay.
func (t *fakeTopic) Publish(ctx context.Context, data []byte) error {
	h := t.host
	if t.judge(ctx, h.self, data) != wire.Accept {
		return errors.New("own message is not accepted")
	}
	if m, err := wire.Decode(data); err == nil {
		h.sea.mu.Lock()
		h.sea.heard[m.ID()] = true
		h.sea.mu.Unlock()
	}
	for _, o := range h.sea.others(h.self) {
		ot := o.topic(t.name)
		if ot == nil {
			continue
		}
		o.later(func() {
			if pause(o.ctx, h.sea.delay) != nil || h.sea.reach(h.self, o.self) == nil {
				return
			}
			ot.deliver(h.self, data)
		})
	}
	return nil
}

func (t *fakeTopic) deliver(from wire.PeerID, data []byte) wire.Judgement {
	t.host.count(len(data), 0)
	j := t.judge(t.host.ctx, from, data)
	if j == wire.Accept {
		select {
		case t.queue <- delivery{data, from}:
		default:
		}
	}
	return j
}

func (t *fakeTopic) Next(ctx context.Context) ([]byte, wire.PeerID, error) {
	select {
	case d := <-t.queue:
		return d.data, d.from, nil
	case <-ctx.Done():
		return nil, wire.PeerID{}, ctx.Err()
	}
}

func (t *fakeTopic) Peers() (out []wire.PeerID) {
	for _, o := range t.host.sea.others(t.host.self) {
		if o.topic(t.name) != nil {
			out = append(out, o.self)
		}
	}
	return out
}

func (t *fakeTopic) Close() error {
	t.host.mu.Lock()
	defer t.host.mu.Unlock()
	delete(t.host.topics, t.name)
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func testKey(t testing.TB, n int) *wire.Key {
	t.Helper()
	k, err := wire.NewKey(bytes.Repeat([]byte{byte(n + 1)}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

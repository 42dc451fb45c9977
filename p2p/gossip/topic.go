package gossip

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/wire"
)

// judgeTime bounds one judgement.
const judgeTime = 5 * time.Second

// A Topic is one subscription. Next is for one reader at a time; the rest is
// safe for concurrent use.
type Topic struct {
	g     *Gossip
	name  string
	judge Judge
	topic *pubsub.Topic
	sub   *pubsub.Subscription

	closeOnce sync.Once
	closeErr  error
}

// Join subscribes to a topic whose messages judge examines before they are
// relayed. name is RunsTopic or a RunTopic; a topic is joined once at a time.
func (g *Gossip) Join(name string, judge Judge) (_ *Topic, err error) {
	if !validTopic(name) {
		return nil, fmt.Errorf("join topic %q: want %s or %s<CID>", name, RunsTopic, runTopicPrefix)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.ctx.Err() != nil {
		return nil, fmt.Errorf("join topic %s: %w", name, ErrClosed)
	}
	if g.topics[name] != nil {
		return nil, fmt.Errorf("join topic %s: already joined", name)
	}
	t := &Topic{g: g, name: name, judge: judge}
	// Judged in the worker that has the message, not in goroutines of their
	// own: what does not fit the queue is dropped before it counts as seen, so
	// another peer's copy can still make it.
	err = g.ps.RegisterTopicValidator(name, t.validate,
		pubsub.WithValidatorInline(true), pubsub.WithValidatorTimeout(judgeTime))
	if err != nil {
		return nil, fmt.Errorf("join topic %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.leave())
		}
	}()
	if t.topic, err = g.ps.Join(name); err != nil {
		return nil, fmt.Errorf("join topic %s: %w", name, err)
	}
	if err = t.topic.SetScoreParams(topicScore()); err != nil {
		return nil, fmt.Errorf("score topic %s: %w", name, err)
	}
	if t.sub, err = t.topic.Subscribe(pubsub.WithBufferSize(g.cfg.Buffer)); err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", name, err)
	}
	g.topics[name] = t
	return t, nil
}

// validate is pubsub's validator: size, author, number, and then the judge.
func (t *Topic) validate(ctx context.Context, _ peer.ID, m *pubsub.Message) pubsub.ValidationResult {
	g := t.g
	from, err := p2p.ToWire(m.GetFrom())
	switch {
	case err != nil:
		g.count.refuse("author is not a secp256k1 peer")
		return pubsub.ValidationReject
	case len(m.GetData()) == 0 || len(m.GetData()) > MaxData:
		g.count.refuse("size")
		return pubsub.ValidationReject
	case len(m.GetSeqno()) != 8:
		g.count.refuse("sequence number")
		return pubsub.ValidationReject
	}
	now, seq := time.Now(), seqno(m.GetSeqno())
	if from == g.host.Peer() { // ours: others' copies of it do not get this far
		g.replay.accept(from, seq, now)
		return pubsub.ValidationAccept
	}
	if !g.host.Admits(from) {
		g.count.refuse("author is banned")
		return pubsub.ValidationIgnore
	}
	if !g.replay.fresh(from, seq, now) {
		g.count.refuse("replay")
		return pubsub.ValidationIgnore
	}
	switch t.judge(ctx, from, m.GetData()) {
	case wire.Accept:
		if !g.replay.accept(from, seq, now) {
			g.count.refuse("replay")
			return pubsub.ValidationIgnore
		}
		return pubsub.ValidationAccept
	case wire.Reject:
		g.count.refuse("rejected by judge")
		return pubsub.ValidationReject
	}
	g.count.refuse("ignored by judge")
	return pubsub.ValidationIgnore
}

// Publish sends data, of 1 to MaxData bytes, to the topic's peers. With nobody
// there it succeeds and reaches nobody.
func (t *Topic) Publish(ctx context.Context, data []byte) error {
	if len(data) > MaxData {
		return fmt.Errorf("publish %d bytes on %s: %w (limit %d)", len(data), t.name, ErrTooLarge, MaxData)
	}
	if len(data) == 0 {
		return fmt.Errorf("publish on %s: message is empty", t.name)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("publish on %s: %w", t.name, err)
	}
	if err := t.topic.Publish(ctx, data); err != nil {
		return fmt.Errorf("publish on %s: %w", t.name, err)
	}
	t.g.count.published.Add(1)
	return nil
}

// Next returns the next accepted message of another peer, and its author. It
// blocks until there is one, ctx ends, or the topic is closed (ErrClosed). The
// caller must not change data.
func (t *Topic) Next(ctx context.Context) (data []byte, from wire.PeerID, err error) {
	for {
		m, err := t.sub.Next(ctx)
		if errors.Is(err, pubsub.ErrSubscriptionCancelled) || err != nil && t.g.ctx.Err() != nil {
			return nil, wire.PeerID{}, fmt.Errorf("topic %s: %w", t.name, ErrClosed)
		}
		if err != nil {
			return nil, wire.PeerID{}, fmt.Errorf("topic %s: %w", t.name, err)
		}
		from, err := p2p.ToWire(m.GetFrom())
		if err != nil || from == t.g.host.Peer() {
			continue
		}
		return m.GetData(), from, nil
	}
}

// Peers returns the connected peers that are subscribed to the topic.
func (t *Topic) Peers() []wire.PeerID {
	var out []wire.PeerID
	for _, id := range t.topic.ListPeers() {
		if p, err := p2p.ToWire(id); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// Name returns the topic's name.
func (t *Topic) Name() string { return t.name }

// Close unsubscribes; a blocked Next returns ErrClosed.
func (t *Topic) Close() error {
	t.closeOnce.Do(func() {
		t.g.mu.Lock()
		defer t.g.mu.Unlock()
		delete(t.g.topics, t.name)
		t.closeErr = t.leave()
	})
	return t.closeErr
}

func (t *Topic) leave() error {
	if t.g.ctx.Err() != nil {
		return nil // pubsub has ended, and with it everything here
	}
	var errs []error
	if t.sub != nil {
		t.sub.Cancel()
	}
	if t.topic != nil {
		errs = append(errs, t.topic.Close())
	}
	errs = append(errs, t.g.ps.UnregisterTopicValidator(t.name))
	if t.g.ctx.Err() != nil {
		return nil
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("leave topic %s: %w", t.name, err)
	}
	return nil
}

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// owner is the goroutine that owns the machine: it feeds it events, one at a
// time, and carries out what it answers, in order.
type owner struct {
	run   wire.CID
	key   *wire.Key
	log   *slog.Logger
	meter *meter

	model    *Model
	claims   claims
	blocks   Blocks
	states   *states
	trainer  *trainer
	keeper   *keeper
	peers    func() []wire.PeerID // in the run's topic
	onHead   func(diloco.Adopt, diloco.Status)
	onFinal  func(diloco.Finalized)
	onDone   func(diloco.Done)
	proofs   string        // directory of EvidenceFile
	patience time.Duration // for one fetch of a delta or commit
	muted    uint64        // no word before the head has this round, see diloco.Config

	events chan diloco.Event // from the goroutines that carry out slow effects, and from outside
	asks   chan func()       // questions to the machine, answered by the owner
	over   chan struct{}     // closed when nobody answers any more
	outbox *outbox
	purse  purse         // belongs to loop
	merge  chan struct{} // one merge at a time: each holds a model or two

	mu     sync.Mutex // guards the following
	status diloco.Status

	// Everything below belongs to loop.
	machine *diloco.Machine
	journal *ledger
	queue   []diloco.Effect // not carried out yet
	inner   []diloco.Event  // the machine's own signed messages, on their way back
	blocked bool            // the first of queue failed and is tried again
	stale   bool            // status is older than the machine
	work    sync.WaitGroup  // goroutines of slow effects
}

// Retries of an effect that the disk refused.
const (
	retryFirst = 500 * time.Millisecond
	retryLast  = 15 * time.Second
)

// loop runs until ctx ends, and returns when all that it started has.
func (o *owner) loop(ctx context.Context, first []diloco.Effect) error {
	ctx, cancel := context.WithCancel(ctx)
	defer o.work.Wait()
	defer cancel()
	defer close(o.over)
	o.queue = first
	wait := retryFirst
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		err := o.drain(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if errors.Is(err, errFatal) {
				return err
			}
			o.blocked = true
			o.meter.trouble("journal or store", err)
			o.log.Error("an effect waits", "err", err, "retry", wait)
			timer.Reset(wait)
			wait = min(2*wait, retryLast)
		default:
			if o.blocked {
				o.blocked = false
				o.meter.clear("journal or store")
			}
			wait = retryFirst
			if len(o.inner) > 0 {
				ev := o.inner[0]
				o.inner = o.inner[1:]
				o.step(ev)
				continue
			}
			o.arm(timer)
		}
		if o.stale {
			o.stale = false
			o.publishStatus()
		}
		// While an effect waits no event is taken: their effects would only queue up.
		events := o.events
		if o.blocked {
			events = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			if !o.blocked {
				o.step(diloco.Tick{})
			}
		case ev := <-events:
			o.step(ev)
		case f := <-o.asks:
			f()
		}
	}
}

// arm sets the timer to the machine's wake.
func (o *owner) arm(timer *time.Timer) {
	wake := o.machine.Wake()
	if wake.IsZero() {
		timer.Reset(time.Hour)
		return
	}
	timer.Reset(max(0, time.Until(wake)))
}

func (o *owner) step(ev diloco.Event) {
	o.queue = append(o.queue, o.machine.Step(time.Now(), ev)...)
	o.stale = true
}

func (o *owner) publishStatus() {
	s := o.machine.Status()
	o.mu.Lock()
	o.status = s
	o.mu.Unlock()
}

// view returns the machine's status after its last event.
func (o *owner) view() diloco.Status {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.status
}

// tell hands an event to the machine; it gives up when ctx ends.
func (o *owner) tell(ctx context.Context, ev diloco.Event) {
	select {
	case o.events <- ev:
	case <-o.over:
	case <-ctx.Done():
	}
}

// ask runs f on the owner's goroutine and returns its result. ok is false
// where the owner has no time for it before ctx ends, or has ended.
func ask[T any](ctx context.Context, o *owner, f func() T) (v T, ok bool) {
	done := make(chan T, 1)
	select {
	case o.asks <- func() { done <- f() }:
	case <-o.over:
		return v, false
	case <-ctx.Done():
		return v, false
	}
	select {
	case v = <-done:
		return v, true
	case <-o.over:
		return v, false
	case <-ctx.Done():
		return v, false
	}
}

// hear judges a message whose signature is good and gives it to the machine,
// unless it is to be rejected. Nothing is heard while the disk refuses to
// write: what is missed is asked for afterwards.
func (o *owner) hear(ctx context.Context, m *wire.Signed) wire.Judgement {
	j, ok := ask(ctx, o, func() wire.Judgement {
		if o.blocked {
			return wire.Ignore
		}
		j := o.machine.Judge(m)
		if j != wire.Reject {
			o.step(diloco.Heard{Msg: *m})
		}
		return j
	})
	if !ok {
		return wire.Ignore
	}
	return j
}

// drain carries out the queue up to the first effect that fails, which stays.
func (o *owner) drain(ctx context.Context) error {
	for len(o.queue) > 0 {
		if err := o.apply(ctx, o.queue[0]); err != nil {
			return err
		}
		o.queue[0] = nil
		o.queue = o.queue[1:]
	}
	return nil
}

// apply carries out one effect. It must be safe to repeat where it fails.
func (o *owner) apply(ctx context.Context, e diloco.Effect) error {
	switch e := e.(type) {
	case diloco.Sign:
		return o.sign(e)
	case diloco.Publish:
		o.outbox.put(e.Msg)
	case diloco.FetchDelta:
		o.spawn(func() { o.fetchDelta(ctx, e) })
	case diloco.FetchCommit:
		o.spawn(func() { o.fetchCommit(ctx, e) })
	case diloco.FetchState:
		o.spawn(func() { o.fetchState(ctx, e) })
	case diloco.Merge:
		o.spawn(func() { o.runMerge(ctx, e) })
	case diloco.Store:
		return o.store(ctx, e)
	case diloco.Adopt:
		return o.adopt(e)
	case diloco.Train:
		o.trainer.post(order{train: &e})
	case diloco.Cut:
		o.trainer.post(order{cut: &e})
	case diloco.Included:
		o.trainer.post(order{included: e.Block})
	case diloco.Expired:
		o.trainer.post(order{expired: e.Block})
	case diloco.Finalized:
		if err := o.journal.finalized(e.CID); err != nil {
			return fmt.Errorf("journal the final commit of round %d: %w", e.Commit.Round, err)
		}
		o.onFinal(e)
	case diloco.Convicted:
		o.log.Warn("a peer contradicted itself", "peer", e.Peer, "proof", fmt.Sprintf("%s and %s", e.Evidence.A.ID(), e.Evidence.B.ID()))
		if err := o.journal.convicted(e); err != nil {
			return err
		}
		if err := keepEvidence(o.proofs, e); err != nil {
			o.log.Warn("evidence is in the journal, not in a file of its own", "err", err) // it can be written at the next start
		}
	case diloco.Done:
		o.onDone(e)
	default:
		return fmt.Errorf("%w: the machine asks for %T, which this shell does not know", errFatal, e)
	}
	return nil
}

// errFatal is wrapped by errors that end the node.
var errFatal = errors.New("cannot go on")

func (o *owner) spawn(f func()) { o.work.Go(f) }

// sign says something: signed, on disk, then back to the machine and out.
func (o *owner) sign(e diloco.Sign) error {
	body, err := o.purse.pay(e.Kind, e.Body)
	if err != nil {
		return fmt.Errorf("%w: %w", errFatal, err)
	}
	m := o.key.Sign(e.Kind, o.run, body)
	if err := o.journal.said(m); err != nil {
		return fmt.Errorf("journal a %v: %w", e.Kind, err)
	}
	if e.Kind == wire.KindDelta {
		var d diloco.Delta
		if err := wire.Unmarshal(body, &d); err != nil {
			return fmt.Errorf("%w: own delta: %w", errFatal, err)
		}
		o.trainer.post(order{signed: &signedDelta{d.Block, m.ID()}})
	}
	o.inner = append(o.inner, diloco.Heard{Msg: m})
	o.outbox.put(m)
	return nil
}

// store keeps a commit's block.
func (o *owner) store(ctx context.Context, e diloco.Store) error {
	c, err := o.blocks.Put(ctx, wire.CodecDagCBOR, e.Block)
	if err != nil {
		return fmt.Errorf("store the commit of round %d: %w", e.Commit.Round, err)
	}
	if c != e.CID {
		return fmt.Errorf("%w: commit %s was stored as %s", errFatal, e.CID, c)
	}
	return o.keeper.commit(c, e.Commit.Round)
}

// adopt makes a commit the head, durably.
func (o *owner) adopt(e diloco.Adopt) error {
	s := o.machine.Status()
	if err := o.journal.adopted(e.Head, e.Commit.Round, s.Keep); err != nil {
		return fmt.Errorf("journal the head of round %d: %w", e.Commit.Round, err)
	}
	o.onHead(e, s)
	return nil
}

// outbox publishes in order, apart from the owner: a topic may judge one's own
// messages, which asks the owner. What does not fit is dropped; the machine
// says again what matters.
type outbox struct {
	queue chan wire.Signed
	log   *slog.Logger
}

func newOutbox(log *slog.Logger) *outbox {
	return &outbox{make(chan wire.Signed, 1024), log}
}

func (b *outbox) put(m wire.Signed) {
	select {
	case b.queue <- m:
	default:
		b.log.Warn("too much to say at once, a message waits for its repetition", "kind", m.Kind)
	}
}

// loop publishes until ctx ends and what was put before that is out.
func (b *outbox) loop(ctx context.Context, t Topic) {
	for {
		select {
		case m := <-b.queue:
			data, err := m.Encode()
			if err == nil {
				err = t.Publish(ctx, data)
			}
			if err != nil && ctx.Err() == nil {
				b.log.Debug("publish", "kind", m.Kind, "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

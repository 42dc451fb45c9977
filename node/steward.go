package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// steward does what a new head entails besides training: records, pins,
// provider records, the archive. None of it holds up the owner.
type steward struct {
	node     *Node
	parts    *parts
	owner    *owner
	listener *listener
	trainer  *trainer
	auditor  *auditor // nil unless this peer is a validator
	book     *chronicle
	cancel   context.CancelCauseFunc
	wake     chan struct{} // for loop
	more     chan struct{} // for backfill

	// The owner's: bytes at the last head, how many states were evaluated, seconds
	// of compute since the last.
	lastIn, lastOut uint64
	evaluations     int
	unevaluated     float64

	mu     sync.Mutex // guards the following
	heads  []headWork
	final  wire.CID
	finalC *diloco.Commit
	result *diloco.Done // the run is over and its state evaluated
	cost   float64      // seconds of the quickest evaluation
}

type headWork struct {
	cid    wire.CID
	commit *diloco.Commit
	final  uint64
}

func (s *steward) ring() {
	for _, c := range []chan struct{}{s.wake, s.more} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// resume takes over where a restored machine stands.
func (s *steward) resume(c *diloco.Commit, cid wire.CID) {
	total, _ := s.book.total()
	s.node.mu.Lock()
	s.node.head, s.node.runTotal = c, total
	s.node.mu.Unlock()
	s.seat(c)
	s.adopted(headWork{cid, c, c.FinalRound})
}

// seat tells this peer that the chain has evicted it, or removed it for want of stake, and
// what to do, until it is in the roster again.
func (s *steward) seat(c *diloco.Commit) {
	n := s.node
	in := func(m diloco.Member) bool { return m.Peer == n.self }
	switch {
	case slices.ContainsFunc(c.Roster, func(m diloco.Member) bool { return in(m) && m.Banned }):
		n.meter.trouble("roster", errors.New("the run has evicted this peer's key for good: it contradicted itself, as when one key runs in two places or a data directory is put back from an older copy, or audits convicted it (`shoal audit list`). Another key, in another --dir, can take part"))
	case slices.Contains(c.Unstaked, n.self):
		duty := ""
		if v := s.parts.manifest.Verification; v.AuditRate > 0 && n.opt.Role != RoleValidator {
			duty = fmt.Sprintf("; if it shall not, keep it running until round %d: who takes its stake back and then does not serve what audits of its work ask for is convicted of withholding", c.Round+audit.Memory(v.Window))
		}
		n.meter.trouble("roster", fmt.Errorf("round %d has removed this peer: the others find less stake behind its key on the ledger than its role asks for; stake again (`shoal stake`), and it joins by itself%s", c.Round, duty))
		n.opt.Log.Warn("removed from the roster for want of stake: stake again (`shoal stake`), and this peer joins by itself"+duty, "round", c.Round, "role", n.opt.Role)
	case slices.ContainsFunc(c.Roster, in):
		n.meter.clear("roster")
	}
	for _, p := range c.Unstaked {
		if p != n.self {
			n.opt.Log.Info("a peer has too little stake for the roster", "peer", p, "round", c.Round)
		}
	}
}

// onHead is called by the owner when a head is adopted, durably.
func (s *steward) onHead(e diloco.Adopt, v diloco.Status) {
	c, n := e.Commit, s.node
	s.listener.headChanged()
	if c.Round >= s.owner.muted {
		n.meter.clear("journal")
	}
	r := s.record(e)
	n.mu.Lock()
	n.head, n.runTotal = c, r.Total
	n.mu.Unlock()
	s.seat(c)
	due := s.due(c, r.Compute, Phase(v.Phase) == Closing)
	s.book.adopted(r, due)
	if due {
		s.evaluate(c, false, func() {})
	}
	n.opt.Log.Info("head", "round", c.Round, "commit", e.Head, "deltas", len(c.Deltas), "roster", len(c.Roster), "weak", c.Weak)
	s.adopted(headWork{e.Head, c, v.FinalRound})
}

func (s *steward) adopted(h headWork) {
	s.mu.Lock()
	s.heads = append(s.heads, h)
	s.mu.Unlock()
	s.ring()
	if s.auditor != nil {
		s.auditor.post(h)
	}
}

// evalShare is which share of the compute evaluations may take by default: one
// part in so many.
const evalShare = 10

// due reports whether to evaluate a head's state. By default peers do so in
// different rounds: the first pause depends on the peer.
func (s *steward) due(c *diloco.Commit, compute float64, closing bool) bool {
	every, stop := s.node.opt.ValEvery, s.parts.manifest.Stop.Rounds
	s.mu.Lock()
	need := evalShare * s.cost
	s.mu.Unlock()
	s.unevaluated += compute
	switch {
	case closing && c.Round > stop: // its weights are those of the stop rule's
		return false
	case stop > 0 && c.Round >= stop, every > 0 && c.Round%every == 0:
	case every > 0 || s.unevaluated < need:
		return false
	}
	s.unevaluated = 0
	if s.evaluations++; s.evaluations == 2 { // now the cost is known
		s.unevaluated = need * float64(s.node.self[len(s.node.self)-1]) / 256
	}
	return true
}

// evaluate asks for the validation loss of a commit's state.
func (s *steward) evaluate(c *diloco.Commit, must bool, then func()) {
	s.trainer.evaluate(&evalOrder{must: must, round: c.Round, state: c.State, done: func(loss float64, took time.Duration, err error) {
		s.mu.Lock()
		if s.cost == 0 || took.Seconds() < s.cost { // the first one may be slow for other reasons
			s.cost = took.Seconds()
		}
		s.mu.Unlock()
		if err != nil {
			s.node.opt.Log.Info("no validation loss", "round", c.Round, "err", err)
		} else {
			s.node.meter.evaluated(c.Round, loss)
			s.book.evaluated(c.State, loss)
		}
		then()
	}})
}

// record sums up the round that ended with a commit.
func (s *steward) record(e diloco.Adopt) Record {
	c, now := e.Commit, time.Now()
	r := Record{Round: c.Round, Commit: e.Head, State: c.State, Time: now, Deltas: len(c.Deltas), Roster: len(c.Roster), Weak: c.Weak}
	lossSum := 0.0
	for i := range c.Deltas {
		m, err := diloco.Open(&c.Deltas[i])
		if err != nil {
			continue // cannot be: the machine has read it
		}
		d, ok := m.Body.(*diloco.Delta)
		if !ok {
			continue
		}
		r.DeltaPeers = append(r.DeltaPeers, m.From)
		r.Bytes += d.Bytes
		r.Tokens += d.Tokens
		lossSum += d.Loss * float64(d.Tokens)
		if m.From == s.node.self {
			r.Included = true
		}
		if d.Round+1 < c.Round {
			r.Late++
		}
	}
	if r.Tokens > 0 {
		r.TrainLoss = lossSum / float64(r.Tokens)
	}
	s.book.mu.Lock()
	last := s.book.file.last
	if s.book.waiting != nil {
		last = *s.book.waiting
	}
	s.book.mu.Unlock()
	if last.Commit == c.Parent {
		r.Total = last.Total + r.Tokens
	} else { // rounds that this peer has not seen: what was handed out for them
		r.Total = c.Cursor * s.parts.plan.Sequence
	}
	compute, exchange, wait := s.node.meter.lap(now)
	r.Compute, r.Exchange, r.Wait = compute.Seconds(), exchange.Seconds(), wait.Seconds()
	in, out := s.node.opt.Net.Bandwidth()
	r.BytesIn, r.BytesOut = in-s.lastIn, out-s.lastOut
	s.lastIn, s.lastOut = in, out
	return r
}

// onFinal is called by the owner when a commit is final.
func (s *steward) onFinal(e diloco.Finalized) {
	s.node.mu.Lock()
	s.node.final = e.Commit
	s.node.mu.Unlock()
	s.mu.Lock()
	s.final, s.finalC = e.CID, e.Commit
	s.mu.Unlock()
	s.ring()
}

// onDone is called by the owner when the run is over: what remains is to
// evaluate the result and to have all of its lineage.
func (s *steward) onDone(e diloco.Done) {
	s.node.opt.Log.Info("the run is over", "round", e.Commit.Round, "commit", e.CID, "state", e.Commit.State)
	s.evaluate(e.Commit, true, func() {
		s.book.flush()
		s.mu.Lock()
		s.result = &e
		s.mu.Unlock()
		s.ring()
	})
}

// settle makes the result known.
func (s *steward) settle(e *diloco.Done) {
	s.node.mu.Lock()
	s.node.done, s.node.result, s.node.resultState = true, e.CID, e.Commit.State
	s.node.mu.Unlock()
	if s.node.opt.ExitWhenDone {
		s.cancel(errOver)
	}
}

// provideEvery is the least time between two provider records for heads,
// provideAgain when that of the manifest is renewed.
const (
	provideEvery = 30 * time.Second
	provideAgain = 6 * time.Hour
)

// loop pins, prunes and provides until ctx ends.
func (s *steward) loop(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	var provided, provideRun time.Time
	for {
		if time.Since(provideRun) > provideAgain {
			provideRun = time.Now()
			s.provide(ctx, &work, s.node.opt.Run)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		s.mu.Lock()
		heads := s.heads
		s.heads = nil
		final := s.finalC
		s.mu.Unlock()
		for i, h := range heads {
			if err := s.parts.keeper.state(h.commit.State, h.commit.Round); err != nil {
				s.node.opt.Log.Warn("keep a state", "round", h.commit.Round, "err", err)
			}
			if i+1 < len(heads) {
				continue
			}
			keep := []wire.CID{h.commit.State}
			if final != nil {
				keep = append(keep, final.State)
			}
			s.parts.keeper.prune(ctx, h.commit.Round, h.final, h.commit.Audited(s.parts.manifest.Verification.Window), keep...)
			if time.Since(provided) > provideEvery {
				provided = time.Now()
				s.provide(ctx, &work, h.cid, h.commit.State)
			}
		}
	}
}

// provide announces blocks in the DHT, apart.
func (s *steward) provide(ctx context.Context, work *sync.WaitGroup, cids ...wire.CID) {
	work.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		for _, c := range cids {
			if err := s.node.opt.Net.Provide(ctx, c); err != nil && ctx.Err() == nil {
				s.node.opt.Log.Debug("provide", "cid", c, "err", err)
			}
		}
	})
}

// archivePin names the final commit up to which the archive is complete.
const archivePin = "archive/tip"

// How often backfill tries again where something cannot be had, and how often
// it does so before a peer calls itself done all the same.
const (
	backfillEvery = 5 * time.Second
	backfillTries = 4
)

// backfill fetches the lineage from before this peer joined, and keeps it whole
// from then on. A peer is done when it has all of it.
func (s *steward) backfill(ctx context.Context) {
	tick := time.NewTicker(backfillEvery)
	defer tick.Stop()
	var whole wire.CID // the final commit up to which nothing is missing
	tries := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.more:
		}
		s.mu.Lock()
		tip, result := s.final, s.result
		s.mu.Unlock()
		if tip.Defined() && tip != whole && !s.node.opt.Prune {
			if err := s.archive(ctx, tip); err == nil {
				whole = tip
			} else if ctx.Err() == nil {
				s.node.opt.Log.Info("the archive has gaps still", "err", err)
			}
		}
		if result == nil {
			continue
		}
		if tries++; tip == whole || s.node.opt.Prune || tries > backfillTries {
			s.settle(result)
			s.mu.Lock()
			s.result = nil
			s.mu.Unlock()
		}
	}
}

// archive makes sure that all commits up to tip and all that they merged are held.
func (s *steward) archive(ctx context.Context, tip wire.CID) error {
	k, o := s.parts.keeper, s.owner
	marker := k.pinned(archivePin)
	for at := tip; at.Defined() && at != marker; {
		limit, cancel := context.WithTimeout(ctx, o.patience)
		c, err := getCommit(limit, o.blocks, at, o.sources())
		if err == nil {
			err = k.commit(at, c.Round)
		}
		if err == nil {
			err = s.archiveDeltas(limit, c)
		}
		cancel()
		if err != nil {
			return err
		}
		at = c.Parent
	}
	return k.pin(archivePin, tip)
}

func (s *steward) archiveDeltas(ctx context.Context, c *diloco.Commit) error {
	k, o := s.parts.keeper, s.owner
	for _, w := range c.Merged() {
		if k.pinned(roundPin("delta", w.Round, w.Block)).Defined() {
			continue
		}
		from := o.sources([]wire.PeerID{w.Peer})
		slices.Reverse(from) // those who merely have it, before its author, who serves it to all
		h := codec.Header{Run: o.run, Parent: w.Parent, Peer: w.Peer}
		if _, err := o.payload(ctx, w.Block, h, from); err != nil {
			return err
		}
		if err := k.delta(w.Block, w.Round); err != nil {
			return err
		}
	}
	return nil
}

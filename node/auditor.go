package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// auditor carries out what a validator does instead of training: an audit.Auditor
// says what to look at, this replays it and says what it found. One goroutine, in loop,
// owns everything but the mailbox. What it must not forget is elsewhere: a verdict is in
// the journal, and what was to be done follows from the chain, so after a crash it is
// done again.
type auditor struct {
	self     wire.PeerID
	run      wire.CID
	coin     *audit.Coin
	rate     uint64
	window   uint64 // rounds
	every    uint64 // steps of a segment
	choice   *audit.Auditor
	replayer *replayer
	blocks   Blocks
	keeper   *keeper
	meter    *meter
	log      *slog.Logger
	tell     func(context.Context, diloco.Event)
	lie      func(audit.Task, *diloco.Verdict) // of a testnet's liar
	patience time.Duration                     // for the material of one audit

	mu    sync.Mutex // guards the mailbox: the following
	heads []headWork
	wake  chan struct{}

	// The loop's.
	looked   map[wire.CID]uint64          // commits seen, and their rounds
	known    map[wire.CID]*diloco.Message // deltas and verdicts of the chain within the window
	unranked *diloco.Commit               // the newest head, until the gains of its deltas are measured
}

// coinSecret derives the secret of a key's coin.
func coinSecret(k *wire.Key) []byte {
	h := sha256.Sum256(append([]byte("shoal/audit secret/1"), k.Secret()...))
	return h[:]
}

// post tells of a new head.
func (a *auditor) post(h headWork) {
	a.mu.Lock()
	a.heads = append(a.heads, h)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// recall takes what this validator said before a restart.
func (a *auditor) recall(own []wire.Signed) {
	for i := range own {
		if own[i].Kind != wire.KindVerdict {
			continue
		}
		if m, err := diloco.Open(&own[i]); err == nil {
			if v := m.Body.(*diloco.Verdict); v.Finding != diloco.Withheld {
				a.choice.Said(v.Subject, v.Segment, v.Round)
			}
		}
	}
}

// loop audits until ctx ends.
func (a *auditor) loop(ctx context.Context) {
	for ctx.Err() == nil {
		a.mu.Lock()
		heads := a.heads
		a.heads = nil
		a.mu.Unlock()
		for _, h := range heads {
			a.adopt(ctx, h)
		}
		if t, ok := a.choice.Next(); ok {
			began := time.Now()
			a.do(ctx, t)
			a.meter.audited(time.Since(began))
			continue
		}
		if a.unranked != nil {
			a.idle(ctx)
			continue
		}
		select {
		case <-ctx.Done():
		case <-a.wake:
		}
	}
}

// adopt looks at a new head, and at the commits below it within the window that
// were not looked at.
func (a *auditor) adopt(ctx context.Context, h headWork) {
	get := localCommits(ctx, a.blocks)
	var news []*diloco.Commit
	for at, c := h.cid, h.commit; c.Round+a.window >= h.commit.Round; {
		if _, seen := a.looked[at]; seen {
			break
		}
		a.looked[at] = c.Round
		news = append(news, c)
		if at = c.Parent; !at.Defined() {
			break
		}
		var err error
		if c, err = get(at); err != nil {
			a.log.Debug("a commit below the head is not looked at", "err", err) // from before this peer came
			break
		}
	}
	for _, c := range slices.Backward(news) {
		a.look(ctx, c)
	}
	old := func(round uint64) bool { return round+2*a.window+1 < h.commit.Round }
	maps.DeleteFunc(a.looked, func(_ wire.CID, r uint64) bool { return old(r) })
	maps.DeleteFunc(a.known, func(_ wire.CID, m *diloco.Message) bool { return old(roundOf(&m.Signed, 0)) })
}

// look says what a commit gives to audit.
func (a *auditor) look(ctx context.Context, c *diloco.Commit) {
	h := c.Head(a.self)
	for i := range c.Roster {
		if m := &c.Roster[i]; m.Peer == a.self && m.Coin != a.coin.At(m.Shown) {
			h.Since = 0 // it is there with the coin of an earlier life, and will join anew
		}
	}
	for _, list := range [][]wire.Signed{c.Deltas, c.Verdicts} {
		for i := range list {
			if m, err := diloco.Open(&list[i]); err == nil { // the machine has read it
				a.known[m.ID] = m
			}
		}
	}
	a.choice.Adopted(h)
	if h.Since > 0 {
		a.screen(ctx, c)
		a.unranked = c // of several the last
	}
}

func workOf(m *diloco.Message) audit.Work {
	d := m.Body.(*diloco.Delta)
	return audit.Work{ID: m.ID, Peer: m.From, Round: d.Round, Steps: d.Steps}
}

// root finds the delta that a verdict is about in the end.
func (a *auditor) root(m *diloco.Message) *diloco.Message {
	for range 4 { // a verdict about a verdict about a delta, and one more
		v, ok := m.Body.(*diloco.Verdict)
		if !ok {
			return m
		}
		if m = a.known[v.Subject]; m == nil {
			return nil
		}
	}
	return nil
}

// do carries out one audit and says what came of it.
func (a *auditor) do(ctx context.Context, t audit.Task) {
	msg := a.known[t.Subject]
	if msg == nil {
		a.choice.Failed(t.Subject, t.Segment)
		return
	}
	delta := a.root(msg)
	if delta == nil || delta.From == a.self { // nobody judges who judged its own work
		a.choice.Said(t.Subject, t.Segment, t.Round)
		return
	}
	limit, cancel := context.WithTimeout(ctx, a.patience)
	out, err := a.replay(limit, t, msg, delta)
	cancel()
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		if err = a.conclude(ctx, t, msg, delta, out); err == nil {
			a.meter.clear("audit")
			return
		}
		a.meter.trouble("audit", err)
	}
	a.log.Info("an audit waits for the next round", "peer", msg.From, "round", t.Round, "segment", t.Segment, "err", err)
	var gone notServed
	if late := a.choice.Failed(t.Subject, t.Segment); !late || !errors.As(err, &gone) {
		return
	}
	a.log.Warn("audit material is withheld", "peer", msg.From, "round", t.Round, "segment", t.Segment, "err", err)
	v := verdictOf(t, diloco.Withheld)
	if v.Evidence, err = a.evidence(ctx, t, msg, delta, outcome{Reason: gone.Error()}, true); err != nil {
		a.meter.trouble("audit", err)
		return
	}
	a.say(ctx, v)
}

func (a *auditor) replay(ctx context.Context, t audit.Task, msg, delta *diloco.Message) (outcome, error) {
	if !t.Verdict {
		return a.replayer.audit(ctx, delta, t.Segment, t.Seed)
	}
	v := msg.Body.(*diloco.Verdict)
	out, err := a.replayer.recheck(ctx, delta, t.Segment, audit.SeedOf(v.Coin, v.Subject, v.Segment, msg.From), v.Work)
	if err != nil || out.Wrong {
		return out, err
	}
	// Its proof is right: mine is of other data, for whoever checks me.
	out.Work, err = a.replayer.work(ctx, delta, t.Segment, t.Seed)
	return out, err
}

func verdictOf(t audit.Task, f diloco.Finding) diloco.Verdict {
	return diloco.Verdict{Subject: t.Subject, Peer: t.Peer, Round: t.Round, Segment: t.Segment, Finding: f, Coin: t.Coin}
}

// conclude says Pass or Wrong.
func (a *auditor) conclude(ctx context.Context, t audit.Task, msg, delta *diloco.Message, out outcome) error {
	v := verdictOf(t, diloco.Pass)
	v.Work = out.Work
	if out.Wrong {
		c, err := a.evidence(ctx, t, msg, delta, out, false)
		if err != nil {
			return err
		}
		a.log.Warn("an audit found wrong work", "peer", msg.From, "round", t.Round, "segment", t.Segment, "why", out.Reason)
		v.Finding, v.Evidence = diloco.Wrong, c
	} else {
		a.log.Info("an audit passed", "peer", msg.From, "round", t.Round, "segment", t.Segment, "reason", t.Reason)
		if t.Reason == audit.BySuspicion && t.Coin == nil { // nobody asked for this word
			a.choice.Said(t.Subject, t.Segment, t.Round)
			a.meter.found("cleared of suspicion")
			return nil
		}
	}
	a.choice.Said(t.Subject, t.Segment, t.Round)
	if a.lie != nil {
		a.lie(t, &v)
	}
	a.say(ctx, v)
	return nil
}

func (a *auditor) say(ctx context.Context, v diloco.Verdict) {
	a.meter.found([...]string{"passed", "wrong", "withheld"}[v.Finding])
	a.tell(ctx, diloco.Audited{Verdict: v})
}

// evidence stores what a verdict rests on, with the material, so that others can
// check it when the accused is gone.
func (a *auditor) evidence(ctx context.Context, t audit.Task, msg, delta *diloco.Message, out outcome, withheld bool) (wire.CID, error) {
	d := delta.Body.(*diloco.Delta)
	e := &audit.Evidence{
		Version: 1, Run: a.run, Delta: delta.Signed, Trace: d.Trace, Segment: t.Segment, Withheld: withheld,
		Auditor: a.self, Engine: a.replayer.engine.Identity(), Reason: out.Reason, Numbers: out.Numbers,
	}
	if t.Verdict {
		e.Verdict = &msg.Signed
	}
	block, err := e.Encode()
	if err != nil {
		return "", err
	}
	c, err := a.blocks.Put(ctx, wire.CodecDagCBOR, block)
	if err != nil {
		return "", fmt.Errorf("store the evidence: %w", err)
	}
	for _, m := range append([]wire.CID{c, d.State}, a.replayer.used...) {
		if err := a.keeper.evidence(m, t.Round); err != nil && m == c {
			return "", err
		} else if err != nil {
			a.log.Debug("keep material of an audit", "cid", m, "err", err)
		}
	}
	return c, nil
}

// newAuditor makes a validator's auditor. The caller sets what belongs to the
// topic: tell, and whom the replayer asks.
func (n *Node) newAuditor(ctx context.Context, p *parts) (*auditor, error) {
	m := p.manifest
	data, err := openDataset(ctx, n.opt.Blocks, p.keeper, n.opt.Run, m, n.opt.ValWindows, nil)
	if err != nil {
		return nil, fmt.Errorf("data for audits: %w", err)
	}
	v := m.Verification
	a := &auditor{
		self: n.self, run: n.opt.Run, coin: audit.NewCoin(coinSecret(n.opt.Key), n.opt.Run),
		rate: v.AuditRate, window: v.Window, every: audit.Every(m.Round.InnerSteps, v.Segments),
		replayer: newReplayer(n.opt.Run, m, p.model, n.opt.Blocks, p.engine, data, n.opt.Log),
		blocks:   n.opt.Blocks, keeper: p.keeper, meter: n.meter, log: n.opt.Log,
		lie: n.opt.Lie, wake: make(chan struct{}, 1), looked: map[wire.CID]uint64{}, known: map[wire.CID]*diloco.Message{},
	}
	a.choice = audit.NewAuditor(audit.Config{Self: n.self, Coin: a.coin, Rate: a.rate, Every: a.every, Window: a.window})
	return a, nil
}

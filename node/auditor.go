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
	patience time.Duration                     // for the gains of one commit

	mu    sync.Mutex // guards the mailbox: the following
	heads []headWork
	wake  chan struct{}

	// The loop's.
	looked   map[wire.CID]uint64          // commits seen, and their rounds
	known    map[wire.CID]*diloco.Message // deltas and verdicts of the chain within the window
	unranked *diloco.Commit               // the newest head, until the gains of its deltas are measured
	asking   []*asked                     // the longest first
	vain     map[segment]vainly           // what was asked for in vain

	fetched, replayed chan *asked
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

// How many audits' material is asked for at a time: beside the one that is replayed
// there is the next, and where a case is open a few more, since asking in vain takes
// long. Who keeps silent for longer than audit.Asking does not count, whatever else it is
// asked for, up to maxAsked: it would keep this validator from what it owes.
const (
	maxAhead  = 2
	maxAnswer = 6
	maxAsked  = 16
)

// asked is an audit under way: its material is asked for, then it is replayed.
type asked struct {
	task       audit.Task
	msg, delta *diloco.Message // the subject, and the delta below it
	since      time.Time
	stop       context.CancelFunc
	out        outcome
	err        error
	took       time.Duration // the replay
}

// vainly is who does not serve, and since when it was asked.
type vainly struct {
	peer  wire.PeerID
	since time.Time
}

// segment is what a verdict is about.
type segment struct {
	subject wire.CID
	n       uint64
}

func (j *asked) segment() segment { return segment{j.task.Subject, j.task.Segment} }

// loop audits until ctx ends. What takes time is done beside it: several audits'
// material is fetched at once, so that who withholds delays nobody's audit but its
// own, and one is replayed.
func (a *auditor) loop(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	a.fetched, a.replayed = make(chan *asked, maxAsked), make(chan *asked, 1)
	var ready []*asked
	busy := false
	for ctx.Err() == nil {
		a.mu.Lock()
		heads := a.heads
		a.heads = nil
		a.mu.Unlock()
		for _, h := range heads {
			a.adopt(ctx, h)
		}
		a.ask(ctx, &work, len(ready))
		if len(heads) > 0 {
			a.remind(ctx)
		}
		if !busy && len(ready) > 0 {
			j := ready[0]
			ready = ready[1:]
			if t, ok := a.choice.Current(j.task.Subject, j.task.Segment); ok {
				j.task, busy = t, true
				work.Go(func() {
					began := time.Now()
					j.out, j.err = a.replay(ctx, j.task, j.msg, j.delta)
					j.took = time.Since(began)
					a.replayed <- j
				})
			}
			continue
		}
		if !busy && a.unranked != nil && !slices.ContainsFunc(a.asking, func(j *asked) bool { return time.Since(j.since) < audit.Asking }) {
			a.idle(ctx)
			continue
		}
		select {
		case <-ctx.Done():
		case <-a.wake:
		case j := <-a.fetched:
			a.asking = slices.DeleteFunc(a.asking, func(x *asked) bool { return x == j })
			if j.err != nil {
				a.failed(ctx, j)
				break
			}
			delete(a.vain, j.segment())
			i := len(ready)
			if j.task.Reason == audit.ByCase { // the others wait for it
				i = 0
			}
			ready = slices.Insert(ready, i, j)
		case j := <-a.replayed:
			busy = false
			a.meter.audited(j.took)
			a.done(ctx, j)
		}
	}
}

// ask begins to ask for the material of as many audits as may be under way. ready is
// how many wait to be replayed.
func (a *auditor) ask(ctx context.Context, work *sync.WaitGroup, ready int) {
	for stopped := 0; ; {
		n, least := ready, audit.ByCross
		for _, j := range a.asking {
			if time.Since(j.since) < audit.Asking && !a.silent(j.delta.From) {
				n++
			}
		}
		full := len(a.asking) >= maxAsked
		if n >= maxAnswer || full && stopped >= maxAhead { // some come to their turn with each head, not all at once
			return
		}
		if n >= maxAhead {
			least = audit.ByCase
		}
		t, ok := a.choice.Next(least)
		if !ok {
			return
		}
		j := &asked{task: t, msg: a.known[t.Subject], since: time.Now()}
		if j.msg == nil {
			a.choice.Failed(t.Subject, t.Segment, false)
			continue
		}
		if j.delta = a.root(j.msg); j.delta == nil || j.delta.From == a.self { // nobody judges who judged its own work
			a.choice.Said(t.Subject, t.Segment, t.Round)
			continue
		}
		if full {
			a.asking[0].stop() // it comes again with the next head
			a.asking = a.asking[1:]
			stopped++
		}
		// Who lets each try take nearly as long as is waited for gains nothing by it.
		if v, again := a.vain[j.segment()]; again {
			j.since = v.since
		}
		limit, stop := context.WithCancel(ctx)
		j.stop = stop
		a.asking = append(a.asking, j)
		work.Go(func() {
			j.err = a.replayer.bring(limit, j.delta, t.Segment, t.Again)
			stop()
			a.fetched <- j
		})
	}
}

// silent reports whether a peer does not serve something that it is asked for.
func (a *auditor) silent(p wire.PeerID) bool {
	for _, v := range a.vain {
		if v.peer == p {
			return true
		}
	}
	return false
}

// adopt looks at a new head, and at the commits below it within the window that
// were not looked at.
func (a *auditor) adopt(ctx context.Context, h headWork) {
	get := localCommits(ctx, a.blocks)
	var news []*diloco.Commit
	for at, c := h.cid, h.commit; c.Round+audit.Memory(a.window) >= h.commit.Round; {
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
	old := func(round uint64) bool { return round+audit.Memory(a.window) < h.commit.Round }
	maps.DeleteFunc(a.vain, func(s segment, _ vainly) bool {
		_, wanted := a.choice.Current(s.subject, s.n)
		return !wanted
	})
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

// remind counts a round for those who were asked long ago and have not answered,
// and gives up asking for what nobody wants to know any more.
func (a *auditor) remind(ctx context.Context) {
	for _, j := range a.asking {
		_, ok := a.choice.Current(j.task.Subject, j.task.Segment)
		late := time.Since(j.since) >= audit.Asking
		if ok && late {
			a.vain[j.segment()] = vainly{j.delta.From, j.since}
		}
		switch {
		case !ok:
			j.stop()
		case late && a.choice.Waits(j.task.Subject, j.task.Segment):
			a.withheld(ctx, j, notServed{fmt.Errorf("it does not answer within %v: %w", audit.Asking, ErrNotFound)})
		}
	}
}

// failed takes an audit that could not be done.
func (a *auditor) failed(ctx context.Context, j *asked) {
	if ctx.Err() != nil {
		return
	}
	a.log.Info("an audit waits for the next round", "peer", j.msg.From, "round", j.task.Round, "segment", j.task.Segment, "err", j.err)
	var gone notServed
	theirs := errors.As(j.err, &gone)
	if theirs {
		a.vain[j.segment()] = vainly{j.delta.From, j.since}
	} else if !errors.Is(j.err, context.Canceled) { // else it had to make room
		delete(a.vain, j.segment())
	}
	if a.choice.Failed(j.task.Subject, j.task.Segment, theirs) {
		a.withheld(ctx, j, gone)
	}
}

// withheld says Withheld.
func (a *auditor) withheld(ctx context.Context, j *asked, gone notServed) {
	t, ok := a.choice.Current(j.task.Subject, j.task.Segment)
	if !ok {
		return
	}
	a.log.Warn("audit material is withheld", "peer", j.msg.From, "round", t.Round, "segment", t.Segment, "err", gone)
	v := verdictOf(t, diloco.Withheld)
	var err error
	if v.Evidence, err = a.evidence(ctx, t, j.msg, j.delta, outcome{Reason: gone.Error()}, true); err != nil {
		a.meter.trouble("audit", err)
		return
	}
	a.say(ctx, v)
	a.choice.Called(t.Subject, t.Segment)
}

// done takes a replay that has ended.
func (a *auditor) done(ctx context.Context, j *asked) {
	t, ok := a.choice.Current(j.task.Subject, j.task.Segment)
	switch {
	case ctx.Err() != nil || !ok:
		return
	case j.err == nil:
		j.task = t // there may be a case since
		if j.err = a.conclude(ctx, t, j.msg, j.delta, j.out); j.err == nil {
			a.meter.clear("audit")
			return
		}
		a.meter.trouble("audit", j.err)
	}
	a.failed(ctx, j)
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
	material := []wire.CID{c, d.State}
	if !withheld { // else it may be another replay's, which is under way
		material = append(material, a.replayer.used...)
	}
	for _, m := range material {
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
		vain: map[segment]vainly{},
	}
	a.choice = audit.NewAuditor(audit.Config{Self: n.self, Coin: a.coin, Rate: a.rate, Every: a.every, Window: a.window})
	return a, nil
}

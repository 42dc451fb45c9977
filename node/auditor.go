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

// auditor is what a validator does instead of training: it replays what its coin
// chose, what an open case asks, and what looks odd. One goroutine, in loop, owns
// everything but the mailbox. What it must not forget is elsewhere: a verdict is in the
// journal, and what was to be done follows from the chain, so after a crash it is done again.
type auditor struct {
	self     wire.PeerID
	key      *wire.Key
	run      wire.CID
	coin     *audit.Coin
	rate     uint64
	window   uint64 // rounds
	segments uint64 // of a whole phase
	every    uint64 // steps of a segment
	replayer *replayer
	blocks   Blocks
	keeper   *keeper
	meter    *meter
	log      *slog.Logger
	tell     func(context.Context, diloco.Event)
	patience time.Duration // for the material of one audit
	lie      func(*diloco.Verdict)

	mu    sync.Mutex // guards the mailbox: the following
	heads []headWork
	wake  chan struct{}

	// The loop's.
	head   *diloco.Commit
	looked map[wire.CID]uint64          // commits seen, and their rounds
	known  map[wire.CID]*diloco.Message // deltas and verdicts of the chain within the window
	said   map[segmentOf]diloco.Finding // this validator's words
	tasks  map[segmentOf]*task
}

// segmentOf is what a verdict is about.
type segmentOf struct {
	subject wire.CID
	segment uint64
}

// A task is one audit to be done.
type task struct {
	segmentOf
	msg    *diloco.Message // the subject
	delta  *diloco.Message // what is replayed: the subject, or what its subject leads to
	round  uint64          // of the delta
	seed   [32]byte
	coin   []byte // the reveal that chose it; nil where a case did, or suspicion
	open   bool   // a case asks
	odd    string // why it is suspected
	tries  int
	next   time.Time // not before
	missed error     // why the last try failed, where the accused is to blame
}

// Waits between two tries of an audit whose material cannot be had.
const (
	auditAgain = 2 * time.Second
	auditLast  = 10 * time.Second
)

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
			v := m.Body.(*diloco.Verdict)
			a.said[segmentOf{v.Subject, v.Segment}] = v.Finding
		}
	}
}

// loop audits until ctx ends.
func (a *auditor) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		a.mu.Lock()
		heads := a.heads
		a.heads = nil
		a.mu.Unlock()
		for _, h := range heads {
			a.adopt(ctx, h)
		}
		t, wait := a.next()
		if t != nil {
			began := time.Now()
			a.do(ctx, t)
			a.meter.audited(time.Since(began))
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-a.wake:
		case <-timer.C:
		}
	}
}

// next picks the task to do now: what cases ask before what the coin chose
// before what looks odd, the oldest first. Otherwise it says how long to wait.
func (a *auditor) next() (*task, time.Duration) {
	now, wait := time.Now(), time.Hour
	var best *task
	class := func(t *task) int {
		switch {
		case t.open:
			return 0
		case t.coin != nil:
			return 1
		}
		return 2
	}
	for _, t := range a.tasks {
		if d := t.next.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		if best == nil || class(t) < class(best) || class(t) == class(best) &&
			(t.round < best.round || t.round == best.round && t.subject < best.subject) {
			best = t
		}
	}
	return best, wait
}

// adopt looks at a new head, and at the commits below it within the window that were
// not looked at.
func (a *auditor) adopt(ctx context.Context, h headWork) {
	a.head = h.commit
	get := localCommits(ctx, a.blocks)
	for at, c := h.cid, h.commit; ; {
		if _, seen := a.looked[at]; seen {
			break
		}
		a.looked[at] = c.Round
		a.look(ctx, c)
		if c.Round == 0 || c.Round+a.window < h.commit.Round {
			break
		}
		at = c.Parent
		var err error
		if c, err = get(at); err != nil {
			break // pruned, or not fetched: too old to matter, or looked at when it comes
		}
	}
	a.cases(h.commit)
	old := func(round uint64) bool { return round+2*a.window+1 < h.commit.Round }
	maps.DeleteFunc(a.looked, func(_ wire.CID, r uint64) bool { return old(r) })
	maps.DeleteFunc(a.known, func(_ wire.CID, m *diloco.Message) bool { return old(roundOf(&m.Signed, 0)) })
	for k, t := range a.tasks {
		if t.round+a.window < h.commit.Round { // its verdict would be too late
			delete(a.tasks, k)
		}
	}
	if len(a.said) > maxSaid {
		clear(a.said) // the machine remembers, too, and refuses to say anything twice
	}
}

// maxSaid bounds what is remembered of own verdicts.
const maxSaid = 1 << 14

// look finds what a commit gives to audit.
func (a *auditor) look(ctx context.Context, c *diloco.Commit) {
	since, ok := a.since()
	for _, list := range [][]wire.Signed{c.Deltas, c.Verdicts} {
		for i := range list {
			m, err := diloco.Open(&list[i])
			if err != nil {
				continue // cannot be: the machine has read it
			}
			a.known[m.ID] = m
		}
	}
	if !ok {
		return
	}
	for i := range c.Deltas {
		m := a.known[c.Deltas[i].ID()]
		if m == nil || m.From == a.self {
			continue
		}
		d := m.Body.(*diloco.Delta)
		if d.Round < since {
			continue // the coin is younger
		}
		reveal := a.coin.Reveal(d.Round)
		draw := audit.DrawFor(reveal, m.ID, a.rate, audit.Segments(d.Steps, a.every))
		if draw.Audit {
			a.add(&task{segmentOf: segmentOf{m.ID, draw.Segment}, msg: m, delta: m, round: d.Round, seed: draw.Seed, coin: reveal})
		}
	}
	for i := range c.Verdicts {
		m := a.known[c.Verdicts[i].ID()]
		if m == nil || m.From == a.self {
			continue
		}
		v := m.Body.(*diloco.Verdict)
		delta := a.root(m)
		if v.Finding != diloco.Pass || v.Round < since || delta == nil || delta.From == a.self {
			continue
		}
		reveal := a.coin.Reveal(v.Round)
		if draw := audit.DrawFor(reveal, m.ID, a.rate, a.segments); draw.Audit {
			a.add(&task{segmentOf: segmentOf{m.ID, v.Segment}, msg: m, delta: delta, round: v.Round, seed: draw.Seed, coin: reveal})
		}
	}
	a.screen(ctx, c)
}

// since is the round from which on this validator's coin counts; false where it
// is no validator.
func (a *auditor) since() (uint64, bool) {
	for i := range a.head.Roster {
		if m := &a.head.Roster[i]; m.Peer == a.self {
			return m.Since, m.Role == RoleValidator && !m.Banned && m.Coin == a.coin.Root()
		}
	}
	return 0, false
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

// cases finds which open cases wait for this validator's word.
func (a *auditor) cases(c *diloco.Commit) {
	if _, ok := a.since(); !ok {
		return
	}
	for i := range c.Cases {
		k := &c.Cases[i]
		id := segmentOf{k.Subject, k.Segment}
		if k.Peer == a.self || slices.Contains(k.Pass, a.self) || slices.Contains(k.Wrong, a.self) {
			continue
		}
		if t := a.tasks[id]; t != nil {
			t.open = true
			continue
		}
		m := a.known[k.Subject]
		if m == nil {
			continue
		}
		if delta := a.root(m); delta != nil && delta.From != a.self {
			a.add(&task{segmentOf: id, msg: m, delta: delta, round: k.Round, seed: audit.CaseSeed(k.Subject, k.Segment, a.self), open: true})
		}
	}
}

func (a *auditor) add(t *task) {
	f, said := a.said[t.segmentOf]
	if said && (f != diloco.Withheld || !t.open) || t.round+a.window < a.head.Round {
		return
	}
	if a.tasks[t.segmentOf] == nil {
		a.tasks[t.segmentOf] = t
	}
}

// do carries out one audit and says what came of it.
func (a *auditor) do(ctx context.Context, t *task) {
	limit, cancel := context.WithTimeout(ctx, a.patience)
	out, err := a.replay(limit, t)
	cancel()
	if ctx.Err() != nil {
		return
	}
	var gone notServed
	switch {
	case err == nil:
		a.meter.clear("audit")
		a.conclude(ctx, t, out)
	case errors.As(err, &gone) && t.msg == t.delta:
		t.missed = err
		// While the window's last third has not begun, it may be a bad link.
		if a.head.Round >= t.round+a.window-a.window/3 && t.tries > 0 {
			a.withheld(ctx, t)
			return
		}
		a.again(t, err)
	default: // nobody's fault, or ours
		a.again(t, err)
	}
}

func (a *auditor) again(t *task, err error) {
	wait := min(auditAgain<<min(t.tries, 8), auditLast)
	t.tries++
	t.next = time.Now().Add(wait)
	a.log.Info("an audit waits", "peer", t.msg.From, "round", t.round, "segment", t.segment, "err", err, "retry", wait)
}

func (a *auditor) replay(ctx context.Context, t *task) (outcome, error) {
	if t.msg == t.delta {
		return a.replayer.audit(ctx, t.delta, t.segment, t.seed)
	}
	v := t.msg.Body.(*diloco.Verdict)
	out, err := a.replayer.recheck(ctx, t.delta, t.segment, a.seedOf(t.msg.From, v), v.Work)
	if err != nil || out.Wrong {
		return out, err
	}
	// Its proof is right: mine is of other data, for whoever checks me.
	own, err := a.replayer.work(ctx, t.delta, t.segment, t.seed)
	out.Work = own
	return out, err
}

// seedOf is the seed that a validator had to prove its replay with.
func (a *auditor) seedOf(by wire.PeerID, v *diloco.Verdict) [32]byte { return seedOf(by, v, a.rate) }

func seedOf(by wire.PeerID, v *diloco.Verdict, rate uint64) [32]byte {
	if len(v.Coin) == 0 {
		return audit.CaseSeed(v.Subject, v.Segment, by)
	}
	return audit.DrawFor(v.Coin, v.Subject, rate, 1).Seed
}

func (t *task) verdict(f diloco.Finding) diloco.Verdict {
	return diloco.Verdict{Subject: t.subject, Peer: t.msg.From, Round: t.round, Segment: t.segment, Finding: f, Coin: t.coin}
}

// conclude says Pass or Wrong.
func (a *auditor) conclude(ctx context.Context, t *task, out outcome) {
	v := t.verdict(diloco.Pass)
	v.Work = out.Work
	if out.Wrong {
		a.log.Warn("an audit found wrong work", "peer", t.msg.From, "round", t.round, "segment", t.segment, "why", out.Reason)
		v.Finding = diloco.Wrong
		c, err := a.evidence(ctx, t, out, false)
		if err != nil {
			a.meter.trouble("audit", err)
			a.again(t, err)
			return
		}
		v.Evidence = c
	} else {
		a.log.Info("an audit passed", "peer", t.msg.From, "round", t.round, "segment", t.segment)
		if t.coin == nil && !t.open { // it only looked odd
			delete(a.tasks, t.segmentOf)
			a.said[t.segmentOf] = diloco.Pass
			a.meter.found("cleared of suspicion")
			return
		}
	}
	a.say(ctx, t, v)
}

func (a *auditor) withheld(ctx context.Context, t *task) {
	a.log.Warn("audit material is withheld", "peer", t.msg.From, "round", t.round, "segment", t.segment, "err", t.missed)
	c, err := a.evidence(ctx, t, outcome{Reason: t.missed.Error()}, true)
	if err != nil {
		a.again(t, err)
		return
	}
	v := t.verdict(diloco.Withheld)
	v.Evidence = c
	a.say(ctx, t, v)
}

func (a *auditor) say(ctx context.Context, t *task, v diloco.Verdict) {
	delete(a.tasks, t.segmentOf)
	if a.lie != nil {
		a.lie(&v)
	}
	a.said[t.segmentOf] = v.Finding
	a.meter.found([...]string{"passed", "wrong", "withheld"}[v.Finding])
	a.tell(ctx, diloco.Audited{Verdict: v})
}

// evidence stores what a verdict rests on, with the material, so that others can
// check it when the accused is gone.
func (a *auditor) evidence(ctx context.Context, t *task, out outcome, withheld bool) (wire.CID, error) {
	d := t.delta.Body.(*diloco.Delta)
	e := &audit.Evidence{
		Version: 1, Run: a.run, Delta: t.delta.Signed, Trace: d.Trace, Segment: t.segment, Withheld: withheld,
		Auditor: a.self, Engine: a.replayer.engine.Identity(), Reason: out.Reason, Numbers: out.Numbers,
	}
	if t.msg != t.delta {
		e.Verdict = &t.msg.Signed
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
		if err := a.keeper.evidence(m, t.round); err != nil && m == c {
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
	return &auditor{
		self: n.self, key: n.opt.Key, run: n.opt.Run, lie: n.opt.Lie, coin: audit.NewCoin(coinSecret(n.opt.Key), n.opt.Run),
		rate: v.AuditRate, window: v.Window, segments: v.Segments, every: audit.Every(m.Round.InnerSteps, v.Segments),
		replayer: newReplayer(n.opt.Run, m, p.model, n.opt.Blocks, p.engine, data, n.opt.Log),
		blocks:   n.opt.Blocks, keeper: p.keeper, meter: n.meter, log: n.opt.Log,
		wake: make(chan struct{}, 1), looked: map[wire.CID]uint64{}, known: map[wire.CID]*diloco.Message{},
		said: map[segmentOf]diloco.Finding{}, tasks: map[segmentOf]*task{},
	}, nil
}

package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// A peer is a machine, its shell and its disk.
type peer struct {
	w      *world
	n      int
	id     wire.PeerID
	x, y   float64 // where it is, in [0, 1)
	speed  float64 // of its training; 1 is ordinary
	honest bool
	role   string

	m        *diloco.Machine // nil while it is down
	life     int             // counts crashes
	wakeAt   time.Duration   // of the pending wake-up, -1 is none
	inbox    []diloco.Event  // own messages on the way back from the journal
	busy     bool
	known    map[*byte]bool // messages heard since the head changed, by signature
	headAt   time.Duration  // when the head changed
	started  bool
	done     bool // its machine said Done
	gone     bool // it left or died for good
	leaving  bool
	slow     float64           // factor of a straggler, 0 is none
	auditor  *audit.Auditor    // of a validator that is up
	auditing int               // tasks under way
	asking   []*asked          // material, the longest first
	replays  time.Duration     // when its engine is free
	looked   map[wire.CID]bool // by the auditor, since it is up

	// The disk.
	journal []wire.Signed
	head    wire.CID
	keep    uint64
	final   wire.CID
	commits map[wire.CID]bool
	states  map[wire.CID]uint64 // and their rounds
	blocks  map[wire.CID]bool
	traces  map[wire.CID]uint64 // audit material of deltas, by block: their rounds
	phase   phase

	// What is to go wrong with it.
	crashAt   crashPoint
	crashFor  time.Duration
	mute      bool // sends nothing at all
	deaf      bool // hears nothing
	withhold  bool // sends no votes
	equivocal bool // says two things at a time
	slanders  bool // finds the honest without stake
	cheat     cheat
	lie       lie
	lied      int
	excused   time.Duration // until when its silence proves nothing
}

// phase is an inner phase, or how far the disk knows one.
type phase struct {
	train diloco.Train
	ends  time.Duration // when it will have all its steps
	began time.Duration
	cut   bool
	live  int // numbers phases, so that only the last one ends
}

const stepsPerRound = 100

var errUnreachable = errors.New("nobody in reach has it")

func (w *world) newPeer(n int) *peer {
	p := &peer{
		w: w, n: n, x: w.rng.Float64(), y: w.rng.Float64(), speed: 0.8 + 0.4*w.rng.Float64(), honest: true,
		role: "trainer", wakeAt: -1, commits: map[wire.CID]bool{}, blocks: map[wire.CID]bool{}, traces: map[wire.CID]uint64{},
	}
	p.id[0] = 2
	for i := 1; i < 33; i += 8 {
		binary.BigEndian.PutUint64(p.id[i:], w.rng.Uint64())
	}
	if w.cfg.Ledger != nil {
		p.id = w.cfg.Ledger.Peer(n)
	}
	w.peers = append(w.peers, p)
	w.index[p.id] = p
	if c := w.cfg; n >= c.Peers-c.Observers && n < c.Peers {
		p.role = "observer"
	} else if n >= c.Peers-c.Observers-c.Validators && n < c.Peers {
		p.role = "validator"
	}
	p.states = map[wire.CID]uint64{w.genesis.State: 0}
	return p
}

func (p *peer) up() bool { return p.m != nil }

func (p *peer) config() diloco.Config {
	c := p.w.cfg
	var coin *audit.Coin
	if p.role == "validator" {
		coin = p.coin()
	}
	var stake func(wire.PeerID, string) diloco.Standing
	if p.w.asked() {
		stake = p.standing
	}
	return diloco.Config{
		Stake: stake, Coin: coin, AuditRate: c.AuditRate, Segments: segments, Every: stepsSegment, AuditWindow: c.Window,
		Run: p.w.run, Self: p.id, Role: p.role, MinPeers: c.MinPeers, Deadline: c.Deadline, LeakAfter: c.Leak,
		StopRound: c.Stop, WindowsEach: 10, Verify: func(*wire.Signed) error { return nil }, Open: p.w.open,
	}
}

// boot starts the machine, with the journal if there is one.
func (p *peer) boot() {
	w := p.w
	p.m = diloco.New(p.config(), w.genesis)
	p.known = map[*byte]bool{}
	p.started, p.done = true, false
	w.note(p, "boot", p.head)
	p.logf("boot")
	if len(p.journal) == 0 && !p.head.Defined() {
		p.startAuditor(nil)
		p.perform(p.m.Start(w.time()))
	} else {
		var chain []*diloco.Commit
		for id := p.head; id.Defined(); {
			c := w.check.commits[id]
			chain = append(chain, c)
			if c.Round <= p.keep {
				break
			}
			id = c.Parent
		}
		slices.Reverse(chain)
		p.startAuditor(chain)
		p.perform(p.m.Restore(w.time(), chain, p.own()))
		if p.up() {
			p.perform(p.m.Recall(p.final))
		}
	}
	p.connect(3)
	w.after(w.between(0, w.cfg.Pull), p, p.keepUp)
}

// own returns what of the journal a node keeps: messages from round keep on,
// the latest Attest and the latest Join.
func (p *peer) own() []wire.Signed {
	var out []wire.Signed
	late := map[wire.Kind]bool{wire.KindAttest: true, wire.KindJoin: true}
	for _, s := range slices.Backward(p.journal) {
		m, err := p.w.open(&s)
		if err != nil {
			continue
		}
		var round uint64
		switch b := m.Body.(type) {
		case *diloco.Join:
			round = b.Round
		case *diloco.Delta:
			round = b.Round
		case *diloco.Vote:
			round = b.Round
		case *diloco.Attest:
			round = b.Round
		case *diloco.Verdict:
			round = b.Round
		}
		if round >= p.keep || late[s.Kind] {
			out = append(out, s)
		}
		delete(late, s.Kind)
	}
	slices.Reverse(out)
	return out
}

// connect does as a node does with those to whom it connects: each hears what
// the other knows.
func (p *peer) connect(n int) {
	w := p.w
	for _, i := range w.rng.Perm(len(w.peers)) {
		q := w.peers[i]
		if n == 0 || !p.up() {
			return
		}
		if q != p && q.up() && w.reach(p, q) {
			n--
			p.pull(q)
			q.pull(p)
		}
	}
	if n > 0 && len(w.peers) > n {
		w.after(5*time.Second, p, func() { p.connect(n) })
	}
}

// pull brings p what q would tell a newcomer, as far as p has not heard it
// since its head last changed.
func (p *peer) pull(q *peer) {
	w := p.w
	if q.mute || p.deaf {
		return
	}
	d := 2 * w.delay(p, q)
	for _, s := range q.m.Messages() {
		if q.withhold && s.Kind == wire.KindVote && s.From == q.id || p.known[&s.Sig[0]] {
			continue
		}
		w.deliver(d, p, diloco.Heard{Msg: s})
	}
}

// keepUp asks somebody, now and then, when the head does not change.
func (p *peer) keepUp() {
	w := p.w
	if !p.honest || !p.up() {
		return
	}
	if w.now-p.headAt > w.cfg.Pull {
		q := w.peers[w.rng.IntN(len(w.peers))]
		if q != p && q.up() && w.reach(p, q) {
			p.pull(q)
		}
	}
	w.after(w.cfg.Pull, p, p.keepUp)
}

// crash stops the machine; its disk stays.
func (p *peer) crash(down time.Duration) {
	w := p.w
	if !p.up() {
		return
	}
	w.note(p, "crash", "")
	p.logf("crash")
	p.m, p.inbox, p.wakeAt, p.crashAt, p.auditor = nil, nil, -1, crashNever, nil
	p.life++
	p.busy = false
	p.excused = max(p.excused, w.now+down+4*w.cfg.Deadline)
	if down < 0 {
		p.gone = true
		return
	}
	if p.phase.ends > w.now {
		p.phase.ends += down // nobody trains meanwhile
		p.phase.began += down
	}
	w.after(down, p, func() { p.boot() })
}

// step tells the machine of an event and carries out its effects.
func (p *peer) step(ev diloco.Event) {
	if p.up() {
		p.perform(p.tell(ev))
	}
}

func (p *peer) tell(ev diloco.Event) []diloco.Effect {
	w := p.w
	w.report.Events++
	switch ev := ev.(type) {
	case diloco.Heard:
		w.report.Messages++
		p.known[&ev.Msg.Sig[0]] = true
		w.note(p, "heard", wire.CID(ev.Msg.Sig[:16]))
	case diloco.Merged:
		w.note(p, "merged", ev.State)
	default:
		w.note(p, fmt.Sprintf("%T", ev), "")
	}
	return p.m.Step(w.time(), ev)
}

// perform carries out what the machine asks for, then hands its own messages
// back to it. A crash in between loses the rest.
func (p *peer) perform(list []diloco.Effect) {
	life := p.life
	for _, e := range list {
		if p.life != life {
			return
		}
		p.effect(e)
	}
	if p.busy {
		return
	}
	p.busy = true
	for p.life == life && p.up() && len(p.inbox) > 0 {
		ev := p.inbox[0]
		p.inbox = p.inbox[1:]
		p.perform(p.tell(ev))
	}
	p.busy = false
	if p.life == life {
		p.schedule()
	}
}

// schedule arranges the next wake-up.
func (p *peer) schedule() {
	if !p.up() {
		return
	}
	t := p.m.Wake()
	if t.IsZero() {
		p.wakeAt = -1
		return
	}
	at := max(t.Sub(p.w.start), p.w.now)
	if at == p.wakeAt {
		return
	}
	p.wakeAt = at
	p.w.push(&item{at: at, to: p, life: p.life, wake: true})
}

func (p *peer) effect(e diloco.Effect) {
	w := p.w
	p.describe(e)
	switch e := e.(type) {
	case diloco.Sign:
		p.sign(e)
	case diloco.Publish:
		p.publish(e.Msg, nil)
	case diloco.FetchDelta:
		d, from := w.transfer(p, e.From, func(q *peer) bool { return q.blocks[e.Delta.Block] })
		ev := diloco.DeltaChecked{ID: e.ID}
		if from == nil {
			ev.Err = errUnreachable
		}
		w.after(d, p, func() {
			if ev.Err == nil {
				p.blocks[e.Delta.Block] = true
			}
			p.step(ev)
		})
	case diloco.FetchCommit:
		d, from := w.transfer(p, append(e.From, p.id), func(q *peer) bool { return q.commits[e.CID] })
		ev := diloco.CommitFetched{CID: e.CID}
		if ev.Commit = w.check.commits[e.CID]; from == nil {
			ev.Commit, ev.Err = nil, errUnreachable
		}
		w.deliver(d, p, ev)
	case diloco.FetchState:
		d, from := w.transfer(p, e.From, func(q *peer) bool { return q.holds(e.State) })
		ev := diloco.StateFetched{State: e.State}
		if from == nil {
			ev.Err = errUnreachable
		}
		w.after(4*d, p, func() {
			if ev.Err == nil {
				p.states[e.State] = w.check.round(e.State)
			}
			p.step(ev)
		})
	case diloco.Merge:
		p.merge(e)
	case diloco.Store:
		p.commits[e.CID] = true
		w.check.stored(w, p, e)
	case diloco.Adopt:
		w.note(p, "adopt", e.Head)
		if p.crashAt == crashBeforeAdopt {
			p.crash(p.crashFor)
			return
		}
		p.head, p.headAt, p.keep = e.Head, w.now, p.m.Status().Keep
		p.known = map[*byte]bool{}
		w.check.adopted(w, p, e)
		p.makeRoom(e.Commit)
		p.adoptedByAuditor(e.Head, e.Commit)
	case diloco.Train:
		p.train(e)
	case diloco.Cut:
		p.cut(e)
	case diloco.Finalized:
		p.final = e.CID
		w.note(p, "final", e.CID)
		w.check.finalized(w, p, e)
	case diloco.Convicted:
		w.check.convicted(w, p, e)
	case diloco.Included:
		w.check.settled(w, p, e.ID, true)
	case diloco.Expired:
		w.check.settled(w, p, e.ID, false)
	case diloco.Done:
		p.done = true
		w.check.done(w, p, e)
	}
}

// transfer finds who can serve something, and how long that takes.
func (w *world) transfer(p *peer, from []wire.PeerID, has func(*peer) bool) (time.Duration, *peer) {
	if w.chance(w.cfg.Fetch) {
		return w.between(100*time.Millisecond, 3*time.Second), nil
	}
	d := time.Duration(0)
	for _, id := range from {
		q := w.index[id]
		if q == nil || !w.reach(p, q) || p.mute || p.deaf || q.mute || q.deaf || !has(q) {
			d += 200 * time.Millisecond
			continue
		}
		return d + 3*w.delay(p, q) + w.between(0, 300*time.Millisecond), q
	}
	return d + time.Second, nil
}

// mergeState is the outer step of this universe: a hash of everything that
// goes in, in the order given.
func mergeState(e diloco.Merge) wire.CID {
	b := binary.BigEndian.AppendUint64([]byte(e.State+e.Parent), e.Round)
	for _, d := range e.Deltas {
		b = append(b, d.Block...)
		b = binary.BigEndian.AppendUint64(b, d.Weight)
	}
	return wire.SumCID(wire.CodecDagPB, b)
}

func (p *peer) merge(e diloco.Merge) {
	w := p.w
	ev := diloco.Merged{Key: e.Key}
	if !p.holds(e.State) {
		ev.Err = errors.New("the parent's state is not here")
	}
	for _, d := range e.Deltas {
		if !p.blocks[d.Block] {
			ev.Err = errors.New("a delta is not here")
			if p.m.Status().Round+1 == e.Round && p.honest {
				w.violate("peer %d was told to merge delta %s, which it does not hold", p.n, d.Block.Short())
			}
		}
	}
	if ev.Err == nil {
		ev.State = mergeState(e)
	}
	w.after(w.between(100*time.Millisecond, 600*time.Millisecond), p, func() {
		if ev.Err == nil {
			p.states[ev.State] = e.Round
		}
		p.step(ev)
	})
}

// makeRoom drops what a shell need not keep at that head.
func (p *peer) makeRoom(c *diloco.Commit) {
	head, audited := c.Round, c.Audited(p.w.cfg.Window)
	for c, r := range p.states {
		if r+diloco.KeepStates < head {
			delete(p.states, c)
		}
	}
	for c, r := range p.traces {
		if r < audited {
			delete(p.traces, c)
		}
	}
}

func (p *peer) holds(state wire.CID) bool {
	_, ok := p.states[state]
	return ok
}

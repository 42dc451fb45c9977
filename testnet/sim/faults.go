package sim

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A Kind of fault.
type Kind int

// Until ends those that last. Peers lists whom it hits.
const (
	Crash      Kind = iota // kill -9 At, at Point; up again at Until, or never
	Partition              // Peers on one side, all others on the other, until Until
	Straggle               // training takes Factor times as long, until Until
	Lossy                  // everybody's messages are lost with probability Factor, until Until
	Scatter                // everybody on his own, until Until
	Mute                   // says nothing from At on, until Until
	Deaf                   // hears nothing from At on, until Until
	Withhold               // sends no votes from At on
	Equivocate             // says two things at a time from At on
	Leave                  // asks to leave
	Enter                  // a newcomer starts
	Cheat                  // a trainer does not do what it says from At on; Point says how
	Lie                    // a validator does not audit from At on; Point says what it does instead
	Unstake                // its stake is not on the ledger from At on, until Until
	Away                   // the ledger does not answer from At on, until Until; all where Peers is empty
	Slander                // its votes find the honest without stake, and nobody else
)

var kindNames = [...]string{"crash", "partition", "straggle", "lossy", "scatter", "mute", "deaf", "withhold", "equivocate", "leave", "enter", "cheat", "lie", "unstake", "away", "slander"}

func (k Kind) String() string { return kindNames[k] }

// crashPoint is where in the shell's work a crash comes.
type crashPoint int

// The points at which a crash can come, at the first such occasion after At.
const (
	crashNever crashPoint = iota
	crashNow
	crashBeforeJournal // a message is signed, and lost
	crashAfterJournal  // it is in the journal, and nobody has heard it
	crashHalfSaid      // half of the others have heard it
	crashBeforeAdopt   // the commit is stored, the head is the old one
	crashPoints
)

// A Fault is one thing that goes wrong.
type Fault struct {
	Kind   Kind
	At     time.Duration
	Until  time.Duration // zero is never
	Peers  []int
	Factor float64
	Point  int
}

func (f Fault) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-10s at %v", f.Kind, f.At.Round(time.Millisecond))
	if f.Until > 0 {
		fmt.Fprintf(&b, " until %v", f.Until.Round(time.Millisecond))
	}
	if len(f.Peers) > 0 {
		fmt.Fprintf(&b, " peers %v", f.Peers)
	}
	if f.Factor > 0 {
		fmt.Fprintf(&b, " factor %.2f", f.Factor)
	}
	switch {
	case f.Kind == Cheat:
		fmt.Fprintf(&b, ": %s", cheatNames[f.Point])
	case f.Kind == Lie:
		fmt.Fprintf(&b, ": %s", lieNames[f.Point])
	case f.Point > 0:
		fmt.Fprintf(&b, " point %d", f.Point)
	}
	return b.String()
}

// schedule arranges a fault.
func (w *world) schedule(f Fault) {
	each := func(do func(p *peer)) func() {
		return func() {
			for _, n := range f.Peers {
				do(w.peers[n])
			}
		}
	}
	at := func(t time.Duration, do func()) { w.push(&item{at: t, do: do}) }
	switch f.Kind {
	case Crash:
		down := time.Duration(-1)
		if f.Until > 0 {
			down = f.Until - f.At
		}
		at(f.At, each(func(p *peer) {
			if p.crashAt, p.crashFor = crashPoint(f.Point), down; p.crashAt <= crashNow {
				p.crash(down)
			}
		}))
	case Partition:
		at(f.At, func() {
			w.split(func(n int) int {
				if slices.Contains(f.Peers, n) {
					return 1
				}
				return 0
			})
		})
		at(f.Until, w.heal)
	case Scatter:
		at(f.At, func() { w.split(func(n int) int { return n }) })
		at(f.Until, w.heal)
	case Deaf:
		at(f.At, each(func(p *peer) {
			p.deaf = true
			p.excused = max(p.excused, f.Until+4*w.cfg.Deadline)
		}))
		at(f.Until, each(func(p *peer) { p.deaf = false }))
	case Straggle:
		at(f.At, each(func(p *peer) { p.slow = f.Factor }))
		at(f.Until, each(func(p *peer) { p.slow = 0 }))
	case Lossy:
		at(f.At, func() {
			w.loss = f.Factor
			for _, p := range w.peers {
				p.excused = max(p.excused, f.Until+4*w.cfg.Deadline)
			}
		})
		at(f.Until, func() { w.loss = w.cfg.Loss })
	case Mute:
		for _, n := range f.Peers { // it will not be counted among those who answer
			w.peers[n].honest = w.peers[n].honest && f.Until > 0
		}
		at(f.At, each(func(p *peer) {
			p.mute = true
			p.excused = max(p.excused, f.Until+4*w.cfg.Deadline)
		}))
		if f.Until > 0 {
			at(f.Until, each(func(p *peer) { p.mute = false }))
		}
	case Withhold, Equivocate:
		for _, n := range f.Peers {
			w.peers[n].honest = false
		}
		at(f.At, each(func(p *peer) {
			p.withhold = p.withhold || f.Kind == Withhold
			p.equivocal = p.equivocal || f.Kind == Equivocate
		}))
	case Cheat:
		for _, n := range f.Peers {
			w.peers[n].honest = false
		}
		at(f.At, each(func(p *peer) { p.cheat = cheat(f.Point) }))
	case Lie:
		for _, n := range f.Peers {
			w.peers[n].honest = false
		}
		at(f.At, each(func(p *peer) { p.lie = lie(f.Point) }))
	case Unstake, Away: // standing knows
	case Slander:
		for _, n := range f.Peers {
			w.peers[n].honest = false
		}
		at(f.At, each(func(p *peer) { p.slanders = true }))
	case Leave:
		at(f.At, each(func(p *peer) {
			p.gone, p.leaving = true, true
			p.step(diloco.LeaveAsked{})
			w.after(w.cfg.Deadline, p, func() { p.crash(-1) })
		}))
	case Enter:
		at(f.At, func() {
			for _, n := range f.Peers {
				w.peers[n].boot()
			}
		})
	}
}

// split cuts the network.
func (w *world) split(side func(n int) int) {
	w.groups = make([]int, len(w.peers))
	for n := range w.groups {
		w.groups[n] = side(n)
	}
	for _, p := range w.peers {
		p.excused = max(p.excused, w.now+1000*time.Hour) // until heal says when
	}
}

// heal joins the network; those who connect hear what the others know.
func (w *world) heal() {
	if w.groups == nil {
		return
	}
	groups := w.groups
	w.groups = nil
	w.check.healed(w)
	for _, p := range w.peers {
		p.excused = w.now + 4*w.cfg.Deadline
		q := w.peers[w.rng.IntN(len(w.peers))]
		if p.up() && q.up() && groups[p.n] != groups[q.n] {
			p.pull(q)
			q.pull(p)
		}
	}
}

// sign signs, journals, publishes and hands back, in this order.
func (p *peer) sign(e diloco.Sign) {
	w := p.w
	if p.lie == hidesCoin && e.Kind == wire.KindVote {
		e.Body = p.hide(e.Body)
	}
	if p.slanders && e.Kind == wire.KindVote {
		e.Body = p.slander(e.Body)
	}
	s := p.signed(e.Kind, e.Body)
	w.remember(&s)
	w.note(p, "sign", wire.CID(s.Sig[:16]))
	point := p.crashAt
	if point == crashBeforeJournal {
		p.crash(p.crashFor)
		return
	}
	if w.cfg.JournalLate { // the planted bug
		p.publish(s, nil)
		w.check.said(w, p, s)
		if point == crashAfterJournal {
			p.crash(p.crashFor)
			return
		}
		p.journal = append(p.journal, s)
		p.inbox = append(p.inbox, diloco.Heard{Msg: s})
		return
	}
	p.journal = append(p.journal, s)
	w.check.said(w, p, s)
	if point == crashAfterJournal {
		p.crash(p.crashFor)
		return
	}
	p.inbox = append(p.inbox, diloco.Heard{Msg: s})
	if p.equivocal && w.chance(0.3) && p.contradict(s) {
		return
	}
	if point == crashHalfSaid {
		p.publish(s, func(q *peer) bool { return q.n%2 == 0 })
		p.crash(p.crashFor)
		return
	}
	p.publish(s, nil)
}

// signed wraps a body; the signature is a hash, and deterministic.
func (p *peer) signed(kind wire.Kind, body []byte) wire.Signed {
	h := sha256.New()
	h.Write(p.id[:])
	h.Write([]byte{byte(kind)})
	h.Write(body)
	sig := h.Sum(make([]byte, 0, 65))
	return wire.Signed{Kind: kind, Run: p.w.run, From: p.id, Body: body, Sig: sig[:65]}
}

// publish sends a message to everybody, or to those for whom to holds.
func (p *peer) publish(s wire.Signed, to func(*peer) bool) {
	w := p.w
	if p.mute || p.withhold && s.Kind == wire.KindVote {
		return
	}
	for _, q := range w.peers {
		if q == p || q.deaf || !w.reach(p, q) || to != nil && !to(q) || w.chance(w.loss) {
			continue
		}
		w.deliver(w.delay(p, q), q, diloco.Heard{Msg: s})
		if w.chance(w.cfg.Twice) {
			w.deliver(w.delay(p, q)+w.between(0, 10*time.Second), q, diloco.Heard{Msg: s})
		}
	}
}

// contradict says s to some and something else to the others.
func (p *peer) contradict(s wire.Signed) bool {
	w := p.w
	m, err := diloco.Open(&s)
	if err != nil {
		return false
	}
	var body any
	switch b := m.Body.(type) {
	case *diloco.Vote:
		if len(b.Deltas) > 0 && w.chance(0.5) {
			b.Deltas = b.Deltas[1:]
		} else {
			b.Final, b.FinalRound = b.Parent, b.Round
		}
		body = b
	case *diloco.Delta:
		b.Block = wire.SumCID(wire.CodecRaw, s.Body)
		p.blocks[b.Block] = true
		body = b
	case *diloco.Attest:
		b.Head = wire.SumCID(wire.CodecDagCBOR, s.Body)
		body = b
	case *diloco.Verdict:
		if b.Finding == diloco.Withheld {
			return false
		}
		if b.Finding, b.Evidence = diloco.Wrong-b.Finding, wire.SumCID(wire.CodecDagCBOR, s.Body); b.Finding == diloco.Pass {
			b.Evidence = ""
		}
		body = b
	default:
		return false
	}
	raw, err := wire.Marshal(body)
	if err != nil {
		return false
	}
	p.lied++
	other := p.signed(s.Kind, raw)
	w.remember(&other)
	some := w.rng.Uint64()
	p.publish(s, func(q *peer) bool { return some>>(q.n%64)&1 == 0 })
	p.publish(other, func(q *peer) bool { return some>>(q.n%64)&1 == 1 })
	return true
}

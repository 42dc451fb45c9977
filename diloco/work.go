package diloco

import (
	"slices"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// inner is this peer's own training.
type inner struct {
	train   *Train     // not answered yet
	heads   []wire.CID // under which it was asked for
	cut     bool       // a Cut was sent
	late    bool       // the round went by
	cutAt   time.Time
	skipped workID // answered with nothing to send
}

// workID is what one inner phase is about.
type workID struct {
	round uint64
	state wire.CID
}

// tryTrain keeps the inner phase at the head. One that the head has left
// behind is cut and its delta offered late; the next begins when it has answered.
func (m *Machine) tryTrain() {
	in, h := &m.inner, m.head
	trains := m.r.slot >= 0 && m.cfg.Role != validator && h.round >= m.floor && h.round > 0 && !stopped(&m.cfg, h.round) && !m.silent() && !m.leaving
	if t := in.train; t != nil {
		if t.Round == h.round && t.State == h.c.State && trains && !in.late {
			if t.Head != h.id {
				m.train()
			}
			return
		}
		if t.Head == h.id && trains && !in.late {
			return
		}
		if !in.late {
			in.cut, in.late, in.cutAt = true, true, m.now
			m.do(Cut{Head: t.Head, Late: true})
		}
		if patience := in.cutAt.Add(m.cfg.Deadline); m.now.Before(patience) {
			m.at(patience)
			return
		}
		in.train = nil // its shell has forgotten it
	}
	if !trains || m.did(h.round, h.c.State) {
		return
	}
	if _, said := m.sentDelta[h.id]; said {
		return
	}
	m.inner = inner{skipped: in.skipped}
	m.train()
}

// train asks for the head's inner phase, or says that it goes on under this head.
func (m *Machine) train() {
	t := Train{Head: m.head.id, Round: m.head.round, State: m.head.c.State, Slot: m.r.slot, Slots: m.r.slots, Base: m.head.c.Cursor}
	m.inner.train = &t
	m.inner.heads = append(m.inner.heads, t.Head)
	m.do(t)
}

// did reports whether the inner phase from that state has been done.
func (m *Machine) did(round uint64, state wire.CID) bool {
	return m.inner.skipped == workID{round, state} ||
		slices.ContainsFunc(m.work[m.cfg.Self], func(x *delta) bool { return x.d.Round == round && x.d.State == state })
}

// tryCut ends the inner phase in time for the round: halfway through the grace
// window, or shortly before the deadline.
func (m *Machine) tryCut() {
	in := &m.inner
	if in.train == nil || in.cut || in.train.Head != m.head.id {
		return
	}
	due := m.r.adopted.Add(m.cfg.Deadline - m.cfg.Deadline/8)
	if !m.r.mostAt.IsZero() {
		due = minTime(due, m.r.mostAt.Add(m.grace()/2))
	}
	if m.now.Before(due) {
		m.at(due)
		return
	}
	in.cut = true
	m.do(Cut{Head: in.train.Head})
}

// trained takes the outcome of an inner phase.
func (m *Machine) trained(ev Trained) {
	in, d := &m.inner, ev.Delta
	if in.train == nil || d.Round != in.train.Round || d.State != in.train.State || !slices.Contains(in.heads, d.Parent) {
		return
	}
	in.train = nil
	if d.Steps == 0 || d.check() != nil || m.cfg.AuditRate > 0 && !d.Trace.Defined() {
		if d.Steps != 0 {
			m.reject("own delta is malformed")
		}
		in.skipped = workID{d.Round, d.State}
		return
	}
	if _, said := m.sentDelta[d.Parent]; said || m.silent() || m.tooLate(d.Round) {
		in.skipped = workID{d.Round, d.State}
		if !said {
			m.do(Expired{Block: d.Block})
		}
		return
	}
	in.skipped = workID{d.Round, d.State} // until it is heard
	m.sentDelta[d.Parent] = d.Round
	m.saying[d.Parent] = true
	m.sign(wire.KindDelta, &d)
}

// tooLate reports whether no child of the head, nor of what comes after it,
// can have a delta of that round any more.
func (m *Machine) tooLate(round uint64) bool {
	return round+m.cfg.LateRounds < max(m.head.round, m.final.round) || stopped(&m.cfg, m.final.round)
}

// leave asks to be taken from the roster.
func (m *Machine) leave() {
	if m.leaving || m.silent() {
		return
	}
	m.leaving = true
	if m.r.member {
		m.sayJoin(true)
	}
}

// sayJoin says Join, or that it leaves, at the head.
func (m *Machine) sayJoin(leave bool) {
	j := &Join{Since: m.head.id, Round: m.head.round, Role: trainer, Address: m.cfg.Address, Leave: leave}
	if m.cfg.Role == validator {
		j.Role, j.Coin = validator, m.cfg.Coin.At(j.Round)
	}
	m.sign(wire.KindJoin, j)
}

// tryJoin asks to enter the roster, anew when the last Join has become stale.
func (m *Machine) tryJoin() {
	h := m.head
	e := memberIn(h.c.Roster, m.cfg.Self)
	if m.silent() || m.leaving || e != nil && (e.Banned || m.fits(e)) || m.done || m.behind() {
		return
	}
	if m.cfg.Role == validator && m.cfg.Coin.Reveal(h.round+1) == nil {
		return // its coin is worn out
	}
	again := max(1, m.cfg.DropAfter/2) // rounds
	if m.joinAsked > 0 && m.joinAsked+again > h.round+1 {
		return
	}
	if l := m.lastJoin; l != nil && !l.Body.(*Join).Leave && l.Body.(*Join).Round+again > h.round {
		return
	}
	m.joinAsked = h.round + 1
	m.sayJoin(e != nil)
}

// fits reports whether the roster has this peer as what it is: one that has
// changed its role, or its coin, leaves and joins anew.
func (m *Machine) fits(e *Member) bool {
	return (e.Role == validator) == (m.cfg.Role == validator) && (m.cfg.Role != validator || e.Coin == m.cfg.Coin.At(e.Shown))
}

// vouches reports whether this peer wants p in the roster.
func (m *Machine) vouches(p wire.PeerID, j *Join) bool {
	return j.Leave || m.cfg.Stake == nil || p == m.cfg.Self || m.cfg.Stake(p, j.Role) == Staked
}

// unstaked returns the members whose stake this peer knows to be gone, and those who have
// left and are accused of withholding. It asks about all of them, so that who answers
// knows about whom: those for whom there is no room are named when the first are out.
func (m *Machine) unstaked() (out []wire.PeerID) {
	if m.cfg.Stake == nil {
		return nil
	}
	defer func() { slices.SortFunc(out, wire.PeerID.Compare) }()
	for i := range m.head.c.Roster {
		e := &m.head.c.Roster[i]
		if e.Banned || e.Peer == m.cfg.Self {
			continue
		}
		if m.cfg.Stake(e.Peer, e.Role) == Unstaked && len(out) < MaxUnstaked {
			out = append(out, e.Peer)
		}
	}
	for i := range m.head.c.Cases {
		k := &m.head.c.Cases[i]
		if k.fugitive(m.head.c.Roster) && m.cfg.Stake(k.Peer, trainer) == Unstaked && len(out) < MaxUnstaked && !slices.Contains(out, k.Peer) {
			out = append(out, k.Peer)
		}
	}
	return out
}

// joined reports whether the Join has had its effect in the head's chain.
func (m *Machine) joined(j *Message) bool {
	for n := m.head; n != nil && n.round > j.Body.(*Join).Round; n = n.parent {
		if slices.ContainsFunc(n.c.Joins, func(s wire.Signed) bool { return s.From == j.From && slices.Equal(s.Body, j.Signed.Body) }) {
			return true
		}
	}
	return false
}

// inChain reports whether that commit is the head's ancestor of that round, as
// far as is known.
func (m *Machine) inChain(id wire.CID, round uint64) bool {
	if round < m.root.round {
		return true
	}
	n := m.head.ancestor(round)
	return n != nil && n.id == id
}

// settleOwn tells the fate of own deltas that m.final has made certain.
func (m *Machine) settleOwn() {
	f := m.final.round
	m.open = slices.DeleteFunc(m.open, func(x *delta) bool {
		for n := m.final; n != nil && n.round > x.d.Round; n = n.parent {
			if slices.ContainsFunc(n.merged, func(w Weighted) bool { return w.ID == x.msg.ID }) {
				m.do(Included{ID: x.msg.ID, Block: x.d.Block})
				return true
			}
		}
		switch {
		case x.d.Round+1 < m.root.round:
			return true // its fate was told before the last restart
		case f > x.d.Round+m.cfg.LateRounds || stopped(&m.cfg, f):
			m.do(Expired{ID: x.msg.ID, Block: x.d.Block})
			return true
		}
		return false
	})
}

// offerLate says again own deltas that missed their round and may still come in.
func (m *Machine) offerLate() {
	for _, x := range m.open {
		if x.d.State != m.head.c.State && x.d.Round < m.head.round && x.d.Round+m.cfg.LateRounds >= m.head.round &&
			!stopped(&m.cfg, m.head.round) && !m.head.has(m.cfg.Self, x.d.Round) {
			m.do(Publish{Msg: x.msg.Signed})
		}
	}
}

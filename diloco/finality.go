package diloco

import (
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
)

// firstJustifiable is the first round that can be justified. The first rosters
// of two C_1 share no weights; until here GHOST alone brings those who met at
// the start together.
const firstJustifiable = 3

// maxSaid bounds the attestations that are kept of one peer.
const maxSaid = 64

// An attester is a peer and what it attested to, ascending by round.
type attester struct {
	peer wire.PeerID
	said []*Message
}

func (a *attester) latest() *Message { return a.said[len(a.said)-1] }

// attester returns p's entry, nil if it has none and may not have one.
func (m *Machine) attester(p wire.PeerID, make bool) *attester {
	i, ok := slices.BinarySearchFunc(m.attesters, p, func(a *attester, p wire.PeerID) int { return a.peer.Compare(p) })
	if ok {
		return m.attesters[i]
	}
	if !make || len(m.attesters) >= maxPeers && !m.counts(p) {
		return nil
	}
	a := &attester{peer: p}
	m.attesters = slices.Insert(m.attesters, i, a)
	return a
}

// counts reports whether p's word has weight as far as this peer knows.
func (m *Machine) counts(p wire.PeerID) bool {
	return activeIn(m.head.c.Roster, p) != nil || voterIn(m.just.c.Voters, p) != nil
}

// hearAttest takes an attestation into account.
func (m *Machine) hearAttest(msg *Message) {
	a := msg.Body.(*Attest)
	if a.Round < m.root.round {
		m.reject("old round")
		return
	}
	if n := m.nodes[a.Head]; n != nil && n.round != a.Round {
		m.reject("wrong round")
		return
	}
	p := m.attester(msg.From, true)
	if p == nil {
		m.reject("too many peers")
		return
	}
	i, found := slices.BinarySearchFunc(p.said, a.Round, func(x *Message, r uint64) int {
		return int(int64(x.Body.(*Attest).Round) - int64(r))
	})
	if found && p.said[i].ID == msg.ID {
		return
	}
	for _, x := range p.said {
		if conflict(x, msg) {
			m.convict(x, msg)
			return
		}
	}
	p.said = slices.Insert(p.said, i, msg)
	if len(p.said) > maxSaid { // the oldest may be what others lack, the latest is what counts
		p.said = slices.Delete(p.said, maxSaid/2, maxSaid/2+1)
	}
	if msg.From == m.cfg.Self && a.Round >= m.attested {
		m.attested, m.attestedSource = a.Round, max(m.attestedSource, a.SourceRound)
	}
	if n := m.nodes[a.Head]; n != nil {
		m.countAttest(n, msg)
		m.dirty = m.dirty || n != m.head
	} else if m.counts(msg.From) || m.head.round == 0 || a.Round > m.head.round+1 {
		m.wantHead(a.Head, a.Round, msg.From)
	}
}

// countAttest adds an attestation to the weight of the commit that it names.
func (m *Machine) countAttest(n *node, msg *Message) {
	a := msg.Body.(*Attest)
	if n.round < firstJustifiable || m.convicted[msg.From] != nil {
		return
	}
	src := m.nodes[a.Source]
	switch {
	case src == nil && a.SourceRound < m.root.round:
		// Older than what is kept: all that is kept descends from what was justified then.
	case src == nil || !src.just:
		n.waiting = append(n.waiting, msg)
		return
	case src.round != a.SourceRound || src == n || !n.descends(src):
		m.reject("bad source")
		return
	}
	v := voterIn(n.voters(), msg.From)
	if v == nil {
		return
	}
	n.weight += v.Weight
	n.before += v.Before
	if src != nil && src == n.parent {
		n.link += v.Weight
		n.linkBefore += v.Before
	}
	if !n.just && twoThirds(n.weight, n.total) && twoThirds(n.before, n.totalBefore) {
		m.justify(n)
	}
	if p := n.parent; p != nil && p.just && twoThirds(n.link, n.total) && twoThirds(n.linkBefore, n.totalBefore) {
		m.finalize(p)
	}
}

// justify notes that n is justified and counts what waited for that.
func (m *Machine) justify(n *node) {
	n.just = true
	if !n.descends(m.final) {
		m.reject("justified against the final commit")
		return
	}
	if n.round > m.just.round {
		m.just = n
		m.dirty = true
	}
	m.countWaiting()
}

// countWaiting counts attestations again whose sources may have become justified.
func (m *Machine) countWaiting() {
	m.root.walk(func(x *node) {
		waiting := x.waiting
		x.waiting = nil
		for _, a := range waiting {
			m.countAttest(x, a)
		}
	})
}

// finalize notes that n is final; settle draws the consequences.
func (m *Machine) finalize(n *node) {
	if !n.descends(m.final) {
		if !m.final.descends(n) {
			m.reject("final against the final commit")
		}
		return
	}
	if n.round > m.final.round && (m.toFinal == nil || n.round > m.toFinal.round) {
		m.toFinal = n
	}
}

// applyFinal makes the highest commit known to be final the final one.
func (m *Machine) applyFinal() {
	f := m.toFinal
	m.toFinal = nil
	if f == nil || f.round <= m.final.round || !f.descends(m.final) {
		return
	}
	before := m.final
	m.final = f
	for x := f; x != before && x != nil; x = x.parent {
		x.just = true
	}
	if m.just.round < f.round || !m.just.descends(f) {
		m.just = f
	}
	m.countWaiting()
	m.store(f)
	m.do(Finalized{CID: f.id, Commit: f.c})
	m.settleOwn(before)
	m.prune()
	m.dirty = true
	if m.cfg.StopRound != 0 && f.round >= m.cfg.StopRound && !m.done {
		m.done = true
		s := f.ancestor(m.cfg.StopRound)
		if s == nil {
			s = f
		}
		m.do(Done{CID: s.id, Commit: s.c})
	}
}

// recount counts all attestations anew, without those of convicted peers.
// What was justified stays so.
func (m *Machine) recount() {
	m.root.walk(func(n *node) {
		n.weight, n.before, n.link, n.linkBefore, n.waiting = 0, 0, 0, 0, nil
	})
	m.root.walk(func(n *node) {
		for _, p := range m.attesters {
			for _, a := range p.said {
				if a.Body.(*Attest).Head == n.id {
					m.countAttest(n, a)
				}
			}
		}
	})
	m.dirty = true
}

// tryAttest says Attest for the head, if this peer may: once a round, rounds
// only rising, sources never falling, and never away from what it has seen
// justified.
func (m *Machine) tryAttest() {
	n := m.head
	if m.silent() || n.round == 0 || n.round <= m.attested || !n.descends(m.just) || !n.descends(m.final) {
		return
	}
	if activeIn(n.c.Roster, m.cfg.Self) == nil && voterIn(n.voters(), m.cfg.Self) == nil {
		return
	}
	src := n.parent
	for src != nil && !src.just {
		src = src.parent
	}
	if src == nil || src.round < m.attestedSource {
		return
	}
	m.attested, m.attestedSource = n.round, src.round
	m.sign(wire.KindAttest, &Attest{Head: n.id, Round: n.round, Source: src.id, SourceRound: src.round})
}

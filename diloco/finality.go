package diloco

import (
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
)

// firstJustifiable is the first round that can be justified. The first rosters
// of two C_1 share no weights; until here GHOST alone brings those who met at
// the start together.
const firstJustifiable = 3

// Bounds of the attestations that are kept of one peer: of all rounds, and of
// one round, if it contradicts itself.
const (
	maxSaid  = 64
	maxTwice = 4
)

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
	if !p.keep(m, msg) {
		return
	}
	if msg.From == m.cfg.Self && a.Round >= m.attested {
		m.attested, m.attestedSource = a.Round, max(m.attestedSource, a.SourceRound)
		m.attesting = ""
	}
	if n := m.nodes[a.Head]; n != nil {
		m.countAttest(n, msg)
		m.dirty = m.dirty || n != m.head
	} else if m.convicted[msg.From] == nil && (m.counts(msg.From) || m.head.round == 0 || a.Round > m.head.round+1) {
		m.wantHead(a.Head, a.Round, msg.From)
	}
}

// keep adds msg to what the peer said and reports whether it is new. A peer
// that contradicts itself is convicted, and what it said still counts towards
// finality, all of it: whatever makes one honest peer see a commit justified
// must make every other one see it.
func (p *attester) keep(m *Machine, msg *Message) bool {
	a := msg.Body.(*Attest)
	i, same := 0, 0
	for i < len(p.said) && p.said[i].Body.(*Attest).Round <= a.Round {
		if p.said[i].Body.(*Attest).Round == a.Round {
			if p.said[i].ID == msg.ID {
				return false
			}
			same++
		}
		i++
	}
	if same >= maxTwice {
		// Of more lies than fit, those about commits that exist matter.
		drop := slices.IndexFunc(p.said, func(x *Message) bool {
			b := x.Body.(*Attest)
			return b.Round == a.Round && m.nodes[b.Head] == nil
		})
		if drop < 0 || m.nodes[a.Head] == nil {
			return false
		}
		p.said = slices.Delete(p.said, drop, drop+1)
		i--
	}
	for _, x := range p.said {
		if conflict(x, msg) {
			m.convict(x, msg)
			break
		}
	}
	p.said = slices.Insert(p.said, i, msg)
	if len(p.said) > maxSaid { // the oldest may be what others lack, the latest is what counts
		p.said = slices.Delete(p.said, maxSaid/2, maxSaid/2+1)
	}
	return true
}

// countAttest adds an attestation to the weight of the commit that it names.
func (m *Machine) countAttest(n *node, msg *Message) {
	a := msg.Body.(*Attest)
	if n.round < firstJustifiable {
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
	voters := n.voters()
	i, ok := slices.BinarySearchFunc(voters, msg.From, func(v Voter, p wire.PeerID) int { return v.Peer.Compare(p) })
	if !ok {
		return
	}
	if n.counted == nil {
		n.counted = make([]byte, len(voters))
	}
	v := &voters[i]
	if n.counted[i]&1 == 0 {
		n.counted[i] |= 1
		n.weight += v.Weight
		n.before += v.Before
	}
	if n.counted[i]&2 == 0 && src != nil && src == n.parent {
		n.counted[i] |= 2
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
	m.settleOwn()
	m.prune()
	m.dirty = true
	if f.last > 0 && !m.done {
		m.done = true
		e := f.ancestor(f.last)
		m.do(Done{CID: e.id, Commit: e.c})
	}
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
	m.attested, m.attestedSource, m.attesting = n.round, src.round, n.id
	m.sign(wire.KindAttest, &Attest{Head: n.id, Round: n.round, Source: src.id, SourceRound: src.round})
}

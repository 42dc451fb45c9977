package diloco

import (
	"slices"
	"time"
)

// ghost returns the leaf that LMD-GHOST chooses: from the highest justified
// commit always to the child with the most weight of latest attestations in
// its subtree, then to the one with more deltas, then to the lower CID.
//
// A weak commit is no majority's word: whoever sees one on top of its head
// follows it only once its own patience is over, or most of those that it
// has heard are there. Else one peer could end every round at its beginning.
func (m *Machine) ghost() *node {
	m.gen++
	top := m.just
	for _, p := range m.attesters {
		if len(p.said) == 0 || m.convicted[p.peer] != nil {
			continue
		}
		n := m.nodes[p.latest().Body.(*Attest).Head]
		if p.peer == m.cfg.Self && m.attesting.Defined() {
			n = m.nodes[m.attesting] // on its way through the journal
		}
		if n == nil || !n.descends(top) {
			continue
		}
		var w uint64
		if activeIn(n.c.Roster, p.peer) != nil {
			w = 1 // a newcomer: breaks ties
		}
		if v := voterIn(top.c.Voters, p.peer); v != nil {
			w = max(w, v.Weight)
		}
		for x := n; ; x = x.parent {
			if x.gen != m.gen {
				x.gen, x.ghost = m.gen, 0
			}
			x.ghost += w
			if x == top {
				break
			}
		}
	}
	at := top
	for {
		var best *node
		for _, k := range at.kids {
			if k.gen != m.gen {
				k.gen, k.ghost = m.gen, 0
			}
			if !k.bad && !m.now.Before(k.shunned) && m.eligible(at, k) && (best == nil || heavier(k, best)) {
				best = k
			}
		}
		if best == nil {
			return at
		}
		at = best
	}
}

// heavier orders siblings.
func heavier(a, b *node) bool {
	if a.ghost != b.ghost {
		return a.ghost > b.ghost
	}
	if len(a.merged) != len(b.merged) {
		return len(a.merged) > len(b.merged)
	}
	return a.id < b.id
}

// eligible reports whether this peer may follow child k of n.
func (m *Machine) eligible(n, k *node) bool {
	switch {
	case !k.c.Weak, m.head.descends(k):
		return true
	case n != m.head && m.head.descends(n): // it competes with the chain of our own
		return true
	case n.descends(m.head) && !m.now.Before(m.extended()):
		return true
	}
	return n.gen == m.gen && overHalf(k.ghost, n.ghost)
}

// extended is when this peer stops waiting for a quorum.
func (m *Machine) extended() time.Time { return m.r.adopted.Add(2 * m.cfg.Deadline) }

// choose follows the fork choice: it adopts the chosen commit, or gets hold of
// its state.
func (m *Machine) choose() {
	if !m.r.patience && slices.ContainsFunc(m.head.kids, func(k *node) bool { return k.c.Weak && !k.bad }) {
		if m.now.Before(m.extended()) {
			m.at(m.extended())
		} else {
			m.r.patience, m.dirty = true, true
		}
	}
	if n := m.shunned; n != nil {
		if m.now.Before(n.shunned) {
			m.at(n.shunned)
		} else {
			m.shunned, m.dirty = nil, true
		}
	}
	if m.dirty {
		m.dirty = false
		m.target = m.ghost()
	}
	t := m.target
	if t == m.head {
		return
	}
	if m.head.descends(t) && !t.bad {
		m.target = m.head // everything that would lead on is not to be followed
		return
	}
	if t.held {
		if m.holdBack(t) {
			return
		}
		m.adopt(t)
		return
	}
	// The deepest commit on the way whose state is here may be better than the head.
	best := t.parent
	for best != nil && !best.held {
		best = best.parent
	}
	if best != nil && best != m.head && !m.head.descends(best) {
		m.adopt(best)
	}
	m.obtain(t)
}

// holdBack reports whether to wait a moment before adopting a commit derived
// here, because somebody has derived another one that is on its way here.
func (m *Machine) holdBack(t *node) bool {
	if !t.own || t.parent != m.head || t.ghost > 0 {
		return false
	}
	until := m.r.derived.Add(m.voteGrace())
	if !m.now.Before(until) {
		return false
	}
	hold := false
	for _, w := range m.wants {
		if w.round == t.round && w.tries < 2 {
			w.next = m.now
			hold = true
		}
	}
	if hold {
		m.at(until)
	}
	return hold
}

// shun leaves a branch aside for a while whose state nobody in reach has:
// those who made it may be gone for ever, with all that they held. It is tried
// again, ever more rarely.
func (m *Machine) shun(n *node) {
	n.shuns++
	n.shunned = m.now.Add(2 * m.cfg.Deadline << min(n.shuns-1, 4))
	m.dirty = true
	if m.shunned == nil || n.shunned.Before(m.shunned.shunned) {
		m.shunned = n
	}
}

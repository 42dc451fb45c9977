package diloco

import (
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// A node is one verified commit of the tree that grows from the oldest commit
// which the machine keeps.
type node struct {
	id     wire.CID
	c      *Commit
	round  uint64
	parent *node
	kids   []*node // ascending by id
	merged []Weighted
	said   []wire.CID // IDs of c.Verdicts
	last   uint64     // the round of the run's last commit, this or an ancestor (Commit.Ends); 0: the run goes on

	own    bool // derived here, not fetched
	stored bool // Store was said
	held   bool // the state is here
	bad    bool // its outer step gave another state, or cannot be done: not a chain to follow

	just               bool          // justified
	total, totalBefore uint64        // what justifies it, by set of voters
	weight, before     uint64        // attested to it from justified sources
	link, linkBefore   uint64        // of that, with its parent as the source
	counted            []byte        // by voter: 1 for its weight, 2 for its link
	waiting            []*Message    // attestations whose source is not known to be justified
	gen, ghost         uint64        // fork choice: weight below it, of generation gen
	outcomes           []outcome     // states that outer steps on this one gave
	block              []byte        // encoded, until it is stored
	from               []wire.PeerID // who served it
	failed             int           // how often its state could not be had
	shuns              int           // how often it was left aside for that, now until
	shunned            time.Time
	misses             int // how often its outer step or deltas failed
}

// An outcome is the state that an outer step gave.
type outcome struct {
	merged []Weighted
	state  wire.CID
}

// descends reports whether n is a or has it as an ancestor.
func (n *node) descends(a *node) bool {
	for n != nil && n.round > a.round {
		n = n.parent
	}
	return n == a
}

// ancestor returns n's ancestor, or n, of that round; nil if it is not kept.
func (n *node) ancestor(round uint64) *node {
	for n != nil && n.round > round {
		n = n.parent
	}
	if n == nil || n.round != round {
		return nil
	}
	return n
}

// voters returns the weights that justify n.
func (n *node) voters() []Voter {
	if n.parent == nil || n.round <= 1 {
		return n.c.Voters
	}
	return n.parent.c.Voters
}

// has reports whether the work of that peer and round is in the chain up to n,
// as far back as late deltas can reach.
func (n *node) has(p wire.PeerID, round uint64) bool {
	for ; n != nil && n.round > round; n = n.parent {
		for i := range n.merged {
			if n.merged[i].Peer == p && n.merged[i].Round == round {
				return true
			}
		}
	}
	return false
}

// past finds n and its ancestors by CID.
func (m *Machine) past(n *node) func(wire.CID) *Commit {
	return func(id wire.CID) *Commit {
		if a := m.nodes[id]; a != nil && n.descends(a) {
			return a.c
		}
		return nil
	}
}

// insert puts a verified commit under its parent, which is in the tree, and
// counts the attestations that waited for it.
func (m *Machine) insert(parent *node, id wire.CID, c *Commit, merged []Weighted) *node {
	n := &node{id: id, c: c, round: c.Round, parent: parent, merged: merged, last: m.cfg.lastOf(parent, c)}
	n.total, n.totalBefore = voterTotals(n.voters())
	m.learnVerdicts(n)
	i, _ := slices.BinarySearchFunc(parent.kids, id, func(k *node, id wire.CID) int { return strings.Compare(string(k.id), string(id)) })
	parent.kids = slices.Insert(parent.kids, i, n)
	m.nodes[id] = n
	delete(m.wants, id)
	m.dirty = true
	for _, p := range m.attesters {
		for _, a := range p.said {
			if a.Body.(*Attest).Head == id {
				m.countAttest(n, a)
			}
		}
	}
	if f := m.nodes[c.Final]; f != nil && n.descends(f) {
		m.finalize(f) // by the word of more than half of the voters
	}
	for _, o := range m.orphansOf[id] {
		m.ready = append(m.ready, o)
	}
	delete(m.orphansOf, id)
	return n
}

// walk visits n and its descendants, parents first, siblings by CID.
func (n *node) walk(visit func(*node)) {
	queue := []*node{n}
	for i := 0; i < len(queue); i++ {
		visit(queue[i])
		queue = append(queue, queue[i].kids...)
	}
}

// prune forgets what cannot matter any more now that m.final is final: all
// that does not descend from it, and its ancestors beyond what the rules look
// back to.
func (m *Machine) prune() {
	f := m.final
	keep := f.c.FinalRound
	back := 2*m.cfg.LateRounds + 4
	if m.cfg.AuditRate > 0 {
		back = max(back, m.cfg.AuditWindow+maxSettled+1, audit.Memory(m.cfg.AuditWindow)+1) // what a verdict is about, and what a validator owed, must be found
	}
	if f.round < back {
		keep = 0
	} else {
		keep = min(keep, f.round-back)
	}
	if f.last > 0 {
		keep = min(keep, f.last)
	}
	x := f
	for x.parent != nil && x.parent.round >= keep {
		p := x.parent
		for _, k := range p.kids {
			if k != x {
				k.walk(m.forget)
			}
		}
		p.kids = append(p.kids[:0], x)
		x = p
	}
	for p := x.parent; p != nil; p = p.parent {
		for _, k := range p.kids {
			if k != x && !x.descends(k) {
				k.walk(m.forget)
			}
		}
		delete(m.nodes, p.id)
	}
	x.parent = nil
	m.root = x
	m.pruneMessages()
}

// forget drops one node of a branch that lost. Works in flight for it end in nothing.
func (m *Machine) forget(n *node) {
	delete(m.nodes, n.id)
	n.waiting = nil
	n.bad = true
}

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

// checker holds what honest peers did against the invariants.
type checker struct {
	commits map[wire.CID]*diloco.Commit // all that an honest peer has stored
	rounds  map[wire.CID]uint64         // by state
	madeAt  map[wire.CID]time.Duration  // when somebody stored it first
	made    map[string]wire.CID         // by parent and votes: the commit
	final   map[uint64]wire.CID         // by round
	upTo    map[wire.CID]bool           // final commits whose ancestors have been checked
	words   map[wordKey]wire.CID        // what each honest peer has said
	attests map[wire.PeerID][]*diloco.Attest
	fates   map[wire.CID]bool // of own deltas: included or expired
	top     uint64            // highest round that an honest peer adopted
	healAt  uint64            // top when the last partition healed, plus 1; 0 is none
	heal    uint64
	doneID  wire.CID
	judged  map[judgedKey][]diloco.Finding // what each honest validator has said
	last    time.Duration                  // when something became final
}

// wordKey is what a peer may say only one thing about.
type wordKey struct {
	peer  wire.PeerID
	kind  wire.Kind
	about wire.CID
}

func (c *checker) init(w *world) {
	*c = checker{
		commits: map[wire.CID]*diloco.Commit{}, made: map[string]wire.CID{}, final: map[uint64]wire.CID{},
		upTo: map[wire.CID]bool{}, words: map[wordKey]wire.CID{}, attests: map[wire.PeerID][]*diloco.Attest{},
		fates: map[wire.CID]bool{}, rounds: map[wire.CID]uint64{}, madeAt: map[wire.CID]time.Duration{},
		judged: map[judgedKey][]diloco.Finding{},
	}
	id, err := w.genesis.CID()
	if err != nil {
		w.violate("genesis: %v", err)
	}
	c.commits[id] = w.genesis
	c.final[0] = id
	c.upTo[id] = true
}

// stored: a commit is a pure function of its parent and votes; its state is
// what the outer step makes of the parent's, with the deltas in order; no work
// is counted twice.
func (c *checker) stored(w *world, p *peer, e diloco.Store) {
	if c.commits[e.CID] != nil {
		return
	}
	if got := wire.SumCID(wire.CodecDagCBOR, e.Block); got != e.CID {
		w.violate("peer %d stores a block under the wrong CID", p.n)
	}
	if len(w.peers) <= 20 { // decoding what was encoded costs too much for large worlds
		if d, err := diloco.DecodeCommit(e.Block); err != nil || d.Round != e.Commit.Round {
			w.violate("peer %d stores a commit that does not decode: %v", p.n, err)
		}
	}
	commit := e.Commit
	c.commits[e.CID] = commit
	c.rounds[commit.State] = commit.Round
	c.madeAt[e.CID] = w.now
	parent := c.commits[commit.Parent]
	if parent == nil {
		w.violate("peer %d stores commit %s of round %d before its parent", p.n, e.CID.Short(), commit.Round)
		return
	}
	h := sha256.New()
	h.Write([]byte(commit.Parent))
	for i := range commit.Votes {
		h.Write(commit.Votes[i].Sig)
	}
	key := string(h.Sum(nil))
	if other, ok := c.made[key]; ok && other != e.CID {
		w.violate("the same votes made two commits of round %d: %s and %s", commit.Round, other.Short(), e.CID.Short())
	}
	c.made[key] = e.CID
	merged := commit.Merged()
	if !slices.IsSortedFunc(merged, func(a, b diloco.Weighted) int { return strings.Compare(string(a.Block), string(b.Block)) }) {
		w.violate("deltas of commit %s are not in order", e.CID.Short())
	}
	c.judgements(w, e.CID, commit, merged)
	c.sentAway(w, commit, parent)
	want := mergeState(diloco.Merge{Parent: commit.Parent, Round: commit.Round, State: parent.State, Deltas: merged})
	if commit.State != want {
		w.violate("state of commit %s of round %d is not what its deltas make", e.CID.Short(), commit.Round)
	}
	for a, n := parent, 0; a != nil && n < 12 && len(merged) > 0; a, n = c.commits[a.Parent], n+1 {
		for _, old := range a.Merged() {
			for _, m := range merged {
				if m.Peer == old.Peer && m.Round == old.Round || m.Block == old.Block {
					w.violate("work of peer %d in round %d is in the chain twice", w.index[m.Peer].n, m.Round)
				}
			}
		}
		if len(w.peers) > 20 {
			break // late work is looked at in small worlds
		}
	}
}

// adopted: heads are stored first, and after a partition there is one chain
// within two rounds.
func (c *checker) adopted(w *world, p *peer, e diloco.Adopt) {
	if !p.honest {
		return
	}
	if !p.commits[e.Head] {
		w.violate("peer %d adopts commit %s without storing it", p.n, e.Head.Short())
	}
	if !p.holds(e.Commit.State) {
		w.violate("peer %d adopts a head whose state it does not hold", p.n)
	}
	c.top = max(c.top, e.Commit.Round)
	if c.healAt > 0 && c.top >= c.healAt {
		c.converged(w)
	}
}

func (c *checker) round(state wire.CID) uint64 { return c.rounds[state] }

// healed notes that a partition ended.
func (c *checker) healed(*world) { c.healAt = c.top + 1 }

// converged looks, after a partition, for the round from which there is one chain.
func (c *checker) converged(w *world) {
	for round := c.healAt; round <= c.top; round++ {
		one, same := wire.CID(""), true
		for _, p := range w.peers {
			if !p.up() || !p.honest || p.mute {
				continue
			}
			id := c.at(p.head, round)
			if !id.Defined() {
				continue
			}
			if one.Defined() && one != id {
				same = false
			}
			one = id
		}
		took := round - (c.healAt - 1)
		if same && c.top > round {
			c.heal = max(c.heal, took)
			c.healAt = 0
			return
		}
		if !same && took > 2 && c.top > round+1 {
			w.violate("after the partition there are two chains at round %d still (%d rounds later)", round, took)
			return
		}
	}
}

// at returns the commit of that round in the chain of head.
func (c *checker) at(head wire.CID, round uint64) wire.CID {
	for head.Defined() {
		k := c.commits[head]
		if k == nil || k.Round < round {
			return ""
		}
		if k.Round == round {
			return head
		}
		head = k.Parent
	}
	return ""
}

// finalized: one final commit a round, for all honest peers and for ever; and
// nobody who answers is dropped.
func (c *checker) finalized(w *world, p *peer, e diloco.Finalized) {
	if !p.honest {
		return
	}
	c.last = w.now
	for id := e.CID; !c.upTo[id]; {
		k := c.commits[id]
		if k == nil {
			w.violate("peer %d calls commit %s final, which nobody stored", p.n, id.Short())
			return
		}
		if other, ok := c.final[k.Round]; ok && other != id {
			w.violate("two final commits of round %d: %s and %s (peer %d)", k.Round, other.Short(), id.Short(), p.n)
			return
		}
		c.final[k.Round] = id
		c.upTo[id] = true
		c.dropped(w, id, k)
		id = k.Parent
	}
	if c.final[e.Commit.Round] != e.CID {
		w.violate("two final commits of round %d: %s and %s (peer %d)", e.Commit.Round, c.final[e.Commit.Round].Short(), e.CID.Short(), p.n)
	}
}

// dropped looks for members that a final commit dropped although they answered.
func (c *checker) dropped(w *world, id wire.CID, k *diloco.Commit) {
	parent := c.commits[k.Parent]
	if parent == nil {
		return
	}
	for _, m := range parent.Roster {
		p := w.index[m.Peer]
		if !p.honest || p.leaving || p.gone || m.Banned || slices.Contains(k.Unstaked, m.Peer) || p.excused+w.cfg.Deadline*4 > c.madeAt[id] || !c.answered(p, k) {
			continue
		}
		i, ok := slices.BinarySearchFunc(k.Roster, m.Peer, func(x diloco.Member, id wire.PeerID) int { return x.Peer.Compare(id) })
		if !ok || k.Roster[i].Banned {
			w.violate("peer %d was dropped from the roster in round %d although it answered", p.n, k.Round)
		}
	}
}

// answered reports whether p voted on any of the last three parents of k: one
// that was still fetching the chain did not.
func (c *checker) answered(p *peer, k *diloco.Commit) bool {
	for range 3 {
		if _, ok := c.words[wordKey{p.id, wire.KindVote, k.Parent}]; ok {
			return true
		}
		if k = c.commits[k.Parent]; k == nil {
			return false
		}
	}
	return false
}

// convicted: no honest peer is.
func (c *checker) convicted(w *world, p *peer, e diloco.Convicted) {
	if q := w.index[e.Peer]; q.honest {
		w.violate("honest peer %d was convicted by peer %d of two %ss", q.n, p.n, e.Evidence.A.Kind)
	}
}

// said: what a peer has said it never contradicts, whatever crashes came between.
func (c *checker) said(w *world, p *peer, s wire.Signed) {
	if !p.honest {
		return
	}
	m, err := diloco.Open(&s)
	if err != nil {
		w.violate("peer %d signs a message that nobody takes: %v", p.n, err)
		return
	}
	about := wire.CID("")
	switch b := m.Body.(type) {
	case *diloco.Vote:
		about = b.Parent
		c.names(w, p, b)
	case *diloco.Delta:
		about = b.Parent
	case *diloco.Attest:
		for _, a := range c.attests[p.id] {
			if a.Round >= b.Round || a.SourceRound > b.SourceRound {
				w.violate("peer %d attests to round %d from %d after round %d from %d", p.n, b.Round, b.SourceRound, a.Round, a.SourceRound)
			}
		}
		c.attests[p.id] = append(c.attests[p.id], b)
		return
	case *diloco.Verdict:
		c.judges(w, p, b)
		return
	default:
		return
	}
	key := wordKey{p.id, s.Kind, about}
	if other, ok := c.words[key]; ok && other != m.ID {
		w.violate("peer %d says two %ss for one parent", p.n, s.Kind)
	}
	c.words[key] = m.ID
}

// settled: an own delta is either in the final chain or not.
func (c *checker) settled(w *world, p *peer, id wire.CID, in bool) {
	if !p.honest || !id.Defined() {
		return
	}
	if was, ok := c.fates[id]; ok && was != in {
		w.violate("peer %d hears both that its delta %s is in the chain and that it is not", p.n, id.Short())
	}
	c.fates[id] = in
}

// done: all end with the same commit, the first of the final chain that may end the run.
func (c *checker) done(w *world, p *peer, e diloco.Done) {
	if !p.honest {
		return
	}
	if c.doneID.Defined() && c.doneID != e.CID {
		w.violate("peer %d ends with commit %s, another one with %s", p.n, e.CID.Short(), c.doneID.Short())
	}
	window := w.cfg.Window
	if w.cfg.AuditRate == 0 {
		window = 0
	}
	parent := c.commits[e.Commit.Parent]
	if !e.Commit.Ends(w.cfg.Stop, window) || parent.Ends(w.cfg.Stop, window) || e.Commit.Round > w.cfg.Stop && window == 0 {
		w.violate("peer %d is done at round %d of %d", p.n, e.Commit.Round, w.cfg.Stop)
	}
	if most := w.cfg.Stop + 2*window + 1; e.Commit.Round > most {
		w.violate("the run ends in round %d, beyond round %d", e.Commit.Round, most)
	}
	c.doneID = e.CID
}

// stalled: time is up.
func (c *checker) stalled(w *world) {
	var b strings.Builder
	for _, p := range w.peers {
		if !p.honest || !p.started || p.gone || p.done {
			continue
		}
		if !p.up() {
			fmt.Fprintf(&b, " [%d is down]", p.n)
			continue
		}
		s := p.m.Status()
		fmt.Fprintf(&b, " [%d: %s, round %d, final %d, target %d, member %v, deltas %d, votes %d]", p.n, s.Phase, s.Round, s.FinalRound, s.Target, s.Member, s.Deltas, s.Votes)
		if j := c.commits[s.Justified]; j != nil && j.Round > s.Round {
			fmt.Fprintf(&b, " it waits for %s, which 2/3 have justified", s.Justified.Short())
		}
	}
	w.violate("not at its end in time, nothing final since %v:%s", c.last.Round(time.Second), b.String())
}

// end checks what can only be known at the end: the fate that peers heard of
// their deltas is the true one.
func (c *checker) end(w *world) {
	in := map[wire.CID]bool{}
	for id := c.doneID; id.Defined(); id = c.commits[id].Parent {
		for _, m := range c.commits[id].Merged() {
			in[m.ID] = true
		}
	}
	for key, id := range c.words {
		p := w.index[key.peer]
		if _, ok := c.fates[id]; !ok && key.kind == wire.KindDelta && !p.gone && p.started {
			w.violate("peer %d never heard what became of its delta %s", p.n, id.Short())
		}
	}
	c.caught(w)
	c.silent(w)
	c.settle(w)
	for id, said := range c.fates {
		if in[id] != said {
			w.violate("delta %s: its peer heard included %v, and it is %v", id.Short(), said, in[id])
		}
	}
}

// collect completes the report.
func (c *checker) collect(r *Report) {
	chain := map[wire.CID]bool{}
	for id := c.doneID; id.Defined(); id = c.commits[id].Parent {
		k := c.commits[id]
		chain[id] = true
		if k.Weak {
			r.Weak++
		}
		for _, m := range k.Merged() {
			r.Merged++
			if m.Round+1 < k.Round {
				r.Late++
			}
		}
	}
	for id, k := range c.commits {
		r.Rounds = max(r.Rounds, k.Round)
		if !chain[id] && c.final[k.Round].Defined() && k.Round <= r.Rounds {
			r.Siblings++
		}
	}
	r.Heal = c.heal
	c.collectAudits(r)
}

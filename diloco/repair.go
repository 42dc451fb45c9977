package diloco

import (
	"maps"
	"slices"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Gossip loses messages. Nobody asks for what it does not know of, so whoever
// sees a round make no progress says again what it has said, ever more rarely.

// maxMessages bounds what Messages returns.
const maxMessages = 4096

// wanted reports whether a peer that has not seen the end needs another commit
// on this head: done peers make none for each other.
func (m *Machine) wanted() bool {
	b := m.ballots[m.head.id]
	if b == nil {
		return false
	}
	for p, v := range b.votes {
		if v.Body.(*Vote).FinalRound < m.final.last && p != m.cfg.Self && m.convicted[p] == nil {
			return true
		}
	}
	return false
}

// lagging answers, when this peer is done, a vote of one that is not: what it
// lacks will not come by itself any more.
func (m *Machine) lagging(v *Vote) {
	if m.done && v.FinalRound < m.final.last && m.r.replyAt.IsZero() {
		m.r.replyAt = m.now.Add(m.voteGrace())
	}
}

// tryRepair says again what may have been lost.
func (m *Machine) tryRepair() {
	r := &m.r
	if !r.replyAt.IsZero() {
		if m.now.Before(r.replyAt) {
			m.at(r.replyAt)
		} else {
			r.replyAt = time.Time{}
			m.repeat()
		}
	}
	if m.silent() {
		return
	}
	if !r.nudged && !r.mostAt.IsZero() && r.deltas < r.expect {
		r.nudged = true // some wait for the grace window to end because they lack a delta: perhaps ours
		for _, x := range m.work[m.cfg.Self] {
			if x.d.Round == m.head.round {
				m.do(Publish{Msg: x.msg.Signed})
			}
		}
	}
	first, waiting := m.waiting()
	if !waiting {
		return
	}
	if r.repairWait == 0 {
		r.repairWait = first
		r.repairAt = m.now.Add(first)
	}
	if m.now.Before(r.repairAt) {
		m.at(r.repairAt)
		return
	}
	r.repairWait = min(2*r.repairWait, max(m.cfg.Deadline, time.Second))
	r.repairAt = m.now.Add(r.repairWait)
	m.at(r.repairAt)
	m.repeat()
}

// waiting reports whether this peer waits for others' words, and how long it
// should before it repeats its own.
func (m *Machine) waiting() (time.Duration, bool) {
	h := m.head
	_, voted := m.voted[h.id]
	switch {
	case m.done:
		return m.voteGrace(), voted && m.wanted()
	case voted:
		return max(m.voteGrace()/2, 50*time.Millisecond), true
	case !m.r.member && m.lastJoin != nil:
		return m.joinGrace(), true
	case h.round >= firstJustifiable && !h.just && m.attested == h.round:
		return max(m.pace()/2, time.Second), true
	}
	return 0, false
}

// repeat publishes this peer's own messages about the present round.
func (m *Machine) repeat() {
	h := m.head
	own := m.cfg.Self
	if a := m.attester(own, false); a != nil && len(a.said) > 0 {
		m.do(Publish{Msg: a.latest().Signed})
	}
	if j := m.lastJoin; j != nil && (!m.r.member || j.Body.(*Join).Leave) && !m.joined(j) {
		m.do(Publish{Msg: j.Signed})
	}
	if b := m.ballots[h.id]; b != nil && b.votes[own] != nil {
		m.do(Publish{Msg: b.votes[own].Signed})
	}
	for _, x := range m.work[own] {
		if x.d.Round == h.round || x.d.Round < h.round && x.d.Round+m.cfg.LateRounds >= h.round && !h.has(own, x.d.Round) {
			m.do(Publish{Msg: x.msg.Signed})
		}
	}
	m.offerVerdicts()
}

// remind says again, where finality lags, what this peer attested to since the
// commit that the chain calls final. An attestation that some have heard and
// others have not makes the one see sources that the other does not, from then
// on; a word about the head alone would not mend that.
func (m *Machine) remind() {
	h := m.head
	final := max(h.c.FinalRound, firstJustifiable-1)
	if m.silent() || h.round <= final+3 {
		return
	}
	a := m.attester(m.cfg.Self, false)
	if a == nil {
		return
	}
	n := 0
	for _, s := range a.said {
		if s.Body.(*Attest).Round > final && n < 4 {
			n++
			m.do(Publish{Msg: s.Signed})
		}
	}
}

// retryDeltas asks again for blocks that could not be had.
func (m *Machine) retryDeltas() {
	if len(m.retries) == 0 {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(m.retries)) {
		x := m.retries[id]
		if m.now.Before(x.next) {
			m.at(x.next)
			continue
		}
		delete(m.retries, id)
		m.fetchDelta(x)
	}
}

// Messages returns what a newcomer needs to hear, at most 4,096 envelopes: what
// was attested since the commit that the head calls final (from which it
// follows what is final now), evidence, pending Joins and verdicts, and the deltas and
// votes of the present round, own ones among them.
func (m *Machine) Messages() []wire.Signed {
	var out []wire.Signed
	add := func(msg *Message) {
		if len(out) < maxMessages {
			out = append(out, msg.Signed)
		}
	}
	for _, a := range m.attesters {
		for i, s := range a.said {
			if s.Body.(*Attest).Round > m.head.c.FinalRound || i == len(a.said)-1 {
				add(s)
			}
		}
	}
	for _, e := range m.evidence {
		add(e)
	}
	for _, p := range sortedPeers(m.joins) {
		add(m.joins[p])
	}
	for _, p := range sortedPeers(m.audits) {
		for _, v := range m.audits[p] {
			if m.pending(v) {
				add(v)
			}
		}
	}
	for _, p := range sortedPeers(m.work) {
		for _, x := range m.work[p] {
			if x.d.Round+m.cfg.LateRounds >= m.head.round && !x.bad {
				add(x.msg)
			}
		}
	}
	if b := m.ballots[m.head.id]; b != nil {
		for _, p := range sortedPeers(b.votes) {
			add(b.votes[p])
		}
	}
	return out
}

func sortedPeers[V any](set map[wire.PeerID]V) []wire.PeerID {
	out := make([]wire.PeerID, 0, len(set))
	for p := range set {
		out = append(out, p)
	}
	slices.SortFunc(out, wire.PeerID.Compare)
	return out
}

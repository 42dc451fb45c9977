package diloco

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// A round is how far things have come on the present head.
type round struct {
	adopted time.Time
	member  bool // this peer is active in the head's roster
	slot    int  // its index, -1 if it does not train, among
	slots   int  // so many trainers
	expect  int  // trainers that may still send: active, not convicted
	deltas  int  // of these, whose delta is held

	votes    int    // of active members
	weight   uint64 // theirs
	total    uint64 // of all active members
	electors int    // active members that are not convicted
	votedAt  time.Time

	mostAt   time.Time // when 2/3 of the deltas were held
	quorumAt time.Time // when 2/3 of the weight had voted
	lastVote time.Time
	lastJoin time.Time

	form      *assembled // what the votes make, waiting for its deltas
	formed    int        // votes when form was made, and seq
	formedSeq int
	derived   time.Time // when a commit was derived
	patience  bool      // is over: a weak commit may be followed

	repairAt   time.Time
	repairWait time.Duration
	nudged     bool // the own delta was repeated for those who lack it
	replyAt    time.Time
}

type assembled struct {
	c      *Commit
	merged []Weighted
}

// begin starts the round of m.head.
func (m *Machine) begin() {
	m.quorum = m.r.quorumAt
	m.r = round{adopted: m.now, lastJoin: m.now, lastVote: m.now}
	m.r.slot, m.r.slots = slotOf(m.head.c.Roster, m.cfg.Self)
	m.r.member = activeIn(m.head.c.Roster, m.cfg.Self) != nil
	m.tally()
}

// tally counts, from nothing, what is held for the present round.
func (m *Machine) tally() {
	r := &m.r
	r.expect, r.deltas, r.votes, r.weight, r.total, r.electors = 0, 0, 0, 0, 0, 0
	b := m.ballots[m.head.id]
	for i := range m.head.c.Roster {
		e := &m.head.c.Roster[i]
		if e.Banned {
			continue
		}
		r.total += e.Weight
		if m.convicted[e.Peer] != nil {
			continue
		}
		r.electors++
		if b != nil && b.votes[e.Peer] != nil {
			r.votes++
			r.weight += e.Weight
		}
		if !stopped(&m.cfg, m.head.round) && e.Role == trainer {
			r.expect++
			if slices.ContainsFunc(m.work[e.Peer], func(x *delta) bool { return x.held && m.onTime(x) }) {
				r.deltas++
			}
		}
	}
}

// adopt makes n, whose state is here, the head.
func (m *Machine) adopt(n *node) {
	m.store(n)
	m.head = n
	m.dirty = true
	m.do(Adopt{Head: n.id, Commit: n.c})
	m.begin()
	m.root.walk(func(x *node) { // the shell keeps no older states
		x.held = x.held && (x.round+KeepStates >= n.round || x == n)
	})
	m.remind()
	for _, e := range n.c.Roster { // what was too early to fetch
		for _, x := range m.work[e.Peer] {
			m.fetchDelta(x)
		}
	}
	m.offerLate()
	m.offerVerdicts()
}

// store asks for n and its ancestors to be kept.
func (m *Machine) store(n *node) {
	if n == nil || n.stored {
		return
	}
	m.store(n.parent)
	block := n.block
	n.block = nil
	if block == nil {
		var err error
		if block, err = n.c.Encode(); err != nil {
			m.reject("commit does not encode")
		}
	}
	n.stored = true
	m.do(Store{CID: n.id, Commit: n.c, Block: block})
}

// clamp bounds d by lo and hi, where hi counts more.
func clamp(d, lo, hi time.Duration) time.Duration { return min(max(d, lo), hi) }

// pace is how long a round takes from its head's adoption to 2/3 of its
// deltas: the median of those seen lately, the deadline where none was.
func (m *Machine) pace() time.Duration { return median(m.paces, m.cfg.Deadline) }

// median returns the middle one of a few durations, none if there are none.
func median(d []time.Duration, none time.Duration) time.Duration {
	if len(d) == 0 {
		return none
	}
	var room [8]time.Duration
	s := append(room[:0], d...)
	slices.Sort(s)
	return s[len(s)/2]
}

// last keeps the last eight.
func last(d []time.Duration, x time.Duration) []time.Duration {
	d = append(d, x)
	return d[max(0, len(d)-8):]
}

// grace is how long the others are waited for once 2/3 of the deltas are held.
func (m *Machine) grace() time.Duration {
	return clamp(m.pace()/4, 250*time.Millisecond, m.cfg.Deadline/2)
}

// voteGrace is for how long no vote must have come before a commit is made
// without the missing ones: a tenth of a round, or what the slowest votes of
// recent rounds took beyond the quorum, at most a quarter of a round.
func (m *Machine) voteGrace() time.Duration {
	lag := median(m.lags, 0)
	most := min(m.cfg.Deadline/4, max(m.pace()/4, time.Second))
	return clamp(max(m.pace()/10, lag+lag/2), 100*time.Millisecond, most)
}

// lagged notes a vote that came after the quorum, even after the commit.
func (m *Machine) lagged(parent wire.CID) {
	since := m.r.quorumAt
	if parent != m.head.id {
		since = m.quorum
		if m.head.parent == nil || parent != m.head.parent.id {
			return
		}
	}
	if lag := m.now.Sub(since); !since.IsZero() && len(m.lags) > 0 && lag < m.cfg.Deadline/4 {
		m.lags[len(m.lags)-1] = max(m.lags[len(m.lags)-1], lag)
	}
}

// joinGrace is for how long no Join must have come before the run begins.
func (m *Machine) joinGrace() time.Duration {
	return clamp(m.cfg.Deadline/8, 250*time.Millisecond, 3*time.Second)
}

// behind reports whether the swarm is known to be further than the head.
func (m *Machine) behind() bool { return m.target.round > m.head.round }

// clock notes when 2/3 of the deltas were held.
func (m *Machine) clock() {
	if r := &m.r; r.mostAt.IsZero() && r.expect > 0 && 3*r.deltas >= 2*r.expect {
		r.mostAt = m.now
		m.paces = last(m.paces, m.now.Sub(r.adopted))
	}
}

// tryVote says Vote when everything expected is in, or at the deadline.
func (m *Machine) tryVote() {
	r := &m.r
	if m.head.round == 0 {
		m.tryFirstVote()
		return
	}
	if _, said := m.voted[m.head.id]; said || !r.member || m.head.round < m.floor || m.silent() || m.behind() || !m.head.descends(m.final) {
		return
	}
	if m.done && !m.wanted() {
		return
	}
	if _, ok := m.shows(); !ok {
		return // it would convict itself; the roster has another coin than this peer, which leaves
	}
	due := r.adopted
	switch last := m.head.last; {
	case !stopped(&m.cfg, m.head.round):
		if r.deltas < r.expect || r.expect == 0 {
			due = due.Add(m.cfg.Deadline)
		}
		if !r.mostAt.IsZero() {
			due = minTime(due, r.mostAt.Add(m.grace()))
		}
		if least := r.adopted.Add(m.cfg.shortest(m.head.c.Roster)); due.Before(least) {
			due = least
		}
	case last == 0:
		due = due.Add(m.recess())
	case m.head.round > last: // what the end still lacks is attestations, not commits
		due = due.Add(m.cfg.Deadline / 4 >> (2 - min(m.head.round-last, 2)))
	}
	if m.now.Before(due) {
		m.at(due)
		return
	}
	onTime, late := m.votable()
	m.vote(onTime, late)
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// votable returns the IDs of the deltas that this peer holds and the head's
// child may have: those on time, and late ones that are not in the chain, one a
// peer and round, ascending.
func (m *Machine) votable() (onTime, late Names) {
	h := m.head
	if stopped(&m.cfg, h.round) {
		return nil, nil
	}
	for i := range h.c.Roster {
		p := h.c.Roster[i].Peer
		if h.c.Roster[i].Banned || m.convicted[p] != nil {
			continue
		}
		best := map[uint64]*delta{} // by round
		for _, x := range m.work[p] {
			if !x.held || !votable(&m.cfg, h.c, p, x.d) || x.d.Round+1 < m.root.round || h.has(p, x.d.Round) {
				continue // beyond root nobody knows what is in the chain
			}
			if y := best[x.d.Round]; y == nil || m.preferred(x, y) {
				best[x.d.Round] = x
			}
		}
		for round := range best {
			if round == h.round {
				onTime = append(onTime, best[round].msg.ID)
			} else {
				late = append(late, best[round].msg.ID)
			}
		}
	}
	slices.Sort(onTime)
	slices.Sort(late)
	return onTime, late
}

// preferred chooses between two pieces of work of one peer and round, made on
// siblings: that whose parent is in the head's chain, then that of the lower ID.
func (m *Machine) preferred(x, y *delta) bool {
	in := func(d *delta) bool {
		n := m.nodes[d.d.Parent]
		return n != nil && m.head.descends(n)
	}
	if in(x) != in(y) {
		return in(x)
	}
	return x.msg.ID < y.msg.ID
}

// vote says Vote for the head. What there is no room for waits for the next one:
// deltas of this round go first, then verdicts, late deltas, Joins.
func (m *Machine) vote(onTime, late Names) {
	v := &Vote{Parent: m.head.id, Round: m.head.round, Deltas: onTime, Final: m.final.id, FinalRound: m.final.round}
	v.Coin, _ = m.shows()
	room := MaxNames - len(onTime)
	v.Verdicts = m.namedVerdicts(min(room, MaxVerdicts))
	room -= len(v.Verdicts)
	late = late[:min(len(late), room)]
	room -= len(late)
	v.Deltas = append(v.Deltas, late...)
	slices.Sort(v.Deltas)
	for p, j := range m.joins {
		if body := j.Body.(*Join); joinable(&m.cfg, m.head.c, p, body) && m.inChain(body.Since, body.Round) && m.convicted[p] == nil && !m.joined(j) && m.vouches(p, body) {
			v.Joins = append(v.Joins, j.ID)
		}
	}
	slices.Sort(v.Joins)
	v.Joins = v.Joins[:min(len(v.Joins), room)]
	for p := range m.convicted {
		if punishable(memberIn(m.head.c.Roster, p)) {
			v.Evict = append(v.Evict, p)
		}
	}
	slices.SortFunc(v.Evict, wire.PeerID.Compare)
	v.Evict = v.Evict[:min(len(v.Evict), MaxEvict)]
	v.Unstaked = m.unstaked()
	m.voted[v.Parent] = v.Round
	m.r.votedAt = m.now
	m.sign(wire.KindVote, v)
}

// tryForm derives the next commit once all votes are in; or, without the
// missing ones, once 2/3 are in and no more come, or at the extended deadline.
func (m *Machine) tryForm() {
	r := &m.r
	if m.head.round == 0 {
		m.tryFirst()
		return
	}
	if r.votes == 0 || m.behind() || m.job != nil || m.hasOwnChild() {
		return
	}
	if r.quorumAt.IsZero() && twoThirds(r.weight, r.total) {
		r.quorumAt = m.now
		m.lags = last(m.lags, 0)
	}
	if r.votes < r.electors {
		due := m.extended()
		if !r.quorumAt.IsZero() {
			quiet := r.lastVote.Add(m.voteGrace())
			if !m.now.Before(quiet) {
				quiet = quiet.Add(m.courtesy())
			}
			if !m.now.Before(quiet) && !m.aheadHeard() {
				quiet = quiet.Add(m.turn(m.heldVotes()))
			}
			due = minTime(due, quiet)
		}
		if m.now.Before(due) {
			m.at(due)
			return
		}
	}
	m.form(m.heldVotes())
	if m.job != nil || m.hasOwnChild() {
		return
	}
	// Something that the votes name is not to be had. Those who held it may be
	// gone for ever: in the end the votes that name it count for nothing here.
	if m.now.Before(m.extended()) {
		m.at(m.extended())
		return
	}
	m.form(m.servedVotes())
}

// servedVotes returns the votes for the head that name only what is held.
func (m *Machine) servedVotes() []*Message {
	return slices.DeleteFunc(m.heldVotes(), func(v *Message) bool {
		vote := v.Body.(*Vote)
		return slices.ContainsFunc(vote.Deltas, func(id wire.CID) bool { return m.deltas[id] == nil || !m.deltas[id].held }) ||
			slices.ContainsFunc(vote.Joins, func(id wire.CID) bool { return m.envelope(id) == nil }) ||
			slices.ContainsFunc(vote.Verdicts, func(id wire.CID) bool { return m.envelope(id) == nil })
	})
}

// courtesy is how much longer to wait for a member whose vote came too late for
// the last commit, but which builds on this head: that it should not be
// dropped for a slow line. Who died has not attested to this head.
func (m *Machine) courtesy() time.Duration {
	b := m.ballots[m.head.id]
	for i := range m.head.c.Roster {
		e := &m.head.c.Roster[i]
		if e.Banned || e.Silent == 0 || b.votes[e.Peer] != nil || m.convicted[e.Peer] != nil {
			continue
		}
		a := m.attester(e.Peer, false)
		if a != nil && len(a.said) > 0 && a.latest().Body.(*Attest).Round >= m.head.round ||
			slices.ContainsFunc(m.work[e.Peer], m.onTime) {
			return clamp(3*m.voteGrace(), 0, m.cfg.Deadline/2)
		}
	}
	return 0
}

// hasOwnChild reports whether a child of the head was derived here already.
func (m *Machine) hasOwnChild() bool {
	return slices.ContainsFunc(m.head.kids, func(k *node) bool { return k.own })
}

// aheadHeard reports whether somebody has a child of the head already.
func (m *Machine) aheadHeard() bool {
	for _, w := range m.wants {
		if w.round == m.head.round+1 {
			return true
		}
	}
	return len(m.head.kids) > 0
}

// turn staggers the peers that would make a commit of an incomplete set of
// votes, each round in another order, so that the first one's can be followed.
func (m *Machine) turn(votes []*Message) time.Duration {
	h := []byte(m.head.id)
	salt := binary.BigEndian.Uint64(h[max(0, len(h)-8):])
	key := func(p wire.PeerID) uint64 { return (binary.BigEndian.Uint64(p[25:]) ^ salt) * 0x9e3779b97f4a7c15 }
	mine, before := key(m.cfg.Self), 0
	for _, v := range votes {
		if key(v.From) < mine {
			before++
		}
	}
	return m.voteGrace() * time.Duration(before) / time.Duration(max(len(votes), 1))
}

// heldVotes returns the votes for the head by active members, ascending.
func (m *Machine) heldVotes() []*Message {
	b := m.ballots[m.head.id]
	var out []*Message
	for i := range m.head.c.Roster {
		e := &m.head.c.Roster[i]
		if v := b.votes[e.Peer]; v != nil && !e.Banned && m.convicted[e.Peer] == nil {
			out = append(out, v)
		}
	}
	return out
}

// form makes the child of the head that votes make, as far as its deltas are here.
func (m *Machine) form(votes []*Message) {
	r := &m.r
	if r.formed != len(votes) || r.formedSeq != m.seq {
		a := assembly{
			cfg: &m.cfg, parent: m.head.c, parentID: m.head.id, votes: votes,
			envelope: m.envelope, past: m.past(m.head),
		}
		c, err := a.assemble()
		r.form, r.formed, r.formedSeq = nil, len(votes), m.seq
		switch {
		case err != nil:
			m.reject("votes make no commit")
		case len(a.missing) == 0:
			r.form = &assembled{c, a.merged}
		}
	}
	if r.form == nil || !m.haveAll(r.form.merged, nil) {
		return
	}
	for _, o := range m.head.outcomes {
		if slices.Equal(o.merged, r.form.merged) {
			m.derived(m.head, r.form.c, r.form.merged, o.state)
			return
		}
	}
	m.merge(&job{parent: m.head, merged: r.form.merged, form: r.form.c})
}

// derived completes a commit of this peer's own making with its state.
func (m *Machine) derived(parent *node, c *Commit, merged []Weighted, state wire.CID) {
	c.State = state
	block, err := c.Encode()
	if err != nil {
		m.reject("commit does not encode")
		return
	}
	id := wire.SumCID(wire.CodecDagCBOR, block)
	if m.nodes[parent.id] != parent {
		return // its branch is gone
	}
	n := m.nodes[id]
	if n == nil {
		n = m.insert(parent, id, c, merged)
		n.own = true
		n.block = block
	}
	n.held = true
	if parent == m.head {
		m.r.derived = m.now
	}
	m.dirty = true
}

package diloco

import (
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Round 0: the run begins. Those who are there say Join, then vote on genesis
// for the Joins that they have heard; C_1's roster is those voters whose Joins
// at least half of the votes name. There is no roster yet whose 2/3 could be
// asked for, so two groups that do not hear of each other make two runs: a run
// whose MinPeers is more than half of those expected cannot split.

// begun reports whether the run is known to have left round 0.
func (m *Machine) begun() bool {
	for _, w := range m.wants {
		if w.tries < 4 {
			return true
		}
	}
	return len(m.orphans) > 0 || len(m.head.kids) > 0
}

// firstJoins returns the Joins that may make the first roster, ascending by peer.
func (m *Machine) firstJoins() []*Message {
	var out []*Message
	for p, j := range m.joins {
		if body := j.Body.(*Join); body.Since == m.head.id && !body.Leave && joinable(&m.cfg, m.head.c, p, body) && m.convicted[p] == nil {
			out = append(out, j)
		}
	}
	slices.SortFunc(out, func(a, b *Message) int { return a.From.Compare(b.From) })
	return out[:min(len(out), MaxRoster)]
}

// tryFirstVote votes on genesis once enough peers are there and no more come.
func (m *Machine) tryFirstVote() {
	if _, said := m.voted[m.head.id]; said || m.floor > 0 || m.silent() || m.leaving || m.joins[m.cfg.Self] == nil {
		return
	}
	if trainers(m.joins) < m.cfg.MinPeers {
		return
	}
	quiet, latest := m.r.lastJoin.Add(m.joinGrace()), m.r.adopted.Add(8*m.joinGrace())
	due := minTime(quiet, latest)
	if latest.Before(m.r.lastJoin) {
		due = quiet // nobody came for long
	}
	if m.now.Before(due) {
		m.at(due)
		return
	}
	first := map[wire.PeerID]*Message{}
	doubt := false
	for _, j := range m.firstJoins() {
		if m.vouches(j.From, j.Body.(*Join)) {
			first[j.From] = j
		} else {
			doubt = true
		}
	}
	if trainers(first) < m.cfg.MinPeers {
		if doubt { // no event tells when somebody can be vouched for
			m.at(m.now.Add(m.joinGrace()))
		}
		return
	}
	if m.begun() {
		return // there are commits to follow
	}
	m.vote(nil, nil)
}

// trainers counts the Joins of trainers.
func trainers(joins map[wire.PeerID]*Message) (n int) {
	for _, j := range joins {
		if j.Body.(*Join).Role == trainer {
			n++
		}
	}
	return n
}

// tryFirst derives C_1.
func (m *Machine) tryFirst() {
	r := &m.r
	b := m.ballots[m.head.id]
	if b == nil || m.job != nil || m.hasOwnChild() || m.target != m.head {
		return
	}
	quiet := r.lastVote.Add(m.joinGrace())
	if len(b.votes) < len(m.joins) && m.now.Before(quiet) {
		m.at(quiet)
		return
	}
	votes, named := m.firstVotes(b)
	voters := map[wire.PeerID]*Message{}
	for _, v := range votes {
		voters[v.From] = m.joins[v.From]
	}
	if trainers(voters) < m.cfg.MinPeers || len(votes) == 0 {
		return
	}
	if len(votes) < len(named) || len(named) < len(m.firstJoins()) {
		due := r.adopted.Add(2 * m.cfg.Deadline)
		if !r.votedAt.IsZero() {
			due = r.votedAt.Add(2 * m.cfg.Deadline)
		}
		if twoThirds(uint64(len(votes)), uint64(len(named))) {
			if !m.aheadHeard() {
				quiet = quiet.Add(m.turn(votes))
			}
			due = minTime(due, quiet)
		}
		if m.now.Before(due) {
			m.at(due)
			return
		}
	}
	m.form(votes)
}

// firstVotes returns the largest set of votes each of whose voters half of the
// set wants in the roster, and the Joins that it names.
func (m *Machine) firstVotes(b *ballot) (votes []*Message, named map[wire.CID]int) {
	mine := map[wire.PeerID]wire.CID{}
	for _, j := range m.firstJoins() {
		mine[j.From] = j.ID
		if v := b.votes[j.From]; v != nil && m.convicted[j.From] == nil {
			votes = append(votes, v)
		}
	}
	for {
		named = map[wire.CID]int{}
		for _, v := range votes {
			for _, id := range v.Body.(*Vote).Joins {
				named[id]++
			}
		}
		n := len(votes)
		votes = slices.DeleteFunc(votes, func(v *Message) bool { return 2*named[mine[v.From]] < n })
		if len(votes) == n {
			return votes, named
		}
	}
}

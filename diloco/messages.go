package diloco

import (
	"slices"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Bounds of what is kept of peers' messages.
const (
	maxPeers   = 1024 // peers without weight of whom anything is kept
	maxBallots = 256  // parents with votes
	maxSpare   = 512  // refused envelopes, in case that votes name them
	maxAhead   = 4    // parents not in the tree for which one peer's votes are kept
)

// A delta is one Delta message and how far its block has come.
type delta struct {
	msg    *Message
	d      *Delta
	seq    int  // in the order heard
	held   bool // checked and here
	bad    bool // checked and refused
	asked  bool // FetchDelta in flight
	needed bool // a commit has it
	tries  int
	next   time.Time
}

// A ballot holds the votes about one parent.
type ballot struct {
	round uint64
	votes map[wire.PeerID]*Message
}

// hear takes one message into account. Its signature is good.
func (m *Machine) hear(s *wire.Signed) {
	if s.Run != m.cfg.Run {
		m.reject("wrong run")
		return
	}
	msg, err := m.cfg.Open(s)
	if err != nil {
		m.reject("malformed")
		return
	}
	if m.convicted[msg.From] != nil && msg.Kind != wire.KindEvidence && msg.Kind != wire.KindAttest {
		m.refuseMessage(msg, "convicted")
		return
	}
	switch body := msg.Body.(type) {
	case *Join:
		m.hearJoin(msg, body)
	case *Delta:
		m.hearDelta(msg, body)
	case *Vote:
		m.hearVote(msg, body)
	case *Attest:
		m.hearAttest(msg)
	case *Evidence:
		m.hearEvidence(msg, body)
	case *Verdict:
		m.hearVerdict(msg, body)
	}
}

func (m *Machine) hearJoin(msg *Message, j *Join) {
	if msg.From == m.cfg.Self && (m.lastJoin == nil || m.lastJoin.Body.(*Join).Round <= j.Round) {
		m.lastJoin = msg
	}
	old := m.joins[msg.From]
	switch {
	case stale(&m.cfg, j.Round, m.head.round):
		m.refuseMessage(msg, "old round")
		return
	case old != nil && old.ID == msg.ID:
		return
	case old != nil && old.Body.(*Join).Round > j.Round:
		m.refuseMessage(msg, "replay")
		return
	case old != nil && old.Body.(*Join).Round == j.Round && (old.Body.(*Join).Leave || !j.Leave && old.ID < msg.ID):
		m.refuseMessage(msg, "replay")
		return
	case len(m.joinsByID) >= 2*maxPeers:
		m.refuseMessage(msg, "too many peers")
		return
	case m.cfg.Admit != nil && !j.Leave && !m.cfg.Admit(msg.From, j.Address):
		m.refuseMessage(msg, "not admitted")
		return
	}
	m.joins[msg.From] = msg
	m.joinsByID[msg.ID] = msg
	m.seq++
	m.r.lastJoin = m.now
}

func (m *Machine) hearDelta(msg *Message, d *Delta) {
	own := msg.From == m.cfg.Self
	if own {
		m.sentDelta[d.Parent] = d.Round
	}
	if m.deltas[msg.ID] != nil {
		return
	}
	list := m.work[msg.From]
	for _, x := range list {
		if conflict(x.msg, msg) {
			m.convict(x.msg, msg)
			m.refuseMessage(msg, "convicted")
			return
		}
	}
	n := m.nodes[d.Parent]
	switch {
	case n != nil && (n.round != d.Round || n.c.State != d.State):
		m.refuseMessage(msg, "bad state")
	case m.cfg.AuditRate > 0 && !d.Trace.Defined():
		m.refuseMessage(msg, "no trace")
	case own && (m.restoring || m.saying[d.Parent]):
		delete(m.saying, d.Parent)
		m.addDelta(msg)
	case d.Round+m.cfg.LateRounds < m.head.round:
		m.refuseMessage(msg, "old round")
	case d.Round <= m.head.round && !m.counts(msg.From):
		m.refuseMessage(msg, "not a member")
	case list == nil && len(m.work) >= 2*maxPeers:
		m.refuseMessage(msg, "too many peers")
	case len(list) >= 8+int(min(m.cfg.LateRounds, 16)) && !m.dropDelta(list):
		m.refuseMessage(msg, "too many messages")
	default:
		m.addDelta(msg)
		m.fetchDelta(m.deltas[msg.ID])
	}
}

// dropDelta makes room among the deltas of one peer: the oldest that is too
// old to be voted for goes.
func (m *Machine) dropDelta(list []*delta) bool {
	var old *delta
	for _, x := range list {
		if x.d.Round+m.cfg.LateRounds < m.head.round && (old == nil || x.d.Round < old.d.Round) {
			old = x
		}
	}
	if old != nil {
		m.forgetDelta(old)
	}
	return old != nil
}

func (m *Machine) forgetDelta(x *delta) {
	delete(m.deltas, x.msg.ID)
	delete(m.retries, x.msg.ID)
	list := slices.DeleteFunc(m.work[x.msg.From], func(y *delta) bool { return y == x })
	m.work[x.msg.From] = list
	if len(list) == 0 {
		delete(m.work, x.msg.From)
	}
}

// refuseMessage does without a Delta, Join or Verdict, but keeps the envelope for a while:
// if half of the votes name it, the commit needs it, whatever its sender is worth.
func (m *Machine) refuseMessage(msg *Message, why string) {
	m.reject(why)
	if msg.Kind != wire.KindDelta && msg.Kind != wire.KindJoin && msg.Kind != wire.KindVerdict || m.spare[msg.ID] != nil {
		return
	}
	m.seq++
	m.spare[msg.ID] = msg
	m.spares = append(m.spares, msg.ID)
	if len(m.spares) > maxSpare {
		delete(m.spare, m.spares[0])
		m.spares = m.spares[1:]
	}
}

// envelope finds a Delta, Join or Verdict by its ID.
func (m *Machine) envelope(id wire.CID) *Message {
	if x := m.deltas[id]; x != nil {
		return x.msg
	}
	if j := m.joinsByID[id]; j != nil {
		return j
	}
	if v := m.verdicts[id]; v != nil {
		return v
	}
	return m.spare[id]
}

// addDelta keeps a delta; one of this peer is held already.
func (m *Machine) addDelta(msg *Message) {
	m.seq++
	x := &delta{msg: msg, d: msg.Body.(*Delta), seq: m.seq}
	m.deltas[msg.ID] = x
	m.work[msg.From] = append(m.work[msg.From], x)
	if msg.From == m.cfg.Self {
		x.held = true
		m.open = append(m.open, x)
		m.haveDelta(x)
		m.settleOwn() // it may have come too late already
	}
}

// haveDelta counts a delta that has become held.
func (m *Machine) haveDelta(x *delta) {
	if m.onTime(x) && !slices.ContainsFunc(m.work[x.msg.From], func(y *delta) bool { return y != x && y.held && m.onTime(y) }) {
		m.r.deltas++
	}
}

// onTime reports whether x is work of this round by somebody whom the round expects.
func (m *Machine) onTime(x *delta) bool {
	return x.d.Round == m.head.round && x.d.State == m.head.c.State &&
		m.convicted[x.msg.From] == nil && roleIn(m.head.c.Roster, x.msg.From, trainer) != nil
}

// fetchDelta asks for the block of x, if it may be of use and is not here.
func (m *Machine) fetchDelta(x *delta) {
	if x.held || x.bad || x.asked {
		return
	}
	soon := x.d.Round+m.cfg.LateRounds >= m.head.round && x.d.Round <= m.head.round+1 &&
		m.convicted[x.msg.From] == nil && roleIn(m.head.c.Roster, x.msg.From, trainer) != nil &&
		!m.head.has(x.msg.From, x.d.Round)
	if !soon && !x.needed {
		return
	}
	if m.now.Before(x.next) {
		m.retries[x.msg.ID] = x
		return
	}
	from := []wire.PeerID{x.msg.From}
	if x.tries > 0 {
		from = append(from, m.naming(x.msg.ID, x.tries)...)
	}
	x.asked = true
	delete(m.retries, x.msg.ID)
	m.do(FetchDelta{ID: x.msg.ID, Delta: *x.d, Peer: x.msg.From, From: from})
}

// naming returns peers that say they hold a delta: those whose votes name it
// and those who have attested to a commit with it. turn varies the choice.
func (m *Machine) naming(id wire.CID, turn int) []wire.PeerID {
	var out []wire.PeerID
	if b := m.ballots[m.head.id]; b != nil {
		for p, v := range b.votes {
			if _, ok := slices.BinarySearch(v.Body.(*Vote).Deltas, id); ok && p != m.cfg.Self {
				out = append(out, p)
			}
		}
		slices.SortFunc(out, wire.PeerID.Compare)
	}
	if t := m.target; t != m.head {
		for _, p := range m.holders(t) {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	if len(out) > maxFrom {
		i := turn % len(out)
		out = append(slices.Clone(out[i:]), out[:i]...)[:maxFrom]
	}
	return out
}

// deltaChecked takes the outcome of FetchDelta.
func (m *Machine) deltaChecked(ev DeltaChecked) {
	x := m.deltas[ev.ID]
	if x == nil || !x.asked {
		return
	}
	x.asked = false
	switch {
	case ev.Err == nil:
		x.held = true
		m.haveDelta(x)
	case ev.Final:
		x.bad = true
		m.reject("bad delta")
	default:
		x.tries++
		x.next = m.now.Add(backoff(time.Second/2, x.tries))
		m.retries[ev.ID] = x
	}
}

// haveAll reports whether all deltas are held, and fetches those that are not.
// n, if not nil, is the commit that has them.
func (m *Machine) haveAll(list []Weighted, n *node) bool {
	all := true
	for _, w := range list {
		x := m.deltas[w.ID]
		if x == nil && n != nil {
			m.learn(n)
			x = m.deltas[w.ID]
		} else if msg := m.spare[w.ID]; x == nil && msg != nil {
			m.addDelta(msg)
			x = m.deltas[w.ID]
		}
		if x == nil {
			return false
		}
		if x.held {
			continue
		}
		all = false
		x.needed = true
		if x.bad && n != nil {
			n.bad = true
			m.dirty = true
			m.reject("divergence")
			return false
		}
		if x.tries >= 4 && n != nil {
			n.misses = 3 // the state is easier to find
		}
		m.fetchDelta(x)
	}
	return all
}

// learn keeps the deltas of a verified commit.
func (m *Machine) learn(n *node) {
	for i := range n.c.Deltas {
		msg, err := m.cfg.Open(&n.c.Deltas[i])
		if err == nil && m.deltas[msg.ID] == nil {
			m.addDelta(msg)
		}
	}
}

func (m *Machine) hearVote(msg *Message, v *Vote) {
	if msg.From == m.cfg.Self {
		m.voted[v.Parent] = v.Round
	}
	n := m.nodes[v.Parent]
	switch {
	case v.Round < m.root.round:
		m.reject("old round")
		return
	case n != nil && n.round != v.Round:
		m.reject("wrong round")
		return
	case n != nil && n.round > 0 && activeIn(n.c.Roster, msg.From) == nil:
		m.reject("not a member")
		return
	}
	b := m.ballots[v.Parent]
	if b == nil {
		if n == nil && (v.Round+2 < m.head.round || !m.mayRunAhead(msg.From)) {
			m.reject("unknown parent")
			return
		}
		if len(m.ballots) >= maxBallots && n == nil {
			m.reject("too many messages")
			return
		}
		b = &ballot{round: v.Round, votes: map[wire.PeerID]*Message{}}
		m.ballots[v.Parent] = b
	}
	old := b.votes[msg.From]
	switch {
	case old != nil && old.ID == msg.ID:
		m.lagging(v)
		return
	case old != nil:
		m.convict(old, msg)
		return
	case len(b.votes) >= maxPeers:
		m.reject("too many peers")
		return
	case n == nil && !m.mayRunAhead(msg.From):
		m.reject("too many messages")
		return
	}
	b.votes[msg.From] = msg
	m.lagging(v)
	if v.Parent == m.head.id {
		m.r.lastVote = m.now
		if e := activeIn(m.head.c.Roster, msg.From); e != nil {
			m.r.votes++
			m.r.weight += e.Weight
		}
	}
	m.lagged(v.Parent)
}

// mayRunAhead bounds the votes of one peer about parents that are not known.
func (m *Machine) mayRunAhead(p wire.PeerID) bool {
	n := 0
	for parent, b := range m.ballots {
		if b.votes[p] != nil && m.nodes[parent] == nil {
			n++
		}
	}
	return n < maxAhead
}

// pruneMessages forgets what is about rounds that are over.
func (m *Machine) pruneMessages() {
	root := m.root.round
	old := func(round uint64) bool { return round < root }
	for _, x := range m.deltas {
		if old(x.d.Round) || x.d.Round+2*m.cfg.LateRounds+2 < m.final.round {
			m.forgetDelta(x)
		}
	}
	m.pruneVerdicts()
	for id, b := range m.ballots {
		if n := m.nodes[id]; b.round+2 < m.final.round || n == nil && b.round < m.final.round {
			delete(m.ballots, id)
		}
	}
	for id, r := range m.voted {
		if old(r) {
			delete(m.voted, id)
		}
	}
	for id, r := range m.sentDelta {
		if old(r) {
			delete(m.sentDelta, id)
		}
	}
	for id, r := range m.refused {
		if old(r) {
			delete(m.refused, id)
		}
	}
	for id, o := range m.orphans {
		if o.round <= m.final.round {
			delete(m.orphans, id)
			delete(m.orphansOf, o.parent)
		}
	}
	for id, w := range m.wants {
		if w.round <= m.final.round {
			delete(m.wants, id)
		}
	}
	for p, j := range m.joins {
		if stale(&m.cfg, j.Body.(*Join).Round, m.head.round) {
			delete(m.joins, p)
		}
	}
	for id, j := range m.joinsByID {
		if stale(&m.cfg, j.Body.(*Join).Round+m.cfg.DropAfter, m.head.round) {
			delete(m.joinsByID, id)
		}
	}
	m.attesters = slices.DeleteFunc(m.attesters, func(a *attester) bool {
		i := 0
		for i < len(a.said)-1 && old(a.said[i].Body.(*Attest).Round) {
			i++
		}
		a.said = slices.Delete(a.said, 0, i)
		return old(a.latest().Body.(*Attest).Round) && !m.counts(a.peer) && a.peer != m.cfg.Self
	})
}

package diloco

import (
	"maps"
	"slices"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Bounds of what is remembered of others' word.
const (
	maxWants   = 256     // commits wanted because somebody attests to them
	maxAsks    = 8       // commit fetches at a time
	maxOrphans = 1 << 16 // commits whose parents are not known yet
	maxWaiting = 64      // of these, how many are kept whole; the others are fetched again
	maxVerify  = 16      // commits verified in one Step
	maxFrom    = 8       // peers named in one fetch
	forward    = 4       // how many outer steps are worth redoing instead of fetching a state
)

// A want is a commit to be fetched.
type want struct {
	round uint64
	from  []wire.PeerID // the likeliest first
	asked bool          // in flight
	tries int
	next  time.Time // not before
}

// An orphan is a fetched commit whose parent is not in the tree.
type orphan struct {
	c      *Commit // nil if it must be fetched again
	parent wire.CID
	round  uint64
	from   []wire.PeerID
}

// wantHead notes that p attests to a commit that is not in the tree.
func (m *Machine) wantHead(id wire.CID, round uint64, p wire.PeerID) {
	if round <= m.final.round || m.refused[id] != 0 {
		return
	}
	if o := m.orphans[id]; o != nil {
		o.from = addPeer(o.from, p)
		return
	}
	next := m.now
	if round == m.head.round+1 {
		next = m.now.Add(m.voteGrace() / 2) // the votes are on their way; deriving is cheaper
	}
	m.want(id, round, []wire.PeerID{p}, next)
}

func (m *Machine) want(id wire.CID, round uint64, from []wire.PeerID, next time.Time) {
	w := m.wants[id]
	if w == nil {
		if len(m.wants) >= maxWants && !m.dropWant() {
			m.reject("too many unknown commits")
			return
		}
		w = &want{round: round, next: next}
		m.wants[id] = w
	}
	for _, p := range from {
		w.from = addPeer(w.from, p)
	}
}

// dropWant makes room: the commit that could not be had most often goes.
func (m *Machine) dropWant() bool {
	worst, most := wire.CID(""), 0
	for id, w := range m.wants {
		if w.tries > most || w.tries == most && most > 0 && id > worst {
			worst, most = id, w.tries
		}
	}
	delete(m.wants, worst)
	return most > 0
}

// addPeer puts p, the latest to name something, first.
func addPeer(list []wire.PeerID, p wire.PeerID) []wire.PeerID {
	if i := slices.Index(list, p); i >= 0 {
		return list
	}
	list = slices.Insert(list, 0, p)
	return list[:min(len(list), maxFrom)]
}

// askWants fetches what is due.
func (m *Machine) askWants() {
	if len(m.wants) == 0 {
		return
	}
	asked := 0
	for _, w := range m.wants {
		if w.asked {
			asked++
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.wants)) {
		w := m.wants[id]
		switch {
		case w.asked:
			continue
		case w.round <= m.root.round:
			delete(m.wants, id)
			continue
		case w.round == m.head.round+1 && m.job != nil && m.job.form != nil:
			continue // it may be the very one that is being made
		case m.now.Before(w.next):
			m.at(w.next)
			continue
		case asked >= maxAsks:
			continue
		}
		asked++
		w.asked = true
		m.do(FetchCommit{CID: id, From: slices.Clone(w.from)})
	}
}

// commitFetched takes the outcome of FetchCommit.
func (m *Machine) commitFetched(ev CommitFetched) {
	w := m.wants[ev.CID]
	if w == nil || !w.asked {
		return
	}
	w.asked = false
	if ev.Err != nil || ev.Commit == nil {
		w.tries++
		w.next = m.now.Add(backoff(time.Second, w.tries))
		if w.tries >= 8 && len(m.orphansOf[ev.CID]) == 0 && !m.attestedTo(ev.CID) {
			delete(m.wants, ev.CID)
		} else if w.tries >= 2 {
			m.askElsewhere(w)
		}
		return
	}
	delete(m.wants, ev.CID)
	c := ev.Commit
	if c.Run != m.cfg.Run || c.Round == 0 || c.Round != w.round {
		m.refuse(ev.CID, w.round, "malformed commit")
		return
	}
	if m.nodes[ev.CID] != nil {
		return
	}
	if m.nodes[c.Parent] == nil && c.Round <= m.root.round+1 {
		m.refuse(ev.CID, c.Round, "commit against the final commit")
		return
	}
	o := m.orphans[ev.CID]
	if o == nil {
		if len(m.orphans) >= maxOrphans {
			m.reject("too many unknown commits")
			return
		}
		o = &orphan{parent: c.Parent, round: c.Round}
		m.orphans[ev.CID] = o
	}
	o.c = c
	for _, p := range w.from {
		o.from = addPeer(o.from, p)
	}
	if m.nodes[c.Parent] != nil {
		m.ready = append(m.ready, ev.CID)
		return
	}
	if !slices.Contains(m.orphansOf[c.Parent], ev.CID) {
		m.orphansOf[c.Parent] = append(m.orphansOf[c.Parent], ev.CID)
	}
	m.slimOrphans()
	if m.refused[c.Parent] != 0 {
		m.refuse(ev.CID, c.Round, "child of a bad commit")
	} else if m.orphans[c.Parent] == nil {
		m.want(c.Parent, c.Round-1, o.from, m.now)
	}
}

// askElsewhere turns to others for a commit that those who named it do not
// give, as they may be gone: whoever builds on its round or a later one has it
// or a sibling. Each try asks other ones.
func (m *Machine) askElsewhere(w *want) {
	var others []wire.PeerID
	for _, a := range m.attesters {
		if a.peer != m.cfg.Self && len(a.said) > 0 && a.latest().Body.(*Attest).Round >= w.round && !slices.Contains(w.from, a.peer) {
			others = append(others, a.peer)
		}
	}
	if len(others) == 0 {
		return
	}
	i := w.tries % len(others)
	others = append(slices.Clone(others[i:]), others[:i]...)
	w.from = append(others[:min(len(others), maxFrom-1)], w.from...)
	w.from = w.from[:min(len(w.from), maxFrom)]
}

// slimOrphans drops the content of the youngest orphans where too many wait:
// the walk back to known ground needs only their links.
func (m *Machine) slimOrphans() {
	whole, youngest := 0, wire.CID("")
	for id, o := range m.orphans {
		if o.c == nil {
			continue
		}
		whole++
		y := m.orphans[youngest]
		if y == nil || o.round > y.round || o.round == y.round && id > youngest {
			youngest = id
		}
	}
	if whole > maxWaiting {
		m.orphans[youngest].c = nil
	}
}

// refuse drops a commit and what was built on it, for good.
func (m *Machine) refuse(id wire.CID, round uint64, why string) {
	m.reject(why)
	queue := []wire.CID{id}
	for i := 0; i < len(queue); i++ {
		m.refused[queue[i]] = max(round, 1)
		delete(m.orphans, queue[i])
		delete(m.wants, queue[i])
		queue = append(queue, m.orphansOf[queue[i]]...)
		delete(m.orphansOf, queue[i])
	}
}

// linkOrphans verifies commits whose parents are in the tree, a few a Step.
func (m *Machine) linkOrphans() {
	for n := 0; len(m.ready) > 0; n++ {
		if n == maxVerify {
			m.again = true
			return
		}
		id := m.ready[0]
		m.ready = m.ready[1:]
		o := m.orphans[id]
		if o == nil {
			continue
		}
		p := m.nodes[o.parent]
		switch {
		case p == nil:
			delete(m.orphans, id)
			continue
		case !p.descends(m.final):
			m.refuse(id, o.round, "commit against the final commit")
			continue
		case o.c == nil:
			m.want(id, o.round, o.from, m.now)
			continue
		}
		delete(m.orphans, id)
		merged, err := verifyCommit(&m.cfg, p.c, p.id, o.c, m.past(p))
		if err != nil {
			m.refuse(id, o.round, "bad commit")
			continue
		}
		k := m.insert(p, id, o.c, merged)
		k.from = o.from
	}
}

// attestedTo reports whether anybody's latest word is for that commit.
func (m *Machine) attestedTo(id wire.CID) bool {
	return slices.ContainsFunc(m.attesters, func(a *attester) bool {
		return len(a.said) > 0 && a.latest().Body.(*Attest).Head == id
	})
}

// holders returns peers that should have the state or the deltas of n.
func (m *Machine) holders(n *node) []wire.PeerID {
	var out []wire.PeerID
	for _, a := range m.attesters {
		if a.peer == m.cfg.Self || len(a.said) == 0 {
			continue
		}
		if h := m.nodes[a.latest().Body.(*Attest).Head]; h != nil && h.descends(n) {
			out = append(out, a.peer)
		}
	}
	if len(out) > maxFrom { // not always the same ones
		i := int(m.fetches) % len(out)
		out = append(slices.Clone(out[i:]), out[:i]...)[:maxFrom]
	}
	for _, p := range n.from {
		if p != m.cfg.Self && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// obtain gets hold of n's state: by the outer step where its parent's is here
// or nearly so, else by fetching it.
func (m *Machine) obtain(n *node) {
	if m.job != nil || m.state != nil {
		return
	}
	first, steps := n, 1
	for first.parent != nil && !first.parent.held && steps <= forward {
		first = first.parent
		steps++
	}
	if first.parent != nil && first.parent.held && steps <= forward && first.misses < 3 {
		m.redo(first)
		return
	}
	if m.now.Before(m.stateNext) {
		m.at(m.stateNext)
		return
	}
	m.fetches++
	m.state = n
	m.do(FetchState{State: n.c.State, From: m.holders(n)})
}

// redo runs the outer step of n, whose parent's state is here.
func (m *Machine) redo(n *node) {
	for _, o := range n.parent.outcomes {
		if slices.Equal(o.merged, n.merged) {
			m.outcomeOf(n, o.state)
			return
		}
	}
	if !m.haveAll(n.merged, n) {
		return
	}
	m.merge(&job{parent: n.parent, merged: n.merged, node: n})
}

// outcomeOf compares what the outer step gave with what the commit says.
func (m *Machine) outcomeOf(n *node, state wire.CID) {
	m.dirty = true
	if n.c.State == state {
		n.held = true
		return
	}
	n.bad = true
	m.reject("divergence")
}

// A job is an outer step under way.
type job struct {
	key    uint64
	parent *node
	merged []Weighted
	node   *node     // whose state this must give, or
	form   *Commit   // what it will complete
	tries  int       // that failed
	next   time.Time // when it is to be tried again; zero while it runs
}

func (m *Machine) merge(j *job) {
	m.jobs++
	j.key, j.next = m.jobs, time.Time{}
	m.job = j
	list := slices.Clone(j.merged)
	if bugUnsorted {
		slices.SortFunc(list, func(a, b Weighted) int { return m.deltas[a.ID].seq - m.deltas[b.ID].seq })
	}
	m.do(Merge{Key: j.key, Parent: j.parent.id, Round: j.parent.round + 1, State: j.parent.c.State, Deltas: list})
}

// mergedEvent takes the outcome of Merge.
func (m *Machine) mergedEvent(ev Merged) {
	j := m.job
	if j == nil || j.key != ev.Key || !j.next.IsZero() {
		return
	}
	if ev.Err != nil || !ev.State.Defined() {
		m.reject("outer step failed")
		if j.node != nil {
			j.node.misses++
		}
		j.tries++
		j.next = m.now.Add(backoff(time.Second, j.tries))
		return
	}
	m.job = nil
	j.parent.outcomes = append(j.parent.outcomes, outcome{j.merged, ev.State})
	if j.node != nil {
		m.outcomeOf(j.node, ev.State)
		return
	}
	m.derived(j.parent, j.form, j.merged, ev.State)
}

// retryJob repeats an outer step that failed, if somebody still wants it.
func (m *Machine) retryJob() {
	j := m.job
	switch {
	case j == nil || j.next.IsZero():
	case j.form != nil && j.parent != m.head, j.node != nil && !m.target.descends(j.node):
		m.job = nil
	case m.now.Before(j.next):
		m.at(j.next)
	case j.node != nil:
		m.job = nil // choose asks again, in another way after some misses
	default:
		m.merge(j)
	}
}

// stateFetched takes the outcome of FetchState.
func (m *Machine) stateFetched(ev StateFetched) {
	n := m.state
	if n == nil || n.c.State != ev.State {
		return
	}
	m.state = nil
	m.dirty = true
	if ev.Err != nil {
		m.stateTries++
		m.stateNext = m.now.Add(backoff(time.Second, m.stateTries))
		n.misses = 0 // the deltas may be in reach again
		if n.failed++; n.failed >= 3 && !m.now.Before(m.extended()) {
			m.shun(n)
		}
		return
	}
	m.stateTries, m.stateNext = 0, time.Time{}
	n.held, n.failed = true, 0
}

// backoff doubles a wait with each try, up to half a minute.
func backoff(first time.Duration, tries int) time.Duration {
	return min(first<<min(max(tries-1, 0), 16), 30*time.Second)
}

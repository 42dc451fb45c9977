package diloco

import (
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Roles. An observer follows and says nothing; the others are a Member's.
const (
	trainer   = "trainer"
	validator = "validator"
	observer  = "observer"
)

// defaultDeadline is Config.Deadline's default.
const defaultDeadline = time.Minute

// A Machine is one peer's view of the chain. It is not safe for concurrent use.
type Machine struct {
	cfg Config

	// The tree of verified commits, from root up.
	nodes   map[wire.CID]*node
	root    *node // the oldest kept
	final   *node // the last final one
	just    *node // the highest justified one
	head    *node // what this peer builds on; its state is here
	target  *node // what fork choice wants as head
	toFinal *node // found final, not yet acted upon
	shunned *node // the next to be tried again of those left aside
	dirty   bool  // target is to be chosen anew
	gen     uint64

	// What peers said, of the rounds that matter.
	attesters []*attester // ascending by peer
	deltas    map[wire.CID]*delta
	work      map[wire.PeerID][]*delta
	retries   map[wire.CID]*delta      // whose fetch failed
	joins     map[wire.PeerID]*Message // the latest of each
	joinsByID map[wire.CID]*Message
	spare     map[wire.CID]*Message // refused Deltas and Joins
	spares    []wire.CID            // in the order heard
	ballots   map[wire.CID]*ballot
	convicted map[wire.PeerID]*Evidence
	evidence  []*Message
	proofs    map[wire.PeerID]*Message
	verdicts  map[wire.CID]*Message
	audits    map[wire.PeerID][]*Message // the verdicts of each
	seq       int

	// What this peer said. Each is noted when Sign is asked for, so that nothing
	// is ever said twice in different words.
	attested, attestedSource uint64
	attesting                wire.CID            // asked for and not heard yet
	voted, sentDelta         map[wire.CID]uint64 // by parent: its round
	floor                    uint64              // rounds before it are not in own, so nothing is said about them
	saying                   map[wire.CID]bool   // Deltas asked for and not heard yet, by parent
	lastJoin                 *Message
	joinAsked                uint64   // round of the last Join asked for, plus 1
	open                     []*delta // own, neither in a final commit nor expired
	judged                   map[about]judgement

	// What is being fetched or computed. See sync.go.
	wants      map[wire.CID]*want
	orphans    map[wire.CID]*orphan
	orphansOf  map[wire.CID][]wire.CID // by parent
	ready      []wire.CID              // orphans whose parent is in the tree
	refused    map[wire.CID]uint64     // bad commits, and their rounds
	job        *job                    // the outer step under way
	jobs       uint64
	state      *node // whose state is being fetched
	stateNext  time.Time
	stateTries int
	fetches    uint64

	r         round
	inner     inner
	lags      []time.Duration // of the last votes behind the quorum
	quorum    time.Time       // of the round before
	paces     []time.Duration // of the last rounds
	leaving   bool
	restoring bool
	done      bool

	now      time.Time
	wake     time.Time
	again    bool // more to do at once
	out      []Effect
	rejected map[string]uint64
}

// New makes the machine of one peer. genesis is the run's first commit:
// Version 1, Run and State. Start or Restore must come next.
func New(cfg Config, genesis *Commit) *Machine {
	m := &Machine{
		cfg:       cfg.withDefaults(),
		nodes:     map[wire.CID]*node{},
		deltas:    map[wire.CID]*delta{},
		work:      map[wire.PeerID][]*delta{},
		retries:   map[wire.CID]*delta{},
		joins:     map[wire.PeerID]*Message{},
		joinsByID: map[wire.CID]*Message{},
		spare:     map[wire.CID]*Message{},
		ballots:   map[wire.CID]*ballot{},
		convicted: map[wire.PeerID]*Evidence{},
		proofs:    map[wire.PeerID]*Message{},
		verdicts:  map[wire.CID]*Message{},
		audits:    map[wire.PeerID][]*Message{},
		judged:    map[about]judgement{},
		voted:     map[wire.CID]uint64{},
		sentDelta: map[wire.CID]uint64{},
		saying:    map[wire.CID]bool{},
		wants:     map[wire.CID]*want{},
		orphans:   map[wire.CID]*orphan{},
		orphansOf: map[wire.CID][]wire.CID{},
		refused:   map[wire.CID]uint64{},
		rejected:  map[string]uint64{},
	}
	id, err := genesis.CID()
	if err != nil { // an empty commit always encodes
		id = genesis.Run
	}
	m.plant(&node{id: id, c: genesis, just: true, held: true, stored: true})
	return m
}

// plant makes n, which is final, the root and head of the tree.
func (m *Machine) plant(n *node) {
	n.just = true
	m.nodes = map[wire.CID]*node{n.id: n}
	m.root, m.final, m.just, m.head, m.target = n, n, n, n, n
}

// Start begins without a past: the peer holds the genesis state and nothing else.
func (m *Machine) Start(now time.Time) []Effect {
	m.now = now
	m.begin()
	return m.settle()
}

// Restore begins from the journal. chain holds the commits from that of
// Status.Keep to the head, parents first, all of which the machine once asked to Store,
// and whose last one's state is held. own holds what this peer has signed for
// rounds from Status.Keep on, and at least its latest Attest and Join. Status.Keep
// belongs to the head with which it was read. A chain that does not reach back to
// what its own head calls final is of no use: the machine then begins at genesis,
// and fetches, but never contradicts own.
func (m *Machine) Restore(now time.Time, chain []*Commit, own []wire.Signed) []Effect {
	m.now = now
	if len(chain) > 0 {
		m.floor = chain[0].Round
	}
	m.grow(chain)
	m.begin()
	m.restoring = true
	for i := range own {
		if own[i].From == m.cfg.Self {
			m.hear(&own[i])
		}
	}
	m.restoring = false
	// Its own word for a source is as good as having counted.
	for _, a := range m.attesters {
		for _, s := range a.said {
			if n := m.nodes[s.Body.(*Attest).Source]; n != nil && !n.just {
				m.justify(n)
			}
		}
	}
	m.applyFinal()
	m.settleOwn()
	m.tally()
	m.repeat()
	return m.settle()
}

// grow plants the journal's chain. Its first commit becomes the root, which is
// taken for final; so it must be one that the head knows to be.
func (m *Machine) grow(chain []*Commit) {
	if len(chain) == 0 || chain[0].Round > 1 && chain[0].Round > chain[len(chain)-1].FinalRound {
		return
	}
	for i, c := range chain {
		if c.Round == 0 {
			continue
		}
		id, err := c.CID()
		if err != nil {
			return
		}
		merged := c.Merged()
		var n *node
		if p := m.nodes[c.Parent]; p != nil {
			n = m.insert(p, id, c, merged)
		} else if i == 0 || chain[i-1].Round == 0 {
			n = &node{id: id, c: c, round: c.Round, merged: merged, last: m.cfg.lastOf(nil, c)}
			n.total, n.totalBefore = voterTotals(n.voters())
			m.plant(n)
		} else {
			return // a hole: what follows hangs in the air
		}
		n.stored = true
		m.head.held = m.head.round == 0
		n.held = true
		m.head, m.target = n, n
	}
	if p := m.head.parent; p != nil {
		p.held = true // likely, and an outer step that fails says otherwise
	}
}

// Step tells the machine what happened and returns what is to be done.
func (m *Machine) Step(now time.Time, ev Event) []Effect {
	if now.After(m.now) {
		m.now = now
	}
	switch ev := ev.(type) {
	case Heard:
		m.hear(&ev.Msg)
	case DeltaChecked:
		m.deltaChecked(ev)
	case CommitFetched:
		m.commitFetched(ev)
	case Merged:
		m.mergedEvent(ev)
	case StateFetched:
		m.stateFetched(ev)
	case Trained:
		m.trained(ev)
	case Audited:
		m.audited(ev)
	case LeaveAsked:
		m.leave()
	}
	return m.settle()
}

// settle does whatever has become possible, and finds out when time alone
// will make more possible.
func (m *Machine) settle() []Effect {
	for range 8 {
		m.wake, m.again = time.Time{}, false
		m.linkOrphans()
		m.applyFinal()
		m.choose()
		m.retryJob()
		m.clock()
		m.tryAttest()
		m.tryTrain()
		m.tryCut()
		m.tryJoin()
		m.tryVote()
		m.tryForm()
		if !m.dirty && m.toFinal == nil {
			break
		}
	}
	m.retryDeltas()
	m.askWants()
	m.tryRepair()
	if m.again || m.dirty || m.toFinal != nil {
		m.wake = m.now
	}
	out := m.out
	m.out = nil
	return out
}

// Wake returns when Step must next be called with Tick; zero is never.
func (m *Machine) Wake() time.Time { return m.wake }

// at makes sure that Wake is no later than t.
func (m *Machine) at(t time.Time) {
	if t.After(m.now) && (m.wake.IsZero() || t.Before(m.wake)) {
		m.wake = t
	}
}

func (m *Machine) do(e Effect) { m.out = append(m.out, e) }

func (m *Machine) reject(why string) { m.rejected[why]++ }

// sign asks for one message of this peer.
func (m *Machine) sign(kind wire.Kind, body any) {
	b, err := wire.Marshal(body)
	if err != nil || len(b) > wire.MaxBody {
		m.reject("own message does not encode")
		return
	}
	m.do(Sign{Kind: kind, Body: b})
}

// silent reports whether this peer says nothing: an observer, one that two
// processes run with one key and that has been convicted for it, or one that
// does not know what it has said.
func (m *Machine) silent() bool {
	return m.cfg.Role == observer || m.convicted[m.cfg.Self] != nil || m.head.round < m.cfg.Mute
}

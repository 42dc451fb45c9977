package audit

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// A Reason says why a piece of work is audited, the most urgent first.
type Reason uint8

// Reasons. A case waits for every validator's word; what the screens suspect is
// looked at beyond the coin; the coin chooses among deltas, and among what
// other validators passed.
const (
	ByCase Reason = iota
	BySuspicion
	ByCoin
	ByCross
)

func (r Reason) String() string {
	if int(r) >= 4 {
		return "unknown"
	}
	return [...]string{"case", "suspicion", "coin", "cross-check"}[r]
}

// Bounds of what an Auditor keeps.
const (
	maxTasks = 256
	tries    = 3 // in vain, until what no case is about is called withheld
	// maxDepth bounds cross-checks of cross-checks: a delta is passed, that is
	// checked and passed, and that once more.
	maxDepth = 2
)

// Memory returns for how many rounds after a piece of work there may be a case about
// it: a child of a commit within the work's audit window opens it, and it is open for
// a window.
func Memory(window uint64) uint64 { return 2*window + 1 }

// Asking is for how long a validator asks one who keeps silent before that counts as a try in vain.
const Asking = 5 * time.Second

// Appeal returns for how many rounds enough validators must have said that material is withheld, with the
// accused there, before it is convicted.
func Appeal(window uint64) uint64 { return max(2, 3*window/8) }

// patience returns for how many rounds material that no case is about is asked for before it is called withheld.
func patience(window uint64) uint64 { return max(window/4, 1) }

// AskRounds returns how many rounds an audit window leaves for asking in vain, where work may be merged late
// rounds late. Of 0 nobody who withholds could be convicted.
//
//	who says so first  1+late rounds until a commit has the work, asking, further tries or patience, all within the work's window
//	the others         a case opens, asking, one more try, the verdict in a commit, the appeal, all within the case's
func AskRounds(window, late uint64) uint64 {
	first := 1 + late + max(tries-1, patience(window))
	others := 1 + Appeal(window)
	return window - min(window, max(first, others))
}

// Shortest returns how long a round must last at least where there are audits. Windows are counted in rounds, and
// asking takes seconds: were rounds shorter, a window would be over before enough validators have
// asked in vain, and who withholds got away with it. Half as much again is for slow lines.
func Shortest(window, late uint64) time.Duration {
	return 3 * Asking / 2 / time.Duration(max(1, AskRounds(window, late)))
}

// Config is what an Auditor must know. Zero fields but Rate take their defaults.
type Config struct {
	Self     wire.PeerID
	Coin     *Coin
	Rate     uint64 // in parts per 10,000
	Every    uint64 // steps of a segment; 0: every phase is one segment
	Window   uint64 // rounds; default 8
	Patience uint64 // for how many rounds material is asked for before it is called withheld; default a quarter of Window
}

// Work is a delta that a commit merged.
type Work struct {
	ID    wire.CID // of the envelope
	Peer  wire.PeerID
	Round uint64
	Steps uint64
}

// Passed is a verdict in a commit that passes Segment of Subject.
type Passed struct {
	ID, Subject    wire.CID // of the envelopes
	Peer           wire.PeerID
	Round, Segment uint64
}

// Accusation is an open case.
type Accusation struct {
	Subject        wire.CID
	Peer           wire.PeerID // the accused
	Round, Segment uint64
	Opened         uint64 // the round of the commit that opened it
	Spoken         bool   // this validator's Pass or Wrong is in it
}

// Head is what an Auditor is told of a commit that its peer adopts.
type Head struct {
	Round  uint64
	Since  uint64 // since which round this peer is one of its validators; 0: it is none
	Works  []Work
	Passed []Passed
	Cases  []Accusation
}

// A Task is one segment to look at.
type Task struct {
	Subject wire.CID
	Peer    wire.PeerID // who signed Subject
	Round   uint64      // of the delta audited
	Segment uint64
	Verdict bool // Subject is a verdict: recompute its work
	Reason  Reason
	Coin    []byte   // for the verdict: the reveal that chose it; nil where a case or suspicion did
	Seed    [32]byte // what the audit's own choices follow from
	Until   uint64   // the last head's round at which a verdict is of use
	Again   bool     // its material was asked for before
}

type key struct {
	subject wire.CID
	segment uint64
}

// task is a Task and how far it has come.
type task struct {
	Task
	running bool
	more    bool // beyond what is owed: after the rest of its reason
	tries   int
	first   uint64 // the round of the first try
	after   uint64 // not before the head is past that round
	called  bool   // withheld was said
}

// An Auditor decides what one validator looks at. It is a value without clock
// or I/O: tell it of each adopted commit (after a restart of those of the last
// Memory rounds again, and with Said of what was said), and carry out what Next
// gives, in any number at a time, each ended by Said or Failed.
type Auditor struct {
	cfg   Config
	round uint64
	tasks map[key]*task
	said  map[key]uint64   // Pass or Wrong, and the work's round
	depth map[wire.CID]int // of works and verdicts in the window
	ages  map[wire.CID]uint64
}

// NewAuditor returns an Auditor that knows of nothing.
func NewAuditor(cfg Config) *Auditor {
	if cfg.Window == 0 {
		cfg.Window = 8
	}
	if cfg.Patience == 0 {
		cfg.Patience = patience(cfg.Window)
	}
	return &Auditor{
		cfg: cfg, tasks: map[key]*task{}, said: map[key]uint64{}, depth: map[wire.CID]int{}, ages: map[wire.CID]uint64{},
	}
}

// Segments returns how many segments a phase of so many steps has, at least 1.
func (c *Config) Segments(steps uint64) uint64 { return segmentsOf(steps, c.Every) }

func segmentsOf(steps, every uint64) uint64 {
	if every == 0 || steps == 0 {
		return 1
	}
	return (steps-1)/every + 1
}

// Adopted tells of a commit that this peer adopts.
func (a *Auditor) Adopted(h Head) {
	a.round = h.Round
	a.forget()
	for _, w := range h.Works {
		a.note(w.ID, w.Round, 0)
	}
	coin := a.cfg.Coin.Reveal(h.Round)
	if coin == nil { // it is worn out
		h.Since = 0
	}
	if h.Since > 0 {
		for _, x := range Choose(coin, h, a.cfg) {
			a.add(Task{Subject: x.ID, Peer: x.Peer, Round: x.Round, Segment: x.Segment, Reason: ByCoin, Coin: coin, Seed: x.Seed}, !x.Owed)
		}
	}
	for _, v := range h.Passed {
		depth := a.depth[v.Subject] + 1
		a.note(v.ID, v.Round, depth)
		if h.Since == 0 || h.Since > v.Round || v.Peer == a.cfg.Self || depth > maxDepth {
			continue
		}
		if d := DrawFor(coin, v.ID, a.cfg.Rate, 1); d.Audit {
			a.add(Task{Subject: v.ID, Peer: v.Peer, Round: v.Round, Segment: v.Segment, Verdict: true, Reason: ByCross, Coin: coin, Seed: d.Seed}, false)
		}
	}
	open := map[key]bool{}
	for _, c := range h.Cases {
		k := key{c.Subject, c.Segment}
		open[k] = true
		depth, known := a.depth[c.Subject]
		if c.Spoken {
			a.said[k] = c.Round
			delete(a.tasks, k)
		} else if known && h.Since > 0 && c.Peer != a.cfg.Self { // of what came before this peer, it cannot even tell the kind
			a.add(Task{
				Subject: c.Subject, Peer: c.Peer, Round: c.Round, Segment: c.Segment, Verdict: depth > 0,
				Reason: ByCase, Seed: OwnSeed(c.Subject, c.Segment, a.cfg.Self), Until: max(c.Round, c.Opened) + a.cfg.Window,
			}, false)
		}
	}
	for k, t := range a.tasks { // a case that is closed asks nobody any more
		switch {
		case t.Reason != ByCase || open[k]:
		case t.Coin != nil:
			t.Reason, t.Until = ByCoin, t.Round+a.cfg.Window
			if t.Verdict {
				t.Reason = ByCross
			}
		case !t.running:
			delete(a.tasks, k)
		}
	}
}

// Suspect asks for an audit of a segment that a screen finds odd.
func (a *Auditor) Suspect(w Work, segment uint64) {
	if w.Peer == a.cfg.Self {
		return
	}
	segment %= a.cfg.Segments(w.Steps)
	a.add(Task{Subject: w.ID, Peer: w.Peer, Round: w.Round, Segment: segment, Reason: BySuspicion, Seed: OwnSeed(w.ID, segment, a.cfg.Self)}, false)
}

// OwnSeed is the seed of an audit that no coin chose.
func OwnSeed(subject wire.CID, segment uint64, self wire.PeerID) [32]byte {
	b := binary.BigEndian.AppendUint64([]byte(subject), segment)
	return sha256.Sum256(append(b, self[:]...))
}

// SeedOf is the seed of another validator's audit, from its verdict's coin,
// subject and segment.
func SeedOf(coin []byte, subject wire.CID, segment uint64, by wire.PeerID) [32]byte {
	if len(coin) == RevealSize {
		return DrawFor(coin, subject, 0, 1).Seed
	}
	return OwnSeed(subject, segment, by)
}

// note remembers how far a piece of work is from a delta.
func (a *Auditor) note(id wire.CID, round uint64, depth int) {
	a.depth[id], a.ages[id] = depth, round
}

// add keeps a task, or makes one more urgent that is there already. Where there
// are too many, the least urgent goes.
func (a *Auditor) add(t Task, more bool) {
	k := key{t.Subject, t.Segment}
	if t.Until == 0 {
		t.Until = t.Round + a.cfg.Window
	}
	if _, said := a.said[k]; said || t.Until < a.round {
		return
	}
	if old := a.tasks[k]; old != nil {
		old.Reason, old.Until = min(old.Reason, t.Reason), max(old.Until, t.Until)
		return
	}
	a.tasks[k] = &task{Task: t, more: more}
	if len(a.tasks) <= maxTasks {
		return
	}
	var worst *task
	for _, x := range a.tasks {
		if !x.running && (worst == nil || urgency(worst, x) < 0) {
			worst = x
		}
	}
	if worst != nil {
		delete(a.tasks, key{worst.Subject, worst.Segment})
	}
}

// urgency orders tasks: by reason, what is owed before what is not, then the one
// that ends first.
func urgency(a, b *task) int {
	more := func(t *task) int {
		if t.more && t.Reason == ByCoin {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(more(a), more(b)), cmp.Compare(a.Until, b.Until), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Segment, b.Segment))
}

// Next returns the most urgent task, of this reason or a more urgent one, that is
// not under way and need not wait for another round.
func (a *Auditor) Next(least Reason) (Task, bool) {
	var best *task
	for _, t := range a.tasks {
		if !t.running && t.Reason <= least && (t.tries == 0 || a.round > t.after) && (best == nil || urgency(t, best) < 0) {
			best = t
		}
	}
	if best == nil {
		return Task{}, false
	}
	best.running = true
	return best.Task, true
}

// Current returns a task that is under way as it is now: what Next gave may have
// become a case's since. ok is false where nobody wants to know any more.
func (a *Auditor) Current(subject wire.CID, segment uint64) (Task, bool) {
	if t := a.tasks[key{subject, segment}]; t != nil {
		return t.Task, true
	}
	return Task{}, false
}

// Tasks returns what is to be looked at, the most urgent first.
func (a *Auditor) Tasks() []Task {
	list := make([]*task, 0, len(a.tasks))
	for _, t := range a.tasks {
		list = append(list, t)
	}
	slices.SortFunc(list, urgency)
	out := make([]Task, len(list))
	for i, t := range list {
		out[i] = t.Task
	}
	return out
}

// Said ends a task: this validator has said Pass or Wrong of the segment, which
// it does once. Also for what was said before a restart.
func (a *Auditor) Said(subject wire.CID, segment, round uint64) {
	k := key{subject, segment}
	a.said[k] = round
	delete(a.tasks, k)
}

// Failed reports that a task could not be done; theirs says that the material was not to be had of
// who must serve it, and nothing else counts against them. It is tried
// again with every head until the window ends. withheld says that it is time to
// say so, until Called; the audit goes on, since it may turn up. Where a case is open the
// accused has time to answer anyway, and one more try is enough. Of verdicts nothing
// is withheld.
func (a *Auditor) Failed(subject wire.CID, segment uint64, theirs bool) (withheld bool) {
	t := a.tasks[key{subject, segment}]
	if t == nil {
		return false
	}
	t.running = false
	if !theirs {
		t.after, t.Again = a.round, true
		return false
	}
	return a.inVain(t)
}

// Called reports that this validator has said that a task's material is withheld, which it says once.
func (a *Auditor) Called(subject wire.CID, segment uint64) {
	if t := a.tasks[key{subject, segment}]; t != nil {
		t.called = true
	}
}

// Waits reports that the material of a task, long asked for, is still not there
// when a head is adopted: as Failed, but the task remains under way.
func (a *Auditor) Waits(subject wire.CID, segment uint64) (withheld bool) {
	t := a.tasks[key{subject, segment}]
	return t != nil && (t.tries == 0 || a.round > t.after) && a.inVain(t)
}

// inVain counts a try.
func (a *Auditor) inVain(t *task) (withheld bool) {
	if t.tries == 0 {
		t.first = a.round
	}
	t.tries++
	t.after = a.round
	t.Again = true
	least, rounds := tries, a.cfg.Patience
	if t.Reason == ByCase {
		least, rounds = 2, min(rounds, 1)
	}
	return !t.called && !t.Verdict && t.tries >= least && a.round >= t.first+rounds
}

// forget drops what no case can be about any more.
func (a *Auditor) forget() {
	old := func(round uint64) bool { return round+Memory(a.cfg.Window) < a.round }
	for k, t := range a.tasks {
		if t.Until < a.round {
			delete(a.tasks, k)
		}
	}
	for k, round := range a.said {
		if old(round) {
			delete(a.said, k)
		}
	}
	for id, round := range a.ages {
		if old(round) {
			delete(a.ages, id)
			delete(a.depth, id)
		}
	}
}

package sim

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// Validators of this universe run the real audit.Auditor. What they look at is
// a model: a delta's block says which of its segments are faked (world.faked),
// and a replay costs time and yields a hash that nobody has without it.

const (
	segments     = 4
	stepsSegment = stepsPerRound / segments
)

// A lie is what a validator does instead of auditing.
type lie int

const (
	honestly   lie = iota
	passAll        // passes whatever its coin or a case asks for, unseen
	failAll        // finds everything wrong, also what its coin did not choose
	denyAll        // calls everything withheld
	copyAll        // passes with the work of another's verdict
	saysNone       // stakes, votes, and audits nothing
	shieldsBad     // passes what cheats did, finds the honest wrong
	saysLittle     // audits a third of its tasks, and says nothing about the rest
	hidesCoin      // audits nothing, and does not show its coin
	lies
)

var lieNames = [...]string{"audits", "passes all", "fails all", "denies all", "copies", "says nothing", "shields cheats", "says little", "hides its coin"}

// A cheat is what a trainer does instead of training.
type cheat int

const (
	trains   cheat = iota
	fakeAll        // no segment is what it says
	fakeOne        // the last one is not
	unserved       // it does not serve what audits need
	fakeRest       // the first one is, the others are not
	cheats
)

var cheatNames = [...]string{"trains", "fakes all", "fakes one segment", "serves nothing", "fakes all but the first"}

// coins are made once a process: a chain has 262,144 links. What they draw
// depends on the universe all the same, since the IDs of its messages do.
var coins = sync.OnceValue(func() (out []*audit.Coin) {
	for i := range 12 {
		out = append(out, audit.NewCoin([]byte{byte(i)}, wire.SumCID(wire.CodecRaw, nil)))
	}
	return out
})

func (p *peer) coin() *audit.Coin { return coins()[p.n%len(coins())] }

// fake says which segments of a delta are not what they should be, one bit each.
func (p *peer) fake(block wire.CID, steps uint64) {
	n := (steps-1)/stepsSegment + 1
	switch p.cheat {
	case fakeAll:
		p.w.faked[block] = 1<<n - 1
	case fakeRest:
		p.w.faked[block] = 1<<n - 2
	case fakeOne:
		p.w.faked[block] = 1 << (n - 1)
	}
}

// work is what only a replay of that segment yields, for one seed.
func work(block wire.CID, segment uint64, seed [32]byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte(block), segment)
	h := sha256.Sum256(append(b, seed[:]...))
	return h[:]
}

// startAuditor makes the auditor of a validator that starts, and tells it what
// the disk knows.
func (p *peer) startAuditor(chain []*diloco.Commit) {
	w := p.w
	p.auditor, p.auditing, p.replays, p.looked, p.asking = nil, 0, 0, map[wire.CID]bool{}, nil
	if p.role != "validator" {
		return
	}
	p.auditor = audit.NewAuditor(audit.Config{Self: p.id, Coin: p.coin(), Rate: w.cfg.AuditRate, Every: stepsSegment, Window: w.cfg.Window})
	for _, c := range chain {
		p.auditor.Adopted(c.Head(p.id))
		if id, err := c.CID(); err == nil {
			p.looked[id] = true
		}
	}
	for _, s := range p.journal {
		if m, err := w.open(&s); err == nil && s.Kind == wire.KindVerdict {
			if v := m.Body.(*diloco.Verdict); v.Finding != diloco.Withheld {
				p.auditor.Said(v.Subject, v.Segment, v.Round)
			}
		}
	}
	p.wakeAuditor()
}

// adoptedByAuditor tells the auditor of a new head, and first of the commits below it that
// it has not looked at: a peer may catch up by several at once.
func (p *peer) adoptedByAuditor(id wire.CID, c *diloco.Commit) {
	if p.auditor == nil || p.looked[id] {
		return
	}
	p.looked[id] = true
	if before := p.w.check.commits[c.Parent]; before != nil && p.commits[c.Parent] && before.Round+audit.Memory(p.w.cfg.Window) >= p.m.Status().Round {
		p.adoptedByAuditor(c.Parent, before)
	}
	h := c.Head(p.id)
	p.auditor.Adopted(h)
	if (p.lie == failAll || p.lie == denyAll || p.lie == shieldsBad) && h.Since > 0 {
		for _, x := range h.Works {
			if p.lie != shieldsBad || p.w.index[x.Peer].cheat == trains {
				p.auditor.Suspect(x, x.Round)
			}
		}
	}
	p.wakeAuditor()
	p.remind()
}

// asked is material that a validator asks for, since the first try.
type asked struct {
	subject wire.CID
	segment uint64
	from    wire.PeerID // who must serve it
	since   time.Duration
	running bool
	vain    bool // a try has failed, or takes long
}

// ask returns the entry of a task's material, or a new one.
func (p *peer) ask(t audit.Task, from wire.PeerID) *asked {
	for _, a := range p.asking {
		if a.subject == t.Subject && a.segment == t.Segment {
			return a
		}
	}
	a := &asked{subject: t.Subject, segment: t.Segment, from: from, since: p.w.now}
	p.asking = append(p.asking, a)
	return a
}

// remind is what a validator does with each head: what it has asked for in vain for long
// counts, whatever has become of single tries.
func (p *peer) remind() {
	p.asking = slices.DeleteFunc(p.asking, func(a *asked) bool {
		_, wanted := p.auditor.Current(a.subject, a.segment)
		return !wanted
	})
	for _, a := range p.asking {
		late := p.w.now-a.since >= audit.Asking
		a.vain = a.vain || late
		if a.running && late && p.auditor.Waits(a.subject, a.segment) {
			if t, ok := p.auditor.Current(a.subject, a.segment); ok {
				p.auditor.Called(a.subject, a.segment)
				p.w.after(0, p, func() { p.find(t, diloco.Withheld, nil) })
			}
		}
	}
}

// A validator looks for so many tasks' material at a time; it replays one after another. Those
// whose author does not serve do not count, up to maxAsked, so as not to keep it from its work.
const (
	atATime  = 4
	maxAsked = 16
)

// load is how many tasks under way count.
func (p *peer) load() int {
	n := p.auditing
	for _, a := range p.asking {
		if a.running && slices.ContainsFunc(p.asking, func(x *asked) bool { return x.vain && x.from == a.from }) {
			n--
		}
	}
	return n
}

// wakeAuditor begins with the next tasks.
func (p *peer) wakeAuditor() {
	for p.auditor != nil && p.load() < atATime && p.auditing < maxAsked && p.lie != saysNone && p.lie != hidesCoin {
		t, ok := p.auditor.Next(audit.ByCross)
		if !ok {
			return
		}
		if p.lie == saysLittle && t.Subject[len(t.Subject)-1]%3 > 0 {
			p.auditor.Said(t.Subject, t.Segment, t.Round)
			continue
		}
		p.auditing++
		p.w.after(p.w.between(0, time.Second), p, func() { p.audit(t, 0) })
	}
}

// audit carries out one task: it gets hold of the material and replays.
func (p *peer) audit(t audit.Task, tries int) {
	w := p.w
	if p.lie != honestly && p.lie != saysLittle {
		p.invent(t)
		return
	}
	d := w.subject(t.Subject)
	if d == nil { // it is told of commits only, so that somebody signed it
		w.violate("peer %d audits %s, which nobody has said", p.n, t.Subject.Short())
		return
	}
	a := p.ask(t, d.From)
	a.running = true
	from := []wire.PeerID{d.From}
	for _, q := range w.peers {
		if q.role == "validator" && q.id != d.From && q != p {
			from = append(from, q.id)
		}
	}
	block := d.Body.(*diloco.Delta).Block
	took, at := w.transfer(p, from, func(q *peer) bool { return q.has(block) && (q.cheat != unserved || q.role == "validator") })
	w.after(took, p, func() {
		switch {
		case at == nil && !p.has(block) && tries < 3:
			w.after(w.between(500*time.Millisecond, 2*time.Second), p, func() { p.audit(t, tries+1) })
		case at == nil && !p.has(block):
			p.auditing--
			a.running, a.vain = false, true
			if p.auditor.Failed(t.Subject, t.Segment, true) {
				p.auditor.Called(t.Subject, t.Segment)
				p.find(t, diloco.Withheld, nil)
			}
			p.wakeAuditor()
		default:
			p.asking = slices.DeleteFunc(p.asking, func(x *asked) bool { return x == a })
			p.traces[block] = t.Round
			p.replays = max(p.replays, w.now) + w.cfg.Train/(2*segments)
			w.after(p.replays-w.now, p, func() { p.replayed(t, block) })
		}
	})
}

func (p *peer) has(block wire.CID) bool {
	_, ok := p.traces[block]
	return ok
}

// replayed compares, once the segment was trained again.
func (p *peer) replayed(t audit.Task, block wire.CID) {
	p.auditing--
	p.w.report.Audits++
	f := diloco.Pass
	if t.Verdict {
		m := p.w.said[t.Subject]
		v := m.Body.(*diloco.Verdict)
		if !bytes.Equal(v.Work, work(block, v.Segment, audit.SeedOf(v.Coin, v.Subject, v.Segment, m.From))) {
			f = diloco.Wrong
		}
	} else if p.w.faked[block]>>t.Segment&1 == 1 {
		f = diloco.Wrong
	}
	p.auditor.Said(t.Subject, t.Segment, t.Round)
	p.find(t, f, work(block, t.Segment, t.Seed))
	p.wakeAuditor()
}

// find says what an audit has found.
func (p *peer) find(t audit.Task, f diloco.Finding, work []byte) {
	v := diloco.Verdict{Subject: t.Subject, Peer: t.Peer, Round: t.Round, Segment: t.Segment, Finding: f, Coin: t.Coin, Work: work}
	if f != diloco.Pass {
		b := append([]byte(t.Subject), p.id[:]...)
		v.Evidence = wire.SumCID(wire.CodecDagCBOR, binary.BigEndian.AppendUint64(b, t.Segment))
	}
	if l := p.w.cfg.Ledger; l != nil {
		v.Epoch, v.Receipt = l.Sign(p.n, wire.KindVerdict, v.Subject, 1, p.w.now)
	}
	p.step(diloco.Audited{Verdict: v})
}

// invent says what a liar says.
func (p *peer) invent(t audit.Task) {
	p.auditing--
	p.lied++
	own := sha256.Sum256(append([]byte(t.Subject), p.id[:]...))
	f := diloco.Pass
	switch p.lie {
	case failAll:
		f = diloco.Wrong
	case denyAll:
		f = diloco.Withheld
	case shieldsBad:
		if q := p.w.index[t.Peer]; q.cheat == trains && q.lie == honestly {
			f = diloco.Wrong
		}
	}
	p.auditor.Said(t.Subject, t.Segment, t.Round)
	if f == diloco.Withheld && t.Verdict {
		p.wakeAuditor()
		return // nobody would take it
	}
	invented := own[:]
	if p.lie == copyAll {
		for _, m := range p.w.verdictsOn(t.Subject, p) {
			invented = m.Body.(*diloco.Verdict).Work
		}
	}
	if f == diloco.Withheld {
		invented = nil
	}
	p.find(t, f, invented)
	p.wakeAuditor()
}

// subject finds the delta that a delta or verdict is about, by its ID.
func (w *world) subject(id wire.CID) *diloco.Message {
	for m := w.said[id]; m != nil; m = w.said[id] {
		v, ok := m.Body.(*diloco.Verdict)
		if !ok {
			return m
		}
		id = v.Subject
	}
	return nil
}

// verdictsOn returns passes on the same subject that p has heard of, in the order said.
func (w *world) verdictsOn(id wire.CID, p *peer) (out []*diloco.Message) {
	for _, m := range w.passes[id] {
		if m.From != p.id && p.known[&m.Sig[0]] {
			out = append(out, m)
		}
	}
	return out
}

// remember keeps what was signed, for audits.
func (w *world) remember(s *wire.Signed) {
	if w.cfg.AuditRate == 0 || s.Kind != wire.KindDelta && s.Kind != wire.KindVerdict {
		return
	}
	m, err := w.open(s)
	if err != nil {
		return
	}
	w.said[m.ID] = m
	if v, ok := m.Body.(*diloco.Verdict); ok && v.Finding == diloco.Pass {
		w.passes[v.Subject] = append(w.passes[v.Subject], m)
	}
}

// hide takes the coin out of a vote.
func (p *peer) hide(body []byte) []byte {
	var v diloco.Vote
	if err := wire.Unmarshal(body, &v); err != nil {
		p.w.violate("peer %d signs a vote that nobody takes: %v", p.n, err)
		return body
	}
	v.Coin = nil
	b, err := wire.Marshal(&v)
	if err != nil {
		p.w.violate("a vote without a coin: %v", err)
	}
	return b
}

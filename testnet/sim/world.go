// Package sim runs the very machines of package diloco by the hundred, in one
// goroutine and virtual time, under faults that a seed decides.
//
//	        ┌──────── events, by time, then by order ───────┐
//	        ▼                                               │
//	peer.shell ── event ─► diloco.Machine ── effects ─► peer.shell
//	        │                                               │
//	  journal, blocks, training            network: delay, loss, duplication,
//	  (kept across crashes)                partitions; crashes between effects
//
// The same Config gives the same trace, byte for byte. After every event the
// invariants of check.go are held against what the honest peers did. A Config
// whose run violates one can be shrunk to the faults that matter.
package sim

import (
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// Config is one universe. The zero value of a field is no fault.
type Config struct {
	Seed       uint64
	Peers      int           // those that start at the beginning
	MinPeers   int           // diloco.Config.MinPeers
	Stop       uint64        // the run's StopRound
	Deadline   time.Duration // default 60 s
	Train      time.Duration // a whole inner phase of an ordinary peer; default 20 s
	Leak       uint64        // LeakAfter
	Latency    time.Duration // between the farthest peers, one way; default 150 ms
	Loss       float64       // of messages, each receiver on its own
	Twice      float64       // of messages that arrive twice
	Fetch      float64       // of fetches that fail
	Pull       time.Duration // how often a peer whose head stands still asks another what it knows; default 10 s
	Observers  int           // of Peers, the last ones only follow
	Validators int           // of Peers, those before the observers audit
	AuditRate  uint64        // diloco.Config.AuditRate
	Window     uint64        // diloco.Config.AuditWindow; default 8
	Log        io.Writer     // what peers do, line by line; nil is nowhere
	Faults     []Fault
	Limit      time.Duration // of virtual time, after which what is missing is a violation; default by Stop and Faults

	Ledger Ledger // nil: nobody is paid

	JournalLate bool // planted bug: publish first, write the journal then
}

// A Ledger pays for the work of a universe. It is called in one goroutine.
type Ledger interface {
	// Peer is whom the n-th peer's key signs for.
	Peer(n int) wire.PeerID
	// Sign makes the n-th peer's receipt for a delta's block or a verdict's subject.
	Sign(n int, kind wire.Kind, subject wire.CID, units uint64, now time.Duration) (epoch uint64, receipt []byte)
	// Settle takes the final chain, genesis first, once all are done. convicted says
	// in which round a peer was (0: never), honest whether it did all that it should. Its
	// error is a violation.
	Settle(chain []*diloco.Commit, convicted func(wire.PeerID) uint64, honest func(wire.PeerID) bool) error
}

func (c Config) withDefaults() Config {
	if c.Deadline == 0 {
		c.Deadline = 60 * time.Second
	}
	if c.Train == 0 {
		c.Train = 20 * time.Second
	}
	if c.Latency == 0 {
		c.Latency = 150 * time.Millisecond
	}
	if c.Pull == 0 {
		c.Pull = 10 * time.Second
	}
	if c.MinPeers == 0 {
		c.MinPeers = (c.Peers-c.Validators)/2 + 1
	}
	if c.Window == 0 {
		c.Window = 8
	}
	if c.Leak == 0 {
		c.Leak = 8
	}
	if c.Limit == 0 {
		last := time.Duration(0)
		for _, f := range c.Faults {
			last = max(last, f.At, f.Until)
		}
		c.Limit = last + time.Duration(c.Stop+20)*c.Deadline
		c.Limit += time.Duration(c.Leak+20) * c.Deadline
		if c.AuditRate > 0 {
			c.Limit += time.Duration(audit.Memory(c.Window)) * c.Deadline // closing rounds
		}
	}
	return c
}

// A Report is what a run came to.
type Report struct {
	Events   int           // steps of machines
	Virtual  time.Duration // until all honest peers were done
	Rounds   uint64        // of the longest chain
	Weak     int           // weak commits in the final chain
	Merged   int           // deltas in the final chain
	Late     int           // of these, late ones
	Siblings int           // commits that lost against another of their round
	Messages int           // delivered
	Heal     uint64        // most rounds that it took, after a partition, until there was one chain
	Trace    string        // of all events, hex
	Rejected map[string]uint64

	Audits    int    // segments replayed by honest validators
	Verdicts  int    // in the final chain
	Convicted int    // by the final chain
	Silenced  int    // of these, for silence
	Owed      int    // audits that honest validators owed in the final chain
	Missed    int    // of these, not answered in time
	Account   uint64 // the highest account (diloco.Member.Missed) of an honest validator
	Removed   int    // for want of stake, in commits of any branch
	Caught    uint64 // most rounds from when an honest validator's coin chose a lie in the chain until its author was convicted
}

// A Violation is an invariant that did not hold.
type Violation struct {
	Seed uint64
	At   time.Duration
	What string
}

func (v *Violation) Error() string {
	return fmt.Sprintf("seed %d, at %v: %s", v.Seed, v.At.Round(time.Millisecond), v.What)
}

// world is one universe in motion.
type world struct {
	cfg   Config
	now   time.Duration
	start time.Time
	rng   *rand.Rand
	queue queue
	seq   uint64
	peers []*peer
	index map[wire.PeerID]*peer
	run   wire.CID
	trace hash.Hash
	buf   []byte

	faked   map[wire.CID]uint64            // segments of a delta that are not what they should be, by block
	said    map[wire.CID]*diloco.Message   // deltas and verdicts, by ID
	passes  map[wire.CID][]*diloco.Message // by subject
	genesis *diloco.Commit
	opened  map[*byte]*diloco.Message // by the signature's first byte
	groups  []int                     // of the partition now, by peer; nil is none
	loss    float64
	check   checker
	report  Report
	failed  *Violation
}

// item is something that happens: to is nil for what happens to the world.
type item struct {
	at    time.Duration
	seq   uint64
	to    *peer
	life  int // of to; what was under way in an earlier life is lost
	ev    diloco.Event
	wake  bool
	do    func()
	label byte
}

type queue []*item

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].at != q[j].at {
		return q[i].at < q[j].at
	}
	return q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*item)) }
func (q *queue) Pop() any {
	o := *q
	n := len(o) - 1
	x := o[n]
	o[n] = nil
	*q = o[:n]
	return x
}

// Run runs one universe to its end. The error is a *Violation.
func Run(cfg Config) (*Report, error) {
	w := newWorld(cfg.withDefaults())
	w.loop()
	w.report.Virtual = w.now
	w.report.Trace = fmt.Sprintf("%x", w.trace.Sum(nil)[:8])
	w.collect()
	if w.failed != nil {
		return &w.report, w.failed
	}
	return &w.report, nil
}

func (w *world) loop() {
	for w.failed == nil && len(w.queue) > 0 && !w.allDone() {
		it := heap.Pop(&w.queue).(*item)
		if it.at > w.cfg.Limit {
			w.now = w.cfg.Limit
			w.check.stalled(w)
			break
		}
		w.now = it.at
		w.happen(it)
	}
	if w.failed == nil && !w.allDone() {
		w.check.stalled(w)
	}
	if w.failed == nil {
		w.check.end(w)
	}
}

func newWorld(cfg Config) *world {
	w := &world{
		cfg: cfg, start: time.Unix(1_800_000_000, 0), rng: rand.New(rand.NewPCG(cfg.Seed, 0x5ea1)),
		index: map[wire.PeerID]*peer{}, trace: sha256.New(), opened: map[*byte]*diloco.Message{}, loss: cfg.Loss,
		faked: map[wire.CID]uint64{}, said: map[wire.CID]*diloco.Message{}, passes: map[wire.CID][]*diloco.Message{},
	}
	w.run = wire.SumCID(wire.CodecDagCBOR, binary.BigEndian.AppendUint64(nil, cfg.Seed))
	w.genesis = &diloco.Commit{Version: 1, Run: w.run, State: wire.SumCID(wire.CodecDagPB, []byte("genesis"))}
	w.check.init(w)
	all := cfg.Peers
	for _, f := range cfg.Faults {
		for _, n := range f.Peers {
			all = max(all, n+1)
		}
	}
	for i := range all {
		p := w.newPeer(i)
		if i < cfg.Peers {
			w.after(time.Duration(w.rng.Int64N(int64(2*time.Second))), p, p.boot)
		}
	}
	for _, f := range cfg.Faults {
		w.schedule(f)
	}
	return w
}

// after lets something happen later, to a peer in its present life, or, where
// p is nil, in any case.
func (w *world) after(d time.Duration, p *peer, do func()) {
	it := &item{at: w.now + d, to: p, do: do}
	if p != nil {
		it.life = p.life
	}
	w.push(it)
}

func (w *world) push(it *item) {
	w.seq++
	it.seq = w.seq
	heap.Push(&w.queue, it)
}

// deliver brings an event to p.
func (w *world) deliver(d time.Duration, p *peer, ev diloco.Event) {
	w.push(&item{at: w.now + d, to: p, life: p.life, ev: ev})
}

// happen lets one thing happen and checks the invariants that it touches.
func (w *world) happen(it *item) {
	if it.to != nil && it.life != it.to.life {
		return // it crashed meanwhile
	}
	switch {
	case it.do != nil:
		it.do()
	case it.wake:
		if it.to.wakeAt == it.at {
			it.to.wakeAt = -1
			it.to.step(diloco.Tick{})
		}
	default:
		it.to.step(it.ev)
	}
}

// note adds to the trace.
func (w *world) note(p *peer, what string, id wire.CID) {
	b := binary.BigEndian.AppendUint64(w.buf[:0], uint64(w.now))
	b = binary.BigEndian.AppendUint16(b, uint16(p.n))
	b = append(b, what...)
	b = append(b, id...)
	w.buf = b
	w.trace.Write(b)
}

func (w *world) time() time.Time { return w.start.Add(w.now) }

// between returns a random duration in [lo, hi).
func (w *world) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// delay is one way from a to b: their distance, and something on top.
func (w *world) delay(a, b *peer) time.Duration {
	dx, dy := a.x-b.x, a.y-b.y
	if dx < 0 {
		dx = -dx
	}
	if dy < 0 {
		dy = -dy
	}
	base := time.Millisecond + time.Duration(float64(w.cfg.Latency)*(dx+dy)/2)
	return base + time.Duration(w.rng.ExpFloat64()*float64(base)/8)
}

// reach reports whether a and b can talk.
func (w *world) reach(a, b *peer) bool {
	return b.up() && (w.groups == nil || w.groups[a.n] == w.groups[b.n])
}

// open is diloco.Config.Open with a memory: the same envelope is decoded once.
func (w *world) open(s *wire.Signed) (*diloco.Message, error) {
	if len(s.Sig) == 0 {
		return diloco.Open(s)
	}
	key := &s.Sig[0]
	if m := w.opened[key]; m != nil {
		return m, nil
	}
	m, err := diloco.Open(s)
	if err == nil {
		w.opened[key] = m
	}
	return m, err
}

// allDone reports whether every honest peer that is to take part to the end has.
func (w *world) allDone() bool {
	for _, p := range w.peers {
		if p.honest && p.started && !p.gone && !p.done {
			return false
		}
	}
	return w.check.doneID.Defined()
}

// collect completes the report.
func (w *world) collect() {
	w.report.Rejected = map[string]uint64{}
	for _, p := range w.peers {
		if p.m == nil {
			continue
		}
		for k, n := range p.m.Status().Rejected {
			w.report.Rejected[k] += n
		}
	}
	w.check.collect(&w.report)
}

func (w *world) violate(format string, args ...any) {
	if w.failed == nil {
		w.failed = &Violation{w.cfg.Seed, w.now, fmt.Sprintf(format, args...)}
	}
}

package block

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Constants of the schedule. Times are short against a block's transfer over a
// home line (1 MiB at 20 Mbit/s: 0.42 s) and long against scheduling noise.
const (
	assumedRate = 2 << 20                // bytes/s of a provider nothing is known of
	assumedRTT  = 150 * time.Millisecond // of a provider that was not pinged yet
	lead        = 200 * time.Millisecond // keep this much work, plus two round trips, at each provider
	maxInFlight = 16 << 20               // bytes in flight at one provider
	maxAsks     = 512                    // and blocks; boxo's server queues 1,024 per peer
	rateMemory  = 2 * time.Second        // time constant of the rate's average
	rateSample  = 512 << 10              // bytes after which a rate counts as known
	stallMin    = 2 * time.Second
	stallNew    = 5 * time.Second // for a provider of unknown rate
	stallMax    = 10 * time.Second
	stallFactor = 4 // times the expected time of one block
	lostFactor  = 8 // times the bytes asked for that came, of other transfers, too, until it is taken for lost
	maxStrikes  = 3 // stalls in a row until a provider is given up
	lacksFor    = 5 * time.Second
	leafGuess   = chunkSize // size of a raw block of which nothing is known
	nodeGuess   = 64 << 10
	scanQueue   = 512 // entries of the queue looked at in one decision
)

// sched decides which provider is asked for which block. It is a value without
// goroutines, clock or I/O: the fetch that owns it tells it what arrived and
// asks it what to request.
//
// A provider is kept busy by time, not by count: it is asked for another block
// when what is in flight would be there within lead and two round trips at its
// measured rate. That is one or two blocks at a home line and many megabytes
// on a local network, and since blocks are asked for one at a time as others
// come in, they do not arrive in bunches with pauses between.
//
// A provider takes a block only if it would have it before the whole fetch
// ends at the sum of all rates, or nearly as soon as the quickest provider
// would. This keeps the last blocks from slow lines. When nothing is left to
// ask for, idle providers double what others are late with (the end game); the
// first copy wins and the other request is cancelled.
//
// Progress is counted in bytes off the wire, not blocks, so that a slow line is
// told from a dead one: a provider stalls only when no byte came for several
// times what one block should take. The bytes are of all transfers, so an answer is
// also missed when many times what was asked for came, and it did not.
type sched struct {
	peers map[wire.PeerID]*source
	order []*source // by time of joining, so that decisions do not depend on map order
	wants map[wire.CID]*want
	queue []*want // not in flight anywhere, by seq
	bytes int64   // sum of the sizes in queue
	seq   int
}

// want is a block that is not here yet.
type want struct {
	cid    wire.CID
	size   int64 // bytes, known or guessed
	seq    int
	queued bool
	asks   []*ask
	lacks  map[wire.PeerID]time.Time // who does not have it, as of when
}

// ask is one request in flight.
type ask struct {
	w    *want
	p    *source
	at   time.Time
	seen uint64 // bytes that had come from p then
	due  int64  // and how many it was asked for, this included
}

// state of a source.
type state int

const (
	dialing state = iota // may become ready or gone
	ready                // can be asked
	gone                 // disconnected or failed; may come back
	dead                 // given up: stalled or lied too often
)

// source is a provider as one fetch sees it.
type source struct {
	id    wire.PeerID
	state state
	asks  []*ask // oldest first
	bytes int64  // sum of the sizes in asks

	rtt      time.Duration
	rateB    float64 // bytes and seconds, both fading with rateMemory
	rateT    float64
	sampled  int64     // bytes that the rate was made of
	seen     uint64    // byte counter at the last progress call
	at       time.Time // of the last progress call
	partial  int64     // bytes that arrived of what is in flight
	last     time.Time // last byte, or when the first of asks was sent
	strikes  int
	redials  int
	penalty  time.Time // no asks before
	answered bool      // it ever sent a block or said that it lacks one
	got      int64     // bytes of blocks wanted
}

// order is what to tell one provider.
type order struct {
	to     wire.PeerID
	ask    []wire.CID
	prio   []int32
	cancel []wire.CID
}

func newSched() *sched {
	return &sched{peers: map[wire.PeerID]*source{}, wants: map[wire.CID]*want{}}
}

// add queues a block of about size bytes.
func (s *sched) add(c wire.CID, size int64) {
	if s.wants[c] != nil {
		return
	}
	w := &want{cid: c, size: max(1, size), seq: s.seq, lacks: map[wire.PeerID]time.Time{}}
	s.seq++
	s.wants[c] = w
	s.enqueue(w)
}

// enqueue puts a want into the queue at its place.
func (s *sched) enqueue(w *want) {
	if w.queued {
		return
	}
	w.queued = true
	s.bytes += w.size
	s.queue = slices.Insert(s.queue, s.place(w), w)
}

func (s *sched) dequeue(w *want) {
	if !w.queued {
		return
	}
	w.queued = false
	s.bytes -= w.size
	i := s.place(w)
	s.queue = slices.Delete(s.queue, i, i+1)
}

// place is w's index in the queue.
func (s *sched) place(w *want) int {
	i, _ := slices.BinarySearchFunc(s.queue, w, func(a, b *want) int { return cmp.Compare(a.seq, b.seq) })
	return i
}

// addSource makes a provider known, with the rate (bytes/s) remembered of it or
// 0. It reports whether the provider is new or may be dialled again.
func (s *sched) addSource(p wire.PeerID, rate float64, seen uint64, now time.Time) bool {
	if x := s.peers[p]; x != nil {
		if x.state != gone {
			return false
		}
		x.state = dialing
		return true
	}
	x := &source{id: p, seen: seen, at: now}
	if rate > 0 {
		x.rateB, x.rateT, x.sampled = rate/2, 0.5, rateSample // half a second's worth: soon overruled by what is measured
	}
	s.peers[p] = x
	s.order = append(s.order, x)
	return true
}

func (s *sched) setReady(p wire.PeerID, seen uint64, now time.Time) {
	if x := s.peers[p]; x != nil && x.state == dialing {
		x.state, x.seen, x.at, x.last = ready, seen, now, now
	}
}

// progress tells how many bytes came from p since it exists.
func (s *sched) progress(x *source, total uint64, now time.Time) {
	d := float64(total - x.seen)
	dt := now.Sub(x.at).Seconds()
	x.seen = total
	if len(x.asks) == 0 {
		x.at = now
		return
	}
	if dt <= 0 && d == 0 { // the first answer is on its way
		return
	}
	x.at, dt = now, max(dt, 0)
	fade := math.Exp(-dt / rateMemory.Seconds())
	x.rateB, x.rateT = x.rateB*fade+d, x.rateT*fade+dt
	x.partial += int64(d)
	x.sampled += int64(d)
	if d > 0 {
		x.last = now
	}
}

// rate is what p delivers in bytes/s, assumed while nothing was measured.
func (x *source) rate() float64 {
	if !x.known() {
		return assumedRate
	}
	return max(1, x.rateB/x.rateT)
}

func (x *source) known() bool { return x.sampled >= rateSample && x.rateT > 0 }

func (x *source) rtts() float64 {
	if x.rtt <= 0 {
		return assumedRTT.Seconds()
	}
	return x.rtt.Seconds()
}

// left is the time in seconds until what is in flight at p plus more bytes
// should have arrived.
func (x *source) left(more int64) float64 {
	return float64(max(0, x.bytes-x.partial)+more) / x.rate()
}

// received notes that p sent the whole block c of n bytes. It returns whether
// it was still wanted, and what to cancel elsewhere.
func (s *sched) received(p wire.PeerID, c wire.CID, n int64, now time.Time) (bool, []order) {
	x := s.peers[p]
	if x != nil {
		x.answered = true
		x.strikes, x.penalty = 0, time.Time{}
		x.last = now
		x.partial = max(0, x.partial-n)
	}
	w := s.wants[c]
	if w == nil {
		return false, nil
	}
	if x != nil {
		x.got += n
	}
	var cancels []order
	for _, a := range slices.Clone(w.asks) {
		s.unask(a)
		if a.p != x && a.p.state == ready {
			cancels = append(cancels, order{to: a.p.id, cancel: []wire.CID{c}})
		}
	}
	s.remove(w)
	return true, cancels
}

// remove forgets a want.
func (s *sched) remove(w *want) {
	delete(s.wants, w.cid)
	s.dequeue(w)
}

// unask takes one request out of flight.
func (s *sched) unask(a *ask) {
	a.w.asks = slices.DeleteFunc(a.w.asks, func(b *ask) bool { return a == b })
	a.p.asks = slices.DeleteFunc(a.p.asks, func(b *ask) bool { return a == b })
	a.p.bytes -= a.w.size
	if len(a.p.asks) == 0 {
		a.p.bytes, a.p.partial = 0, 0
	}
}

// lacks notes that p does not have c.
func (s *sched) lacks(p wire.PeerID, c wire.CID, now time.Time) {
	x, w := s.peers[p], s.wants[c]
	if x == nil {
		return
	}
	x.answered, x.last = true, now
	if w == nil {
		return
	}
	w.lacks[p] = now
	for _, a := range slices.Clone(w.asks) {
		if a.p == x {
			s.unask(a)
		}
	}
	if len(w.asks) == 0 {
		s.enqueue(w)
	}
}

// drop gives back what p was asked for. A source that is gone may return.
func (s *sched) drop(p wire.PeerID, to state) {
	x := s.peers[p]
	if x == nil || x.state == dead {
		return
	}
	x.state = to
	s.giveBack(x)
}

func (s *sched) giveBack(x *source) {
	for _, a := range slices.Clone(x.asks) {
		s.unask(a)
		if len(a.w.asks) == 0 {
			s.enqueue(a.w)
		}
	}
}

// stalls finds providers from which no byte came for too long, gives their
// work to others, and returns what to cancel and who is now given up.
func (s *sched) stalls(now time.Time) (cancels []order, lost []wire.PeerID) {
	for _, x := range s.order {
		if x.state != ready || len(x.asks) == 0 {
			continue
		}
		limit := stallNew
		if !s.replaceable(x, now) {
			limit = stallMax
		} else if x.known() {
			per := float64(x.asks[0].w.size) / x.rate()
			limit = time.Duration((stallFactor*per + 2*x.rtts()) * float64(time.Second))
			limit = min(max(limit, stallMin), stallMax)
		}
		oldest := x.asks[0]
		missed := now.Sub(oldest.at) >= stallMax && int64(x.seen-oldest.seen) >= lostFactor*oldest.due
		if now.Sub(x.last) < limit && !missed {
			continue
		}
		x.strikes++
		o := order{to: x.id}
		for _, a := range x.asks {
			o.cancel = append(o.cancel, a.w.cid)
		}
		cancels = append(cancels, o)
		s.giveBack(x)
		x.penalty = now.Add(time.Duration(x.strikes) * 2 * time.Second)
		if x.strikes >= maxStrikes {
			x.state = dead
			lost = append(lost, x.id)
		}
	}
	return cancels, lost
}

// replaceable reports whether another provider could take over from x.
func (s *sched) replaceable(x *source, now time.Time) bool {
	return slices.ContainsFunc(s.order, func(y *source) bool {
		return y != x && y.serves(x.asks[0].w, now) && !now.Before(y.penalty)
	})
}

// serves reports whether p may be asked for w.
func (x *source) serves(w *want, now time.Time) bool {
	if t, lacks := w.lacks[x.id]; lacks && now.Sub(t) < lacksFor {
		return false
	}
	return x.state == ready && !slices.ContainsFunc(w.asks, func(a *ask) bool { return a.p == x })
}

// hopeless returns a wanted block that no provider, ready or on its way, can
// be asked for, and whether there is nothing else to do.
func (s *sched) hopeless(now time.Time) (c wire.CID, some, all bool) {
	all = true
	for _, x := range s.order {
		if x.state == dialing {
			return "", false, false
		}
		all = all && len(x.asks) == 0
	}
	for _, w := range s.queue[:min(len(s.queue), scanQueue)] {
		if slices.ContainsFunc(s.order, func(x *source) bool { return x.serves(w, now) }) {
			all = false
		} else if !some {
			c, some = w.cid, true
		}
	}
	return c, some, some && all
}

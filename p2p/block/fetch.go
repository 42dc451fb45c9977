package block

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/wire"
)

const (
	tick        = 100 * time.Millisecond
	maxSources  = 12               // providers of one fetch at a time
	writers     = 4                // blocks written at once: each waits for an fsync
	maxUnsaved  = 32 << 20         // bytes received and not on disk; above, nothing is asked for
	searchAgain = 30 * time.Second // look for more providers during long fetches
	searchTime  = 20 * time.Second
	maxRedials  = 2           // after a lost connection
	hedge       = time.Second // without a byte from the likeliest provider, until the next is let in
)

// emptyLeaf is the file of no bytes.
var emptyLeaf = wire.SumCID(wire.CodecRaw, nil)

// fetched is a block as it came in.
type fetched struct {
	cid  wire.CID
	data []byte
	late bool // it is in the store already, and counted as a duplicate
}

// saved is a block that a writer is done with.
type saved struct {
	bytes int64
	err   error
}

type eventKind int

const (
	evMessage   eventKind = iota // blocks and "don't have"s
	evGone                       // the connection is lost
	evConnected                  // and there again
	evReady                      // a link can be used
	evFailed                     // a link cannot be used any more
	evRTT                        // a ping has returned
	evFound                      // a search for providers has ended
)

// event is what a fetch's loop is told.
type event struct {
	kind   eventKind
	peer   wire.PeerID
	link   *conn
	blocks []fetched
	lacks  []wire.CID
	bad    bool // peer floods us
	rtt    time.Duration
	found  []wire.PeerID
	search bool // found comes from our own search
	err    error
}

// fetch is one transfer. run's goroutine, the caller's, owns everything but
// the channels.
type fetch struct {
	x        *Exchange
	root     wire.CID
	plan     *plan
	progress func(done, total int64)

	events  chan event
	written chan saved
	stop    context.CancelFunc
	ctx     context.Context
	wg      sync.WaitGroup // links, writers, searches

	sched    *sched
	links    map[wire.PeerID]*conn
	counters map[wire.PeerID]*atomic.Uint64
	owed     map[wire.PeerID]map[wire.CID]bool // asked and neither sent nor cancelled: peers send later what they lack now
	spare    []wire.PeerID                     // providers to use when others fail
	tried    map[wire.PeerID]bool
	failed   int // providers that could not be reached
	held     []hash
	unsaved  int64 // bytes in backlog and with writers
	backlog  []fetched
	writing  int
	done     int64 // bytes of the DAG that are stored
	only     []byte
	width    int       // providers in use at a time, at most
	widened  time.Time // when width last rose, or the fetch began
	searched time.Time // when the last search began, or the fetch
	searches int
	looking  bool // a search is under way
}

// Fetch returns the block c of at most limit bytes, from the store or else from
// one of the peers in from, from connected peers if from is empty, or from
// providers that a search finds. It is in the store then, not pinned. When no
// peer has it, the error is ErrUnavailable; trying again is the caller's
// decision.
//
// The peers in from are asked in turn, the likeliest first: the next one when
// those before lack the block, or are silent for a second. What has just been
// made is at one peer only, and the others, who fetch it at the same time,
// would have to be asked in vain.
func (x *Exchange) Fetch(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64) ([]byte, error) {
	f, err := x.fetch(ctx, c, oneBlock, from, limit, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch block: %w", err)
	}
	return f.only, nil
}

// FetchFile returns a file of at most limit bytes, and keeps its blocks in the
// store, not pinned. Its root is asked for as Fetch does; what that links to, of
// many peers at once, in random order.
func (x *Exchange) FetchFile(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64) ([]byte, error) {
	for try := 0; ; try++ {
		if _, err := x.fetch(ctx, c, aFile, from, limit, nil); err != nil {
			return nil, fmt.Errorf("fetch file: %w", err)
		}
		data, err := x.store.GetFile(ctx, c, limit)
		if errors.Is(err, ErrNotFound) && try < 2 { // went bad on disk or was collected since
			continue
		}
		return data, err
	}
}

// FetchDir brings a directory with at most limit bytes of files into the store.
// Blocks that are there already are checked and not fetched again, so that a
// fetch that was interrupted goes on where it was. All peers in from are asked
// at once, in random order. progress, if not nil, is called with the bytes that are stored and an estimate of all, from the
// calling goroutine. Pin the root soon after.
func (x *Exchange) FetchDir(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64, progress func(done, total int64)) error {
	if _, err := x.fetch(ctx, c, aDir, from, limit, progress); err != nil {
		return fmt.Errorf("fetch directory: %w", err)
	}
	return nil
}

// AddProviders names further peers to the fetches of root that are under way.
func (x *Exchange) AddProviders(root wire.CID, peers ...wire.PeerID) {
	x.mu.Lock()
	fs := x.fetchesLocked()
	x.mu.Unlock()
	for _, f := range fs {
		if f.root == root {
			f.post(event{kind: evFound, found: peers})
		}
	}
}

func (x *Exchange) fetch(ctx context.Context, c wire.CID, shape shape, from []wire.PeerID, limit int64, progress func(done, total int64)) (*fetch, error) {
	p, err := newPlan(c, shape, limit)
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	f := &fetch{
		x: x, root: c, plan: p, progress: progress,
		events: make(chan event, 256), written: make(chan saved, writers),
		sched: newSched(), links: map[wire.PeerID]*conn{}, counters: map[wire.PeerID]*atomic.Uint64{},
		tried: map[wire.PeerID]bool{}, owed: map[wire.PeerID]map[wire.CID]bool{},
	}
	f.ctx, f.stop = context.WithCancel(ctx)
	defer f.stop()
	defer func() { x.store.release(f.held...) }()
	if err := f.meet(c); err != nil {
		return nil, err
	}
	if len(f.sched.wants) > 0 {
		if err := x.begin(ctx, f); err != nil {
			return nil, err
		}
		err = f.run(from)
		f.close()
		x.finish(f)
		if err != nil {
			return nil, err
		}
	}
	f.progress(f.done, f.done)
	return f, nil
}

// meet looks for c in the store, and for what it links to if it is there;
// what is not becomes wanted.
func (f *fetch) meet(c wire.CID) error {
	stack := []wire.CID{c}
	for len(stack) > 0 {
		c := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		h, err := hashOf(c)
		if err != nil {
			return err
		}
		f.x.store.hold(h)
		f.held = append(f.held, h)
		data, err := f.x.store.Get(f.ctx, c)
		if errors.Is(err, ErrNotFound) && c == emptyLeaf { // boxo's server denies having it
			data, err = nil, f.x.store.putVerified(f.ctx, c, nil)
		}
		if errors.Is(err, ErrNotFound) {
			f.sched.add(c, f.plan.seen[c].guess)
			continue
		} else if err != nil {
			return err
		}
		fresh, err := f.accept(c, data)
		if err != nil {
			return err
		}
		f.count(int64(len(data)))
		for _, k := range slices.Backward(fresh) {
			stack = append(stack, k)
		}
	}
	return nil
}

// accept takes a block whose hash matches into the plan.
func (f *fetch) accept(c wire.CID, data []byte) ([]wire.CID, error) {
	if f.plan.shape == oneBlock {
		f.only = data
	}
	return f.plan.arrived(c, data)
}

func (f *fetch) count(n int64) {
	f.done += n
	f.progress(f.done, max(f.done, f.plan.total))
}

// post hands an event to the loop, unless it has ended.
func (f *fetch) post(ev event) {
	select {
	case f.events <- ev:
	case <-f.ctx.Done():
	}
}

// run fetches what is wanted.
func (f *fetch) run(from []wire.PeerID) error {
	named := len(from) > 0
	if !named {
		for _, p := range f.x.host.Network().Peers() {
			if w, err := p2p.ToWire(p); err == nil {
				from = append(from, w)
			}
		}
	}
	f.width, f.searched, f.widened = maxSources, time.Now(), time.Now()
	if named && f.plan.shape != aDir {
		f.width = 1
	}
	f.addSpare(from)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for len(f.sched.wants) > 0 || f.unsaved > 0 {
		if err := f.advance(time.Now()); err != nil {
			return err
		}
		select {
		case ev := <-f.events:
			if err := f.handle(ev, time.Now()); err != nil {
				return err
			}
		case w := <-f.written:
			if w.err != nil {
				return w.err
			}
			f.writing--
			f.unsaved -= w.bytes
			f.count(w.bytes)
			f.write()
		case <-ticker.C:
		case <-f.ctx.Done():
			return f.ctx.Err()
		case <-f.x.ended:
			return errEnded
		}
	}
	return nil
}

// advance does what the present state calls for.
func (f *fetch) advance(now time.Time) error {
	for _, x := range f.sched.order {
		if n := f.counters[x.id]; n != nil {
			f.sched.progress(x, n.Load(), now)
		}
	}
	cancels, lost := f.sched.stalls(now)
	f.send(cancels)
	for _, p := range lost {
		f.x.shun(p, time.Minute)
		f.unlink(p)
	}
	f.widen(now)
	f.topUp(now)
	if err := f.outlook(now); err != nil {
		return err
	}
	if f.unsaved >= maxUnsaved {
		return nil
	}
	budget := int64(maxInFlight) * maxSources
	limited := f.x.down.Limit() != rate.Inf
	if limited {
		budget = int64(f.x.down.TokensAt(now))
	}
	orders, spent := f.sched.next(now, budget)
	if limited && spent > 0 {
		f.x.down.ReserveN(now, int(min(spent, MaxBlock)))
	}
	f.send(orders)
	return nil
}

// handle takes in one event.
func (f *fetch) handle(ev event, now time.Time) error {
	switch ev.kind {
	case evMessage:
		return f.message(ev, now)
	case evGone:
		if f.links[ev.peer] != nil {
			f.sched.drop(ev.peer, gone)
			f.unlink(ev.peer)
			delete(f.owed, ev.peer)
			if x := f.sched.peers[ev.peer]; x.redials < maxRedials { // a short break in the line?
				x.redials++
				f.spare = append(f.spare, ev.peer)
			}
		}
	case evConnected:
		if x := f.sched.peers[ev.peer]; x != nil && x.state == gone {
			f.spare = append(f.spare, ev.peer)
		}
	case evReady:
		if f.links[ev.peer] == ev.link {
			f.sched.setReady(ev.peer, f.counters[ev.peer].Load(), now)
		}
	case evFailed:
		if f.links[ev.peer] == ev.link {
			f.failed++
			f.x.log.Debug("provider failed", "peer", ev.peer.Short(), "err", ev.err)
			f.sched.drop(ev.peer, gone)
			f.unlink(ev.peer)
		}
	case evRTT:
		if x := f.sched.peers[ev.peer]; x != nil {
			x.rtt = ev.rtt
		}
	case evFound:
		if ev.search {
			f.looking = false
		}
		f.addSpare(ev.found)
	}
	return nil
}

// message takes in what a provider sent.
func (f *fetch) message(ev event, now time.Time) error {
	if x := f.sched.peers[ev.peer]; x != nil {
		f.sched.progress(x, f.counters[ev.peer].Load(), now)
	}
	for _, b := range ev.blocks {
		delete(f.owed[ev.peer], b.cid)
		if len(b.data) > MaxBlock {
			return fmt.Errorf("block %s has %d bytes: %w of %d", b.cid, len(b.data), ErrTooLarge, MaxBlock)
		}
		wanted, cancels := f.sched.received(ev.peer, b.cid, int64(len(b.data)), now)
		if !wanted {
			if f.plan.seen[b.cid] != nil && !b.late {
				f.x.countDuplicate(len(b.data))
			}
			continue
		}
		f.x.countBlock(len(b.data))
		f.send(cancels)
		f.send(f.owing(b.cid))
		fresh, err := f.accept(b.cid, b.data)
		if err != nil {
			return err
		}
		f.unsaved += int64(len(b.data))
		f.backlog = append(f.backlog, b)
		if f.plan.shape == aFile { // of those who fetch it now, each soon has another part for the others
			rand.Shuffle(len(fresh), func(i, j int) { fresh[i], fresh[j] = fresh[j], fresh[i] })
		}
		for _, c := range fresh {
			if err := f.meet(c); err != nil {
				return err
			}
		}
	}
	f.write()
	forget := order{to: ev.peer}
	for _, c := range ev.lacks {
		f.sched.lacks(ev.peer, c, now)
		// Of a directory, who lacks a block now may send it when it comes by. A
		// single one is sooner had from who has it, and would then come twice.
		if f.plan.shape != aDir && f.owed[ev.peer][c] {
			forget.cancel = append(forget.cancel, c)
		}
		if w := f.sched.wants[c]; w != nil && len(w.asks) > 0 && f.width < maxSources {
			f.width++ // it was asked in place of a silent one: so is the next
		}
	}
	f.send([]order{forget})
	if ev.bad {
		f.sched.drop(ev.peer, dead)
		f.unlink(ev.peer)
	}
	return nil
}

// write keeps up to writers blocks on their way to the disk.
func (f *fetch) write() {
	for f.writing < writers && len(f.backlog) > 0 {
		b := f.backlog[0]
		f.backlog = f.backlog[1:]
		f.writing++
		f.wg.Go(func() {
			err := f.x.store.putVerified(f.ctx, b.cid, b.data)
			select {
			case f.written <- saved{int64(len(b.data)), err}:
			case <-f.ctx.Done():
			}
		})
	}
}

// close ends everything that the fetch began and tells providers to forget
// what they still owe.
func (f *fetch) close() {
	for _, x := range f.sched.order {
		if x.known() {
			f.x.rememberRate(x.id, x.rate())
		}
	}
	for p := range f.links {
		f.unlink(p)
	}
	f.stop()
	f.wg.Wait()
	for p, cs := range f.owed {
		f.x.cancel(f, p, slices.Collect(maps.Keys(cs)))
	}
}

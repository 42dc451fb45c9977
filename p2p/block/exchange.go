package block

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	bsmsg "github.com/ipfs/boxo/bitswap/message"
	bsnetwork "github.com/ipfs/boxo/bitswap/network"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/bitswap/server"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/wire"
)

// ErrUnavailable says that no provider has a wanted block.
var ErrUnavailable = errors.New("no peer that was asked has the block")

// Policy says whether a peer may have a block. It is called for each request,
// by several goroutines. The zero PeerID stands for peers that are not of our
// kind (their key is not secp256k1): ordinary IPFS clients. A nil Policy
// serves everything to everybody.
type Policy func(p wire.PeerID, c wire.CID) bool

// outstanding is how many bytes boxo's server has under way to one peer; its
// default of 1 MiB leaves a long line idle.
const outstanding = 4 << 20

// Limits on what a peer may send that nobody asked for before it is shunned.
const (
	maxUnaskedBlocks = 16
	maxUnaskedBytes  = 8 << 20
	shunFor          = 10 * time.Minute
	rememberAsks     = 2 * time.Minute // an answer may cross a cancel
)

// ExchangeStats counts blocks and bytes since the exchange was made.
type ExchangeStats struct {
	Blocks     uint64 `json:"blocks"`     // fetched
	Bytes      uint64 `json:"bytes"`      // of fetched blocks
	Duplicates uint64 `json:"duplicates"` // blocks that came twice
	DupBytes   uint64 `json:"dup_bytes"`
	Unasked    uint64 `json:"unasked"` // blocks that nobody had asked for
	Stalls     uint64 `json:"stalls"`  // providers given up because nothing came
	Sent       uint64 `json:"sent"`    // bytes of blocks served
}

// An Exchange serves a Store's blocks and fetches missing ones. It is safe for
// concurrent use.
type Exchange struct {
	store *Store
	host  host.Host
	net   bsnetwork.BitSwapNetwork
	allow Policy
	find  func(ctx context.Context, c wire.CID, n int) ([]wire.PeerID, error) // nil: no search
	log   *slog.Logger
	in    *counts
	up    *rate.Limiter
	down  *rate.Limiter
	sent  atomic.Uint64
	onBad atomic.Pointer[func(wire.PeerID, string)]

	started chan struct{} // closed when Run has started the network
	ended   chan struct{} // closed when Run is about to return

	mu      sync.Mutex // guards following
	running bool
	fetches map[*fetch]struct{}
	wg      sync.WaitGroup // of fetches
	records map[peer.ID]*record
	stats   ExchangeStats
}

// record is what the exchange remembers of a provider between fetches.
type record struct {
	rate       float64             // bytes/s when last used, 0 if unknown
	used       time.Time           // when last asked
	asked      map[cid.Cid]*asking // asked and not answered yet, or cancelled
	unasked    int                 // blocks that it sent unasked, and their bytes
	unaskedLen int
	shunned    time.Time     // not to be used before, unless there is nobody else
	links      chan struct{} // holds one for each link to it
}

// asking is one block that was asked of a peer. Peers keep one want per block
// and asker, whichever fetch it is for.
type asking struct {
	at  time.Time
	who map[*fetch]bool // who still waits for it
}

// NewExchange makes the exchange of a store on a host. Nothing is served or
// fetched before Run.
func NewExchange(h *p2p.Host, s *Store, allow Policy) (*Exchange, error) {
	if h == nil || s == nil {
		return nil, errors.New("exchange: host and store must be set")
	}
	return newExchange(h.Libp2p(), s, allow, h.FindProviders), nil
}

func newExchange(h host.Host, s *Store, allow Policy, find func(context.Context, wire.CID, int) ([]wire.PeerID, error)) *Exchange {
	if allow == nil {
		allow = func(wire.PeerID, wire.CID) bool { return true }
	}
	in := &counts{in: map[peer.ID]*atomic.Uint64{}}
	return &Exchange{
		store: s, host: h, allow: allow, find: find, log: s.log, in: in,
		net:     bsnet.NewFromIpfsHost(counted{h, in}),
		up:      rate.NewLimiter(rate.Inf, MaxBlock),
		down:    rate.NewLimiter(rate.Inf, MaxBlock),
		started: make(chan struct{}), ended: make(chan struct{}),
		fetches: map[*fetch]struct{}{}, records: map[peer.ID]*record{},
	}
}

// SetRates bounds what is served and fetched, in bytes/s; 0 means no bound.
func (x *Exchange) SetRates(up, down int64) {
	limit := func(n int64) rate.Limit {
		if n <= 0 {
			return rate.Inf
		}
		return rate.Limit(n)
	}
	x.up.SetLimit(limit(up))
	x.down.SetLimit(limit(down))
}

// OnMisbehaviour sets what to do about a peer that floods us with blocks that
// nobody asked for, besides not asking it for ten minutes: ban it, say.
func (x *Exchange) OnMisbehaviour(f func(p wire.PeerID, reason string)) { x.onBad.Store(&f) }

// Stats returns the counters.
func (x *Exchange) Stats() ExchangeStats {
	x.mu.Lock()
	defer x.mu.Unlock()
	st := x.stats
	st.Sent = x.sent.Load()
	return st
}

// Run serves until ctx ends, then cancels all fetches and waits for them. It
// can be called once.
func (x *Exchange) Run(ctx context.Context) error {
	x.mu.Lock()
	if x.running {
		x.mu.Unlock()
		return errors.New("exchange: Run called twice")
	}
	x.running = true
	x.mu.Unlock()

	// The server outlives ctx by a moment: until the network delivers no more.
	srvCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := server.New(srvCtx, slowed{x.net, x.up, &x.sent}, served{x.store},
		server.MaxOutstandingBytesPerPeer(outstanding),
		server.WithPeerBlockRequestFilter(x.permits),
		server.MaxCidSize(64))
	x.net.Start(srv, (*receiver)(x)) // once in its life: its event manager does not restart
	x.store.setOnPut(func(c wire.CID, data []byte) {
		if b, err := blocks.NewBlockWithCid(data, toCid(c)); err == nil {
			_ = srv.NotifyNewBlocks(srvCtx, b) // fails only when it is closing
		}
	})
	close(x.started)
	<-ctx.Done()

	x.mu.Lock() // a fetch that begins now is either waited for or refused
	close(x.ended)
	x.mu.Unlock()
	x.wg.Wait()
	x.store.setOnPut(nil)
	x.net.Stop()
	for _, p := range x.host.Mux().Protocols() {
		if strings.HasPrefix(string(p), "/ipfs/bitswap") {
			x.host.RemoveStreamHandler(p)
		}
	}
	srv.Close()
	return nil
}

// permits applies the policy to a request.
func (x *Exchange) permits(p peer.ID, c cid.Cid) bool {
	w, err := wire.CIDFromBytes(c.Bytes())
	if err != nil {
		return false
	}
	id, err := p2p.ToWire(p)
	if err != nil {
		id = wire.PeerID{}
	}
	return x.allow(id, w)
}

// begin enters a fetch, unless the exchange has not started or has ended.
func (x *Exchange) begin(ctx context.Context, f *fetch) error {
	select {
	case <-x.started:
	case <-ctx.Done():
		return ctx.Err()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	select {
	case <-x.ended:
		return errEnded
	default:
	}
	x.fetches[f] = struct{}{}
	x.wg.Add(1)
	return nil
}

var errEnded = errors.New("exchange has ended")

func (x *Exchange) finish(f *fetch) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.fetches, f)
	x.wg.Done()
}

// recordLocked returns what is remembered of p, forgetting others.
func (x *Exchange) recordLocked(p peer.ID) *record {
	r := x.records[p]
	if r != nil {
		return r
	}
	now := time.Now()
	if len(x.records) >= 4096 {
		for q, old := range x.records {
			if now.Sub(old.used) > rememberAsks && now.After(old.shunned) {
				delete(x.records, q)
				x.in.forget(q)
			}
		}
	}
	r = &record{asked: map[cid.Cid]*asking{}, links: make(chan struct{}, linksPerPeer)}
	x.records[p] = r
	return r
}

// slots is what a link to p takes a place in.
func (x *Exchange) slots(p peer.ID) chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.recordLocked(p).links
}

// noteAsked remembers that p was asked, so that its answer is no surprise.
func (x *Exchange) noteAsked(p peer.ID, f *fetch, cs []cid.Cid) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r, now := x.recordLocked(p), time.Now()
	if len(r.asked) > 1024 {
		for c, a := range r.asked {
			if len(a.who) == 0 && now.Sub(a.at) > rememberAsks {
				delete(r.asked, c)
			}
		}
	}
	r.used = now
	for _, c := range cs {
		a := r.asked[c]
		if a == nil {
			a = &asking{who: map[*fetch]bool{}}
			r.asked[c] = a
		}
		a.at = now
		a.who[f] = true
	}
}

// noteCancel notes that f does not wait for c from p any more, and reports
// whether nobody does.
func (x *Exchange) noteCancel(p peer.ID, f *fetch, c cid.Cid) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	a := x.recordLocked(p).asked[c]
	if a == nil {
		return true
	}
	delete(a.who, f)
	return len(a.who) == 0
}

func (x *Exchange) countBlock(n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stats.Blocks++
	x.stats.Bytes += uint64(n)
}

func (x *Exchange) countDuplicate(n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stats.Duplicates++
	x.stats.DupBytes += uint64(n)
}

// shun keeps p from being used for a while, unless there is nobody else.
func (x *Exchange) shun(p wire.PeerID, d time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stats.Stalls++
	x.recordLocked(p2p.FromWire(p)).shunned = time.Now().Add(d)
}

func (x *Exchange) isShunned(p wire.PeerID, now time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := x.records[p2p.FromWire(p)]
	return r != nil && now.Before(r.shunned)
}

func (x *Exchange) rateOf(p wire.PeerID) float64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	if r := x.records[p2p.FromWire(p)]; r != nil {
		return r.rate
	}
	return 0
}

func (x *Exchange) rememberRate(p wire.PeerID, rate float64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.recordLocked(p2p.FromWire(p)).rate = rate
}

// receiver is the Exchange as boxo's network calls it.
type receiver Exchange

// ReceiveMessage sorts out what was never asked for and hands the rest to the
// fetches. boxo has computed the blocks' CIDs from their bytes. It may block:
// then the stream that the message came on waits too.
func (v *receiver) ReceiveMessage(_ context.Context, p peer.ID, m bsmsg.BitSwapMessage) {
	x := (*Exchange)(v)
	got, lacks := m.Blocks(), m.DontHaves()
	if len(got)+len(lacks) == 0 {
		return
	}
	id, err := p2p.ToWire(p)
	if err != nil {
		return // we never ask such a peer
	}
	ev := event{kind: evMessage, peer: id}
	var bad string
	x.mu.Lock()
	r := x.recordLocked(p)
	for _, b := range got {
		a, ok := r.asked[b.Cid()]
		if !ok {
			x.stats.Unasked++
			r.unasked++
			r.unaskedLen += len(b.RawData())
			continue
		}
		delete(r.asked, b.Cid())
		if c, err := wire.CIDFromBytes(b.Cid().Bytes()); err == nil {
			// With nobody waiting it crossed the cancel: too late, or the second one.
			ev.blocks = append(ev.blocks, fetched{c, b.RawData(), len(a.who) == 0})
		}
	}
	for _, c := range lacks {
		if _, ok := r.asked[c]; !ok {
			continue
		}
		if w, err := wire.CIDFromBytes(c.Bytes()); err == nil {
			ev.lacks = append(ev.lacks, w)
		}
	}
	if r.unasked > maxUnaskedBlocks || r.unaskedLen > maxUnaskedBytes {
		bad = fmt.Sprintf("sent %d blocks of %d bytes that nobody asked for", r.unasked, r.unaskedLen)
		r.unasked, r.unaskedLen = 0, 0
		r.shunned = time.Now().Add(shunFor)
		ev.bad = true
	}
	fs := x.fetchesLocked()
	x.mu.Unlock()
	for i := range ev.blocks {
		if b := &ev.blocks[i]; b.late && x.store.Has(b.cid) {
			x.countDuplicate(len(b.data))
		} else {
			b.late = false
		}
	}
	if bad != "" {
		x.log.Warn("peer is shunned as a source of blocks", "peer", id.Short(), "why", bad)
		if f := x.onBad.Load(); f != nil {
			(*f)(id, bad)
		}
	}
	for _, f := range fs {
		f.post(ev)
	}
}

func (x *Exchange) fetchesLocked() []*fetch {
	fs := make([]*fetch, 0, len(x.fetches))
	for f := range x.fetches {
		fs = append(fs, f)
	}
	return fs
}

func (v *receiver) tell(p peer.ID, k eventKind) {
	x := (*Exchange)(v)
	id, err := p2p.ToWire(p)
	if err != nil {
		return
	}
	x.mu.Lock()
	fs := x.fetchesLocked()
	x.mu.Unlock()
	for _, f := range fs {
		f.post(event{kind: k, peer: id})
	}
}

// PeerConnected lets fetches that lost p use it again.
func (v *receiver) PeerConnected(p peer.ID) { v.tell(p, evConnected) }

// PeerDisconnected gives p's work to others.
func (v *receiver) PeerDisconnected(p peer.ID) {
	v.in.forget(p)
	v.tell(p, evGone)
}

// ReceiveError is called when a message cannot be parsed. Its sender is not
// named; it is noticed because nothing useful comes from it.
func (v *receiver) ReceiveError(err error) {
	(*Exchange)(v).log.Debug("unreadable bitswap message", "err", err)
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco/shard"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/block"
	"github.com/shoalnet/shoal/p2p/gossip"
	"github.com/shoalnet/shoal/p2p/p2ptest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A simSwarm is a run whose peers are all that a real one consists of, put
// together as enter and take do: node, libp2p host, gossip, block store and
// exchange. Links and time are simulated, and so is the model (simEngine).
type simSwarm struct {
	t        *testing.T
	net      *p2ptest.Net
	manifest *manifest.Manifest
	run      wire.CID
	params   int
	publish  []blockOf                 // what the publisher's store holds
	base     map[string][]byte         // and a directory there, see simOptions
	speed    func(i int) time.Duration // of an inner step of peer i
	peers    map[int]*simPeer

	mu   sync.Mutex  // guards following, which packets ask for
	side map[int]int // a packet passes between peers of one side; those not listed are on side 0
}

type blockOf struct {
	cid  wire.CID
	data []byte
}

// simOptions describes a simSwarm. The zero value is a small model, inner
// phases of 2 s and p2ptest's network: 50 ms one way, 100 Mbit/s.
type simOptions struct {
	net    p2ptest.Options
	hidden int                       // width of the model: 8 has 1,000 parameters, 256 660,000
	speed  func(i int) time.Duration // of an inner step; default 200 ms
	change func(*manifest.Manifest)
	base   func(hf.Config) map[string][]byte // files of the checkpoint that the run starts from; nil is none
}

// newSimSwarm makes a run without peers. Call it inside a bubble.
func newSimSwarm(t *testing.T, o simOptions) *simSwarm {
	t.Helper()
	t.TempDir() // before the clean-up of the network, so that it is removed after it
	if o.hidden == 0 {
		o.hidden = 8
	}
	if o.speed == nil {
		o.speed = func(int) time.Duration { return 200 * time.Millisecond }
	}
	s := &simSwarm{t: t, speed: o.speed, peers: map[int]*simPeer{}, side: map[int]int{}}
	dir := t.TempDir()
	o.net.Drop = func(from, to int) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.side[from] != s.side[to]
	}
	o.net.Config = func(i int, c *p2p.Config) { c.CachePath = filepath.Join(dir, fmt.Sprint(i)+".json") }
	s.net = p2ptest.New(t, o.net)

	put := func(codec uint64, b []byte) wire.CID {
		c := wire.SumCID(codec, b)
		s.publish = append(s.publish, blockOf{c, b})
		return c
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tok, err := hf.NewChar("abcdefghijklmnop")
	must(err)
	tokens := make([]int32, 20000)
	x := uint32(1)
	for i := range tokens {
		x = x*1664525 + 1013904223 // Numerical Recipes
		tokens[i] = int32(x >> 28)
	}
	m := manifest.Default()
	m.Name, m.Licence = "sim", "CC0-1.0"
	m.Tokenizer = put(wire.CodecRaw, tok.JSON())
	data, err := shard.Prepare(tokens, m.Tokenizer, uint64(tok.VocabSize()), shard.Options{PerShard: 8000})
	must(err)
	m.Data = put(wire.CodecDagCBOR, data.Block)
	for _, b := range data.Blocks {
		put(wire.CodecRaw, b.Data)
	}
	m.Model.Config = manifest.Config{
		Architectures: []string{"LlamaForCausalLM"}, HiddenSize: o.hidden, IntermediateSize: 2 * o.hidden, NumHiddenLayers: 1,
		NumAttentionHeads: 2, NumKeyValueHeads: 2, HeadDim: o.hidden / 2, VocabSize: 16, MaxPositionEmbeddings: 8,
		RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true,
	}
	m.Inner.LR, m.Inner.Warmup, m.Inner.Batch, m.Inner.Sequence = 0.05, 2, 2, 8
	m.Round.InnerSteps, m.Round.Deadline = 10, 6*time.Second
	m.Codec.Chunk = 64
	m.Admission.MinPeers, m.Stop.Rounds = 3, 6
	if o.change != nil {
		o.change(m)
	}
	if o.base != nil {
		s.base = o.base(m.Model.Config.HF())
		store, err := block.Open(t.TempDir(), block.Options{NoSync: true, Log: slog.New(slog.DiscardHandler)})
		must(err)
		m.Model.Base, err = store.PutDir(t.Context(), readers(s.base))
		must(err)
		must(store.Close())
	}
	for _, tensor := range m.Model.Config.HF().Tensors() {
		n := 1
		for _, d := range tensor.Shape {
			n *= d
		}
		s.params += n
	}
	encoded, err := m.Encode()
	must(err)
	s.manifest, s.run = m, put(wire.CodecDagCBOR, encoded)
	t.Cleanup(s.stopAll)
	return s
}

// A simPeer is one peer. Its directory outlives it.
type simPeer struct {
	s      *simSwarm
	i      int
	key    *wire.Key
	dir    string
	watch  *watch
	wrap   func(node.Net) node.Net       // what to put between node and network
	option func(*node.Options)           // changes to the node's options
	blocks func(node.Blocks) node.Blocks // what to put between node and store
	serves func(wire.PeerID, wire.CID) bool

	host   *p2p.Host
	gossip *gossip.Gossip
	store  *block.Store
	ex     *block.Exchange
	node   *node.Node
	cancel context.CancelFunc
	work   sync.WaitGroup
	runs   bool
}

// peer makes peer i, which does not run yet.
func (s *simSwarm) peer(i int) *simPeer {
	p := &simPeer{s: s, i: i, key: p2ptest.Key(i), dir: s.t.TempDir(), watch: newWatch()}
	s.peers[i] = p
	return p
}

// start runs peers 0 to n-1: peer 0 publishes, the others know its address and
// nothing else.
func (s *simSwarm) start(n int) {
	s.t.Helper()
	for i := range n {
		if i == 0 {
			s.peer(0).start()
		} else {
			s.peer(i).start(p2ptest.Addr(0))
		}
	}
}

// start enters the swarm, knowing the given addresses and what its cache holds.
func (p *simPeer) start(bootstrap ...string) {
	t := p.s.t
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("peer %d: %v", p.i, err)
		}
	}
	p.enter(bootstrap...)
	if p.i == 0 && p.node == nil {
		for _, b := range p.s.publish {
			_, err := p.store.Put(t.Context(), b.cid.Codec(), b.data)
			must(err)
			must(p.store.Pin("test/"+b.cid.String(), b.cid))
		}
		if p.s.base != nil {
			c, err := p.store.PutDir(t.Context(), readers(p.s.base))
			must(err)
			must(p.store.Pin("test/base", c))
		}
	}
	var err error
	var net node.Net = watchedNet{swarmNet{p.host, p.gossip}, p.watch}
	if p.wrap != nil {
		net = p.wrap(net)
	}
	var store node.Blocks = watchedBlocks{blocks{p.store, p.ex}, p.watch}
	if p.blocks != nil {
		store = p.blocks(store)
	}
	opt := node.Options{
		Dir: p.dir, Key: p.key, Run: p.s.run, Net: net, Blocks: store,
		Engine: func(context.Context, *manifest.Manifest) (node.Engine, error) {
			return &simEngine{p.s.params, p.s.speed(p.i)}, nil
		},
		Log: simLog(p.i),
	}
	if p.option != nil {
		p.option(&opt)
	}
	p.node, err = node.New(opt)
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	host := p.cancel
	var work sync.WaitGroup
	work.Go(func() {
		if err := p.node.Run(ctx); err != nil {
			t.Errorf("peer %d: node: %v", p.i, err)
		}
	})
	p.cancel = func() { cancel(); work.Wait(); host() }
}

// enter starts host, gossip, store and exchange, and no node.
func (p *simPeer) enter(bootstrap ...string) {
	t := p.s.t
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("peer %d: %v", p.i, err)
		}
	}
	quiet := slog.New(slog.DiscardHandler)
	var err error
	p.host = p.s.net.Start(p.i, bootstrap...)
	p.gossip, err = gossip.New(p.host, gossip.Config{StatePath: filepath.Join(p.dir, "gossip.seq"), Log: quiet})
	must(err)
	p.store, err = block.Open(p.dir, block.Options{NoSync: true, Log: quiet})
	must(err)
	p.ex, err = block.NewExchange(p.host, p.store, p.serves)
	must(err)
	host := p.host
	p.ex.OnMisbehaviour(func(id wire.PeerID, _ string) { host.Ban(id) })
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.work.Go(func() {
		if err := p.ex.Run(ctx); err != nil {
			t.Errorf("peer %d: exchange: %v", p.i, err)
		}
	})
	p.runs = true
}

// stop ends a peer as Ctrl-C twice does: in order, and without a goodbye.
func (p *simPeer) stop() {
	if !p.runs {
		return
	}
	p.runs = false
	p.cancel()
	p.work.Wait()
	if err := p.gossip.Close(); err != nil {
		p.s.t.Errorf("peer %d: gossip: %v", p.i, err)
	}
	p.s.net.Stop(p.i)
	if err := p.store.Close(); err != nil {
		p.s.t.Errorf("peer %d: store: %v", p.i, err)
	}
}

// die ends peers so that the others hear nothing any more, not even of closed
// connections.
func (s *simSwarm) die(who ...int) {
	s.part(99, who...)
	for _, i := range who {
		s.peers[i].stop()
	}
}

// part puts peers on a side of their own; side 0 is where all begin.
func (s *simSwarm) part(side int, who ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range who {
		s.side[i] = side
	}
}

func (s *simSwarm) stopAll() {
	for _, i := range s.all() {
		s.peers[i].stop()
	}
}

// all lists the peers by number.
func (s *simSwarm) all() []int {
	var out []int
	for i := range s.peers {
		out = append(out, i)
	}
	slices.Sort(out)
	return out
}

// running lists the peers whose node runs.
func (s *simSwarm) running() []int {
	return slices.DeleteFunc(s.all(), func(i int) bool { return !s.peers[i].runs || s.peers[i].node == nil })
}

// until waits, in virtual time, until all that are named, by default all that
// run, satisfy ok.
func (s *simSwarm) until(what string, limit time.Duration, ok func(node.Status) bool, who ...int) {
	s.t.Helper()
	if len(who) == 0 {
		who = s.running()
	}
	end := time.Now().Add(limit)
	for !slices.ContainsFunc(who, func(i int) bool { return s.peers[i].runs }) ||
		slices.ContainsFunc(who, func(i int) bool { return !ok(s.peers[i].node.Status()) }) {
		if time.Now().After(end) {
			for _, i := range who {
				s.t.Logf("peer %d: %+v", i, s.peers[i].node.Status())
			}
			s.t.Fatalf("after %v: not %s", limit, what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func isDone(st node.Status) bool { return st.Done }

func atRound(r uint64) func(node.Status) bool {
	return func(st node.Status) bool { return st.Round >= r }
}

// history returns a peer's rounds; where it changed branches, the last word.
func (p *simPeer) history() map[uint64]node.Record {
	p.s.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, "history.jsonl"))
	if err != nil {
		p.s.t.Fatal(err)
	}
	recs, err := node.ReadHistory(bytes.NewReader(b))
	if err != nil {
		p.s.t.Fatal(err)
	}
	out := map[uint64]node.Record{}
	for _, r := range recs {
		out[r.Round] = r
	}
	return out
}

// agree fails unless all that run, or are named, have the same result, none is
// in trouble or has convicted anybody, and their histories name one commit and
// one state for each round up to the result.
func (s *simSwarm) agree(who ...int) node.Status {
	s.t.Helper()
	if len(who) == 0 {
		who = s.running()
	}
	var first node.Status
	commits := map[uint64]node.Record{}
	for _, i := range who {
		st := s.peers[i].node.Status()
		if first.Result == "" {
			first = st
		}
		if st.Result != first.Result || st.ResultState != first.ResultState || !st.Result.Defined() {
			s.t.Errorf("peer %d ends with %s, state %s; another with %s, %s", i, st.Result, st.ResultState, first.Result, first.ResultState)
		}
		if len(st.Evicted) > 0 || st.Trouble != "" {
			s.t.Errorf("peer %d: evicted %v, trouble %q", i, st.Evicted, st.Trouble)
		}
		for r, rec := range s.peers[i].history() {
			if r > s.manifest.Stop.Rounds {
				continue
			}
			if old, ok := commits[r]; ok && (old.Commit != rec.Commit || old.State != rec.State) {
				s.t.Errorf("round %d: peer %d has commit %s, state %s; another %s, %s", r, i, rec.Commit, rec.State, old.Commit, old.State)
			}
			commits[r] = rec
		}
	}
	return first
}

// verify replays the lineage from one peer's store, which must be closed.
func (p *simPeer) verify(head wire.CID) *node.LineageReport {
	t := p.s.t
	t.Helper()
	store, err := block.Open(p.dir, block.Options{NoSync: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	r, err := node.VerifyLineage(context.Background(), node.Lineage{
		Blocks: blocks{store: store}, Run: p.s.run, Head: head,
		Engine: func(context.Context, *manifest.Manifest) (node.Engine, error) { return &simEngine{n: p.s.params}, nil },
	})
	if err != nil {
		t.Fatalf("peer %d: lineage: %v", p.i, err)
	}
	if !r.Verified {
		t.Errorf("peer %d: lineage: %s", p.i, r.Mismatch)
	}
	return r
}

// simLog writes the nodes' logs where SHOAL_TEST_LOG asks for it.
func simLog(i int) *slog.Logger {
	if os.Getenv("SHOAL_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("peer", i)
}

// A watch notes when a peer said and fetched what.
type watch struct {
	mu      sync.Mutex            // guards following
	said    map[wire.CID]said     // own deltas, by their block: the first time
	fetched map[wire.CID]interval // files
	kinds   map[wire.Kind]int     // messages published
}

type said struct {
	at    time.Time
	round uint64
}

type interval struct{ from, to time.Time }

func newWatch() *watch {
	return &watch{said: map[wire.CID]said{}, fetched: map[wire.CID]interval{}, kinds: map[wire.Kind]int{}}
}

// Five peers, one of whom the others know, train to the end: everybody merges
// everything, in the same commits and states, and any of them can prove it.
func TestSimSwarmAgrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimSwarm(t, simOptions{change: func(m *manifest.Manifest) { m.Admission.MinPeers = 5 }})
		s.start(5)
		s.until("done", 5*time.Minute, isDone)
		st := s.agree()
		for r, rec := range s.peers[4].history() {
			if r >= 2 && r <= s.manifest.Stop.Rounds && (rec.Deltas != 5 || rec.Weak || rec.Roster != 5) {
				t.Errorf("round %d: %+v", r, rec)
			}
		}
		for _, i := range s.running() {
			if st := s.peers[i].node.Status(); len(st.Rejections) > 0 {
				t.Errorf("peer %d rejected honest messages: %v", i, st.Rejections)
			}
		}
		s.stopAll()
		if r := s.peers[3].verify(st.Result); r.Steps != int(s.manifest.Stop.Rounds) {
			t.Errorf("lineage: %+v", r)
		}
	})
}

package node

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/shard"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node/journal"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A swarm is several nodes, with real machines, codecs, journals and files, on
// an in-memory sea in virtual time.
type swarm struct {
	t        testing.TB
	sea      *sea
	manifest *manifest.Manifest
	run      wire.CID
	model    *Model
	publish  map[wire.CID][]byte // what the publisher's store holds besides the manifest
	members  map[int]*member
}

// A member is one node: its disk outlives it.
type member struct {
	s      *swarm
	n      int
	key    *wire.Key
	dir    string
	shelf  *shelf
	engine *toyEngine
	opt    func(*Options) // changes to the options

	node   *Node
	host   *host
	cancel context.CancelFunc
	ended  chan error
}

const stepTime = 500 * time.Millisecond

func newSwarm(t testing.TB, change func(*manifest.Manifest)) *swarm {
	t.Helper()
	t.TempDir() // before the clean-up below, so that it is removed after it
	s := &swarm{t: t, sea: newSea(20 * time.Millisecond), members: map[int]*member{}, publish: map[wire.CID][]byte{}}
	tok, err := hf.NewChar("abcdefghijklmnop")
	if err != nil {
		t.Fatal(err)
	}
	put := func(codec uint64, b []byte) wire.CID {
		c := wire.SumCID(codec, b)
		s.publish[c] = b
		return c
	}
	tokens := make([]int32, 6000)
	x := uint32(1)
	for i := range tokens {
		x = x*1664525 + 1013904223
		tokens[i] = int32(x >> 28)
	}
	m := manifest.Default()
	m.Name, m.Licence = "toy", "CC0-1.0"
	m.Tokenizer = put(wire.CodecRaw, tok.JSON())
	data, err := shard.Prepare(tokens, m.Tokenizer, uint64(tok.VocabSize()), shard.Options{PerShard: 2000})
	if err != nil {
		t.Fatal(err)
	}
	m.Data = put(wire.CodecDagCBOR, data.Block)
	for _, b := range data.Blocks {
		put(wire.CodecRaw, b.Data)
	}
	m.Model.Config = manifest.Config{
		Architectures: []string{"LlamaForCausalLM"}, HiddenSize: 8, IntermediateSize: 8, NumHiddenLayers: 1,
		NumAttentionHeads: 2, NumKeyValueHeads: 2, HeadDim: 4, VocabSize: 16, MaxPositionEmbeddings: 8,
		RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true,
	}
	m.Inner.LR, m.Inner.Warmup, m.Inner.Batch, m.Inner.Sequence = 0.05, 2, 2, 8
	m.Round.InnerSteps, m.Round.Deadline = 10, 20*time.Second
	m.Codec.Chunk = 64
	m.Admission.MinPeers = 3
	m.Stop.Rounds = 6
	if change != nil {
		change(m)
	}
	block, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	s.manifest, s.run = m, put(wire.CodecDagCBOR, block)
	if s.model, err = NewModel(s.run, m, tok.JSON()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stopAll)
	return s
}

// member makes the n-th peer, which does not run yet.
func (s *swarm) member(n int) *member {
	s.t.Helper()
	m := &member{
		s: s, n: n, key: testKey(s.t, n), dir: s.t.TempDir(), shelf: newShelf(),
		engine: &toyEngine{n: s.model.Params(), speed: stepTime},
	}
	s.members[n] = m
	return m
}

// start runs members 0 to n-1; the first has what was published.
func (s *swarm) start(n int) {
	s.t.Helper()
	for i := range n {
		m := s.member(i)
		if i == 0 {
			m.seed()
		}
		m.start()
	}
}

func (m *member) seed() {
	for c, b := range m.s.publish {
		if got, err := m.shelf.put(c.Codec(), b); err != nil || got != c {
			m.s.t.Fatal(got, err)
		}
		m.shelf.pins["test/"+c.String()] = c
	}
}

func (m *member) peer() wire.PeerID { return m.key.Peer() }

func (m *member) start() {
	t := m.s.t
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m.host = m.s.sea.join(ctx, m.peer(), m.shelf)
	opt := Options{
		Dir: m.dir, Key: m.key, Run: m.s.run, Net: m.host, Blocks: &crate{m.shelf, m.host},
		Engine: func(context.Context, *manifest.Manifest) (Engine, error) { return m.engine, nil },
		Log:    testLog(t, m.n),
	}
	if m.opt != nil {
		m.opt(&opt)
	}
	n, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	m.node, m.cancel, m.ended = n, cancel, make(chan error, 1)
	go func(host *host, ended chan error) {
		err := n.Run(ctx)
		cancel()
		host.leave()
		ended <- err
	}(m.host, m.ended)
}

func testLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

// testLog writes a node's log where SHOAL_TEST_LOG asks for it.
func testLog(t testing.TB, n int) *slog.Logger {
	if os.Getenv("SHOAL_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("test", t.Name(), "n", n)
}

// stop ends a node cleanly.
func (m *member) stop() {
	if m.ended == nil {
		return
	}
	m.cancel()
	if err := <-m.ended; err != nil {
		m.s.t.Errorf("node %d: %v", m.n, err)
	}
	m.ended = nil
}

// end waits for a node that ends by itself.
func (m *member) end(limit time.Duration) error {
	m.s.t.Helper()
	select {
	case err := <-m.ended:
		m.ended = nil
		return err
	case <-time.After(limit):
		m.s.t.Fatalf("node %d has not ended after %v: %+v", m.n, limit, m.node.Status())
		return nil
	}
}

// kill is kill -9: what is on disk at this instant is all that is left.
func (m *member) kill() {
	t := m.s.t
	t.Helper()
	synctest.Wait() // nobody is within a system call
	dir, shelf := t.TempDir(), m.shelf.copy()
	if err := os.CopyFS(dir, os.DirFS(m.dir)); err != nil {
		t.Fatal(err)
	}
	m.stop()
	m.dir, m.shelf = dir, shelf
}

func (s *swarm) stopAll() {
	for _, m := range s.members {
		m.stop()
	}
}

// until waits, in virtual time, until all that are named satisfy ok.
func (s *swarm) until(what string, limit time.Duration, ok func(Status) bool, who ...int) {
	s.t.Helper()
	if len(who) == 0 {
		for n, m := range s.members {
			if m.ended != nil {
				who = append(who, n)
			}
		}
	}
	end := time.Now().Add(limit)
	for {
		all := true
		for _, n := range who {
			all = all && ok(s.members[n].node.Status())
		}
		if all {
			return
		}
		if time.Now().After(end) {
			for _, n := range who {
				st := s.members[n].node.Status()
				s.t.Logf("node %d: %s, round %d, final %d, roster %d, trouble %q, rejections %v, audits %v, cases %d, banned %v", n, st.Phase, st.Round, st.FinalRound, st.Roster, st.Trouble, st.Rejections, st.Audits, len(st.Cases), st.Banned)
			}
			s.t.Fatalf("after %v: not %s", limit, what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func done(st Status) bool { return st.Done }

func round(r uint64) func(Status) bool { return func(st Status) bool { return st.Round >= r } }

// agree fails unless all that run have the same result, and every commit that
// two have recorded for a final round is the same.
func (s *swarm) agree() Status {
	s.t.Helper()
	var first Status
	for n, m := range s.members {
		if m.ended == nil {
			continue
		}
		st := m.node.Status()
		if first.Result == "" {
			first = st
		}
		if st.Result != first.Result || st.ResultState != first.ResultState || !st.Result.Defined() {
			s.t.Errorf("node %d ends with %s, state %s; another with %s, %s", n, st.Result, st.ResultState, first.Result, first.ResultState)
		}
		if len(st.Evicted) > 0 {
			s.t.Errorf("node %d has convicted %v", n, st.Evicted)
		}
		if st.Trouble != "" {
			s.t.Errorf("node %d is in trouble: %s", n, st.Trouble)
		}
	}
	return first
}

func (m *member) history() []Record {
	m.s.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.dir, historyFile))
	if err != nil {
		m.s.t.Fatal(err)
	}
	recs, err := ReadHistory(bytes.NewReader(b))
	if err != nil {
		m.s.t.Fatal(err)
	}
	return recs
}

// verify replays the lineage from one member's store alone.
func (m *member) verify(head wire.CID) *LineageReport {
	m.s.t.Helper()
	lonely := &host{sea: newSea(0), self: m.peer(), ctx: context.Background()}
	r, err := VerifyLineage(context.Background(), Lineage{
		Blocks: &crate{m.shelf.copy(), lonely}, Run: m.s.run, Head: head,
		Engine: func(context.Context, *manifest.Manifest) (Engine, error) { return m.engine, nil },
	})
	if err != nil {
		m.s.t.Fatal(err)
	}
	return r
}

// said returns own messages in a journal, by what they must not contradict.
func (m *member) said() map[string]wire.CID {
	t := m.s.t
	t.Helper()
	j, recs, err := journal.Open(filepath.Join(m.dir, journalDir))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	out := map[string]wire.CID{}
	for _, r := range recs {
		if r.Type != recSaid {
			continue
		}
		env, err := wire.Decode(r.Data)
		if err != nil {
			t.Fatal(err)
		}
		msg, err := diloco.Open(env)
		if err != nil {
			t.Fatal(err)
		}
		var about string
		switch b := msg.Body.(type) {
		case *diloco.Delta:
			about = fmt.Sprint("delta ", b.Parent)
		case *diloco.Vote:
			about = fmt.Sprint("vote ", b.Parent)
		case *diloco.Attest:
			about = fmt.Sprint("attest ", b.Round)
		case *diloco.Verdict:
			about = fmt.Sprint("verdict ", b.Subject, b.Segment, b.Finding == diloco.Withheld)
		default:
			continue
		}
		if old, ok := out[about]; ok && old != msg.ID {
			t.Errorf("node %d said two things: %s", m.n, about)
		}
		out[about] = msg.ID
	}
	return out
}

func TestSwarmAgreesAndLineageReplays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, nil)
		s.start(4)
		s.until("done", 10*time.Minute, done)
		st := s.agree()
		if st.ValLoss == 0 || st.RoundsContributed == 0 || st.Tokens == 0 {
			t.Errorf("status lacks something: %+v", st)
		}
		r := s.members[2].verify(st.Result)
		if !r.Verified || r.Steps != int(s.manifest.Stop.Rounds) || r.Deltas == 0 || r.State != st.ResultState {
			t.Errorf("lineage: %+v", r)
		}
		recs := s.members[1].history()
		last := recs[len(recs)-1]
		if last.Round < s.manifest.Stop.Rounds || last.Total == 0 {
			t.Errorf("history ends with %+v", last)
		}
		for _, r := range recs {
			if r.Round == 4 && (r.Deltas != 4 || r.Compute == 0 || r.ValLoss == nil || !r.Included) {
				t.Errorf("record of round 4: %+v", r)
			}
		}
		s.stopAll()
		for _, m := range s.members {
			m.said()
		}
	})
}

// A single missing or changed block is named, not passed over.
func TestLineageNamesWhatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) { m.Stop.Rounds = 3 })
		s.start(3)
		s.until("done", 10*time.Minute, done)
		st := s.agree()
		m := s.members[0]
		block, err := m.shelf.get(st.Result)
		if err != nil {
			t.Fatal(err)
		}
		c, err := diloco.DecodeCommit(block)
		if err != nil {
			t.Fatal(err)
		}
		lie := *c
		lie.State = s.publishState(m)
		if block, err = lie.Encode(); err != nil {
			t.Fatal(err)
		}
		cid, err := m.shelf.put(wire.CodecDagCBOR, block)
		if err != nil {
			t.Fatal(err)
		}
		if r := m.verify(cid); r.Verified || !strings.Contains(r.Mismatch, fmt.Sprintf("round %d", c.Round)) {
			t.Errorf("a commit with another state: %+v", r)
		}
		m.shelf.drop(c.Merged()[0].Block)
		lonely := &host{sea: newSea(0), self: m.peer(), ctx: context.Background()}
		_, err = VerifyLineage(context.Background(), Lineage{
			Blocks: &crate{m.shelf.copy(), lonely}, Run: s.run, Head: st.Result,
			Engine: func(context.Context, *manifest.Manifest) (Engine, error) { return m.engine, nil },
		})
		if err == nil || !strings.Contains(err.Error(), c.Merged()[0].Block.String()) {
			t.Errorf("a missing delta: %v", err)
		}
	})
}

// publishState stores some state that is not of the chain.
func (s *swarm) publishState(m *member) wire.CID {
	p := make([]float32, s.model.Params())
	c, err := s.model.Put(context.Background(), &crate{m.shelf, m.host}, &State{p, p}, Position{Run: s.run, Round: 3})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

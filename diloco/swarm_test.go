package diloco

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// A swarm is a few machines with real keys on a perfect network that takes no
// time: enough to grow chains for other tests. Faults are testnet/sim's part.
type swarm struct {
	t       testing.TB
	now     time.Time
	genesis *Commit
	cfg     Config
	peers   []*swarmPeer
	queue   []func()
	commits map[wire.CID]*Commit
}

type swarmPeer struct {
	key     *wire.Key
	finds   func(Verdict) Verdict // of a validator: what it says instead of Pass; a verdict about nothing is not said
	answers bool                  // of a validator: passes what cases are about
	replies func(Case) *Verdict   // of a validator: what it says about cases; nil is nothing
	says    func(Vote) *Vote      // what it votes instead; nil is not said
	m       *Machine
	own     []wire.Signed
	chain   []*Commit // adopted, in order
	final   *Commit
	effects []Effect // all that it asked for
}

func testKey(t testing.TB, n int) *wire.Key {
	t.Helper()
	h := sha256.Sum256([]byte{byte(n), byte(n >> 8)})
	k, err := wire.NewKey(h[:])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testGenesis() *Commit {
	return &Commit{Version: 1, Run: wire.SumCID(wire.CodecDagCBOR, []byte("run")), State: wire.SumCID(wire.CodecDagPB, []byte("state"))}
}

func newSwarm(t testing.TB, n int, cfg Config) *swarm {
	s := &swarm{t: t, now: time.Unix(1_800_000_000, 0), genesis: testGenesis(), cfg: cfg, commits: map[wire.CID]*Commit{}}
	s.cfg.Run, s.cfg.Role = s.genesis.Run, "trainer"
	s.cfg.Every = 3 // of 10
	if s.cfg.MinPeers == 0 {
		s.cfg.MinPeers = n
	}
	s.note(s.genesis)
	for i := range n {
		s.add(testKey(t, i))
	}
	return s
}

func (s *swarm) note(c *Commit) wire.CID {
	s.t.Helper()
	id, err := c.CID()
	if err != nil {
		s.t.Fatal(err)
	}
	s.commits[id] = c
	return id
}

func (s *swarm) add(k *wire.Key) *swarmPeer {
	cfg := s.cfg
	cfg.Self = k.Peer()
	if cfg.Role == validator {
		cfg.Coin = swarmCoin(k)
	}
	p := &swarmPeer{key: k, m: New(cfg, s.genesis)}
	s.peers = append(s.peers, p)
	s.perform(p, p.m.Start(s.now))
	return p
}

// past finds ancestors for VerifyCommit; in a swarm without forks that is all.
func (s *swarm) past(id wire.CID) *Commit { return s.commits[id] }

func (s *swarm) step(p *swarmPeer, ev Event) {
	s.queue = append(s.queue, func() { s.perform(p, p.m.Step(s.now, ev)) })
}

func (s *swarm) perform(p *swarmPeer, list []Effect) {
	p.effects = append(p.effects, list...)
	for _, e := range list {
		switch e := e.(type) {
		case Sign:
			msg := p.key.Sign(e.Kind, s.cfg.Run, e.Body)
			if e.Kind == wire.KindVote && p.says != nil {
				var ok bool
				if msg, ok = s.lie(p, msg); !ok {
					continue
				}
			}
			p.own = append(p.own, msg)
			for _, q := range s.peers {
				s.step(q, Heard{msg})
			}
		case Publish:
			for _, q := range s.peers {
				s.step(q, Heard{e.Msg})
			}
		case FetchDelta:
			s.step(p, DeltaChecked{ID: e.ID})
		case FetchCommit:
			s.step(p, CommitFetched{CID: e.CID, Commit: s.commits[e.CID]})
		case FetchState:
			s.step(p, StateFetched{State: e.State})
		case Merge:
			s.step(p, Merged{Key: e.Key, State: testMerge(e)})
		case Store:
			s.commits[e.CID] = e.Commit
		case Adopt:
			p.chain = append(p.chain, e.Commit)
			s.audit(p, e)
		case Finalized:
			p.final = e.Commit
		case Train:
			self := p.key.Peer()
			d := Delta{
				Parent: e.Head, Round: e.Round, State: e.State, Steps: 10, Tokens: 1000 + uint64(self[5]), Bytes: 100, Loss: 3,
				Block: wire.SumCID(wire.CodecRaw, append([]byte(e.Head), self[:]...)), Epoch: 3, Receipt: make([]byte, 65),
			}
			if s.cfg.AuditRate > 0 {
				d.Trace = wire.SumCID(wire.CodecDagCBOR, []byte(d.Block))
			}
			s.step(p, Trained{d})
		}
	}
}

// lie makes of a peer's vote what it says instead.
func (s *swarm) lie(p *swarmPeer, msg wire.Signed) (wire.Signed, bool) {
	m, err := Open(&msg)
	if err != nil {
		s.t.Fatal(err)
	}
	v := p.says(*m.Body.(*Vote))
	if v == nil {
		return msg, false
	}
	b, err := wire.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return p.key.Sign(wire.KindVote, msg.Run, b), true
}

func swarmCoin(k *wire.Key) *audit.Coin {
	self := k.Peer()
	return testCoin(string(self[:]))
}

// audit lets a validator look at what its coin chooses of the deltas that came in.
func (s *swarm) audit(p *swarmPeer, e Adopt) {
	if roleIn(e.Commit.Roster, p.key.Peer(), validator) == nil {
		return
	}
	for _, w := range e.Commit.Merged() {
		coin := swarmCoin(p.key).Reveal(e.Commit.Round)
		d := audit.DrawFor(coin, w.ID, s.cfg.AuditRate, 4)
		if !d.Audit {
			continue
		}
		v := Verdict{Subject: w.ID, Peer: w.Peer, Round: w.Round, Segment: d.Segment, Work: d.Seed[:], Coin: coin, Epoch: 3, Receipt: make([]byte, 65)}
		if p.finds != nil {
			if v = p.finds(v); !v.Subject.Defined() {
				continue
			}
		}
		s.step(p, Audited{v})
	}
	for _, k := range e.Commit.Cases {
		if p.replies != nil {
			if v := p.replies(k); v != nil {
				s.step(p, Audited{*v})
			}
		}
		if p.answers && !slices.Contains(k.Pass, p.key.Peer()) {
			s.step(p, Audited{Verdict{Subject: k.Subject, Peer: k.Peer, Round: k.Round, Segment: k.Segment, Work: []byte{1}}})
		}
	}
}

func testMerge(e Merge) wire.CID {
	b := binary.BigEndian.AppendUint64([]byte(e.State+e.Parent), e.Round)
	for _, d := range e.Deltas {
		b = binary.BigEndian.AppendUint64(append(b, d.Block...), d.Weight)
	}
	return wire.SumCID(wire.CodecDagPB, b)
}

// run lets everything happen that can, then time pass to the next wake-up,
// until done says so.
func (s *swarm) run(done func() bool) {
	s.t.Helper()
	for range 100_000 {
		if done() {
			return
		}
		if len(s.queue) > 0 {
			next := s.queue[0]
			s.queue = s.queue[1:]
			next()
			continue
		}
		var wake time.Time
		for _, p := range s.peers {
			if w := p.m.Wake(); !w.IsZero() && (wake.IsZero() || w.Before(wake)) {
				wake = w
			}
		}
		if wake.IsZero() {
			s.t.Fatal("nothing will ever happen again")
		}
		if wake.After(s.now) {
			s.now = wake
		}
		for _, p := range s.peers {
			s.step(p, Tick{})
		}
	}
	s.t.Fatal("it takes too long")
}

// to runs until every machine's head has reached that round.
func (s *swarm) to(round uint64) {
	s.t.Helper()
	s.run(func() bool {
		return !slices.ContainsFunc(s.peers, func(p *swarmPeer) bool { return p.m.Status().Round < round })
	})
}

// chain returns the commits of a peer, genesis first.
func (s *swarm) chain(p *swarmPeer) []*Commit {
	head := p.m.Status().Head
	var out []*Commit
	for head.Defined() {
		c := s.commits[head]
		if c == nil {
			s.t.Fatalf("commit %s is not stored", head.Short())
		}
		out = append(out, c)
		head = c.Parent
	}
	slices.Reverse(out)
	return out
}

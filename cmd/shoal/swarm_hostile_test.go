package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/gossip"
	"github.com/shoalnet/shoal/p2p/p2ptest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// An impostor is on the real gossip and the real exchange, and says by hand
// what no node would.
type impostor struct {
	*simPeer
	topic *gossip.Topic
}

// impostor starts peer i as one, which answers sync questions with answer.
func (s *simSwarm) impostor(i int, answer []byte) *impostor {
	s.t.Helper()
	p := s.peer(i)
	p.enter(p2ptest.Addr(1))
	topic, err := p.gossip.Join(gossip.RunTopic(s.run), func(context.Context, wire.PeerID, []byte) wire.Judgement { return wire.Accept })
	if err != nil {
		s.t.Fatal(err)
	}
	p.host.Handle(node.SyncProto, 1<<10, func(context.Context, wire.PeerID, []byte) ([]byte, error) { return answer, nil })
	p.host.Rendezvous(node.RunSpace(s.run))
	return &impostor{p, topic}
}

// body encodes the body of a message.
func (s *simSwarm) body(v any) []byte {
	s.t.Helper()
	b, err := wire.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// say publishes one message under the impostor's signature.
func (p *impostor) say(kind wire.Kind, v any) { p.send(p.signed(kind, p.s.run, v)) }

func (p *impostor) signed(kind wire.Kind, run wire.CID, v any) []byte {
	p.s.t.Helper()
	m := p.key.Sign(kind, run, p.s.body(v))
	b, err := m.Encode()
	if err != nil {
		p.s.t.Fatal(err)
	}
	return b
}

// send publishes bytes.
func (p *impostor) send(data []byte) {
	p.s.t.Helper()
	if err := p.topic.Publish(context.Background(), data); err != nil {
		p.s.t.Fatal(err)
	}
}

// store puts a block or a file where others can fetch it.
func (p *impostor) put(codec uint64, b []byte) wire.CID {
	p.s.t.Helper()
	c, err := p.store.Put(context.Background(), codec, b)
	if codec == wire.CodecDagPB {
		c, err = p.store.PutFile(context.Background(), b)
	}
	if err != nil {
		p.s.t.Fatal(err)
	}
	return c
}

// rejections sums up what the honest have counted.
func (s *simSwarm) rejections() map[string]uint64 {
	all := map[string]uint64{}
	for _, i := range s.running() {
		for why, n := range s.peers[i].node.Status().Rejections {
			all[why] += n
		}
		for why, n := range s.peers[i].gossip.Counters().Rejected {
			all["gossip: "+why] += n
		}
	}
	return all
}

// unharmed fails unless the run ended well for the honest: all agree, every
// round has the delta of each and of nobody else, and took no longer than the grace window.
func (s *simSwarm) unharmed(honest int) {
	s.t.Helper()
	st := s.agree()
	var last time.Time
	for r := uint64(1); r <= s.manifest.Stop.Rounds; r++ {
		rec := s.peers[0].history()[r]
		for _, p := range rec.DeltaPeers {
			if !slices.ContainsFunc(s.running(), func(i int) bool { return s.peers[i].key.Peer() == p }) {
				s.t.Errorf("round %d merged a delta of an impostor", r)
			}
		}
		if r >= 2 && (rec.Deltas != honest || rec.Weak) {
			s.t.Errorf("round %d: %d deltas, weak %v", r, rec.Deltas, rec.Weak)
		}
		if took := rec.Time.Sub(last); r >= 3 && took > 4*time.Second { // 2 s of training, a grace window of a quarter of a round, three trips
			s.t.Errorf("round %d took %v", r, took)
		}
		last = rec.Time
	}
	s.stopAll()
	s.peers[1].verify(st.Result)
}

// Strangers say and answer rubbish: each piece is counted, none relayed, and
// whoever goes on is cut off.
func TestSimSwarmHostileMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const honest = 4
		s := newSimSwarm(t, simOptions{change: func(m *manifest.Manifest) { m.Admission.MinPeers, m.Stop.Rounds = honest, 18 }})
		s.start(honest)
		s.until("round 2", 5*time.Minute, atRound(2))
		st := s.peers[0].node.Status()
		other := wire.SumCID(wire.CodecDagCBOR, []byte("another run"))
		good := diloco.Delta{
			Parent: st.Head, Round: st.Round, State: st.State, Block: wire.SumCID(wire.CodecRaw, []byte("payload")),
			Bytes: 10, Steps: 1, Tokens: 16, Loss: 1,
		}
		wrongRound, wrongState := good, good
		wrongRound.Round++
		wrongState.State = other
		nan := s.body(&good)
		at := bytes.Index(nan, []byte("dloss")) + 5
		copy(nan[at:], []byte{0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0})

		type message struct {
			what, want string
			data       func(p *impostor) []byte
		}
		said := func(kind wire.Kind, run wire.CID, v any) func(*impostor) []byte {
			return func(p *impostor) []byte { return p.signed(kind, run, v) }
		}
		bad := []message{
			{"truncated", "malformed", func(p *impostor) []byte { return p.signed(wire.KindDelta, s.run, &good)[:60] }},
			{"with bytes behind it", "malformed", func(p *impostor) []byte { return append(p.signed(wire.KindDelta, s.run, &good), 0) }},
			{"of the largest size, all zero", "malformed", func(*impostor) []byte { return make([]byte, gossip.MaxData) }},
			{"signed by another", "signature", func(p *impostor) []byte {
				m := p.key.Sign(wire.KindDelta, s.run, s.body(&good))
				m.From = s.peers[2].key.Peer()
				b, _ := m.Encode()
				return b
			}},
			{"of another run", "wrong run", said(wire.KindDelta, other, &good)},
			{"of a kind that has no place here", "kind", said(wire.KindAnnounce, s.run, &good)},
			{"with another kind's body", "gossip: rejected by judge", said(wire.KindVote, s.run, &good)},
			{"of the wrong round", "gossip: rejected by judge", said(wire.KindDelta, s.run, &wrongRound)},
			{"from another state", "gossip: rejected by judge", said(wire.KindDelta, s.run, &wrongState)},
			{"with a loss that is no number", "gossip: rejected by judge", func(p *impostor) []byte {
				m := p.key.Sign(wire.KindDelta, s.run, nan)
				b, _ := m.Encode()
				return b
			}},
			{"a vote of the wrong round", "gossip: rejected by judge", said(wire.KindVote, s.run, &diloco.Vote{
				Parent: st.Head, Round: st.Round + 1, Final: st.Final, FinalRound: st.FinalRound,
			})},
			{"an attestation of the wrong round", "gossip: rejected by judge", said(wire.KindAttest, s.run, &diloco.Attest{
				Head: st.Head, Round: st.Round + 1, Source: st.Final, SourceRound: st.FinalRound,
			})},
			{"evidence that is none", "gossip: rejected by judge", said(wire.KindEvidence, s.run, &diloco.Evidence{
				A: s.peers[2].key.Sign(wire.KindDelta, s.run, s.body(&good)), B: s.peers[2].key.Sign(wire.KindDelta, s.run, s.body(&good)),
			})},
			{"of a stranger", "not a member", func(p *impostor) []byte {
				st, d := s.peers[0].node.Status(), good
				d.Parent, d.Round, d.State = st.Head, st.Round, st.State
				return p.signed(wire.KindDelta, s.run, &d)
			}},
		}
		type reply struct {
			Messages [][]byte `cbor:"messages"`
		}
		rubbish := reply{}
		for i := range 20 {
			rubbish.Messages = append(rubbish.Messages, []byte(fmt.Sprint("rubbish ", i)))
		}
		answers := [][]byte{[]byte("no answer"), s.body(&rubbish), make([]byte, 9<<20)}
		before := s.rejections()
		var p *impostor
		for i, m := range bad {
			if i%3 == 0 { // a fourth rejection would make it mute
				p = s.impostor(10+i/3, answers[i/3%len(answers)])
				time.Sleep(2500 * time.Millisecond)
			}
			was := s.rejections()[m.want]
			p.send(m.data(p))
			time.Sleep(400 * time.Millisecond)
			if s.rejections()[m.want] == was {
				t.Errorf("a message %s: not counted as %q: %v", m.what, m.want, s.rejections())
			}
		}
		for _, want := range []string{"malformed sync answer", "malformed"} {
			if s.rejections()[want] <= before[want] {
				t.Errorf("not counted: %q in %v", want, s.rejections())
			}
		}
		if err := p.topic.Publish(t.Context(), make([]byte, gossip.MaxData+1)); err == nil {
			t.Error("a message over the limit was published")
		}
		for _, q := range [][]byte{nil, []byte("rubbish"), s.body(&struct {
			Run wire.CID `cbor:"run"`
		}{other})} {
			if _, err := p.host.Ask(t.Context(), s.peers[0].key.Peer(), node.SyncProto, q, 1<<20); err == nil {
				t.Errorf("the question %q was answered", q)
			}
		}
		for i := range 6 {
			p.send([]byte(fmt.Sprint("rubbish ", i)))
			time.Sleep(time.Second)
		}
		was := s.rejections()["malformed"]
		for i := range 10 {
			p.send([]byte(fmt.Sprint("more rubbish ", i)))
			time.Sleep(100 * time.Millisecond)
		}
		if n := s.rejections()["malformed"] - was; n > 0 {
			t.Errorf("%d messages were heard of one that had said nothing but rubbish", n)
		}
		t.Logf("%v", s.rejections())
		s.until("done", 5*time.Minute, isDone)
		s.unharmed(honest)
	})
}

// member makes an impostor that the roster has, as one of so many.
func (s *simSwarm) member(n, roster int) *impostor {
	s.t.Helper()
	p := s.impostor(n, nil)
	time.Sleep(3 * time.Second) // virtual: until it is connected
	st := s.peers[0].node.Status()
	addr, err := p.key.Peer().Address()
	if err != nil {
		s.t.Fatal(err)
	}
	p.say(wire.KindJoin, &diloco.Join{Since: st.Head, Round: st.Round, Role: "trainer", Address: addr})
	s.until("the impostor in the roster", time.Minute, func(st node.Status) bool { return st.Roster == roster })
	return p
}

// A member says well-formed things about worthless blocks: payloads of every
// wrong kind and commits that lie. It votes, to stay a member, and for nothing.
func TestSimSwarmHostileMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const honest = 4
		s := newSimSwarm(t, simOptions{change: func(m *manifest.Manifest) { m.Admission.MinPeers, m.Stop.Rounds = honest, 17 }})
		s.start(honest)
		s.until("round 3", 5*time.Minute, atRound(3))
		p := s.member(9, honest+1)

		payloads := badPayloads()
		names := slices.Sorted(maps.Keys(payloads))
		lies := badCommits()
		told := 0
		for round := uint64(0); ; {
			st := s.peers[0].node.Status()
			if st.Round >= s.manifest.Stop.Rounds {
				break
			}
			if st.Round == round {
				time.Sleep(50 * time.Millisecond)
				continue
			}
			round = st.Round
			head := s.commit(st.Head)
			// One attestation a round, so that nothing convicts it.
			lie := lies[int(round)%len(lies)](p, head)
			p.say(wire.KindAttest, &diloco.Attest{Head: lie, Round: round, Source: st.Final, SourceRound: st.FinalRound})
			if told < len(names) {
				d := diloco.Delta{
					Parent: st.Head, Round: st.Round, State: st.State, Bytes: uint64(len(s.payload(head))),
					Steps: s.manifest.Round.InnerSteps, Tokens: s.manifest.Round.InnerSteps * uint64(s.manifest.Inner.Batch*s.manifest.Inner.Sequence), Loss: 1,
				}
				was := s.rejections()
				payloads[names[told]](p, &d, s.payload(head))
				p.say(wire.KindDelta, &d)
				time.Sleep(time.Second)
				now := s.rejections()
				if now["bad delta"]+now["delta out of reach"] <= was["bad delta"]+was["delta out of reach"] {
					t.Errorf("a payload %s is not counted: %v", names[told], now)
				}
				told++
			}
			p.say(wire.KindVote, &diloco.Vote{Parent: st.Head, Round: st.Round, Final: st.Final, FinalRound: st.FinalRound})
		}
		if told < len(names) {
			t.Errorf("the run ended after %d of %d bad payloads", told, len(names))
		}
		if n := s.rejections()["bad commit"]; n == 0 {
			t.Errorf("no lying commit was counted: %v", s.rejections())
		}
		t.Logf("%v", s.rejections())
		s.until("done", 5*time.Minute, isDone)
		s.unharmed(honest)
	})
}

// A member attests to two heads in one round: every honest peer drops it, and keeps a
// file with which anybody can have it slashed.
func TestSimSwarmEquivocator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const honest = 4
		s := newSimSwarm(t, simOptions{change: func(m *manifest.Manifest) { m.Admission.MinPeers, m.Stop.Rounds = honest, 8 }})
		s.start(honest)
		s.until("round 2", 5*time.Minute, atRound(2))
		p := s.member(9, honest+1)
		st := s.peers[0].node.Status()
		for _, head := range []string{"one", "another"} {
			p.say(wire.KindAttest, &diloco.Attest{Head: wire.SumCID(wire.CodecDagCBOR, []byte(head)), Round: st.Round, Source: st.Final, SourceRound: st.FinalRound})
		}
		s.until("the impostor dropped", time.Minute, func(st node.Status) bool { return slices.Contains(st.Evicted, p.key.Peer()) })
		s.until("done", 5*time.Minute, isDone)
		for i := range honest {
			b, err := os.ReadFile(node.EvidenceFile(s.peers[i].dir, p.key.Peer()))
			if err != nil {
				t.Fatal(err)
			}
			var e diloco.Evidence
			if err := json.Unmarshal(b, &e); err != nil {
				t.Fatal(err)
			}
			if e.A.From != p.key.Peer() || e.A.ID() == e.B.ID() || e.A.Kind != wire.KindAttest || e.A.Verify() != nil || e.B.Verify() != nil {
				t.Errorf("peer %d keeps %+v", i, e)
			}
		}
		s.stopAll()
	})
}

// commit reads one from the first peer's store.
func (s *simSwarm) commit(c wire.CID) *diloco.Commit {
	s.t.Helper()
	b, err := s.peers[0].store.Get(context.Background(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	commit, err := diloco.DecodeCommit(b)
	if err != nil {
		s.t.Fatal(err)
	}
	return commit
}

// payload is one that a commit merged.
func (s *simSwarm) payload(c *diloco.Commit) []byte {
	s.t.Helper()
	b, err := s.peers[0].store.Get(context.Background(), c.Merged()[0].Block)
	if err != nil {
		s.t.Fatal(err)
	}
	return bytes.Clone(b)
}

// Offsets in a payload, see diloco/codec.
const (
	payloadParent = 86
	payloadPeer   = 122
	payloadBody   = 155
)

// badPayloads spoil a delta of the impostor's, or its block, one way each;
// honest is the payload of somebody else in the round before.
func badPayloads() map[string]func(p *impostor, d *diloco.Delta, honest []byte) {
	own := func(p *impostor, d *diloco.Delta, b []byte) []byte {
		peer := p.key.Peer()
		copy(b[payloadParent:], d.Parent)
		copy(b[payloadPeer:], peer[:])
		return b
	}
	return map[string]func(p *impostor, d *diloco.Delta, honest []byte){
		"that is another's": func(p *impostor, d *diloco.Delta, b []byte) { d.Block = p.put(wire.CodecRaw, b) },
		"of another round": func(p *impostor, d *diloco.Delta, b []byte) {
			old := bytes.Clone(b[payloadParent:payloadPeer])
			b = own(p, d, b)
			copy(b[payloadParent:], old)
			d.Block = p.put(wire.CodecRaw, b)
		},
		"cut short": func(p *impostor, d *diloco.Delta, b []byte) {
			d.Block = p.put(wire.CodecRaw, own(p, d, b)[:len(b)-1])
		},
		"with a byte too many": func(p *impostor, d *diloco.Delta, b []byte) {
			d.Block = p.put(wire.CodecRaw, append(own(p, d, b), 0))
		},
		"of half the parameters": func(p *impostor, d *diloco.Delta, b []byte) {
			d.Bytes /= 2
			d.Block = p.put(wire.CodecRaw, own(p, d, b)[:d.Bytes])
		},
		"of 3 MiB": func(p *impostor, d *diloco.Delta, _ []byte) { d.Block = p.put(wire.CodecDagPB, make([]byte, 3<<20)) },
		"that is noise": func(p *impostor, d *diloco.Delta, b []byte) {
			for i := range b {
				b[i] = byte(i * i * 31)
			}
			d.Block = p.put(wire.CodecRaw, b)
		},
		"with a code that is no number": func(p *impostor, d *diloco.Delta, b []byte) {
			b = own(p, d, b)
			b[len(b)-1] = 0x80
			d.Block = p.put(wire.CodecRaw, b)
		},
		"with an endless scale": func(p *impostor, d *diloco.Delta, b []byte) {
			b = own(p, d, b)
			b[payloadBody] = 0xff
			d.Block = p.put(wire.CodecRaw, b)
		},
		"that is a commit": func(_ *impostor, d *diloco.Delta, _ []byte) { d.Block = d.Parent },
		"of more steps than a round has": func(p *impostor, d *diloco.Delta, b []byte) {
			d.Steps, d.Tokens = 2*d.Steps, 2*d.Tokens
			d.Block = p.put(wire.CodecRaw, own(p, d, b))
		},
		"that nobody has": func(_ *impostor, d *diloco.Delta, _ []byte) {
			d.Block = wire.SumCID(wire.CodecRaw, []byte("nowhere"))
		},
	}
}

// badCommits make commits that compete with head, which is true, and lie.
func badCommits() []func(p *impostor, head *diloco.Commit) wire.CID {
	changed := func(change func(p *impostor, c *diloco.Commit)) func(*impostor, *diloco.Commit) wire.CID {
		return func(p *impostor, head *diloco.Commit) wire.CID {
			c := *head
			change(p, &c)
			b, err := c.Encode()
			if err != nil {
				p.s.t.Fatal(err)
			}
			return p.put(wire.CodecDagCBOR, b)
		}
	}
	return []func(*impostor, *diloco.Commit) wire.CID{
		changed(func(p *impostor, c *diloco.Commit) { // verifies, but leads elsewhere
			state, err := p.store.PutDir(context.Background(), readers(map[string][]byte{"config.json": []byte("{}")}))
			if err != nil {
				p.s.t.Fatal(err)
			}
			c.State = state
		}),
		changed(func(_ *impostor, c *diloco.Commit) { c.Cursor += 1000 }),
		changed(func(_ *impostor, c *diloco.Commit) { c.Votes = c.Votes[:1] }),
		changed(func(_ *impostor, c *diloco.Commit) { c.Deltas = nil }),
		changed(func(p *impostor, c *diloco.Commit) {
			c.Roster = slices.Clone(c.Roster)
			for i := range c.Roster {
				if c.Roster[i].Peer == p.key.Peer() {
					c.Roster[i].Weight *= 1000
				} else {
					c.Roster[i].Banned = true
				}
			}
		}),
		func(p *impostor, _ *diloco.Commit) wire.CID {
			return p.put(wire.CodecDagCBOR, []byte("not a commit"))
		},
	}
}

package diloco

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// FuzzOpen: no body makes a decoder panic, and what is accepted has one form.
func FuzzOpen(f *testing.F) {
	s, _, c := audited(f, 4)
	for kind := wire.KindJoin; kind <= wire.KindTally; kind++ {
		f.Add(uint8(kind), c.Votes[0].Body)
	}
	for _, p := range s.peers {
		for _, m := range p.own {
			f.Add(uint8(m.Kind), m.Body)
		}
	}
	poor := Vote{Parent: c.Parent, Round: c.Round, Final: c.Final, FinalRound: c.FinalRound}
	for _, p := range []int{0, 1, 1} { // ascending by chance or not, then twice the same
		poor.Unstaked = append(poor.Unstaked, s.peers[p].key.Peer())
		b, err := wire.Marshal(&poor)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(wire.KindVote), b)
	}
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		msg := wire.Signed{Kind: wire.Kind(kind), Run: s.cfg.Run, From: s.peers[0].key.Peer(), Body: body}
		m, err := Open(&msg)
		if err != nil {
			return
		}
		again, err := wire.Marshal(m.Body)
		if err != nil || string(again) != string(body) {
			t.Fatalf("accepted %s is not canonical: %v", msg.Kind, err)
		}
		s.peers[0].m.Judge(&msg)
	})
}

// taker hands out parts of the fuzzer's bytes.
type taker struct{ b []byte }

func (f *taker) byte() byte {
	if len(f.b) == 0 {
		return 0
	}
	x := f.b[0]
	f.b = f.b[1:]
	return x
}

func pick[T any](f *taker, from []T) T { return from[int(f.byte())%len(from)] }

// FuzzStep: whatever happens to a machine, in whatever order, it does not
// panic, contradict itself, or ask for anything without bound.
func FuzzStep(f *testing.F) {
	f.Add([]byte{})
	for seed := range byte(24) {
		b := make([]byte, 400)
		x := uint32(seed) + 1
		for i := range b {
			x = x*1664525 + 1013904223
			b[i] = byte(x >> 24)
		}
		f.Add(b)
	}
	s := newSwarm(f, 4, Config{StopRound: 12, LateRounds: 2, AuditRate: 9_000, AuditWindow: 4})
	s.cfg.Role = validator
	for i := range 2 {
		s.add(testKey(f, 4+i))
	}
	s.to(8) // coins are shown
	chain := s.chain(s.peers[0])
	var cids []wire.CID
	var commits []*Commit
	var old []wire.Signed
	for _, c := range chain {
		cids = append(cids, s.note(c), c.State)
		commits = append(commits, c)
		old = append(old, c.Votes...)
		old = append(old, c.Deltas...)
		old = append(old, c.Joins...)
		old = append(old, c.Verdicts...)
		for _, list := range [][]wire.Signed{c.Deltas, c.Verdicts} {
			for i := range list {
				cids = append(cids, list[i].ID())
			}
		}
	}
	cids = append(cids, "", wire.SumCID(wire.CodecRaw, []byte("nothing")), wire.SumCID(wire.CodecDagCBOR, []byte("nowhere")))
	var peers []*wire.Key
	for i := range 6 {
		peers = append(peers, testKey(f, i))
	}
	rounds := []uint64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, maxRound}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := &taker{b}
		cfg := s.cfg
		self := s.peers[0].key
		if cfg.Role = trainer; in.byte()%2 == 0 {
			self = s.peers[4].key
			cfg.Role, cfg.Coin = validator, swarmCoin(self)
		}
		cfg.Self = self.Peer()
		cfg.Verify = func(*wire.Signed) error { return nil }
		standing := in.byte()
		cfg.Stake = func(p wire.PeerID, _ string) Standing { return Standing((standing + p[5]) % 3) }
		m := New(cfg, s.genesis)
		now := s.now
		var signed []wire.Signed
		var said []*Message
		var fetch []wire.CID
		key := uint64(0)
		var train Train
		know := append([]wire.CID(nil), cids...)
		take := func(list []Effect) {
			if len(list) > 2000 {
				t.Fatalf("%d effects at once", len(list))
			}
			for _, e := range list {
				switch e := e.(type) {
				case Sign:
					msg := wire.Signed{Kind: e.Kind, Run: cfg.Run, From: cfg.Self, Body: e.Body, Sig: make([]byte, 65)}
					o, err := Open(&msg)
					if err != nil {
						t.Fatalf("it signs what nobody takes: %v", err)
					}
					for _, x := range said {
						if conflict(x, o) {
							t.Fatalf("it contradicts itself: %+v and %+v", x.Body, o.Body)
						}
					}
					said = append(said, o)
					signed = append(signed, msg)
					know = append(know, o.ID)
				case FetchDelta:
					fetch = append(fetch, e.ID)
				case Merge:
					key = e.Key
				case Train:
					train = e
				case Adopt:
					know = append(know, e.Head, e.Commit.State)
					commits = append(commits, e.Commit)
				}
			}
		}
		n := len(commits)
		defer func() { commits = commits[:n] }()
		if in.byte()%2 == 0 {
			take(m.Start(now))
		} else {
			from := 1 + int(in.byte())%(len(chain)-1)
			take(m.Restore(now, chain[from:], nil))
		}
		for steps := 0; len(in.b) > 0 && steps < 300; steps++ {
			for len(signed) > 0 {
				msg := signed[0]
				signed = signed[1:]
				take(m.Step(now, Heard{msg}))
			}
			var ev Event
			cid := func() wire.CID { return pick(in, know) }
			hear := func(kind wire.Kind, body any) Event {
				b, err := wire.Marshal(body)
				if err != nil {
					return Tick{}
				}
				msg := wire.Signed{Kind: kind, Run: cfg.Run, From: pick(in, peers).Peer(), Body: b, Sig: make([]byte, 65)}
				if msg.From == cfg.Self {
					return Tick{} // nobody else can sign for it
				}
				know = append(know, msg.ID())
				m.Judge(&msg)
				return Heard{msg}
			}
			verdict := func() *Verdict {
				v := &Verdict{Subject: cid(), Peer: pick(in, peers).Peer(), Round: pick(in, rounds), Segment: uint64(in.byte() % 5), Finding: Finding(in.byte() % 3)}
				if v.Finding != Withheld {
					v.Work = []byte{1}
				}
				if v.Finding != Pass {
					v.Evidence = cid()
				}
				if in.byte()%2 == 0 {
					v.Coin = swarmCoin(s.peers[4].key).Reveal(v.Round + 1)
				}
				return v
			}
			switch in.byte() % 17 {
			case 0:
				j := &Join{Since: cid(), Round: pick(in, rounds), Role: trainer, Leave: in.byte()%4 == 0}
				if in.byte()%2 == 0 {
					j.Role, j.Coin = validator, [32]byte{1}
				}
				ev = hear(wire.KindJoin, j)
			case 1, 2:
				ev = hear(wire.KindDelta, &Delta{Parent: cid(), Round: pick(in, rounds), State: cid(), Block: cid(), Steps: 1, Tokens: uint64(in.byte()) + 1, Trace: cid()})
			case 3, 4:
				v := &Vote{Parent: cid(), Round: pick(in, rounds), Final: cid(), FinalRound: pick(in, rounds)}
				for range in.byte() % 4 {
					v.Deltas = append(v.Deltas, cid())
				}
				for range in.byte() % 3 {
					v.Verdicts = append(v.Verdicts, cid())
				}
				if in.byte()%2 == 0 {
					v.Coin = swarmCoin(s.peers[4].key).Reveal(v.Round - min(v.Round, uint64(in.byte()%6)))
				}
				for range in.byte() % 2 {
					v.Evict = append(v.Evict, pick(in, peers).Peer())
				}
				for range in.byte() % 3 {
					if p := pick(in, peers).Peer(); !slices.Contains(v.Unstaked, p) {
						v.Unstaked = append(v.Unstaked, p)
					}
				}
				slices.SortFunc(v.Unstaked, wire.PeerID.Compare)
				ev = hear(wire.KindVote, v)
			case 5, 6:
				ev = hear(wire.KindAttest, &Attest{Head: cid(), Round: pick(in, rounds), Source: cid(), SourceRound: pick(in, rounds)})
			case 7:
				msg := pick(in, old)
				if msg.From != cfg.Self {
					ev = Heard{msg}
				}
			case 8:
				ev = CommitFetched{CID: cid(), Commit: pick(in, commits)}
				if in.byte()%4 == 0 {
					ev = CommitFetched{CID: cid(), Err: errors.New("out of reach")}
				}
			case 9:
				if len(fetch) > 0 {
					ev = DeltaChecked{ID: pick(in, fetch)}
				} else {
					ev = DeltaChecked{ID: cid(), Err: errors.New("bad"), Final: true}
				}
			case 10:
				ev = Merged{Key: key, State: cid()}
			case 11:
				ev = StateFetched{State: cid()}
			case 12:
				ev = Trained{Delta{Parent: train.Head, Round: train.Round, State: train.State, Block: cid(), Steps: uint64(in.byte()), Tokens: uint64(in.byte()), Trace: cid()}}
			case 13:
				now = now.Add(time.Duration(in.byte()) * time.Second)
				if w := m.Wake(); in.byte()%2 == 0 && w.After(now) {
					now = w
				}
				ev = Tick{}
			case 14, 15:
				ev = hear(wire.KindVerdict, verdict())
			case 16:
				ev = Audited{*verdict()}
			}
			if ev != nil {
				take(m.Step(now, ev))
			}
			if w := m.Wake(); !w.IsZero() && w.Before(now) {
				t.Fatalf("it wants to have been woken %v ago", now.Sub(w))
			}
		}
		if got := len(m.Messages()); got > maxMessages {
			t.Fatalf("%d messages for a newcomer", got)
		}
		m.Status()
	})
}

package diloco

import (
	"slices"
	"testing"
	"time"
)

func TestEnds(t *testing.T) {
	judge := []Member{{Peer: peerID("t"), Role: trainer}, {Peer: peerID("v"), Role: validator}}
	banned := []Member{{Peer: peerID("t"), Role: trainer}, {Peer: peerID("v"), Role: validator, Banned: true}}
	open := []Case{{Subject: "x"}}
	for _, x := range []struct {
		what         string
		c            Commit
		stop, window uint64
		want         bool
	}{
		{"no stop rule", Commit{Round: 100}, 0, 0, false},
		{"before it", Commit{Round: 9}, 10, 0, false},
		{"no audits", Commit{Round: 10, Roster: judge}, 10, 0, true},
		{"no validators", Commit{Round: 10, Roster: judge[:1]}, 10, 8, true},
		{"banned ones", Commit{Round: 10, Roster: banned, Cases: open}, 10, 8, true},
		{"audits", Commit{Round: 10, Roster: judge}, 10, 8, false},
		{"still", Commit{Round: 17, Roster: judge}, 10, 8, false},
		{"audited", Commit{Round: 18, Roster: judge}, 10, 8, true},
		{"but a case", Commit{Round: 18, Roster: judge, Cases: open}, 10, 8, false},
	} {
		if got := x.c.Ends(x.stop, x.window); got != x.want {
			t.Errorf("%s: %v", x.what, got)
		}
	}
}

// done returns what a peer was told of the end, nil if nothing.
func (p *swarmPeer) done() (out *Done) {
	for _, e := range p.effects {
		if d, ok := e.(Done); ok {
			out = &d
		}
	}
	return out
}

// A lie of the last round is convicted in closing rounds, which last as long as any other; all end with one
// commit, also who is restarted then, and who comes when all is over. What a case keeps open it keeps
// open for all.
func TestClosingRounds(t *testing.T) {
	for _, waits := range []bool{false, true} {
		const stop, window = 5, 3
		s := watchedBy(t, Config{StopRound: stop, WindowsEach: 3, AuditRate: 10_000, AuditWindow: window})
		guilty := s.peers[1].key.Peer()
		for i, p := range s.peers[3:] {
			p.finds = func(v Verdict) Verdict {
				if v.Peer == guilty && v.Round == stop-1 {
					if waits && i > 0 {
						return Verdict{} // nobody else can tell
					}
					v.Finding, v.Evidence = Wrong, v.Subject
				}
				return v
			}
			p.replies = func(k Case) *Verdict {
				if waits || slices.Contains(k.Wrong, p.key.Peer()) {
					return nil
				}
				return &Verdict{Subject: k.Subject, Peer: k.Peer, Round: k.Round, Segment: k.Segment, Finding: Wrong, Evidence: k.Subject}
			}
		}
		s.to(stop)
		began := s.now
		over := func() bool {
			return !slices.ContainsFunc(s.peers, func(p *swarmPeer) bool { return p.done() == nil })
		}
		s.run(over)
		took := s.now.Sub(began)
		s.verified()
		end := s.peers[0].done()
		before := s.commits[end.Commit.Parent]
		if !end.Commit.Ends(stop, window) || before.Ends(stop, window) {
			t.Errorf("ends in round %d: %+v", end.Commit.Round, end.Commit.Cases)
		}
		got, rounds := convictions(s.chain(s.peers[0]))
		if waits {
			if len(got) > 0 || end.Commit.Round != stop+1+window+1 {
				t.Errorf("ends in round %d, convicted %+v", end.Commit.Round, got)
			}
		} else if len(got) != 1 || got[0].Peer != guilty || got[0].Why != WhyWork || rounds[0] <= stop || end.Commit.Round != stop+window {
			t.Errorf("ends in round %d, convicted in %v: %+v", end.Commit.Round, rounds, got)
		}
		if least := time.Duration(end.Commit.Round-stop) * s.peers[0].m.cfg.shortest(before.Roster); took < least {
			t.Errorf("%d closing rounds in %v, want at least %v", end.Commit.Round-stop, took, least)
		}
		for r, c := range s.chain(s.peers[0]) {
			if r > stop && (len(c.Deltas) > 0 || c.Cursor != end.Commit.Cursor) {
				t.Errorf("round %d has work", r)
			}
		}
		// A restart, by what the disk has.
		p := s.peers[2]
		st := p.m.Status()
		chain := slices.DeleteFunc(s.chain(p), func(c *Commit) bool { return c.Round < st.Keep })
		p.effects = nil
		cfg := p.m.cfg
		p.m = New(cfg, s.genesis)
		s.queue = nil
		s.perform(p, p.m.Restore(s.now, chain, p.own))
		s.perform(p, p.m.Recall(st.Final))
		// And a newcomer.
		s.cfg.Role = observer
		q := s.add(testKey(t, 30))
		for _, msg := range s.peers[0].m.Messages() {
			s.step(q, Heard{msg})
		}
		s.run(over)
		for i, p := range s.peers {
			if id := mustCID(t, p.done().Commit); id != mustCID(t, end.Commit) || id != p.done().CID {
				t.Errorf("peer %d ends with round %d", i, p.done().Commit.Round)
			}
			if st := p.m.Status(); !st.Done || st.Phase != "done" {
				t.Errorf("peer %d: %s", i, st.Phase)
			}
		}
	}
}

// With one validator no case can be decided; its audits have their time all the same. Without any, or without audits, the run
// ends as it did before there were closing rounds.
func TestNoClosingRounds(t *testing.T) {
	for _, x := range []struct {
		rate uint64
		n    int
		want uint64
	}{{10_000, 0, 5}, {0, 2, 5}, {10_000, 1, 8}} {
		s := newSwarm(t, 3, Config{StopRound: 5, AuditRate: x.rate, AuditWindow: 3})
		s.cfg.Role = validator
		for i := range x.n {
			s.add(testKey(t, 10+i))
		}
		s.run(func() bool {
			return !slices.ContainsFunc(s.peers, func(p *swarmPeer) bool { return p.done() == nil })
		})
		if got := s.peers[0].done().Commit.Round; got != x.want {
			t.Errorf("rate %d, %d validators: ends in round %d, want %d", x.rate, x.n, got, x.want)
		}
	}
}

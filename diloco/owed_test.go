package diloco

import (
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// watched returns a swarm of three trainers and four validators, all of whose work is audited, with
// a window of three rounds: each coin chooses three audits, and owes one.
func watched(t testing.TB) *swarm {
	t.Helper()
	return watchedBy(t, Config{StopRound: 40, WindowsEach: 3, AuditRate: 10_000, AuditWindow: 3})
}

func watchedBy(t testing.TB, cfg Config) *swarm {
	t.Helper()
	s := newSwarm(t, 3, cfg)
	s.cfg.Role = validator
	for i := range 4 {
		s.add(testKey(t, 10+i))
	}
	return s
}

// nothing is what a silent validator says.
func nothing(Verdict) Verdict { return Verdict{} }

func withheld(v Verdict) Verdict {
	v.Finding, v.Work, v.Evidence = Withheld, nil, v.Subject
	return v
}

// verified checks the whole chain and returns it.
func (s *swarm) verified() []*Commit {
	s.t.Helper()
	chain := s.chain(s.peers[0])
	for i, c := range chain[1:] {
		if err := VerifyCommit(s.cfg, chain[i], c, s.past); err != nil {
			s.t.Fatal(err)
		}
	}
	return chain
}

func convictions(chain []*Commit) (out []Conviction, rounds []uint64) {
	for _, c := range chain {
		for _, x := range c.Convicted {
			out, rounds = append(out, x), append(rounds, c.Round)
		}
	}
	return out, rounds
}

// Who says nothing is removed with the tenth audit missed in a row, when its window
// has closed; the others owe nothing, and nobody else is touched.
func TestSilentValidatorIsRemoved(t *testing.T) {
	s := watched(t)
	mute := s.peers[4]
	mute.finds = nothing
	s.to(20)
	chain := s.verified()
	got, rounds := convictions(chain)
	if len(got) != 1 || got[0].Peer != mute.key.Peer() || got[0].Why != WhySilent || !got[0].Subject.Defined() {
		t.Fatalf("%+v", got)
	}
	since := memberIn(chain[rounds[0]-1].Roster, mute.key.Peer()).Since
	if want := since + 10 + s.cfg.AuditWindow + 1; rounds[0] != want { // one of each coin
		t.Errorf("removed in round %d, in the roster since %d: want %d", rounds[0], since, want)
	}
	last := chain[len(chain)-1]
	for i, p := range s.peers {
		e := memberIn(last.Roster, p.key.Peer())
		if p == mute {
			if !e.silenced() || e.Weight != 0 {
				t.Errorf("%+v", e)
			}
			continue
		}
		if e == nil || e.Banned || e.Missed != 0 || i > 2 && e.Shown != last.Round-1-s.cfg.AuditWindow {
			t.Errorf("peer %d: %+v", i, e)
		}
	}
	// All of it is checked.
	parent, c := chain[rounds[0]-1], chain[rounds[0]]
	other := s.peers[5].key.Peer()
	for _, test := range []struct {
		name, want string
		change     func(c *Commit)
	}{
		{"spared", "convicted", func(c *Commit) { c.Convicted = nil }},
		{"for something else", "convicted", func(c *Commit) { c.Convicted[0].Why = WhyWork }},
		{"of another audit", "convicted", func(c *Commit) { c.Convicted[0].Segment++ }},
		{"another too", "convicted", func(c *Commit) { c.Convicted = append(c.Convicted, Conviction{Peer: other, Why: WhySilent}) }},
		{"its account", "roster", func(c *Commit) { memberIn(c.Roster, mute.key.Peer()).Missed = 0 }},
		{"another's account", "roster", func(c *Commit) { memberIn(c.Roster, other).Missed = 2 }},
		{"another's coin", "roster", func(c *Commit) { memberIn(c.Roster, other).Coin[0] ^= 1 }},
		{"what it has shown", "roster", func(c *Commit) { memberIn(c.Roster, other).Shown++ }},
	} {
		bad := clone(t, c)
		test.change(bad)
		if err := VerifyCommit(s.cfg, parent, bad, s.past); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one about %q", test.name, err, test.want)
		}
	}
}

// A vote that does not show the coin that it must convicts its sender in that very
// commit, whatever it shows instead; where none is due anything may be shown.
func TestHiddenCoin(t *testing.T) {
	for name, shows := range map[string]func(v Vote, own *audit.Coin) []byte{
		"nothing":          func(Vote, *audit.Coin) []byte { return nil },
		"another's":        func(v Vote, _ *audit.Coin) []byte { return testCoin("other").Reveal(v.Round - 3) },
		"another round's":  func(v Vote, own *audit.Coin) []byte { return own.Reveal(v.Round - 2) },
		"the one before's": func(v Vote, own *audit.Coin) []byte { return own.Reveal(v.Round - 4) },
	} {
		s := watched(t)
		p := s.peers[6]
		p.says = func(v Vote) *Vote {
			if v.Round == 2 {
				v.Coin = testCoin("other").Reveal(1) // not asked for
			}
			if v.Round == 7 {
				v.Coin = shows(v, swarmCoin(p.key))
			}
			return &v
		}
		s.to(10)
		got, rounds := convictions(s.verified())
		if len(got) != 1 || got[0].Peer != p.key.Peer() || got[0].Why != WhySilent || got[0].Subject.Defined() || rounds[0] != 8 {
			t.Errorf("%s: %+v in %v", name, got, rounds)
		}
	}
}

// An honest peer whose coin is not the roster's does not vote where it would have to show it.
func TestNoVoteWithoutCoin(t *testing.T) {
	s := watched(t)
	p := s.peers[5]
	s.to(5)
	p.m.cfg.Coin = testCoin("other")
	s.to(9)
	chain := s.verified()
	if got, _ := convictions(chain); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	if e := memberIn(chain[9].Roster, p.key.Peer()); e != nil && e.Since < 5 && e.Silent == 0 {
		t.Errorf("it goes on voting: %+v", e)
	}
}

// Withheld is an answer, unless 2/3 could look.
func TestWithheldIsAnAnswer(t *testing.T) {
	s := watched(t)
	for _, p := range s.peers[3:] {
		p.finds = func(v Verdict) Verdict {
			if v.Peer == s.peers[1].key.Peer() {
				return withheld(v) // nobody gets anything from it
			}
			return v
		}
	}
	s.to(14)
	for _, m := range s.verified()[14].Roster {
		if m.Missed != 0 {
			t.Errorf("%+v", m)
		}
	}
	s = watched(t)
	lazy := s.peers[3]
	lazy.finds = withheld
	for _, p := range s.peers[4:] {
		p.answers = true
	}
	s.to(18)
	if got, _ := convictions(s.verified()); len(got) != 1 || got[0].Peer != lazy.key.Peer() || got[0].Why != WhySilent {
		t.Errorf("who finds nothing ever, where all others do: %+v", got)
	}
}

// Who misses some and answers others stays: one in three at most, in the long run.
func TestSomeAreForgiven(t *testing.T) {
	s := watched(t)
	n := 0
	s.peers[4].finds = func(v Verdict) Verdict {
		if n++; n%4 == 0 {
			return Verdict{}
		}
		return v
	}
	s.to(24)
	chain := s.verified()
	if got, _ := convictions(chain); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	if e := memberIn(chain[24].Roster, s.peers[4].key.Peer()); e == nil || e.Missed >= audit.MissLimit/2 {
		t.Errorf("%+v", e)
	}
}

// A member that was away for some votes settles all rounds with its next one, and is not
// asked for what it did in time.
func TestSettlesAfterAbsence(t *testing.T) {
	for _, mute := range []bool{false, true} {
		s := watched(t)
		p := s.peers[3]
		if mute {
			p.finds = nothing
		}
		p.says = func(v Vote) *Vote {
			if v.Round >= 5 && v.Round%3 != 0 { // two of three
				return nil
			}
			return &v
		}
		s.to(23)
		chain := s.verified()
		got, rounds := convictions(chain)
		if mute && (len(got) != 1 || got[0].Why != WhySilent || rounds[0] > 20) || !mute && len(got) != 0 {
			t.Errorf("mute %v: %+v in %v", mute, got, rounds)
		}
		if e := memberIn(chain[23].Roster, p.key.Peer()); !mute && (e == nil || e.Since > 4 || e.Missed != 0 || e.Shown < 17) {
			t.Errorf("%+v", e)
		}
	}
}

// A window that ends after the stop rule's round costs nobody its seat, also in closing rounds.
func TestNothingIsOwedAtTheEnd(t *testing.T) {
	s := newSwarm(t, 3, Config{StopRound: 8, AuditRate: 10_000, AuditWindow: 3})
	s.cfg.Role = validator
	for i := range 3 {
		s.add(testKey(t, 10+i))
	}
	since := uint64(0)
	for _, p := range s.peers[3:] {
		p.finds = func(v Verdict) Verdict {
			if v.Round >= 5 {
				return Verdict{}
			}
			return v
		}
	}
	s.to(11)
	for _, c := range s.verified() {
		for _, m := range c.Roster {
			since = max(since, m.Since)
			if m.Missed != 0 {
				t.Errorf("round %d: %+v", c.Round, m)
			}
		}
	}
	if since == 0 {
		t.Fatal("nothing happened")
	}
}

// A ban for silence does not protect from what else is found; any other ban is the last word.
func TestSilenceIsNoShelter(t *testing.T) {
	liar, mute := peerID("l"), peerID("m")
	parent := &Commit{Round: 9, Roster: []Member{
		{Peer: liar, Role: validator, Banned: true},
		{Peer: mute, Role: validator, Banned: true, Missed: audit.MissLimit},
		{Peer: peerID("v"), Role: validator, Weight: 1}, {Peer: peerID("w"), Role: validator, Weight: 1},
	}}
	for _, p := range []wire.PeerID{liar, mute} {
		parent.Cases = append(parent.Cases, Case{
			Subject: wire.CID(p[:]), Peer: p, Round: 7, Opened: 8, Wrong: []wire.PeerID{peerID("v"), peerID("w")},
		})
	}
	slices.SortFunc(parent.Cases, func(x, y Case) int { return compareAbout(x.about(), y.about()) })
	cfg := Config{AuditRate: 1}.withDefaults()
	a := &assembly{cfg: &cfg, parent: parent, past: func(wire.CID) *Commit { return nil }}
	all := func(wire.PeerID) bool { return true }
	_, guilty := a.judge(nil, nil, all)
	if len(guilty) != 1 || guilty[0].Peer != mute || guilty[0].Why != WhyWork {
		t.Fatalf("%+v", guilty)
	}
	next := nextRoster(&cfg, parent, all, guilty, nil, nil, nil)
	if e := memberIn(next, mute); !e.Banned || punishable(e) {
		t.Errorf("%+v", e)
	}
}

// Where commits are full of verdicts, there may have been no room for another: a miss
// counts only where half of the window's commits had some.
func TestNoRoomIsNoMiss(t *testing.T) {
	of := wire.PeerID{}
	open := func(*wire.Signed) (*Message, error) {
		return &Message{Body: &Verdict{Subject: "another", Peer: of}}, nil
	}
	for full, want := range map[int]bool{0: true, 3: true, 4: false, 8: false} {
		chain := map[wire.CID]*Commit{}
		var parent *Commit
		id := func(r uint64) wire.CID { return wire.CID(rune(r)) }
		for r := range uint64(12) {
			c := &Commit{Round: r, Parent: id(r - 1)}
			if r > 3 && int(r) <= 3+full {
				c.Verdicts = make([]wire.Signed, MaxVerdicts*7/8)
			}
			c.Roster = []Member{{Peer: peerID("w"), Role: validator}}
			chain[id(r)], parent = c, c
		}
		cfg := Config{AuditRate: 1, Open: open}.withDefaults()
		a := &assembly{cfg: &cfg, parent: parent, past: func(id wire.CID) *Commit { return chain[id] }}
		b := a.newBooks()
		if got := b.missed(peerID("v"), about{"subject", 0}, 3); got != want {
			t.Errorf("%d full commits of 8: missed %v", full, got)
		}
		of = peerID("w") // verdicts on verdicts leave room
		if b = a.newBooks(); !b.missed(peerID("v"), about{"subject", 0}, 3) {
			t.Errorf("%d commits full of cross-checks: not missed", full)
		}
		of = wire.PeerID{}
	}
}

package diloco

import (
	"slices"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Four peers agree on a chain; every commit of it verifies and survives its
// encoding; every delta is merged once.
func TestChainVerifies(t *testing.T) {
	s := newSwarm(t, 4, Config{StopRound: 8, WindowsEach: 5})
	s.run(func() bool {
		return !slices.ContainsFunc(s.peers, func(p *swarmPeer) bool { return !p.m.Status().Done })
	})
	chain := s.chain(s.peers[0])
	cfg := s.cfg
	for i, c := range chain {
		b, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		d, err := DecodeCommit(b)
		if err != nil {
			t.Fatalf("round %d: %v", c.Round, err)
		}
		if i == 0 {
			continue
		}
		if err := VerifyCommit(cfg, chain[i-1], d, s.past); err != nil {
			t.Errorf("round %d: %v", c.Round, err)
		}
		want := 4
		if i == 1 || uint64(i) > cfg.StopRound {
			want = 0
		}
		merged := d.Merged()
		if len(merged) != want || len(d.Votes) != 4 || d.Weak {
			t.Errorf("round %d: %d deltas, %d votes, weak %v", d.Round, len(merged), len(d.Votes), d.Weak)
		}
		if got := testMerge(Merge{State: chain[i-1].State, Parent: d.Parent, Round: d.Round, Deltas: merged}); got != d.State {
			t.Errorf("round %d: the state is not that of Merged", d.Round)
		}
		if want := 20 * uint64(min(max(i-1, 0), 7)); d.Cursor != want {
			t.Errorf("round %d: cursor %d, want %d", d.Round, d.Cursor, want)
		}
	}
	for i, p := range s.peers {
		if p.final == nil || p.final.Round < 8 {
			t.Errorf("peer %d: final is %+v", i, p.final)
		}
		in, out := 0, 0
		for _, e := range p.effects {
			switch e.(type) {
			case Included:
				in++
			case Expired:
				out++
			}
		}
		if in != 7 || out != 0 {
			t.Errorf("peer %d: %d deltas included, %d expired", i, in, out)
		}
	}
}

// A machine that Restore rebuilds stands where it stood, contradicts nothing,
// trains what it was training and finishes the run.
func TestRestore(t *testing.T) {
	s := newSwarm(t, 4, Config{StopRound: 12})
	s.to(6)
	p := s.peers[1]
	was := p.m.Status()
	var chain []*Commit
	for _, c := range s.chain(p) {
		if c.Round >= was.Keep {
			chain = append(chain, c)
		}
	}
	cfg := s.cfg
	cfg.Self = p.key.Peer()
	said := len(p.own)
	p.m = New(cfg, s.genesis)
	p.effects = nil
	s.queue = nil // what was under way died with it
	s.perform(p, p.m.Restore(s.now, chain, p.own))
	now := p.m.Status()
	if now.Head != was.Head || now.Round != was.Round || now.FinalRound+2 < was.FinalRound || !now.Member {
		t.Errorf("was %+v\nnow %+v", was, now)
	}
	s.to(12)
	seen := map[string]wire.CID{}
	for _, msg := range p.own {
		m, err := Open(&msg)
		if err != nil {
			t.Fatal(err)
		}
		about := msg.Kind.String()
		switch b := m.Body.(type) {
		case *Vote:
			about += string(b.Parent)
		case *Delta:
			about += string(b.Parent)
		case *Attest:
			about += time.Duration(b.Round).String()
		default:
			continue
		}
		if old, ok := seen[about]; ok && old != m.ID {
			t.Errorf("two different %ss about one thing", msg.Kind)
		}
		seen[about] = m.ID
	}
	if len(p.own) <= said {
		t.Error("it said nothing any more")
	}
}

// A chain with a hole, or none, does no harm: the machine begins where the
// chain is whole, and fetches the rest.
func TestRestoreDamaged(t *testing.T) {
	s := newSwarm(t, 3, Config{StopRound: 12})
	s.to(6)
	chain := s.chain(s.peers[0])
	for name, part := range map[string][]*Commit{
		"none": nil, "hole": append(slices.Clone(chain[:3]), chain[5:]...), "from the middle": chain[4:],
		"shuffled": {chain[3], chain[2], chain[1]},
	} {
		p := s.peers[0]
		cfg := s.cfg
		cfg.Self = p.key.Peer()
		p.m = New(cfg, s.genesis)
		s.queue = nil
		s.perform(p, p.m.Restore(s.now, part, p.own))
		for _, q := range s.peers[1:] {
			for _, msg := range q.m.Messages() {
				s.step(p, Heard{msg})
			}
		}
		target := s.peers[1].m.Status().Round
		s.run(func() bool { return p.m.Status().Round > target })
		if got := p.m.Status(); len(got.Convicted) > 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A newcomer follows, joins, and trains from the first commit that has it.
func TestNewcomer(t *testing.T) {
	s := newSwarm(t, 3, Config{StopRound: 20})
	s.to(5)
	p := s.add(testKey(t, 77))
	for _, q := range s.peers[:3] {
		for _, msg := range q.m.Messages() {
			s.step(p, Heard{msg})
		}
	}
	from := s.peers[0].m.Status().Round
	s.run(func() bool {
		return slices.ContainsFunc(s.chain(s.peers[0]), func(c *Commit) bool {
			return slices.ContainsFunc(c.Merged(), func(w Weighted) bool { return w.Peer == p.key.Peer() })
		})
	})
	// Training takes no time here, so that rounds pass while the newcomer fetches.
	if r := s.peers[0].m.Status().Round; r > from+6 {
		t.Errorf("it came in round %d, its first delta was merged in round %d", from, r)
	}
}

// One that leaves is out of the next commit's roster and trains no more.
func TestLeave(t *testing.T) {
	s := newSwarm(t, 4, Config{StopRound: 20})
	s.to(4)
	p := s.peers[2]
	s.step(p, LeaveAsked{})
	s.to(7)
	roster := s.peers[0].m.Status().Roster
	if len(roster) != 3 || memberIn(roster, p.key.Peer()) != nil {
		t.Errorf("the roster has %d members", len(roster))
	}
	if st := p.m.Status(); st.Member || st.Phase == "training" {
		t.Errorf("it is %s, member %v", st.Phase, st.Member)
	}
}

// The last one that leaves stays in the roster: when it is back, the run goes on.
func TestLastOneLeaves(t *testing.T) {
	s := newSwarm(t, 1, Config{StopRound: 12})
	s.to(4)
	p := s.peers[0]
	s.step(p, LeaveAsked{})
	s.to(6)
	if st := p.m.Status(); !st.Member || len(st.Roster) != 1 {
		t.Fatalf("member %v of %d", st.Member, len(st.Roster))
	}
	s.run(func() bool { return p.m.Status().Done })
}

// An observer follows to the end and never signs.
func TestObserver(t *testing.T) {
	s := newSwarm(t, 3, Config{StopRound: 6})
	s.cfg.Role = observer
	p := s.add(testKey(t, 50))
	s.run(func() bool { return p.m.Status().Done })
	if len(p.own) != 0 {
		t.Errorf("it signed %d messages", len(p.own))
	}
}

// After the end nobody makes commits for ever.
func TestQuietAfterDone(t *testing.T) {
	s := newSwarm(t, 4, Config{StopRound: 4})
	s.run(func() bool {
		return !slices.ContainsFunc(s.peers, func(p *swarmPeer) bool { return !p.m.Status().Done })
	})
	for len(s.queue) > 0 {
		next := s.queue[0]
		s.queue = s.queue[1:]
		next()
	}
	round := s.peers[0].m.Status().Round
	said := len(s.peers[0].own)
	for range 20 {
		s.now = s.now.Add(5 * time.Minute)
		for _, p := range s.peers {
			s.step(p, Tick{})
		}
		for len(s.queue) > 0 {
			next := s.queue[0]
			s.queue = s.queue[1:]
			next()
		}
	}
	if r := s.peers[0].m.Status().Round; r != round || len(s.peers[0].own) != said {
		t.Errorf("done at round %d, it went on to %d and said %d things more", round, r, len(s.peers[0].own)-said)
	}
	if round > 6 {
		t.Errorf("the end of round 4 took until round %d", round)
	}
}

// A trainer that comes back as a validator leaves and joins anew: its slot is
// free, its coin is in the roster, and it audits.
func TestRoleChange(t *testing.T) {
	s := newSwarm(t, 4, Config{StopRound: 16, AuditRate: 10_000, MinPeers: 3, WindowsEach: 5})
	s.to(4)
	p := s.peers[1]
	keep := p.m.Status().Keep
	chain := slices.DeleteFunc(s.chain(p), func(c *Commit) bool { return c.Round < keep })
	cfg := s.cfg
	cfg.Self, cfg.Role, cfg.Coin = p.key.Peer(), validator, swarmCoin(p.key)
	p.m = New(cfg, s.genesis)
	s.queue = nil
	s.perform(p, p.m.Restore(s.now, chain, p.own))
	for _, q := range s.peers {
		for _, msg := range p.m.Messages() {
			s.step(q, Heard{msg})
		}
	}
	s.to(12)
	c := s.chain(s.peers[0])[12]
	e := memberIn(c.Roster, cfg.Self)
	if e == nil || e.Role != validator || e.Coin != cfg.Coin.At(e.Shown) || e.Since <= 4 || count(c.Roster, trainer) != 3 {
		t.Fatalf("%+v", e)
	}
	if st := p.m.Status(); st.Role != validator || st.Phase == "training" {
		t.Errorf("it is %s as a %s", st.Phase, st.Role)
	}
	words := 0
	for i, k := range s.chain(s.peers[0]) {
		words += len(k.Verdicts)
		if k.Round > e.Since && k.Round < 13 {
			if got := k.Cursor - s.chain(s.peers[0])[i-1].Cursor; got != 15 {
				t.Errorf("round %d hands out %d windows, want those of three trainers", k.Round, got)
			}
		}
	}
	if words == 0 {
		t.Error("no verdict of its is in the chain")
	}
}

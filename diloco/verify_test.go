package diloco

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// grown returns a swarm of four whose chain has a newcomer's Join, and a
// commit of it with its parent.
func grown(t testing.TB, round uint64) (s *swarm, parent, c *Commit) {
	t.Helper()
	s = newSwarm(t, 4, Config{StopRound: 20, WindowsEach: 3})
	s.to(round + 1)
	chain := s.chain(s.peers[0])
	return s, chain[round-1], chain[round]
}

// audited returns a swarm of three trainers and three validators whose chain
// has verdicts, an open case, and a conviction in the round given; and a commit of it
// with its parent.
func audited(t testing.TB, round uint64) (s *swarm, parent, c *Commit) {
	t.Helper()
	s = newSwarm(t, 3, Config{StopRound: 20, WindowsEach: 3, AuditRate: 10_000})
	s.cfg.Role = validator
	for i := range 3 {
		s.add(testKey(t, 10+i))
	}
	accuse := func(v Verdict) Verdict {
		if v.Peer == s.peers[1].key.Peer() && v.Round == 2 {
			v.Segment, v.Finding, v.Evidence, v.Coin = 1, Wrong, v.Subject, nil // an accusation needs no coin
		}
		return v
	}
	for _, p := range s.peers[3:] {
		p.finds = accuse
	}
	s.peers[5].finds = func(v Verdict) Verdict {
		if v.Peer == s.peers[0].key.Peer() && v.Round == 2 {
			v.Segment, v.Finding, v.Evidence, v.Coin = 2, Wrong, v.Subject, nil // it lies, alone
		}
		return v
	}
	s.to(round + 1)
	chain := s.chain(s.peers[0])
	return s, chain[round-1], chain[round]
}

// clone makes a copy whose parts can be changed.
func clone(t testing.TB, c *Commit) *Commit {
	t.Helper()
	b, err := wire.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	d := new(Commit)
	if err := wire.Unmarshal(b, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// Whatever is changed in a commit, VerifyCommit says what is wrong.
func TestVerifyCommitTampered(t *testing.T) {
	s, parent, c := grown(t, 5)
	if err := VerifyCommit(s.cfg, parent, c, s.past); err != nil {
		t.Fatal(err)
	}
	stranger := testKey(t, 99)
	resign := func(m wire.Signed, change func(body any)) wire.Signed {
		msg, err := Open(&m)
		if err != nil {
			t.Fatal(err)
		}
		change(msg.Body)
		body, err := wire.Marshal(msg.Body)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.peers {
			if p.key.Peer() == m.From {
				return p.key.Sign(m.Kind, m.Run, body)
			}
		}
		t.Fatal("no such key")
		return m
	}
	for _, test := range []struct {
		name, want string
		change     func(c *Commit)
	}{
		{"version", "version", func(c *Commit) { c.Version = 2 }},
		{"run", "another run", func(c *Commit) { c.Run = parent.State }},
		{"round", "not a child", func(c *Commit) { c.Round++ }},
		{"parent", "not a child", func(c *Commit) { c.Parent = parent.Parent }},
		{"state", "state is undefined", func(c *Commit) { c.State = "" }},
		{"no votes", "no votes", func(c *Commit) { c.Votes = nil }},
		{"a vote less", "field", func(c *Commit) { c.Votes = c.Votes[1:] }},
		{"two votes less", "field", func(c *Commit) { c.Votes = c.Votes[2:] }},
		{"votes not sorted", "ascending", func(c *Commit) { slices.Reverse(c.Votes) }},
		{"a vote twice", "ascending", func(c *Commit) { c.Votes = append(c.Votes[:1:1], c.Votes...) }},
		{"a vote's signature", "signature", func(c *Commit) { c.Votes[1].Sig[5] ^= 1 }},
		{"a vote's body", "", func(c *Commit) { c.Votes[1].Body[len(c.Votes[1].Body)-3] ^= 1 }},
		{"a delta's signature", "signature", func(c *Commit) { c.Deltas[2].Sig[40] ^= 1 }},
		{"a stranger's vote", "not an active member", func(c *Commit) {
			c.Votes = append(c.Votes, stranger.Sign(wire.KindVote, c.Run, c.Votes[0].Body))
			slices.SortFunc(c.Votes, func(a, b wire.Signed) int { return a.From.Compare(b.From) })
		}},
		{"a vote about another parent", "another parent", func(c *Commit) {
			c.Votes[0] = resign(c.Votes[0], func(b any) { b.(*Vote).Parent = c.State })
		}},
		{"a vote about another round", "another parent", func(c *Commit) {
			c.Votes[0] = resign(c.Votes[0], func(b any) { b.(*Vote).Round-- })
		}},
		{"a delta as a vote", "belongs", func(c *Commit) { c.Votes[0] = c.Deltas[0] }},
		{"a delta less", "not in it", func(c *Commit) { c.Deltas = c.Deltas[1:] }},
		{"a delta nobody voted for", "deltas", func(c *Commit) {
			c.Deltas = append(c.Deltas, resign(c.Deltas[0], func(b any) { b.(*Delta).Tokens++ }))
		}},
		{"deltas not sorted", "deltas", func(c *Commit) { slices.Reverse(c.Deltas) }},
		{"a join out of nowhere", "joins", func(c *Commit) {
			body, err := wire.Marshal(&Join{Since: parent.Parent, Round: parent.Round, Role: "trainer"})
			if err != nil {
				t.Fatal(err)
			}
			c.Joins = append(c.Joins, stranger.Sign(wire.KindJoin, c.Run, body))
		}},
		{"somebody without stake", "unstaked", func(c *Commit) { c.Unstaked = []wire.PeerID{c.Roster[0].Peer} }},
		{"a member less", "roster", func(c *Commit) { c.Roster = c.Roster[1:] }},
		{"a member's weight", "roster", func(c *Commit) { c.Roster[0].Weight++ }},
		{"a member's silence", "roster", func(c *Commit) { c.Roster[0].Silent++ }},
		{"a ban", "roster", func(c *Commit) { c.Roster[0].Banned = true }},
		{"a voter's weight", "voters", func(c *Commit) { c.Voters[0].Weight *= 2 }},
		{"a voter's weight before", "voters", func(c *Commit) { c.Voters[0].Before = 0 }},
		{"changed", "changed", func(c *Commit) { c.Changed++ }},
		{"final", "final", func(c *Commit) { c.Final = c.Parent }},
		{"final round", "final", func(c *Commit) { c.FinalRound++ }},
		{"cursor", "cursor", func(c *Commit) { c.Cursor++ }},
		{"weak", "weak", func(c *Commit) { c.Weak = true }},
	} {
		bad := clone(t, c)
		test.change(bad)
		err := VerifyCommit(s.cfg, parent, bad, s.past)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one about %q", test.name, err, test.want)
		}
	}
	if err := VerifyCommit(s.cfg, parent, c, func(wire.CID) *Commit { return nil }); c.FinalRound != parent.FinalRound && err == nil {
		t.Error("final cannot be checked without the chain, and was accepted")
	}
}

// The same for what audits put into a commit.
func TestVerifyCommitTamperedAudits(t *testing.T) {
	s, parent, c := audited(t, 4)
	if err := VerifyCommit(s.cfg, parent, c, s.past); err != nil {
		t.Fatal(err)
	}
	if len(c.Verdicts) == 0 || len(c.Cases) == 0 || len(c.Convicted) != 1 || c.Convicted[0].Peer != s.peers[1].key.Peer() || c.Convicted[0].Why != WhyWork {
		t.Fatalf("%d verdicts, cases %+v, convicted %+v", len(c.Verdicts), c.Cases, c.Convicted)
	}
	if len(c.Deltas) != 3 || len(c.Merged()) != 2 {
		t.Errorf("%d deltas, %d merged: the convicted one's is not to be", len(c.Deltas), len(c.Merged()))
	}
	for _, test := range []struct {
		name, want string
		change     func(c *Commit)
	}{
		{"a verdict less", "not in it", func(c *Commit) { c.Verdicts = c.Verdicts[1:] }},
		{"a verdict nobody named", "verdicts", func(c *Commit) { c.Verdicts = append(c.Verdicts, c.Verdicts[0]) }},
		{"verdicts not sorted", "verdicts", func(c *Commit) { slices.Reverse(c.Verdicts) }},
		{"a verdict's signature", "signature", func(c *Commit) { c.Verdicts[0].Sig[4] ^= 1 }},
		{"a vote as a verdict", "belongs", func(c *Commit) { c.Verdicts[0] = c.Votes[0] }},
		{"no cases", "cases", func(c *Commit) { c.Cases = nil }},
		{"a word more in a case", "cases", func(c *Commit) { c.Cases[0].Pass = append(c.Cases[0].Pass, c.Cases[0].Peer) }},
		{"a case's evidence", "cases", func(c *Commit) { c.Cases[0].Evidence = c.State }},
		{"a case's age", "cases", func(c *Commit) { c.Cases[0].Opened-- }},
		{"nobody convicted", "convicted", func(c *Commit) { c.Convicted = nil }},
		{"another convicted", "convicted", func(c *Commit) { c.Convicted[0].Peer = s.peers[0].key.Peer() }},
		{"for something else", "convicted", func(c *Commit) { c.Convicted[0].Why = WhyWithheld }},
		{"and in the roster", "roster", func(c *Commit) { memberIn(c.Roster, s.peers[1].key.Peer()).Banned = false }},
		{"a coin", "roster", func(c *Commit) { memberIn(c.Roster, s.peers[4].key.Peer()).Coin[3] ^= 1 }},
		{"a role", "roster", func(c *Commit) { memberIn(c.Roster, s.peers[4].key.Peer()).Role = trainer }},
		{"the cursor", "cursor", func(c *Commit) { c.Cursor += 9 }},
	} {
		bad := clone(t, c)
		test.change(bad)
		err := VerifyCommit(s.cfg, parent, bad, s.past)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one about %q", test.name, err, test.want)
		}
	}
	// A coin that was fixed otherwise, or a run that audits less: the verdicts have no place.
	other := clone(t, parent)
	m := memberIn(other.Roster, s.peers[4].key.Peer())
	m.Coin = testCoin("other").At(m.Shown)
	cfg := s.cfg.withDefaults()
	if _, err := verifyCommit(&cfg, other, c.Parent, c, s.past); err == nil || !strings.Contains(err.Error(), "coin") {
		t.Errorf("another coin: %v", err)
	}
	cfg.AuditRate = 1
	if _, err := verifyCommit(&cfg, parent, c.Parent, c, s.past); err == nil || !strings.Contains(err.Error(), "did not choose") {
		t.Errorf("another rate: %v", err)
	}
}

// Every delta that is in, and every verdict that took work, is paid; the convicted get nothing.
func TestPaid(t *testing.T) {
	s, _, c := audited(t, 4)
	work, words := 0, 0
	for _, p := range c.Paid() {
		if p.Peer == s.peers[1].key.Peer() || p.Epoch != 3 || len(p.Receipt) != 65 || p.Units == 0 || !p.Subject.Defined() {
			t.Errorf("%+v", p)
		}
		if p.Kind == wire.KindDelta {
			work++
		} else {
			words++
		}
	}
	if work != len(c.Merged()) || words != len(c.Verdicts) {
		t.Errorf("%d deltas and %d verdicts paid of %d and %d", work, words, len(c.Merged()), len(c.Verdicts))
	}
}

// Merged work that an ancestor merged already is refused.
func TestVerifyCommitDoubled(t *testing.T) {
	s, parent, c := grown(t, 6)
	cfg := s.cfg.withDefaults()
	again := parent.Merged()[0]
	if d := doubled(&cfg, parent, []Weighted{again}, s.past); d == nil {
		t.Error("work of the parent, merged again, was not seen")
	}
	if d := doubled(&cfg, parent, c.Merged(), s.past); d != nil {
		t.Errorf("%+v is new", *d)
	}
}

func TestDecodeCommitBounds(t *testing.T) {
	_, _, c := grown(t, 3)
	for name, change := range map[string]func(c *Commit){
		"version":             func(c *Commit) { c.Version = 0 },
		"no state":            func(c *Commit) { c.State = "" },
		"a root in the chain": func(c *Commit) { c.Parent = "" },
		"round":               func(c *Commit) { c.Round = maxRound + 1 },
		"votes":               func(c *Commit) { c.Votes = slices.Repeat(c.Votes[:1], MaxRoster+1) },
		"roster":              func(c *Commit) { c.Roster = slices.Repeat(c.Roster[:1], 2*MaxRoster+1) },
		"verdicts":            func(c *Commit) { c.Verdicts = slices.Repeat(c.Votes[:1], 2*MaxVerdicts+1) },
		"cases":               func(c *Commit) { c.Cases = make([]Case, MaxCases+1) },
		"convictions":         func(c *Commit) { c.Convicted = make([]Conviction, 2*MaxRoster+1) },
		"unstaked":            func(c *Commit) { c.Unstaked = slices.Repeat([]wire.PeerID{c.Roster[0].Peer}, MaxRoster+1) },
		"voters":              func(c *Commit) { c.Voters = slices.Repeat(c.Voters[:1], 4*MaxRoster+1) },
	} {
		bad := clone(t, c)
		change(bad)
		b, err := wire.Marshal(bad)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeCommit(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := DecodeCommit(make([]byte, MaxCommit+1)); err == nil {
		t.Error("an oversized commit was accepted")
	}
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(b); n += 97 {
		if _, err := DecodeCommit(b[:n]); err == nil {
			t.Fatalf("truncated to %d bytes: accepted", n)
		}
	}
}

// The largest commit that honest votes make fits a block: a full roster of
// which everybody votes, names all that may be named and wants as many evicted
// as may be; and every case open, with the word of all validators but one in it.
func TestLargestCommit(t *testing.T) {
	for _, validators := range []int{0, 1, 20, 100, MaxRoster - 1} {
		c := &Commit{Version: 1, Run: testGenesis().Run, Parent: testGenesis().State, State: testGenesis().State, Round: maxRound, Final: testGenesis().Run}
		id := func(i int) wire.CID { return wire.SumCID(wire.CodecDagCBOR, []byte{byte(i), byte(i >> 8)}) }
		trainers, verdicts := MaxRoster-validators, 0
		if validators > 0 {
			verdicts = min(MaxVerdicts, MaxNames-trainers)
		}
		deltas := min(MaxNames-verdicts, 3*trainers)
		k := testKey(t, 1)
		v := Vote{Parent: c.Parent, Round: maxRound, Final: c.Final, FinalRound: maxRound}
		for i := range MaxNames {
			if i < deltas {
				v.Deltas = append(v.Deltas, id(i))
			} else if len(v.Verdicts) < verdicts {
				v.Verdicts = append(v.Verdicts, id(i))
			} else {
				v.Joins = append(v.Joins, id(i))
			}
		}
		for range MaxEvict {
			v.Evict = append(v.Evict, k.Peer())
		}
		for range MaxUnstaked {
			v.Unstaked = append(v.Unstaked, k.Peer())
		}
		sign := func(kind wire.Kind, body any) wire.Signed {
			b, err := wire.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			return wire.Signed{Kind: kind, Run: c.Run, From: k.Peer(), Body: b, Sig: make([]byte, 65)}
		}
		if validators > 0 {
			v.Coin = make([]byte, audit.RevealSize)
		}
		vote := sign(wire.KindVote, &v)
		work := sign(wire.KindDelta, &Delta{
			Parent: id(1), Round: maxRound, State: id(2), Block: id(3), Bytes: maxBytes, Steps: maxTokens, Tokens: maxTokens,
			Loss: 1.5, Trace: id(4), Epoch: maxRound, Receipt: make([]byte, 65),
		})
		word := sign(wire.KindVerdict, &Verdict{
			Subject: id(1), Peer: k.Peer(), Round: maxRound, Segment: MaxSegments - 1, Finding: Wrong, Evidence: id(2),
			Work: make([]byte, 300), Coin: make([]byte, audit.RevealSize), Epoch: maxRound, Receipt: make([]byte, 65),
		})
		join := sign(wire.KindJoin, &Join{Since: id(1), Round: maxRound, Role: validator, Coin: [32]byte{1}})
		for i := range MaxRoster {
			c.Votes = append(c.Votes, vote)
			m := Member{Peer: k.Peer(), Role: validator, Weight: memberWeight, Since: maxRound, Silent: 3, Shown: maxRound, Missed: audit.MissLimit}
			m.Coin = [32]byte{byte(i)}
			c.Roster = append(c.Roster, m)
			c.Voters = append(c.Voters, Voter{Peer: k.Peer(), Weight: memberWeight, Before: memberWeight})
		}
		c.Deltas = slices.Repeat([]wire.Signed{work}, deltas)
		c.Verdicts = slices.Repeat([]wire.Signed{word}, verdicts)
		c.Joins = slices.Repeat([]wire.Signed{join}, MaxNames-deltas-verdicts)
		for range MaxEvict {
			c.Convicted = append(c.Convicted, Conviction{Peer: k.Peer(), Why: WhyEquivocation, Subject: id(1), Evidence: id(2)})
		}
		c.Unstaked = slices.Repeat([]wire.PeerID{k.Peer()}, 2*MaxUnstaked) // each named by half
		if validators > 1 {
			words := slices.Repeat([]wire.PeerID{k.Peer()}, validators/3)
			for range MaxCases { // 2/3 would have closed it
				c.Cases = append(c.Cases, Case{Subject: id(1), Peer: k.Peer(), Round: maxRound, Opened: maxRound, Evidence: id(2), Pass: words, Wrong: words, Withheld: words})
			}
		}
		b, err := c.Encode()
		if err != nil {
			t.Errorf("%d validators: %v", validators, err)
			continue
		}
		t.Logf("%d trainers, %d validators: %d bytes of %d", trainers, validators, len(b), MaxCommit)
		if d, err := DecodeCommit(b); err != nil || !bytes.Equal(d.Votes[0].Body, vote.Body) {
			t.Error(err)
		}
	}
}

func FuzzDecodeCommit(f *testing.F) {
	s, parent, c := grown(f, 4)
	b, err := c.Encode()
	if err != nil {
		f.Fatal(err)
	}
	g, err := s.genesis.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(g)
	_, _, a := audited(f, 4)
	if b, err = a.Encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommit(b)
		if err != nil {
			return
		}
		again, err := c.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("accepted bytes are not canonical: %v", err)
		}
		c.Merged()
		if err := VerifyCommit(s.cfg, parent, c, s.past); err == nil && c.Parent != mustCID(t, parent) {
			t.Fatal("a commit of another parent verifies")
		}
	})
}

func mustCID(t testing.TB, c *Commit) wire.CID {
	t.Helper()
	id, err := c.CID()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

package diloco

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
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

// The largest commit that the bounds allow fits a block.
func TestLargestCommit(t *testing.T) {
	c := &Commit{Version: 1, Run: testGenesis().Run, Parent: testGenesis().State, State: testGenesis().State, Round: maxRound, Final: testGenesis().Run}
	id := func(i int) wire.CID { return wire.SumCID(wire.CodecDagCBOR, []byte{byte(i), byte(i >> 8)}) }
	v := Vote{Parent: c.Parent, Round: maxRound, Final: c.Final, FinalRound: maxRound}
	for i := range MaxNames {
		v.Deltas = append(v.Deltas, id(i))
	}
	body, err := wire.Marshal(&v)
	if err != nil {
		t.Fatal(err)
	}
	d := Delta{Parent: id(1), Round: maxRound, State: id(2), Block: id(3), Bytes: maxBytes, Steps: maxTokens, Tokens: maxTokens, Loss: 1.5, Trace: id(4)}
	work, err := wire.Marshal(&d)
	if err != nil {
		t.Fatal(err)
	}
	k := testKey(t, 1)
	for range MaxRoster {
		c.Votes = append(c.Votes, wire.Signed{Kind: wire.KindVote, Run: c.Run, From: k.Peer(), Body: body, Sig: make([]byte, 65)})
		c.Roster = append(c.Roster, Member{Peer: k.Peer(), Role: "trainer", Weight: memberWeight, Since: maxRound, Silent: 3})
		c.Voters = append(c.Voters, Voter{Peer: k.Peer(), Weight: memberWeight, Before: memberWeight})
	}
	for range MaxNames {
		c.Deltas = append(c.Deltas, wire.Signed{Kind: wire.KindDelta, Run: c.Run, From: k.Peer(), Body: work, Sig: make([]byte, 65)})
	}
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d members, %d bytes", MaxRoster, len(b))
	if d, err := DecodeCommit(b); err != nil || !bytes.Equal(d.Votes[0].Body, body) {
		t.Error(err)
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

package diloco

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

func TestQuorum(t *testing.T) {
	for _, test := range []struct {
		n, of           uint64
		two, half, more bool
	}{
		{0, 0, false, true, false},
		{0, 3, false, false, false},
		{1, 1, true, true, true},
		{1, 2, false, true, false},
		{2, 3, true, true, true},
		{2, 4, false, true, false},
		{3, 4, true, true, true},
		{3, 5, false, true, true},
		{4, 5, true, true, true},
		{4, 6, true, true, true},
		{4, 7, false, true, true},
		{5, 7, true, true, true},
		{133, 200, false, true, true},
		{134, 200, true, true, true},
		{100, 200, false, true, false},
	} {
		w, total := test.n*memberWeight, test.of*memberWeight
		if got := twoThirds(w, total); got != test.two {
			t.Errorf("%d of %d is two thirds: %v", test.n, test.of, got)
		}
		if got := atLeastHalf(w, total); got != test.half {
			t.Errorf("%d of %d is at least half: %v", test.n, test.of, got)
		}
		if got := overHalf(w, total); got != test.more {
			t.Errorf("%d of %d is over half: %v", test.n, test.of, got)
		}
	}
}

// Two quorums of one set share a third of it.
func TestQuorumsOverlap(t *testing.T) {
	for n := uint64(1); n <= 300; n++ {
		q := uint64(0)
		for !twoThirds(q*memberWeight, n*memberWeight) {
			q++
		}
		if 3*(2*q-n) < n {
			t.Errorf("two quorums of %d of %d share %d", q, n, 2*q-n)
		}
	}
}

// letters makes a roster of peers by their letters: "ab(c)" has c banned,
// "b2" has missed two commits.
func letters(t *testing.T, text string) []Member {
	t.Helper()
	var out []Member
	banned := false
	for _, r := range text {
		switch {
		case r == '(' || r == ')':
			banned = r == '('
		case r >= '0' && r <= '9':
			out[len(out)-1].Silent = uint64(r - '0')
		default:
			m := Member{Peer: peerID(string(r)), Role: "trainer", Weight: memberWeight, Since: 1, Banned: banned}
			if banned {
				m.Weight = 0
			}
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return a.Peer.Compare(b.Peer) })
	return out
}

func spell(roster []Member) string {
	var b strings.Builder
	for _, m := range roster {
		name := peerName(m.Peer)
		if m.Banned {
			name = "(" + name + ")"
		}
		b.WriteString(name)
		if m.Silent > 0 {
			fmt.Fprint(&b, m.Silent)
		}
	}
	return b.String()
}

func TestNextRoster(t *testing.T) {
	cfg := Config{DropAfter: 3, Admit: func(p wire.PeerID, _ [20]byte) bool { return p != peerID("x") }}.withDefaults()
	for _, test := range []struct {
		name, roster, voted, evict, joins, want string
	}{
		{"all voted", "abc", "abc", "", "", "abc"},
		{"one silent", "abc", "ab", "", "", "abc1"},
		{"silent again", "abc1", "ab", "", "", "abc2"},
		{"silent for the third time", "abc2", "ab", "", "", "ab"},
		{"back before that", "abc2", "abc", "", "", "abc"},
		{"a join", "ab", "ab", "", "d", "abd"},
		{"a join of one dropped now", "abc2", "ab", "", "c", "ab"},
		{"a join of a member", "ab1", "a", "", "b", "ab2"},
		{"a leave", "abc", "abc", "", "-b", "ac"},
		{"the last one leaves", "a", "a", "", "-a", "a"},
		{"all leave at once", "abc", "abc", "", "-a -b -c", "abc"},
		{"the last two leave, and a silent one is dropped", "abc2", "ab", "", "-a -b", "ab"},
		{"one stays", "abc", "abc", "", "-a -b", "c"},
		{"the last one leaves, and another comes", "a", "a", "", "-a d", "d"},
		{"the last one leaves, beside banned ones", "a(b)", "a", "", "-a", "a(b)"},
		{"the last one leaves, and is evicted", "a", "a", "a", "-a", "(a)"},
		{"a leave of nobody", "abc", "abc", "", "-d", "abc"},
		{"evicted", "abc", "abc", "b", "", "a(b)c"},
		{"evicted from outside", "ab", "ab", "d", "", "ab(d)"},
		{"evicted while it joins", "ab", "ab", "d", "d", "ab(d)"},
		{"a join of a banned one", "a(b)", "a", "", "b", "a(b)"},
		{"a leave of a banned one", "a(b)", "a", "", "-b", "a(b)"},
		{"one not admitted", "ab", "ab", "", "x", "ab"},
		{"a stale join", "ab", "ab", "", "d!", "ab"},
		{"a join from the future", "ab", "ab", "", "d?", "ab"},
		{"two joins of one", "ab", "ab", "", "d d", "abd"},
	} {
		parent := &Commit{Round: 10, Roster: letters(t, test.roster)}
		var joins []*Message
		for _, f := range strings.Fields(test.joins) {
			j := &Join{Since: "x", Round: 9, Role: "trainer"}
			switch name := strings.Trim(f, "-!?"); {
			case strings.HasPrefix(f, "-"):
				j.Leave = true
				fallthrough
			default:
				if strings.HasSuffix(f, "!") {
					j.Round = 6
				} else if strings.HasSuffix(f, "?") {
					j.Round = 11
				}
				joins = append(joins, &Message{Signed: wire.Signed{From: peerID(name)}, Body: j})
			}
		}
		var evict []Conviction
		for _, r := range test.evict {
			evict = append(evict, Conviction{Peer: peerID(string(r))})
		}
		voted := func(p wire.PeerID) bool { return strings.Contains(test.voted, peerName(p)) }
		if got := spell(nextRoster(&cfg, parent, voted, evict, nil, nil, joins)); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// The roster grows to its bound and no further.
func TestRosterBound(t *testing.T) {
	cfg := Config{}.withDefaults()
	parent := &Commit{Round: 5}
	var joins []*Message
	for i := range MaxRoster + 30 {
		var p wire.PeerID
		p[1], p[2] = byte(i>>8), byte(i)
		joins = append(joins, &Message{Signed: wire.Signed{From: p}, Body: &Join{Since: "x", Round: 5, Role: "trainer"}})
	}
	n := count(nextRoster(&cfg, parent, func(wire.PeerID) bool { return true }, nil, nil, nil, joins), trainer)
	if n != MaxRoster {
		t.Errorf("%d members, want %d", n, MaxRoster)
	}
}

func spellVoters(voters []Voter) string {
	var parts []string
	for _, v := range voters {
		parts = append(parts, fmt.Sprintf("%s %d/%d", peerName(v.Peer), v.Weight*64/memberWeight, v.Before*64/memberWeight))
	}
	return strings.Join(parts, ", ")
}

// Weights in 1/64 of a member's: present/before.
func TestVoters(t *testing.T) {
	v := firstVoters(letters(t, "ab(c)d"))
	step := func(what, want string) {
		t.Helper()
		if got := spellVoters(v); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	step("first", "a 64/64, b 64/64, d 64/64")
	v = exchangeVoters(v, letters(t, "bcd"))
	step("a for c", "a 0/64, b 64/64, c 64/0, d 64/64")
	same := exchangeVoters(v, letters(t, "bcd"))
	v = same
	step("settled", "b 64/64, c 64/64, d 64/64")
	v = leak(v, func(p wire.PeerID) bool { return p != peerID("b") })
	step("b is silent", "b 48/48, c 64/64, d 64/64")
	v = leak(v, func(p wire.PeerID) bool { return p == peerID("d") })
	step("b and c are silent", "b 36/36, c 48/48, d 64/64")
	v = exchangeVoters(v, letters(t, "(b)ce"))
	step("b is banned, d gone, e new", "b 0/36, c 64/48, d 0/64, e 64/0")
	for range 100 {
		v = leak(v, func(wire.PeerID) bool { return false })
	}
	if w, b := voterTotals(v); w > 100 || b > 100 {
		t.Errorf("after a hundred silent commits %d and %d weigh", w, b)
	}
}

// Half of the absent weight is gone after three commits, and six dead of ten
// cannot hold finality for more than four.
func TestLeakFreesFinality(t *testing.T) {
	for dead := 1; dead < 10; dead++ {
		v := firstVoters(letters(t, "abcdefghij"))
		alive := func(p wire.PeerID) bool { return int(p[1]-'a') >= dead }
		n := 0
		for ; n < 30; n++ {
			var w uint64
			for _, x := range v {
				if alive(x.Peer) {
					w += x.Weight
				}
			}
			if total, _ := voterTotals(v); twoThirds(w, total) {
				break
			}
			v = leak(v, alive)
		}
		if want := []int{0, 0, 0, 0, 1, 3, 4, 6, 8, 11}[dead]; n != want {
			t.Errorf("%d dead of 10: finality after %d commits, want %d", dead, n, want)
		}
	}
}

func TestMergeOnce(t *testing.T) {
	d := func(peer string, round, tokens uint64, block string) *Message {
		return &Message{
			Signed: wire.Signed{From: peerID(peer)}, ID: wire.CID("id" + peer + block),
			Body: &Delta{Round: round, Tokens: tokens, Block: wire.CID(block)},
		}
	}
	list := []*Message{
		d("a", 9, 1000, "5"), d("a", 9, 1000, "1"), // the same work for two siblings
		d("b", 8, 1000, "3"), d("b", 9, 10, "4"),
		d("c", 7, 1000, "2"), d("c", 5, 3, "0"),
	}
	slices.SortFunc(list, byBlock)
	var got []string
	for _, w := range merge(10, list, nil) {
		got = append(got, fmt.Sprintf("%s@%d:%d", peerName(w.Peer), w.Round, w.Weight))
	}
	if want := "c@5:1 a@9:1000 c@7:250 b@8:500 b@9:10"; strings.Join(got, " ") != want {
		t.Errorf("%s, want %s", strings.Join(got, " "), want)
	}
}

func TestConflict(t *testing.T) {
	vote := func(parent string, final uint64) any { return &Vote{Parent: wire.CID(parent), FinalRound: final} }
	work := func(parent string, tokens uint64) any { return &Delta{Parent: wire.CID(parent), Tokens: tokens} }
	word := func(subject string, segment uint64, f Finding) any {
		return &Verdict{Subject: wire.CID(subject), Segment: segment, Finding: f}
	}
	attest := func(head string, round, source uint64) any {
		return &Attest{Head: wire.CID(head), Round: round, SourceRound: source}
	}
	for _, test := range []struct {
		name string
		a, b any
		want bool
	}{
		{"two votes", vote("p", 1), vote("p", 2), true},
		{"votes for two parents", vote("p", 1), vote("q", 1), false},
		{"two deltas", work("p", 1), work("p", 2), true},
		{"deltas for two parents", work("p", 1), work("q", 1), false},
		{"two heads in a round", attest("h", 5, 4), attest("i", 5, 4), true},
		{"two sources for a head", attest("h", 5, 4), attest("h", 5, 3), true},
		{"one after the other", attest("h", 5, 4), attest("i", 6, 5), false},
		{"the same source", attest("h", 5, 4), attest("i", 6, 4), false},
		{"surrounds", attest("h", 5, 4), attest("i", 7, 3), true},
		{"surrounded", attest("h", 7, 3), attest("i", 5, 4), true},
		{"source falls, not around", attest("h", 5, 4), attest("i", 5, 3), true},
		{"a vote and a delta", vote("p", 1), work("p", 1), false},
		{"opposite verdicts", word("s", 1, Pass), word("s", 1, Wrong), true},
		{"verdicts on two segments", word("s", 1, Pass), word("s", 2, Wrong), false},
		{"verdicts on two subjects", word("s", 1, Pass), word("t", 1, Wrong), false},
		{"the same verdict for two reasons", word("s", 1, Pass), word("s", 1, Pass), false},
		{"withheld, and then found", word("s", 1, Withheld), word("s", 1, Wrong), false},
	} {
		a := &Message{Signed: wire.Signed{From: peerID("a")}, ID: "1", Body: test.a}
		b := &Message{Signed: wire.Signed{From: peerID("a")}, ID: "2", Body: test.b}
		if conflict(a, b) != test.want || conflict(b, a) != test.want {
			t.Errorf("%s: %v", test.name, !test.want)
		}
		other := &Message{Signed: wire.Signed{From: peerID("b")}, ID: "2", Body: test.b}
		if conflict(a, other) || conflict(a, a) {
			t.Errorf("%s: of two peers, or with itself", test.name)
		}
	}
}

func TestMedianAndClamp(t *testing.T) {
	for _, test := range []struct {
		list []time.Duration
		want time.Duration
	}{
		{nil, 99}, {[]time.Duration{5}, 5}, {[]time.Duration{9, 1}, 9}, {[]time.Duration{9, 1, 4}, 4},
		{[]time.Duration{8, 7, 6, 5, 4, 3, 2, 1}, 5},
	} {
		if got := median(test.list, 99); got != test.want {
			t.Errorf("%v: %d", test.list, got)
		}
	}
	if clamp(1, 2, 9) != 2 || clamp(20, 2, 9) != 9 || clamp(5, 2, 9) != 5 || clamp(1, 20, 9) != 9 {
		t.Error("clamp")
	}
	var kept []time.Duration
	for i := range 20 {
		kept = last(kept, time.Duration(i))
	}
	if len(kept) != 8 || kept[0] != 12 || kept[7] != 19 {
		t.Errorf("%v", kept)
	}
}

// forest makes a machine whose tree and attestations are those of the text:
// "b < a, 2 deltas, weak" is a child of a; "p: b" an attestation.
func forest(t *testing.T, text, head string) (*Machine, map[string]*node) {
	t.Helper()
	m := New(Config{Self: peerID("z"), Run: testGenesis().Run}, testGenesis())
	voters := firstVoters(letters(t, "pqrstuv"))
	m.root.c.Voters, m.root.c.Roster = voters, letters(t, "pqrstuv")
	m.now = time.Unix(1_800_000_000, 0)
	m.begin()
	nodes := map[string]*node{"g": m.root}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		name, rest, isNode := strings.Cut(line, " < ")
		if isNode {
			parts := strings.Split(rest, ", ")
			parent := nodes[parts[0]]
			c := &Commit{Round: parent.round + 1, Parent: parent.id, Voters: voters, Roster: m.root.c.Roster}
			var merged []Weighted
			for _, p := range parts[1:] {
				var n int
				if p == "weak" {
					c.Weak = true
				} else if _, err := fmt.Sscanf(p, "%d deltas", &n); err == nil {
					merged = make([]Weighted, n)
				}
			}
			nodes[name] = m.insert(parent, wire.CID(name), c, merged)
			nodes[name].held = true
			continue
		}
		peers, at, ok := strings.Cut(line, ": ")
		if !ok {
			continue
		}
		at, source, _ := strings.Cut(at, " from ")
		if source == "" {
			source = "g"
		}
		for _, p := range strings.Fields(peers) {
			n, src := nodes[at], nodes[source]
			m.hearAttest(&Message{
				Signed: wire.Signed{From: peerID(p)}, ID: wire.CID(p + at + source),
				Body: &Attest{Head: n.id, Round: n.round, Source: src.id, SourceRound: src.round},
			})
		}
	}
	m.head = nodes[head]
	m.begin()
	return m, nodes
}

func TestForkChoice(t *testing.T) {
	for _, test := range []struct{ name, text, head, want string }{
		{"a chain", "a < g\nb < a", "a", "b"},
		{"weight", "a < g\nb < g\np q: a\nr: b", "g", "a"},
		{"weight against deltas", "a < g\nb < g, 5 deltas\np q: a\nr: b", "g", "a"},
		{"deltas where weight is equal", "a < g\nb < g, 5 deltas\np: a\nr: b", "g", "b"},
		{"the lower CID where all is equal", "b < g\na < g\np: a\nr: b", "g", "a"},
		{"a subtree weighs as a whole", "a < g\nb < g\nc < a\nd < a\np: c\nq: d\nr: b", "g", "c"},
		{"the lighter leaf of the heavier subtree", "a < g\nb < g\nc < a\nd < a\np q: c\nr: d\ns t: b", "b", "c"},
		{"the latest word counts", "a < g\nb < g\nc < b\np q: a\np q: c\nr: a", "a", "c"},
		{"a stranger's word does not", "a < g\nb < g\nx y z: b\np: a", "g", "a"},
		{"a weak child waits", "a < g\nb < a, weak\np: b\nq r: a", "a", "a"},
		{"a weak child with most of those heard", "a < g\nb < a, weak\np r: b\nq: a", "a", "b"},
		{"a weak child of the own chain", "a < g\nb < a, weak\nq r: a", "b", "b"},
		{"a heavier weak branch against the own", "a < g\nb < a, weak\nc < a, weak\np q: b\nr: c", "c", "b"},
		{"a lighter weak branch against the own", "a < g\nb < a, weak\nc < a, weak\np: b\nr q: c", "c", "c"},
		{"behind a weak commit that most follow", "a < g\nb < a, weak\nc < b\np q: c\nr: a", "g", "c"},
	} {
		m, nodes := forest(t, test.text, test.head)
		if got := m.ghost(); got != nodes[test.want] {
			t.Errorf("%s: %s, want %s", test.name, got.id, test.want)
		}
	}
	m, nodes := forest(t, "a < g\nb < a, weak\np: b\nq r: a", "a")
	m.now = m.extended()
	if got := m.ghost(); got != nodes["b"] {
		t.Errorf("patience is over: %s", got.id)
	}
}

// Seven voters: five are two thirds.
func TestFinality(t *testing.T) {
	chain := "a < g\nb < a\nc < b\nd < c\ne < d\n"
	for _, test := range []struct{ name, text, just, final string }{
		{"nothing", "", "g", "g"},
		{"four of seven", "p q r s: c", "g", "g"},
		{"five of seven", "p q r s t: c", "c", "g"},
		{"too early to count", "p q r s t: b", "g", "g"},
		{"strangers", "p q r s x y z: c", "g", "g"},
		{"a child from another source", "p q r s t: c\np q r s t: d", "d", "g"},
		{"a child from it", "p q r s t: c\np q r s t: d from c", "d", "c"},
		{"a child from it by four", "p q r s t: c\np q r s: d from c", "c", "g"},
		{"a mixed child", "p q r s t: c\np q r s: d from c\nt: d", "d", "g"},
		{"the source is learnt later", "p q r s t: d from c\np q r s t: c", "d", "c"},
		{"a chain of links learnt backwards", "p q r s t: e from d\np q r s t: d from c\np q r s t: c", "e", "d"},
		{"a grandchild makes nothing final", "p q r s t: c\np q r s t: e from c", "e", "g"},
		{"a source that is no ancestor", "f < b\np q r s t: f\np q r s t: d from f", "f", "g"},
		{"a liar counts once", "p p p p p: c", "g", "g"},
	} {
		m, nodes := forest(t, chain+test.text, "g")
		m.applyFinal()
		if m.just != nodes[test.just] || m.final != nodes[test.final] {
			t.Errorf("%s: justified %s, final %s; want %s, %s", test.name, m.just.id, m.final.id, test.just, test.final)
		}
	}
}

// In whatever order attestations come, the same becomes justified and final.
func TestFinalityOrder(t *testing.T) {
	tree := "a < g\nb < a\nc < b\nd < c\ne < d\nf < c\n"
	words := []string{
		"p q r s t: c", "u: c", "p q: d from c", "r s t: d from c", "u: f from c", "p q r s t: e from d", "v: e from c", "x: e from d",
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		r.Shuffle(len(words), func(i, j int) { words[i], words[j] = words[j], words[i] })
		m, nodes := forest(t, tree+strings.Join(words, "\n"), "g")
		m.applyFinal()
		if m.just != nodes["e"] || m.final != nodes["d"] {
			t.Fatalf("justified %s, final %s after %q", m.just.id, m.final.id, words)
		}
	}
}

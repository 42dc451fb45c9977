package diloco

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// How many of all validators decide a case: 2/3, and never one alone.
func TestDecides(t *testing.T) {
	for all, want := range []uint64{1: 0, 2: 2, 3: 2, 4: 3, 5: 4, 6: 4, 7: 5, 9: 6, 10: 7} {
		if all == 0 || want == 0 && all > 1 {
			continue
		}
		a := assembly{parent: &Commit{}}
		for i := range all {
			a.parent.Roster = append(a.parent.Roster, Member{Peer: peerID(string(rune('a' + i))), Role: validator})
		}
		a.parent.Roster = append(a.parent.Roster, Member{Peer: peerID("y"), Role: trainer}, Member{Peer: peerID("z"), Role: validator, Banned: true})
		least := uint64(0)
		for n := uint64(1); n <= uint64(all) && least == 0; n++ {
			if a.decides(n) {
				least = n
			}
		}
		if least != want {
			t.Errorf("%d of %d validators decide, want %d", least, all, want)
		}
		if got := a.weigh([]wire.PeerID{peerID("a"), peerID("x"), peerID("y"), peerID("z")}); got != 1 {
			t.Errorf("a stranger, a trainer and one banned weigh %d", got-1)
		}
	}
}

// One word a validator; Pass and Wrong are for good, Withheld is not.
func TestCaseSay(t *testing.T) {
	for _, test := range []struct{ words, want string }{
		{"a+ b- c?", "a|b|c"}, {"c+ a+ b+", "abc||"}, {"a? a+", "a||"}, {"a? a-", "|a|"}, {"a+ a-", "a||"}, {"a- a+", "|a|"},
		{"a+ a?", "a||"}, {"a? a?", "||a"}, {"b? a? b- a+", "a|b|"},
	} {
		var c Case
		for _, w := range strings.Fields(test.words) {
			before := Case{Pass: slices.Clip(c.Pass), Wrong: c.Wrong, Withheld: c.Withheld}
			was := fmt.Sprint(before)
			c.say(peerID(w[:1]), map[byte]Finding{'+': Pass, '-': Wrong, '?': Withheld}[w[1]])
			if fmt.Sprint(before) != was {
				t.Errorf("%s: a parent's list was written in", test.words)
			}
		}
		names := func(list []wire.PeerID) string { return strings.ReplaceAll(peerNames(list), ",", "") }
		if got := names(c.Pass) + "|" + names(c.Wrong) + "|" + names(c.Withheld); got != test.want {
			t.Errorf("%s: %s, want %s", test.words, got, test.want)
		}
	}
}

// The room for cases is bounded, and one validator alone fills little of it.
func TestOpenCaseBounds(t *testing.T) {
	accuse := func(by string, subject int) *Message {
		return &Message{
			Signed: wire.Signed{From: peerID(by)},
			Body:   &Verdict{Subject: wire.CID(fmt.Sprintf("%03d", subject)), Finding: Wrong, Evidence: "e"},
		}
	}
	var cases []Case
	n := 0
	for i := range 10 * MaxCases {
		var ok bool
		if cases, ok = openCase(cases, accuse("a", i), 5); ok {
			n++
		}
	}
	if n != maxAlone || len(cases) != maxAlone {
		t.Errorf("one validator opened %d cases", n)
	}
	if got, ok := openCase(cases, accuse("b", 0), 5); !ok || len(got) != maxAlone {
		t.Error("a case that is open was opened again")
	}
	for i := range cases {
		cases[i].say(peerID("b"), Withheld)
	}
	for i := range 10 * MaxCases {
		cases, _ = openCase(cases, accuse(string(rune('c'+i%20)), 400+i), 5)
	}
	if len(cases) != MaxCases || !slices.IsSortedFunc(cases, func(a, b Case) int { return compareAbout(a.about(), b.about()) }) {
		t.Errorf("%d cases", len(cases))
	}
}

// What does not belong into a commit, one thing at a time.
func TestAdmissible(t *testing.T) {
	s, parent, c := audited(t, 4)
	cfg := s.cfg.withDefaults()
	var good *Message
	for i := range c.Verdicts {
		m, err := Open(&c.Verdicts[i])
		if err != nil {
			t.Fatal(err)
		}
		if m.Body.(*Verdict).Finding == Pass {
			good = m
		}
	}
	if err := admissible(&cfg, parent, s.past, good); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, want string
		change     func(m *Message, v *Verdict)
	}{
		{"a trainer", "not an active validator", func(m *Message, _ *Verdict) { m.From = s.peers[0].key.Peer() }},
		{"a stranger", "not an active validator", func(m *Message, _ *Verdict) { m.From = testKey(t, 99).Peer() }},
		{"own work", "own work", func(m *Message, v *Verdict) { v.Peer = m.From }},
		{"of this round", "window", func(_ *Message, v *Verdict) { v.Round = parent.Round }},
		{"too old", "window", func(_ *Message, v *Verdict) { v.Round = parent.Round - 2; cfg.AuditWindow = 1 }},
		{"no such segment", "segment", func(_ *Message, v *Verdict) { v.Segment = cfg.Segments }},
		{"no such work", "not in the chain", func(_ *Message, v *Verdict) { v.Subject = parent.State }},
		{"work of another round", "not in the chain", func(_ *Message, v *Verdict) { v.Round-- }},
		{"work of another peer", "not in the chain", func(m *Message, v *Verdict) {
			was := v.Peer
			for i := 0; v.Peer == was || v.Peer == m.From; i++ {
				v.Peer = s.peers[i].key.Peer()
			}
		}},
		{"the coin of the work's round, which others may have shown", "coin's reveal", func(m *Message, v *Verdict) {
			for _, p := range s.peers {
				if p.key.Peer() == m.From {
					v.Coin = swarmCoin(p.key).Reveal(v.Round)
				}
			}
		}},
		{"another's coin", "coin's reveal", func(m *Message, v *Verdict) { v.Coin = testCoin("other").Reveal(v.Round) }},
		{"the coin of another round", "coin's reveal", func(m *Message, v *Verdict) { v.Coin[0] ^= 1 }},
		{"a pass that nothing asks for", "neither its coin nor a case", func(_ *Message, v *Verdict) { v.Coin = nil }},
	} {
		v := *good.Body.(*Verdict)
		v.Coin = slices.Clone(v.Coin)
		m := &Message{Signed: good.Signed, ID: good.ID, Body: &v}
		test.change(m, &v)
		if err := admissible(&cfg, parent, s.past, m); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one about %q", test.name, err, test.want)
		}
		cfg.AuditWindow = 8
	}
	rare := cfg
	rare.AuditRate = 1
	if err := admissible(&rare, parent, s.past, good); err == nil || !strings.Contains(err.Error(), "did not choose") {
		t.Errorf("what the coin did not choose: %v", err)
	}
	rare.AuditRate = 0
	if err := admissible(&rare, parent, s.past, good); err == nil {
		t.Error("a run without audits takes verdicts")
	}
	shown := clone(t, parent)
	by, in := memberIn(shown.Roster, good.From), good.Body.(*Verdict).Round+1
	for _, p := range s.peers {
		if p.key.Peer() == good.From {
			by.Coin, by.Shown = swarmCoin(p.key).At(in+3), in+3
		}
	}
	if err := admissible(&cfg, shown, s.past, good); err != nil {
		t.Errorf("a coin that a vote has shown: %v", err)
	}
	v := *good.Body.(*Verdict)
	v.Coin = slices.Clone(v.Coin)
	v.Coin[5] ^= 1
	if err := admissible(&cfg, shown, s.past, &Message{Signed: good.Signed, ID: good.ID, Body: &v}); err == nil || !strings.Contains(err.Error(), "has shown") {
		t.Errorf("a coin that no vote has shown: %v", err)
	}
	young := clone(t, parent)
	memberIn(young.Roster, good.From).Since = good.Body.(*Verdict).Round + 1
	if err := admissible(&cfg, young, s.past, good); err == nil || !strings.Contains(err.Error(), "younger") {
		t.Errorf("a coin that was fixed after the work was seen: %v", err)
	}
}

func TestNames(t *testing.T) {
	id := func(i int) wire.CID { return wire.SumCID(wire.CodecDagCBOR, []byte{byte(i)}) }
	for n := range 4 {
		var in Names
		for i := range n {
			in = append(in, id(i))
		}
		b, err := wire.Marshal(&Vote{Deltas: in})
		if err != nil {
			t.Fatal(err)
		}
		var out Vote
		if err := wire.Unmarshal(b, &out); err != nil || !slices.Equal(out.Deltas, in) {
			t.Errorf("%d names: %v, %v", n, out.Deltas, err)
		}
	}
	for name, bad := range map[string]wire.CID{"raw": wire.SumCID(wire.CodecRaw, nil), "undefined": "", "short": id(1)[:20]} {
		if _, err := wire.Marshal(&Vote{Deltas: Names{bad}}); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	var n Names
	if err := n.UnmarshalCBOR([]byte{0x58, 33}); err == nil {
		t.Error("truncated names are accepted")
	}
	if b, err := wire.Marshal(make([]byte, 33)); err != nil || n.UnmarshalCBOR(b) == nil {
		t.Error("a digest and a byte are accepted")
	}
}

// Bodies that nobody may send.
func TestVerdictForm(t *testing.T) {
	good := Verdict{Subject: wire.SumCID(wire.CodecDagCBOR, nil), Peer: peerID("a"), Round: 3, Work: []byte{1}}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(v *Verdict){
		"no subject":          func(v *Verdict) { v.Subject = "" },
		"nobody":              func(v *Verdict) { v.Peer = wire.PeerID{} },
		"round 0":             func(v *Verdict) { v.Round = 0 },
		"round":               func(v *Verdict) { v.Round = maxRound + 1 },
		"segment":             func(v *Verdict) { v.Segment = MaxSegments },
		"finding":             func(v *Verdict) { v.Finding = Withheld + 1 },
		"a pass without work": func(v *Verdict) { v.Work = nil },
		"too much work":       func(v *Verdict) { v.Work = make([]byte, maxWork+1) },
		"pass with evidence":  func(v *Verdict) { v.Evidence = v.Subject },
		"fail without":        func(v *Verdict) { v.Finding = Wrong },
		"withheld with work":  func(v *Verdict) { v.Finding, v.Evidence = Withheld, v.Subject },
		"half a coin":         func(v *Verdict) { v.Coin = make([]byte, audit.RevealSize-1) },
		"half a receipt":      func(v *Verdict) { v.Receipt = make([]byte, 64) },
		"epoch":               func(v *Verdict) { v.Epoch = maxRound + 1 },
	} {
		bad := good
		change(&bad)
		if bad.check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, j := range map[string]Join{
		"a validator without coin": {Since: good.Subject, Role: validator},
		"a trainer with one":       {Since: good.Subject, Role: trainer, Coin: [32]byte{1}},
		"an observer":              {Since: good.Subject, Role: observer},
	} {
		if j.check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Only trainers have slots.
func TestSlots(t *testing.T) {
	roster := letters(t, "ab(c)def")
	roster[1].Role, roster[4].Role = validator, validator
	for name, want := range map[string]int{"a": 0, "b": -1, "c": -1, "d": 1, "e": -1, "f": 2, "x": -1} {
		if slot, slots := slotOf(roster, peerID(name)); slot != want || slots != 3 {
			t.Errorf("%s has slot %d of %d", name, slot, slots)
		}
	}
}

package diloco

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// How scenarios spell commits, messages and verdicts.

func (s *scene) describe(c *Commit) string {
	peers := func(list []wire.Signed) string {
		var out []string
		for _, m := range list {
			out = append(out, peerName(m.From))
		}
		slices.Sort(out)
		return strings.Join(out, "")
	}
	roster := ""
	for _, m := range c.Roster {
		roster += peerName(m.Peer)
		if m.Banned {
			roster += "(banned)"
		}
	}
	text := fmt.Sprintf("on %s, votes %s, deltas %s, roster %s, final %s", s.name(c.Parent), peers(c.Votes), peers(c.Deltas), roster, s.name(c.Final))
	if c.Weak {
		text += ", weak"
	}
	if len(c.Verdicts) > 0 {
		text += ", verdicts " + peers(c.Verdicts)
	}
	letters := func(list []wire.PeerID) string { return strings.ReplaceAll(peerNames(list), ",", "") }
	for _, k := range c.Cases {
		text += fmt.Sprintf(", case %s/%d pass %s wrong %s withheld %s", s.subject(k.Subject), k.Segment, letters(k.Pass), letters(k.Wrong), letters(k.Withheld))
	}
	if merged := c.Merged(); len(merged) < len(c.Deltas) {
		text += ", merged"
		for _, d := range merged {
			text += " " + peerName(d.Peer)
		}
	}
	if len(c.Unstaked) > 0 {
		text += ", unstaked " + letters(c.Unstaked)
	}
	for _, k := range c.Convicted {
		text += fmt.Sprintf(", convicted %s: %s", peerName(k.Peer), k.Why)
	}
	return text
}

// subject tells what a verdict is about: c@C1 is c's delta on C1, b:c@C1 is b's
// verdict about that.
func (s *scene) subject(id wire.CID) string {
	for key, msg := range s.messages {
		if msg.ID() != id {
			continue
		}
		f := strings.SplitN(key, " ", 3)
		if f[0] == "delta" {
			return f[1] + "@" + s.name(wire.CID(f[2]))
		}
		return f[1] + ":" + f[2]
	}
	return "unknown"
}

var coins = map[string]*audit.Coin{}

// testCoin is the coin of a peer; a test's goroutine is alone.
func testCoin(name string) *audit.Coin {
	if coins[name] == nil {
		coins[name] = audit.NewCoin([]byte(name), testGenesis().Run)
	}
	return coins[name]
}

// firstIn returns the round of the first commit that has that delta or verdict.
func (s *scene) firstIn(id wire.CID) uint64 {
	round := uint64(maxRound)
	for _, c := range s.commits {
		for _, list := range [][]wire.Signed{c.Deltas, c.Verdicts} {
			if slices.ContainsFunc(list, func(m wire.Signed) bool { return m.ID() == id }) {
				round = min(round, c.Round)
			}
		}
	}
	return round
}

// verdict makes a verdict of=c@C1 or of=b:c@C1, by the coin if coin=yes.
func (s *scene) verdict(by, finding string, opt map[string]string) *Verdict {
	of := opt["of"]
	v := &Verdict{Finding: Finding(slices.Index([]string{"pass", "wrong", "withheld"}, finding))}
	if p, rest, isVerdict := strings.Cut(of, ":"); isVerdict {
		msg, ok := s.messages["verdict "+p+" "+rest]
		if !ok {
			s.t.Fatalf("no verdict %q", of)
		}
		m, err := Open(&msg)
		if err != nil {
			s.t.Fatal(err)
		}
		v.Subject, v.Peer, v.Round = m.ID, m.From, m.Body.(*Verdict).Round
	} else {
		p, parent, _ := strings.Cut(of, "@")
		msg := s.messages["delta "+p+" "+string(s.id(parent))]
		v.Subject, v.Peer, v.Round = msg.ID(), msg.From, s.commits[s.id(parent)].Round
	}
	if n := opt["segment"]; n != "" {
		v.Segment = uint64(s.number(n))
	}
	if v.Finding != Withheld {
		v.Work = []byte("work of " + by)
	}
	if v.Finding != Pass {
		v.Evidence = wire.SumCID(wire.CodecDagCBOR, []byte(by+of))
	}
	if opt["coin"] != "none" && (v.Segment == 0 || opt["coin"] != "") { // coins choose segment 0 here: there is no other
		who := by
		if opt["coin"] != "" {
			who = opt["coin"]
		}
		v.Coin = testCoin(who).Reveal(s.firstIn(v.Subject))
	}
	return v
}

// word says what a message says.
func (s *scene) word(msg *wire.Signed) string {
	m, err := Open(msg)
	if err != nil {
		s.t.Fatal(err)
	}
	switch b := m.Body.(type) {
	case *Join:
		s.messages["join "+peerName(m.From)+" "] = *msg
		text := "join since " + s.name(b.Since)
		if b.Leave {
			text = "leave since " + s.name(b.Since)
		}
		if b.Role != trainer {
			text += " as " + b.Role
		}
		return text
	case *Delta:
		s.messages["delta "+peerName(m.From)+" "+string(b.Parent)] = *msg
		s.call(m.ID, "delta:"+peerName(m.From)+"@"+s.name(b.Parent))
		return "delta on " + s.name(b.Parent)
	case *Vote:
		s.messages["vote "+peerName(m.From)+" "+string(b.Parent)] = *msg
		who := map[string]bool{}
		for _, msg := range s.messages {
			id := msg.ID()
			if slices.Contains(b.Deltas, id) || slices.Contains(b.Joins, id) || slices.Contains(b.Verdicts, id) {
				who[msg.Kind.String()+":"+peerName(msg.From)] = true
			}
		}
		text := fmt.Sprintf("vote on %s: %s", s.name(b.Parent), strings.Join(slices.Sorted(maps.Keys(who)), " "))
		if len(b.Evict) > 0 {
			text += " evict:" + peerNames(b.Evict)
		}
		if len(b.Unstaked) > 0 {
			text += " unstaked:" + peerNames(b.Unstaked)
		}
		return text + ", final " + s.name(b.Final)
	case *Verdict:
		of := s.subject(b.Subject)
		s.messages["verdict "+peerName(m.From)+" "+of] = *msg
		return fmt.Sprintf("verdict %s of %s/%d", []string{"pass", "wrong", "withheld"}[b.Finding], of, b.Segment)
	case *Attest:
		return fmt.Sprintf("attest %s from %s", s.name(b.Head), s.name(b.Source))
	}
	return msg.Kind.String()
}

func peerNames(list []wire.PeerID) string {
	var out []string
	for _, p := range list {
		out = append(out, peerName(p))
	}
	return strings.Join(out, ",")
}

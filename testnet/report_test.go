package testnet

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
)

var update = flag.Bool("update", false, "rewrite the golden files; only commit what you understand")

func cidOf(format string, args ...any) wire.CID {
	return wire.SumCID(wire.CodecDagCBOR, fmt.Appendf(nil, format, args...))
}

// synthetic is the chronicle of a swarm in which everything went well: four
// peers, one killed and restarted, one newcomer.
func synthetic(t testing.TB) *Chronicle {
	t.Helper()
	const rounds, every = 36, 5.0
	start := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	c := &Chronicle{
		Name: "synthetic", Run: cidOf("run"), Rounds: rounds, Start: start, Seconds: rounds*every + 4, DropAfter: 3,
		Steps: 20, Stall: 60, AtFirst: 4, Prompt: "Call me ", Sample: "Ishmael. Some years ago <never mind> how long",
		Command: "shoal testnet run", Machine: "2 cores", Expect: Expect{2.1, true, 0.06},
	}
	at := func(r uint64) float64 { return 3 + float64(r)*every }
	for i := range 5 {
		k, err := wire.NewKey(bytes.Repeat([]byte{byte(i + 1)}, 32))
		if err != nil {
			t.Fatal(err)
		}
		c.Peers = append(c.Peers, &PeerRecord{Name: fmt.Sprintf("p%d", i), ID: k.Peer(), Lives: []Life{{From: 0.5, To: c.Seconds, End: "done"}}})
	}
	up := func(i int, r uint64) bool { return !(i == 2 && r > 12 && r < 20) && !(i == 4 && r < 18) }
	l := &Lineage{LineageReport: node.LineageReport{Run: c.Run, Verified: true, Rounds: rounds}, Seconds: 2.5}
	total := uint64(0)
	var members []wire.PeerID
	for r := uint64(0); r <= rounds; r++ {
		k := LineageCommit{Round: r, Commit: cidOf("commit %d", r), State: cidOf("state %d", r)}
		trained := members
		members = nil
		for i, p := range c.Peers {
			if r > 0 && (up(i, r) || i == 2 && r < 16) {
				members = append(members, p.ID)
			}
		}
		k.Roster = members
		for i, p := range c.Peers {
			for _, id := range trained {
				if id == p.ID && up(i, r) {
					k.Deltas = append(k.Deltas, LineageDelta{
						ID: cidOf("delta %d %d", r, i), Peer: p.ID, Round: r - 1, Parent: cidOf("commit %d", r-1), Bytes: 230000, Tokens: 10240, Loss: loss(r)})
					total += 10240
				}
			}
		}
		l.Chain = append(l.Chain, k)
		for i, p := range c.Peers {
			if !up(i, r) {
				continue
			}
			v := loss(r) + 0.05
			p.History = append(p.History, node.Record{
				Round: r, Commit: k.Commit, State: k.State, Time: start.Add(time.Duration(at(r) * float64(time.Second))), Deltas: len(k.Deltas),
				Roster: len(k.Roster), Included: true, TrainLoss: loss(r), ValLoss: &v, Total: total,
				BytesIn: 700000, BytesOut: 690000 + uint64(i)*20000, Compute: 3.4, Exchange: 0.6, Wait: 0.2 * float64(i),
			})
			s := Seen{T: at(r), Round: r, Head: k.Commit, State: k.State}
			if r >= 2 {
				s.FinalRound, s.Final, s.FinalState = r-2, cidOf("commit %d", r-2), cidOf("state %d", r-2)
			}
			p.Seen = append(p.Seen, s)
			p.Last = &node.Status{Peer: p.ID, Round: r, Head: k.Commit, Final: k.Commit, FinalRound: r, FinalState: k.State, Done: true, Rounds: rounds, Phase: node.Finished, Result: k.Commit, ResultState: k.State}
		}
	}
	l.Head, l.State = l.Chain[rounds].Commit, l.Chain[rounds].State
	c.Lineage = l
	c.Peers[2].Lives = []Life{
		{From: 0.5, To: at(12) + 2, End: "kill", Lines: 13, LastCommit: cidOf("commit 12"), FinalRound: 10},
		{From: at(19) + 1, To: c.Seconds, End: "done", Resumed: 7},
	}
	c.Peers[4].Lives[0].From = at(17) + 1
	c.Events = []Happened{
		{at(12) + 2, 12, Event{Do: Kill, Round: 12, Peers: []int{2}}},
		{at(17) + 1, 17, Event{Do: Join, Round: 17, Peers: []int{4}}},
		{at(19) + 1, 19, Event{Do: Restart, Round: 19, Peers: []int{2}}},
	}
	for s := uint64(0); s <= rounds*20; s += 20 {
		c.Single = append(c.Single, Point{s, s * 2048, float64(s) * 0.2, loss(s/20) - 0.05, loss(s/20) - 0.02})
		c.Alone = append(c.Alone, Point{s, s * 512, float64(s) * 0.06, loss(s/20) + 0.1, loss(s/20)*1.1 + 0.05})
	}
	return c
}

// loss is a plausible curve, rounded so that every architecture has the same.
func loss(r uint64) float64 { return math.Round(1e6*(1.9+2.6*math.Exp(-float64(r)/6))) / 1e6 }

func TestReportGolden(t *testing.T) {
	r := report(synthetic(t))
	got, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "report.golden.json")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(got, '\n'), want) {
		t.Errorf("report differs from %s (go test ./testnet -update shows how):\n%s", golden, got)
	}
	for _, i := range r.Invariants {
		if !i.OK {
			t.Errorf("%s: %s", i.Name, i.Detail)
		}
	}
}

// Each violation is found, under its own name, and nothing else is blamed.
func TestInvariantsFail(t *testing.T) {
	for _, v := range []struct {
		name  string
		plant func(*Chronicle)
	}{
		{"one_final_commit_per_round", func(c *Chronicle) {
			c.Peers[1].Seen[20].Final, c.Peers[1].Seen[20].FinalState = cidOf("other"), ""
		}},
		{"equal_state_at_equal_commit", func(c *Chronicle) { c.Peers[3].History[9].State = cidOf("other") }},
		{"all_agree_at_the_end", func(c *Chronicle) { c.Peers[0].Last.Done = false }},
		{"no_honest_peer_dropped", func(c *Chronicle) {
			k := &c.Lineage.Chain[30]
			k.Roster = k.Roster[1:]
		}},
		{"no_delta_counted_twice", func(c *Chronicle) {
			k := c.Lineage.Chain
			k[9].Deltas[0].ID = k[8].Deltas[0].ID
		}},
		{"no_delta_counted_twice", func(c *Chronicle) {
			k := c.Lineage.Chain
			k[9].Deltas[0].Parent = k[8].Deltas[0].Parent
		}},
		{"nothing_lost_across_kill", func(c *Chronicle) { c.Peers[2].Lives[0].LastCommit = cidOf("other") }},
		{"nothing_lost_across_kill", func(c *Chronicle) { c.Peers[2].Lives[0].FinalRound = 35 }},
		{"nothing_lost_across_kill", func(c *Chronicle) {
			i := slices.IndexFunc(c.Peers[2].Seen, func(s Seen) bool { return s.Round == 20 })
			c.Peers[2].Seen[i].Round = 11
		}},
		{"no_peer_evicted", func(c *Chronicle) { c.Peers[0].Last.Evicted = []wire.PeerID{c.Peers[1].ID} }},
		{"liveness", func(c *Chronicle) { c.Stall = 3 }},
		{"liveness", func(c *Chronicle) { c.TimedOut = true }},
		{"restarted_peers_contributed", func(c *Chronicle) {
			for i := range c.Lineage.Chain {
				k := &c.Lineage.Chain[i]
				if k.Round > 19 {
					k.Deltas = k.Deltas[:2]
				}
			}
			// The newcomer's are gone with them; leave only its own.
			c.Events = c.Events[:len(c.Events):len(c.Events)]
			c.Events[1].Event.Do = Limit
		}},
		{"newcomers_contributed", func(c *Chronicle) {
			k := &c.Lineage.Chain[19]
			k.Deltas = k.Deltas[:3]
		}},
		{"lineage_verified", func(c *Chronicle) { c.Lineage.Verified = false }},
		{"partitions_were_complete", func(c *Chronicle) { c.Cuts = []Cut{{From: 1, To: 2, Crossed: 9}} }},
		{"one_chain_after_partition", func(c *Chronicle) {
			c.Cuts = []Cut{{From: 40, To: 60, Healed: 11}}
			for i := range c.Peers[1].Seen[10:20] {
				c.Peers[1].Seen[10+i].Head, c.Peers[1].Seen[10+i].State = cidOf("fork %d", i), cidOf("fork state %d", i)
			}
		}},
		{"val_loss_reached", func(c *Chronicle) { c.Expect.ValLoss = 1 }},
		{"better_than_alone", func(c *Chronicle) { c.Alone[len(c.Alone)-1].ValLoss = 1.8 }},
		{"close_to_single", func(c *Chronicle) { c.Expect.GapToSingle = 0.001 }},
		{"nothing_else_failed", func(c *Chronicle) { c.Failures = []string{"p1 exited with 1"} }},
	} {
		c := synthetic(t)
		v.plant(c)
		r := report(c)
		var failed []string
		for _, i := range r.Invariants {
			if !i.OK {
				failed = append(failed, i.Name+": "+i.Detail)
			}
		}
		if r.OK || len(failed) != 1 || !strings.HasPrefix(failed[0], v.name+":") {
			t.Errorf("%s: found %q", v.name, failed)
		}
	}
}

// The page is one well-formed document that refers to nothing outside itself.
func TestPageIsSelfContained(t *testing.T) {
	t.Run("plain", func(t *testing.T) { checkPage(t, synthetic(t), 11) }) // 5 in 2 sizes and one more
	t.Run("audited", func(t *testing.T) { checkPage(t, audited(t), 11+4*2+2) })
}

func checkPage(t *testing.T, c *Chronicle, drawings int) {
	html, err := render(c, report(c))
	if err != nil {
		t.Fatal(err)
	}
	if dir := os.Getenv("SHOAL_REPORT_OUT"); dir != "" { // to look at it
		if err := os.WriteFile(filepath.Join(dir, reportHTML), html, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := string(html)
	if ref := regexp.MustCompile(`(?i)(https?:)?//[a-z][^"')\s]*|src=|<link|@import|url\(`).FindString(strings.ReplaceAll(s, "ipfs://", "")); ref != "" {
		t.Errorf("the page refers to %q", ref)
	}
	if strings.Contains(s, "<never mind>") || !strings.Contains(s, "&lt;never mind&gt;") {
		t.Error("the sample is not escaped")
	}
	if strings.Contains(strings.ToUpper(s), "#0FEE") {
		t.Error("a colour of a chart has no place in the palette")
	}
	for _, k := range regexp.MustCompile(`var\((--k[0-9A-F]{2})\)`).FindAllStringSubmatch(s, -1) {
		if n := strings.Count(s, k[1]+":"); n != 2 {
			t.Errorf("%s is defined %d times, want once for light and once for dark", k[1], n)
		}
	}
	svgs := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(s, -1)
	if len(svgs) != drawings {
		t.Errorf("%d drawings, want %d", len(svgs), drawings)
	}
	for i, g := range svgs {
		dec := xml.NewDecoder(strings.NewReader(g))
		for {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("drawing %d: %v", i, err)
				break
			}
		}
	}
}

// A testnet that fails early has a report, too.
func TestReportOfNothing(t *testing.T) {
	id := synthetic(t).Peers[0].ID
	c := &Chronicle{Name: "nothing", Rounds: 3, TimedOut: true, Failures: []string{"p0 exited"}, Peers: []*PeerRecord{{Name: "p0", ID: id}}}
	dir := t.TempDir()
	if err := c.save(dir); err != nil {
		t.Fatal(err)
	}
	r, err := Rebuild(dir)
	if err != nil {
		t.Fatal(err)
	}
	if r.OK {
		t.Error("nothing is not success")
	}
	if _, err := Rebuild(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not the output of a testnet") {
		t.Errorf("an empty directory: %v", err)
	}
}

// One process takes the batches of the honest trainers that were there.
func TestBatches(t *testing.T) {
	a, b, liar, judge := wire.PeerID{1}, wire.PeerID{2}, wire.PeerID{3}, wire.PeerID{4}
	c := &Chronicle{
		Peers: []*PeerRecord{{ID: a}, {ID: b}, {ID: liar, Cheat: &Cheat{}}, {ID: judge, Validator: true}},
		Lineage: &Lineage{Chain: []LineageCommit{
			{}, {Roster: []wire.PeerID{a, b, liar, judge}}, {Roster: []wire.PeerID{b, judge}}, {Roster: []wire.PeerID{liar, judge}}, {Roster: []wire.PeerID{a, b}}}},
	}
	if got := strings.Join(c.batches(), ","); got != "2,2,1,1,2" {
		t.Error(got)
	}
}

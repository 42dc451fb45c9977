package testnet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/testnet/cheat"
	"github.com/shoalnet/shoal/toploc/audit"
)

// audited is synthetic with two validators, of which one is needed to accuse and
// the other to confirm, a ledger, and a trainer that is idle from round 2 on.
func audited(t testing.TB) *Chronicle {
	t.Helper()
	c := synthetic(t)
	c.AtFirst = 6
	c.Audit = AuditTerms{Rate: 5000, Segments: 4, Window: 8}
	for i := 5; i < 7; i++ {
		k, err := wire.NewKey(bytes.Repeat([]byte{byte(i + 1)}, 32))
		if err != nil {
			t.Fatal(err)
		}
		last := *c.Peers[0].Last
		last.Peer = k.Peer()
		v := &PeerRecord{Name: fmt.Sprintf("p%d", i), ID: k.Peer(), Validator: true, Seen: c.Peers[0].Seen, History: append([]node.Record(nil), c.Peers[0].History...),
			Last: &last, Lives: []Life{{From: 0.5, To: c.Seconds, End: "done"}}}
		for j := range v.History {
			v.History[j].Compute, v.History[j].Exchange, v.History[j].Wait = 0, 0, 0
		}
		c.Peers = append(c.Peers, v)
	}
	for i, p := range c.Peers {
		p.Account = fmt.Sprintf("0x%040x", i+1)
	}
	liar := c.Peers[3]
	liar.Cheat = &Cheat{3, cheat.Idle, 2}
	chain := c.Lineage.Chain
	const caught = 6
	type delta struct {
		d  LineageDelta
		in uint64
	}
	var merged []delta
	for i := range chain {
		k := &chain[i]
		if k.Round > 0 {
			k.Roster = append(k.Roster, c.Peers[5].ID, c.Peers[6].ID)
		}
		if k.Round >= caught {
			k.Roster = without(k.Roster, func(id wire.PeerID) bool { return id == liar.ID })
			k.Deltas = without(k.Deltas, func(d LineageDelta) bool { return d.Peer == liar.ID })
		}
		for _, d := range k.Deltas {
			merged = append(merged, delta{d, k.Round})
		}
		for n, m := range merged {
			for v := 5; v < 7; v++ {
				lie := m.d.Peer == liar.ID && m.d.Round >= 2
				if m.in+2 != k.Round || lie && (m.in != 3 || v != 5) || !lie && (n*7+v*3)%11 < 6 {
					continue
				}
				x := LineageVerdict{ID: cidOf("verdict %d %d", n, v), From: c.Peers[v].ID, Subject: m.d.ID, Peer: m.d.Peer, Round: m.d.Round,
					Segment: uint64(n+v) % 4, Finding: foundPass, Coin: true}
				if lie {
					x.Finding, x.Evidence = foundWrong, cidOf("evidence %d", n)
					k.Cases = append(k.Cases, diloco.Case{Subject: m.d.ID, Peer: liar.ID, Round: m.d.Round, Segment: x.Segment, Opened: k.Round, Evidence: x.Evidence, Wrong: []wire.PeerID{x.From}})
				}
				k.Verdicts = append(k.Verdicts, x)
			}
		}
		if k.Round == caught {
			was := chain[i-1].Cases[0]
			k.Verdicts = append(k.Verdicts, LineageVerdict{ID: cidOf("confirmed"), From: c.Peers[6].ID, Subject: was.Subject, Peer: liar.ID, Round: was.Round, Segment: was.Segment,
				Finding: foundWrong, Evidence: cidOf("more evidence")})
			k.Convicted = []diloco.Conviction{{Peer: liar.ID, Why: "wrong work", Subject: was.Subject, Segment: was.Segment, Evidence: was.Evidence}}
		}
	}
	c.Money = moneyOf(c, liar, caught)
	return c
}

func without[T any](s []T, drop func(T) bool) (out []T) {
	for _, x := range s {
		if !drop(x) {
			out = append(out, x)
		}
	}
	return out
}

// moneyOf pays a token for each piece of work, a quarter for each verdict.
func moneyOf(c *Chronicle, liar *PeerRecord, caught uint64) *Money {
	m := &Money{Balanced: true, Final: 9, Books: []LedgerLine{
		{"Staking", "4330000000000000000000", "4330000000000000000000"}, {"Runs", "4700000000000000000000", "4700000000000000000000"}}}
	for _, p := range c.Peers {
		for _, k := range c.Lineage.Chain {
			add := func(kind string, units uint64, amount json.Number) {
				l := PayLine{Epoch: 1 + k.Round/4, Round: k.Round, Peer: p.ID, Account: p.Account, Kind: kind, Units: units, Amount: amount}
				if p == liar && k.Round >= 4 {
					l.Amount, l.Why = "0", "its worker was convicted in commit 6: wrong work"
				}
				m.Lines = append(m.Lines, l)
			}
			for _, d := range k.Deltas {
				if d.Peer == p.ID {
					add("training", d.Tokens, "1000000000000000000")
				}
			}
			for _, v := range k.Verdicts {
				if v.From == p.ID {
					add("validation", 1, "250000000000000000")
				}
			}
		}
	}
	for n := uint64(1); n <= 9; n++ {
		m.Events = append(m.Events, LedgerEvent{Name: "Finalized", Number: n, Fast: true, T: float64(20 * n)})
	}
	m.Events = append(m.Events, LedgerEvent{Name: "Slashed", Account: liar.Account, Amount: "30000000000000000000", T: 50})
	for _, p := range c.Peers {
		sum := 0.0
		for _, l := range m.Lines {
			if l.Peer == p.ID {
				sum += about(weiOf(l.Amount))
			}
		}
		m.Events = append(m.Events, LedgerEvent{Name: "Claimed", Account: p.Account, Amount: json.Number(fmt.Sprintf("%.0f", sum*1e18)), T: c.Seconds})
	}
	return m
}

// What a chain with a cheat, and the ledger, are held to.
func TestCheatInvariantsFail(t *testing.T) {
	wei := json.Number("1000000000000000000")
	for _, v := range []struct {
		name  string
		plant func(*Chronicle)
	}{
		{"every_cheat_caught", func(c *Chronicle) {
			c.Lineage.Chain[6].Convicted = nil
			c.Money.Events[9].Amount = "0"
		}},
		{"every_cheat_caught", func(c *Chronicle) { // later than the bound
			c.Lineage.Chain[30].Convicted, c.Lineage.Chain[6].Convicted = c.Lineage.Chain[6].Convicted, nil
		}},
		{"no_honest_peer_slashed", func(c *Chronicle) {
			c.Lineage.Chain[20].Convicted = []diloco.Conviction{{Peer: c.Peers[1].ID, Why: "wrong work"}}
		}},
		{"no_honest_peer_slashed", func(c *Chronicle) {
			c.Money.Events = append(c.Money.Events, LedgerEvent{Name: "Slashed", Account: c.Peers[5].Account, Amount: wei})
		}},
		{"convicts_were_slashed", func(c *Chronicle) { c.Money.Events[9].Name = "Funded" }},
		{"no_cheat_paid_past_detection", func(c *Chronicle) {
			c.Money.Lines = append(c.Money.Lines, PayLine{Epoch: 3, Round: 7, Peer: c.Peers[3].ID, Amount: wei})
		}},
		{"books_balanced", func(c *Chronicle) { c.Money.Books[0].Has = "1" }},
		{"books_balanced", func(c *Chronicle) { c.Money.Balanced = false }},
		{"books_balanced", func(c *Chronicle) {
			c.Money.Events = append(c.Money.Events, LedgerEvent{Name: "Claimed", Account: c.Peers[1].Account, Amount: wei})
		}},
		{"no_round_waited_for_the_chain", func(c *Chronicle) { c.Money.Outages = []Outage{{From: 60, To: 70, FromRound: 9, ToRound: 9}} }},
		{"no_round_waited_for_the_chain", func(c *Chronicle) { c.Money.Outages = []Outage{{From: 60, To: 400, FromRound: 9, ToRound: 12}} }},
	} {
		c := audited(t)
		v.plant(c)
		var failed []string
		for _, i := range report(c).Invariants {
			if !i.OK {
				failed = append(failed, i.Name+": "+i.Detail)
			}
		}
		if len(failed) != 1 || !strings.HasPrefix(failed[0], v.name+":") {
			t.Errorf("%s: found %q", v.name, failed)
		}
	}
}

func TestReportOfACheat(t *testing.T) {
	c := audited(t)
	r := report(c)
	for _, i := range r.Invariants {
		if !i.OK {
			t.Errorf("%s: %s", i.Name, i.Detail)
		}
	}
	if len(r.Cheats) != 1 {
		t.Fatalf("%d cheats", len(r.Cheats))
	}
	s := r.Cheats[0]
	if s.Peer != "p3" || s.FirstLie != 3 || s.Audited != 5 || s.Accused != 5 || s.Caught != 6 || !s.Slashed || s.SlashedAmount != "30" || s.SlashedRound != 9 || s.Lies != 3 {
		t.Errorf("%+v", s)
	}
	if s.Chance != 0.75 || s.Bound != 2+5+settling { // 0.25⁵ < 1/1000
		t.Errorf("chance %v, bound %d", s.Chance, s.Bound)
	}
	if r.SlashedHonest != 0 || r.BooksBalanced == nil || !*r.BooksBalanced || r.Audits == 0 {
		t.Errorf("%d slashed honest, books %v, %d audits", r.SlashedHonest, r.BooksBalanced, r.Audits)
	}
	if len(r.Paid) != 7 || r.Paid[3].Amount != "2" || r.Paid[3].Slashed != "30" || len(r.Paid[3].Unpaid) != 1 || r.Paid[5].Work[0].Kind != "validation" {
		t.Errorf("%+v", r.Paid)
	}
	if r := report(synthetic(t)); r.BooksBalanced != nil || len(r.Paid) != 0 || len(r.Cheats) != 0 {
		t.Errorf("without a ledger: %+v", r)
	}
}

func TestTokens(t *testing.T) {
	for wei, want := range map[json.Number]json.Number{"0": "0", "": "0", "x": "0", "1000000000000000000": "1", "12500000000000000000": "12.5", "1": "0.000000000000000001", "100": "0.0000000000000001"} {
		if got := tokensOf(weiOf(wei)); got != want {
			t.Errorf("%s: %s, want %s", wei, got, want)
		}
	}
}

// Every kind of cheat has a cage, whose configuration is valid and leaves enough
// honest peers for the bound to mean something.
func TestZoo(t *testing.T) {
	caged := map[cheat.Kind]bool{}
	all := cages()
	for _, pair := range losses() {
		all = append(all, pair[0], pair[1])
	}
	for _, c := range all {
		cfg, err := ParseConfig([]byte(c.config()))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if cfg.total() != c.trainers+c.validators || len(cfg.Validators) != c.validators || len(cfg.Cheats) != len(c.liars) {
			t.Errorf("%s: %+v", c.name, cfg)
		}
		bad := 0
		for _, l := range c.liars {
			caged[l.Kind] = true
			if f, _ := cheat.FactOf(l.Kind); f.Validator {
				bad++
			}
		}
		if 3*(c.validators-bad) < 2*c.validators {
			t.Errorf("%s: %d of %d validators lie: nobody could be convicted", c.name, bad, c.validators)
		}
		ch := &Chronicle{Audit: AuditTerms{Rate: c.rate, Segments: 4, Window: 12}}
		for i := range cfg.total() {
			p := &PeerRecord{Validator: i >= c.trainers}
			for j := range cfg.Cheats {
				if cfg.Cheats[j].Peer == i {
					p.Cheat = &cfg.Cheats[j]
				}
			}
			ch.Peers = append(ch.Peers, p)
		}
		for _, p := range ch.Peers {
			if p.Cheat == nil || len(c.liars) == 0 || !c.chain {
				continue
			}
			if _, bound := ch.odds(p); bound > c.rounds+audit.Memory(ch.Audit.Window) {
				t.Errorf("%s: %s has until round %d, the run ends %d after round %d", c.name, p.Cheat.Kind, bound, audit.Memory(ch.Audit.Window), c.rounds)
			}
		}
	}
	for _, f := range cheat.Facts {
		if !caged[f.Kind] {
			t.Errorf("%s is in no cage", f.Kind)
		}
	}
}

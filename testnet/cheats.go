package testnet

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/testnet/cheat"
	"github.com/shoalnet/shoal/toploc/audit"
)

// A CheatSummary is what came of one cheat. Rounds are those of commits; 0 is never.
type CheatSummary struct {
	Peer string      `json:"peer"`
	ID   wire.PeerID `json:"id"`
	Kind cheat.Kind  `json:"kind"`
	What string      `json:"what"` // in words
	From uint64      `json:"from"` // the first round of its lies

	FirstLie uint64 `json:"first_lie_merged"` // the first commit with work that is a lie
	Lies     int    `json:"lies_merged"`      // pieces of false work in the chain
	Audited  uint64 `json:"audited_round"`    // the first commit with a verdict that says so
	Accused  uint64 `json:"accused_round"`    // whose commit has the case
	Caught   uint64 `json:"caught_round"`     // whose commit convicts it, and drops it
	Why      string `json:"why"`              // of the conviction

	Chance float64 `json:"chance_per_round"` // of being audited where it lies, by the formula
	Bound  uint64  `json:"bound_round"`      // caught by then with probability 0.999; 0: no bound is stated

	Slashed       bool        `json:"slashed"`
	SlashedRound  uint64      `json:"slashed_round"` // the head when the ledger did
	SlashedAmount json.Number `json:"slashed_amount"`
}

// settling is how many rounds may pass from a lie's round to the conviction, once
// some coin has chosen it: the delta is merged one round later, replayed during
// the next, the verdict named in one commit, answered by the others and resolved
// in the next but one, with a round to spare for each.
const settling = 8

// sure is the probability with which a stated bound holds.
const sure = 0.999

// odds are a cheat's chance to be audited in a round where it lies, and the
// round by which it must be caught.
func (c *Chronicle) odds(p *PeerRecord) (perRound float64, bound uint64) {
	fact, _ := cheat.FactOf(p.Cheat.Kind)
	honest, trainers := 0, 0
	for _, q := range c.Peers {
		if q.Validator && q.Cheat == nil {
			honest++
		}
		if !q.Validator && !q.Observer {
			trainers++
		}
	}
	start := max(p.Cheat.Round, c.joined(p))
	rate, looks, share := c.Audit.Rate, honest, 1.0
	switch {
	case fact.Kind == cheat.TwoDeltas:
		return 1, start + settling // its own signatures convict it
	case fact.Kind == cheat.HideCoin:
		return 1, start + c.Audit.Window + settling // its first vote that must show it
	case fact.Kind == cheat.Silent:
		// Not seen by anybody's audit: the chain counts what it owes and does not answer.
		if n := audit.SilentUntil(rate, trainers-c.cheatsAmong(false), sure); n > 0 {
			bound = start + uint64(n) + c.Audit.Window + settling
		}
		return audit.Detection(rate, 1, trainers, 1), bound
	case fact.Kind == cheat.FailAll:
		// Each delta that its own coin chooses opens a case, and all others answer.
		looks = trainers
	case fact.Validator:
		// It passes about rate · trainers deltas a round, and each of the others
		// checks each of those with probability rate.
		looks, share = honest*trainers, float64(rate)/10_000
	default:
		share = float64(fact.Bad(c.Audit.Segments)) / float64(max(c.Audit.Segments, 1))
	}
	perRound = audit.Detection(rate, share, looks, 1)
	if n := audit.RoundsUntil(rate, share, looks, sure); n > 0 {
		bound = start + uint64(n) + settling
	}
	if fact.Kind == cheat.Withhold && bound > 0 {
		bound += c.Audit.Window/2 + c.Audit.Window // material may come late, and the accused has time to answer
	}
	return perRound, bound
}

// cheatsAmong counts the cheats of one role.
func (c *Chronicle) cheatsAmong(validators bool) (n int) {
	for _, p := range c.Peers {
		if p.Cheat != nil && p.Validator == validators {
			n++
		}
	}
	return n
}

// joined is the round whose commit first had the peer in the roster.
func (c *Chronicle) joined(p *PeerRecord) uint64 {
	if c.Lineage != nil {
		for _, l := range c.Lineage.Chain {
			if slices.Contains(l.Roster, p.ID) {
				return l.Round
			}
		}
	}
	return 0
}

// cheats tells what came of each.
func (c *Chronicle) cheats() (out []CheatSummary) {
	for _, p := range c.Peers {
		if p.Cheat == nil {
			continue
		}
		fact, _ := cheat.FactOf(p.Cheat.Kind)
		s := CheatSummary{Peer: p.Name, ID: p.ID, Kind: p.Cheat.Kind, What: fact.What, From: p.Cheat.Round}
		s.Chance, s.Bound = c.odds(p)
		c.trace(p, &s)
		amount := c.Money.sum("Slashed", p.Account)
		s.Slashed, s.SlashedAmount = amount.Sign() > 0, tokensOf(amount)
		if t, ok := c.Money.when("Slashed", p.Account); ok {
			s.SlashedRound = c.roundAt(t)
		}
		out = append(out, s)
	}
	return out
}

// trace follows a cheat through the chain.
func (c *Chronicle) trace(p *PeerRecord, s *CheatSummary) {
	if c.Lineage == nil {
		return
	}
	first := func(at *uint64, round uint64) {
		if *at == 0 {
			*at = round
		}
	}
	for _, l := range c.Lineage.Chain {
		for _, d := range l.Deltas {
			if d.Peer == p.ID && d.Round >= s.From {
				s.Lies++
				first(&s.FirstLie, l.Round)
			}
		}
		for _, v := range l.Verdicts {
			if v.From == p.ID && v.Round >= s.From {
				s.Lies++
				first(&s.FirstLie, l.Round)
			}
			if v.Peer == p.ID && v.Finding != foundPass {
				first(&s.Audited, l.Round)
			}
		}
		for _, k := range l.Cases {
			if k.Peer == p.ID {
				first(&s.Accused, l.Round)
			}
		}
		for _, k := range l.Convicted {
			if k.Peer == p.ID {
				first(&s.Caught, l.Round)
				if s.Why == "" {
					s.Why = k.Why
				}
			}
		}
	}
	if s.Caught > 0 && s.Accused == 0 {
		s.Accused = s.Caught // by its own signatures, or in one commit
	}
}

// roundAt is the round of the newest commit that anybody had at a time.
func (c *Chronicle) roundAt(t float64) (round uint64) {
	for r, at := range c.commitTimes() {
		if at <= t {
			round = max(round, r)
		}
	}
	return round
}

// checkCheats holds the audits to what they promise.
func checkCheats(c *Chronicle, add func(name string, bad []string, good string)) {
	cheats := c.cheats()
	if len(cheats) > 0 {
		var bad, good []string
		for _, s := range cheats {
			switch {
			case s.Bound == 0:
				bad = append(bad, fmt.Sprintf("%s (%s) cannot be caught: no honest validator audits", s.Peer, s.Kind))
			case s.Caught == 0:
				bad = append(bad, fmt.Sprintf("%s (%s) was never caught", s.Peer, s.Kind))
			case s.Caught > s.Bound:
				bad = append(bad, fmt.Sprintf("%s (%s) was caught in round %d, the bound is %d", s.Peer, s.Kind, s.Caught, s.Bound))
			default:
				good = append(good, fmt.Sprintf("%s (%s) from round %d on, caught in commit %d, bound %d", s.Peer, s.Kind, s.From, s.Caught, s.Bound))
			}
		}
		add("every_cheat_caught", bad, strings.Join(good, "; "))
	}
	if c.Audit.Rate == 0 && c.Money == nil {
		return
	}
	bad, audits := honestConvicted(c)
	add("no_honest_peer_slashed", bad, fmt.Sprintf("%d audits of honest work, none of them ended in a conviction", audits))
	if c.Money == nil {
		return
	}
	bad = nil
	for _, s := range cheats {
		if s.Caught > 0 && !s.Slashed && s.Why != diloco.WhySilent { // who is only silent loses its seat
			bad = append(bad, fmt.Sprintf("%s was convicted in round %d and keeps its stake", s.Peer, s.Caught))
		}
	}
	if len(cheats) > 0 {
		add("convicts_were_slashed", bad, "the ledger took stake of every peer that the chain convicted of more than silence")
		add("no_cheat_paid_past_detection", paidPast(c, cheats), "no work of a cheat that was merged after its conviction earned anything")
	}
	bad, good := booksBalanced(c)
	add("books_balanced", bad, good)
	if len(c.Money.Outages) > 0 {
		bad, good := outages(c)
		add("no_round_waited_for_the_chain", bad, good)
	}
}

// honestConvicted lists the honest whom the chain convicted or the ledger
// slashed, and counts the audits of honest work.
func honestConvicted(c *Chronicle) (bad []string, audits int) {
	honest := map[wire.PeerID]*PeerRecord{}
	for _, p := range c.Peers {
		if p.Cheat == nil {
			honest[p.ID] = p
			if x := c.Money.sum("Slashed", p.Account); x.Sign() > 0 {
				bad = append(bad, fmt.Sprintf("the ledger took %s tokens of %s", tokensOf(x), p.Name))
			}
		}
	}
	if c.Lineage == nil {
		return append(bad, "unknown without the lineage"), 0
	}
	for _, l := range c.Lineage.Chain {
		for _, k := range l.Convicted {
			if p := honest[k.Peer]; p != nil {
				bad = append(bad, fmt.Sprintf("round %d convicts %s: %s", l.Round, p.Name, k.Why))
			}
		}
		for _, v := range l.Verdicts {
			if honest[v.From] != nil && honest[v.Peer] != nil {
				audits++
			}
		}
	}
	return bad, audits
}

// slashedHonest counts the honest peers who lost stake or their place.
func (c *Chronicle) slashedHonest() (n int) {
	for _, p := range c.Peers {
		if p.Cheat != nil {
			continue
		}
		convicted := c.Lineage != nil && slices.ContainsFunc(c.Lineage.Chain, func(l LineageCommit) bool {
			return slices.ContainsFunc(l.Convicted, func(k diloco.Conviction) bool { return k.Peer == p.ID })
		})
		if convicted || c.Money.sum("Slashed", p.Account).Sign() > 0 {
			n++
		}
	}
	return n
}

// paidPast lists what cheats earned with work of later commits than their conviction.
func paidPast(c *Chronicle, cheats []CheatSummary) (bad []string) {
	for _, s := range cheats {
		sum := new(big.Int)
		for _, l := range c.Money.Lines {
			if l.Peer == s.ID && s.Caught > 0 && l.Round >= s.Caught {
				sum.Add(sum, weiOf(l.Amount))
			}
		}
		if sum.Sign() > 0 {
			bad = append(bad, fmt.Sprintf("%s earned %s tokens with work of commit %d and later", s.Peer, tokensOf(sum), s.Caught))
		}
	}
	return bad
}

// outages: rounds went on without the chain, and epochs became final afterwards.
func outages(c *Chronicle) (bad []string, good string) {
	var notes []string
	for _, o := range c.Money.Outages {
		to := o.ToRound
		if o.To == 0 {
			to = c.Rounds
		}
		if to <= o.FromRound {
			bad = append(bad, fmt.Sprintf("no round was finished without the chain, from %.0f s on", o.From))
		}
		final := slices.ContainsFunc(c.Money.Events, func(e LedgerEvent) bool { return e.Name == "Finalized" && e.T > o.To })
		if o.To > 0 && !final {
			bad = append(bad, fmt.Sprintf("no epoch became final after the chain was back at %.0f s", o.To))
		}
		notes = append(notes, fmt.Sprintf("%d rounds in %.0f s without the chain, settled afterwards", to-min(to, o.FromRound), o.To-o.From))
	}
	return bad, strings.Join(notes, "; ")
}

// role is what a peer does, in a word.
func (p *PeerRecord) role() string {
	switch {
	case p.Observer:
		return "observer"
	case p.Validator:
		return "validator"
	}
	return "trainer"
}

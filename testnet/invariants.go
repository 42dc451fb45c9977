package testnet

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/p2p/wire"
)

// An Invariant is one property that the run was held to.
type Invariant struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// check holds the chronicle to the invariants of the protocol and to what the
// configuration expects.
func check(c *Chronicle) []Invariant {
	var out []Invariant
	add := func(name string, bad []string, good string) {
		inv := Invariant{Name: name, OK: len(bad) == 0, Detail: good}
		if len(bad) > 0 {
			const most = 4
			if n := len(bad); n > most {
				bad = append(bad[:most:most], fmt.Sprintf("and %d more", n-most))
			}
			inv.Detail = strings.Join(bad, "; ")
		}
		out = append(out, inv)
	}
	bad, n := oneFinal(c)
	add("one_final_commit_per_round", bad, fmt.Sprintf("%d final commits seen, by %d peers", n, len(c.Peers)))
	bad, n = oneState(c)
	add("equal_state_at_equal_commit", bad, fmt.Sprintf("%d commits compared", n))
	add("all_agree_at_the_end", agreed(c), "every running peer ends at the same final commit and state")
	bad, n = notDropped(c)
	add("no_honest_peer_dropped", bad, fmt.Sprintf("departures from the roster: %d, each of a peer that was away", n))
	bad, n = countedOnce(c)
	add("no_delta_counted_twice", bad, fmt.Sprintf("%d deltas in the chain, each once", n))
	bad, n = nothingLost(c)
	add("nothing_lost_across_kill", bad, fmt.Sprintf("restarts: %d, each with its history and from the head that it had", n))
	add("no_peer_evicted", evicted(c), "no honest peer was evicted")
	bad, gap := alive(c)
	add("liveness", bad, fmt.Sprintf("the longest time without a new round was %.1f s", gap))
	if names := c.who(Restart); len(names) > 0 {
		bad, good := returned(c)
		add("restarted_peers_contributed", bad, good)
	}
	if names := c.who(Join); len(names) > 0 {
		bad, good := arrived(c)
		add("newcomers_contributed", bad, good)
	}
	if len(c.Cuts) > 0 {
		bad = nil
		for _, cut := range c.Cuts {
			if cut.Crossed > 0 {
				bad = append(bad, fmt.Sprintf("%d bytes crossed the partition at %.0f s", cut.Crossed, cut.From))
			}
		}
		add("partitions_were_complete", bad, fmt.Sprintf("partitions: %d, no byte crossed", len(c.Cuts)))
		bad, good := rejoined(c)
		add("one_chain_after_partition", bad, good)
	}
	checkCheats(c, add)
	bad = nil
	if c.Lineage == nil || !c.Lineage.Verified {
		bad = []string{"not verified: " + cmp.Or(c.LineageError, "it was not tried")}
	}
	add("lineage_verified", bad, lineageDetail(c))
	out = append(out, expected(c)...)
	add("nothing_else_failed", c.Failures, "no process failed, no step was left out")
	return out
}

func lineageDetail(c *Chronicle) string {
	if c.Lineage == nil {
		return ""
	}
	return fmt.Sprintf("%d outer steps recomputed in %.1f s, from genesis to %s", c.Lineage.Rounds-c.Lineage.From, c.Lineage.Seconds, c.Lineage.Head)
}

// oneFinal: no two peers, at any time, called different commits of a round final.
func oneFinal(c *Chronicle) (bad []string, n int) {
	final := map[uint64]wire.CID{}
	say := func(round uint64, commit wire.CID, who string) {
		if !commit.Defined() {
			return
		}
		if was, ok := final[round]; !ok {
			final[round] = commit
		} else if was != commit {
			bad = append(bad, fmt.Sprintf("round %d: %s and, by %s, %s are final", round, was.Short(), who, commit.Short()))
		}
	}
	for _, p := range c.Peers {
		for _, s := range p.Seen {
			say(s.FinalRound, s.Final, p.Name)
		}
		say(p.last().FinalRound, p.last().Final, p.Name)
	}
	if c.Lineage != nil {
		for _, l := range c.Lineage.Chain {
			if _, ok := final[l.Round]; ok {
				say(l.Round, l.Commit, "the lineage")
			}
		}
	}
	return bad, len(final)
}

// oneState: a commit has one state, whoever holds it.
func oneState(c *Chronicle) (bad []string, n int) {
	state := map[wire.CID]wire.CID{}
	say := func(commit, st wire.CID, who string) {
		if !commit.Defined() || !st.Defined() {
			return
		}
		if was, ok := state[commit]; !ok {
			state[commit] = st
		} else if was != st {
			bad = append(bad, fmt.Sprintf("%s: commit %s has the state %s, elsewhere %s", who, commit.Short(), st.Short(), was.Short()))
		}
	}
	for _, p := range c.Peers {
		for _, r := range p.History {
			say(r.Commit, r.State, p.Name)
		}
		for _, s := range p.Seen {
			say(s.Head, s.State, p.Name)
			say(s.Final, s.FinalState, p.Name)
		}
		say(p.last().Final, p.last().FinalState, p.Name)
		say(p.last().Result, p.last().ResultState, p.Name)
	}
	if c.Lineage != nil {
		for _, l := range c.Lineage.Chain {
			say(l.Commit, l.State, "lineage")
		}
	}
	return bad, len(state)
}

// agreed: whoever runs at the end is done and holds what all others hold. Cheats
// are asked for nothing.
func agreed(c *Chronicle) (bad []string) {
	var first *PeerRecord
	for _, p := range c.Peers {
		if !p.running() || p.Cheat != nil {
			continue
		}
		switch {
		case !p.last().Done:
			bad = append(bad, fmt.Sprintf("%s is not done: %s, round %d, final round %d", p.Name, cmp.Or(p.last().Phase, "unseen"), p.last().Round, p.last().FinalRound))
		case first == nil:
			first = p
		default:
			_, c0, s0 := first.result()
			if _, c1, s1 := p.result(); c0 != c1 || s0 != s1 {
				bad = append(bad, fmt.Sprintf("%s ends at %s, %s at %s", first.Name, c0.Short(), p.Name, c1.Short()))
			}
		}
	}
	if first == nil && len(bad) == 0 {
		bad = []string{"no peer was running at the end"}
	}
	return bad
}

// notDropped: whoever leaves the roster was away, or behind a partition, at
// some moment of the rounds in which it counted as silent.
func notDropped(c *Chronicle) (bad []string, n int) {
	if c.Lineage == nil {
		return []string{"unknown without the lineage"}, 0
	}
	when := c.commitTimes()
	byID := map[wire.PeerID]*PeerRecord{}
	for _, p := range c.Peers {
		byID[p.ID] = p
	}
	for i := 1; i < len(c.Lineage.Chain); i++ {
		was, is := c.Lineage.Chain[i-1], c.Lineage.Chain[i]
		for _, id := range was.Roster {
			p := byID[id]
			if slices.Contains(is.Roster, id) || p == nil || p.Cheat != nil {
				continue
			}
			n++
			from := when[is.Round-min(is.Round, c.DropAfter+1)]
			to, ok := when[is.Round]
			if ok && p.upDuring(from, to) && !c.cutDuring(from, to) {
				bad = append(bad, fmt.Sprintf("%s left the roster in round %d though it ran from %.0f s to %.0f s", p.Name, is.Round, from, to))
			}
		}
	}
	return bad, n
}

func (c *Chronicle) cutDuring(from, to float64) bool {
	return slices.ContainsFunc(c.Cuts, func(x Cut) bool { return x.From < to && (x.To == 0 || x.To > from) })
}

// commitTimes is when each round's commit was first adopted by anybody.
func (c *Chronicle) commitTimes() map[uint64]float64 {
	when := map[uint64]float64{}
	for _, p := range c.Peers {
		for _, r := range p.History {
			t := c.since(r.Time)
			if was, ok := when[r.Round]; !ok || t < was {
				when[r.Round] = t
			}
		}
	}
	return when
}

// countedOnce: no envelope, no payload and no phase of inner steps of a peer
// is in the chain twice.
func countedOnce(c *Chronicle) (bad []string, n int) {
	if c.Lineage == nil {
		return []string{"unknown without the lineage"}, 0
	}
	seen := map[string]uint64{}
	for _, l := range c.Lineage.Chain {
		for _, d := range l.Deltas {
			n++
			for _, key := range []string{"delta " + d.ID.String(), fmt.Sprintf("the work of %s on %s", d.Peer.Short(), d.Parent.Short())} {
				if was, ok := seen[key]; ok {
					bad = append(bad, fmt.Sprintf("%s is in rounds %d and %d", key, was, l.Round))
				}
				seen[key] = l.Round
			}
		}
	}
	return bad, n
}

// nothingLost: after each restart a peer's history begins with what it held
// when it ended, it goes on from the head that it had, and it comes back to
// the final round that it had reported. (Finality is derived from what others
// attest to, so it may take a moment to be known again.)
func nothingLost(c *Chronicle) (bad []string, n int) {
	for _, p := range c.Peers {
		for i, l := range p.Lives[:max(0, len(p.Lives)-1)] {
			n++
			next := p.Lives[i+1]
			if l.Lines > len(p.History) || l.Lines > 0 && p.History[l.Lines-1].Commit != l.LastCommit {
				bad = append(bad, fmt.Sprintf("%s lost history after its life %d: line %d was %s", p.Name, i+1, l.Lines, l.LastCommit.Short()))
				continue
			}
			var head, final uint64
			known := false
			for _, s := range p.Seen {
				if s.T <= next.From || next.To > 0 && s.T > next.To || !s.Head.Defined() {
					continue
				}
				if !known {
					head, known = s.Round, true
				}
				final = max(final, s.FinalRound)
			}
			if !known {
				continue // it never got so far; whether it had to is another question
			}
			if l.Lines > 0 && head < p.History[l.Lines-1].Round {
				bad = append(bad, fmt.Sprintf("%s was at round %d and came back at round %d", p.Name, p.History[l.Lines-1].Round, head))
			}
			if final < l.FinalRound {
				bad = append(bad, fmt.Sprintf("%s had reported round %d as final and never got beyond %d again", p.Name, l.FinalRound, final))
			}
		}
	}
	return bad, n
}

func evicted(c *Chronicle) (bad []string) {
	for _, p := range c.Peers {
		for _, e := range p.last().Evicted {
			if slices.ContainsFunc(c.Peers, func(q *PeerRecord) bool { return q.ID == e && q.Cheat != nil }) {
				continue
			}
			bad = append(bad, fmt.Sprintf("%s saw %s evicted", p.Name, c.name(e)))
		}
	}
	return bad
}

// alive: rounds kept coming until the stop rule, and after it until the end.
func alive(c *Chronicle) (bad []string, gap float64) {
	when := c.commitTimes()
	rounds := slices.Sorted(maps.Keys(when))
	last := 0.0
	for _, r := range rounds {
		if d := when[r] - last; d > gap {
			gap = d
			if d > c.Stall {
				bad = append(bad, fmt.Sprintf("round %d came %.0f s after the one before", r, d))
			}
		}
		last = max(last, when[r])
	}
	if len(rounds) == 0 {
		bad = append(bad, "no round was ever finished")
	} else if top := rounds[len(rounds)-1]; top < c.Rounds {
		bad = append(bad, fmt.Sprintf("the run stood at round %d of %d", top, c.Rounds))
	}
	if c.TimedOut {
		bad = append(bad, fmt.Sprintf("not all were done after %.0f s", c.Seconds))
	}
	return bad, gap
}

// who returns the peers that an action befell, in order.
func (c *Chronicle) who(do Action) (peers []int) {
	for _, e := range c.Events {
		if e.Event.Do == do {
			peers = append(peers, e.Event.Peers...)
		}
	}
	return peers
}

func (c *Chronicle) name(id wire.PeerID) string {
	for _, p := range c.Peers {
		if p.ID == id {
			return p.Name
		}
	}
	return id.Short()
}

package testnet

import (
	"fmt"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
)

// healRounds is how many rounds after a partition all must be on one chain.
const healRounds = 2

// rejoined: within two rounds of the end of a partition every running peer's
// head is on the chain that became final.
func rejoined(c *Chronicle) (bad []string, good string) {
	if c.Lineage == nil {
		return []string{"unknown without the lineage"}, ""
	}
	chain := map[wire.CID]bool{}
	late := 0
	for _, l := range c.Lineage.Chain {
		chain[l.Commit] = true
		for _, d := range l.Deltas {
			if d.Round+1 < l.Round {
				late++
			}
		}
	}
	most := uint64(0)
	for _, cut := range c.Cuts {
		if cut.To == 0 || cut.Healed+healRounds > c.Rounds {
			continue
		}
		for _, p := range c.Peers {
			if !p.upDuring(cut.From, c.Seconds) {
				continue
			}
			i := slices.IndexFunc(p.Seen, func(s Seen) bool { return s.T > cut.To && chain[s.Head] })
			if i < 0 {
				bad = append(bad, p.Name+" never came back to the chain")
				continue
			}
			after := p.Seen[i].Round - min(cut.Healed, p.Seen[i].Round)
			if most = max(most, after); after > healRounds {
				bad = append(bad, fmt.Sprintf("%s was back on the chain at round %d, the partition ended at round %d", p.Name, p.Seen[i].Round, cut.Healed))
			}
		}
	}
	return bad, fmt.Sprintf("all on one chain %d rounds after the partition's end at the latest; %d deltas merged late", most, late)
}

// returned: whoever was restarted, with rounds to go, has work in the chain afterwards.
func returned(c *Chronicle) (bad []string, good string) {
	var notes []string
	for _, e := range c.Events {
		if e.Event.Do != Restart {
			continue
		}
		for _, i := range e.Event.Peers {
			p := c.Peers[i]
			if p.Observer || p.Validator || p.Cheat != nil || e.Round+3 > c.Rounds {
				continue
			}
			if r, ok := c.firstMerged(p.ID, e.Round); ok {
				notes = append(notes, fmt.Sprintf("%s back at round %d, in commit %d", p.Name, e.Round, r))
			} else {
				bad = append(bad, fmt.Sprintf("%s restarted at round %d and no work of it was merged since", p.Name, e.Round))
			}
		}
	}
	return bad, strings.Join(notes, "; ")
}

// arrived: a newcomer trained from the very commit that brought it into the
// roster, and that work is in the chain.
func arrived(c *Chronicle) (bad []string, good string) {
	if c.Lineage == nil {
		return []string{"unknown without the lineage"}, ""
	}
	var notes []string
	for _, i := range c.who(Join) {
		p := c.Peers[i]
		if p.Observer || p.Validator || p.Cheat != nil {
			continue
		}
		at := slices.IndexFunc(c.Lineage.Chain, func(l LineageCommit) bool { return slices.Contains(l.Roster, p.ID) })
		if at < 0 {
			bad = append(bad, p.Name+" never entered the roster")
			continue
		}
		entered := c.Lineage.Chain[at].Round
		merged, trained, ok := c.firstWork(p.ID)
		switch {
		case !ok:
			bad = append(bad, fmt.Sprintf("%s entered in round %d and nothing of it was merged", p.Name, entered))
		case trained > entered:
			bad = append(bad, fmt.Sprintf("%s entered in round %d, but its first work in the chain is of round %d", p.Name, entered, trained))
		default:
			notes = append(notes, fmt.Sprintf("%s entered in commit %d, its work from there is in commit %d", p.Name, entered, merged))
		}
	}
	return bad, strings.Join(notes, "; ")
}

// firstWork is the first round whose commit holds work of the peer, and the
// earliest round that it was trained in.
func (c *Chronicle) firstWork(id wire.PeerID) (merged, trained uint64, ok bool) {
	for _, l := range c.Lineage.Chain {
		for _, d := range l.Deltas {
			if d.Peer != id {
				continue
			}
			if !ok || d.Round < trained {
				merged, trained, ok = l.Round, d.Round, true
			}
		}
	}
	return merged, trained, ok
}

// firstMerged is the first round after the given one whose commit holds work of the peer.
func (c *Chronicle) firstMerged(id wire.PeerID, after uint64) (uint64, bool) {
	if c.Lineage == nil {
		return 0, false
	}
	for _, l := range c.Lineage.Chain {
		if l.Round > after && slices.ContainsFunc(l.Deltas, func(d LineageDelta) bool { return d.Peer == id }) {
			return l.Round, true
		}
	}
	return 0, false
}

// expected holds the losses to what the configuration expects.
func expected(c *Chronicle) (out []Invariant) {
	val, ok := c.valLoss()
	single, alone := lastLoss(c.Single), lastLoss(c.Alone)
	add := func(name string, ok bool, format string, args ...any) {
		out = append(out, Invariant{name, ok, fmt.Sprintf(format, args...)})
	}
	if bound := c.Expect.ValLoss; bound > 0 {
		add("val_loss_reached", ok && val <= bound, "validation loss %.4f, expected at most %g", val, bound)
	}
	if c.Expect.BetterThanAlone && len(c.Alone) > 0 {
		add("better_than_alone", ok && val < alone, "validation loss %.4f, one peer alone %.4f", val, alone)
	}
	if gap := c.Expect.GapToSingle; gap > 0 && len(c.Single) > 0 {
		add("close_to_single", ok && val <= single*(1+gap), "validation loss %.4f is %+.1f %% from the %.4f of one process with all batches, expected at most %+.1f %%",
			val, 100*(val/single-1), single, 100*gap)
	}
	return out
}

// valLoss is the validation loss of the last state that anybody evaluated on
// the chain, of the stop rule's round where there is one.
func (c *Chronicle) valLoss() (loss float64, ok bool) {
	var best node.Record
	for _, p := range c.Peers {
		for _, r := range p.History {
			if r.ValLoss != nil && r.Round <= c.Rounds && (!ok || r.Round > best.Round) {
				best, ok = r, true
			}
		}
	}
	if !ok {
		return 0, false
	}
	return *best.ValLoss, true
}

func lastLoss(points []Point) float64 {
	if len(points) == 0 {
		return 0
	}
	return points[len(points)-1].ValLoss
}

package diloco

import (
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// memberWeight is the weight of every member. Stake will scale it; a power of
// two leaves the leak room for sixty quarterings.
const memberWeight = 1 << 20

// stale reports whether a Join of that round has no place in a child of a
// commit of round parent. It ages as fast as silence drops a member, so that nobody
// who was dropped is brought back by the Join that brought it in before.
func stale(cfg *Config, join, parent uint64) bool { return join+cfg.DropAfter < parent }

// twoThirds reports whether weight is at least 2/3 of total, and that is not
// nothing.
func twoThirds(weight, total uint64) bool {
	if bugQuorum {
		weight += memberWeight
	}
	return total > 0 && 3*weight >= 2*total
}

// atLeastHalf reports whether weight is at least 1/2 of total.
func atLeastHalf(weight, total uint64) bool { return 2*weight >= total }

// overHalf reports whether weight is more than 1/2 of total.
func overHalf(weight, total uint64) bool { return 2*weight > total }

// memberIn returns p's entry of a roster, or nil.
func memberIn(roster []Member, p wire.PeerID) *Member {
	i, ok := slices.BinarySearchFunc(roster, p, func(m Member, p wire.PeerID) int { return m.Peer.Compare(p) })
	if !ok {
		return nil
	}
	return &roster[i]
}

// activeIn returns p's entry if it may vote, or nil.
func activeIn(roster []Member, p wire.PeerID) *Member {
	if m := memberIn(roster, p); m != nil && !m.Banned {
		return m
	}
	return nil
}

// roleIn returns p's entry if it may vote and has that role, or nil.
func roleIn(roster []Member, p wire.PeerID, role string) *Member {
	if m := activeIn(roster, p); m != nil && m.Role == role {
		return m
	}
	return nil
}

// activeWeight returns the weight of the members that may vote.
func activeWeight(roster []Member) (weight uint64) {
	for i := range roster {
		if !roster[i].Banned {
			weight += roster[i].Weight
		}
	}
	return weight
}

// count returns how many active members have that role.
func count(roster []Member, role string) (n uint64) {
	for i := range roster {
		if !roster[i].Banned && roster[i].Role == role {
			n++
		}
	}
	return n
}

// slotOf returns p's index among the active trainers, and their number; -1 if
// p is none of them.
func slotOf(roster []Member, p wire.PeerID) (slot, slots int) {
	slot = -1
	for i := range roster {
		if roster[i].Banned || roster[i].Role != trainer {
			continue
		}
		if roster[i].Peer == p {
			slot = slots
		}
		slots++
	}
	return slot, slots
}

// joinable reports whether a Join or a leave of p may change the roster of
// parent's child.
func joinable(cfg *Config, parent *Commit, p wire.PeerID, j *Join) bool {
	if j.Round > parent.Round || stale(cfg, j.Round, parent.Round) {
		return false
	}
	m := memberIn(parent.Roster, p)
	if j.Leave {
		return m != nil && !m.Banned && j.Round >= m.Since
	}
	return m == nil && (cfg.Admit == nil || cfg.Admit(p, j.Address))
}

// stopped reports whether nobody trains at that round any more.
func stopped(cfg *Config, round uint64) bool { return cfg.StopRound != 0 && round >= cfg.StopRound }

// nextRoster returns the roster that round's commit makes of parent's: voted
// says whose votes are in, convicted, unstaked, accounts and joins what those votes come
// to. joins that are not joinable are without effect. So are the leaves of those after whom the roster would be
// empty: no vote could let anybody in again, and a run whose only peer was stopped for a while would be over.
func nextRoster(cfg *Config, parent *Commit, voted func(wire.PeerID) bool, convicted []Conviction, unstaked []wire.PeerID, accounts map[wire.PeerID]account, joins []*Message) []Member {
	left := func(p wire.PeerID) bool {
		return slices.ContainsFunc(joins, func(j *Message) bool {
			return j.From == p && j.Body.(*Join).Leave && joinable(cfg, parent, p, j.Body.(*Join))
		})
	}
	out, active := rosterWithout(left, cfg, parent, voted, convicted, unstaked, accounts, joins)
	if active == 0 {
		out, _ = rosterWithout(func(wire.PeerID) bool { return false }, cfg, parent, voted, convicted, unstaked, accounts, joins)
	}
	return out
}

// rosterWithout is nextRoster without those who have left; active counts who is not banned.
func rosterWithout(left func(wire.PeerID) bool, cfg *Config, parent *Commit, voted func(wire.PeerID) bool, convicted []Conviction, unstaked []wire.PeerID, accounts map[wire.PeerID]account, joins []*Message) (out []Member, active int) {
	round := parent.Round + 1
	out = make([]Member, 0, len(parent.Roster)+len(joins))
	for _, m := range parent.Roster {
		why, guilty := whyOf(convicted, m.Peer)
		if m.Banned {
			if guilty {
				m.Missed = 0 // not only for its silence any more
			}
			out = append(out, m)
			continue
		}
		if x, ok := accounts[m.Peer]; ok {
			m.Coin, m.Shown, m.Missed = x.coin, x.shown, x.missed
		}
		m.Silent++
		if voted(m.Peer) {
			m.Silent = 0
		}
		switch {
		case guilty:
			m.Banned, m.Weight, m.Missed = true, 0, 0
			if why == WhySilent {
				m.Missed = audit.MissLimit
			}
		case left(m.Peer), m.Silent >= cfg.DropAfter, slices.Contains(unstaked, m.Peer):
			continue
		default:
			active++
		}
		out = append(out, m)
	}
	for _, x := range convicted { // a member once, or never: it shall not come in
		if memberIn(parent.Roster, x.Peer) == nil && len(out) < 2*MaxRoster-len(joins) {
			out = append(out, Member{Peer: x.Peer, Role: trainer, Since: round, Banned: true})
		}
	}
	for i, j := range joins {
		body := j.Body.(*Join)
		again := i > 0 && joins[i-1].From == j.From
		if again || body.Leave || active >= MaxRoster || isConvicted(convicted, j.From) || !joinable(cfg, parent, j.From, body) {
			continue
		}
		if parent.Round == 0 && !voted(j.From) {
			continue // the first roster is those who were there to vote
		}
		active++
		n := Member{Peer: j.From, Address: body.Address, Role: body.Role, Weight: memberWeight, Since: round, Coin: body.Coin}
		if n.Role == validator {
			n.Shown = body.Round
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b Member) int { return a.Peer.Compare(b.Peer) })
	return out, active
}

// voterIn returns p's entry, or nil.
func voterIn(voters []Voter, p wire.PeerID) *Voter {
	i, ok := slices.BinarySearchFunc(voters, p, func(v Voter, p wire.PeerID) int { return v.Peer.Compare(p) })
	if !ok {
		return nil
	}
	return &voters[i]
}

// voterTotals returns the weight of the present set and of the one before.
func voterTotals(voters []Voter) (weight, before uint64) {
	for i := range voters {
		weight += voters[i].Weight
		before += voters[i].Before
	}
	return weight, before
}

// firstVoters returns the voters of C_1: its roster.
func firstVoters(roster []Member) []Voter {
	var out []Voter
	for i := range roster {
		if !roster[i].Banned {
			out = append(out, Voter{roster[i].Peer, roster[i].Weight, roster[i].Weight})
		}
	}
	return out
}

// leak returns voters after one commit without finality: who did not vote in
// it loses a quarter of its weight (the inactivity leak of Buterin et al. 2020,
// section 8.6, with a constant rate).
func leak(voters []Voter, voted func(wire.PeerID) bool) []Voter {
	out := slices.Clone(voters)
	for i := range out {
		if !voted(out[i].Peer) {
			out[i].Weight -= out[i].Weight / 4
			out[i].Before -= out[i].Before / 4
		}
	}
	return out
}

// exchangeVoters makes the active members of roster, the roster of a final
// commit, the present set, and the present set the one before.
func exchangeVoters(voters []Voter, roster []Member) []Voter {
	out := make([]Voter, 0, len(voters)+len(roster))
	i := 0
	for _, v := range voters {
		for ; i < len(roster) && roster[i].Peer.Compare(v.Peer) < 0; i++ {
			if !roster[i].Banned {
				out = append(out, Voter{Peer: roster[i].Peer, Weight: roster[i].Weight})
			}
		}
		n := Voter{Peer: v.Peer, Before: v.Weight}
		if i < len(roster) && roster[i].Peer == v.Peer {
			n.Weight = roster[i].Weight // 0 if banned
			i++
		}
		if n.Weight > 0 || n.Before > 0 {
			out = append(out, n)
		}
	}
	for ; i < len(roster); i++ {
		if !roster[i].Banned {
			out = append(out, Voter{Peer: roster[i].Peer, Weight: roster[i].Weight})
		}
	}
	return out
}

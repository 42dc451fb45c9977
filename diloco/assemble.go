package diloco

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
)

// assembly is what a set of votes makes of a parent commit.
type assembly struct {
	cfg      *Config
	parent   *Commit
	parentID wire.CID
	votes    []*Message              // ascending by From, one a peer, all about parent
	envelope func(wire.CID) *Message // a Delta, Join or Verdict by ID, nil if it is not known
	past     func(wire.CID) *Commit  // ancestors of parent, and parent

	// What assemble finds:
	missing []wire.CID             // named by half but not known
	weight  uint64                 // of the votes
	vote    map[wire.PeerID]*Vote  // by voter
	support map[wire.CID]uint64    // weight that names a delta, join or verdict
	against map[wire.PeerID]uint64 // weight that names a peer for eviction
	poor    map[wire.PeerID]uint64 // weight that finds a member without stake
	merged  []Weighted             // what the outer step applies
}

// assemble returns the commit that the votes make of parent, all but its
// State, and the envelopes that are missing for it, which leave the commit
// nil. An error says that these votes make no commit.
func (a *assembly) assemble() (*Commit, error) {
	c := &Commit{Version: 1, Run: a.parent.Run, Round: a.parent.Round + 1, Parent: a.parentID}
	if err := a.count(c); err != nil {
		return nil, err
	}
	in, err := a.agreed()
	if err != nil || len(a.missing) > 0 {
		return nil, err
	}
	for _, v := range a.votes {
		c.Votes = append(c.Votes, v.Signed)
	}
	for _, d := range in.deltas {
		c.Deltas = append(c.Deltas, d.Signed)
	}
	for _, j := range in.joins {
		c.Joins = append(c.Joins, j.Signed)
	}
	for _, v := range in.verdicts {
		c.Verdicts = append(c.Verdicts, v.Signed)
	}
	voted := func(p wire.PeerID) bool { return a.vote[p] != nil }
	c.Cases, c.Convicted = a.judge(in.verdicts, in.evict, voted)
	accounts, silent := a.accounts(c.Convicted)
	c.Convicted = append(c.Convicted, silent...)
	slices.SortFunc(c.Convicted, func(x, y Conviction) int { return x.Peer.Compare(y.Peer) })
	a.merged = merge(c.Round, in.deltas, c.Convicted)
	c.Unstaked = a.unstaked(c.Convicted)
	c.Roster = nextRoster(a.cfg, a.parent, voted, c.Convicted, c.Unstaked, accounts, in.joins)
	c.Cursor = a.parent.Cursor
	if !stopped(a.cfg, a.parent.Round) {
		c.Cursor += count(a.parent.Roster, trainer) * a.cfg.WindowsEach
	}
	if a.parent.Round == 0 {
		return c, a.first(c)
	}
	c.Final, c.FinalRound = a.final()
	return c, a.voters(c, voted)
}

// count weighs the votes and what they name.
func (a *assembly) count(c *Commit) error {
	a.vote = make(map[wire.PeerID]*Vote, len(a.votes))
	a.support = make(map[wire.CID]uint64)
	a.against = make(map[wire.PeerID]uint64)
	a.poor = make(map[wire.PeerID]uint64)
	for _, m := range a.votes {
		v := m.Body.(*Vote)
		w := uint64(memberWeight)
		if a.parent.Round > 0 {
			member := activeIn(a.parent.Roster, m.From)
			if member == nil {
				return fmt.Errorf("voter %s is not an active member", m.From.Short())
			}
			w = member.Weight
		}
		a.vote[m.From] = v
		a.weight += w
		if !stopped(a.cfg, a.parent.Round) {
			for _, id := range v.Deltas {
				a.support[id] += w
			}
		}
		for _, id := range v.Joins {
			a.support[id] += w
		}
		for _, id := range v.Verdicts {
			a.support[id] += w
		}
		for _, p := range v.Evict {
			a.against[p] += w
		}
		for _, p := range v.Unstaked {
			a.poor[p] += w
		}
	}
	if len(a.votes) == 0 {
		return fmt.Errorf("no votes")
	}
	total := uint64(len(a.support)) * memberWeight // round 0: the union of the joins named
	if a.parent.Round > 0 {
		total = activeWeight(a.parent.Roster)
	}
	c.Weak = !twoThirds(a.weight, total)
	return nil
}

// named is what at least half of the votes' weight names: deltas ascending by
// block, joins by peer, both then by ID; verdicts by ID.
type named struct {
	deltas, joins, verdicts []*Message
	evict                   []wire.PeerID
}

func (a *assembly) agreed() (in named, err error) {
	for id, w := range a.support {
		if !atLeastHalf(w, a.weight) {
			continue
		}
		m := a.envelope(id)
		if m == nil {
			a.missing = append(a.missing, id)
			continue
		}
		switch body := m.Body.(type) {
		case *Delta:
			if !votable(a.cfg, a.parent, m.From, body) {
				return in, fmt.Errorf("delta %s of %s has no place in round %d", id.Short(), m.From.Short(), a.parent.Round)
			}
			in.deltas = append(in.deltas, m)
		case *Join:
			in.joins = append(in.joins, m)
		case *Verdict:
			if err := admissible(a.cfg, a.parent, a.past, m); err != nil {
				return in, fmt.Errorf("verdict %s of %s has no place in round %d: %w", id.Short(), m.From.Short(), a.parent.Round, err)
			}
			in.verdicts = append(in.verdicts, m)
		default:
			return in, fmt.Errorf("votes name a %s", m.Kind)
		}
	}
	slices.Sort(a.missing)
	slices.SortFunc(in.deltas, byBlock)
	slices.SortFunc(in.joins, func(x, y *Message) int { return cmp.Or(x.From.Compare(y.From), cmp.Compare(x.ID, y.ID)) })
	slices.SortFunc(in.verdicts, func(x, y *Message) int { return cmp.Compare(x.ID, y.ID) })
	for p, w := range a.against {
		if atLeastHalf(w, a.weight) && punishable(memberIn(a.parent.Roster, p)) {
			in.evict = append(in.evict, p)
		}
	}
	slices.SortFunc(in.evict, wire.PeerID.Compare)
	return in, nil
}

// unstaked returns whom the commit removes, for the votes say that there is no stake
// behind them. It takes more than half of the roster's weight, not of the votes': what
// a ledger says is each voter's own view, and fewer may not rid a weak commit of
// those who are only out of reach. If nobody who votes were left, it removes nobody.
// Those who are gone already and accused of withholding are told of, too (withdrew).
func (a *assembly) unstaked(convicted []Conviction) (out []wire.PeerID) {
	total, left := activeWeight(a.parent.Roster), false
	for i := range a.parent.Roster {
		switch m := &a.parent.Roster[i]; {
		case m.Banned || isConvicted(convicted, m.Peer):
		case overHalf(a.poor[m.Peer], total), bugStake && 3*a.poor[m.Peer] >= total:
			out = append(out, m.Peer)
		case a.vote[m.Peer] != nil:
			left = true
		}
	}
	if !left {
		out = nil
	}
	for i := range a.parent.Cases { // one peer may have several
		k := &a.parent.Cases[i]
		if k.fugitive(a.parent.Roster) && !isConvicted(convicted, k.Peer) && overHalf(a.poor[k.Peer], total) && !slices.Contains(out, k.Peer) {
			out = append(out, k.Peer)
		}
	}
	slices.SortFunc(out, wire.PeerID.Compare)
	return out
}

func byBlock(x, y *Message) int {
	return cmp.Or(cmp.Compare(x.Body.(*Delta).Block, y.Body.(*Delta).Block), cmp.Compare(x.ID, y.ID))
}

// merge returns what the commit of that round applies of its deltas, which are
// in the order of byBlock: nothing of those whom it convicts.
func merge(round uint64, deltas []*Message, convicted []Conviction) []Weighted {
	type work struct {
		peer  wire.PeerID
		round uint64
	}
	done := make(map[work]bool, len(deltas))
	out := make([]Weighted, 0, len(deltas))
	for _, m := range deltas {
		d := m.Body.(*Delta)
		if done[work{m.From, d.Round}] || isConvicted(convicted, m.From) {
			continue // the same work for two siblings, or work that nobody wants
		}
		done[work{m.From, d.Round}] = true
		out = append(out, Weighted{
			ID: m.ID, Block: d.Block, Peer: m.From, Parent: d.Parent, Round: d.Round,
			Weight: max(1, d.Tokens>>min(round-1-d.Round, 63)),
		})
	}
	return out
}

// votable reports whether a delta of p can enter a child of parent: on time
// (trained from parent's state in its round, whatever sibling of parent it names)
// or at most LateRounds late, by a trainer, and auditable. That it is not in the
// chain yet is for the caller.
func votable(cfg *Config, parent *Commit, p wire.PeerID, d *Delta) bool {
	if parent.Round == 0 || stopped(cfg, parent.Round) || roleIn(parent.Roster, p, trainer) == nil {
		return false
	}
	if cfg.AuditRate > 0 && !d.Trace.Defined() {
		return false
	}
	if d.Round == parent.Round {
		return d.State == parent.State
	}
	return d.Round < parent.Round && d.Round+cfg.LateRounds >= parent.Round
}

// first completes C_1: every voter must be in the roster that it votes for.
func (a *assembly) first(c *Commit) error {
	for p := range a.vote {
		if activeIn(c.Roster, p) == nil {
			return fmt.Errorf("first roster lacks its voter %s", p.Short())
		}
	}
	if n := count(c.Roster, trainer); n < uint64(a.cfg.MinPeers) {
		return fmt.Errorf("first roster has %d trainers, the run wants %d", n, a.cfg.MinPeers)
	}
	c.Final, c.FinalRound, c.Changed = a.parentID, 0, 1
	c.Voters = firstVoters(c.Roster)
	return nil
}

// final returns the last final commit by the word of the votes: the highest
// commit of the chain that, itself or by a descendant of it in the chain, is
// claimed by more than half of the weight that finality counts. With fewer
// than a third of that lying there is an honest word among them, also where a
// partition has left hardly anybody in the roster.
func (a *assembly) final() (wire.CID, uint64) {
	type claim struct {
		id             wire.CID
		round          uint64
		weight, before uint64
	}
	var claims []claim
	for _, m := range a.votes {
		v := a.vote[m.From]
		w := voterIn(a.parent.Voters, m.From)
		if w == nil || v.FinalRound <= a.parent.FinalRound {
			continue
		}
		c := a.past(v.Final)
		if c == nil || c.Round != v.FinalRound {
			continue
		}
		i := slices.IndexFunc(claims, func(c claim) bool { return c.id == v.Final })
		if i < 0 {
			i = len(claims)
			claims = append(claims, claim{id: v.Final, round: v.FinalRound})
		}
		claims[i].weight += w.Weight
		claims[i].before += w.Before
	}
	slices.SortFunc(claims, func(x, y claim) int { return cmp.Compare(y.round, x.round) })
	total, totalBefore := voterTotals(a.parent.Voters)
	var weight, before uint64
	for _, c := range claims {
		weight += c.weight
		before += c.before
		if overHalf(weight, total) && overHalf(before, totalBefore) {
			return c.id, c.round
		}
	}
	return a.parent.Final, a.parent.FinalRound
}

// voters completes c's Voters and Changed.
func (a *assembly) voters(c *Commit, voted func(wire.PeerID) bool) error {
	c.Voters, c.Changed = a.parent.Voters, a.parent.Changed
	if c.Round-c.FinalRound > a.cfg.LeakAfter {
		c.Voters = leak(c.Voters, voted)
	}
	if c.FinalRound == a.parent.FinalRound || c.FinalRound < a.parent.Changed {
		return nil // no news, or the last exchange is not final yet
	}
	f := a.past(c.Final)
	if f == nil {
		return fmt.Errorf("final commit %s is not in the chain", c.Final.Short())
	}
	if next := exchangeVoters(c.Voters, f.Roster); !slices.Equal(next, c.Voters) {
		c.Voters, c.Changed = next, c.Round
	}
	return nil
}

package diloco

import (
	"errors"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
)

// VerifyCommit checks everything about c but the content of its state: that it
// is the one commit that its votes make of parent. past finds parent and its
// ancestors by CID and returns nil for all else; it must reach back to the
// commit of parent.FinalRound, and cfg.LateRounds and, with as many rounds as a vote
// settles (8) or once more and 2, cfg.AuditWindow beyond parent. Of cfg it uses what the run fixes, and Open and Verify.
func VerifyCommit(cfg Config, parent, c *Commit, past func(wire.CID) *Commit) error {
	id, err := parent.CID()
	if err != nil {
		return err
	}
	cfg = cfg.withDefaults()
	_, err = verifyCommit(&cfg, parent, id, c, past)
	return err
}

// verifyCommit is VerifyCommit for a parent whose CID is known. It returns what
// the outer step of c applied.
func verifyCommit(cfg *Config, parent *Commit, parentID wire.CID, c *Commit, past func(wire.CID) *Commit) ([]Weighted, error) {
	switch {
	case c.Version != 1:
		return nil, fmt.Errorf("commit of round %d: version %d is not known", c.Round, c.Version)
	case c.Parent != parentID || c.Round != parent.Round+1:
		return nil, fmt.Errorf("commit of round %d is not a child of the one of round %d", c.Round, parent.Round)
	case c.Run != parent.Run || c.Run != cfg.Run:
		return nil, fmt.Errorf("commit of round %d is of another run", c.Round)
	case !c.State.Defined():
		return nil, fmt.Errorf("commit of round %d: state is undefined", c.Round)
	case len(c.Votes) > MaxRoster:
		return nil, fmt.Errorf("commit of round %d has %d votes, over the limit of %d", c.Round, len(c.Votes), MaxRoster)
	}
	in := func(err error) error { return fmt.Errorf("commit of round %d: %w", c.Round, err) }
	a := assembly{cfg: cfg, parent: parent, parentID: parentID, past: past}
	for i := range c.Votes {
		m, err := cfg.open(&c.Votes[i], wire.KindVote)
		if err != nil {
			return nil, in(err)
		}
		if i > 0 && c.Votes[i-1].From.Compare(m.From) >= 0 {
			return nil, in(errors.New("votes are not ascending by peer, one each"))
		}
		if v := m.Body.(*Vote); v.Parent != parentID || v.Round != parent.Round {
			return nil, in(fmt.Errorf("vote of %s is about another parent", m.From.Short()))
		}
		if parent.Round > 0 && activeIn(parent.Roster, m.From) == nil {
			return nil, in(fmt.Errorf("voter %s is not an active member", m.From.Short()))
		}
		a.votes = append(a.votes, m)
	}
	envelopes := make(map[wire.CID]*Message, len(c.Deltas)+len(c.Joins)+len(c.Verdicts))
	open := func(list []wire.Signed, kind wire.Kind) error {
		for i := range list {
			m, err := cfg.open(&list[i], kind)
			if err != nil {
				return err
			}
			envelopes[m.ID] = m
		}
		return nil
	}
	if err := open(c.Deltas, wire.KindDelta); err != nil {
		return nil, in(err)
	}
	if err := open(c.Joins, wire.KindJoin); err != nil {
		return nil, in(err)
	}
	if err := open(c.Verdicts, wire.KindVerdict); err != nil {
		return nil, in(err)
	}
	a.envelope = func(id wire.CID) *Message { return envelopes[id] }
	want, err := a.assemble()
	if err != nil {
		return nil, in(err)
	}
	if len(a.missing) > 0 {
		return nil, in(fmt.Errorf("%d deltas, joins or verdicts that half of its votes name are not in it", len(a.missing)))
	}
	if err := same(want, c); err != nil {
		return nil, in(err)
	}
	if d := doubled(cfg, parent, a.merged, past); d != nil {
		return nil, in(fmt.Errorf("work of %s in round %d is in the chain already", d.Peer.Short(), d.Round))
	}
	for _, list := range [][]wire.Signed{c.Votes, c.Deltas, c.Joins, c.Verdicts} { // last: it costs the most
		for i := range list {
			if err := cfg.Verify(&list[i]); err != nil {
				return nil, in(fmt.Errorf("%s of %s: %w", list[i].Kind, list[i].From.Short(), err))
			}
		}
	}
	return a.merged, nil
}

// open decodes an envelope that must be of one kind and of the run.
func (cfg *Config) open(s *wire.Signed, kind wire.Kind) (*Message, error) {
	if s.Kind != kind || s.Run != cfg.Run {
		return nil, fmt.Errorf("holds a %s where a %s of this run belongs", s.Kind, kind)
	}
	return cfg.Open(s)
}

// same compares two commits of equal votes, all but their states.
func same(want, c *Commit) error {
	envelopes := func(a, b []wire.Signed) bool {
		return slices.EqualFunc(a, b, func(x, y wire.Signed) bool {
			return x.From == y.From && slices.Equal(x.Body, y.Body)
		})
	}
	what := ""
	switch {
	case !envelopes(want.Deltas, c.Deltas):
		what = "deltas"
	case !envelopes(want.Joins, c.Joins):
		what = "joins"
	case !envelopes(want.Verdicts, c.Verdicts):
		what = "verdicts"
	case !slices.EqualFunc(want.Cases, c.Cases, sameCase):
		what = "cases"
	case !slices.Equal(want.Convicted, c.Convicted):
		what = "convicted"
	case !slices.Equal(want.Unstaked, c.Unstaked):
		what = "unstaked"
	case !slices.Equal(want.Roster, c.Roster):
		what = "roster"
	case !slices.Equal(want.Voters, c.Voters):
		what = "voters"
	case want.Changed != c.Changed:
		what = "changed"
	case want.Final != c.Final || want.FinalRound != c.FinalRound:
		what = "final"
	case want.Cursor != c.Cursor:
		what = "cursor"
	case want.Weak != c.Weak:
		what = "weak"
	default:
		return nil
	}
	return fmt.Errorf("field %s is not what the votes make of it", what)
}

// doubled returns a piece of work in list that an ancestor, or parent itself,
// has merged already; nil if there is none, as far as past reaches.
func doubled(cfg *Config, parent *Commit, list []Weighted, past func(wire.CID) *Commit) *Weighted {
	late := slices.ContainsFunc(list, func(w Weighted) bool { return w.Round < parent.Round })
	for p, n := parent, uint64(0); late && p != nil && n < cfg.LateRounds; n++ {
		for _, w := range p.Merged() {
			for i := range list {
				if list[i].Peer == w.Peer && list[i].Round == w.Round {
					return &list[i]
				}
			}
		}
		p = past(p.Parent)
	}
	return nil
}

// withDefaults returns cfg with defaults where fields are zero.
func (cfg Config) withDefaults() Config {
	if cfg.MinPeers < 1 {
		cfg.MinPeers = 1
	}
	if cfg.Deadline <= 0 {
		cfg.Deadline = defaultDeadline
	}
	if cfg.DropAfter == 0 {
		cfg.DropAfter = 3
	}
	if cfg.LeakAfter == 0 {
		cfg.LeakAfter = 8
	}
	if cfg.LateRounds == 0 {
		cfg.LateRounds = 2
	}
	if cfg.Segments == 0 {
		cfg.Segments = 4
	}
	if cfg.AuditWindow == 0 {
		cfg.AuditWindow = 8
	}
	if cfg.Verify == nil {
		cfg.Verify = (*wire.Signed).Verify
	}
	if cfg.Open == nil {
		cfg.Open = Open
	}
	return cfg
}

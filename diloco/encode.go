package diloco

import (
	"errors"
	"fmt"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Encode returns the canonical DAG-CBOR of c, at most MaxCommit bytes.
func (c *Commit) Encode() ([]byte, error) {
	b, err := wire.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode commit of round %d: %w", c.Round, err)
	}
	if len(b) > MaxCommit {
		return nil, fmt.Errorf("commit of round %d has %d bytes, over the limit of %d", c.Round, len(b), MaxCommit)
	}
	return b, nil
}

// CID returns the CID of c's block.
func (c *Commit) CID() (wire.CID, error) {
	b, err := c.Encode()
	if err != nil {
		return "", err
	}
	return wire.SumCID(wire.CodecDagCBOR, b), nil
}

// DecodeCommit parses a commit block and checks its form and bounds, not its
// signatures nor its place in the chain (VerifyCommit).
func DecodeCommit(b []byte) (*Commit, error) {
	if len(b) > MaxCommit {
		return nil, fmt.Errorf("commit of %d bytes is over the limit of %d", len(b), MaxCommit)
	}
	c := new(Commit)
	if err := wire.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	switch {
	case c.Version != 1:
		return nil, fmt.Errorf("commit: version %d is not known (want 1)", c.Version)
	case !c.Run.Defined() || !c.State.Defined():
		return nil, errors.New("commit: run or state is undefined")
	case c.Round > maxRound:
		return nil, fmt.Errorf("commit: round %d is out of range", c.Round)
	case (c.Round == 0) == c.Parent.Defined():
		return nil, errors.New("commit: only genesis has no parent")
	case len(c.Votes) > MaxRoster || len(c.Joins) > 2*MaxNames || len(c.Deltas) > 2*MaxNames:
		return nil, errors.New("commit: too many votes, joins or deltas")
	case len(c.Roster) > 2*MaxRoster || len(c.Voters) > 4*MaxRoster:
		return nil, errors.New("commit: roster or voters are too long")
	case len(c.Verdicts) > 2*MaxVerdicts || len(c.Cases) > MaxCases || len(c.Convicted) > 2*MaxRoster || len(c.Unstaked) > MaxRoster:
		return nil, errors.New("commit: too many verdicts, cases, convictions or removals")
	}
	return c, nil
}

// Merged returns what the outer step of c applied: one delta a peer and
// round, ascending by the CID of its block (then of its envelope), weighted by
// its tokens, halved for each round that it was late; nothing of a peer that c
// convicts. It is nil if a delta of c does not decode, which VerifyCommit excludes.
func (c *Commit) Merged() []Weighted {
	deltas := make([]*Message, len(c.Deltas))
	for i := range c.Deltas {
		m, err := Open(&c.Deltas[i])
		if err != nil || m.Kind != wire.KindDelta || m.Body.(*Delta).Round >= c.Round {
			return nil
		}
		deltas[i] = m
	}
	return merge(c.Round, deltas, c.Convicted)
}

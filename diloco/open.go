package diloco

import (
	"errors"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Bounds. A full roster's commit must fit one block of 2 MiB, the most that
// stock IPFS clients fetch: MaxRoster votes of MaxNames names of 41 bytes.
const (
	MaxCommit = 2 << 20 // bytes of an encoded commit
	MaxRoster = 200     // active members
	MaxNames  = 224     // deltas and joins that one vote names
	MaxEvict  = 32      // peers that one vote wants evicted
	// KeepStates is how many rounds behind the head a shell must keep the states
	// that it made or fetched.
	KeepStates = 8
	maxTokens  = 1 << 48 // tokens of one delta
	maxBytes   = 1 << 40 // bytes of one delta's payload
	maxRound   = 1 << 48
)

// A Message is an envelope with its body decoded.
type Message struct {
	wire.Signed
	ID   wire.CID // (*wire.Signed).ID
	Body any      // *Join, *Delta, *Vote, *Attest or *Evidence
}

// Open decodes the body of an envelope and checks its bounds and form. It does
// not verify the signature.
func Open(s *wire.Signed) (*Message, error) {
	if len(s.Body) > wire.MaxBody {
		return nil, fmt.Errorf("%s of %s has %d bytes, over the limit of %d", s.Kind, s.From.Short(), len(s.Body), wire.MaxBody)
	}
	var body interface{ check() error }
	switch s.Kind {
	case wire.KindJoin:
		body = new(Join)
	case wire.KindDelta:
		body = new(Delta)
	case wire.KindVote:
		body = new(Vote)
	case wire.KindAttest:
		body = new(Attest)
	case wire.KindEvidence:
		body = new(Evidence)
	default:
		return nil, fmt.Errorf("message kind %d is none of a run's", s.Kind)
	}
	if err := wire.Unmarshal(s.Body, body); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", s.Kind, s.From.Short(), err)
	}
	if err := body.check(); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", s.Kind, s.From.Short(), err)
	}
	return &Message{Signed: *s, ID: s.ID(), Body: body}, nil
}

func (j *Join) check() error {
	switch {
	case !j.Since.Defined():
		return errors.New("since is undefined")
	case j.Round > maxRound:
		return fmt.Errorf("round %d is out of range", j.Round)
	case j.Role != "trainer":
		return fmt.Errorf("role is not trainer")
	}
	return nil
}

func (d *Delta) check() error {
	switch {
	case !d.Parent.Defined() || !d.State.Defined() || !d.Block.Defined():
		return errors.New("parent, state or block is undefined")
	case d.Round < 1 || d.Round > maxRound:
		return fmt.Errorf("round %d is out of range", d.Round)
	case d.Tokens < 1 || d.Tokens > maxTokens || d.Steps < 1 || d.Steps > maxTokens:
		return fmt.Errorf("%d steps and %d tokens are out of range", d.Steps, d.Tokens)
	case d.Bytes > maxBytes:
		return fmt.Errorf("payload of %d bytes is over the limit", d.Bytes)
	}
	return nil
}

func (v *Vote) check() error {
	switch {
	case !v.Parent.Defined() || !v.Final.Defined():
		return errors.New("parent or final is undefined")
	case v.Round > maxRound || v.FinalRound > v.Round:
		return fmt.Errorf("round %d or final round %d is out of range", v.Round, v.FinalRound)
	case len(v.Deltas)+len(v.Joins) > MaxNames:
		return fmt.Errorf("names %d deltas and joins, over the limit of %d", len(v.Deltas)+len(v.Joins), MaxNames)
	case len(v.Evict) > MaxEvict:
		return fmt.Errorf("evicts %d peers, over the limit of %d", len(v.Evict), MaxEvict)
	case !ascending(v.Deltas) || !ascending(v.Joins):
		return errors.New("deltas or joins are not ascending")
	}
	for i := 1; i < len(v.Evict); i++ {
		if v.Evict[i-1].Compare(v.Evict[i]) >= 0 {
			return errors.New("evict is not ascending")
		}
	}
	return nil
}

func ascending(c []wire.CID) bool {
	for i := 1; i < len(c); i++ {
		if c[i-1] >= c[i] {
			return false
		}
	}
	return len(c) == 0 || c[0].Defined()
}

func (a *Attest) check() error {
	switch {
	case !a.Head.Defined() || !a.Source.Defined():
		return errors.New("head or source is undefined")
	case a.Round < 1 || a.Round > maxRound || a.SourceRound >= a.Round:
		return fmt.Errorf("round %d with source round %d is out of range", a.Round, a.SourceRound)
	}
	return nil
}

func (e *Evidence) check() error {
	if e.A.From != e.B.From || e.A.Kind != e.B.Kind || e.A.Run != e.B.Run || slices.Equal(e.A.Body, e.B.Body) {
		return errors.New("the two messages are not of one peer, kind and run, or are the same")
	}
	return nil
}

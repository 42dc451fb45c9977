package diloco

import (
	"errors"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// Bounds. A full roster's commit must fit one block of 2 MiB, the most that
// stock IPFS clients fetch: MaxRoster votes of MaxNames names of 32 bytes, the
// envelopes named, and the open cases with every validator's word.
const (
	MaxCommit   = 2 << 20 // bytes of an encoded commit
	MaxRoster   = 200     // active members
	MaxNames    = 224     // deltas, joins and verdicts that one vote names
	MaxVerdicts = 48      // of these, verdicts
	MaxEvict    = 16      // peers that one vote wants evicted
	MaxUnstaked = 8       // members that one vote finds without stake
	MaxCases    = 32      // open at a time
	MaxSegments = 64      // of one inner phase
	maxWork     = 512     // bytes of a verdict's work: one TOPLOC record
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
	Body any      // *Join, *Delta, *Vote, *Attest, *Evidence or *Verdict
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
	case wire.KindVerdict:
		body = new(Verdict)
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
	case j.Role != trainer && j.Role != validator:
		return errors.New("role is neither trainer nor validator")
	case (j.Role == validator) != (j.Coin != [32]byte{}):
		return errors.New("a validator, and nobody else, has a coin")
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
	return checkReceipt(d.Epoch, d.Receipt)
}

func checkReceipt(epoch uint64, receipt []byte) error {
	if epoch > maxRound || len(receipt) != 0 && len(receipt) != 65 {
		return fmt.Errorf("receipt of %d bytes for epoch %d is out of range", len(receipt), epoch)
	}
	return nil
}

func (v *Verdict) check() error {
	switch {
	case !v.Subject.Defined() || v.Peer.IsZero():
		return errors.New("subject or peer is undefined")
	case v.Round < 1 || v.Round > maxRound:
		return fmt.Errorf("round %d is out of range", v.Round)
	case v.Segment >= MaxSegments:
		return fmt.Errorf("segment %d is out of range", v.Segment)
	case v.Finding > Withheld:
		return fmt.Errorf("finding %d is none", v.Finding)
	case (v.Finding == Pass) == v.Evidence.Defined():
		return errors.New("an accusation, and nothing else, has evidence")
	case v.Finding == Pass && len(v.Work) == 0 || v.Finding == Withheld && len(v.Work) > 0 || len(v.Work) > maxWork:
		return fmt.Errorf("work of %d bytes is out of range", len(v.Work))
	case len(v.Coin) != 0 && len(v.Coin) != audit.RevealSize:
		return fmt.Errorf("coin of %d bytes is out of range", len(v.Coin))
	}
	return checkReceipt(v.Epoch, v.Receipt)
}

func (v *Vote) check() error {
	switch {
	case !v.Parent.Defined() || !v.Final.Defined():
		return errors.New("parent or final is undefined")
	case v.Round > maxRound || v.FinalRound > v.Round:
		return fmt.Errorf("round %d or final round %d is out of range", v.Round, v.FinalRound)
	case len(v.Deltas)+len(v.Joins)+len(v.Verdicts) > MaxNames || len(v.Verdicts) > MaxVerdicts:
		return fmt.Errorf("names %d deltas, joins and verdicts, over the limit of %d, or more than %d verdicts", len(v.Deltas)+len(v.Joins)+len(v.Verdicts), MaxNames, MaxVerdicts)
	case len(v.Coin) != 0 && len(v.Coin) != audit.RevealSize:
		return fmt.Errorf("coin of %d bytes is out of range", len(v.Coin))
	case len(v.Evict) > MaxEvict:
		return fmt.Errorf("evicts %d peers, over the limit of %d", len(v.Evict), MaxEvict)
	case len(v.Unstaked) > MaxUnstaked:
		return fmt.Errorf("finds %d peers without stake, over the limit of %d", len(v.Unstaked), MaxUnstaked)
	case !ascending(v.Deltas) || !ascending(v.Joins) || !ascending(v.Verdicts):
		return errors.New("deltas, joins or verdicts are not ascending")
	case !peersAscend(v.Evict) || !peersAscend(v.Unstaked):
		return errors.New("evict or unstaked is not ascending")
	}
	return nil
}

func peersAscend(list []wire.PeerID) bool {
	for i := 1; i < len(list); i++ {
		if list[i-1].Compare(list[i]) >= 0 {
			return false
		}
	}
	return true
}

func ascending(c Names) bool {
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

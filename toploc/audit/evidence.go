package audit

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/shoalnet/shoal/p2p/wire"
)

// MaxEvidence bounds the block of an Evidence, in bytes.
const MaxEvidence = 512 << 10

// Evidence is what a verdict that fails somebody rests on: a DAG-CBOR block that
// its author pins and serves. It holds the work in its author's own signed words, so
// that anybody can fetch what that names, replay it and see. What the validator saw is only
// told; whoever checks, looks.
type Evidence struct {
	Version uint64   `cbor:"version"` // 1
	Run     wire.CID `cbor:"run"`
	// Delta is the envelope of the work that was replayed. Verdict is, where the
	// accused is a validator, its verdict on that segment; else it is absent.
	Delta   wire.Signed  `cbor:"delta"`
	Verdict *wire.Signed `cbor:"verdict,omitempty"`
	Trace   wire.CID     `cbor:"trace"`
	Segment uint64       `cbor:"segment"`
	// Withheld: the material could not be had. Otherwise the work is wrong.
	Withheld bool `cbor:"withheld"`

	Auditor wire.PeerID `cbor:"auditor"`
	Engine  string      `cbor:"engine"`  // that the auditor replayed with
	Reason  string      `cbor:"reason"`  // in words
	Numbers []Number    `cbor:"numbers"` // what was measured
}

// Bounds of what an auditor tells.
const (
	maxReason  = 2000
	maxNumbers = 32
)

func (e *Evidence) check() error {
	switch {
	case e.Version != 1:
		return fmt.Errorf("version %d is not 1", e.Version)
	case !e.Run.Defined() || e.Auditor.IsZero():
		return errors.New("run or auditor is undefined")
	case e.Delta.Kind != wire.KindDelta || e.Delta.Run != e.Run:
		return errors.New("it is not about a delta of the run")
	case e.Verdict != nil && (e.Verdict.Kind != wire.KindVerdict || e.Verdict.Run != e.Run):
		return errors.New("it is not about a verdict of the run")
	case e.Segment >= MaxSegments:
		return fmt.Errorf("segment %d is out of range", e.Segment)
	case len(e.Engine) > maxEngine || len(e.Reason) > maxReason || len(e.Numbers) > maxNumbers:
		return errors.New("it tells more than it may")
	}
	for _, n := range e.Numbers {
		if len(n.Name) > maxEngine || math.IsNaN(n.Value) || math.IsInf(n.Value, 0) || math.IsNaN(n.Limit) || math.IsInf(n.Limit, 0) {
			return errors.New("a number is not finite, or its name too long")
		}
	}
	return nil
}

// Encode returns the canonical block. A reason that is too long is cut.
func (e *Evidence) Encode() ([]byte, error) {
	c := *e
	c.Reason = strings.ToValidUTF8(c.Reason[:min(len(c.Reason), maxReason)], "")
	return encode("evidence", &c, c.check, MaxEvidence)
}

// DecodeEvidence reads a block and verifies the signatures in it.
func DecodeEvidence(b []byte) (*Evidence, error) {
	e := new(Evidence)
	if err := decode("evidence", b, e, e.check, MaxEvidence); err != nil {
		return nil, err
	}
	if err := e.Delta.Verify(); err != nil {
		return nil, fmt.Errorf("evidence: the delta: %w", err)
	}
	if e.Verdict != nil {
		if err := e.Verdict.Verify(); err != nil {
			return nil, fmt.Errorf("evidence: the verdict: %w", err)
		}
	}
	return e, nil
}

package audit

import (
	"errors"
	"fmt"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc"
)

// Bounds of a Trace.
const (
	MaxTrace    = 1 << 20 // bytes of its block
	MaxSegments = 64
	// MaxSteps is how many inner steps a round may have in a run that audits, so
	// that the proofs of all fit into the block.
	MaxSteps  = 3072
	maxEngine = 128 // bytes
)

// TopK is how many activations a proof holds, or all of a row where that has fewer.
const TopK = 128

// topK is the k of proofs of rows of that width.
func topK(width int) int { return min(TopK, width) }

// RecordSize is the length of one proof of rows of that width.
func RecordSize(width int) int { return toploc.RecordSize(topK(width)) }

// A Trace is the audit material of one delta: a DAG-CBOR block. All that it
// names is served by the trainer for the run's audit window.
type Trace struct {
	Version uint64      `cbor:"version"` // 1
	Run     wire.CID    `cbor:"run"`
	Peer    wire.PeerID `cbor:"peer"`
	Round   uint64      `cbor:"round"`
	State   wire.CID    `cbor:"state"`  // S_r: the weights that the first segment starts from
	Slot    uint64      `cbor:"slot"`   // of the trainer, and
	Slots   uint64      `cbor:"slots"`  // of how many: with Base they say which data
	Base    uint64      `cbor:"base"`   // the commit's cursor
	Steps   uint64      `cbor:"steps"`  // inner steps done
	Every   uint64      `cbor:"every"`  // steps of a segment; the last may have fewer
	Engine  string      `cbor:"engine"` // whose bits these are: results of equal engines are equal, those of others close

	// Before is the trace of this peer's latest delta that the delta's parent, or
	// a commit below it, has merged: others could have audited it, so nothing that
	// nobody could look at flows in. The phase started with the moments that it ended with,
	// and with what its payload left out as error feedback. Undefined: it
	// started with fresh moments and owed nothing.
	Before wire.CID `cbor:"before"`
	// Owed is the error feedback that was added to θ−w before encoding, a file
	// of float32, little-endian, in the order of the parameters; undefined where
	// nothing was owed.
	Owed wire.CID `cbor:"owed"`
	// Payload is the delta's block.
	Payload  wire.CID  `cbor:"payload"`
	Segments []Segment `cbor:"segments"`
}

// A Segment is a stretch of inner steps.
type Segment struct {
	// End is the state after it: what node.Trainer's Save wrote, a UnixFS file.
	End wire.CID `cbor:"end"`
	// Proofs holds one TOPLOC record for each of its steps: of the last hidden
	// states (B·T rows) of the step's batch, before the step.
	Proofs []byte `cbor:"proofs"`
}

// Every is how many steps a segment has, where a whole inner phase has that
// many and is cut into segments.
func Every(steps, segments uint64) uint64 {
	segments = max(segments, 1)
	return max((steps+segments-1)/segments, 1)
}

// Segments is how many segments a phase of that many steps has.
func Segments(steps, every uint64) uint64 {
	every = max(every, 1)
	return (steps + every - 1) / every
}

// Span returns the steps of a segment: from, from 0, and how many.
func (t *Trace) Span(segment uint64) (from, steps uint64) {
	from = segment * t.Every
	if from >= t.Steps {
		return from, 0
	}
	return from, min(t.Every, t.Steps-from)
}

// check holds a trace to its bounds and to itself.
func (t *Trace) check() error {
	switch {
	case t.Version != 1:
		return fmt.Errorf("version %d is not 1", t.Version)
	case !t.Run.Defined() || !t.State.Defined() || !t.Payload.Defined() || t.Peer.IsZero():
		return errors.New("run, state, payload or peer is undefined")
	case t.Slots < 1 || t.Slot >= t.Slots:
		return fmt.Errorf("slot %d of %d", t.Slot, t.Slots)
	case t.Steps < 1 || t.Steps > MaxSteps || t.Every < 1 || t.Every > MaxSteps:
		return fmt.Errorf("%d steps in segments of %d are out of range", t.Steps, t.Every)
	case len(t.Engine) < 1 || len(t.Engine) > maxEngine:
		return fmt.Errorf("the engine's name has %d bytes", len(t.Engine))
	case t.Owed.Defined() && !t.Before.Defined():
		return errors.New("it owes something and nothing came before")
	case uint64(len(t.Segments)) != Segments(t.Steps, t.Every) || len(t.Segments) > MaxSegments:
		return fmt.Errorf("%d segments for %d steps, %d each", len(t.Segments), t.Steps, t.Every)
	}
	for i, s := range t.Segments {
		if !s.End.Defined() {
			return fmt.Errorf("segment %d: its end is undefined", i)
		}
	}
	return nil
}

// Encode returns the canonical block of a trace.
func (t *Trace) Encode() ([]byte, error) { return encode("trace", t, t.check, MaxTrace) }

// DecodeTrace reads a block. Whatever is not canonical or not within bounds is
// refused.
func DecodeTrace(b []byte) (*Trace, error) {
	t := new(Trace)
	if err := decode("trace", b, t, t.check, MaxTrace); err != nil {
		return nil, err
	}
	return t, nil
}

func encode(what string, v any, check func() error, limit int) ([]byte, error) {
	if err := check(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	b, err := wire.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%s: %d bytes are over the limit of %d", what, len(b), limit)
	}
	return b, nil
}

func decode(what string, b []byte, v any, check func() error, limit int) error {
	if len(b) > limit {
		return fmt.Errorf("%s: %d bytes are over the limit of %d", what, len(b), limit)
	}
	if err := wire.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := check(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Claims are what an honest trace of one delta must say, from the delta, the run
// and the delta's parent.
type Claims struct {
	Run      wire.CID
	Peer     wire.PeerID
	Round    uint64
	State    wire.CID
	Slot     uint64
	Slots    uint64
	Base     uint64
	Steps    uint64 // as the delta says
	Payload  wire.CID
	Before   wire.CID // the trace of the peer's latest delta below; undefined where there is none
	Inner    uint64   // steps of a whole inner phase
	Segments uint64   // into how many it is cut
	Width    int      // of the last hidden states
}

// Check returns what of the trace contradicts the claims, readably.
func (t *Trace) Check(c *Claims) error {
	every := Every(c.Inner, c.Segments)
	switch {
	case t.Run != c.Run || t.Peer != c.Peer || t.Round != c.Round || t.State != c.State:
		return errors.New("the trace is of another run, peer, round or state than the delta")
	case t.Payload != c.Payload:
		return fmt.Errorf("the trace is of the payload %s, the delta's is %s", t.Payload, c.Payload)
	case t.Steps != c.Steps:
		return fmt.Errorf("the trace has %d steps, the delta claims %d", t.Steps, c.Steps)
	case t.Every != every:
		return fmt.Errorf("the trace has segments of %d steps, the run has %d", t.Every, every)
	case t.Slot != c.Slot || t.Slots != c.Slots || t.Base != c.Base:
		return fmt.Errorf("the trace is of the data of slot %d of %d from window %d on, the delta's parent assigns %d of %d from %d on",
			t.Slot, t.Slots, t.Base, c.Slot, c.Slots, c.Base)
	case t.Before.Defined() && t.Before != c.Before:
		return fmt.Errorf("the phase began after the trace %s, which is not that of the peer's latest merged delta", t.Before)
	}
	for i := range t.Segments {
		_, steps := t.Span(uint64(i))
		if got, want := len(t.Segments[i].Proofs), int(steps)*RecordSize(c.Width); got != want {
			return fmt.Errorf("segment %d has %d bytes of proofs, %d steps have %d", i, got, steps, want)
		}
	}
	return nil
}

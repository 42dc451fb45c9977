package audit

import "github.com/shoalnet/shoal/p2p/wire"

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

	// Before is the trace of this peer's previous delta, whose last snapshot's
	// moments this phase started with. Undefined: it started with none, as after a crash.
	Before wire.CID `cbor:"before"`
	// Owed is the error feedback that was added to θ−w before encoding, a file
	// of float32 in the order of the parameters; undefined where nothing was owed.
	Owed wire.CID `cbor:"owed"`
	// Folded are the payloads that were taken back into it since Before, in order.
	Folded []wire.CID `cbor:"folded"`
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

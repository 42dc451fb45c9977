package diloco

import "github.com/shoalnet/shoal/p2p/wire"

// The bodies of the messages of one run. Each travels as the Body of a
// wire.Signed, in canonical DAG-CBOR.

// A Join asks to enter the roster of the next commit, or, with Leave, to go.
// A peer that was dropped for its silence returns by a Join.
type Join struct {
	Since   wire.CID `cbor:"since"`   // a recent commit of the chain: makes old Joins worthless
	Round   uint64   `cbor:"round"`   // Since's round
	Role    string   `cbor:"role"`    // "trainer" or "validator"
	Coin    [32]byte `cbor:"coin"`    // of a validator: its audit coin at that round (audit.Coin.At); of others zero
	Address [20]byte `cbor:"address"` // where it wants to be paid
	Leave   bool     `cbor:"leave"`
}

// A Delta names a compressed pseudo-gradient (θ of the commit trained from,
// minus the local weights after the inner steps, OpenDiLoCo's Δ) that its
// sender serves as a block.
//
// Parent is always the commit that was trained from. Where Parent is not the
// receiver's head, the delta is late: it may still enter one of the next
// commits, at a lower weight, once.
type Delta struct {
	Parent wire.CID `cbor:"parent"` // C_r
	Round  uint64   `cbor:"round"`  // r
	State  wire.CID `cbor:"state"`  // S_r
	Block  wire.CID `cbor:"block"`  // the payload, see diloco/codec
	Bytes  uint64   `cbor:"bytes"`  // the payload's length
	Steps  uint64   `cbor:"steps"`  // inner steps done
	Tokens uint64   `cbor:"tokens"` // tokens trained on: its weight in the mean
	Loss   float64  `cbor:"loss"`   // mean training loss over the inner steps, nats per token; advisory
	Trace  wire.CID `cbor:"trace"`  // audit material (audit.Trace); undefined where the run audits nobody

	// Epoch and Receipt are for the run's ledger: Receipt is the sender's
	// signature over the receipt of this delta (chain.Receipt of kind Training,
	// subject the digest of Block, units Tokens) in that epoch of the chain. Empty: the
	// sender settles nowhere and is not paid. The commit chain gives it no meaning.
	Epoch   uint64 `cbor:"epoch"`
	Receipt []byte `cbor:"receipt"` // 65 bytes or none
}

// A Finding is what a validator found.
type Finding uint8

// Findings. Withheld says that the audit material could not be had: it may turn
// up, so it can be followed by one of the other two, which are for good.
const (
	Pass Finding = iota
	Wrong
	Withheld
)

// A Verdict is one validator's word on one segment of a piece of work: of a
// trainer's delta or, with the segment of that, of another validator's Verdict that
// passed it. A fail is evidence, not a sentence: see Case.
type Verdict struct {
	Subject  wire.CID    `cbor:"subject"`  // ID of the Delta or Verdict envelope
	Peer     wire.PeerID `cbor:"peer"`     // who signed Subject
	Round    uint64      `cbor:"round"`    // of the delta audited
	Segment  uint64      `cbor:"segment"`  // of its trace, from 0
	Finding  Finding     `cbor:"finding"`  //
	Evidence wire.CID    `cbor:"evidence"` // audit.Evidence; undefined for Pass
	Work     []byte      `cbor:"work"`     // what only a replay yields, bound to the validator's coin: one TOPLOC record; empty for Withheld
	Coin     []byte      `cbor:"coin"`     // the coin's reveal (audit.Coin.Reveal) for the round of the commit that has Subject; empty where an open case is the reason

	Epoch   uint64 `cbor:"epoch"`   // as Delta's; the receipt is of kind Validation, subject the digest of Subject, units 1
	Receipt []byte `cbor:"receipt"` //
}

// A Vote says what its sender holds, has checked and can serve. One a parent.
type Vote struct {
	Parent     wire.CID      `cbor:"parent"`
	Round      uint64        `cbor:"round"`      // Parent's round
	Deltas     Names         `cbor:"deltas"`     // IDs of Delta envelopes, ascending
	Joins      Names         `cbor:"joins"`      // IDs of Join envelopes, ascending
	Verdicts   Names         `cbor:"verdicts"`   // IDs of Verdict envelopes, ascending
	Evict      []wire.PeerID `cbor:"evict"`      // proven equivocators, ascending
	Unstaked   []wire.PeerID `cbor:"unstaked"`   // members whose stake the sender's ledger shows to be gone, ascending
	Final      wire.CID      `cbor:"final"`      // the last final commit that it knows
	FinalRound uint64        `cbor:"finalRound"` // Final's round
	// Coin, of a validator, shows its audit coin (audit.Coin.Reveal) for the round that
	// leaves the audit window, Round - AuditWindow, once that is after its Join: what it
	// owed is then plain to all. It is convicted if it does not. 32 bytes or none.
	Coin []byte `cbor:"coin"`
}

// An Attest says: I build on Head. One a round, rounds only ever rising.
// Source is the highest justified commit that the sender knows (Casper FFG,
// Buterin and Griffith 2017, section 2): Head descends from it.
type Attest struct {
	Head        wire.CID `cbor:"head"`
	Round       uint64   `cbor:"round"` // Head's round
	Source      wire.CID `cbor:"source"`
	SourceRound uint64   `cbor:"sourceRound"`
}

// Evidence convicts one peer by two of its own signatures: two deltas or
// votes for one parent, two attestations for one round, or one that
// surrounds another; or a Pass and a Wrong about the same segment.
type Evidence struct {
	A wire.Signed `cbor:"a" json:"a"`
	B wire.Signed `cbor:"b" json:"b"`
}

// Package manifest defines what a run is: its model, data, optimizers, rounds,
// admission, verification, rewards and end.
//
// A manifest is written as YAML and travels as canonical DAG-CBOR, whose CID is
// the run's ID. Parse fills every default in, so that the canonical form has
// every field and two people who mean the same run get the same ID; the order
// of keys, comments and the spelling of numbers in the YAML do not matter.
// Unknown keys, wrong types and values out of range are refused by the path of
// the field.
//
// The canonical form is a map with the keys of the YAML. Durations are
// nanoseconds, addresses 20 bytes, CIDs tag 42 or null, floats 64 bits. Fields
// marked optional below are left out where they are unset.
package manifest

import (
	"fmt"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Version is the version of the schema.
//
//	1  2026-11-22  first; optional fields came later: manifests without them are as they were
const Version = 1

// MaxSize bounds a manifest, as YAML and as CBOR, in bytes.
const MaxSize = 120 << 10

// A Manifest is one run. The limits of each field are those of Validate.
type Manifest struct {
	Version      uint64       `yaml:"version" cbor:"version"`
	Name         string       `yaml:"name" cbor:"name"`       // a-z, 0-9 and -, at most 64 characters
	Licence      string       `yaml:"licence" cbor:"licence"` // of the model: an SPDX expression
	Task         string       `yaml:"task" cbor:"task"`       // "pretrain"
	Sponsor      *Sponsor     `yaml:"sponsor,omitempty" cbor:"sponsor,omitempty"`
	Model        Model        `yaml:"model" cbor:"model"`
	Tokenizer    wire.CID     `yaml:"tokenizer" cbor:"tokenizer"` // a file: tokenizer.json
	Data         wire.CID     `yaml:"data" cbor:"data"`           // the index block of diloco/shard
	Inner        Inner        `yaml:"inner" cbor:"inner"`
	Outer        Outer        `yaml:"outer" cbor:"outer"`
	Round        Round        `yaml:"round" cbor:"round"`
	Codec        Codec        `yaml:"codec" cbor:"codec"`
	Admission    Admission    `yaml:"admission" cbor:"admission"`
	Verification Verification `yaml:"verification" cbor:"verification"`
	Rewards      Rewards      `yaml:"rewards" cbor:"rewards"`
	Stop         Stop         `yaml:"stop" cbor:"stop"`
}

// A Sponsor stands for the run's budget. An unsigned run is nobody's.
type Sponsor struct {
	Address   Address   `yaml:"address" cbor:"address"`
	Signature Signature `yaml:"signature" cbor:"signature"` // over the manifest without this field, see Sign
}

// Model is what is trained, and from where.
type Model struct {
	Config Config   `yaml:"config" cbor:"config"`
	Base   wire.CID `yaml:"base,omitempty" cbor:"base"` // optional: the checkpoint to start from
	Seed   uint64   `yaml:"seed" cbor:"seed"`           // of the genesis weights, where there is no base
}

// Inner is the optimizer that each peer runs between two merges.
type Inner struct {
	Optimizer   string  `yaml:"optimizer" cbor:"optimizer"` // "adamw"
	LR          float64 `yaml:"lr" cbor:"lr"`               // peak
	MinLR       float64 `yaml:"min_lr" cbor:"min_lr"`       // where cosine and wsd end
	Beta1       float64 `yaml:"beta1" cbor:"beta1"`
	Beta2       float64 `yaml:"beta2" cbor:"beta2"`
	Eps         float64 `yaml:"eps" cbor:"eps"`
	WeightDecay float64 `yaml:"weight_decay" cbor:"weight_decay"`
	Clip        float64 `yaml:"clip" cbor:"clip"`               // norm that gradients are clipped to; 0 is never
	Warmup      uint64  `yaml:"warmup" cbor:"warmup"`           // steps of linear rise
	Schedule    string  `yaml:"schedule" cbor:"schedule"`       // "constant", "cosine", or "wsd": warm-up, stable, decay
	Steps       uint64  `yaml:"steps" cbor:"steps"`             // length of the schedule; 0 is that of the run, see TotalSteps
	DecaySteps  uint64  `yaml:"decay_steps" cbor:"decay_steps"` // wsd: how many of the last steps decay
	Batch       int     `yaml:"batch" cbor:"batch"`             // sequences in a step of one peer
	Sequence    int     `yaml:"sequence" cbor:"sequence"`       // tokens in a sequence

	// Separator, optional, is the token that ends each document of the data. Where
	// it is set, sequences are packed: no token sees a document before its own, and none has
	// to predict the first token of the next. Without it a sequence is one text.
	Separator *int `yaml:"separator,omitempty" cbor:"separator,omitempty"`
}

// Predictions is how many tokens of a batch, (B, T+1), have to predict the one that
// follows: what a mean loss is the mean over.
func (in *Inner) Predictions(batch [][]int32) int {
	n := 0
	for _, s := range batch {
		n += max(0, len(s)-1)
		if in.Separator == nil || len(s) == 0 {
			continue
		}
		for _, id := range s[:len(s)-1] {
			if int(id) == *in.Separator {
				n--
			}
		}
	}
	return n
}

// Outer is the optimizer that merges the peers' deltas: SGD with Nesterov
// momentum (DiLoCo, Douillard et al. 2023, algorithm 1).
type Outer struct {
	LR       float64 `yaml:"lr" cbor:"lr"`
	Momentum float64 `yaml:"momentum" cbor:"momentum"`
	Nesterov bool    `yaml:"nesterov" cbor:"nesterov"`
}

// Round is the rhythm of the run.
type Round struct {
	InnerSteps uint64        `yaml:"inner_steps" cbor:"inner_steps"` // of each peer
	Deadline   time.Duration `yaml:"deadline" cbor:"deadline"`       // the longest that a round waits for deltas
	LateRounds uint64        `yaml:"late_rounds" cbor:"late_rounds"` // how late a delta may be merged
	DropAfter  uint64        `yaml:"drop_after" cbor:"drop_after"`   // silent rounds until a peer leaves the roster
	LeakAfter  uint64        `yaml:"leak_after" cbor:"leak_after"`   // rounds without finality until absent weight leaks
}

// Codec is how deltas are compressed.
type Codec struct {
	Kind    string `yaml:"kind" cbor:"kind"`       // "int8", "int4" or "topk"
	Chunk   int    `yaml:"chunk" cbor:"chunk"`     // values that share a scale: a power of two
	Density int    `yaml:"density" cbor:"density"` // topk: values kept, in parts per 10,000; otherwise 0
}

// Admission says who may join.
type Admission struct {
	Kind     string    `yaml:"kind" cbor:"kind"`                     // "open", "allow" or "stake"
	MinPeers int       `yaml:"min_peers" cbor:"min_peers"`           // trainers that make the first roster
	Allow    []Address `yaml:"allow,omitempty" cbor:"allow"`         // allow: who; ascending in the canonical form
	MinStake string    `yaml:"min_stake,omitempty" cbor:"min_stake"` // stake: the least, in the token's smallest unit
}

// Allows reports whether an address is on the list, or no list is kept.
func (a *Admission) Allows(addr [20]byte) bool {
	if a.Kind != "allow" {
		return true
	}
	for _, x := range a.Allow {
		if x == addr {
			return true
		}
	}
	return false
}

// Verification is how much work is rechecked, and how closely.
type Verification struct {
	AuditRate uint64    `yaml:"audit_rate" cbor:"audit_rate"` // share of deltas that each validator audits, in parts per 10,000
	Segments  uint64    `yaml:"segments" cbor:"segments"`     // into how many an inner phase is cut; an audit replays one
	Window    uint64    `yaml:"window" cbor:"window"`         // rounds after a piece of work in which validators may look at it, and for which a case stays open
	Tolerance Tolerance `yaml:"tolerance" cbor:"tolerance"`
}

// Tolerance bounds what a recomputed TOPLOC proof may differ by (Ong et al.
// 2025, section 5): of the 128 largest activations, how many exponents, and by
// how much the mantissas of the others, of 7 bits.
type Tolerance struct {
	Exponents      uint64  `yaml:"exponents" cbor:"exponents"`
	MantissaMean   float64 `yaml:"mantissa_mean" cbor:"mantissa_mean"`
	MantissaMedian float64 `yaml:"mantissa_median" cbor:"mantissa_median"`
}

// Rewards is what the sponsor pays. The split is in parts per 10,000.
type Rewards struct {
	Budget     string  `yaml:"budget" cbor:"budget"`         // in the token's smallest unit, decimal
	Token      Address `yaml:"token" cbor:"token"`           // the ERC-20; zero where there is no budget
	Trainers   uint64  `yaml:"trainers" cbor:"trainers"`     //
	Workers    uint64  `yaml:"workers" cbor:"workers"`       // of rollouts and inference
	Validators uint64  `yaml:"validators" cbor:"validators"` //
	Sponsor    uint64  `yaml:"sponsor" cbor:"sponsor"`       //
	Shares     bool    `yaml:"shares" cbor:"shares"`         // whether work mints ownership shares
}

// Stop is when the run is over.
type Stop struct {
	Rounds uint64 `yaml:"rounds" cbor:"rounds"`
}

// TotalSteps returns the inner steps of one peer over the whole run, which is
// also the length of the schedule where inner.steps is 0.
func (m *Manifest) TotalSteps() uint64 { return m.Stop.Rounds * m.Round.InnerSteps }

// ScheduleSteps returns the length of the learning rate's schedule in steps.
func (m *Manifest) ScheduleSteps() uint64 {
	if m.Inner.Steps != 0 {
		return m.Inner.Steps
	}
	return m.TotalSteps()
}

// WindowsPerRound returns how many data windows one trainer uses in a round.
func (m *Manifest) WindowsPerRound() uint64 { return m.Round.InnerSteps * uint64(m.Inner.Batch) }

// Limits of DefaultSegments.
const (
	segmentTokens   = 20_480
	defaultSegments = 4
)

// DefaultSegments is into how many segments an inner phase is cut where
// verification.segments is left out: one for each 20,480 tokens that it has, from 1
// to 4. A snapshot costs bytes and a step costs tokens, both times the
// parameters, so that this keeps audit material below 3 % of a trainer's time from that many tokens on
// whatever the model. What has fewer segments is no easier to fake (a lie about any
// part of a segment spoils all of it), and dearer to audit.
func (m *Manifest) DefaultSegments() uint64 {
	tokens := m.WindowsPerRound() * uint64(max(m.Inner.Sequence, 0))
	return min(max(tokens/segmentTokens, 1), defaultSegments)
}

// Encode returns the canonical bytes of a valid manifest.
func (m *Manifest) Encode() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m.encode()
}

func (m *Manifest) encode() ([]byte, error) {
	b, err := wire.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	if len(b) > MaxSize {
		return nil, fmt.Errorf("manifest of %d bytes is over the limit of %d", len(b), MaxSize)
	}
	return b, nil
}

// Decode parses canonical bytes and validates what they say, the sponsor's
// signature included.
func Decode(b []byte) (*Manifest, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("manifest of %d bytes is over the limit of %d", len(b), MaxSize)
	}
	m := new(Manifest)
	if err := wire.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	m.trim()
	return m, nil
}

// CID returns the run's ID.
func (m *Manifest) CID() (wire.CID, error) {
	b, err := m.Encode()
	if err != nil {
		return "", err
	}
	return wire.SumCID(wire.CodecDagCBOR, b), nil
}

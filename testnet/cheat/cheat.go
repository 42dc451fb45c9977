// Package cheat makes peers of a testnet lie, each in one way and from a given
// round on: the zoo that audits are tried on.
//
// A liar is an ordinary node whose ports are wrapped (node.Engine, node.Blocks,
// node.Net and what the block exchange serves): the node itself does not know
// that it lies, and no code of it exists for the sake of lies. So each cheat is
// as small as it can be, and what is caught is what a stranger's program could do.
//
// `shoal join --cheat KIND[:ROUND]` is how a testnet starts one; the command
// refuses it where not all peers are local.
package cheat

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A Kind is one way to cheat.
type Kind string

// What a trainer may do.
const (
	Idle       Kind = "idle"          // trains nothing: noise of the norm of an honest delta, a plausible loss
	Lazy       Kind = "lazy"          // does every other step and claims all
	OwnData    Kind = "own-data"      // trains on a batch of its own instead of those assigned
	Copy       Kind = "copy"          // sends another's delta of the round, with noise
	Scale      Kind = "scale"         // sends ten times what it trained
	Flip       Kind = "sign-flip"     // sends the opposite of what it trained
	Poison     Kind = "poison"        // adds noise of a tenth of the norm
	Stale      Kind = "stale-parent"  // trains from the state of the round before
	SmallModel Kind = "small-model"   // proves the activations of a smaller model
	First      Kind = "honest-first"  // trains the first segment, then as idle
	Withhold   Kind = "withhold"      // serves no audit material
	TwoDeltas  Kind = "two-deltas"    // signs two deltas for one parent
	Constant   Kind = "forge-const"   // proofs: a constant polynomial of the usual magnitude
	Modulus    Kind = "forge-modulus" // proofs: modulus 1, the rest is noise
	Replay     Kind = "forge-replay"  // proofs: those of an earlier round again
	Signs      Kind = "forge-signs"   // proofs: all signs of the activations flipped
	Null       Kind = "forge-null"    // proofs: of zero bytes, as of a builder that failed
	Short      Kind = "forge-short"   // proofs: one too few
	Surplus    Kind = "forge-surplus" // proofs: one too many
)

// What a validator may do.
const (
	PassAll      Kind = "pass-all"      // passes everything without replaying
	FailAll      Kind = "fail-all"      // fails everyone
	CopyVerdicts Kind = "copy-verdicts" // says what another validator said, with that one's work
	Silent       Kind = "silent"        // audits nothing and says nothing, but votes
	HideCoin     Kind = "hide-coin"     // and its votes do not show its coin
)

// A Fact is what is known of a kind beforehand.
type Fact struct {
	Kind      Kind
	Validator bool // a validator's; others are trainers'
	// Bad is in how many of m segments a replay finds the lie; 0: it is not
	// found by replay.
	Bad  func(m uint64) uint64
	What string // in words
}

func all(m uint64) uint64  { return m }
func one(uint64) uint64    { return 1 }
func rest(m uint64) uint64 { return m - 1 }
func none(uint64) uint64   { return 0 }

// Facts lists the zoo.
var Facts = []Fact{
	{Idle, false, all, "no training at all"},
	{Lazy, false, all, "fewer steps than claimed"},
	{OwnData, false, all, "own data instead of assigned"},
	{Copy, false, all, "another's delta with noise"},
	{Scale, false, one, "its delta scaled by ten"},
	{Flip, false, one, "its delta with the sign flipped"},
	{Poison, false, one, "small-norm poison"},
	{Stale, false, one, "trained from a stale parent"},
	{SmallModel, false, all, "a smaller model's activations"},
	{First, false, rest, "right first segment, faked rest"},
	{Withhold, false, all, "audit material not served"},
	{TwoDeltas, false, none, "two deltas for one parent"},
	{Constant, false, all, "forged proofs: constant polynomial"},
	{Modulus, false, all, "forged proofs: modulus 1"},
	{Replay, false, all, "forged proofs: an old proof again"},
	{Signs, false, all, "forged proofs: signs flipped"},
	{Null, false, all, "forged proofs: null proofs"},
	{Short, false, all, "forged proofs: one too few"},
	{Surplus, false, all, "forged proofs: one too many"},
	{PassAll, true, all, "passes everything"},
	{FailAll, true, all, "fails everyone"},
	{CopyVerdicts, true, all, "copies verdicts"},
	{Silent, true, none, "audits nothing, and votes"},
	{HideCoin, true, none, "withholds its reveals"},
}

// FactOf returns what is known of a kind.
func FactOf(k Kind) (Fact, bool) {
	i := slices.IndexFunc(Facts, func(f Fact) bool { return f.Kind == k })
	if i < 0 {
		return Fact{}, false
	}
	return Facts[i], true
}

// Parse reads KIND or KIND:ROUND. Without a round the lies begin at once.
func Parse(s string) (k Kind, from uint64, err error) {
	name, round, more := strings.Cut(s, ":")
	if _, ok := FactOf(Kind(name)); !ok {
		return "", 0, fmt.Errorf("cheat %q: there is no such kind; want one of %s", name, Names())
	}
	if more {
		if from, err = strconv.ParseUint(round, 10, 64); err != nil {
			return "", 0, fmt.Errorf("cheat %q: %q is no round", s, round)
		}
	}
	return Kind(name), from, nil
}

// Names lists all kinds.
func Names() string {
	out := make([]string, len(Facts))
	for i, f := range Facts {
		out[i] = string(f.Kind)
	}
	return strings.Join(out, ", ")
}

// A Liar is what the wrapped ports of one peer share.
type Liar struct {
	kind   Kind
	from   uint64
	key    *wire.Key
	status func() node.Status
	width  int // of the model's hidden states; set before anything lies

	mu      sync.Mutex    // guards the following
	payload []byte        // the last delta of another that was fetched
	fresh   chan struct{} // closed, and replaced, when there is another payload
	hidden  map[wire.CID]bool
	heard   map[wire.CID]diloco.Verdict // of others, by subject
	usual   uint16                      // bits of a typical large activation
	old     [][]byte                    // forge-replay: the proofs of an earlier trace, by segment

	// The following belong to who trains.
	norm  float64   // of what the last honest phase did to the weights
	began []float32 // weights that the phase before began with
	batch [][]int32 // own-data
}

// New makes a liar. It is honest until it follows a node.
func New(k Kind, from uint64) *Liar {
	return &Liar{kind: k, from: from, fresh: make(chan struct{}), hidden: map[wire.CID]bool{}, heard: map[wire.CID]diloco.Verdict{}}
}

// Follow tells the liar whose key it lies with, and how that node stands. Call
// it before the node runs.
func (l *Liar) Follow(key *wire.Key, status func() node.Status) { l.key, l.status = key, status }

// lies reports whether the time for lies has come.
func (l *Liar) lies() bool {
	return l.status != nil && l.status().Round >= max(l.from, 1)
}

// is reports whether it now lies in this way.
func (l *Liar) is(k Kind) bool { return l.kind == k && l.lies() }

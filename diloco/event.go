package diloco

import (
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// An Event is something that happened to a peer.
type Event interface{ event() }

// An Effect is something that its shell must now do. Effects are carried out
// in the order given; each may take as long as it needs, and its outcome, where
// one is named, comes back as an Event. An outcome that nobody waits for any
// more is ignored.
type Effect interface{ effect() }

type (
	// Heard: a message arrived (from the swarm, or the journal) whose
	// signature is good and whose run is this one. The machine judges the rest.
	Heard struct{ Msg wire.Signed }
	// DeltaChecked answers FetchDelta: the block is held, decoded and of the
	// right shape, run, parent and peer; or Err says why not. Final reports that the
	// block is held but bad (never ask again) rather than out of reach.
	DeltaChecked struct {
		ID    wire.CID // of the Delta envelope
		Err   error
		Final bool
	}
	// CommitFetched answers FetchCommit. Commit decodes to CID; nothing else
	// about it has been checked.
	CommitFetched struct {
		CID    wire.CID
		Commit *Commit
		Err    error
	}
	// Merged answers Merge: State is the CID of the state that the outer step made.
	Merged struct {
		Key   uint64
		State wire.CID
		Err   error
	}
	// StateFetched answers FetchState.
	StateFetched struct {
		State wire.CID
		Err   error
	}
	// Trained answers Train, after all steps or after a Cut. Delta's Parent,
	// Round and State are those of Train. Steps of 0 says that there is nothing to send.
	Trained struct{ Delta Delta }
	// Audited: this validator's audit has ended, whether the machine asked for it
	// or not; it says Verdict, unless it has said the opposite.
	Audited struct{ Verdict Verdict }
	// LeaveAsked: the user wants to go; a Join with Leave is sent.
	LeaveAsked struct{}
	// Tick: the time that Wake named has come. Harmless at any time.
	Tick struct{}
)

type (
	// Sign: sign the body, write it to the journal, fsync, and only then hand
	// the envelope back as Heard and publish it. The machine never asks twice
	// for the same thing, but a commit holds signatures: it counts its own
	// message once it has it back.
	Sign struct {
		Kind wire.Kind
		Body []byte
	}
	// Publish: say again what was said before (own messages when the round stalls, evidence).
	Publish struct{ Msg wire.Signed }
	// FetchDelta: get the block, check it, answer DeltaChecked.
	FetchDelta struct {
		ID    wire.CID // of the envelope
		Delta Delta
		Peer  wire.PeerID   // whose it is
		From  []wire.PeerID // who should have it, the likeliest first
	}
	// FetchCommit: get and decode a commit block, answer CommitFetched.
	FetchCommit struct {
		CID  wire.CID
		From []wire.PeerID
	}
	// Merge: apply the outer step to State with these deltas (all held, unless
	// Need says otherwise) and answer Merged. No deltas: weights and momentum stay,
	// the state differs only in its commit.json.
	Merge struct {
		Key    uint64
		Parent wire.CID // the parent commit
		Round  uint64   // the round that the state will belong to: Parent's + 1
		State  wire.CID // the parent's state
		Deltas []Weighted
	}
	// FetchState: get a whole state by its CID, answer StateFetched.
	FetchState struct {
		State wire.CID
		From  []wire.PeerID
	}
	// Store: keep the commit's block, durably, before anything that follows.
	Store struct {
		CID    wire.CID
		Commit *Commit
		Block  []byte
	}
	// Adopt: the head is now this commit; its state is held. Journal it.
	Adopt struct {
		Head   wire.CID
		Commit *Commit
	}
	// Train: run inner steps from State. It replaces any earlier Train, except
	// that one of the same Round and State goes on under the new Head.
	Train struct {
		Head  wire.CID
		Round uint64
		State wire.CID
		Slot  int    // this peer's index among Slots trainers of the roster
		Slots int    // how many share the round's data
		Base  uint64 // Cursor of Head
	}
	// Cut: end the inner phase after the step under way and answer Trained.
	// With Late the round is over and the delta will be offered late.
	Cut struct {
		Head wire.CID
		Late bool
	}
	// Included: this peer's delta of that envelope is in a final commit. Each
	// own delta ends in exactly one of Included and Expired (after a restart the
	// word may be repeated); until then its block must stay.
	Included struct{ ID, Block wire.CID }
	// Expired: the final chain has gone on without this peer's delta, which
	// will never be merged; its content belongs back into the error feedback. ID
	// is undefined if it came too late even to be signed.
	Expired struct{ ID, Block wire.CID }
	// Finalized: Head is final; what lies before it can only be history.
	Finalized struct {
		CID    wire.CID
		Commit *Commit
	}
	// Convicted: a peer equivocated. Keep the evidence.
	Convicted struct {
		Peer     wire.PeerID
		Evidence Evidence
	}
	// Done: the run's last commit (Commit.Ends) is final. The peer goes on serving.
	Done struct {
		CID    wire.CID
		Commit *Commit
	}
)

// Weighted is one delta of a merge. Its weight in the mean is Weight.
type Weighted struct {
	ID     wire.CID // of the envelope
	Block  wire.CID
	Peer   wire.PeerID
	Parent wire.CID
	Round  uint64
	Weight uint64 // tokens, halved for each round that it is late
}

func (Heard) event()         {}
func (DeltaChecked) event()  {}
func (CommitFetched) event() {}
func (Merged) event()        {}
func (StateFetched) event()  {}
func (Trained) event()       {}
func (Audited) event()       {}
func (LeaveAsked) event()    {}
func (Tick) event()          {}

func (Sign) effect()        {}
func (Publish) effect()     {}
func (FetchDelta) effect()  {}
func (FetchCommit) effect() {}
func (Merge) effect()       {}
func (FetchState) effect()  {}
func (Store) effect()       {}
func (Adopt) effect()       {}
func (Train) effect()       {}
func (Cut) effect()         {}
func (Included) effect()    {}
func (Expired) effect()     {}
func (Finalized) effect()   {}
func (Convicted) effect()   {}
func (Done) effect()        {}

// A Standing is what a peer knows of another's stake on the run's ledger.
type Standing uint8

// Standings. Where the ledger was asked long ago it may still be Staked, and is not Unstaked.
const (
	Unknown  Standing = iota // the ledger has not been asked, or does not answer
	Staked                   // by the last answer there is what the role asks for
	Unstaked                 // the ledger says now that there is less: what is being withdrawn does not count
)

// Config holds what the run fixes and who this peer is. Durations are local
// waits: no peer needs another's clock.
type Config struct {
	Run     wire.CID
	Self    wire.PeerID
	Address [20]byte
	Role    string      // "trainer"; "validator" audits instead of training; "observer" follows the chain and never votes
	Coin    *audit.Coin // of a validator, for its Join and its votes
	Mute    uint64      // this peer says nothing before its head has that round: what it said before it may have forgotten

	MinPeers    int           // how many joiners make the first roster; at least 1
	Deadline    time.Duration // the longest that a round waits for deltas after its head was adopted
	DropAfter   uint64        // commits in a row without its vote until a member leaves the roster; default 3
	LeakAfter   uint64        // rounds without finality until absent voters leak; default 8
	LateRounds  uint64        // how many rounds late a delta may be; default 2
	StopRound   uint64        // the round after which nobody trains; 0 is never
	WindowsEach uint64        // data windows that a round sets aside for each trainer
	AuditRate   uint64        // share of deltas that each validator audits, in parts per 10,000; 0: there are no verdicts
	Segments    uint64        // into how many segments a whole inner phase is cut for audits; default 4. Nobody owes more audits a round
	Every       uint64        // inner steps of one segment (audit.Every); 0: every phase is one segment
	AuditWindow uint64        // rounds after a piece of work in which verdicts about it are heard, and for which a case stays open; default 8
	// Stake says how a peer stands with the run's ledger in that role. Of joiners this
	// peer's votes name those that are Staked; of members those that are Unstaked.
	// It must answer at once. Nil asks no stake of anybody. Unlike Admit it is this
	// peer's own view.
	Stake func(p wire.PeerID, role string) Standing
	// Admit decides from the manifest alone whether a peer may join. Nil admits all.
	Admit func(wire.PeerID, [20]byte) bool
	// Verify checks the signature of an envelope inside a fetched commit.
	// Nil is (*wire.Signed).Verify; the simulator passes a cheaper one.
	Verify func(*wire.Signed) error
	// Open decodes an envelope's body. Nil is Open; the simulator passes one
	// that remembers what it has decoded.
	Open func(*wire.Signed) (*Message, error)
}

package diloco

import (
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// A Machine is one peer's view of the chain. It is not safe for concurrent use.
type Machine struct {
	cfg Config
}

// New makes the machine of one peer. genesis is the run's first commit:
// Version 1, Run and State. Start or Restore must come next.
func New(cfg Config, genesis *Commit) *Machine { return &Machine{cfg: cfg} }

// Start begins without a past: the peer holds the genesis state and nothing else.
func (m *Machine) Start(now time.Time) []Effect { return nil }

// Restore begins from the journal: chain holds the commits from Status.Keep to
// the head, parents first (the head's state is held), and own every message
// that this peer has signed for rounds since then, with its latest Attest.
func (m *Machine) Restore(now time.Time, chain []*Commit, own []wire.Signed) []Effect { return nil }

// Step tells the machine what happened and returns what is to be done.
func (m *Machine) Step(now time.Time, ev Event) []Effect { return nil }

// Wake returns when Step must next be called with Tick; zero is never.
func (m *Machine) Wake() time.Time { return time.Time{} }

// Messages returns what a newcomer needs to hear: the messages of the current
// round, pending Joins, the latest attestation of each peer and evidence.
func (m *Machine) Messages() []wire.Signed { return nil }

// Judge says, cheaply, whether a message is worth relaying.
func (m *Machine) Judge(msg *wire.Signed) wire.Judgement { return wire.Ignore }

// Status reports where the machine stands.
func (m *Machine) Status() Status { return Status{} }

// A Status is a view of the machine for people and for tests.
type Status struct {
	Phase      string   `json:"phase"` // "finding peers", "syncing", "waiting", "training", "exchanging", "merging" or "done"
	Round      uint64   `json:"round"` // of the head
	Head       wire.CID `json:"head"`
	State      wire.CID `json:"state"`
	Justified  wire.CID `json:"justified"`
	Final      wire.CID `json:"final"`
	FinalRound uint64   `json:"final_round"`
	// Keep is the round of the oldest commit that Restore needs after a crash now.
	Keep      uint64            `json:"keep"`
	Target    uint64            `json:"target"` // highest round that others attest to
	Roster    []Member          `json:"roster"` // of the head
	Member    bool              `json:"member"` // this peer is active in it
	Deltas    int               `json:"deltas"` // held for this round
	Votes     int               `json:"votes"`  // heard for this round
	Pace      time.Duration     `json:"pace"`   // from a head's adoption to 2/3 of its deltas, median
	Convicted []wire.PeerID     `json:"convicted"`
	Rejected  map[string]uint64 `json:"rejected"` // by reason
	Done      bool              `json:"done"`
}

package node

import (
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A Phase says what a peer is doing.
type Phase string

// The phases, in the order that a newcomer sees them.
const (
	FindingPeers Phase = "finding peers"
	Syncing      Phase = "syncing"
	Waiting      Phase = "waiting"
	Training     Phase = "training"
	Exchanging   Phase = "exchanging"
	Merging      Phase = "merging"
	Closing      Phase = "closing" // nobody trains any more, and audits of the last rounds go on (diloco.Commit.Ends)
	Finished     Phase = "done"
)

// Status is what a peer says of itself, for people and for the test network.
type Status struct {
	Peer    wire.PeerID `json:"peer"`
	Address string      `json:"address"` // 0x…, where the peer is paid
	Run     wire.CID    `json:"run"`
	Name    string      `json:"name"` // of the run
	Phase   Phase       `json:"phase"`

	Round      uint64   `json:"round"` // of the head
	Rounds     uint64   `json:"rounds"`
	Head       wire.CID `json:"head"`
	State      wire.CID `json:"state"`
	Final      wire.CID `json:"final"`
	FinalRound uint64   `json:"final_round"`
	FinalState wire.CID `json:"final_state"`
	Weak       bool     `json:"weak"` // the head is a weak commit

	InnerStep  uint64  `json:"inner_step"`  // inner steps done in this round
	InnerSteps uint64  `json:"inner_steps"` // of
	Loss       float64 `json:"loss"`        // mean training loss of this round so far, nats per token
	ValLoss    float64 `json:"val_loss"`    // of the last state that was evaluated, nats per token
	ValRound   uint64  `json:"val_round"`   // whose round this is
	TokensPerS float64 `json:"tokens_per_s"`
	Tokens     uint64  `json:"tokens"`     // trained on by this peer since it first joined
	RunTokens  uint64  `json:"run_tokens"` // merged into the head since this peer follows it

	Peers             int               `json:"peers"`               // connected in the run's topic
	Roster            int               `json:"roster"`              // members of the head's roster
	MinPeers          int               `json:"min_peers,omitempty"` // trainers that the first round waits for
	BytesIn           uint64            `json:"bytes_in"`
	BytesOut          uint64            `json:"bytes_out"`
	RoundsContributed uint64            `json:"rounds_contributed"` // own deltas in commits of the chain
	Rejections        map[string]uint64 `json:"rejections"`         // by reason
	Evicted           []wire.PeerID     `json:"evicted,omitempty"`

	Role       string            `json:"role"`        // in the head's roster, "" outside of it
	Audits     map[string]uint64 `json:"audits"`      // done by this validator, by finding
	AuditShare float64           `json:"audit_share"` // of its time, since the start
	Missed     uint64            `json:"missed"`      // points of this validator for audits owed and not answered (diloco.Member.Missed)
	Cases      []diloco.Case     `json:"cases"`       // open after the head
	Suspects   []Suspicion       `json:"suspects"`    // of this validator's screens, of rounds within the audit window, the latest last
	Banned     []wire.PeerID     `json:"banned"`      // by the chain

	Checkpoint  Transfer  `json:"checkpoint"` // the last fetch of a state, or of the base
	Resumed     uint64    `json:"resumed"`    // the inner step that the last start went on at
	Trouble     string    `json:"trouble"`    // what keeps the peer from going on; empty is none
	Started     time.Time `json:"started"`
	Done        bool      `json:"done"`
	Result      wire.CID  `json:"result"` // once done: the run's last commit, and its state, with the weights of the stop rule's
	ResultState wire.CID  `json:"result_state"`
}

// A Suspicion is a delta that looks odd to a validator's screens. It is the reason for a
// replay beyond what the coin chose, and for nothing else.
type Suspicion struct {
	Peer    wire.PeerID `json:"peer"`
	Round   uint64      `json:"round"`
	Segment uint64      `json:"segment"` // that is replayed for it
	Why     string      `json:"why"`
}

// A Transfer is the progress of a fetch of a state, or of the base that the run starts from.
type Transfer struct {
	Done  int64   `json:"done"`  // bytes
	Total int64   `json:"total"` // bytes, 0 where unknown
	Rate  float64 `json:"rate"`  // bytes a second, lately
	Base  bool    `json:"base,omitempty"`
}

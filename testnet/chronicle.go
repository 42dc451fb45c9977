package testnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Files of an output directory.
const (
	chronicleFile = "record.json"
	reportJSON    = "report.json"
	reportHTML    = "report.html"
	manifestFile  = "run.yaml"
	modelDir      = "model"
	peersDir      = "peers"
	logsDir       = "logs"
)

// A Chronicle is all that was observed of one testnet. Times are seconds since Start.
type Chronicle struct {
	Name     string    `json:"name"`
	Run      wire.CID  `json:"run"`
	Manifest string    `json:"manifest"` // YAML
	Rounds   uint64    `json:"rounds"`   // the stop rule
	Start    time.Time `json:"start"`
	Seconds  float64   `json:"seconds"` // until every peer was done
	TimedOut bool      `json:"timed_out"`
	Command  string    `json:"command"`
	Machine  string    `json:"machine"`

	DropAfter uint64  `json:"drop_after"` // of the manifest
	Steps     uint64  `json:"inner_steps"`
	Stall     float64 `json:"stall"` // seconds
	Expect    Expect  `json:"expect"`
	AtFirst   int     `json:"at_first"` // peers at the start

	Audit AuditTerms `json:"audit"`
	Money *Money     `json:"money,omitempty"` // nil without a ledger

	Peers  []*PeerRecord `json:"peers"`
	Events []Happened    `json:"events"`
	Cuts   []Cut         `json:"cuts,omitempty"`

	Lineage      *Lineage `json:"lineage,omitempty"`
	LineageError string   `json:"lineage_error,omitempty"`
	Single       []Point  `json:"single,omitempty"` // one process with the batches of all honest trainers in the roster
	Alone        []Point  `json:"alone,omitempty"`  // one process with one peer's batch
	Prompt       string   `json:"prompt,omitempty"`
	Sample       string   `json:"sample,omitempty"`
	Failures     []string `json:"failures,omitempty"` // what went wrong beside the protocol
}

// A PeerRecord is what was seen of one peer.
type PeerRecord struct {
	Name      string       `json:"name"`
	ID        wire.PeerID  `json:"id"`
	Observer  bool         `json:"observer,omitempty"`
	Validator bool         `json:"validator,omitempty"`
	Cheat     *Cheat       `json:"cheat,omitempty"`
	Account   string       `json:"account,omitempty"` // its address, 0x…
	Lives     []Life       `json:"lives"`
	Seen      []Seen       `json:"seen"`           // whenever it changed
	Last      *node.Status `json:"last,omitempty"` // the last status that it gave; nil if it never did

	History []node.Record `json:"-"` // read from its data directory
}

// AuditTerms are the manifest's.
type AuditTerms struct {
	Rate     uint64 `json:"rate"` // share of deltas that each validator audits, in parts per 10,000
	Segments uint64 `json:"segments"`
	Window   uint64 `json:"window"` // rounds
}

// A Life is one process of a peer.
type Life struct {
	From    float64 `json:"from"`
	To      float64 `json:"to"`  // 0 while it runs
	End     string  `json:"end"` // "kill", "stop", "done", or how it failed
	Resumed uint64  `json:"resumed,omitempty"`

	// What was there when it ended: a restart must find at least this.
	Lines      int      `json:"lines"` // of its history
	LastCommit wire.CID `json:"last_commit"`
	FinalRound uint64   `json:"final_round"`
}

// Seen is a peer's position at some time.
type Seen struct {
	T          float64    `json:"t"`
	Phase      node.Phase `json:"phase"`
	Round      uint64     `json:"round"`
	Head       wire.CID   `json:"head"`
	State      wire.CID   `json:"state"`
	Final      wire.CID   `json:"final"`
	FinalRound uint64     `json:"final_round"`
	FinalState wire.CID   `json:"final_state"`
}

// Happened is an event of the schedule that took place.
type Happened struct {
	T     float64 `json:"t"`
	Round uint64  `json:"round"` // the highest head then
	Event Event   `json:"event"`
}

// A Cut is one partition: what the proxies saw of it.
type Cut struct {
	From    float64 `json:"from"`
	To      float64 `json:"to"`
	Healed  uint64  `json:"healed"` // the highest head when it ended
	Groups  [][]int `json:"groups"`
	Crossed uint64  `json:"crossed"` // bytes that passed between the sides meanwhile
	Refused uint64  `json:"refused"` // connections between the sides that were held up
}

// A Point is one evaluation of a baseline.
type Point struct {
	Step      uint64  `json:"step"`
	Tokens    uint64  `json:"tokens"`
	Seconds   float64 `json:"seconds"`
	TrainLoss float64 `json:"train_loss"`
	ValLoss   float64 `json:"val_loss"`
}

// A Lineage is what `shoal lineage verify --json` says of a chain.
type Lineage struct {
	node.LineageReport
	Seconds float64         `json:"seconds"`
	Chain   []LineageCommit `json:"chain"` // the oldest first
}

// A LineageCommit is one commit of a chain.
type LineageCommit struct {
	Round  uint64         `json:"round"`
	Commit wire.CID       `json:"commit"`
	State  wire.CID       `json:"state"`
	Weak   bool           `json:"weak,omitempty"`
	Votes  []wire.PeerID  `json:"votes"`
	Roster []wire.PeerID  `json:"roster"` // those who are banned left out
	Deltas []LineageDelta `json:"deltas"`

	Verdicts  []LineageVerdict    `json:"verdicts,omitempty"`
	Cases     []diloco.Case       `json:"cases,omitempty"`     // open after this commit
	Convicted []diloco.Conviction `json:"convicted,omitempty"` // by this commit
}

// A LineageVerdict is one validator's word, as a commit has it.
type LineageVerdict struct {
	ID       wire.CID    `json:"id"`
	From     wire.PeerID `json:"from"`
	Subject  wire.CID    `json:"subject"`
	Peer     wire.PeerID `json:"peer"`  // who signed Subject
	Round    uint64      `json:"round"` // of the delta audited
	Segment  uint64      `json:"segment"`
	Finding  string      `json:"finding"` // pass, wrong or withheld
	Evidence wire.CID    `json:"evidence"`
	Coin     bool        `json:"coin"` // the validator's coin chose it; otherwise an open case
}

// A LineageDelta is one merged contribution.
type LineageDelta struct {
	ID     wire.CID    `json:"id"`
	Block  wire.CID    `json:"block"`
	Peer   wire.PeerID `json:"peer"`
	Parent wire.CID    `json:"parent"` // the commit that it was trained from
	Round  uint64      `json:"round"`  // of Parent
	Bytes  uint64      `json:"bytes"`
	Tokens uint64      `json:"tokens"`
	Loss   float64     `json:"loss"`
}

// save writes the chronicle into dir.
func (c *Chronicle) save(dir string) error {
	b, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, chronicleFile), b, 0o644)
}

// load reads dir's chronicle and the histories of its peers.
func load(dir string) (*Chronicle, error) {
	b, err := os.ReadFile(filepath.Join(dir, chronicleFile))
	if err != nil {
		return nil, fmt.Errorf("%s is not the output of a testnet: %w", dir, err)
	}
	c := new(Chronicle)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, chronicleFile), err)
	}
	for _, p := range c.Peers {
		if p.History, err = readHistory(filepath.Join(dir, peersDir, p.Name)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// readHistory reads the history of a peer's data directory; a peer that never
// followed the chain has none.
func readHistory(dir string) ([]node.Record, error) {
	f, err := os.Open(filepath.Join(dir, "history.jsonl"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	h, err := node.ReadHistory(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return h, nil
}

// upDuring reports whether the peer ran without a break from a to b.
func (p *PeerRecord) upDuring(a, b float64) bool {
	for _, l := range p.Lives {
		if l.From <= a && (l.To == 0 || l.To >= b) {
			return true
		}
	}
	return false
}

// last is the last status, empty if there was none.
func (p *PeerRecord) last() node.Status {
	if p.Last == nil {
		return node.Status{}
	}
	return *p.Last
}

// result is where the peer ended: at the run's last commit once it is final,
// at the last final one before.
func (p *PeerRecord) result() (round uint64, commit, state wire.CID) {
	l := p.last()
	if l.Done {
		return l.Rounds, l.Result, l.ResultState
	}
	return l.FinalRound, l.Final, l.FinalState
}

// running reports whether the peer should still run at the end.
func (p *PeerRecord) running() bool {
	return len(p.Lives) > 0 && (p.Lives[len(p.Lives)-1].To == 0 || p.Lives[len(p.Lives)-1].End == "done")
}

// since returns the seconds of t after the start.
func (c *Chronicle) since(t time.Time) float64 { return t.Sub(c.Start).Seconds() }

// tokens returns the weight of the chain's first n rounds: x of the loss curves.
func (l *Lineage) tokens() map[uint64]uint64 {
	sum, out := uint64(0), map[uint64]uint64{}
	for _, c := range l.Chain {
		for _, d := range c.Deltas {
			sum += d.Tokens
		}
		out[c.Round] = sum
	}
	return out
}

// Words for findings in a lineage.
const (
	foundPass     = "pass"
	foundWrong    = "wrong"
	foundWithheld = "withheld"
)

// FindingName is the word for a finding in a lineage.
func FindingName(f diloco.Finding) string {
	switch f {
	case diloco.Pass:
		return foundPass
	case diloco.Wrong:
		return foundWrong
	case diloco.Withheld:
		return foundWithheld
	}
	return "unknown"
}

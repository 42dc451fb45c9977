package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// EvidenceCheck is what VerifyEvidence is asked, and whom it may ask for blocks.
type EvidenceCheck struct {
	Blocks   Blocks
	Evidence wire.CID
	Peers    []wire.PeerID // asked for what the store lacks
	Engine   func(ctx context.Context, m *manifest.Manifest) (Engine, error)
	Log      *slog.Logger // nil is silence
}

// An EvidenceReport says what a replay of the accused work has shown.
type EvidenceReport struct {
	Evidence wire.CID    `json:"evidence"`
	Run      wire.CID    `json:"run"`
	Name     string      `json:"name"` // of the run
	Kind     string      `json:"kind"` // of the work: "delta" or "verdict"
	Subject  wire.CID    `json:"subject"`
	Peer     wire.PeerID `json:"peer"` // the accused
	Round    uint64      `json:"round"`
	Segment  uint64      `json:"segment"`
	Auditor  wire.PeerID `json:"auditor"`
	Engine   string      `json:"engine"` // of the auditor
	Own      string      `json:"own"`    // of this check

	Claimed string         `json:"claimed"` // "wrong" or "withheld", and what the auditor tells
	Reason  string         `json:"reason"`
	Numbers []audit.Number `json:"numbers"`

	Finding   string         `json:"finding"` // of this check: "right", "wrong" or "withheld"
	Found     string         `json:"found"`   // why
	FoundNums []audit.Number `json:"found_numbers"`
	Agrees    bool           `json:"agrees"`
}

// VerifyEvidence fetches what an auditor's evidence is about, replays it and says
// whether it finds the same. An error says what could not be had for it.
func VerifyEvidence(ctx context.Context, c EvidenceCheck) (*EvidenceReport, error) {
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if c.Evidence.Codec() != wire.CodecDagCBOR {
		return nil, fmt.Errorf("%s is not the CID of evidence", c.Evidence)
	}
	block, err := c.Blocks.Fetch(ctx, c.Evidence, c.Peers, audit.MaxEvidence)
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	e, err := audit.DecodeEvidence(block)
	if err != nil {
		return nil, err
	}
	m, model, err := LoadRun(ctx, c.Blocks, e.Run, c.Peers)
	if err != nil {
		return nil, err
	}
	if m.Verification.AuditRate == 0 {
		return nil, errors.New("the evidence is about a run that audits nobody")
	}
	engine, err := c.Engine(ctx, m)
	if err != nil {
		return nil, err
	}
	keep := &keeper{blocks: c.Blocks, archive: true, log: log, pins: map[string]wire.CID{}}
	data, err := openDataset(ctx, c.Blocks, keep, e.Run, m, 1, c.Peers)
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	delta, err := diloco.Open(&e.Delta)
	if err != nil {
		return nil, err
	}
	claimed := map[bool]string{false: "wrong", true: "withheld"}
	r := &EvidenceReport{
		Evidence: c.Evidence, Run: e.Run, Name: m.Name, Kind: "delta", Subject: delta.ID, Peer: delta.From,
		Round: delta.Body.(*diloco.Delta).Round, Segment: e.Segment, Auditor: e.Auditor, Engine: e.Engine, Own: engine.Identity(),
		Claimed: claimed[e.Withheld], Reason: e.Reason, Numbers: e.Numbers,
	}
	re := newReplayer(e.Run, m, model, c.Blocks, engine, data, log)
	re.from = func(p wire.PeerID) []wire.PeerID { return append([]wire.PeerID{p, e.Auditor}, c.Peers...) }
	if e.Withheld { // it may never answer
		re.patience = time.Minute
	}
	re.commit = func(ctx context.Context, id wire.CID) (*diloco.Commit, error) {
		return getCommit(ctx, c.Blocks, id, c.Peers)
	}
	var out outcome
	if e.Verdict == nil {
		out, err = re.audit(ctx, delta, e.Segment, audit.OwnSeed(delta.ID, e.Segment, e.Auditor))
	} else {
		var verdict *diloco.Message
		if verdict, err = diloco.Open(e.Verdict); err != nil {
			return nil, err
		}
		v := verdict.Body.(*diloco.Verdict)
		if v.Segment != e.Segment || v.Round != r.Round {
			return nil, errors.New("evidence: its verdict is not about the segment of its delta")
		}
		r.Kind, r.Subject, r.Peer = "verdict", verdict.ID, verdict.From
		out, err = re.recheck(ctx, delta, e.Segment, audit.SeedOf(v.Coin, v.Subject, v.Segment, verdict.From), v.Work)
	}
	var gone notServed
	switch {
	case errors.As(err, &gone) && e.Withheld:
		r.Finding, r.Found = "withheld", gone.Error()
	case err != nil:
		return nil, err
	case out.Wrong:
		r.Finding, r.Found, r.FoundNums = "wrong", out.Reason, out.Numbers
	default:
		r.Finding, r.FoundNums = "right", out.Numbers
	}
	r.Agrees = r.Finding == r.Claimed
	return r, nil
}

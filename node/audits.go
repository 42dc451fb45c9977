package node

import (
	"context"
	"slices"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// An AuditList is what a chain says about audits.
type AuditList struct {
	Head      wire.CID        `json:"head"`
	Round     uint64          `json:"round"`
	From      uint64          `json:"from"` // the first round looked at
	Verdicts  []AuditVerdict  `json:"verdicts"`
	Cases     []diloco.Case   `json:"cases"` // open after the head
	Convicted []AuditSentence `json:"convicted"`
}

// An AuditVerdict is one verdict in a commit.
type AuditVerdict struct {
	ID       wire.CID    `json:"id"`
	Commit   uint64      `json:"commit"` // the round of the commit that has it
	By       wire.PeerID `json:"by"`
	Peer     wire.PeerID `json:"peer"` // whose work it is about
	Subject  wire.CID    `json:"subject"`
	Round    uint64      `json:"round"` // of the work
	Segment  uint64      `json:"segment"`
	Finding  string      `json:"finding"`  // "pass", "wrong" or "withheld"
	Coin     bool        `json:"coin"`     // chosen by its author's coin, not by a case or suspicion
	Evidence wire.CID    `json:"evidence"` // of an accusation
}

// An AuditSentence is one conviction, by the commit of Round.
type AuditSentence struct {
	Round uint64 `json:"round"`
	diloco.Conviction
}

var findings = [...]string{"pass", "wrong", "withheld"}

// ListAudits reads the commits from head back to the round from, from the store
// or the peers.
func ListAudits(ctx context.Context, b Blocks, head wire.CID, from uint64, peers []wire.PeerID) (*AuditList, error) {
	l := &AuditList{Head: head, From: from}
	for at := head; at.Defined(); {
		c, err := getCommit(ctx, b, at, peers)
		if err != nil {
			return nil, err
		}
		if at == head {
			l.Round, l.Cases = c.Round, c.Cases
		}
		if c.Round < from {
			break
		}
		for i := range c.Verdicts {
			m, err := diloco.Open(&c.Verdicts[i])
			if err != nil {
				return nil, err
			}
			v, ok := m.Body.(*diloco.Verdict)
			if !ok {
				continue
			}
			l.Verdicts = append(l.Verdicts, AuditVerdict{
				ID: m.ID, Commit: c.Round, By: m.From, Peer: v.Peer, Subject: v.Subject, Round: v.Round, Segment: v.Segment,
				Finding: findings[v.Finding], Coin: len(v.Coin) > 0, Evidence: v.Evidence,
			})
		}
		for _, x := range c.Convicted {
			l.Convicted = append(l.Convicted, AuditSentence{c.Round, x})
		}
		at = c.Parent
	}
	slices.Reverse(l.Verdicts)
	slices.Reverse(l.Convicted)
	return l, nil
}

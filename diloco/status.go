package diloco

import (
	"maps"
	"slices"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// A Status is a view of the machine for people and for tests.
type Status struct {
	Phase      string   `json:"phase"` // "finding peers", "syncing", "waiting", "training", "auditing", "exchanging", "merging", "closing" or "done"
	Round      uint64   `json:"round"` // of the head
	Head       wire.CID `json:"head"`
	State      wire.CID `json:"state"`
	Justified  wire.CID `json:"justified"`
	Final      wire.CID `json:"final"`
	FinalRound uint64   `json:"final_round"`
	// Keep is the round of the oldest commit that Restore wants after a crash now.
	Keep      uint64            `json:"keep"`
	Target    uint64            `json:"target"` // round of the head that half of the peers heard have reached
	Roster    []Member          `json:"roster"` // of the head
	Role      string            `json:"role"`   // this peer's in it, "" if it is not in it
	Cases     []Case            `json:"cases"`  // open after the head
	Member    bool              `json:"member"` // this peer is active in it
	Deltas    int               `json:"deltas"` // of this round, held
	Votes     int               `json:"votes"`  // of this round, heard
	Pace      time.Duration     `json:"pace"`   // from a head's adoption to 2/3 of its deltas, median
	Convicted []wire.PeerID     `json:"convicted"`
	Rejected  map[string]uint64 `json:"rejected"` // by reason
	Done      bool              `json:"done"`
}

// Status reports where the machine stands.
func (m *Machine) Status() Status {
	h := m.head
	role := ""
	if e := memberIn(h.c.Roster, m.cfg.Self); e != nil {
		role = e.Role
	}
	return Status{
		Phase: m.phase(), Round: h.round, Head: h.id, State: h.c.State, Justified: m.just.id,
		Final: m.final.id, FinalRound: m.final.round, Keep: m.root.round, Target: m.reached(),
		Roster: slices.Clone(h.c.Roster), Member: activeIn(h.c.Roster, m.cfg.Self) != nil,
		Role: role, Cases: slices.Clone(h.c.Cases), Deltas: m.r.deltas, Votes: m.r.votes, Pace: m.pace(),
		Convicted: sortedPeers(m.convicted), Rejected: maps.Clone(m.rejected), Done: m.done,
	}
}

func (m *Machine) phase() string {
	switch {
	case m.done:
		return "done"
	case m.behind() || m.reached() > m.head.round+1:
		return "syncing"
	case m.head.round == 0:
		return "finding peers"
	case stopped(&m.cfg, m.head.round) && m.head.last == 0:
		return "closing"
	case m.job != nil:
		return "merging"
	case m.inner.train != nil:
		return "training"
	case activeIn(m.head.c.Roster, m.cfg.Self) == nil:
		return "waiting"
	case m.r.slot < 0 && m.r.votedAt.IsZero():
		return "auditing"
	}
	return "exchanging"
}

// reached is the round to which at least half of the peers heard attest.
func (m *Machine) reached() uint64 {
	var rounds []uint64
	for _, a := range m.attesters {
		if len(a.said) > 0 {
			rounds = append(rounds, a.latest().Body.(*Attest).Round)
		}
	}
	if len(rounds) == 0 {
		return m.head.round
	}
	slices.Sort(rounds)
	return max(m.head.round, rounds[len(rounds)/2])
}

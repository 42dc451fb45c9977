package diloco

import (
	"github.com/shoalnet/shoal/p2p/wire"
)

// Judge says whether a message is worth relaying. It changes nothing, decodes
// the body but checks no signature. Reject is for what no honest peer says;
// what is merely old, or what this peer is too far behind to judge, costs its
// sender nothing.
func (m *Machine) Judge(s *wire.Signed) wire.Judgement {
	if s.Run != m.cfg.Run {
		return wire.Reject
	}
	msg, err := m.cfg.Open(s)
	if err != nil {
		return wire.Reject
	}
	if m.convicted[msg.From] != nil && msg.Kind != wire.KindEvidence && msg.Kind != wire.KindAttest {
		return wire.Ignore
	}
	h := m.head.round
	// A peer cannot know the members of rounds that it has not reached.
	known := func(round uint64) bool { return round <= h && h > 0 }
	switch body := msg.Body.(type) {
	case *Join:
		if stale(&m.cfg, body.Round, h) || m.cfg.Admit != nil && !m.cfg.Admit(msg.From, body.Address) {
			return wire.Ignore
		}
	case *Delta:
		if n := m.nodes[body.Parent]; n != nil && (n.round != body.Round || n.c.State != body.State) || m.cfg.AuditRate > 0 && !body.Trace.Defined() {
			return wire.Reject
		}
		if body.Round+m.cfg.LateRounds < h || known(body.Round) && !m.counts(msg.From) {
			return wire.Ignore
		}
	case *Vote:
		if n := m.nodes[body.Parent]; n != nil && n.round != body.Round {
			return wire.Reject
		} else if n != nil && n.round > 0 && activeIn(n.c.Roster, msg.From) == nil {
			return wire.Ignore
		}
		if body.Round+2 < h {
			return wire.Ignore
		}
	case *Attest:
		if n := m.nodes[body.Head]; n != nil && n.round != body.Round {
			return wire.Reject
		}
		if body.Round < m.root.round || known(body.Round) && !m.counts(msg.From) && m.nodes[body.Head] == nil {
			return wire.Ignore
		}
	case *Verdict:
		return m.judgeVerdict(msg, body)
	case *Evidence:
		if m.convicted[body.A.From] != nil {
			return wire.Ignore
		}
		a, errA := m.cfg.Open(&body.A)
		b, errB := m.cfg.Open(&body.B)
		if errA != nil || errB != nil || body.A.Run != m.cfg.Run || !conflict(a, b) {
			return wire.Reject
		}
	}
	return wire.Accept
}

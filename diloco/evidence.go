package diloco

import (
	"github.com/shoalnet/shoal/p2p/wire"
)

// maxEvidence bounds the convictions that are remembered and served.
const maxEvidence = 64

// conflict reports whether one peer must not have said both a and b: two
// deltas or two votes for one parent, two attestations for one round, one
// attestation that surrounds another (Casper FFG, conditions I and II), or two
// opposite verdicts.
func conflict(a, b *Message) bool {
	if a.From != b.From || a.Run != b.Run || a.ID == b.ID {
		return false
	}
	switch x := a.Body.(type) {
	case *Delta:
		y, ok := b.Body.(*Delta)
		return ok && x.Parent == y.Parent
	case *Vote:
		y, ok := b.Body.(*Vote)
		return ok && x.Parent == y.Parent
	case *Attest:
		y, ok := b.Body.(*Attest)
		return ok && (x.Round == y.Round ||
			x.SourceRound < y.SourceRound && y.Round < x.Round ||
			y.SourceRound < x.SourceRound && x.Round < y.Round)
	case *Verdict:
		y, ok := b.Body.(*Verdict)
		return ok && x.about() == y.about() && x.Finding != y.Finding && x.Finding != Withheld && y.Finding != Withheld
	}
	return false
}

// convict acts on two messages that conflict, and tells the others.
func (m *Machine) convict(a, b *Message) {
	if b.ID < a.ID {
		a, b = b, a
	}
	ev := Evidence{A: a.Signed, B: b.Signed}
	if m.condemn(a.From, ev) && m.cfg.Role != observer && m.convicted[m.cfg.Self] == nil {
		m.sign(wire.KindEvidence, &ev)
	}
}

// condemn disregards a peer from now on; it reports whether that is new.
func (m *Machine) condemn(p wire.PeerID, ev Evidence) bool {
	if m.convicted[p] != nil || len(m.convicted) >= maxPeers {
		return false
	}
	m.convicted[p] = &ev
	m.reject("equivocation")
	m.do(Convicted{Peer: p, Evidence: ev})
	delete(m.joins, p)
	m.dirty = true
	m.tally()
	return true
}

// hearEvidence checks another peer's evidence from the beginning.
func (m *Machine) hearEvidence(msg *Message, e *Evidence) {
	if m.convicted[e.A.From] != nil && m.proofs[e.A.From] != nil {
		return
	}
	a, errA := m.cfg.Open(&e.A)
	b, errB := m.cfg.Open(&e.B)
	if errA != nil || errB != nil || e.A.Run != m.cfg.Run || !conflict(a, b) ||
		m.cfg.Verify(&e.A) != nil || m.cfg.Verify(&e.B) != nil {
		m.reject("bad evidence")
		return
	}
	m.condemn(a.From, *e)
	m.keepEvidence(a.From, msg)
	if e.A.Kind == wire.KindAttest { // both count
		m.hearAttest(a)
		m.hearAttest(b)
	}
}

func (m *Machine) keepEvidence(p wire.PeerID, msg *Message) {
	if len(m.evidence) < maxEvidence {
		m.evidence = append(m.evidence, msg)
		m.proofs[p] = msg
	}
}

package cheat

import (
	"crypto/rand"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc"
	"github.com/shoalnet/shoal/toploc/audit"
)

// maxHeard bounds the verdicts of others that are remembered.
const maxHeard = 4096

// hear remembers another validator's verdict, to copy it.
func (l *Liar) hear(data []byte) {
	m, err := wire.Decode(data)
	if err != nil || m.Kind != wire.KindVerdict || m.From == l.key.Peer() {
		return
	}
	var v diloco.Verdict
	if wire.Unmarshal(m.Body, &v) != nil || len(v.Work) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.heard) >= maxHeard {
		clear(l.heard)
	}
	l.heard[v.Subject] = v
}

// Verdict changes what an audit says.
func (l *Liar) Verdict(_ audit.Task, v *diloco.Verdict) {
	if !l.lies() {
		return
	}
	switch l.kind {
	case PassAll:
		v.Finding, v.Evidence, v.Work = diloco.Pass, "", l.noWork()
	case FailAll:
		v.Finding, v.Evidence = diloco.Wrong, wire.SumCID(wire.CodecDagCBOR, l.noWork())
		if len(v.Work) == 0 {
			v.Work = l.noWork()
		}
	case CopyVerdicts:
		l.mu.Lock()
		other, ok := l.heard[v.Subject]
		l.mu.Unlock()
		if !ok {
			other = diloco.Verdict{Finding: diloco.Pass, Work: l.noWork()}
		}
		v.Finding, v.Evidence, v.Work = other.Finding, other.Evidence, other.Work
	}
}

// noWork is a record that no replay has led to.
func (l *Liar) noWork() []byte {
	pf := toploc.Proof{Modulus: toploc.Prime, Coeffs: make([]uint16, min(audit.TopK, max(1, l.width)))}
	var seed [2]byte
	for i := range pf.Coeffs {
		if _, err := rand.Read(seed[:]); err != nil {
			return nil // cannot be
		}
		pf.Coeffs[i] = (uint16(seed[0])<<8 | uint16(seed[1])) % toploc.Prime
	}
	return pf.AppendBinary(nil)
}

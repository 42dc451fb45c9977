package diloco

import "github.com/shoalnet/shoal/p2p/wire"

// A Paid is one piece of work in a commit that its sender wants the run's
// ledger to pay: a delta that was merged, or a verdict.
type Paid struct {
	ID      wire.CID // of the envelope
	Kind    wire.Kind
	Peer    wire.PeerID
	Round   uint64   // that the work belongs to: of the delta, or of the delta audited
	Subject wire.CID // what the receipt is about: a delta's Block, a verdict's Subject
	Units   uint64   // a delta's Tokens; 1 for a verdict
	Epoch   uint64   // of the ledger, by the sender's word
	Receipt []byte   // the sender's signature; empty if it settles nowhere
}

// Paid returns the paid work of c: the merged deltas, ascending by the CID of
// their blocks, then the verdicts, ascending by ID. Nothing of a peer that c convicts
// is in it, unless of silence, and no Withheld, which takes no work. Several validators may have spoken
// about one subject, and one of them more than once (for different segments): a
// ledger pays a receipt once. It is nil if something in c does not decode, which
// VerifyCommit excludes.
func (c *Commit) Paid() []Paid {
	var out []Paid
	merged := map[wire.CID]*Delta{}
	for i := range c.Deltas {
		m, err := Open(&c.Deltas[i])
		if err != nil || m.Kind != wire.KindDelta {
			return nil
		}
		merged[m.ID] = m.Body.(*Delta)
	}
	for _, w := range c.Merged() {
		d := merged[w.ID]
		out = append(out, Paid{
			ID: w.ID, Kind: wire.KindDelta, Peer: w.Peer, Round: d.Round,
			Subject: d.Block, Units: d.Tokens, Epoch: d.Epoch, Receipt: d.Receipt,
		})
	}
	for i := range c.Verdicts {
		m, err := Open(&c.Verdicts[i])
		if err != nil || m.Kind != wire.KindVerdict {
			return nil
		}
		v := m.Body.(*Verdict)
		if why, guilty := whyOf(c.Convicted, m.From); v.Finding == Withheld || guilty && why != WhySilent {
			continue
		}
		out = append(out, Paid{
			ID: m.ID, Kind: wire.KindVerdict, Peer: m.From, Round: v.Round,
			Subject: v.Subject, Units: 1, Epoch: v.Epoch, Receipt: v.Receipt,
		})
	}
	return out
}

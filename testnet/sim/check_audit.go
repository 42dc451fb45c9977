package sim

import (
	"bytes"
	"slices"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

type judgedKey struct {
	peer    wire.PeerID
	subject wire.CID
	segment uint64
}

// judges: an honest validator says one thing about a segment, once; only from
// Withheld it may go on to another.
func (c *checker) judges(w *world, p *peer, v *diloco.Verdict) {
	k := judgedKey{p.id, v.Subject, v.Segment}
	for _, f := range c.judged[k] {
		if f != diloco.Withheld || v.Finding == diloco.Withheld {
			w.violate("peer %d says %d about a segment of which it has said %d", p.n, v.Finding, f)
		}
	}
	c.judged[k] = append(c.judged[k], v.Finding)
}

func member(roster []diloco.Member, p wire.PeerID) *diloco.Member {
	i, ok := slices.BinarySearchFunc(roster, p, func(m diloco.Member, p wire.PeerID) int { return m.Peer.Compare(p) })
	if !ok {
		return nil
	}
	return &roster[i]
}

// judgements: no commit convicts anybody honest, nor merges work of whom it, or
// the chain before it, has convicted.
func (c *checker) judgements(w *world, id wire.CID, k *diloco.Commit, merged []diloco.Weighted) {
	for _, x := range k.Convicted {
		if q := w.index[x.Peer]; q.honest {
			w.violate("commit %s of round %d convicts honest peer %d: %s", id.Short(), k.Round, q.n, x.Why)
		}
		if m := member(k.Roster, x.Peer); m == nil || !m.Banned {
			w.violate("commit %s of round %d convicts peer %d and does not ban it", id.Short(), k.Round, w.index[x.Peer].n)
		}
	}
	for _, d := range merged {
		if m := member(k.Roster, d.Peer); m != nil && m.Banned {
			w.violate("commit %s of round %d merges work of peer %d, which is convicted", id.Short(), k.Round, w.index[d.Peer].n)
		}
	}
	if w.cfg.AuditRate == 0 {
		return
	}
	for _, p := range k.Paid() {
		if m := member(k.Roster, p.Peer); m != nil && m.Banned && m.Missed < audit.MissLimit {
			w.violate("commit %s of round %d pays peer %d, which is convicted", id.Short(), k.Round, w.index[p.Peer].n)
		}
	}
}

// chain returns the final commits by round.
func (c *checker) chain() []*diloco.Commit {
	var out []*diloco.Commit
	for id := c.doneID; id.Defined(); id = c.commits[id].Parent {
		out = append(out, c.commits[id])
	}
	slices.Reverse(out)
	return out
}

// calm is when the last fault was over that keeps validators from their work:
// after it, what an honest coin chooses is convicted in time.
func (w *world) calm() time.Duration {
	t := time.Duration(0)
	for _, f := range w.cfg.Faults {
		if f.Kind != Cheat && f.Kind != Lie {
			t = max(t, max(f.At, f.Until)+4*w.cfg.Deadline)
		}
	}
	return t
}

// sworn returns the honest validators among the active ones of a commit, and
// whether they are 2/3 of them, and two.
func (w *world) sworn(k *diloco.Commit) (list []*peer, enough bool) {
	all := 0
	for _, m := range k.Roster {
		if m.Banned || m.Role != "validator" {
			continue
		}
		all++
		if p := w.index[m.Peer]; p.honest && !p.gone && m.Since < k.Round {
			list = append(list, p)
		}
	}
	return list, len(list) >= 2 && 3*len(list) >= 2*all
}

// caught: whatever lie an honest validator's coin has chosen of the final chain, its
// author is convicted within the audit window of the work, wherever 2/3 honest
// validators could talk all the while.
func (c *checker) caught(w *world) {
	if w.cfg.AuditRate == 0 {
		return
	}
	chain := c.chain()
	for r, k := range chain {
		id := wire.CID("")
		if r+1 < len(chain) {
			id = chain[r+1].Parent
		}
		sworn, enough := w.sworn(k)
		if !enough || !id.Defined() || c.madeAt[id] < w.calm() {
			continue
		}
		for _, l := range w.liesIn(k, sworn) {
			until := l.round + w.cfg.Window
			if until > uint64(len(chain)-1) {
				continue // the run was over
			}
			if k.Round+3 > until {
				continue // it came in too late for a replay, the accusation and the others' answers
			}
			convicted, ever := uint64(0), true
			for _, later := range chain[r+1 : until+1] {
				m := member(later.Roster, l.peer.id)
				if m == nil || m.Banned {
					convicted = later.Round
					break
				}
				if _, enough := w.sworn(later); !enough {
					ever = false
				}
			}
			switch {
			case convicted > 0:
				w.report.Caught = max(w.report.Caught, convicted-k.Round)
			case ever:
				w.violate("peer %d (%s, %s) lied about round %d; peer %d's coin chose that in round %d, and it is in the roster of round %d",
					l.peer.n, cheatNames[l.peer.cheat], lieNames[l.peer.lie], l.round, l.by.n, k.Round, until)
			}
		}
	}
}

// A found lie is one that an honest validator looks at.
type foundLie struct {
	peer, by *peer
	round    uint64 // of the work
}

// liesIn returns the lies that came in with k and that honest coins chose.
func (w *world) liesIn(k *diloco.Commit, sworn []*peer) (out []foundLie) {
	for _, d := range k.Merged() {
		p := w.index[d.Peer]
		steps := w.said[d.ID].Body.(*diloco.Delta).Steps
		for _, h := range sworn {
			draw := audit.DrawFor(h.coin().Reveal(k.Round), d.ID, w.cfg.AuditRate, (steps-1)/stepsSegment+1)
			if m := member(k.Roster, h.id); m.Since <= d.Round && draw.Audit && w.faked[d.Block]>>draw.Segment&1 == 1 {
				out = append(out, foundLie{p, h, d.Round})
			}
		}
	}
	for i := range k.Verdicts {
		m, err := w.open(&k.Verdicts[i])
		if err != nil {
			continue
		}
		v, p := m.Body.(*diloco.Verdict), w.index[m.From]
		s := w.subject(v.Subject)
		block := s.Body.(*diloco.Delta).Block
		if w.index[s.From].cheat == unserved {
			continue // nobody can replay that
		}
		if v.Finding != diloco.Pass || w.said[v.Subject] != s || bytes.Equal(v.Work, work(block, v.Segment, audit.SeedOf(v.Coin, v.Subject, v.Segment, m.From))) {
			continue
		}
		for _, h := range sworn {
			if e := member(k.Roster, h.id); h != p && e.Since <= v.Round && audit.DrawFor(h.coin().Reveal(k.Round), m.ID, w.cfg.AuditRate, 1).Audit {
				out = append(out, foundLie{p, h, v.Round})
			}
		}
	}
	for _, x := range k.Cases { // an accusation asks everybody
		if q := w.index[x.Peer]; len(x.Wrong) == 0 || !q.honest || len(sworn) == 0 || x.Opened != k.Round {
			continue
		}
		for _, liar := range x.Wrong {
			if p := w.index[liar]; !p.honest {
				out = append(out, foundLie{p, sworn[0], x.Round})
			}
		}
	}
	return out
}

// settle pays for the final chain, where there is a ledger.
func (c *checker) settle(w *world) {
	if w.cfg.Ledger == nil {
		return
	}
	rounds := map[wire.PeerID]uint64{}
	chain := c.chain()
	for _, k := range chain {
		for _, x := range k.Convicted {
			if x.Why != diloco.WhySilent { // whose work was right, and is paid
				rounds[x.Peer] = k.Round
			}
		}
	}
	err := w.cfg.Ledger.Settle(chain, func(p wire.PeerID) uint64 { return rounds[p] }, func(p wire.PeerID) bool { return w.index[p].honest })
	if err != nil {
		w.violate("settlement: %v", err)
	}
}

func (c *checker) collectAudits(r *Report) {
	for _, k := range c.chain() {
		r.Verdicts += len(k.Verdicts)
		r.Convicted += len(k.Convicted)
		for _, x := range k.Convicted {
			if x.Why == diloco.WhySilent {
				r.Silenced++
			}
		}
	}
}

package sim

import (
	"slices"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// owedRound is what one validator owed of one commit of the final chain, counted from
// the chain alone.
type owedRound struct {
	round          uint64 // of the commit
	owed, answered int
}

// owed returns what a validator that the final chain's commits have in their rosters owed, commit
// by commit, as far as the window has closed while the run trained.
func (c *checker) owed(w *world, chain []*diloco.Commit, q *peer) (out []owedRound) {
	cfg := audit.Config{Self: q.id, Rate: w.cfg.AuditRate, Every: stepsSegment}
	for _, k := range chain {
		m := member(k.Roster, q.id)
		until := k.Round + w.cfg.Window
		if m == nil || m.Banned || k.Round <= m.Since || until >= w.cfg.Stop || until >= uint64(len(chain)) {
			continue
		}
		if e := member(chain[until].Roster, q.id); e == nil || e.Since != m.Since {
			continue // it is gone, or has come anew
		}
		x := owedRound{round: k.Round}
		for _, choice := range audit.Choose(q.coin().Reveal(k.Round), chainHead(w, k, m.Since), cfg) {
			author := member(chain[until].Roster, choice.Peer)
			if !choice.Owed || author == nil || author.Banned || author.Since > choice.Round {
				continue
			}
			x.owed++
			if answered(w, chain[k.Round+1:until+1], q.id, choice.ID) {
				x.answered++
			}
		}
		out = append(out, x)
	}
	return out
}

func chainHead(w *world, k *diloco.Commit, since uint64) audit.Head {
	h := audit.Head{Round: k.Round, Since: since}
	for _, d := range k.Merged() {
		h.Works = append(h.Works, audit.Work{ID: d.ID, Peer: d.Peer, Round: d.Round, Steps: w.said[d.ID].Body.(*diloco.Delta).Steps})
	}
	return h
}

func answered(w *world, chain []*diloco.Commit, by wire.PeerID, subject wire.CID) bool {
	return slices.ContainsFunc(chain, func(k *diloco.Commit) bool {
		return slices.ContainsFunc(k.Verdicts, func(s wire.Signed) bool {
			m, err := w.open(&s)
			return err == nil && s.From == by && m.Body.(*diloco.Verdict).Subject == subject
		})
	})
}

// silent: who has said nothing about ten audits that it owed in a row is out of the roster
// once their window has closed and it has voted; and who does what it owes never is (see
// judgements). Honest validators' accounts go into the report.
func (c *checker) silent(w *world) {
	if w.cfg.AuditRate == 0 {
		return
	}
	chain := c.chain()
	for _, q := range w.peers {
		if q.role != "validator" {
			continue
		}
		row := 0
		for _, x := range c.owed(w, chain, q) {
			if q.honest {
				w.report.Owed += x.owed
				w.report.Missed += x.owed - x.answered
				continue
			}
			if row += x.owed; x.answered > 0 {
				row = 0
			}
			// A vote that is not in the chain settles nothing: the next one does.
			by := x.round + w.cfg.Window + 1 + dropAfter
			if row*audit.MissCost < audit.MissLimit || by >= uint64(len(chain)) {
				continue
			}
			if m := member(chain[by].Roster, q.id); m != nil && !m.Banned && m.Since < x.round {
				w.violate("validator %d (%s) has not answered %d audits in a row up to round %d, and is in the roster of round %d", q.n, lieNames[q.lie], row, x.round, by)
			}
		}
		for _, k := range chain {
			if m := member(k.Roster, q.id); q.honest && m != nil {
				w.report.Account = max(w.report.Account, m.Missed)
			}
		}
	}
}

// dropAfter is diloco.Config.DropAfter's default.
const dropAfter = 3

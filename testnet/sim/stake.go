package sim

import (
	"slices"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Stake in this universe: what the ledger says follows from the faults, and each peer
// looks at it now and then, as chain/agent does. Where no fault is about stake, nobody asks.

const (
	lookEvery = 15 * time.Second
	lookFresh = 8 * lookEvery // an older look finds nobody's stake gone
)

// asked reports whether stake plays a part.
func (w *world) asked() bool {
	return slices.ContainsFunc(w.cfg.Faults, func(f Fault) bool { return f.Kind == Unstake || f.Kind == Slander })
}

// hit reports whether a fault of that kind hits p at t.
func (w *world) hit(kind Kind, p *peer, t time.Duration) bool {
	return slices.ContainsFunc(w.cfg.Faults, func(f Fault) bool {
		return f.Kind == kind && f.At <= t && (f.Until == 0 || t < f.Until) && (len(f.Peers) == 0 || slices.Contains(f.Peers, p.n))
	})
}

// standing is what p knows of a peer's stake.
func (p *peer) standing(id wire.PeerID, _ string) diloco.Standing {
	w := p.w
	q := w.index[id]
	for t := w.now - (w.now+time.Duration(p.n)*time.Second)%lookEvery; q != nil && t >= 0; t -= lookEvery {
		switch {
		case w.hit(Away, p, t):
		case !w.hit(Unstake, q, t):
			return diloco.Staked
		case w.now-t <= lookFresh:
			return diloco.Unstaked
		default:
			return diloco.Unknown
		}
	}
	return diloco.Unknown
}

// slander makes a vote find the honest without stake.
func (p *peer) slander(body []byte) []byte {
	var v diloco.Vote
	if err := wire.Unmarshal(body, &v); err != nil {
		p.w.violate("peer %d signs a vote that nobody takes: %v", p.n, err)
		return body
	}
	v.Unstaked = nil
	for _, m := range p.m.Status().Roster {
		if q := p.w.index[m.Peer]; q.honest && !p.w.hit(Unstake, q, p.w.now) && len(v.Unstaked) < diloco.MaxUnstaked {
			v.Unstaked = append(v.Unstaked, m.Peer)
		}
	}
	b, err := wire.Marshal(&v)
	if err != nil {
		p.w.violate("a vote with names: %v", err)
	}
	p.lied++
	return b
}

// sentAway: who is removed for want of stake has had none at some time, or more than
// half of the roster are liars; and who has had none for long enough is removed, where
// more than half, honest, have voted.
func (c *checker) sentAway(w *world, k, parent *diloco.Commit) {
	if !w.asked() {
		return
	}
	var total, liars, voted uint64
	left := false
	for _, m := range parent.Roster {
		q := w.index[m.Peer]
		if total += m.Weight; m.Banned {
			continue
		}
		if !q.honest {
			liars += m.Weight
		} else if slices.ContainsFunc(k.Votes, func(v wire.Signed) bool { return v.From == m.Peer }) {
			voted += m.Weight
			left = left || !c.everGone(w, q)
		}
	}
	for _, p := range k.Unstaked {
		switch q := w.index[p]; {
		case member(k.Roster, p) != nil:
			w.violate("the commit of round %d removes peer %d and has it in its roster", k.Round, q.n)
		case !c.everGone(w, q) && 2*liars <= total:
			w.violate("the commit of round %d removes peer %d, which has its stake", k.Round, q.n)
		}
		w.report.Removed++
	}
	made, ok := c.madeAt[k.Parent]
	for _, m := range k.Roster {
		q := w.index[m.Peer]
		if !ok || m.Banned || !left || member(parent.Roster, m.Peer) == nil || !c.gone(w, q, made-lookEvery, w.now) || c.away(w, made-lookEvery) {
			continue
		}
		// Its own vote does not name it.
		if n := voted - min(voted, m.Weight); 2*n > total {
			w.violate("peer %d has had no stake since %v and is in the roster of round %d", q.n, made-lookEvery, k.Round)
		}
	}
}

// everGone reports whether a peer's stake has been gone until now.
func (c *checker) everGone(w *world, q *peer) bool {
	return slices.ContainsFunc(w.cfg.Faults, func(f Fault) bool { return f.Kind == Unstake && f.At <= w.now && slices.Contains(f.Peers, q.n) })
}

// gone reports whether it was gone all the time.
func (c *checker) gone(w *world, q *peer, from, to time.Duration) bool {
	return slices.ContainsFunc(w.cfg.Faults, func(f Fault) bool {
		return f.Kind == Unstake && f.At <= from && (f.Until == 0 || to < f.Until) && slices.Contains(f.Peers, q.n)
	})
}

// away reports whether anybody's ledger was away since.
func (c *checker) away(w *world, from time.Duration) bool {
	return slices.ContainsFunc(w.cfg.Faults, func(f Fault) bool { return f.Kind == Away && f.At <= w.now && (f.Until == 0 || from < f.Until) })
}

// names: an honest peer finds without stake only who had none when it looked.
func (c *checker) names(w *world, p *peer, v *diloco.Vote) {
	for _, id := range v.Unstaked {
		q := w.index[id]
		ever := slices.ContainsFunc(w.cfg.Faults, func(f Fault) bool {
			return f.Kind == Unstake && f.At <= w.now && (f.Until == 0 || w.now-lookFresh <= f.Until) && slices.Contains(f.Peers, q.n)
		})
		if !ever || q == p {
			w.violate("peer %d finds peer %d without stake, which it has", p.n, q.n)
		}
	}
}

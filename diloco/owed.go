package diloco

import (
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// What validators owe. When a round leaves the audit window, each validator's vote
// shows its coin for it, so that everybody can compute from commits alone what it had to
// look at, and count what it did not answer (audit.Miss). Who does not show its coin, or
// has missed too much, is convicted of silence: banned, for its seat keeps 2/3 from
// deciding, but a slow machine is no thief, and a ledger takes nothing for it.

// maxSettled is of how many rounds one vote's coin settles accounts: those for which a
// member that is still in the roster did not vote, and this one. Of more, the oldest are forgiven.
const maxSettled = 8

// due returns the round whose secret a vote of this member on parent must show. ok is
// false where it need not.
func (m *Member) due(cfg *Config, parent *Commit) (round uint64, ok bool) {
	if cfg.AuditRate == 0 || m.Role != validator || m.Banned || parent.Round <= cfg.AuditWindow {
		return 0, false
	}
	round = parent.Round - cfg.AuditWindow
	return round, round > m.Shown
}

// silenced reports whether the member is banned for its silence alone.
func (m *Member) silenced() bool { return m.Banned && m.Missed >= audit.MissLimit }

// punishable reports whether a conviction of a peer has an effect: who was banned for
// its silence does not escape what else it did.
func punishable(m *Member) bool { return m == nil || !m.Banned || m.silenced() }

// An account is what a validator's vote makes of its entry in the roster.
type account struct {
	coin          [32]byte
	shown, missed uint64
}

// A spoken word is one validator's about one segment.
type spoken struct {
	by wire.PeerID
	about
}

// books is what the chain up to parent says about the rounds that are settled.
type books struct {
	a      *assembly
	chain  []*Commit // parent first
	works  map[uint64][]audit.Work
	words  map[spoken]Finding
	passes map[about]uint64 // by validators
	audits map[uint64]int   // verdicts on trainers' work, by the round of the commit
	read   uint64           // verdicts of commits of this round and later are in words
}

// accounts settles with the validators that voted. guilty are those whom the commit convicts anyway.
func (a *assembly) accounts(guilty []Conviction) (map[wire.PeerID]account, []Conviction) {
	out := map[wire.PeerID]account{}
	var silent []Conviction
	b := a.newBooks()
	for _, m := range a.votes {
		e := memberIn(a.parent.Roster, m.From)
		if e == nil || isConvicted(guilty, m.From) {
			continue
		}
		round, ok := e.due(a.cfg, a.parent)
		if !ok {
			continue
		}
		shows := a.vote[m.From].Coin
		if audit.CheckReveal(e.Coin, e.Shown, round, shows) != nil {
			silent = append(silent, Conviction{Peer: m.From, Why: WhySilent})
			continue
		}
		x := account{coin: [32]byte(shows), shown: round, missed: e.Missed}
		for r := max(e.Shown, e.Since, round-min(round, maxSettled)) + 1; r <= round; r++ {
			if stopped(a.cfg, r+a.cfg.AuditWindow) {
				break // its seat is worth nothing any more, and the run has to end for it, too
			}
			for _, o := range b.owed(e, r, audit.Earlier(shows, round, r), guilty) {
				missed := bugMiss || b.missed(m.From, o, r) && !bugSpare
				x.missed = audit.Miss(x.missed, missed)
				if missed && x.missed >= audit.MissLimit {
					silent = append(silent, Conviction{Peer: m.From, Why: WhySilent, Subject: o.subject, Segment: o.segment})
					r = round // it is enough
					break
				}
			}
		}
		out[m.From] = x
	}
	return out, silent
}

func (a *assembly) newBooks() *books {
	return &books{
		a: a, chain: []*Commit{a.parent}, works: map[uint64][]audit.Work{}, words: map[spoken]Finding{},
		passes: map[about]uint64{}, audits: map[uint64]int{}, read: a.parent.Round + 1,
	}
}

// commit returns the ancestor of that round, or parent.
func (b *books) commit(round uint64) *Commit {
	for last := b.chain[len(b.chain)-1]; last.Round > round; last = b.chain[len(b.chain)-1] {
		c := b.a.past(last.Parent)
		if c == nil {
			return nil // cannot be: past reaches back so far
		}
		b.chain = append(b.chain, c)
	}
	return b.chain[b.a.parent.Round-round]
}

// owed returns what a validator had to look at of the commit of that round. Nobody owes
// anything about authors that are gone, and cannot be asked.
func (b *books) owed(e *Member, round uint64, coin []byte, guilty []Conviction) (out []about) {
	c := b.commit(round)
	if c == nil || roleIn(c.Roster, e.Peer, validator) == nil {
		return nil
	}
	works, ok := b.works[round]
	if !ok {
		works = c.works(b.a.cfg.Open)
		b.works[round] = works
	}
	cfg := audit.Config{Self: e.Peer, Rate: b.a.cfg.AuditRate, Every: b.a.cfg.Every}
	for _, x := range audit.Choose(coin, audit.Head{Round: round, Since: e.Since, Works: works}, cfg) {
		by := roleIn(b.a.parent.Roster, x.Peer, trainer)
		if x.Owed && by != nil && by.Since <= x.Round && !isConvicted(guilty, x.Peer) {
			out = append(out, about{x.ID, x.Segment})
		}
	}
	return out
}

// missed reports whether the window of work that came in with the commit of round has gone by
// without the validator's word. Withheld is a word, but not where 2/3 of the validators
// could look. Where commits were so full of verdicts on deltas, which go before those on
// verdicts, that there may have been no room for another, nobody is to blame.
func (b *books) missed(by wire.PeerID, o about, round uint64) bool {
	b.listen(round + 1)
	switch f, said := b.words[spoken{by, o}]; {
	case said && f == Withheld:
		return b.a.decides(b.passes[o])
	case said:
		return false
	}
	full := uint64(0)
	for r := round + 1; r <= round+b.a.cfg.AuditWindow; r++ {
		if c := b.commit(r); c != nil && 8*b.audits[r] >= 7*min(MaxVerdicts, MaxNames-len(c.Deltas)) {
			full++
		}
	}
	return 2*full < b.a.cfg.AuditWindow
}

// listen reads the verdicts of the commits from that round on.
func (b *books) listen(from uint64) {
	for ; b.read > from; b.read-- {
		c := b.commit(b.read - 1)
		if c == nil {
			return
		}
		for i := range c.Verdicts {
			m, err := b.a.cfg.Open(&c.Verdicts[i])
			if err != nil {
				continue
			}
			v := m.Body.(*Verdict)
			if e := memberIn(c.Roster, v.Peer); e == nil || e.Role == trainer {
				b.audits[c.Round]++
			}
			k := spoken{m.From, v.about()}
			old, said := b.words[k]
			if said && (old != Withheld || v.Finding == Withheld) {
				continue
			}
			b.words[k] = v.Finding
			if v.Finding == Pass && roleIn(b.a.parent.Roster, m.From, validator) != nil {
				b.passes[k.about]++
			}
		}
	}
}

// works returns what c merged, as an auditor wants to know it.
func (c *Commit) works(open func(*wire.Signed) (*Message, error)) (out []audit.Work) {
	steps := map[wire.CID]uint64{}
	var deltas []*Message
	for i := range c.Deltas {
		m, err := open(&c.Deltas[i])
		if err != nil || m.Kind != wire.KindDelta {
			return nil // VerifyCommit excludes it
		}
		deltas = append(deltas, m)
		steps[m.ID] = m.Body.(*Delta).Steps
	}
	for _, w := range merge(c.Round, deltas, c.Convicted) {
		out = append(out, audit.Work{ID: w.ID, Peer: w.Peer, Round: w.Round, Steps: steps[w.ID]})
	}
	return out
}

// shows returns the coin that this peer's vote on the head must show, if any. ok is
// false where it must and cannot.
func (m *Machine) shows() (coin []byte, ok bool) {
	e := activeIn(m.head.c.Roster, m.cfg.Self)
	if e == nil {
		return nil, true
	}
	round, due := e.due(&m.cfg, m.head.c)
	if !due {
		return nil, true
	}
	if !m.fits(e) {
		return nil, false
	}
	coin = m.cfg.Coin.Reveal(round)
	return coin, coin != nil
}

package diloco

import (
	"cmp"
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// Bounds of the verdicts that are kept of one peer, and of the own ones that
// are said again with each new head.
const (
	maxVerdicts = 128
	maxOffers   = 16
)

// A judgement is what this peer has said about a segment, or asked to sign.
type judgement struct {
	finding Finding
	round   uint64
}

// audited takes the outcome of an audit of this peer's: it says it, once.
func (m *Machine) audited(ev Audited) {
	v := ev.Verdict
	old, said := m.judged[v.about()]
	switch {
	case m.silent() || m.cfg.AuditRate == 0 || roleIn(m.head.c.Roster, m.cfg.Self, validator) == nil:
		m.reject("own verdict: not a validator")
		return
	case v.check() != nil || v.Peer == m.cfg.Self || v.Segment >= m.cfg.Segments:
		m.reject("own verdict is malformed")
		return
	case v.Round < m.floor || !m.cfg.inTime(m.head.c, &v):
		m.reject("own verdict is too late")
		return
	case said && (old.finding != Withheld || v.Finding == Withheld):
		m.reject("own verdict is said already")
		return
	}
	m.judged[v.about()] = judgement{v.Finding, v.Round}
	m.sign(wire.KindVerdict, &v)
}

// hearVerdict keeps a verdict for the votes to name.
func (m *Machine) hearVerdict(msg *Message, v *Verdict) {
	own := msg.From == m.cfg.Self
	if own {
		if old, said := m.judged[v.about()]; !said || old.finding == Withheld {
			m.judged[v.about()] = judgement{v.Finding, v.Round}
		}
	}
	switch {
	case m.verdicts[msg.ID] != nil:
	case m.cfg.AuditRate == 0:
		m.reject("the run audits nobody")
	case !m.cfg.inTime(m.head.c, v):
		m.reject("old round")
	case v.Round < m.head.round && roleIn(m.head.c.Roster, msg.From, validator) == nil && !own:
		m.refuseMessage(msg, "not a validator")
	case !own && !m.coinFits(msg, v):
		m.refuseMessage(msg, "bad coin")
	default:
		m.keepVerdict(msg, v)
	}
}

// coinFits reports whether a verdict's coin is its sender's, as far as that is known here.
func (m *Machine) coinFits(msg *Message, v *Verdict) bool {
	by := roleIn(m.head.c.Roster, msg.From, validator)
	if by == nil || len(v.Coin) == 0 {
		return true
	}
	s, in := subject(&m.cfg, m.head.c, m.past(m.head), v)
	return s == nil || fair(&m.cfg, by, v, s, in) == nil
}

// keepVerdict keeps it, unless it makes its sender an equivocator or there are
// too many of it; those that are in the chain go first, then the oldest. What is not in the chain
// others may name, and nobody could make a commit of votes that name what it has given away.
func (m *Machine) keepVerdict(msg *Message, v *Verdict) {
	list := m.audits[msg.From]
	for _, x := range list {
		if conflict(x, msg) {
			m.convict(x, msg)
			m.refuseMessage(msg, "convicted")
			return
		}
	}
	if list == nil && len(m.audits) >= maxPeers {
		m.reject("too many peers")
		return
	}
	if len(list) >= maxVerdicts {
		i := 0
		for j := range list {
			if m.dispensable(list[j], list[i]) < 0 {
				i = j
			}
		}
		if m.dispensable(list[i], msg) >= 0 {
			m.refuseMessage(msg, "too many messages")
			return
		}
		delete(m.verdicts, list[i].ID)
		list = slices.Delete(list, i, i+1)
	}
	m.seq++
	m.verdicts[msg.ID] = msg
	m.audits[msg.From] = append(list, msg)
}

// dispensable orders two verdicts by which is the more dispensable: one that nobody can name any more, what this
// peer's vote does not name, the older one.
func (m *Machine) dispensable(x, y *Message) int {
	var named Names
	if b := m.ballots[m.head.id]; b != nil && b.votes[m.cfg.Self] != nil {
		named = b.votes[m.cfg.Self].Body.(*Vote).Verdicts
	}
	need := func(x *Message) int {
		switch _, mine := slices.BinarySearch(named, x.ID); {
		case mine:
			return 2
		case m.pending(x):
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(need(x), need(y)), cmp.Compare(x.Body.(*Verdict).Round, y.Body.(*Verdict).Round))
}

// learnVerdicts notes which verdicts a verified commit has, and looks whether
// their senders contradict what they said elsewhere.
func (m *Machine) learnVerdicts(n *node) {
	for i := range n.c.Verdicts {
		msg, err := m.cfg.Open(&n.c.Verdicts[i])
		if err != nil {
			continue
		}
		n.said = append(n.said, msg.ID)
		if m.verdicts[msg.ID] == nil && m.convicted[msg.From] == nil {
			m.keepVerdict(msg, msg.Body.(*Verdict))
		}
	}
}

// judgeVerdict is Judge for verdicts.
func (m *Machine) judgeVerdict(msg *Message, v *Verdict) wire.Judgement {
	switch h := m.head.round; {
	case m.cfg.AuditRate == 0 || v.Peer == msg.From || v.Segment >= m.cfg.Segments:
		return wire.Reject
	case !m.cfg.inTime(m.head.c, v):
		return wire.Ignore
	case v.Round < h && roleIn(m.head.c.Roster, msg.From, validator) == nil, !m.coinFits(msg, v):
		return wire.Ignore // it may have joined anew on another branch
	}
	return wire.Accept
}

// pending reports whether a verdict is not in the head's chain and may still come in.
func (m *Machine) pending(msg *Message) bool {
	v := msg.Body.(*Verdict)
	if !m.cfg.inTime(m.head.c, v) {
		return false
	}
	for n := m.head; n != nil && n.round > v.Round; n = n.parent {
		if _, ok := slices.BinarySearch(n.said, msg.ID); ok {
			return false
		}
	}
	return true
}

// namedVerdicts returns what this peer's vote on the head names, ascending: answers
// to open cases first, then accusations that there is room for, then verdicts on deltas,
// which are owed, then the rest; of each the oldest first.
func (m *Machine) namedVerdicts(room int) Names {
	type candidate struct {
		id    wire.CID
		class int
		round uint64
	}
	var list []candidate
	cases := slices.Clone(m.head.c.Cases)
	for _, id := range sortedNames(m.verdicts) {
		msg := m.verdicts[id]
		v := msg.Body.(*Verdict)
		if m.convicted[msg.From] != nil || !m.pending(msg) || admissible(&m.cfg, m.head.c, m.past(m.head), msg) != nil {
			continue
		}
		class := 3
		if roleIn(m.head.c.Roster, v.Peer, trainer) != nil {
			class = 2
		}
		if caseOf(m.head.c.Cases, v.about()) != nil {
			class = 0
		} else if v.Finding != Pass {
			class = 1
			var ok bool
			if cases, ok = openCase(cases, msg, m.head.round+1); !ok {
				continue // its turn comes
			}
		}
		list = append(list, candidate{id, class, v.Round})
	}
	slices.SortStableFunc(list, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.round, b.round))
	})
	var out Names
	for _, c := range list[:min(len(list), max(room, 0))] {
		out = append(out, c.id)
	}
	slices.Sort(out)
	return out
}

func sortedNames(set map[wire.CID]*Message) []wire.CID {
	out := make([]wire.CID, 0, len(set))
	for id := range set {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// offerVerdicts says again own verdicts that are not in the chain yet.
func (m *Machine) offerVerdicts() {
	if m.silent() {
		return
	}
	n := 0
	for _, msg := range m.audits[m.cfg.Self] {
		if n < maxOffers && m.pending(msg) {
			n++
			m.do(Publish{Msg: msg.Signed})
		}
	}
}

// pruneVerdicts forgets what no case can be about any more.
func (m *Machine) pruneVerdicts() {
	old := func(round uint64) bool { return round+audit.Memory(m.cfg.AuditWindow) < m.final.round }
	for p, list := range m.audits {
		list = slices.DeleteFunc(list, func(x *Message) bool {
			if !old(x.Body.(*Verdict).Round) {
				return false
			}
			delete(m.verdicts, x.ID)
			return true
		})
		m.audits[p] = list
		if len(list) == 0 {
			delete(m.audits, p)
		}
	}
	for k, j := range m.judged {
		if old(j.round) {
			delete(m.judged, k)
		}
	}
}

// Head returns what the auditor of self wants to know of c when it is adopted.
func (c *Commit) Head(self wire.PeerID) audit.Head {
	h := audit.Head{Round: c.Round}
	if e := roleIn(c.Roster, self, validator); e != nil {
		h.Since = e.Since
	}
	h.Works = c.works(Open)
	for i := range c.Verdicts {
		m, err := Open(&c.Verdicts[i])
		if err != nil || m.Kind != wire.KindVerdict {
			continue
		}
		if v := m.Body.(*Verdict); v.Finding == Pass {
			h.Passed = append(h.Passed, audit.Passed{ID: m.ID, Subject: v.Subject, Peer: m.From, Round: v.Round, Segment: v.Segment})
		}
	}
	for _, k := range c.Cases {
		h.Cases = append(h.Cases, audit.Accusation{
			Subject: k.Subject, Peer: k.Peer, Round: k.Round, Segment: k.Segment, Opened: k.Opened,
			Spoken: slices.Contains(k.Pass, self) || slices.Contains(k.Wrong, self),
		})
	}
	return h
}

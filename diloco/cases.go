package diloco

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// What verdicts do to the chain. All of it is a function of a commit's
// ancestors and votes.

// maxAlone is how many open cases one validator may have on its word alone.
const maxAlone = 4

// Why a peer is convicted.
const (
	WhyEquivocation = "equivocation"  // it signed two messages that contradict each other
	WhyWork         = "wrong work"    // 2/3 of the validators replayed it and found otherwise
	WhyWithheld     = "withheld"      // it did not serve what it must, to 2/3 of them
	WhyVerdict      = "false verdict" // 2/3 of them found the opposite of what it said
	WhySilent       = "silent"        // it did not do the audits that it owed, or did not show its coin
)

// about is what a verdict is about.
type about struct {
	subject wire.CID
	segment uint64
}

func (v *Verdict) about() about { return about{v.Subject, v.Segment} }
func (c *Case) about() about    { return about{c.Subject, c.Segment} }

func isConvicted(list []Conviction, p wire.PeerID) bool {
	_, ok := whyOf(list, p)
	return ok
}

// whyOf returns what a peer is convicted of.
func whyOf(list []Conviction, p wire.PeerID) (why string, ok bool) {
	for _, c := range list {
		if c.Peer == p {
			return c.Why, true
		}
	}
	return "", false
}

// caseOf returns the case about that segment, or nil.
func caseOf(cases []Case, a about) *Case {
	i, ok := slices.BinarySearchFunc(cases, a, func(c Case, a about) int { return compareAbout(c.about(), a) })
	if !ok {
		return nil
	}
	return &cases[i]
}

func compareAbout(a, b about) int {
	return cmp.Or(cmp.Compare(a.subject, b.subject), cmp.Compare(a.segment, b.segment))
}

func sameCase(a, b Case) bool {
	return a.about() == b.about() && a.Peer == b.Peer && a.Round == b.Round && a.Opened == b.Opened && a.Evidence == b.Evidence &&
		slices.Equal(a.Pass, b.Pass) && slices.Equal(a.Wrong, b.Wrong) && slices.Equal(a.Withheld, b.Withheld)
}

// admissible returns why a verdict has no place in a child of parent: it must
// be by a validator, in time, about another's work that is in the chain; and its
// coin must have chosen that work, unless it accuses or answers an accusation. So
// nobody is paid for passing what it was not to look at.
func admissible(cfg *Config, parent *Commit, past func(wire.CID) *Commit, msg *Message) error {
	v := msg.Body.(*Verdict)
	by := roleIn(parent.Roster, msg.From, validator)
	switch {
	case cfg.AuditRate == 0:
		return errors.New("the run audits nobody")
	case by == nil:
		return errors.New("its sender is not an active validator")
	case v.Peer == msg.From:
		return errors.New("it is about its sender's own work")
	case v.Round >= parent.Round || !cfg.inTime(parent, v):
		return fmt.Errorf("round %d is outside of the audit window", v.Round)
	case v.Segment >= cfg.Segments:
		return fmt.Errorf("segment %d is none of %d", v.Segment, cfg.Segments)
	}
	s, in := subject(cfg, parent, past, v)
	if s == nil {
		return errors.New("its subject is not in the chain")
	}
	if s.Kind == wire.KindVerdict && v.Finding == Withheld {
		return errors.New("a verdict withholds nothing")
	}
	if len(v.Coin) > 0 {
		return fair(cfg, by, v, s, in)
	}
	if v.Finding == Pass && caseOf(parent.Cases, v.about()) == nil {
		return errors.New("it passes what neither its coin nor a case asks for")
	}
	return nil
}

// fair checks that the sender's coin, fixed before the work was done, chose it: by
// the secret of the round whose commit has the work. Until that commit is there,
// nobody has shown that secret; what is in it can then not be changed any more. (With the
// secret of the work's own round, late work could be made to suit it.)
func fair(cfg *Config, by *Member, v *Verdict, s *Message, in uint64) error {
	if by.Since > v.Round {
		return errors.New("its coin is younger than the work")
	}
	if in > by.Shown {
		if err := audit.CheckReveal(by.Coin, by.Shown, in, v.Coin); err != nil {
			return err
		}
	} else if !bytes.Equal(v.Coin, audit.Earlier(by.Coin[:], by.Shown, in)) { // a late answer to a case: a vote has shown it
		return errors.New("its coin is not the one that its sender's vote has shown")
	}
	segments := uint64(1)
	if d, ok := s.Body.(*Delta); ok {
		segments = (&audit.Config{Every: cfg.Every}).Segments(d.Steps)
	}
	switch d := audit.DrawFor(v.Coin, v.Subject, cfg.AuditRate, segments); {
	case !d.Audit:
		return errors.New("its coin did not choose this work")
	case s.Kind == wire.KindDelta && v.Segment != d.Segment:
		return fmt.Errorf("its coin chose segment %d of this work, not %d", d.Segment, v.Segment)
	}
	return nil
}

// subject finds what a verdict is about in the chain up to parent: a delta, or
// a verdict that passes the same segment of one; and the round of the commit that
// has it first. Nil if it is not there.
func subject(cfg *Config, parent *Commit, past func(wire.CID) *Commit, v *Verdict) (s *Message, in uint64) {
	find := func(list []wire.Signed, is func(*Message) bool) *Message {
		for i := range list {
			if list[i].From != v.Peer {
				continue
			}
			if m, err := cfg.Open(&list[i]); err == nil && m.ID == v.Subject && is(m) {
				return m
			}
		}
		return nil
	}
	for c := parent; c != nil && c.Round > v.Round; c = past(c.Parent) {
		if m := find(c.Deltas, func(m *Message) bool { return m.Body.(*Delta).Round == v.Round }); m != nil {
			s, in = m, c.Round
		}
		m := find(c.Verdicts, func(m *Message) bool {
			s := m.Body.(*Verdict)
			return s.Round == v.Round && s.Segment == v.Segment && s.Finding == Pass
		})
		if m != nil {
			s, in = m, c.Round
		}
	}
	return s, in
}

// closes returns the last round in which a case is open that a commit of that
// round opened: it has an audit window of its own, so that who looks late into the
// work's, where rounds are short, leaves the others time to answer.
func (cfg *Config) closes(opened uint64) uint64 { return opened + cfg.AuditWindow }

// Audited returns the round of the oldest work that may be audited while c is the
// head, and whose material must be served: that of the audit window, or older work that
// a case is open about.
func (c *Commit) Audited(window uint64) uint64 {
	oldest := c.Round - min(window, c.Round)
	for i := range c.Cases {
		oldest = min(oldest, c.Cases[i].Round)
	}
	return oldest
}

// inTime reports whether a verdict may be said in a child of parent: within the
// audit window of the work, and as long as there is a case about it.
func (cfg *Config) inTime(parent *Commit, v *Verdict) bool {
	return parent.Round <= v.Round+cfg.AuditWindow || caseOf(parent.Cases, v.about()) != nil
}

// say puts a validator's word into the case. Pass and Wrong are for good.
func (c *Case) say(p wire.PeerID, f Finding) {
	has := func(list []wire.PeerID) (int, bool) { return slices.BinarySearchFunc(list, p, wire.PeerID.Compare) }
	_, passed := has(c.Pass)
	_, wrong := has(c.Wrong)
	if passed || wrong {
		return
	}
	if i, again := has(c.Withheld); again {
		if f == Withheld {
			return
		}
		c.Withheld = slices.Delete(slices.Clone(c.Withheld), i, i+1)
	}
	list := [...]*[]wire.PeerID{&c.Pass, &c.Wrong, &c.Withheld}[f]
	i, _ := has(*list)
	*list = slices.Insert(slices.Clip(*list), i, p) // the parent's list is not ours to write in
}

// alone reports whether the case stands on p's word alone.
func (c *Case) alone(p wire.PeerID) bool {
	return len(c.Wrong)+len(c.Withheld) == 1 && (slices.Contains(c.Wrong, p) || slices.Contains(c.Withheld, p))
}

// openCase adds a case for an accusation, if there is none and room for one.
// It reports whether there is one now.
func openCase(cases []Case, msg *Message, round uint64) ([]Case, bool) {
	v := msg.Body.(*Verdict)
	i, ok := slices.BinarySearchFunc(cases, v.about(), func(c Case, a about) int { return compareAbout(c.about(), a) })
	if ok {
		return cases, true
	}
	alone := 0
	for j := range cases {
		if cases[j].alone(msg.From) {
			alone++
		}
	}
	if len(cases) >= MaxCases || alone >= maxAlone {
		return cases, false
	}
	c := Case{Subject: v.Subject, Peer: v.Peer, Round: v.Round, Segment: v.Segment, Opened: round, Evidence: v.Evidence}
	c.say(msg.From, v.Finding)
	return slices.Insert(cases, i, c), true
}

// judge returns the cases that are open after a commit with these verdicts and
// evictions, and whom it convicts.
func (a *assembly) judge(verdicts []*Message, evict []wire.PeerID, voted func(wire.PeerID) bool) (open []Case, guilty []Conviction) {
	convict := func(c Conviction) {
		if punishable(memberIn(a.parent.Roster, c.Peer)) && !isConvicted(guilty, c.Peer) {
			guilty = append(guilty, c)
		}
	}
	for _, p := range evict {
		convict(Conviction{Peer: p, Why: WhyEquivocation})
	}
	for _, c := range a.heard(verdicts) {
		verdict := func(p wire.PeerID, why string) {
			convict(Conviction{Peer: p, Why: why, Subject: c.Subject, Segment: c.Segment, Evidence: c.Evidence})
		}
		pass, wrong, withheld := a.weigh(c.Pass), a.weigh(c.Wrong), a.weigh(c.Withheld)
		pass += a.weigh([]wire.PeerID{c.Peer}) // a validator's verdict is its own word for it
		switch {
		case a.decides(wrong):
			verdict(c.Peer, WhyWork)
			for _, p := range c.Pass {
				verdict(p, WhyVerdict)
			}
		case a.decides(pass):
			for _, p := range c.Wrong {
				verdict(p, WhyVerdict)
			}
		case a.decides(wrong+withheld) && a.withholds(&c, voted):
			verdict(c.Peer, WhyWithheld)
		case a.parent.Round+1 <= a.cfg.closes(c.Opened):
			open = append(open, c)
		case a.decides(wrong+withheld) && (a.withdrew(&c) || a.cameAndWent(&c, voted)):
			verdict(c.Peer, WhyWithheld)
		}
	}
	slices.SortFunc(guilty, func(x, y Conviction) int { return x.Peer.Compare(y.Peer) })
	return open, guilty
}

// heard returns parent's cases with these verdicts, and those that they open,
// with what the chain has said about them before.
func (a *assembly) heard(verdicts []*Message) []Case {
	cases := slices.Clone(a.parent.Cases)
	for _, m := range verdicts {
		v := m.Body.(*Verdict)
		if v.Finding == Pass || caseOf(cases, v.about()) != nil {
			continue
		}
		var ok bool
		if cases, ok = openCase(cases, m, a.parent.Round+1); ok {
			a.recall(caseOf(cases, v.about()))
		}
	}
	for _, m := range verdicts {
		v := m.Body.(*Verdict)
		if c := caseOf(cases, v.about()); c != nil {
			c.say(m.From, v.Finding)
		}
	}
	return cases
}

// recall puts earlier verdicts into a new case.
func (a *assembly) recall(k *Case) {
	for c := a.parent; c != nil && c.Round > k.Round; c = a.past(c.Parent) {
		for i := range c.Verdicts {
			m, err := a.cfg.Open(&c.Verdicts[i])
			if err != nil {
				continue
			}
			if v, ok := m.Body.(*Verdict); ok && v.about() == k.about() {
				k.say(m.From, v.Finding)
			}
		}
	}
}

// weigh counts those who are active validators: one has the weight of another.
func (a *assembly) weigh(list []wire.PeerID) (n uint64) {
	for _, p := range list {
		if roleIn(a.parent.Roster, p, validator) != nil {
			n++
		}
	}
	return n
}

// decides reports whether n validators are 2/3 of all, and at least two.
func (a *assembly) decides(n uint64) bool {
	all := count(a.parent.Roster, validator)
	if bugCase {
		return n >= 2 && 2*n >= all
	}
	return n >= 2 && 3*n >= 2*all
}

// appeal is for how many rounds an accused must have been there, with enough
// voices against it, before it is convicted of withholding. The validators ask again
// with every head: what was out of reach, behind a partition or a crash, is passed by then.
func (cfg *Config) appeal() uint64 { return audit.Appeal(cfg.AuditWindow) }

// shortest is how long a round lasts at least in this peer's view where validators audit: those
// who withhold are then convicted in time (audit.Shortest). It is kept by not voting sooner, so that
// nobody's clock has to be believed: while those who keep to it have more than a third
// of the roster's weight, no commit but a weak one, which takes longer, comes without them.
func (cfg *Config) shortest(roster []Member) time.Duration {
	if cfg.AuditRate == 0 || count(roster, validator) == 0 {
		return 0
	}
	return min(audit.Shortest(cfg.AuditWindow, cfg.LateRounds), cfg.Deadline)
}

// condemned reports whether after commit c the voices that k's work is wrong or withheld were enough.
func (a *assembly) condemned(c *Commit, k *Case) bool {
	was := caseOf(c.Cases, k.about())
	return was != nil && a.decides(a.weigh(was.Wrong)+a.weigh(was.Withheld))
}

// votedBy reports whether a vote of the peer is in the commit.
func (c *Commit) votedBy(p wire.PeerID) bool {
	_, ok := slices.BinarySearchFunc(c.Votes, p, func(v wire.Signed, p wire.PeerID) int { return v.From.Compare(p) })
	return ok
}

// withholds reports whether the accused has voted all the while: who is there and
// does not serve withholds; who is not there is only absent, and leaves the roster
// for that. See withdrew for who leaves with its stake.
func (a *assembly) withholds(k *Case, voted func(wire.PeerID) bool) bool {
	if activeIn(a.parent.Roster, k.Peer) == nil || !voted(k.Peer) {
		return false
	}
	c := a.parent
	for range a.cfg.appeal() {
		if c == nil {
			return false
		}
		if !a.condemned(c, k) {
			return false
		}
		if !c.votedBy(k.Peer) {
			return false
		}
		c = a.past(c.Parent)
	}
	return true
}

// cameAndWent reports, at a case's end, whether the accused is still a member and has voted as often as
// withholds asks for, though not in a row: else it were enough to leave out every third vote.
func (a *assembly) cameAndWent(k *Case, voted func(wire.PeerID) bool) bool {
	if activeIn(a.parent.Roster, k.Peer) == nil {
		return false
	}
	n := uint64(0)
	if voted(k.Peer) {
		n++
	}
	for c := a.parent; c != nil && c.Round >= k.Opened; c = a.past(c.Parent) {
		if !a.condemned(c, k) {
			break
		}
		if c.votedBy(k.Peer) {
			n++
		}
	}
	return n > a.cfg.appeal()
}

// withdrew reports whether the accused has left the roster and taken its stake back since
// the work, while the voices against it were enough to the end. To withdraw is a deed, unlike to be
// absent: who does it has to serve what it has done until no case can be about it any
// more, and has the whole time of the case to answer. Otherwise nobody would ever
// be convicted of withholding: the accused would see it come, and go.
func (a *assembly) withdrew(k *Case) bool {
	gone, left, c := false, activeIn(a.parent.Roster, k.Peer) == nil, a.parent
	for n := uint64(0); c != nil && c.Round > k.Round && (left || n < a.cfg.appeal()); n++ {
		if n < a.cfg.appeal() && !a.condemned(c, k) {
			return false
		}
		left = left && activeIn(c.Roster, k.Peer) == nil
		gone = gone || left && slices.Contains(c.Unstaked, k.Peer)
		c = a.past(c.Parent)
	}
	return gone
}

// fugitive reports whether the case is about somebody who is in no roster any more and
// is said to withhold: what the ledger says of its stake then matters.
func (k *Case) fugitive(roster []Member) bool {
	return len(k.Withheld) > 0 && memberIn(roster, k.Peer) == nil
}

package chain

// prove judges what one proof on the chain can show.
func (s *State) prove(from Address, a Action) error {
	var e *Epoch
	var sound, guilty bool
	switch a := a.(type) {
	case ProveReceipt:
		e = &a.Epoch
		sound = VerifyProof(e.Receipts, s.book.Leaf(&a.Entry), a.Proof)
		guilty = s.badEntry(e, &a.Entry)
	case ProveDuplicate:
		e = &a.Epoch
		la, lb := s.book.Leaf(&a.A), s.book.Leaf(&a.B)
		sound = VerifyProof(e.Receipts, la, a.ProofA) && VerifyProof(e.Receipts, lb, a.ProofB)
		x, y := a.A.Receipt, a.B.Receipt
		if a.A.Index == a.B.Index {
			guilty = la != lb
		} else {
			guilty = x.Worker == y.Worker && x.Kind == y.Kind && x.Subject == y.Subject
		}
	case ProveRewards:
		e = &a.Epoch
		sound = VerifyProof(e.Rewards, a.A.Leaf(e.Run), a.ProofA) && VerifyProof(e.Rewards, a.B.Leaf(e.Run), a.ProofB)
		guilty = contradict(e, &a.A, &a.B)
	case ProveDecrease:
		e = &a.Epoch
		sound = VerifyProof(s.finals[e.Run].Rewards, a.Was.Leaf(e.Run), a.ProofWas) && VerifyProof(e.Rewards, a.Now.Leaf(e.Run), a.ProofNow)
		guilty = a.Was.Account == a.Now.Account && less(a.Now.Amount, a.Was.Amount)
	}
	if _, err := s.proposed(e); err != nil {
		return err
	}
	if !sound {
		return refuse("BadProof")
	}
	if !guilty {
		return refuse("Innocent")
	}
	s.reject(e.Run, from, true)
	return nil
}

// badEntry reports whether an entry of e's tree is none that may be paid.
func (s *State) badEntry(e *Epoch, a *Entry) bool {
	r := &a.Receipt
	run := s.runs[e.Run]
	if run == nil || r.Run != e.Run || r.Epoch != e.Number || a.Index >= e.Count || s.book.Check(a) != nil {
		return true
	}
	begin, end := run.Span(e.Number)
	return !s.keys[r.Worker].Served(begin, end)
}

// contradict reports whether two rewards of one tree cannot both be right.
func contradict(e *Epoch, a, b *Reward) bool {
	sum := add(a.Before, a.Amount)
	if a.Index >= e.Accounts || a.Index == 0 && positive(a.Before) || less(e.Total, sum) ||
		a.Index == e.Accounts-1 && sum.Cmp(val(e.Total)) != 0 {
		return true
	}
	if a.Index == b.Index {
		return a.Account != b.Account || val(a.Amount).Cmp(val(b.Amount)) != 0 || val(a.Before).Cmp(val(b.Before)) != 0
	}
	return a.Account == b.Account || b.Index == a.Index+1 && sum.Cmp(val(b.Before)) != 0
}

// enter opens a challenge: one each, for a bond.
func (s *State) enter(from Address, p *Proposal, run Hash, extra Amount) error {
	k := accountOf{run, from}
	if s.challenging[k] == p.Serial {
		return refuse("AlreadyChallenging")
	}
	return s.canTake(from, Disputes, s.cfg.ChallengeBond, extra)
}

func (s *State) entered(from Address, p *Proposal, run Hash) error {
	s.challenging[accountOf{run, from}] = p.Serial
	p.Open++
	return s.take(from, Disputes, s.cfg.ChallengeBond)
}

func (s *State) demand(from Address, a Demand) error {
	p, err := s.proposed(&a.Epoch)
	if err != nil {
		return err
	}
	n := a.Epoch.Accounts
	if a.Side == OfReceipts {
		n = a.Epoch.Count
	}
	k := demandKey{a.Epoch.Run, p.Serial, a.Side, a.Index}
	switch {
	case s.Time > p.Deadline:
		return refuse("TooLate")
	case a.Index >= n:
		return refuse("BadIndex")
	case s.demands[k] != nil:
		return refuse("AlreadyDemanded")
	}
	if err := s.enter(from, p, a.Epoch.Run, nil); err != nil {
		return err
	}
	s.demands[k] = &demand{from, s.Time + uint64(s.cfg.Params.AnswerWindow), false}
	s.emit(Event{Name: "Demanded", Run: a.Epoch.Run, Serial: p.Serial, Account: from, Side: a.Side, Index: a.Index})
	return s.entered(from, p, a.Epoch.Run)
}

func (s *State) answerReward(from Address, a AnswerReward) error {
	p, err := s.proposed(&a.Epoch)
	if err != nil {
		return err
	}
	if !VerifyProof(a.Epoch.Rewards, a.Reward.Leaf(a.Epoch.Run), a.Proof) {
		return refuse("BadProof")
	}
	return s.answer(from, p, demandKey{a.Epoch.Run, p.Serial, OfRewards, a.Reward.Index})
}

func (s *State) answerReceipt(from Address, a AnswerReceipt) error {
	p, err := s.proposed(&a.Epoch)
	if err != nil {
		return err
	}
	if !VerifyProof(a.Epoch.Receipts, s.book.Leaf(&a.Entry), a.Proof) {
		return refuse("BadProof")
	}
	return s.answer(from, p, demandKey{a.Epoch.Run, p.Serial, OfReceipts, a.Entry.Index})
}

// answer closes a demand. Its bond pays whoever showed the leaf.
func (s *State) answer(from Address, p *Proposal, k demandKey) error {
	d := s.demands[k]
	if d == nil || d.done {
		return refuse("NoDemand")
	}
	d.done = true
	delete(s.challenging, accountOf{k.run, d.challenger})
	p.Open--
	s.emit(Event{Name: "Answered", Run: k.run, Serial: p.Serial, Account: from, Side: k.side, Index: k.index})
	s.give(Disputes, from, s.cfg.ChallengeBond)
	return nil
}

func (s *State) expire(a Expire) error {
	p, err := s.proposed(&a.Epoch)
	if err != nil {
		return err
	}
	d := s.demands[demandKey{a.Epoch.Run, p.Serial, a.Side, a.Index}]
	switch {
	case d == nil || d.done:
		return refuse("NoDemand")
	case s.Time <= d.deadline:
		return refuse("TooEarly")
	}
	d.done = true
	s.give(Disputes, d.challenger, s.cfg.ChallengeBond)
	s.reject(a.Epoch.Run, d.challenger, true)
	return nil
}

func (s *State) reclaim(a Reclaim) error {
	p := s.proposal(a.Run)
	d := s.demands[demandKey{a.Run, a.Serial, a.Side, a.Index}]
	switch {
	case d == nil || d.done:
		return refuse("NoDemand")
	case p.Serial == a.Serial && p.Status == Proposed:
		return refuse("StillLive")
	}
	d.done = true
	s.give(Disputes, d.challenger, s.cfg.ChallengeBond)
	return nil
}

// Cases: a committee of all validators, by commit and reveal.

func (s *State) caseFor(run Hash) *Case {
	if s.cases[run] == nil {
		return &Case{Guilty: Int(0), Innocent: Int(0)}
	}
	return s.cases[run]
}

// current reports whether c is about the live proposal.
func (s *State) current(run Hash, c *Case) bool {
	p := s.proposal(run)
	return p.Serial == c.Serial && p.Status == Proposed
}

func (s *State) dispute(from Address, a Dispute) error {
	run := a.Epoch.Run
	p, err := s.proposed(&a.Epoch)
	if err != nil {
		return err
	}
	c := s.caseFor(run)
	stale := c.Stage != NoCase && c.Stage != Closed
	extra := Int(0)
	switch {
	case s.Time > p.Deadline:
		return refuse("TooLate")
	case c.Stage != NoCase && c.Serial == p.Serial:
		return refuse("CaseOpen")
	case stale:
		if c.Challenger == from {
			extra = add(extra, s.cfg.ChallengeBond)
		}
		if c.Appellant == from {
			extra = add(extra, s.cfg.ChallengeBond, s.cfg.ChallengeBond)
		}
	}
	if err := s.enter(from, p, run, extra); err != nil {
		return err
	}
	if stale {
		s.drop(c)
	}
	begin, _ := s.runs[run].Span(a.Epoch.Number)
	q := s.cfg.Params
	s.cases[run] = &Case{Challenger: from, Serial: p.Serial, Stage: Voting, Begin: begin, Guilty: Int(0), Innocent: Int(0),
		CommitEnd: s.Time + uint64(q.CommitWindow), RevealEnd: s.Time + uint64(q.CommitWindow) + uint64(q.RevealWindow), Evidence: a.Evidence}
	s.emit(Event{Name: "CaseOpened", Run: run, Serial: p.Serial, Account: from, Hash: a.Evidence})
	return s.entered(from, p, run)
}

func (s *State) voting(run Hash) (*Case, error) {
	c := s.caseFor(run)
	if c.Stage != Voting || !s.current(run, c) {
		return nil, refuse("WrongStage")
	}
	return c, nil
}

func (s *State) commitVote(from Address, a CommitVote) error {
	c, err := s.voting(a.Run)
	if err != nil {
		return err
	}
	if s.Time > c.CommitEnd {
		return refuse("TooLate")
	}
	voter, err := s.actorOf(from)
	if err != nil {
		return err
	}
	k := voteKey{a.Run, c.Serial, voter}
	switch {
	case !positive(s.weightAt(voter, c.Begin)):
		return refuse("NotVoter")
	case !s.commits[k].IsZero():
		return refuse("AlreadyVoted")
	}
	s.commits[k] = a.Hash
	return nil
}

func (s *State) revealVote(from Address, a RevealVote) error {
	c, err := s.voting(a.Run)
	if err != nil {
		return err
	}
	switch {
	case s.Time <= c.CommitEnd:
		return refuse("TooEarly")
	case s.Time > c.RevealEnd:
		return refuse("TooLate")
	}
	voter, err := s.actorOf(from)
	if err != nil {
		return err
	}
	k := voteKey{a.Run, c.Serial, voter}
	if s.commits[k].IsZero() || s.commits[k] != s.book.VoteHash(a.Run, c.Serial, voter, a.Guilty, a.Salt) {
		return refuse("BadReveal")
	}
	delete(s.commits, k)
	w := s.weightAt(voter, c.Begin)
	if a.Guilty {
		c.Guilty = add(c.Guilty, w)
	} else {
		c.Innocent = add(c.Innocent, w)
	}
	return nil
}

func (s *State) decide(run Hash) error {
	c, err := s.voting(run)
	if err != nil {
		return err
	}
	if s.Time <= c.RevealEnd {
		return refuse("TooEarly")
	}
	total := s.total[Validator].at(c.Begin)
	c.Stage, c.StageEnd = Decided, s.Time+uint64(s.cfg.Params.AppealWindow)
	switch {
	case twoThirds(c.Guilty, total):
		c.Verdict = Guilty
	case twoThirds(c.Innocent, total):
		c.Verdict = Innocent
	default:
		c.Stage, c.StageEnd = Appealed, s.Time+uint64(s.cfg.Params.RulingWindow)
	}
	s.emit(Event{Name: "CaseDecided", Run: run, Serial: c.Serial, Verdict: c.Verdict})
	return nil
}

func (s *State) appeal(from Address, run Hash) error {
	c := s.caseFor(run)
	switch {
	case c.Stage != Decided || !s.current(run, c):
		return refuse("WrongStage")
	case s.Time > c.StageEnd:
		return refuse("TooLate")
	}
	if err := s.take(from, Disputes, add(s.cfg.ChallengeBond, s.cfg.ChallengeBond)); err != nil {
		return err
	}
	c.Stage, c.Appellant, c.StageEnd = Appealed, from, s.Time+uint64(s.cfg.Params.RulingWindow)
	return nil
}

func (s *State) rule(from Address, a Rule) error {
	c := s.caseFor(a.Run)
	switch {
	case from != s.cfg.Governor:
		return refuse("NotGovernor")
	case c.Stage != Appealed || c.Serial != a.Serial || !s.current(a.Run, c):
		return refuse("WrongStage")
	case s.Time > c.StageEnd:
		return refuse("TooLate")
	}
	v := Innocent
	if a.Guilty {
		v = Guilty
	}
	changed := v != c.Verdict
	c.Verdict = v
	s.close(a.Run, c, changed)
	return nil
}

func (s *State) execute(run Hash) error {
	c := s.caseFor(run)
	switch {
	case c.Stage != Decided && c.Stage != Appealed || !s.current(run, c):
		return refuse("WrongStage")
	case s.Time <= c.StageEnd:
		return refuse("TooEarly")
	}
	s.close(run, c, false)
	return nil
}

// close carries out a verdict. The case's own bonds come first, as in the contract.
func (s *State) close(run Hash, c *Case, overturned bool) {
	bond := s.cfg.ChallengeBond
	c.Stage = Closed
	delete(s.challenging, accountOf{run, c.Challenger})
	if !c.Appellant.IsZero() {
		if overturned {
			s.give(Disputes, c.Appellant, add(bond, bond))
		} else {
			s.burn(Disputes, add(bond, bond))
		}
	}
	p := s.proposal(run)
	switch c.Verdict {
	case Guilty:
		s.give(Disputes, c.Challenger, bond)
		s.reject(run, c.Challenger, true)
	case Innocent:
		p.Open--
		reward := bps(bond, uint64(s.cfg.Params.ChallengerBps))
		s.give(Disputes, p.Proposer, reward)
		s.burn(Disputes, sub(bond, reward))
	default:
		half := new(bigInt).Rsh(bond, 1)
		s.burn(Disputes, sub(bond, half))
		s.give(Disputes, c.Challenger, half)
		s.reject(run, c.Challenger, false)
	}
}

func (s *State) punishAbsent(from Address, a PunishAbsent) error {
	c := s.caseFor(a.Run)
	k := voteKey{a.Run, c.Serial, a.Voter}
	if c.StageEnd == 0 || s.commits[k].IsZero() {
		return refuse("NotAbsent")
	}
	delete(s.commits, k)
	q := s.cfg.Params
	s.slash(a.Voter, Validator, bps(s.slashable(a.Voter, Validator), uint64(q.AbsentBps)), from, uint64(q.ChallengerBps))
	return nil
}

func (s *State) abandon(run Hash) error {
	c := s.caseFor(run)
	if c.Stage == NoCase || c.Stage == Closed || s.current(run, c) {
		return refuse("WrongStage")
	}
	s.drop(c)
	return nil
}

func (s *State) drop(c *Case) {
	c.Stage = Closed
	s.give(Disputes, c.Challenger, s.cfg.ChallengeBond)
	if !c.Appellant.IsZero() {
		s.give(Disputes, c.Appellant, add(s.cfg.ChallengeBond, s.cfg.ChallengeBond))
	}
}

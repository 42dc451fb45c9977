package chain

import "bytes"

func (s *State) proposal(run Hash) *Proposal {
	if s.proposals[run] == nil {
		return new(Proposal)
	}
	return s.proposals[run]
}

func (s *State) depositBond(from Address, a Amount) error {
	switch {
	case s.paused[Settlement]:
		return refuse("EnforcedPause")
	case !positive(a):
		return refuse("ZeroAmount")
	}
	if err := s.take(from, Settlement, a); err != nil {
		return err
	}
	s.bonds[from] = add(s.bonds[from], a)
	return nil
}

func (s *State) withdrawBond(from Address, a Amount) error {
	switch {
	case !positive(a):
		return refuse("ZeroAmount")
	case less(s.bonds[from], a):
		return refuse("NoBond")
	}
	s.bonds[from] = sub(s.bonds[from], a)
	s.give(Settlement, from, a)
	return nil
}

func (s *State) propose(from Address, e *Epoch) error {
	switch {
	case s.paused[Settlement]:
		return refuse("EnforcedPause")
	case s.proposal(e.Run).Status == Proposed:
		return refuse("AlreadyProposed")
	case e.Accounts == 0 || e.Count == 0:
		return refuse("EmptyTree")
	}
	begin, err := s.check(e)
	if err != nil {
		return err
	}
	if val(e.Total).Cmp(add(s.finals[e.Run].Total, add(e.Amounts[:]...))) != 0 {
		return refuse("WrongTotal")
	}
	account, err := s.actorOf(from)
	if err != nil {
		return err
	}
	st := s.stakeFor(account, Validator).active
	weight := lower(st.at(begin), st.last())
	if !positive(weight) || less(weight, s.cfg.Minimum) {
		return refuse("NotValidator")
	}
	if less(s.bonds[from], s.cfg.Bond) {
		return refuse("NoBond")
	}
	s.bonds[from] = sub(s.bonds[from], s.cfg.Bond)
	p := s.proposal(e.Run)
	s.proposals[e.Run] = &Proposal{Hash: e.Hash(), Proposer: from, Status: Proposed, Serial: p.Serial + 1,
		Deadline: s.Time + uint64(s.cfg.Params.ChallengeWindow)}
	s.emit(Event{Name: "Proposed", Run: e.Run, Account: from, Number: e.Number, Serial: p.Serial + 1, Epoch: e})
	return nil
}

// proposed returns the live proposal that is e.
func (s *State) proposed(e *Epoch) (*Proposal, error) {
	p := s.proposal(e.Run)
	switch {
	case p.Status != Proposed:
		return nil, refuse("NotProposed")
	case p.Hash != e.Hash():
		return nil, refuse("WrongHash")
	}
	return p, nil
}

func (s *State) unchallenged(e *Epoch) (*Proposal, error) {
	p, err := s.proposed(e)
	if err == nil && p.Open != 0 {
		err = refuse("Challenged")
	}
	return p, err
}

func (s *State) finalizeFast(a FinalizeFast) error {
	p, err := s.unchallenged(&a.Epoch)
	if err != nil {
		return err
	}
	begin, _ := s.runs[a.Epoch.Run].Span(a.Epoch.Number)
	sum, err := s.tally(s.book.EpochDigest(&a.Epoch), a.Sigs, begin)
	if err != nil {
		return err
	}
	if !twoThirds(sum, s.total[Validator].at(begin)) {
		return refuse("TooFewVotes")
	}
	s.finish(p, &a.Epoch, true)
	return nil
}

// tally is the weight, at a time, of the owners of the hot keys that signed.
func (s *State) tally(digest Hash, sigs [][]byte, begin uint64) (sum Amount, err error) {
	signers := make([]Address, len(sigs))
	for i, sig := range sigs {
		if signers[i], err = Recover(digest, sig); err != nil {
			return nil, refuse("BadSignature")
		}
	}
	sum, last := Int(0), Address{}
	for _, key := range signers {
		k := s.keys[key]
		if k.Owner.IsZero() || k.Until != 0 {
			return nil, refuse("KeyUnknown")
		}
		if bytes.Compare(k.Owner[:], last[:]) <= 0 {
			return nil, refuse("Unordered")
		}
		last = k.Owner
		sum = add(sum, s.weightAt(k.Owner, begin))
	}
	return sum, nil
}

// twoThirds reports whether part is at least 2/3 of total, and total not zero.
func twoThirds(part, total Amount) bool {
	return positive(total) && !less(add(part, part, part), add(total, total))
}

func (s *State) finalize(e *Epoch) error {
	p, err := s.unchallenged(e)
	if err != nil {
		return err
	}
	if s.Time <= p.Deadline {
		return refuse("TooEarly")
	}
	s.finish(p, e, false)
	return nil
}

func (s *State) finish(p *Proposal, e *Epoch, fast bool) {
	p.Status = Finalized
	s.finals[e.Run] = Final{e.Rewards, e.Total, e.Number}
	r, sum := s.runs[e.Run], add(e.Amounts[:]...)
	r.Pool, r.Unclaimed = sub(r.Pool, sum), add(r.Unclaimed, sum)
	s.emit(Event{Name: "Finalized", Run: e.Run, Number: e.Number, Hash: e.Rewards, Amount: e.Total, Fast: fast})
	s.bonds[p.Proposer] = add(s.bonds[p.Proposer], s.cfg.Bond)
}

func (s *State) claim(a Claim) error {
	if !VerifyProof(s.finals[a.Run].Rewards, a.Reward.Leaf(a.Run), a.Proof) {
		return refuse("BadProof")
	}
	k := accountOf{a.Run, a.Reward.Account}
	due := sub(a.Reward.Amount, s.claimed[k])
	if !positive(due) {
		return refuse("NothingToClaim")
	}
	r := s.runs[a.Run]
	if less(r.Unclaimed, due) {
		return refuse("OverBudget")
	}
	s.claimed[k] = a.Reward.Amount
	r.Unclaimed = sub(r.Unclaimed, due)
	s.emit(Event{Name: "Claimed", Run: a.Run, Account: a.Reward.Account, Amount: due})
	s.give(Runs, a.Reward.Account, due)
	return nil
}

// reject ends a live proposal; with guilty its bond and a part of its stake are
// lost.
func (s *State) reject(run Hash, challenger Address, guilty bool) {
	p := s.proposal(run)
	p.Status = Rejected
	s.emit(Event{Name: "Rejected", Run: run, Serial: p.Serial, Account: p.Proposer, Guilty: guilty})
	if !guilty {
		s.bonds[p.Proposer] = add(s.bonds[p.Proposer], s.cfg.Bond)
		return
	}
	cut := uint64(s.cfg.Params.ChallengerBps)
	reward := bps(s.cfg.Bond, cut)
	s.give(Settlement, challenger, reward)
	s.burn(Settlement, sub(s.cfg.Bond, reward))
	account := s.accountOf(p.Proposer)
	s.slash(account, Validator, bps(s.slashable(account, Validator), uint64(s.cfg.Params.SlashBps)), challenger, cut)
}

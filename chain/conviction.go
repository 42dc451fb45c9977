package chain

// What a conviction may cost, as in the contract.
const (
	// MaxConvictionBps bounds Conviction.Bps.
	MaxConvictionBps = 5_000
	// poolBps is the part of what is slashed that goes to the pool of the run
	// that was harmed; the rest is burned, and nobody who judges gets any.
	poolBps = 5_000
)

// A Conviction is what the validators of a run say of one of its peers, once a
// final commit has convicted it. Signed by two thirds of the validators' stake
// it is reported on the chain, where the accused may appeal to governance, and
// is then carried out.
type Conviction struct {
	Run      Hash    `json:"run"`
	Key      Address `json:"key"`      // the peer's
	Subject  Hash    `json:"subject"`  // digest of the CID of the work that was wrong: an offence is punished once
	Evidence Hash    `json:"evidence"` // digest of the CID of what `shoal audit verify` runs again
	Bps      uint16  `json:"bps"`      // parts per 10,000 of each of the account's stakes
}

var convictionType = keccak([]byte("Conviction(bytes32 run,address key,bytes32 subject,bytes32 evidence,uint16 bps)"))

// ID names the offence: a run, a key and a subject, whatever the evidence.
func (c *Conviction) ID() Hash { return keccak(c.Run[:], pad(c.Key[:]), c.Subject[:]) }

// ConvictionDigest returns what a validator's hot key signs.
func (b Book) ConvictionDigest(c *Conviction) Hash {
	return b.typed(Convictions, keccak(convictionType[:], c.Run[:], pad(c.Key[:]), c.Subject[:], c.Evidence[:], word(uint64(c.Bps))))
}

// A Phase of a conviction on the chain.
type Phase uint8

// Phases as Convictions.Phase numbers them.
const (
	NotReported Phase = iota
	Reported          // the accused may appeal
	UnderAppeal       // governance may rule
	Dismissed         // governance has: nothing is slashed, ever
	Punished          // the stake is slashed
)

func (p Phase) String() string {
	if p > Punished {
		return "unknown"
	}
	return [...]string{"not reported", "reported", "under appeal", "dismissed", "punished"}[p]
}

// A Sentence is where a conviction stands on the chain.
type Sentence struct {
	Run      Hash    `json:"run"`
	Account  Address `json:"account"` // whose stake answers for the key
	Deadline uint64  `json:"deadline"`
	Bps      uint16  `json:"bps"`
	Phase    Phase   `json:"phase"`
}

// Convictions: Convictions, which must be approved for the bond of an appeal.
type (
	// Convict is Convictions.convict; Sigs are by hot keys of validators over
	// Book.ConvictionDigest, ascending by the keys' owners.
	Convict struct {
		Conviction Conviction
		Sigs       [][]byte
	}
	// AppealConviction is Convictions.appeal, by the accused or its key.
	AppealConviction struct{ ID Hash }
	// RuleConviction is Convictions.rule, for the governor.
	RuleConviction struct {
		ID     Hash
		Guilty bool
	}
	// ExecuteConviction is Convictions.execute.
	ExecuteConviction struct{ ID Hash }
)

// Target returns the contract that the action calls.
func (Convict) Target() Contract           { return Convictions }
func (AppealConviction) Target() Contract  { return Convictions }
func (RuleConviction) Target() Contract    { return Convictions }
func (ExecuteConviction) Target() Contract { return Convictions }

func (s *State) sentence(id Hash) *Sentence {
	if s.sentences[id] == nil {
		return new(Sentence)
	}
	return s.sentences[id]
}

func (s *State) convict(a Convict) error {
	c := &a.Conviction
	id := c.ID()
	r := s.runs[c.Run]
	switch {
	case s.sentence(id).Phase != NotReported:
		return refuse("AlreadyConvicted")
	case c.Bps == 0 || c.Bps > MaxConvictionBps:
		return refuse("BadConviction")
	case r == nil:
		return refuse("RunUnknown")
	case s.Time < r.Start:
		return refuse("TooEarly")
	}
	begin, _ := r.Span(r.EpochAt(s.Time))
	sum, err := s.tally(s.book.ConvictionDigest(c), a.Sigs, begin)
	if err != nil {
		return err
	}
	// Both of the totals: neither who has staked just now nor who once was
	// nearly alone may convict.
	total := s.total[Validator].at(begin)
	if less(total, s.total[Validator].last()) {
		total = s.total[Validator].last()
	}
	if !twoThirds(sum, total) {
		return refuse("TooFewVotes")
	}
	account, err := s.answerable(c.Key)
	if err != nil {
		return err
	}
	x := &Sentence{Run: c.Run, Account: account, Deadline: s.Time + uint64(s.cfg.Params.AppealWindow), Bps: c.Bps, Phase: Reported}
	s.sentences[id] = x
	s.emit(Event{Name: "Convicted", Run: c.Run, Account: account, Key: c.Key, Hash: id})
	return nil
}

func (s *State) appealConviction(from Address, id Hash) error {
	x := s.sentence(id)
	switch {
	case x.Phase != Reported:
		return refuse("WrongPhase")
	case s.Time > x.Deadline:
		return refuse("TooLate")
	case s.accountOf(from) != x.Account:
		return refuse("NotAccused")
	}
	if err := s.take(from, Convictions, s.appealBond()); err != nil {
		return err
	}
	x.Phase, x.Deadline = UnderAppeal, s.Time+uint64(s.cfg.Params.RulingWindow)
	s.appellants[id] = from
	s.emit(Event{Name: "ConvictionAppealed", Run: x.Run, Account: x.Account, Hash: id})
	return nil
}

// appealBond is twice a challenger's, as in Disputes.
func (s *State) appealBond() Amount { return add(s.cfg.ChallengeBond, s.cfg.ChallengeBond) }

func (s *State) ruleConviction(from Address, a RuleConviction) error {
	x := s.sentence(a.ID)
	switch {
	case from != s.cfg.Governor:
		return refuse("NotGovernor")
	case x.Phase != UnderAppeal:
		return refuse("WrongPhase")
	case s.Time > x.Deadline:
		return refuse("TooLate")
	}
	if a.Guilty {
		s.punish(a.ID, x)
		return nil
	}
	x.Phase = Dismissed
	s.emit(Event{Name: "ConvictionClosed", Run: x.Run, Account: x.Account, Hash: a.ID, Amount: Int(0)})
	s.give(Convictions, s.appellants[a.ID], s.appealBond())
	return nil
}

func (s *State) executeConviction(id Hash) error {
	x := s.sentence(id)
	switch {
	case x.Phase != Reported && x.Phase != UnderAppeal:
		return refuse("WrongPhase")
	case s.Time <= x.Deadline:
		return refuse("TooEarly")
	}
	s.punish(id, x)
	return nil
}

// punish slashes. An appeal that did not help costs its bond.
func (s *State) punish(id Hash, x *Sentence) {
	if x.Phase == UnderAppeal {
		s.burn(Convictions, s.appealBond())
	}
	x.Phase = Punished
	at, taken, part := s.book.Contracts[Convictions], Int(0), Int(0)
	for role := Trainer; role <= Validator; role++ {
		n := bps(s.slashable(x.Account, role), uint64(x.Bps))
		if !positive(n) {
			continue
		}
		s.slash(x.Account, role, n, at, poolBps)
		taken, part = add(taken, n), add(part, bps(n, poolBps))
	}
	if positive(part) {
		r := s.runs[x.Run]
		if r.Ended == 0 && !r.Paused && !s.paused[Runs] {
			s.give(Convictions, s.book.Contracts[Runs], part)
			r.Pool = add(r.Pool, part)
			s.emit(Event{Name: "Funded", Run: x.Run, Account: at, Amount: part})
		} else {
			s.burn(Convictions, part)
		}
	}
	s.emit(Event{Name: "ConvictionClosed", Run: x.Run, Account: x.Account, Hash: id, Guilty: true, Amount: taken})
}

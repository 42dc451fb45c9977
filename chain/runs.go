package chain

const (
	minLength = 10
	maxLength = 30 * 24 * 3600
	year      = 365 * 24 * 3600
)

type runState struct {
	Run
	rates  []rateFrom
	shares shares
}

type rateFrom struct {
	epoch uint64
	rate  Rate
}

func (r *runState) rateAt(epoch uint64) Rate {
	for i := len(r.rates) - 1; i >= 0; i-- {
		if r.rates[i].epoch <= epoch {
			return r.rates[i].rate
		}
	}
	return Rate{Budget: Int(0)}
}

func (r *runState) setRate(epoch uint64, rate Rate) error {
	sum := 0
	for _, p := range rate.Split {
		sum += int(p)
	}
	if sum != 10_000 {
		return refuse("BadTerms")
	}
	if n := len(r.rates); n > 0 && r.rates[n-1].epoch == epoch {
		r.rates[n-1].rate = rate
		return nil
	}
	r.rates = append(r.rates, rateFrom{epoch, rate})
	return nil
}

// EpochAt is the epoch that runs at time t, from 1; 0 before the first.
func (r *Run) EpochAt(t uint64) uint64 {
	if t < r.Start || r.Length == 0 {
		return 0
	}
	return (t-r.Start)/r.Length + 1
}

// Span is [begin, end) of epoch n, which is 1 or more.
func (r *Run) Span(n uint64) (begin, end uint64) {
	begin = r.Start + (n-1)*r.Length
	return begin, begin + r.Length
}

func (s *State) publish(from Address, a Publish) (Hash, error) {
	id := RunID(a.Manifest, from)
	switch {
	case s.paused[Runs]:
		return id, refuse("EnforcedPause")
	case s.runs[id] != nil:
		return id, refuse("RunExists")
	case a.Start < s.Time || a.Start > s.Time+year || a.Length < minLength || a.Length > maxLength || a.Royalty > 10_000:
		return id, refuse("BadTerms")
	}
	r := &runState{Run: Run{Sponsor: from, Start: a.Start, Length: a.Length, Royalty: a.Royalty,
		Pool: Int(0), Unclaimed: Int(0), Shares: a.Shares, Manifest: a.Manifest}, shares: newShares()}
	if !a.Shares {
		r.Royalty = 0
	}
	if err := r.setRate(1, a.Rate); err != nil {
		return id, err
	}
	s.runs[id] = r
	s.emit(Event{Name: "Published", Run: id, Account: from, Hash: a.Manifest})
	return id, nil
}

func (s *State) sponsored(from Address, id Hash) (*runState, error) {
	r := s.runs[id]
	if r == nil || r.Sponsor != from {
		return nil, refuse("NotSponsor")
	}
	return r, nil
}

func (s *State) setRate(from Address, a SetRate) error {
	r, err := s.sponsored(from, a.Run)
	if err != nil {
		return err
	}
	if r.Ended != 0 {
		return refuse("RunEnded")
	}
	return r.setRate(r.EpochAt(s.Time)+1, a.Rate)
}

func (s *State) fund(from Address, a Fund) error {
	r := s.runs[a.Run]
	switch {
	case s.paused[Runs]:
		return refuse("EnforcedPause")
	case r == nil:
		return refuse("RunUnknown")
	case r.Ended != 0:
		return refuse("RunEnded")
	case r.Paused:
		return refuse("RunPaused")
	case !positive(a.Amount):
		return refuse("ZeroAmount")
	}
	if err := s.take(from, Runs, a.Amount); err != nil {
		return err
	}
	r.Pool = add(r.Pool, a.Amount)
	s.emit(Event{Name: "Funded", Run: a.Run, Account: from, Amount: a.Amount})
	return nil
}

func (s *State) pauseRun(from Address, a PauseRun) error {
	r, err := s.sponsored(from, a.Run)
	if err != nil {
		return err
	}
	if r.Ended != 0 {
		return refuse("RunEnded")
	}
	r.Paused = a.Paused
	return nil
}

func (s *State) endRun(from Address, id Hash) error {
	r, err := s.sponsored(from, id)
	if err != nil {
		return err
	}
	if r.Ended != 0 {
		return refuse("RunEnded")
	}
	r.Ended, r.Paused = s.Time, false
	return nil
}

func (s *State) refund(id Hash) error {
	r := s.runs[id]
	switch {
	case r == nil:
		return refuse("RunUnknown")
	case r.Ended == 0 || s.Time <= r.Ended+r.Length+s.cfg.ClaimWindow:
		return refuse("TooEarly")
	case s.proposal(id).Status == Proposed:
		return refuse("RunLive")
	case !positive(r.Pool):
		return refuse("NothingToRefund")
	}
	s.give(Runs, r.Sponsor, r.Pool)
	r.Pool = Int(0)
	return nil
}

// check is Runs.check: when the epoch began, if such a proposal is in order.
func (s *State) check(e *Epoch) (begin uint64, err error) {
	r := s.runs[e.Run]
	switch {
	case r == nil:
		return 0, refuse("RunUnknown")
	case e.Number <= s.finals[e.Run].Epoch || e.Number >= 1<<48:
		return 0, refuse("WrongEpoch")
	case r.Paused:
		return 0, refuse("RunPaused")
	case s.paused[Runs]:
		return 0, refuse("EnforcedPause")
	}
	begin, end := r.Span(e.Number)
	switch {
	case s.Time < end:
		return 0, refuse("TooEarly")
	case r.Ended != 0 && (begin >= r.Ended || s.Time > r.Ended+r.Length+s.cfg.ClaimWindow):
		return 0, refuse("RunEnded")
	}
	rate := r.rateAt(e.Number)
	for i, a := range e.Amounts {
		if less(bps(rate.Budget, uint64(rate.Split[i])), a) {
			return 0, refuse("OverBudget")
		}
	}
	sum := add(e.Amounts[:]...)
	if less(r.Pool, sum) || add(sum, r.Unclaimed).BitLen() > 96 {
		return 0, refuse("OverBudget")
	}
	return begin, nil
}

package chain

// shares are the ownership of one run and the revenue that belongs to it.
type shares struct {
	supply   Amount
	balance  map[Address]Amount
	minted   map[Address]Amount
	held     Amount // revenue in the contract
	waiting  Amount // revenue from before there was a share
	perShare Amount // cumulative revenue of one share, times 2^96
	rest     Amount // revenue times 2^96 that did not divide
	seen     map[Address]Amount
	owed     map[Address]Amount
}

func newShares() shares {
	return shares{supply: Int(0), held: Int(0), waiting: Int(0), perShare: Int(0), rest: Int(0), balance: map[Address]Amount{},
		minted: map[Address]Amount{}, seen: map[Address]Amount{}, owed: map[Address]Amount{}}
}

func (h *shares) due(a Address) Amount {
	x := new(bigInt).Mul(val(h.balance[a]), sub(h.perShare, h.seen[a]))
	return add(h.owed[a], x.Rsh(x, 96))
}

func (h *shares) settle(a Address) { h.owed[a], h.seen[a] = h.due(a), h.perShare }

func (h *shares) distribute(a Amount) {
	h.held, h.waiting = add(h.held, a), add(h.waiting, a)
	if !positive(h.supply) {
		return
	}
	x := add(new(bigInt).Lsh(h.waiting, 96), h.rest)
	q, r := new(bigInt).QuoRem(x, h.supply, new(bigInt))
	h.waiting, h.perShare, h.rest = Int(0), add(h.perShare, q), r
}

// shareBook is the account of a run's share contract in memory.
func shareBook(run Hash) Address {
	h := keccak([]byte("shares"), run[:])
	return Address(h[12:])
}

func (s *State) sharesFor(run Hash) (*shares, error) {
	r := s.runs[run]
	if r == nil || !r.Shares {
		return nil, refuse("NoShares")
	}
	return &r.shares, nil
}

func (s *State) mintShares(a MintShares) error {
	h, err := s.sharesFor(a.Run)
	if err != nil {
		return err
	}
	earned := s.claimed[accountOf{a.Run, a.Account}]
	n := sub(earned, h.minted[a.Account])
	if !positive(n) {
		return refuse("NothingToMint")
	}
	h.settle(a.Account)
	h.minted[a.Account] = earned
	h.supply, h.balance[a.Account] = add(h.supply, n), add(h.balance[a.Account], n)
	return nil
}

func (s *State) transferShares(from Address, a TransferShares) error {
	h, err := s.sharesFor(a.Run)
	switch {
	case err != nil:
		return err
	case a.To.IsZero():
		return refuse("ERC20InvalidReceiver")
	case less(h.balance[from], a.Amount):
		return refuse("ERC20InsufficientBalance")
	}
	h.settle(from)
	h.settle(a.To)
	h.balance[from] = sub(h.balance[from], a.Amount)
	h.balance[a.To] = add(h.balance[a.To], a.Amount)
	return nil
}

func (s *State) collect(a Collect) error {
	h, err := s.sharesFor(a.Run)
	if err != nil {
		return err
	}
	due := h.due(a.Holder)
	if !positive(due) {
		return refuse("NothingToCollect")
	}
	h.settle(a.Holder)
	h.owed[a.Holder] = Int(0)
	h.held = sub(h.held, due)
	at := shareBook(a.Run)
	s.balance[at] = sub(s.balance[at], due)
	s.balance[a.Holder] = add(s.balance[a.Holder], due)
	return nil
}

// Paid inference.

func (s *State) openChannel(from Address, a OpenChannel) (Hash, error) {
	r := s.runs[a.Run]
	switch {
	case s.paused[Vouchers]:
		return Hash{}, refuse("EnforcedPause")
	case r == nil:
		return Hash{}, refuse("RunUnknown")
	case !positive(a.Amount):
		return Hash{}, refuse("ZeroAmount")
	}
	if err := s.take(from, Vouchers, a.Amount); err != nil {
		return Hash{}, err
	}
	s.opened++
	id := keccak(a.Run[:], pad(from[:]), pad(a.Provider[:]), word(s.opened))
	s.channels[id] = &Channel{Payer: from, Royalty: r.Royalty, Provider: a.Provider, Run: a.Run, Deposit: a.Amount, Redeemed: Int(0), Due: Int(0)}
	return id, nil
}

func (s *State) topUp(from Address, a TopUp) error {
	c := s.channels[a.Channel]
	switch {
	case s.paused[Vouchers]:
		return refuse("EnforcedPause")
	case c == nil:
		return refuse("NoChannel")
	case !positive(a.Amount):
		return refuse("ZeroAmount")
	}
	if err := s.take(from, Vouchers, a.Amount); err != nil {
		return err
	}
	c.Deposit = add(c.Deposit, a.Amount)
	return nil
}

func (s *State) redeem(a Redeem) error {
	c := s.channels[a.Channel]
	switch {
	case c == nil:
		return refuse("NoChannel")
	case !less(c.Redeemed, a.Cumulative):
		return refuse("NothingToRedeem")
	case less(c.Deposit, a.Cumulative):
		return refuse("OverDeposit")
	}
	if who, err := Recover(s.book.VoucherDigest(a.Channel, a.Cumulative), a.Sig); err != nil || who != c.Payer {
		return refuse("BadSignature")
	}
	amount := sub(a.Cumulative, c.Redeemed)
	royalty := bps(amount, uint64(c.Royalty))
	c.Redeemed = a.Cumulative
	c.Due = add(c.Due, royalty)
	s.give(Vouchers, c.Provider, sub(amount, royalty))
	return nil
}

func (s *State) requestClose(from Address, id Hash) error {
	c := s.channels[id]
	switch {
	case c == nil:
		return refuse("NoChannel")
	case from != c.Payer:
		return refuse("NotPayer")
	}
	if c.ClosesAt == 0 {
		c.ClosesAt = s.Time + s.cfg.CloseDelay
	}
	return nil
}

func (s *State) closeChannel(from Address, id Hash) error {
	c := s.channels[id]
	switch {
	case c == nil:
		return refuse("NoChannel")
	case from != c.Provider && (c.ClosesAt == 0 || s.Time <= c.ClosesAt):
		return refuse("TooEarly")
	}
	delete(s.channels, id)
	s.royalties[c.Run] = add(s.royalties[c.Run], c.Due)
	s.give(Vouchers, c.Payer, sub(c.Deposit, c.Redeemed))
	return nil
}

func (s *State) flush(f Flush) error {
	a := val(s.royalties[f.Run])
	seen := map[Hash]bool{}
	for _, id := range f.Channels {
		c := s.channels[id]
		switch {
		case c == nil:
			return refuse("NoChannel")
		case c.Run != f.Run:
			return refuse("WrongRun")
		}
		if !seen[id] {
			a, seen[id] = add(a, c.Due), true
		}
	}
	if !positive(a) {
		return refuse("NothingToFlush")
	}
	for id := range seen {
		s.channels[id].Due = Int(0)
	}
	delete(s.royalties, f.Run)
	from, to := s.book.Contracts[Vouchers], shareBook(f.Run)
	s.balance[from], s.balance[to] = sub(s.balance[from], a), add(s.balance[to], a)
	s.runs[f.Run].shares.distribute(a)
	return nil
}

package chain

const maxUnbondings = 10

type stake struct {
	active  trace
	leaving []Unbonding
}

func (s *State) stakeFor(a Address, role uint8) *stake {
	k := stakeKey{a, role}
	if s.stakes[k] == nil {
		s.stakes[k] = new(stake)
	}
	return s.stakes[k]
}

func (s *State) setActive(a Address, role uint8, v Amount) {
	st := s.stakeFor(a, role)
	s.total[role].push(s.Time, add(s.total[role].last(), sub(v, st.active.last())))
	st.active.push(s.Time, v)
}

func (s *State) stake(from Address, a Stake) error {
	switch {
	case a.Role > Validator:
		return refuse("BadRole")
	case s.paused[Staking]:
		return refuse("EnforcedPause")
	case !positive(a.Amount):
		return refuse("ZeroAmount")
	case !s.keys[from].Owner.IsZero() && s.keys[from].Owner != from:
		return refuse("KeyTaken")
	}
	if err := s.take(from, Staking, a.Amount); err != nil {
		return err
	}
	s.setActive(from, a.Role, add(s.stakeFor(from, a.Role).active.last(), a.Amount))
	return nil
}

func (s *State) unbond(from Address, a Unbond) error {
	switch {
	case a.Role > Validator:
		return refuse("BadRole")
	case !positive(a.Amount):
		return refuse("ZeroAmount")
	}
	st := s.stakeFor(from, a.Role)
	switch {
	case less(st.active.last(), a.Amount):
		return refuse("NotEnoughStake")
	case len(st.leaving) >= maxUnbondings:
		return refuse("TooManyUnbondings")
	}
	s.setActive(from, a.Role, sub(st.active.last(), a.Amount))
	st.leaving = append(st.leaving, Unbonding{a.Amount, s.Time + s.cfg.UnbondDelay})
	return nil
}

func (s *State) withdraw(from Address, role uint8) error {
	if role > Validator {
		return refuse("BadRole")
	}
	st := s.stakeFor(from, role)
	var kept []Unbonding
	out := Int(0)
	for _, u := range st.leaving {
		if u.Matures <= s.Time {
			out = add(out, u.Amount)
		} else {
			kept = append(kept, u)
		}
	}
	if len(kept) == len(st.leaving) {
		return refuse("NothingMatured")
	}
	st.leaving = kept
	s.give(Staking, from, out)
	return nil
}

func (s *State) registerKey(from Address, a RegisterKey) error {
	_, taken := s.keys[a.Key]
	switch {
	case s.Time > a.Deadline:
		return refuse("Expired")
	case taken, a.Key != from && len(s.stakeFor(a.Key, Trainer).active)+len(s.stakeFor(a.Key, Validator).active) > 0:
		return refuse("KeyTaken")
	}
	who, err := Recover(s.book.KeyDigest(from, a.Key, s.nonces[from], a.Deadline), a.Sig)
	if err != nil || who != a.Key {
		return refuse("BadSignature")
	}
	s.nonces[from]++
	s.keys[a.Key] = KeyInfo{Owner: from, From: s.Time}
	s.emit(Event{Name: "KeyRegistered", Account: from, Key: a.Key})
	return nil
}

func (s *State) revokeKey(from, key Address) error {
	k, ok := s.keys[key]
	if !ok || k.Owner != from || k.Until != 0 {
		return refuse("KeyUnknown")
	}
	k.Until = s.Time
	s.keys[key] = k
	s.emit(Event{Name: "KeyRevoked", Account: from, Key: key})
	return nil
}

// accountOf is whom a key acts, or acted, for; itself if it is no key.
func (s *State) accountOf(who Address) Address {
	if k, ok := s.keys[who]; ok {
		return k.Owner
	}
	return who
}

// actorOf is whom a key acts for now.
func (s *State) actorOf(who Address) (Address, error) {
	k, ok := s.keys[who]
	if !ok || k.Owner == who {
		return who, nil
	}
	if k.Until != 0 {
		return who, refuse("KeyUnknown")
	}
	return k.Owner, nil
}

// answerable is who answers for what a key has signed.
func (s *State) answerable(key Address) (Address, error) {
	if k := s.keys[key]; k.Owner != key && k.Until != 0 && s.Time > k.Until+s.cfg.UnbondDelay {
		return key, refuse("KeyUnknown")
	}
	return s.accountOf(key), nil
}

// Served reports whether the key served at some time in [from, to).
func (k KeyInfo) Served(from, to uint64) bool {
	return !k.Owner.IsZero() && k.From < to && (k.Until == 0 || k.Until > from)
}

// Slashable is what a slash can still reach.
func (i StakeInfo) Slashable() Amount {
	sum := val(i.Active)
	for _, u := range i.Leaving {
		sum = add(sum, u.Amount)
	}
	return sum
}

func (s *State) slashable(a Address, role uint8) Amount {
	st := s.stakeFor(a, role)
	return StakeInfo{st.active.last(), st.leaving}.Slashable()
}

// weightAt is a validator's weight in an epoch that began at t: its stake then,
// as far as it can still be lost.
func (s *State) weightAt(a Address, t uint64) Amount {
	return lower(s.stakeFor(a, Validator).active.at(t), s.slashable(a, Validator))
}

func (s *State) slash(account Address, role uint8, amount Amount, to Address, rewardBps uint64) {
	st := s.stakeFor(account, role)
	taken := lower(amount, st.active.last())
	if positive(taken) {
		s.setActive(account, role, sub(st.active.last(), taken))
	}
	for i := range st.leaving {
		part := lower(st.leaving[i].Amount, sub(amount, taken))
		st.leaving[i].Amount = sub(st.leaving[i].Amount, part)
		taken = add(taken, part)
	}
	reward := bps(taken, rewardBps)
	s.emit(Event{Name: "Slashed", Account: account, Amount: taken})
	s.give(Staking, to, reward)
	s.burn(Staking, sub(taken, reward))
}

package chain

import (
	"context"
	"slices"
	"sync"
)

// Memory is a Ledger in memory: State behind a mutex, safe at once and gone
// with the process. Simulations and tests run on it.
type Memory struct {
	mu    sync.Mutex
	state *State // guarded by mu
}

// MemoryBook gives the contracts of a ledger in memory addresses of their own.
func MemoryBook(chainID uint64) Book {
	b := Book{ChainID: chainID, Contracts: map[Contract]Address{}}
	for _, c := range []Contract{Token, Council, Timelock, Staking, ShareFactory, Runs, Settlement, Disputes, Equivocation, Vouchers, Convictions} {
		h := keccak([]byte(c))
		b.Contracts[c] = Address(h[12:])
	}
	return b
}

// NewMemory returns a ledger just after a deployment at time now.
func NewMemory(cfg Config, book Book, now uint64) (*Memory, error) {
	s, err := NewState(cfg, book, now)
	if err != nil {
		return nil, err
	}
	return &Memory{state: s}, nil
}

// Advance moves the ledger's time on by a number of seconds.
func (m *Memory) Advance(seconds uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Time += seconds
}

// Book implements Ledger.
func (m *Memory) Book() Book { return m.state.book }

// Do implements Ledger.
func (m *Memory) Do(ctx context.Context, from Address, a Action) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Apply(from, a)
}

// Events implements Ledger. A cursor's Block counts the events read.
func (m *Memory) Events(_ context.Context, c Cursor) ([]Event, Cursor, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.Block > uint64(len(m.state.events)) {
		return nil, c, ErrRewritten
	}
	es := slices.Clone(m.state.events[c.Block:])
	c.Block += uint64(len(es))
	return es, c, nil
}

func read[T any](m *Memory, f func(s *State) (T, error)) (T, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f(m.state)
}

// Now implements Ledger.
func (m *Memory) Now(context.Context) (uint64, error) {
	return read(m, func(s *State) (uint64, error) { return s.Time, nil })
}

// Run implements Ledger.
func (m *Memory) Run(_ context.Context, id Hash) (Run, error) {
	return read(m, func(s *State) (Run, error) {
		if r := s.runs[id]; r != nil {
			return r.Run, nil
		}
		return Run{}, refuse("RunUnknown")
	})
}

// RateAt implements Ledger.
func (m *Memory) RateAt(_ context.Context, run Hash, epoch uint64) (Rate, error) {
	return read(m, func(s *State) (Rate, error) {
		if r := s.runs[run]; r != nil {
			return r.rateAt(epoch), nil
		}
		return Rate{Budget: Int(0)}, nil
	})
}

// Proposal implements Ledger.
func (m *Memory) Proposal(_ context.Context, run Hash) (Proposal, error) {
	return read(m, func(s *State) (Proposal, error) { return *s.proposal(run), nil })
}

// Final implements Ledger.
func (m *Memory) Final(_ context.Context, run Hash) (Final, error) {
	return read(m, func(s *State) (Final, error) {
		f := s.finals[run]
		f.Total = val(f.Total)
		return f, nil
	})
}

// Claimed implements Ledger.
func (m *Memory) Claimed(_ context.Context, run Hash, account Address) (Amount, error) {
	return read(m, func(s *State) (Amount, error) { return val(s.claimed[accountOf{run, account}]), nil })
}

// Bonds implements Ledger.
func (m *Memory) Bonds(_ context.Context, account Address) (Amount, error) {
	return read(m, func(s *State) (Amount, error) { return val(s.bonds[account]), nil })
}

// Balance implements Ledger.
func (m *Memory) Balance(_ context.Context, account Address) (Amount, error) {
	return read(m, func(s *State) (Amount, error) { return val(s.balance[account]), nil })
}

// StakeOf implements Ledger.
func (m *Memory) StakeOf(_ context.Context, account Address, role uint8) (StakeInfo, error) {
	return read(m, func(s *State) (StakeInfo, error) {
		st := s.stakeFor(account, role)
		return StakeInfo{st.active.last(), slices.Clone(st.leaving)}, nil
	})
}

// TotalStake implements Ledger.
func (m *Memory) TotalStake(_ context.Context, role uint8) (Amount, error) {
	return read(m, func(s *State) (Amount, error) { return s.total[role&1].last(), nil })
}

// Weight implements Ledger.
func (m *Memory) Weight(_ context.Context, account Address, begin uint64) (weight, total Amount, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.weightAt(account, begin), m.state.total[Validator].at(begin), nil
}

// Key implements Ledger.
func (m *Memory) Key(_ context.Context, key Address) (KeyInfo, error) {
	return read(m, func(s *State) (KeyInfo, error) { return s.keys[key], nil })
}

// KeyNonce implements Ledger.
func (m *Memory) KeyNonce(_ context.Context, owner Address) (uint64, error) {
	return read(m, func(s *State) (uint64, error) { return s.nonces[owner], nil })
}

// Case implements Ledger.
func (m *Memory) Case(_ context.Context, run Hash) (Case, error) {
	return read(m, func(s *State) (Case, error) { return *s.caseFor(run), nil })
}

// Committed implements Ledger.
func (m *Memory) Committed(_ context.Context, run Hash, voter Address) (Hash, error) {
	return read(m, func(s *State) (Hash, error) { return s.commits[voteKey{run, s.caseFor(run).Serial, voter}], nil })
}

// Sentence implements Ledger.
func (m *Memory) Sentence(_ context.Context, id Hash) (Sentence, error) {
	return read(m, func(s *State) (Sentence, error) { return *s.sentence(id), nil })
}

// SharesOf implements Ledger.
func (m *Memory) SharesOf(_ context.Context, run Hash, account Address) (ShareInfo, error) {
	return read(m, func(s *State) (ShareInfo, error) {
		h, err := s.sharesFor(run)
		if err != nil {
			return ShareInfo{}, err
		}
		return ShareInfo{val(h.balance[account]), h.supply, val(h.minted[account]), h.due(account)}, nil
	})
}

// Channel implements Ledger.
func (m *Memory) Channel(_ context.Context, id Hash) (Channel, error) {
	return read(m, func(s *State) (Channel, error) {
		if c := s.channels[id]; c != nil {
			return *c, nil
		}
		return Channel{}, refuse("NoChannel")
	})
}

// Params implements Ledger.
func (m *Memory) Params(context.Context) (Params, error) {
	return read(m, func(s *State) (Params, error) { return s.cfg.Params, nil })
}

// Books implements Ledger. What a contract owes is added up from what each
// account could ask for, not from a running total.
func (m *Memory) Books(_ context.Context, runs ...Hash) ([]Line, error) {
	return read(m, func(s *State) ([]Line, error) { return s.books(runs), nil })
}

func (s *State) books(runs []Hash) []Line {
	owes := map[Contract]Amount{}
	for _, st := range s.stakes {
		owes[Staking] = add(owes[Staking], StakeInfo{st.active.last(), st.leaving}.Slashable())
	}
	for _, r := range s.runs {
		owes[Runs] = add(owes[Runs], r.Pool, r.Unclaimed)
	}
	for _, p := range s.proposals {
		if p.Status == Proposed {
			owes[Settlement] = add(owes[Settlement], s.cfg.Bond)
		}
	}
	for _, b := range s.bonds {
		owes[Settlement] = add(owes[Settlement], b)
	}
	for _, d := range s.demands {
		if !d.done {
			owes[Disputes] = add(owes[Disputes], s.cfg.ChallengeBond)
		}
	}
	for _, c := range s.cases {
		if c.Stage != Closed {
			owes[Disputes] = add(owes[Disputes], s.cfg.ChallengeBond)
			if !c.Appellant.IsZero() {
				owes[Disputes] = add(owes[Disputes], s.cfg.ChallengeBond, s.cfg.ChallengeBond)
			}
		}
	}
	for _, x := range s.sentences {
		if x.Phase == UnderAppeal {
			owes[Convictions] = add(owes[Convictions], s.appealBond())
		}
	}
	for _, c := range s.channels {
		owes[Vouchers] = add(owes[Vouchers], sub(c.Deposit, c.Redeemed), c.Due)
	}
	for _, v := range s.royalties {
		owes[Vouchers] = add(owes[Vouchers], v)
	}
	var lines []Line
	for _, c := range []Contract{Staking, Runs, Settlement, Disputes, Vouchers, Convictions} {
		lines = append(lines, Line{string(c), val(s.balance[s.book.Contracts[c]]), val(owes[c])})
	}
	for _, id := range runs {
		if r := s.runs[id]; r != nil && r.Shares {
			lines = append(lines, Line{"shares " + id.String()[:10], val(s.balance[shareBook(id)]), r.shares.held})
		}
	}
	return lines
}

var _ Ledger = (*Memory)(nil)

package chain

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// Roles among which an epoch's budget is split, in the order of Rate.Split.
const (
	Trainers = iota
	Workers
	Validators
	Sponsors
)

// A Rate is what one epoch may cost and how that divides.
type Rate struct {
	Budget Amount    `json:"budget"`
	Split  [4]uint16 `json:"split"` // trainers, rollout workers, validators, sponsor; parts per 10,000, sum 10,000
}

// An Epoch is what a validator says came out of one epoch of a run. Its hash
// is stored on the chain and signed by the validators.
type Epoch struct {
	Run      Hash      `json:"run"`
	Number   uint64    `json:"number"`
	Commit   Hash      `json:"commit"`   // digest of the final commit's CID
	Rewards  Hash      `json:"rewards"`  // root over Reward.Leaf
	Receipts Hash      `json:"receipts"` // root over Book.Leaf
	Accounts uint64    `json:"accounts"` // number of leaves under Rewards
	Count    uint64    `json:"count"`    // number of leaves under Receipts
	Amounts  [4]Amount `json:"amounts"`  // this epoch's, by role
	Total    Amount    `json:"total"`    // cumulative, with this epoch
}

// Hash is the EIP-712 hash of the struct.
func (e *Epoch) Hash() Hash {
	return keccak(epochType[:], e.Run[:], word(e.Number), e.Commit[:], e.Rewards[:], e.Receipts[:],
		word(e.Accounts), word(e.Count), wordOf(e.Amounts[0]), wordOf(e.Amounts[1]), wordOf(e.Amounts[2]),
		wordOf(e.Amounts[3]), wordOf(e.Total))
}

// A Reward is one leaf of the tree of rewards.
type Reward struct {
	Index   uint64  `json:"index"`
	Account Address `json:"account"`
	Amount  Amount  `json:"amount"` // cumulative over all epochs
	Before  Amount  `json:"before"` // sum of Amount over the leaves with lower indices
}

// Leaf returns the reward's leaf in the tree of run.
func (r *Reward) Leaf(run Hash) Hash {
	return leafOf(run[:], word(r.Index), pad(r.Account[:]), wordOf(r.Amount), wordOf(r.Before))
}

// A Settled is one epoch with everything that its roots stand for: what a
// proposer publishes, and what anyone recomputes.
type Settled struct {
	Epoch   Epoch    `json:"epoch"`
	Rewards []Reward `json:"rewards"` // ascending by account
	Entries []Entry  `json:"entries"` // ascending by worker, kind and subject

	rewards, entries *Tree
}

// A Credit is what one receipt earned.
type Credit struct {
	Account Address
	Entry   Entry
	Amount  Amount
}

// A Basis is what an epoch is computed from, beyond its receipts.
type Basis struct {
	Book    Book
	Run     Hash
	Number  uint64
	Commit  Hash
	Sponsor Address
	Rate    Rate
	Pool    Amount                            // what the run can pay
	Before  map[Address]Amount                // cumulative rewards of the last finalized epoch
	Owner   func(key Address) (Address, bool) // whom a hot key worked for, if it served in the epoch
}

// Settle computes an epoch. The result depends on the set of entries alone, not
// on their order. Each kind's part of the budget divides by units, rounded
// down; the part of a kind in which nobody worked, and what rounding leaves,
// stay in the pool. The sponsor's part is paid whenever any work was done.
// Entries that could be disputed are errors: the caller leaves them out.
func Settle(b Basis, entries []Entry) (*Settled, []Credit, error) {
	if len(entries) == 0 {
		return nil, nil, errors.New("an epoch without receipts is not proposed: the next one may skip it")
	}
	sum := 0
	for _, s := range b.Rate.Split {
		sum += int(s)
	}
	if sum != 10_000 {
		return nil, nil, fmt.Errorf("the rate's split adds up to %d parts, want 10,000", sum)
	}
	s := &Settled{Entries: slices.Clone(entries)}
	slices.SortFunc(s.Entries, func(x, y Entry) int {
		return cmp.Or(bytes.Compare(x.Receipt.Worker[:], y.Receipt.Worker[:]),
			cmp.Compare(x.Receipt.Kind, y.Receipt.Kind), bytes.Compare(x.Receipt.Subject[:], y.Receipt.Subject[:]))
	})
	budget := lower(b.Rate.Budget, b.Pool)
	units := [3]*big.Int{new(big.Int), new(big.Int), new(big.Int)}
	owners := make([]Address, len(s.Entries))
	for i := range s.Entries {
		e := &s.Entries[i]
		e.Index = uint64(i)
		r := &e.Receipt
		if r.Run != b.Run || r.Epoch != b.Number {
			return nil, nil, fmt.Errorf("receipt %s of %s is for another run or epoch", r.Subject, r.Worker)
		}
		if err := b.Book.Check(e); err != nil {
			return nil, nil, err
		}
		if i > 0 {
			p := s.Entries[i-1].Receipt
			if p.Worker == r.Worker && p.Kind == r.Kind && p.Subject == r.Subject {
				return nil, nil, fmt.Errorf("receipt %s of %s appears twice", r.Subject, r.Worker)
			}
		}
		owner, ok := b.Owner(r.Worker)
		if !ok {
			return nil, nil, fmt.Errorf("worker %s was not registered in epoch %d", r.Worker, b.Number)
		}
		owners[i] = owner
		units[r.Kind].Add(units[r.Kind], new(big.Int).SetUint64(r.Units))
	}
	total := map[Address]Amount{}
	for a, v := range b.Before {
		total[a] = v
	}
	var amounts [4]Amount
	credits := make([]Credit, len(s.Entries))
	for i, e := range s.Entries {
		k := e.Receipt.Kind
		x := new(big.Int).Mul(bps(budget, uint64(b.Rate.Split[k])), new(big.Int).SetUint64(e.Receipt.Units))
		x.Quo(x, units[k])
		credits[i] = Credit{owners[i], e, x}
		total[owners[i]] = add(total[owners[i]], x)
		amounts[k] = add(amounts[k], x)
	}
	amounts[Sponsors] = bps(budget, uint64(b.Rate.Split[Sponsors]))
	if positive(amounts[Sponsors]) {
		total[b.Sponsor] = add(total[b.Sponsor], amounts[Sponsors])
	}
	s.Rewards = Rewards(total)
	s.Epoch = Epoch{Run: b.Run, Number: b.Number, Commit: b.Commit, Amounts: amounts}
	for i := range amounts {
		s.Epoch.Amounts[i] = val(amounts[i])
	}
	if err := s.Seal(b.Book); err != nil {
		return nil, nil, err
	}
	return s, credits, nil
}

// Rewards returns the leaves for cumulative amounts, ascending by account.
func Rewards(total map[Address]Amount) []Reward {
	var rs []Reward
	for a, v := range total {
		rs = append(rs, Reward{Account: a, Amount: val(v)})
	}
	slices.SortFunc(rs, func(x, y Reward) int { return bytes.Compare(x.Account[:], y.Account[:]) })
	before := new(big.Int)
	for i := range rs {
		rs[i].Index, rs[i].Before = uint64(i), before
		before = add(before, rs[i].Amount)
	}
	return rs
}

// Seal builds the trees over Rewards and Entries, as they are, and sets the
// epoch's roots, counts and total. It checks nothing, so tests can seal lies.
func (s *Settled) Seal(b Book) (err error) {
	rl, el := make([]Hash, len(s.Rewards)), make([]Hash, len(s.Entries))
	s.Epoch.Total = new(big.Int)
	for i := range s.Rewards {
		rl[i] = s.Rewards[i].Leaf(s.Epoch.Run)
		s.Epoch.Total = add(s.Epoch.Total, s.Rewards[i].Amount)
	}
	for i := range s.Entries {
		el[i] = b.Leaf(&s.Entries[i])
	}
	if s.rewards, err = NewTree(rl); err != nil {
		return fmt.Errorf("rewards: %w", err)
	}
	if s.entries, err = NewTree(el); err != nil {
		return fmt.Errorf("receipts: %w", err)
	}
	s.Epoch.Rewards, s.Epoch.Receipts = s.rewards.Root(), s.entries.Root()
	s.Epoch.Accounts, s.Epoch.Count = uint64(len(rl)), uint64(len(el))
	return nil
}

// RewardProof returns the i-th reward's proof. Seal comes first.
func (s *Settled) RewardProof(i int) []Hash { return s.rewards.Proof(i) }

// EntryProof returns the i-th entry's proof. Seal comes first.
func (s *Settled) EntryProof(i int) []Hash { return s.entries.Proof(i) }

// Find returns the index of account's reward, -1 if it has none.
func (s *Settled) Find(account Address) int {
	return slices.IndexFunc(s.Rewards, func(r Reward) bool { return r.Account == account })
}

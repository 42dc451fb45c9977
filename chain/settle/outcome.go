package settle

import (
	"fmt"
	"math/big"
	"slices"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A Line is what one piece of work earned, or why it earned nothing.
type Line struct {
	Epoch   uint64        `json:"epoch"`
	Round   uint64        `json:"round"` // of the commit that has the work, or of the round without any
	Peer    wire.PeerID   `json:"peer"`
	Account chain.Address `json:"account"` // who is paid; the worker's own address where it is nobody's key
	Kind    string        `json:"kind"`
	Subject chain.Hash    `json:"subject"`
	Units   uint64        `json:"units"`
	Amount  chain.Amount  `json:"amount"`
	Why     string        `json:"why,omitempty"` // why the amount is zero
}

// Words are the ledger's part of an epoch. None of them changes once the epoch is
// over, but Pool: see Outcomes.
type Words struct {
	Sponsor chain.Address
	Rate    chain.Rate
	Pool    chain.Amount
	Before  map[chain.Address]chain.Amount // cumulative rewards of the last finalized epoch
	// Owner is whom a hot key worked for, if it served in the epoch.
	Owner func(key chain.Address) (chain.Address, bool)
}

// An Outcome is one epoch with both parts: what is proposed, and what every
// piece of work earned.
type Outcome struct {
	Settled *chain.Settled // nil: nobody can be paid, and the epoch is not proposed
	Lines   []Line
}

// Outcome computes the epoch.
func (c *Close) Outcome(p Params, w Words) (*Outcome, error) {
	out := &Outcome{}
	commit, err := chain.Digest(c.Commit)
	if err != nil {
		return nil, err
	}
	var entries []chain.Entry
	at := map[chain.Hash]int{} // lines by the digest of their receipts
	for _, x := range c.Works {
		r := x.Entry.Receipt
		l := Line{Epoch: c.Number, Round: x.Round, Peer: x.Peer, Account: r.Worker, Kind: r.Kind.String(), Subject: r.Subject,
			Units: r.Units, Amount: chain.Int(0), Why: x.Why}
		owner, ok := w.Owner(r.Worker)
		if ok {
			l.Account = owner
		}
		switch {
		case l.Why != "":
		case !ok:
			l.Why = fmt.Sprintf("key not registered: %s served nobody in epoch %d (`shoal stake` or `shoal stake --hot` registers it)", r.Worker, c.Number)
		default:
			l.Why = "the share of these units rounds to nothing"
			if w.Rate.Split[r.Kind] == 0 {
				l.Why = fmt.Sprintf("the run pays nothing for %s", r.Kind)
			} else if num(w.Pool).Sign() == 0 {
				l.Why = "the run's pool was empty"
			}
			at[p.Book.ReceiptDigest(&r)] = len(out.Lines)
			entries = append(entries, x.Entry)
		}
		out.Lines = append(out.Lines, l)
	}
	if len(entries) == 0 {
		return out, nil
	}
	b := chain.Basis{Book: p.Book, Run: p.ID, Number: c.Number, Commit: commit, Sponsor: w.Sponsor, Rate: w.Rate, Pool: w.Pool, Before: w.Before, Owner: w.Owner}
	s, credits, err := chain.Settle(b, entries)
	if err != nil {
		return nil, fmt.Errorf("epoch %d: %w", c.Number, err)
	}
	for _, x := range credits {
		l := &out.Lines[at[p.Book.ReceiptDigest(&x.Entry.Receipt)]]
		l.Amount = x.Amount
		if x.Amount.Sign() > 0 {
			l.Why = ""
		}
	}
	out.Settled = s
	return out, nil
}

// Match finds the outcome that a proposal is: the one for any of the pools that
// the run may have had when it was proposed. A payment into a pool that does not
// cover an epoch's budget may cross with an honest proposal, and must not convict
// it. It is nil if the proposal is none of them.
func (c *Close) Match(p Params, w Words, pools []chain.Amount, e *chain.Epoch) (*Outcome, error) {
	if e.Number != c.Number {
		return nil, nil
	}
	var tried []chain.Amount
	for _, pool := range pools {
		budget := num(w.Rate.Budget)
		if num(pool).Cmp(budget) < 0 {
			budget = num(pool)
		}
		sponsor := new(big.Int).Mul(budget, big.NewInt(int64(w.Rate.Split[chain.Sponsors])))
		sponsor.Quo(sponsor, big.NewInt(10_000))
		if slices.ContainsFunc(tried, func(b chain.Amount) bool { return b.Cmp(budget) == 0 }) || sponsor.Cmp(num(e.Amounts[chain.Sponsors])) != 0 {
			continue // the sponsor's part alone tells most budgets apart
		}
		tried = append(tried, budget)
		w.Pool = pool
		o, err := c.Outcome(p, w)
		if err != nil {
			return nil, err
		}
		if o.Settled != nil && o.Settled.Epoch.Hash() == e.Hash() {
			return o, nil
		}
		if len(tried) == maxPools {
			break
		}
	}
	return nil, nil
}

// maxPools bounds how many pools Match computes with: a payment more costs who
// pays, and us a tree.
const maxPools = 64

func num(a chain.Amount) *big.Int {
	if a == nil {
		return new(big.Int)
	}
	return a
}

// Cumulative returns an epoch's rewards as the next one's Words.Before.
func Cumulative(s *chain.Settled) map[chain.Address]chain.Amount {
	m := make(map[chain.Address]chain.Amount, len(s.Rewards))
	for _, r := range s.Rewards {
		m[r.Account] = r.Amount
	}
	return m
}

// Fault finds what is wrong in an epoch that one proof on the chain can show:
// the action that proves it, nil if there is none. x must be sealed, and its
// epoch be the proposal's. previous is the last finalized epoch, nil before the
// first; served says whether a key was registered in the epoch.
func Fault(b chain.Book, run chain.Hash, x, previous *chain.Settled, served func(key chain.Address) bool) chain.Action {
	type work struct {
		w chain.Address
		k chain.Kind
		s chain.Hash
	}
	first := map[work]int{}
	for i := range x.Entries {
		e := &x.Entries[i]
		r := &e.Receipt
		if r.Run != run || r.Epoch != x.Epoch.Number || e.Index >= x.Epoch.Count || b.Check(e) != nil || !served(r.Worker) {
			return chain.ProveReceipt{Epoch: x.Epoch, Entry: *e, Proof: x.EntryProof(i)}
		}
		w := work{r.Worker, r.Kind, r.Subject}
		if j, ok := first[w]; ok {
			return chain.ProveDuplicate{Epoch: x.Epoch, A: x.Entries[j], ProofA: x.EntryProof(j), B: *e, ProofB: x.EntryProof(i)}
		}
		first[w] = i
	}
	prove := func(i, j int) chain.Action {
		return chain.ProveRewards{Epoch: x.Epoch, A: x.Rewards[i], ProofA: x.RewardProof(i), B: x.Rewards[j], ProofB: x.RewardProof(j)}
	}
	sum := new(big.Int)
	accounts := map[chain.Address]int{}
	for i, r := range x.Rewards {
		if j, ok := accounts[r.Account]; ok {
			return prove(j, i)
		}
		accounts[r.Account] = i
		if r.Index != uint64(i) || num(r.Before).Cmp(sum) != 0 {
			return prove(max(0, i-1), i)
		}
		sum = new(big.Int).Add(sum, num(r.Amount))
	}
	if n := len(x.Rewards) - 1; n >= 0 && sum.Cmp(num(x.Epoch.Total)) != 0 {
		return prove(n, n)
	}
	if previous != nil {
		for i, r := range previous.Rewards {
			if j, ok := accounts[r.Account]; ok && num(x.Rewards[j].Amount).Cmp(num(r.Amount)) < 0 {
				return chain.ProveDecrease{Epoch: x.Epoch, Was: r, ProofWas: previous.RewardProof(i), Now: x.Rewards[j], ProofNow: x.RewardProof(j)}
			}
		}
	}
	return nil
}

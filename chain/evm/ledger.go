package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/shoalnet/shoal/chain"
)

// A Ledger is a deployment on a chain, with the accounts that may act.
type Ledger struct {
	c       *Client
	book    chain.Book
	senders map[chain.Address]*Sender

	mu     sync.Mutex
	shares map[chain.Hash]common.Address // guarded by mu; of runs that have them
	judged uint64                        // guarded by mu; time of the block that the last Do was judged by
}

// ErrNotDeployed says that the chain does not have what a book describes.
var ErrNotDeployed = errors.New("the book is of another chain or deployment")

// Open returns the deployment that book describes, after a look at whether it
// is there: code at every address, and the domain separators that our
// signatures are made for.
func Open(ctx context.Context, c *Client, book chain.Book, senders ...*Sender) (*Ledger, error) {
	if book.ChainID != c.Preset.ChainID {
		return nil, fmt.Errorf("%w: the deployment is on chain %d, the node serves %d", ErrWrongChain, book.ChainID, c.Preset.ChainID)
	}
	l := &Ledger{c: c, book: book, senders: map[chain.Address]*Sender{}, shares: map[chain.Hash]common.Address{}}
	for _, s := range senders {
		l.senders[chain.Address(s.from)] = s
	}
	for _, name := range []chain.Contract{chain.Token, chain.Staking, chain.Runs, chain.Settlement, chain.Disputes, chain.Equivocation, chain.Vouchers, chain.Convictions} {
		code, err := c.CodeAt(ctx, address(book.Contracts[name]), nil)
		if err != nil {
			return nil, fmt.Errorf("look for the %s contract: %w", name, err)
		}
		if len(code) == 0 {
			return nil, fmt.Errorf("%w: there is no %s contract at %s on chain %d: deploy, or give the book of a deployment", ErrNotDeployed, name, book.Contracts[name], book.ChainID)
		}
	}
	for name, pack := range map[chain.Contract][]byte{chain.Staking: stakingABI.PackDomainSeparator(), chain.Settlement: settlementABI.PackDomainSeparator(),
		chain.Disputes: disputesABI.PackDomainSeparator(), chain.Vouchers: vouchersABI.PackDomainSeparator(), chain.Convictions: convictionsABI.PackDomainSeparator()} {
		a := address(book.Contracts[name])
		out, err := c.CallContract(ctx, ethereum.CallMsg{To: &a, Data: pack}, nil)
		var other *chain.Refusal // it has no such function
		if err = refusal(err, "ask "+string(name)+" for its domain"); err != nil && !errors.As(err, &other) {
			return nil, err
		}
		if want := book.Domain(name); err != nil || string(out) != string(want[:]) {
			return nil, fmt.Errorf("%w: the contract at %s is not our %s: signatures made for it would not count", ErrNotDeployed, book.Contracts[name], name)
		}
	}
	return l, nil
}

// Book implements chain.Ledger.
func (l *Ledger) Book() chain.Book { return l.book }

// Now implements chain.Ledger.
func (l *Ledger) Now(ctx context.Context) (uint64, error) {
	h, err := l.c.HeaderByNumber(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("newest block: %w", err)
	}
	return h.Time, nil
}

// JudgedAt is the time of the block by which the last Do was allowed or refused.
func (l *Ledger) JudgedAt() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.judged
}

// Call returns where an action goes and its call data.
func (l *Ledger) Call(ctx context.Context, a chain.Action) (common.Address, []byte, error) {
	data, err := l.governs(ctx, a)
	if data == nil && err == nil {
		data, err = encode(l.book, a)
	}
	if err != nil {
		return common.Address{}, nil, err
	}
	to := address(l.book.Contracts[a.Target()])
	if a.Target() == "" {
		var run chain.Hash
		switch a := a.(type) {
		case chain.MintShares:
			run = a.Run
		case chain.TransferShares:
			run = a.Run
		case chain.Collect:
			run = a.Run
		}
		if to, err = l.sharesAt(ctx, run); err != nil {
			return to, nil, err
		}
	}
	return to, data, nil
}

// Estimate returns the gas that an action would take now, and what a unit costs
// in wei, or why it would be refused. It sends nothing.
func (l *Ledger) Estimate(ctx context.Context, from chain.Address, a chain.Action) (gas uint64, price chain.Amount, err error) {
	to, data, err := l.Call(ctx, a)
	if err != nil {
		return 0, nil, err
	}
	return l.estimate(ctx, ethereum.CallMsg{From: address(from), To: &to, Data: data})
}

// EstimatePay is Estimate of Pay.
func (l *Ledger) EstimatePay(ctx context.Context, from, to chain.Address, wei chain.Amount) (gas uint64, price chain.Amount, err error) {
	x := address(to)
	return l.estimate(ctx, ethereum.CallMsg{From: address(from), To: &x, Value: wei})
}

func (l *Ledger) estimate(ctx context.Context, m ethereum.CallMsg) (gas uint64, price chain.Amount, err error) {
	if gas, err = l.c.EstimateGas(ctx, m); err != nil {
		return 0, nil, refusal(err, "estimate gas")
	}
	h, err := l.c.HeaderByNumber(ctx, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("newest block: %w", err)
	}
	tip, err := l.c.SuggestGasTipCap(ctx)
	if err != nil {
		return 0, nil, fmt.Errorf("gas price: %w", err)
	}
	return gas, tip.Add(tip, num(h.BaseFee)), nil
}

// Do implements chain.Ledger.
func (l *Ledger) Do(ctx context.Context, from chain.Address, a chain.Action) (chain.Result, error) {
	s := l.senders[from]
	if s == nil {
		return chain.Result{}, fmt.Errorf("no key of %s is open here: it cannot act", from)
	}
	if h, err := l.c.HeaderByNumber(ctx, nil); err == nil {
		l.judge(h.Time)
	}
	to, data, err := l.Call(ctx, a)
	if err != nil {
		return chain.Result{}, err
	}
	_, what, _ := strings.Cut(fmt.Sprintf("%T", a), ".")
	rc, err := s.send(ctx, what, &to, data, nil)
	if rc == nil {
		return chain.Result{}, err
	}
	if h, e := l.c.HeaderByNumber(ctx, rc.BlockNumber); e == nil {
		l.judge(h.Time)
	}
	r := chain.Result{Tx: chain.Hash(rc.TxHash), Gas: rc.GasUsed}
	if err != nil {
		return r, err
	}
	switch a := a.(type) {
	case chain.Publish:
		r.ID = chain.RunID(a.Manifest, from)
	case chain.OpenChannel:
		for _, log := range rc.Logs {
			if e, err := vouchersABI.UnpackOpenedEvent(log); err == nil && log.Address == to {
				r.ID = e.Id
			}
		}
	}
	return r, nil
}

func (l *Ledger) judge(t uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.judged = t
}

// view calls a function that changes nothing, at the newest safe block.
func view[T any](ctx context.Context, l *Ledger, to common.Address, data []byte, unpack func([]byte) (T, error)) (T, error) {
	var zero T
	h, err := l.c.safe(ctx)
	if err != nil {
		return zero, err
	}
	out, err := l.c.CallContract(ctx, ethereum.CallMsg{To: &to, Data: data}, h.Number)
	if err != nil {
		return zero, refusal(err, "read the chain")
	}
	v, err := unpack(out)
	if err != nil {
		return zero, fmt.Errorf("read the chain: the answer of %s is not one: %w", to, err)
	}
	return v, nil
}

func (l *Ledger) at(c chain.Contract) common.Address { return address(l.book.Contracts[c]) }

func (l *Ledger) sharesAt(ctx context.Context, run chain.Hash) (common.Address, error) {
	l.mu.Lock()
	a, ok := l.shares[run]
	l.mu.Unlock()
	if ok {
		return a, nil
	}
	r, err := view(ctx, l, l.at(chain.Runs), runsABI.PackGet(run), runsABI.UnpackGet)
	if err != nil {
		return a, err
	}
	if r.Shares == (common.Address{}) {
		return a, &chain.Refusal{Reason: "NoShares"}
	}
	l.mu.Lock()
	l.shares[run] = r.Shares
	l.mu.Unlock()
	return r.Shares, nil
}

// Run implements chain.Ledger.
func (l *Ledger) Run(ctx context.Context, id chain.Hash) (chain.Run, error) {
	r, err := view(ctx, l, l.at(chain.Runs), runsABI.PackGet(id), runsABI.UnpackGet)
	if err != nil {
		return chain.Run{}, err
	}
	if r.Sponsor == (common.Address{}) {
		return chain.Run{}, &chain.Refusal{Reason: "RunUnknown"}
	}
	return chain.Run{Sponsor: chain.Address(r.Sponsor), Start: r.Start.Uint64(), Length: uint64(r.Length), Paused: r.Paused, Ended: r.Ended.Uint64(),
		Royalty: r.Royalty, Pool: r.Pool, Unclaimed: r.Unclaimed, Shares: r.Shares != (common.Address{}), Manifest: r.Manifest}, nil
}

// RateAt implements chain.Ledger.
func (l *Ledger) RateAt(ctx context.Context, run chain.Hash, epoch uint64) (chain.Rate, error) {
	r, err := view(ctx, l, l.at(chain.Runs), runsABI.PackRateAt(run, epoch), runsABI.UnpackRateAt)
	return chain.Rate{Budget: r.Budget, Split: r.Split}, err
}

// Proposal implements chain.Ledger.
func (l *Ledger) Proposal(ctx context.Context, run chain.Hash) (chain.Proposal, error) {
	p, err := view(ctx, l, l.at(chain.Settlement), settlementABI.PackProposalOf(run), settlementABI.UnpackProposalOf)
	if err != nil {
		return chain.Proposal{}, err
	}
	return chain.Proposal{Hash: p.Hash, Proposer: chain.Address(p.Proposer), Deadline: p.Deadline.Uint64(), Serial: p.Serial.Uint64(), Open: uint64(p.Open), Status: chain.Status(p.Status)}, nil
}

// Final implements chain.Ledger.
func (l *Ledger) Final(ctx context.Context, run chain.Hash) (chain.Final, error) {
	r, err := view(ctx, l, l.at(chain.Runs), runsABI.PackGet(run), runsABI.UnpackGet)
	if err != nil || r.Epoch == 0 {
		return chain.Final{Total: new(big.Int)}, err
	}
	return chain.Final{Rewards: r.Rewards, Total: r.Total, Epoch: r.Epoch}, nil
}

// Claimed implements chain.Ledger.
func (l *Ledger) Claimed(ctx context.Context, run chain.Hash, account chain.Address) (chain.Amount, error) {
	return view(ctx, l, l.at(chain.Runs), runsABI.PackClaimed(run, address(account)), runsABI.UnpackClaimed)
}

// Bonds implements chain.Ledger.
func (l *Ledger) Bonds(ctx context.Context, account chain.Address) (chain.Amount, error) {
	return view(ctx, l, l.at(chain.Settlement), settlementABI.PackBonds(address(account)), settlementABI.UnpackBonds)
}

// Balance implements chain.Ledger.
func (l *Ledger) Balance(ctx context.Context, account chain.Address) (chain.Amount, error) {
	return view(ctx, l, l.at(chain.Token), tokenABI.PackBalanceOf(address(account)), tokenABI.UnpackBalanceOf)
}

// Gas returns the account's wei, which pay for transactions.
func (l *Ledger) Gas(ctx context.Context, account chain.Address) (chain.Amount, error) {
	return l.c.BalanceAt(ctx, address(account), nil)
}

// Pay sends wei, for gas.
func (l *Ledger) Pay(ctx context.Context, from, to chain.Address, wei chain.Amount) (chain.Result, error) {
	s := l.senders[from]
	if s == nil {
		return chain.Result{}, fmt.Errorf("no key of %s is open here: it cannot pay", from)
	}
	rc, err := s.Pay(ctx, to, wei)
	if rc == nil {
		return chain.Result{}, err
	}
	return chain.Result{Tx: chain.Hash(rc.TxHash), Gas: rc.GasUsed}, err
}

// StakeOf implements chain.Ledger.
func (l *Ledger) StakeOf(ctx context.Context, account chain.Address, role uint8) (chain.StakeInfo, error) {
	active, err := view(ctx, l, l.at(chain.Staking), stakingABI.PackStakeOf(address(account), role), stakingABI.UnpackStakeOf)
	if err != nil {
		return chain.StakeInfo{}, err
	}
	us, err := view(ctx, l, l.at(chain.Staking), stakingABI.PackUnbondings(address(account), role), stakingABI.UnpackUnbondings)
	info := chain.StakeInfo{Active: active}
	for _, u := range us {
		info.Leaving = append(info.Leaving, chain.Unbonding{Amount: u.Amount, Matures: u.Matures.Uint64()})
	}
	return info, err
}

// TotalStake implements chain.Ledger.
func (l *Ledger) TotalStake(ctx context.Context, role uint8) (chain.Amount, error) {
	return view(ctx, l, l.at(chain.Staking), stakingABI.PackTotalOf(role), stakingABI.UnpackTotalOf)
}

// Weight implements chain.Ledger.
func (l *Ledger) Weight(ctx context.Context, account chain.Address, begin uint64) (weight, total chain.Amount, err error) {
	if weight, err = view(ctx, l, l.at(chain.Staking), stakingABI.PackWeightAt(address(account), big64(begin)), stakingABI.UnpackWeightAt); err != nil {
		return nil, nil, err
	}
	total, err = view(ctx, l, l.at(chain.Staking), stakingABI.PackTotalAt(chain.Validator, big64(begin)), stakingABI.UnpackTotalAt)
	return weight, total, err
}

// Key implements chain.Ledger.
func (l *Ledger) Key(ctx context.Context, key chain.Address) (chain.KeyInfo, error) {
	k, err := view(ctx, l, l.at(chain.Staking), stakingABI.PackKeys(address(key)), stakingABI.UnpackKeys)
	if err != nil {
		return chain.KeyInfo{}, err
	}
	return chain.KeyInfo{Owner: chain.Address(k.Owner), From: k.From.Uint64(), Until: k.Until.Uint64()}, nil
}

// KeyNonce implements chain.Ledger.
func (l *Ledger) KeyNonce(ctx context.Context, owner chain.Address) (uint64, error) {
	n, err := view(ctx, l, l.at(chain.Staking), stakingABI.PackNonces(address(owner)), stakingABI.UnpackNonces)
	if err != nil {
		return 0, err
	}
	return n.Uint64(), nil
}

// Case implements chain.Ledger.
func (l *Ledger) Case(ctx context.Context, run chain.Hash) (chain.Case, error) {
	c, err := view(ctx, l, l.at(chain.Disputes), disputesABI.PackCaseOf(run), disputesABI.UnpackCaseOf)
	if err != nil {
		return chain.Case{}, err
	}
	return chain.Case{Challenger: chain.Address(c.Challenger), CommitEnd: c.CommitEnd.Uint64(), RevealEnd: c.RevealEnd.Uint64(), Serial: c.Serial.Uint64(),
		Stage: chain.Stage(c.Stage), Verdict: chain.Verdict(c.Verdict), Appellant: chain.Address(c.Appellant), StageEnd: c.StageEnd.Uint64(),
		Begin: c.Begin.Uint64(), Guilty: c.Guilty, Innocent: c.Innocent, Evidence: c.Evidence}, nil
}

// Committed implements chain.Ledger.
func (l *Ledger) Committed(ctx context.Context, run chain.Hash, voter chain.Address) (chain.Hash, error) {
	c, err := l.Case(ctx, run)
	if err != nil {
		return chain.Hash{}, err
	}
	id := crypto.Keccak256Hash(run[:], common.LeftPadBytes(big64(c.Serial).Bytes(), 32))
	h, err := view(ctx, l, l.at(chain.Disputes), disputesABI.PackCommits(id, address(voter)), disputesABI.UnpackCommits)
	return chain.Hash(h), err
}

// Sentence implements chain.Ledger.
func (l *Ledger) Sentence(ctx context.Context, id chain.Hash) (chain.Sentence, error) {
	s, err := view(ctx, l, l.at(chain.Convictions), convictionsABI.PackSentenceOf(id), convictionsABI.UnpackSentenceOf)
	if err != nil {
		return chain.Sentence{}, err
	}
	return chain.Sentence{Run: s.Run, Account: chain.Address(s.Account), Deadline: s.Deadline.Uint64(), Bps: s.Bps, Phase: chain.Phase(s.Phase)}, nil
}

// SharesOf implements chain.Ledger.
func (l *Ledger) SharesOf(ctx context.Context, run chain.Hash, account chain.Address) (s chain.ShareInfo, err error) {
	at, err := l.sharesAt(ctx, run)
	if err != nil {
		return s, err
	}
	if s.Balance, err = view(ctx, l, at, sharesABI.PackBalanceOf(address(account)), sharesABI.UnpackBalanceOf); err != nil {
		return s, err
	}
	if s.Supply, err = view(ctx, l, at, sharesABI.PackTotalSupply(), sharesABI.UnpackTotalSupply); err != nil {
		return s, err
	}
	if s.Minted, err = view(ctx, l, at, sharesABI.PackMinted(address(account)), sharesABI.UnpackMinted); err != nil {
		return s, err
	}
	s.Owed, err = view(ctx, l, at, sharesABI.PackOwed(address(account)), sharesABI.UnpackOwed)
	return s, err
}

// Channel implements chain.Ledger.
func (l *Ledger) Channel(ctx context.Context, id chain.Hash) (chain.Channel, error) {
	c, err := view(ctx, l, l.at(chain.Vouchers), vouchersABI.PackGet(id), vouchersABI.UnpackGet)
	if err != nil {
		return chain.Channel{}, err
	}
	if c.Payer == (common.Address{}) {
		return chain.Channel{}, &chain.Refusal{Reason: "NoChannel"}
	}
	return chain.Channel{Payer: chain.Address(c.Payer), ClosesAt: c.ClosesAt.Uint64(), Royalty: c.Royalty, Provider: chain.Address(c.Provider),
		Run: c.Run, Deposit: c.Deposit, Redeemed: c.Redeemed, Due: c.Due}, nil
}

// Params implements chain.Ledger.
func (l *Ledger) Params(ctx context.Context) (chain.Params, error) {
	p, err := view(ctx, l, l.at(chain.Settlement), settlementABI.PackParams(), settlementABI.UnpackParams)
	return chain.Params(p), err
}

var _ chain.Ledger = (*Ledger)(nil)

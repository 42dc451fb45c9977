package evm

import (
	"context"
	"fmt"
	"math/big"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/contracts"
)

var (
	councilABI  = contracts.NewCouncil()
	timelockABI = contracts.NewTimelock()
)

// A Motion is what holders of the token vote on: one call that only governance
// may make, and why. Its content is its name, so whoever votes holds the same.
type Motion struct {
	To   chain.Address `json:"to"`
	Data hexutil.Bytes `json:"data"`
	Why  string        `json:"why"`
}

// A MotionState is where a motion is (OpenZeppelin's IGovernor.ProposalState).
type MotionState uint8

// States of a motion. Defeated includes too few votes.
const (
	MotionPending MotionState = iota
	MotionActive
	MotionCanceled
	MotionDefeated
	MotionSucceeded
	MotionQueued
	MotionExpired
	MotionExecuted
)

func (s MotionState) String() string {
	if s > MotionExecuted {
		return "unknown"
	}
	return [...]string{"pending", "active", "canceled", "defeated", "succeeded", "queued", "expired", "executed"}[s]
}

// A MotionInfo is what the council knows of a motion.
type MotionInfo struct {
	ID       chain.Hash   `json:"id"`
	State    MotionState  `json:"state"`
	Opens    uint64       `json:"opens"`  // voting, seconds
	Closes   uint64       `json:"closes"` // it may be prolonged when many vote late
	Ready    uint64       `json:"ready"`  // when the timelock lets it be carried out; 0 before it is queued
	For      chain.Amount `json:"for"`    // votes
	Against  chain.Amount `json:"against"`
	Abstain  chain.Amount `json:"abstain"`
	Required chain.Amount `json:"required"` // quorum of For and Abstain; 0 before the voting opens
}

// MotionFor makes the motion that carries out a. Only SetParams, SetMinimum,
// SetGuardian, Pause, Unpause and Rule are governance's.
func (l *Ledger) MotionFor(ctx context.Context, a chain.Action, why string) (Motion, error) {
	switch a.(type) {
	case chain.SetParams, chain.SetMinimum, chain.SetGuardian, chain.Pause, chain.Unpause, chain.Rule:
	default:
		return Motion{}, fmt.Errorf("%T is not governance's to do", a)
	}
	to, data, err := l.Call(ctx, a)
	return Motion{chain.Address(to), data, why}, err
}

func (m *Motion) lists() ([]common.Address, []*big.Int, [][]byte) {
	return []common.Address{address(m.To)}, []*big.Int{new(big.Int)}, [][]byte{m.Data}
}

func (m *Motion) reason() [32]byte { return crypto.Keccak256Hash([]byte(m.Why)) }

// Delegate gives the account's own votes to itself: tokens vote for nobody until
// they are delegated, and only in motions that are made later.
func (l *Ledger) Delegate(ctx context.Context, from chain.Address) (chain.Result, error) {
	return l.govern(ctx, from, chain.Token, tokenABI.PackDelegate(address(from)))
}

// Votes is what an account could vote with in a motion made now.
func (l *Ledger) Votes(ctx context.Context, account chain.Address) (chain.Amount, error) {
	return view(ctx, l, l.at(chain.Token), tokenABI.PackGetVotes(address(account)), tokenABI.UnpackGetVotes)
}

// Move puts a motion before the council.
func (l *Ledger) Move(ctx context.Context, from chain.Address, m Motion) (chain.Result, error) {
	to, values, calls := m.lists()
	return l.govern(ctx, from, chain.Council, councilABI.PackPropose(to, values, calls, m.Why))
}

// A Ballot is a vote on a motion.
type Ballot uint8

// Ballots as OpenZeppelin's GovernorCountingSimple numbers them.
const (
	Against Ballot = iota
	For
	Abstain
)

// Vote casts an account's votes.
func (l *Ledger) Vote(ctx context.Context, from chain.Address, m Motion, b Ballot) (chain.Result, error) {
	id, err := l.motionID(ctx, m)
	if err != nil {
		return chain.Result{}, err
	}
	return l.govern(ctx, from, chain.Council, councilABI.PackCastVote(id, uint8(b)))
}

// Queue starts the timelock of a motion that has won. Anyone may.
func (l *Ledger) Queue(ctx context.Context, from chain.Address, m Motion) (chain.Result, error) {
	to, values, calls := m.lists()
	return l.govern(ctx, from, chain.Council, councilABI.PackQueue(to, values, calls, m.reason()))
}

// Enact carries out a motion whose timelock is over. Anyone may.
func (l *Ledger) Enact(ctx context.Context, from chain.Address, m Motion) (chain.Result, error) {
	to, values, calls := m.lists()
	return l.govern(ctx, from, chain.Council, councilABI.PackExecute(to, values, calls, m.reason()))
}

func (l *Ledger) motionID(ctx context.Context, m Motion) (*big.Int, error) {
	to, values, calls := m.lists()
	return view(ctx, l, l.at(chain.Council), councilABI.PackGetProposalId(to, values, calls, m.reason()), councilABI.UnpackGetProposalId)
}

// Motion tells where a motion is. A *chain.Refusal says that the council does
// not know it.
func (l *Ledger) Motion(ctx context.Context, m Motion) (MotionInfo, error) {
	at := l.at(chain.Council)
	id, err := l.motionID(ctx, m)
	if err != nil {
		return MotionInfo{}, err
	}
	info := MotionInfo{ID: chain.Hash(common.BigToHash(id)), For: new(big.Int), Against: new(big.Int), Abstain: new(big.Int), Required: new(big.Int)}
	s, err := view(ctx, l, at, councilABI.PackState(id), councilABI.UnpackState)
	if err != nil {
		return info, err
	}
	info.State = MotionState(s)
	for _, x := range []struct {
		data   []byte
		unpack func([]byte) (*big.Int, error)
		into   *uint64
	}{
		{councilABI.PackProposalSnapshot(id), councilABI.UnpackProposalSnapshot, &info.Opens},
		{councilABI.PackProposalDeadline(id), councilABI.UnpackProposalDeadline, &info.Closes},
		{councilABI.PackProposalEta(id), councilABI.UnpackProposalEta, &info.Ready},
	} {
		v, err := view(ctx, l, at, x.data, x.unpack)
		if err != nil {
			return info, err
		}
		*x.into = v.Uint64()
	}
	v, err := view(ctx, l, at, councilABI.PackProposalVotes(id), councilABI.UnpackProposalVotes)
	if err != nil {
		return info, err
	}
	info.For, info.Against, info.Abstain = v.ForVotes, v.AgainstVotes, v.AbstainVotes
	if info.State != MotionPending {
		info.Required, err = view(ctx, l, at, councilABI.PackQuorum(big64(info.Opens)), councilABI.UnpackQuorum)
	}
	return info, err
}

// CouncilTimes are how long a motion waits before the voting, is voted on, and
// waits in the timelock.
func (l *Ledger) CouncilTimes(ctx context.Context) (delay, period, lock time.Duration, err error) {
	seconds := func(c chain.Contract, data []byte, unpack func([]byte) (*big.Int, error)) time.Duration {
		if err != nil {
			return 0
		}
		var v *big.Int
		if v, err = view(ctx, l, l.at(c), data, unpack); err != nil {
			return 0
		}
		return time.Duration(v.Uint64()) * time.Second
	}
	delay = seconds(chain.Council, councilABI.PackVotingDelay(), councilABI.UnpackVotingDelay)
	period = seconds(chain.Council, councilABI.PackVotingPeriod(), councilABI.UnpackVotingPeriod)
	lock = seconds(chain.Timelock, timelockABI.PackGetMinDelay(), timelockABI.UnpackGetMinDelay)
	return delay, period, lock, err
}

func (l *Ledger) govern(ctx context.Context, from chain.Address, c chain.Contract, data []byte) (chain.Result, error) {
	s := l.senders[from]
	if s == nil {
		return chain.Result{}, fmt.Errorf("no key of %s is open here: it cannot act", from)
	}
	if l.book.Contracts[c].IsZero() {
		return chain.Result{}, fmt.Errorf("this deployment has no %s: its governor is an account", c)
	}
	to := l.at(c)
	rc, err := s.Send(ctx, &to, data)
	if rc == nil {
		return chain.Result{}, err
	}
	return chain.Result{Tx: chain.Hash(rc.TxHash), Gas: rc.GasUsed}, err
}

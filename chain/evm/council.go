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
// SetGuardian, Pause, Unpause, Rule and RuleConviction are governance's.
func (l *Ledger) MotionFor(ctx context.Context, a chain.Action, why string) (Motion, error) {
	switch a.(type) {
	case chain.SetParams, chain.SetMinimum, chain.SetGuardian, chain.Pause, chain.Unpause, chain.Rule, chain.RuleConviction:
	default:
		return Motion{}, fmt.Errorf("%T is not governance's to do", a)
	}
	to, data, err := l.Call(ctx, a)
	return Motion{chain.Address(to), data, why}, err
}

func (m *Motion) reason() [32]byte { return crypto.Keccak256Hash([]byte(m.Why)) }

// Steps of governance, as actions: Do carries them out and Estimate says what they
// would cost.
type (
	// Delegate is Token.delegate: To is who votes with the account's tokens. They
	// vote for nobody until then, and only in motions that are made later.
	Delegate struct{ To chain.Address }
	// Move is Council.propose: it puts a motion before the council.
	Move struct{ Motion Motion }
	// Vote is Council.castVote.
	Vote struct {
		Motion Motion
		Ballot Ballot
	}
	// Queue is Council.queue: it starts the timelock of a motion that has won.
	// Anyone may.
	Queue struct{ Motion Motion }
	// Enact is Council.execute, of a motion whose timelock is over. Anyone may.
	Enact struct{ Motion Motion }
)

// Target returns the contract that the action calls.
func (Delegate) Target() chain.Contract { return chain.Token }
func (Move) Target() chain.Contract     { return chain.Council }
func (Vote) Target() chain.Contract     { return chain.Council }
func (Queue) Target() chain.Contract    { return chain.Council }
func (Enact) Target() chain.Contract    { return chain.Council }

// governs makes the call data of a step of governance; nil is for other actions.
func (l *Ledger) governs(ctx context.Context, a chain.Action) ([]byte, error) {
	lists := func(m Motion) ([]common.Address, []*big.Int, [][]byte) {
		return []common.Address{address(m.To)}, []*big.Int{new(big.Int)}, [][]byte{m.Data}
	}
	if c := a.Target(); c == chain.Council && l.book.Contracts[c].IsZero() {
		return nil, fmt.Errorf("this deployment has no %s: its governor is an account", c)
	}
	switch a := a.(type) {
	case Delegate:
		return tokenABI.PackDelegate(address(a.To)), nil
	case Move:
		to, values, calls := lists(a.Motion)
		return councilABI.PackPropose(to, values, calls, a.Motion.Why), nil
	case Vote:
		id, err := l.motionID(ctx, a.Motion)
		if err != nil {
			return nil, err
		}
		return councilABI.PackCastVote(id, uint8(a.Ballot)), nil
	case Queue:
		to, values, calls := lists(a.Motion)
		return councilABI.PackQueue(to, values, calls, a.Motion.reason()), nil
	case Enact:
		to, values, calls := lists(a.Motion)
		return councilABI.PackExecute(to, values, calls, a.Motion.reason()), nil
	}
	return nil, nil
}

// Votes is what an account could vote with in a motion made now.
func (l *Ledger) Votes(ctx context.Context, account chain.Address) (chain.Amount, error) {
	return view(ctx, l, l.at(chain.Token), tokenABI.PackGetVotes(address(account)), tokenABI.UnpackGetVotes)
}

// A Ballot is a vote on a motion.
type Ballot uint8

// Ballots as OpenZeppelin's GovernorCountingSimple numbers them.
const (
	Against Ballot = iota
	For
	Abstain
)

func (l *Ledger) motionID(ctx context.Context, m Motion) (*big.Int, error) {
	data := councilABI.PackGetProposalId([]common.Address{address(m.To)}, []*big.Int{new(big.Int)}, [][]byte{m.Data}, m.reason())
	return view(ctx, l, l.at(chain.Council), data, councilABI.UnpackGetProposalId)
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

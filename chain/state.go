package chain

import (
	"fmt"
	"slices"
)

// Config is how a deployment is set up. All times are seconds.
type Config struct {
	Holder        Address `json:"holder"` // of the whole supply at first
	Supply        Amount  `json:"supply"`
	Governor      Address `json:"governor"` // zero: a council of token holders behind a timelock
	Guardian      Address `json:"guardian"` // may pause
	UnbondDelay   uint64  `json:"unbondDelay"`
	Minimum       Amount  `json:"minimum"` // of a validator's stake, to propose
	Bond          Amount  `json:"bond"`    // of a proposer
	ChallengeBond Amount  `json:"challengeBond"`
	ClaimWindow   uint64  `json:"claimWindow"` // after a run's end, in which epochs can still be settled
	CloseDelay    uint64  `json:"closeDelay"`  // of a channel
	Params        Params  `json:"params"`
}

// DefaultConfig suits a public chain: a day to challenge, three weeks to leave.
func DefaultConfig(holder Address) Config {
	const hour, day = 3600, 24 * 3600
	return Config{
		Holder: holder, Supply: Coins(1_000_000_000), Guardian: holder,
		UnbondDelay: 21 * day, Minimum: Coins(1000), Bond: Coins(100), ChallengeBond: Coins(50),
		ClaimWindow: 14 * day, CloseDelay: day,
		Params: Params{
			ChallengeWindow: day, AnswerWindow: 6 * hour, CommitWindow: day, RevealWindow: 12 * hour,
			AppealWindow: day, RulingWindow: 10 * day, SlashBps: 3000, ChallengerBps: 4000, AbsentBps: 100,
		},
	}
}

// DevConfig is DefaultConfig with the pace of a person at a terminal: fifteen
// seconds to challenge, as long to vote and to reveal, two minutes to leave.
func DevConfig(holder Address) Config {
	c := DefaultConfig(holder)
	c.UnbondDelay, c.ClaimWindow, c.CloseDelay = 120, 60, 10
	c.Params = Params{ChallengeWindow: 15, AnswerWindow: 10, CommitWindow: 15, RevealWindow: 15,
		AppealWindow: 10, RulingWindow: 50, SlashBps: 3000, ChallengerBps: 4000, AbsentBps: 100}
	return c
}

// State is the contracts' rules as a value. Apply carries out one action or
// refuses it, for the reason that the contracts give, and then nothing has
// changed. It is what the contracts are tested against.
type State struct {
	Time uint64 // seconds; the caller moves it, never back

	book Book
	cfg  Config

	balance   map[Address]Amount
	allowance map[[2]Address]Amount
	paused    map[Contract]bool
	guardians map[Contract]Address
	events    []Event

	stakes map[stakeKey]*stake
	total  [2]trace
	keys   map[Address]KeyInfo
	nonces map[Address]uint64

	runs      map[Hash]*runState
	proposals map[Hash]*Proposal
	finals    map[Hash]Final
	claimed   map[accountOf]Amount
	bonds     map[Address]Amount // free ones

	demands     map[demandKey]*demand
	cases       map[Hash]*Case
	challenging map[accountOf]uint64
	commits     map[voteKey]Hash
	convicted   map[Hash]bool
	sentences   map[Hash]*Sentence
	appellants  map[Hash]Address // of sentences

	channels  map[Hash]*Channel
	opened    uint64
	royalties map[Hash]Amount
}

type (
	accountOf struct {
		run     Hash
		account Address
	}
	stakeKey struct {
		account Address
		role    uint8
	}
	demandKey struct {
		run    Hash
		serial uint64
		side   Side
		index  uint64
	}
	demand struct {
		challenger Address
		deadline   uint64
		done       bool
	}
	voteKey struct {
		run    Hash
		serial uint64
		voter  Address
	}
)

// NewState returns the state just after a deployment at time now.
func NewState(cfg Config, book Book, now uint64) (*State, error) {
	s := &State{
		Time: now, book: book, cfg: cfg,
		balance: map[Address]Amount{cfg.Holder: val(cfg.Supply)}, allowance: map[[2]Address]Amount{},
		paused: map[Contract]bool{}, guardians: map[Contract]Address{Staking: cfg.Guardian, Runs: cfg.Guardian, Settlement: cfg.Guardian, Vouchers: cfg.Guardian},
		stakes: map[stakeKey]*stake{}, keys: map[Address]KeyInfo{},
		nonces: map[Address]uint64{}, runs: map[Hash]*runState{}, proposals: map[Hash]*Proposal{},
		finals: map[Hash]Final{}, claimed: map[accountOf]Amount{}, bonds: map[Address]Amount{}, demands: map[demandKey]*demand{},
		cases: map[Hash]*Case{}, challenging: map[accountOf]uint64{}, commits: map[voteKey]Hash{},
		convicted: map[Hash]bool{}, sentences: map[Hash]*Sentence{}, appellants: map[Hash]Address{}, channels: map[Hash]*Channel{}, royalties: map[Hash]Amount{},
	}
	for _, a := range []Amount{cfg.Supply, cfg.Minimum, cfg.Bond, cfg.ChallengeBond} {
		if !fits(a) {
			return nil, fmt.Errorf("amount %s of the deployment's config is not below 2^128", val(a))
		}
	}
	if err := s.checkParams(cfg.Params); err != nil {
		return nil, fmt.Errorf("params of the deployment's config: %w", err)
	}
	return s, nil
}

// Apply carries out a as from.
func (s *State) Apply(from Address, a Action) (Result, error) {
	var id Hash
	var err error
	switch a := a.(type) {
	case Approve:
		s.allowance[[2]Address{from, s.book.Contracts[a.Spender]}] = val(a.Amount)
	case Transfer:
		err = s.transfer(from, a.To, a.Amount)
	case Stake:
		err = s.stake(from, a)
	case Unbond:
		err = s.unbond(from, a)
	case Withdraw:
		err = s.withdraw(from, a.Role)
	case RegisterKey:
		err = s.registerKey(from, a)
	case RevokeKey:
		err = s.revokeKey(from, a.Key)
	case Publish:
		id, err = s.publish(from, a)
	case SetRate:
		err = s.setRate(from, a)
	case Fund:
		err = s.fund(from, a)
	case PauseRun:
		err = s.pauseRun(from, a)
	case EndRun:
		err = s.endRun(from, a.Run)
	case Refund:
		err = s.refund(a.Run)
	case DepositBond:
		err = s.depositBond(from, a.Amount)
	case WithdrawBond:
		err = s.withdrawBond(from, a.Amount)
	case Propose:
		err = s.propose(from, &a.Epoch)
	case FinalizeFast:
		err = s.finalizeFast(a)
	case Finalize:
		err = s.finalize(&a.Epoch)
	case Claim:
		err = s.claim(a)
	case ProveReceipt, ProveDuplicate, ProveRewards, ProveDecrease:
		err = s.prove(from, a)
	case Demand:
		err = s.demand(from, a)
	case AnswerReward:
		err = s.answerReward(from, a)
	case AnswerReceipt:
		err = s.answerReceipt(from, a)
	case Expire:
		err = s.expire(a)
	case Reclaim:
		err = s.reclaim(a)
	case Dispute:
		err = s.dispute(from, a)
	case CommitVote:
		err = s.commitVote(from, a)
	case RevealVote:
		err = s.revealVote(from, a)
	case Decide:
		err = s.decide(a.Run)
	case Appeal:
		err = s.appeal(from, a.Run)
	case Rule:
		err = s.rule(from, a)
	case Execute:
		err = s.execute(a.Run)
	case PunishAbsent:
		err = s.punishAbsent(from, a)
	case Abandon:
		err = s.abandon(a.Run)
	case Report:
		err = s.report(from, a)
	case Convict:
		err = s.convict(a)
	case AppealConviction:
		err = s.appealConviction(from, a.ID)
	case RuleConviction:
		err = s.ruleConviction(from, a)
	case ExecuteConviction:
		err = s.executeConviction(a.ID)
	case MintShares:
		err = s.mintShares(a)
	case TransferShares:
		err = s.transferShares(from, a)
	case Collect:
		err = s.collect(a)
	case OpenChannel:
		id, err = s.openChannel(from, a)
	case TopUp:
		err = s.topUp(from, a)
	case Redeem:
		err = s.redeem(a)
	case RequestClose:
		err = s.requestClose(from, a.Channel)
	case CloseChannel:
		err = s.closeChannel(from, a.Channel)
	case Flush:
		err = s.flush(a)
	case Pause:
		err = s.pause(from, a.Contract)
	case Unpause:
		err = s.unpause(from, a.Contract)
	case SetGuardian:
		if from != s.cfg.Governor {
			err = refuse("NotGovernor")
		} else {
			s.guardians[a.Contract] = a.Guardian
		}
	case SetParams:
		if from != s.cfg.Governor {
			err = refuse("NotGovernor")
		} else if err = s.checkParams(a.Params); err == nil {
			s.cfg.Params = a.Params
		}
	case SetMinimum:
		if from != s.cfg.Governor {
			err = refuse("NotGovernor")
		} else {
			s.cfg.Minimum = val(a.Minimum)
		}
	default:
		err = fmt.Errorf("the ledger knows no action %T", a)
	}
	return Result{ID: id}, err
}

func (s *State) emit(e Event) { s.events = append(s.events, e) }

func (s *State) checkParams(p Params) error {
	if !p.Within(s.cfg.UnbondDelay) {
		return refuse("BadParams")
	}
	return nil
}

// Within says whether the contracts take the parameters where unbonding takes so many seconds: no
// dispute may outlast it.
func (p Params) Within(unbond uint64) bool {
	sum := uint64(p.ChallengeWindow) + uint64(p.AnswerWindow) + uint64(p.CommitWindow) +
		uint64(p.RevealWindow) + uint64(p.AppealWindow) + uint64(p.RulingWindow)
	return p.ChallengeWindow > 0 && p.AnswerWindow > 0 && p.CommitWindow > 0 && p.RevealWindow > 0 &&
		p.SlashBps <= 10_000 && p.ChallengerBps <= 5_000 && p.AbsentBps <= 1_000 && sum < unbond
}

func (s *State) pause(from Address, c Contract) error {
	switch {
	case from != s.cfg.Governor && from != s.guardians[c]:
		return refuse("NotGovernor")
	case s.paused[c]:
		return refuse("EnforcedPause")
	}
	s.paused[c] = true
	return nil
}

func (s *State) unpause(from Address, c Contract) error {
	switch {
	case from != s.cfg.Governor:
		return refuse("NotGovernor")
	case !s.paused[c]:
		return refuse("ExpectedPause")
	}
	s.paused[c] = false
	return nil
}

// Tokens.

func (s *State) transfer(from, to Address, a Amount) error {
	if to.IsZero() {
		return refuse("ERC20InvalidReceiver")
	}
	if less(s.balance[from], a) {
		return refuse("ERC20InsufficientBalance")
	}
	s.balance[from] = sub(s.balance[from], a)
	s.balance[to] = add(s.balance[to], a)
	return nil
}

// canTake says whether c can take a of from's tokens, who would by then have
// gained extra.
func (s *State) canTake(from Address, c Contract, a, extra Amount) error {
	if less(s.allowance[[2]Address{from, s.book.Contracts[c]}], a) {
		return refuse("ERC20InsufficientAllowance")
	}
	if less(add(s.balance[from], extra), a) {
		return refuse("ERC20InsufficientBalance")
	}
	return nil
}

// unlimited is the allowance that spending does not lower.
var unlimited = add(new(bigInt).Lsh(Int(1), 256), Int(-1))

// Unlimited is an Approve amount that does not run out.
func Unlimited() Amount { return unlimited }

func (s *State) take(from Address, c Contract, a Amount) error {
	if err := s.canTake(from, c, a, nil); err != nil {
		return err
	}
	k := [2]Address{from, s.book.Contracts[c]}
	if s.allowance[k].Cmp(unlimited) != 0 {
		s.allowance[k] = sub(s.allowance[k], a)
	}
	return s.transfer(from, s.book.Contracts[c], a)
}

// give pays out of c's balance. The contracts never owe what they do not have;
// were that wrong, Books would show it.
func (s *State) give(c Contract, to Address, a Amount) {
	at := s.book.Contracts[c]
	s.balance[at] = sub(s.balance[at], a)
	s.balance[to] = add(s.balance[to], a)
}

func (s *State) burn(c Contract, a Amount) {
	at := s.book.Contracts[c]
	s.balance[at] = sub(s.balance[at], a)
}

// A trace is a value with its history: Checkpoints.Trace208.
type trace []point

type point struct {
	key   uint64
	value Amount
}

func (t trace) last() Amount {
	if len(t) == 0 {
		return new(bigInt)
	}
	return t[len(t)-1].value
}

// at is the value of the last point with a key of at most k.
func (t trace) at(k uint64) Amount {
	for _, p := range slices.Backward(t) {
		if p.key <= k {
			return p.value
		}
	}
	return new(bigInt)
}

func (t *trace) push(k uint64, v Amount) {
	if n := len(*t); n > 0 && (*t)[n-1].key == k {
		(*t)[n-1].value = v
		return
	}
	*t = append(*t, point{k, v})
}

package evm

import (
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/chaintest"
)

func TestCouncil(t *testing.T)      { councilStory(t, embedded) }
func TestCouncilAnvil(t *testing.T) { councilStory(t, onAnvil(t)) }

// councilStory takes a parameter, a limit and an appeal from motion to deed.
func councilStory(t *testing.T, make chaintest.Maker) {
	ks := testKeys(t, 4)
	holder, big5, small, val := chain.AddressOf(ks[0]), chain.AddressOf(ks[1]), chain.AddressOf(ks[2]), chain.AddressOf(ks[3])
	cfg := chain.DefaultConfig(holder)
	w := make(t, cfg, ks)
	l, ok := w.Ledger.(*Ledger)
	if !ok {
		t.Fatal("no EVM")
	}
	ctx := t.Context()
	do := func(from chain.Address, a chain.Action) chain.Result {
		t.Helper()
		r, err := l.Do(ctx, from, a)
		if err != nil {
			t.Fatalf("%T: %v", a, err)
		}
		return r
	}
	fine := func(_ chain.Result, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(reason string) func(chain.Result, error) {
		return func(_ chain.Result, err error) {
			t.Helper()
			var r *chain.Refusal
			if !errors.As(err, &r) || r.Reason != reason {
				t.Fatalf("%v, want %s", err, reason)
			}
		}
	}
	advance := func(d time.Duration) { w.Advance(t, uint64(d/time.Second)+1) }
	state := func(m Motion, want MotionState) MotionInfo {
		t.Helper()
		i, err := l.Motion(ctx, m)
		if err != nil || i.State != want {
			t.Fatalf("the motion is %s (%v), want %s", i.State, err, want)
		}
		return i
	}
	motion := func(a chain.Action, why string) Motion {
		t.Helper()
		m, err := l.MotionFor(ctx, a, why)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	do(holder, chain.Transfer{To: big5, Amount: chain.Coins(50_000_000)}) // 5 %
	do(holder, chain.Transfer{To: small, Amount: chain.Coins(1_000_000)})
	do(holder, chain.Transfer{To: val, Amount: chain.Coins(10_000)})
	delay, period, lock, err := l.CouncilTimes(ctx)
	if err != nil || delay <= 0 || delay+period+period/2+lock > time.Duration(cfg.Params.RulingWindow)*time.Second {
		t.Fatalf("%s, %s and %s (%v) do not fit in the time for a ruling", delay, period, lock, err)
	}

	p := cfg.Params
	p.ChallengerBps = 1234
	m := motion(chain.SetParams{Params: p}, "challengers get less")
	if _, err := l.MotionFor(ctx, chain.Stake{}, ""); err == nil {
		t.Error("a motion to stake")
	}
	refused("NotGovernor")(l.Do(ctx, big5, chain.SetParams{Params: p}))
	refused("GovernorNonexistentProposal")(chain.Result{}, func() error { _, err := l.Motion(ctx, m); return err }())
	refused("GovernorInsufficientProposerVotes")(l.Do(ctx, big5, Move{m})) // nothing is delegated
	fine(l.Do(ctx, big5, Delegate{big5}))
	fine(l.Do(ctx, small, Delegate{small}))
	advance(time.Second)
	if v, err := l.Votes(ctx, big5); err != nil || v.Cmp(chain.Coins(50_000_000)) != 0 {
		t.Fatalf("votes %s, %v", v, err)
	}
	fine(l.Do(ctx, big5, Move{m}))
	state(m, MotionPending)
	refused("GovernorUnexpectedProposalState")(l.Do(ctx, big5, Vote{m, For}))
	advance(delay)
	do(holder, chain.Transfer{To: small, Amount: chain.Coins(60_000_000)}) // too late for this motion
	fine(l.Do(ctx, big5, Vote{m, For}))
	refused("GovernorAlreadyCastVote")(l.Do(ctx, big5, Vote{m, For}))
	fine(l.Do(ctx, small, Vote{m, Against}))
	refused("GovernorUnexpectedProposalState")(l.Do(ctx, big5, Queue{m}))
	i := state(m, MotionActive)
	if i.For.Cmp(chain.Coins(50_000_000)) != 0 || i.Required.Cmp(chain.Coins(40_000_000)) != 0 {
		t.Fatalf("%+v", i)
	}
	advance(period + period/2) // late votes prolong it
	state(m, MotionSucceeded)
	refused("GovernorUnexpectedProposalState")(l.Do(ctx, val, Enact{m}))
	fine(l.Do(ctx, val, Queue{m})) // anybody
	refused("TimelockUnexpectedOperationState")(l.Do(ctx, val, Enact{m}))
	if i := state(m, MotionQueued); i.Ready == 0 {
		t.Error("no time at which it is ready")
	}
	advance(lock)
	fine(l.Do(ctx, val, Enact{m}))
	state(m, MotionExecuted)
	if got, err := l.Params(ctx); err != nil || got != p {
		t.Fatalf("params %+v (%v), want %+v", got, err, p)
	}
	refused("GovernorUnexpectedProposalState")(l.Do(ctx, val, Enact{m}))

	// too few votes decide nothing, and what is out of bounds is not carried out
	few := motion(chain.SetMinimum{Minimum: chain.Coins(1)}, "few")
	p.RulingWindow = 40 * 24 * 3600
	bad := motion(chain.SetParams{Params: p}, "disputes longer than unbonding")
	fine(l.Do(ctx, big5, Move{few}))
	fine(l.Do(ctx, big5, Move{bad}))
	advance(delay)
	fine(l.Do(ctx, big5, Vote{bad, For}))
	fine(l.Do(ctx, val, Vote{few, For})) // nothing delegated: no weight
	advance(period + period/2)
	state(few, MotionDefeated)
	fine(l.Do(ctx, big5, Queue{bad}))
	advance(lock)
	refused("BadParams")(l.Do(ctx, big5, Enact{bad}))

	// a case that the validators left open is ruled on
	for _, c := range []chain.Contract{chain.Staking, chain.Settlement} {
		do(val, chain.Approve{Spender: c, Amount: chain.Unlimited()})
	}
	do(val, chain.Stake{Role: chain.Validator, Amount: chain.Coins(1000)})
	do(val, chain.DepositBond{Amount: cfg.Bond})
	do(small, chain.Approve{Spender: chain.Disputes, Amount: chain.Unlimited()})
	do(holder, chain.Approve{Spender: chain.Runs, Amount: chain.Unlimited()})
	now, err := l.Now(ctx)
	if err != nil {
		t.Fatal(err)
	}
	run := do(holder, chain.Publish{Manifest: chain.Hash{1}, Start: now + 60, Length: 3600, Rate: chain.Rate{Budget: chain.Coins(10), Split: [4]uint16{10_000}}}).ID
	do(holder, chain.Fund{Run: run, Amount: chain.Coins(100)})
	advance(2 * time.Hour)
	x := &chain.Settled{Epoch: chain.Epoch{Run: run, Number: 1, Amounts: [4]chain.Amount{chain.Coins(10), new(big.Int), new(big.Int), new(big.Int)}},
		Rewards: chain.Rewards(map[chain.Address]chain.Amount{val: chain.Coins(10)}), Entries: []chain.Entry{{Receipt: chain.Receipt{Run: run, Epoch: 1, Units: 1}}}}
	if err := x.Seal(l.Book()); err != nil {
		t.Fatal(err)
	}
	do(val, chain.Propose{Epoch: x.Epoch})
	do(small, chain.Dispute{Epoch: x.Epoch, Evidence: chain.Hash{2}})
	advance(time.Duration(p.CommitWindow+p.RevealWindow) * time.Second)
	do(small, chain.Decide{Run: run})
	rule := motion(chain.Rule{Run: run, Serial: 1, Guilty: true}, "the epoch pays for nothing")
	fine(l.Do(ctx, big5, Move{rule}))
	advance(delay)
	fine(l.Do(ctx, big5, Vote{rule, For}))
	advance(period + period/2)
	fine(l.Do(ctx, big5, Queue{rule}))
	advance(lock)
	fine(l.Do(ctx, small, Enact{rule}))
	if p, err := l.Proposal(ctx, run); err != nil || p.Status != chain.Rejected {
		t.Fatalf("the proposal is %s, %v", p.Status, err)
	}
	if s, err := l.StakeOf(ctx, val, chain.Validator); err != nil || s.Active.Cmp(chain.Coins(700)) != 0 {
		t.Fatalf("the proposer has %s (%v), want 700", chain.FormatAmount(s.Active), err)
	}
}

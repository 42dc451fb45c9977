package chaintest

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/shoalnet/shoal/chain"
)

// Random walks a ledger and a chain.State with the same random actions, most of
// which are refused, and compares every answer and, now and then, everything
// that can be read. The seed gives the walk.
func Random(t *testing.T, make Maker, seed uint64, steps int) {
	s := newScene(t, make)
	s.publish(1)
	rng := rand.New(rand.NewPCG(seed, 4))
	oracle := mirror(s)
	x := s.settled()
	bad := s.lie(func(x *chain.Settled) { x.Entries[2].Receipt.Units++ })
	var channel chain.Hash
	happened := 0
	for step := range steps {
		who := []int{sponsor, governor, val1, val2, val3, val4, work1, payer, stranger}[rng.IntN(9)]
		p, err := s.Ledger.Proposal(s.ctx, s.run)
		must(s, p, err)
		pick := x
		if rng.IntN(3) == 0 {
			pick = bad
		}
		n := chain.Coins(rng.Int64N(120))
		role, i := uint8(rng.IntN(2)), rng.IntN(len(x.Rewards))
		target := s.at([]int{val1, val2, work1, stranger}[rng.IntN(4)])
		guilty := rng.IntN(2) == 0
		var a chain.Action
		switch rng.IntN(37) {
		case 0:
			a = chain.Stake{Role: role, Amount: n}
		case 1:
			a = chain.Unbond{Role: role, Amount: n}
		case 2:
			a = chain.Withdraw{Role: role}
		case 3:
			a = chain.Fund{Run: s.run, Amount: n}
		case 4:
			a = chain.PauseRun{Run: s.run, Paused: rng.IntN(4) == 0}
		case 5, 6, 7:
			a = chain.Propose{Epoch: pick.Epoch}
		case 8:
			a = chain.FinalizeFast{Epoch: pick.Epoch, Sigs: s.sign(&pick.Epoch, []int{hot1, hot2, hot3, hot4}[:rng.IntN(5)]...)}
		case 9:
			a = chain.Finalize{Epoch: pick.Epoch}
		case 10, 11:
			a = chain.Claim{Run: s.run, Reward: x.Rewards[i], Proof: x.RewardProof(i)}
		case 12:
			a = chain.ProveReceipt{Epoch: pick.Epoch, Entry: pick.Entries[2], Proof: pick.EntryProof(2)}
		case 13:
			a = chain.ProveRewards{Epoch: pick.Epoch, A: pick.Rewards[i], ProofA: pick.RewardProof(i), B: pick.Rewards[0], ProofB: pick.RewardProof(0)}
		case 14:
			a = chain.Demand{Epoch: pick.Epoch, Side: chain.Side(rng.IntN(2)), Index: uint64(rng.IntN(3))}
		case 15:
			j := rng.IntN(3)
			a = chain.AnswerReceipt{Epoch: pick.Epoch, Entry: pick.Entries[j], Proof: pick.EntryProof(j)}
		case 16:
			j := rng.IntN(3)
			a = chain.AnswerReward{Epoch: pick.Epoch, Reward: pick.Rewards[j], Proof: pick.RewardProof(j)}
		case 17:
			a = chain.Expire{Epoch: pick.Epoch, Side: chain.Side(rng.IntN(2)), Index: uint64(rng.IntN(3))}
		case 18:
			a = chain.Reclaim{Run: s.run, Serial: p.Serial, Side: chain.Side(rng.IntN(2)), Index: uint64(rng.IntN(3))}
		case 19:
			a = chain.Dispute{Epoch: pick.Epoch, Evidence: chain.Hash{1}}
		case 20, 21:
			a = s.vote(who, guilty, 1)
		case 22, 23:
			a = chain.RevealVote{Run: s.run, Guilty: guilty, Salt: chain.Hash{1}}
		case 24:
			a = chain.Decide{Run: s.run}
		case 25:
			a = chain.Appeal{Run: s.run}
		case 26:
			who = governor
			a = chain.Rule{Run: s.run, Serial: p.Serial, Guilty: guilty}
		case 27:
			a = chain.Execute{Run: s.run}
		case 28:
			a = chain.Abandon{Run: s.run}
		case 29:
			a = chain.MintShares{Run: s.run, Account: target}
		case 30:
			a = chain.TransferShares{Run: s.run, To: target, Amount: n}
		case 31:
			if a = chain.Action(chain.OpenChannel{Run: s.run, Provider: target, Amount: n}); channel != (chain.Hash{}) {
				a = chain.Redeem{Channel: channel, Cumulative: n, Sig: chain.SignDigest(s.keys[payer], s.Ledger.Book().VoucherDigest(channel, n))}
			}
		case 32:
			f := chain.Flush{Run: s.run}
			if channel != (chain.Hash{}) && rng.IntN(2) == 0 {
				f.Channels = []chain.Hash{channel}
			}
			a = f
		case 33:
			a = chain.Collect{Run: s.run, Holder: target}
		default:
			a = s.randomConviction(rng, &who)
		}
		switch a.(type) { // who may at all
		case chain.Propose, chain.CommitVote, chain.RevealVote, chain.Unbond:
			if who < val1 || who > val4 {
				who = val1 + rng.IntN(2)
			}
			if _, ok := a.(chain.CommitVote); ok {
				a = s.vote(who, guilty, 1)
			}
		case chain.Fund, chain.PauseRun:
			who = sponsor
		case chain.OpenChannel:
			who = payer
		}
		if rng.IntN(6) == 0 {
			s.advance(uint64(1 + rng.IntN(45)))
		}
		r, err := s.Ledger.Do(s.ctx, s.at(who), a)
		want, wantErr := oracle.Do(s.ctx, s.at(who), a)
		if reason(err) != reason(wantErr) {
			t.Fatalf("seed %d, step %d: %T by %d: %v; the state machine says %v", seed, step, a, who, err, wantErr)
		}
		if err == nil {
			happened++
			if r.ID != want.ID {
				t.Fatalf("seed %d, step %d: %T gave %s, want %s", seed, step, a, r.ID, want.ID)
			}
			if _, ok := a.(chain.OpenChannel); ok && who == payer {
				channel = r.ID
			}
		}
		s.balanced()
		if step%10 == 9 {
			compare(s, oracle)
		}
	}
	if happened < steps/10 {
		t.Fatalf("only %d of %d actions were allowed: the walk tests little", happened, steps)
	}
}

func reason(err error) string {
	var r *chain.Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	if err != nil {
		return "error: " + err.Error()
	}
	return ""
}

// A follower is a Memory that keeps the time of another ledger.
type follower struct {
	*chain.Memory
	s    *scene
	time uint64
}

// mirror replays what newScene and publish did on a ledger in memory.
func mirror(s *scene) *follower {
	rec, ok := s.Ledger.(*recorder)
	if !ok {
		s.Fatal("the walk needs a recorded ledger")
	}
	m, err := chain.NewMemory(s.cfg, s.Ledger.Book(), 0)
	must(s, m, err)
	f := &follower{Memory: m, s: s}
	for _, d := range rec.done {
		f.Advance(d.time - f.time)
		f.time = d.time
		if _, err := m.Do(s.ctx, d.from, d.action); err != nil {
			s.Fatalf("replay of %T: %v", d.action, err)
		}
	}
	return f
}

// Do does what the other ledger has just done, at the same time.
func (f *follower) Do(ctx context.Context, from chain.Address, a chain.Action) (chain.Result, error) {
	now := f.s.Ledger.(*recorder).last
	f.Advance(now - f.time)
	f.time = now
	return f.Memory.Do(ctx, from, a)
}

// A recorder keeps what was done to a ledger, and when.
type recorder struct {
	chain.Ledger
	done []done
	last uint64 // the time at which the last action was judged
}

type done struct {
	time   uint64
	from   chain.Address
	action chain.Action
}

// Judged is implemented by ledgers that can say at which time the last action,
// refused or not, was judged; others are asked for Now.
type Judged interface{ JudgedAt() uint64 }

func (r *recorder) Do(ctx context.Context, from chain.Address, a chain.Action) (chain.Result, error) {
	res, err := r.Ledger.Do(ctx, from, a)
	if j, ok := r.Ledger.(Judged); ok {
		r.last = j.JudgedAt()
	} else if now, e := r.Ledger.Now(ctx); e == nil {
		r.last = now
	}
	if err == nil {
		r.done = append(r.done, done{r.last, from, a})
	}
	return res, err
}

// compare holds everything that can be read to the oracle.
func compare(s *scene, oracle chain.Ledger) {
	s.Helper()
	for i := sponsor; i <= stranger; i++ {
		a, err := s.Ledger.Balance(s.ctx, s.at(i))
		must(s, a, err)
		b, _ := oracle.Balance(s.ctx, s.at(i))
		s.amount("balance", a, b)
		for role := range uint8(2) {
			a, err := s.Ledger.StakeOf(s.ctx, s.at(i), role)
			must(s, a, err)
			b, _ := oracle.StakeOf(s.ctx, s.at(i), role)
			s.amount("stake", a.Active, b.Active)
			if len(a.Leaving) != len(b.Leaving) {
				s.Fatalf("%d unbondings, want %d", len(a.Leaving), len(b.Leaving))
			}
			for k := range a.Leaving {
				s.amount("unbonding", a.Leaving[k].Amount, b.Leaving[k].Amount)
			}
		}
		sa, err := s.Ledger.SharesOf(s.ctx, s.run, s.at(i))
		must(s, sa, err)
		sb, _ := oracle.SharesOf(s.ctx, s.run, s.at(i))
		s.amount("shares", sa.Balance, sb.Balance)
		s.amount("owed", sa.Owed, sb.Owed)
	}
	pa, err := s.Ledger.Proposal(s.ctx, s.run)
	must(s, pa, err)
	if pb, _ := oracle.Proposal(s.ctx, s.run); pa != pb {
		s.Fatalf("proposal %+v, want %+v", pa, pb)
	}
	ra, err := s.Ledger.Run(s.ctx, s.run)
	must(s, ra, err)
	rb, _ := oracle.Run(s.ctx, s.run)
	s.amount("pool", ra.Pool, rb.Pool)
	s.amount("unclaimed", ra.Unclaimed, rb.Unclaimed)
	ca, err := s.Ledger.Case(s.ctx, s.run)
	must(s, ca, err)
	cb, _ := oracle.Case(s.ctx, s.run)
	if ca.Stage != cb.Stage || ca.Verdict != cb.Verdict || ca.StageEnd != cb.StageEnd || ca.Guilty.Cmp(cb.Guilty) != 0 {
		s.Fatalf("case %+v, want %+v", ca, cb)
	}
}

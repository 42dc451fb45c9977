// Package chaintest is the conformance suite of chain.Ledger: the same stories
// and the same attacks on every ledger, with the books balanced after every
// step, and a random walk that holds a ledger to chain.State action by action.
package chaintest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A World is a fresh deployment with accounts to act in it.
type World struct {
	Ledger chain.Ledger
	// Advance moves the ledger's time on by at least so many seconds.
	Advance func(t testing.TB, seconds uint64)
}

// A Maker deploys to a fresh ledger. It holds the keys of every account, and on
// an EVM funds them with gas.
type Maker func(t testing.TB, cfg chain.Config, accounts []*wire.Key) World

// Accounts of the stories.
const (
	sponsor = iota // holds the supply, publishes and pays
	governor
	val1 // validators with stake 400, 300, 200 and 100
	val2
	val3
	val4
	work1 // workers
	work2
	work3
	payer
	stranger
	hot1 // hot keys of val1 to val4 and work1 to work3
	hot2
	hot3
	hot4
	hotw1
	hotw2
	hotw3
	accounts
)

func keys(t testing.TB) []*wire.Key {
	t.Helper()
	ks := make([]*wire.Key, accounts)
	for i := range ks {
		k, err := wire.NewKey(slices.Repeat([]byte{byte(0x11 + i)}, 32))
		if err != nil {
			t.Fatal(err)
		}
		ks[i] = k
	}
	return ks
}

// config has short windows: challenge 60 s, answer 30, commit 30, reveal 30,
// appeal 30, ruling 60; unbonding takes 600 s.
func config(ks []*wire.Key) chain.Config {
	c := chain.DefaultConfig(chain.AddressOf(ks[sponsor]))
	c.Governor, c.Guardian = chain.AddressOf(ks[governor]), chain.AddressOf(ks[governor])
	c.UnbondDelay, c.ClaimWindow, c.CloseDelay, c.Minimum = 600, 300, 60, chain.Coins(100)
	c.Params.ChallengeWindow, c.Params.AnswerWindow, c.Params.CommitWindow = 60, 30, 30
	c.Params.RevealWindow, c.Params.AppealWindow, c.Params.RulingWindow = 30, 30, 60
	return c
}

// A scene is one test's world with its actors and its run.
type scene struct {
	testing.TB
	World
	ctx   context.Context
	cfg   chain.Config
	keys  []*wire.Key
	runs  []chain.Hash
	run   chain.Hash
	rate  chain.Rate
	last  *chain.Settled // finalized
	epoch uint64
}

func (s *scene) at(i int) chain.Address { return chain.AddressOf(s.keys[i]) }

// do carries out an action that must succeed and balances the books.
func (s *scene) do(who int, a chain.Action) chain.Result {
	s.Helper()
	r, err := s.Ledger.Do(s.ctx, s.at(who), a)
	if err != nil {
		s.Fatalf("%T by %d: %v", a, who, err)
	}
	s.balanced()
	return r
}

// refused carries out an action that must be refused for the reason given.
func (s *scene) refused(who int, a chain.Action, reason string) {
	s.Helper()
	_, err := s.Ledger.Do(s.ctx, s.at(who), a)
	var r *chain.Refusal
	if !errors.As(err, &r) || r.Reason != reason {
		s.Fatalf("%T by %d: %v, want %s", a, who, err, reason)
	}
	s.balanced()
}

func (s *scene) balanced() {
	s.Helper()
	lines, err := s.Ledger.Books(s.ctx, s.runs...)
	if err != nil {
		s.Fatal(err)
	}
	for _, l := range lines {
		if l.Has.Cmp(l.Owes) != 0 {
			s.Fatalf("%s has %s and owes %s", l.Contract, l.Has, l.Owes)
		}
	}
}

func (s *scene) advance(seconds uint64) { s.Advance(s.TB, seconds) }

func must[T any](s *scene, v T, err error) T {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
	return v
}

func (s *scene) balance(i int) chain.Amount {
	s.Helper()
	v, err := s.Ledger.Balance(s.ctx, s.at(i))
	return must(s, v, err)
}

// amount fails unless got is want.
func (s *scene) amount(what string, got, want chain.Amount) {
	s.Helper()
	if got.Cmp(want) != 0 {
		s.Fatalf("%s: %s, want %s", what, got, want)
	}
}

// newScene deploys and gives everybody tokens, approvals, keys and stakes.
func newScene(t testing.TB, make Maker) *scene {
	t.Helper()
	ks := keys(t)
	cfg := config(ks)
	s := &scene{TB: t, ctx: t.Context(), cfg: cfg, keys: ks, World: make(t, cfg, ks)}
	s.Ledger = &recorder{Ledger: s.Ledger}
	for i := governor; i <= stranger; i++ {
		s.do(sponsor, chain.Transfer{To: s.at(i), Amount: chain.Coins(10_000)})
	}
	for i := sponsor; i <= stranger; i++ {
		if i == governor {
			continue
		}
		for _, c := range []chain.Contract{chain.Staking, chain.Runs, chain.Settlement, chain.Disputes, chain.Vouchers, chain.Convictions} {
			if wants(i, c) {
				s.do(i, chain.Approve{Spender: c, Amount: chain.Unlimited()})
			}
		}
	}
	for i, stake := range []int64{400, 300, 200, 100} {
		s.do(val1+i, chain.Stake{Role: chain.Validator, Amount: chain.Coins(stake)})
		s.do(val1+i, chain.DepositBond{Amount: chain.Coins(500)}) // five bonds
		s.register(val1+i, hot1+i)
	}
	for i := range 3 {
		s.register(work1+i, hotw1+i)
	}
	s.do(work1, chain.Stake{Role: chain.Trainer, Amount: chain.Coins(50)})
	return s
}

// wants spares approvals that no story uses: each is a transaction.
func wants(i int, c chain.Contract) bool {
	switch c {
	case chain.Staking:
		return i >= val1 && i <= work3
	case chain.Runs:
		return i == sponsor || i == stranger
	case chain.Settlement:
		return i >= val1 && i <= val4 || i == stranger
	case chain.Convictions:
		return i == val1 || i == val4 || i == work1
	case chain.Disputes:
		return i >= val1 && i <= val4 || i == stranger || i == payer
	}
	return i == payer
}

func (s *scene) register(owner, hot int) {
	s.Helper()
	now, err := s.Ledger.Now(s.ctx)
	must(s, now, err)
	nonce, err := s.Ledger.KeyNonce(s.ctx, s.at(owner))
	must(s, nonce, err)
	deadline := now + 1000
	sig := chain.SignDigest(s.keys[hot], s.Ledger.Book().KeyDigest(s.at(owner), s.at(hot), nonce, deadline))
	s.do(owner, chain.RegisterKey{Key: s.at(hot), Deadline: deadline, Sig: sig})
}

// publish makes a run with epochs of 100 s and 100 coins, whose pool is 1,000,
// and lets its first epoch pass.
func (s *scene) publish(manifest byte) {
	s.Helper()
	now, err := s.Ledger.Now(s.ctx)
	must(s, now, err)
	s.rate = chain.Rate{Budget: chain.Coins(100), Split: [4]uint16{7000, 1500, 1000, 500}}
	r := s.do(sponsor, chain.Publish{Manifest: chain.Hash{manifest}, Start: now + 50, Length: 100, Royalty: 1000, Shares: true, Rate: s.rate})
	s.run = chain.RunID(chain.Hash{manifest}, s.at(sponsor))
	if r.ID != s.run {
		s.Fatalf("run %s, want %s", r.ID, s.run)
	}
	s.runs = append(s.runs, s.run)
	s.do(sponsor, chain.Fund{Run: s.run, Amount: chain.Coins(1000)})
	s.epoch, s.last = 0, nil
	s.nextEpoch()
}

// nextEpoch waits until the next epoch is over.
func (s *scene) nextEpoch() {
	s.Helper()
	s.epoch++
	r, err := s.Ledger.Run(s.ctx, s.run)
	must(s, r, err)
	now, err := s.Ledger.Now(s.ctx)
	must(s, now, err)
	if _, end := r.Span(s.epoch); now < end {
		s.advance(end - now)
	}
}

// receipts are what three workers did in the present epoch.
func (s *scene) receipts() []chain.Entry {
	b := s.Ledger.Book()
	var es []chain.Entry
	for i := range 3 {
		for j := range 2 {
			es = append(es, b.SignReceipt(s.keys[hotw1+i], chain.Receipt{Run: s.run, Epoch: s.epoch, Kind: chain.Kind(j),
				Subject: chain.Hash{byte(s.epoch), byte(i), byte(j)}, Units: uint64(1000 * (i + 1))}))
		}
	}
	return append(es, b.SignReceipt(s.keys[hot1], chain.Receipt{Run: s.run, Epoch: s.epoch, Kind: chain.Validation, Subject: chain.Hash{byte(s.epoch), 99}, Units: 3}))
}

func (s *scene) basis() chain.Basis {
	before := map[chain.Address]chain.Amount{}
	if s.last != nil {
		for _, r := range s.last.Rewards {
			before[r.Account] = r.Amount
		}
	}
	owners := map[chain.Address]chain.Address{}
	for i := range 4 {
		owners[s.at(hot1+i)] = s.at(val1 + i)
	}
	for i := range 3 {
		owners[s.at(hotw1+i)] = s.at(work1 + i)
	}
	run, err := s.Ledger.Run(s.ctx, s.run)
	must(s, run, err)
	return chain.Basis{Book: s.Ledger.Book(), Run: s.run, Number: s.epoch, Commit: chain.Hash{0xc0, byte(s.epoch)}, Sponsor: s.at(sponsor),
		Rate: s.rate, Pool: run.Pool, Before: before, Owner: func(k chain.Address) (chain.Address, bool) { o, ok := owners[k]; return o, ok }}
}

// settled is the right outcome of the present epoch.
func (s *scene) settled() *chain.Settled {
	s.Helper()
	x, _, err := chain.Settle(s.basis(), s.receipts())
	return must(s, x, err)
}

// lie is the right outcome, changed and sealed again.
func (s *scene) lie(change func(*chain.Settled)) *chain.Settled {
	s.Helper()
	x := s.settled()
	total := x.Epoch.Total
	change(x)
	if err := x.Seal(s.Ledger.Book()); err != nil {
		s.Fatal(err)
	}
	x.Epoch.Total = total // what the chain checks against the amounts
	return x
}

// finalize proposes x and finalizes it by the validators' signatures.
func (s *scene) finalize(x *chain.Settled) {
	s.Helper()
	s.do(val1, chain.Propose{Epoch: x.Epoch})
	s.do(stranger, chain.FinalizeFast{Epoch: x.Epoch, Sigs: s.sign(&x.Epoch, hot1, hot2)})
	s.last = x
}

// finalizeSlow proposes x and waits until nobody has objected.
func (s *scene) finalizeSlow(proposer int, x *chain.Settled) {
	s.Helper()
	s.do(proposer, chain.Propose{Epoch: x.Epoch})
	s.advance(61)
	s.do(stranger, chain.Finalize{Epoch: x.Epoch})
	s.last = x
}

// sign collects hot keys' signatures in the order that the contract wants.
func (s *scene) sign(e *chain.Epoch, hot ...int) [][]byte {
	slices.SortFunc(hot, func(a, b int) int {
		x, y := s.at(a-hot1+val1), s.at(b-hot1+val1)
		return slices.Compare(x[:], y[:])
	})
	var sigs [][]byte
	for _, h := range hot {
		sigs = append(sigs, chain.SignDigest(s.keys[h], s.Ledger.Book().EpochDigest(e)))
	}
	return sigs
}

func (s *scene) claim(x *chain.Settled, who int) chain.Claim {
	i := x.Find(s.at(who))
	if i < 0 {
		s.Fatalf("account %d has no reward", who)
	}
	return chain.Claim{Run: s.run, Reward: x.Rewards[i], Proof: x.RewardProof(i)}
}

// Suite runs every story on ledgers that make makes.
func Suite(t *testing.T, make Maker) {
	for _, c := range []struct {
		name string
		run  func(*scene)
	}{
		{"Epoch", epochStory}, {"Fast", fastStory}, {"Objective", objectiveStory}, {"Withheld", withheldStory},
		{"Committee", committeeStory}, {"Appeal", appealStory}, {"Stake", stakeStory}, {"Money", moneyStory},
		{"Vouchers", voucherStory}, {"Pause", pauseStory}, {"Convictions", convictionStory}, {"Self", selfStory},
		{"Leaver", leaverStory}, {"Turncoat", turncoatStory}, {"Power", powerStory}, {"Equivocation", equivocationStory},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(newScene(t, make)) })
	}
	t.Run("Random", func(t *testing.T) { Random(t, make, 1, 150) })
}

package chaintest

import (
	"math/big"
	"slices"

	"github.com/shoalnet/shoal/chain"
)

// epochStory is a whole epoch: a wrong root is challenged and slashed, a right
// one finalized by nobody's objection, workers claim, shares are minted, a
// voucher is paid through to their holders, and everybody leaves.
func epochStory(s *scene) {
	s.publish(1)
	wrong := s.lie(func(x *chain.Settled) { // work3 is paid what work1 earned, and the sums still fit
		i, j := x.Find(s.at(work1)), x.Find(s.at(work3))
		x.Rewards[i].Amount, x.Rewards[j].Amount = x.Rewards[j].Amount, x.Rewards[i].Amount
	})
	s.do(val4, chain.Propose{Epoch: wrong.Epoch})
	a, b := wrong.Find(s.at(work1)), 0
	for i := range wrong.Rewards { // the neighbours that do not fit
		if i+1 < len(wrong.Rewards) && new(big.Int).Add(wrong.Rewards[i].Before, wrong.Rewards[i].Amount).Cmp(wrong.Rewards[i+1].Before) != 0 {
			a, b = i, i+1
		}
	}
	before := s.balance(stranger)
	s.do(stranger, chain.ProveRewards{Epoch: wrong.Epoch, A: wrong.Rewards[a], ProofA: wrong.RewardProof(a), B: wrong.Rewards[b], ProofB: wrong.RewardProof(b)})
	// 40 % of the bond of 100 and of 30 % of the stake of 100; the rest is burned
	s.amount("challenger's part", new(big.Int).Sub(s.balance(stranger), before), chain.Coins(40+12))
	st, err := s.Ledger.StakeOf(s.ctx, s.at(val4), chain.Validator)
	s.amount("slashed stake", must(s, st, err).Active, chain.Coins(70))

	right := s.settled()
	s.do(val1, chain.Propose{Epoch: right.Epoch})
	s.refused(stranger, chain.ProveRewards{Epoch: right.Epoch, A: right.Rewards[0], ProofA: right.RewardProof(0), B: right.Rewards[1], ProofB: right.RewardProof(1)}, "Innocent")
	s.refused(work1, s.claim(right, work1), "BadProof") // not finalized yet
	s.refused(stranger, chain.Finalize{Epoch: right.Epoch}, "TooEarly")
	s.advance(61)
	s.do(stranger, chain.Finalize{Epoch: right.Epoch})
	s.last = right
	for i := range 3 {
		was := s.balance(work1 + i)
		s.do(stranger, s.claim(right, work1+i)) // anyone may claim for another
		s.amount("claimed", new(big.Int).Sub(s.balance(work1+i), was), right.Rewards[right.Find(s.at(work1+i))].Amount)
		s.refused(work1+i, s.claim(right, work1+i), "NothingToClaim")
		s.do(work1+i, chain.MintShares{Run: s.run, Account: s.at(work1 + i)})
		s.refused(work1+i, chain.MintShares{Run: s.run, Account: s.at(work1 + i)}, "NothingToMint")
	}

	ch := s.do(payer, chain.OpenChannel{Run: s.run, Provider: s.at(work2), Amount: chain.Coins(60)}).ID
	sig := chain.SignDigest(s.keys[payer], s.Ledger.Book().VoucherDigest(ch, chain.Coins(30)))
	was := s.balance(work2)
	s.do(stranger, chain.Redeem{Channel: ch, Cumulative: chain.Coins(30), Sig: sig})
	s.amount("provider's part", new(big.Int).Sub(s.balance(work2), was), chain.Coins(27))
	s.do(stranger, chain.Flush{Run: s.run, Channels: []chain.Hash{ch}})
	sum := new(big.Int)
	for i := range 3 {
		h, err := s.Ledger.SharesOf(s.ctx, s.run, s.at(work1+i))
		owed := must(s, h, err).Owed
		sum.Add(sum, owed)
		was := s.balance(work1 + i)
		s.do(work1+i, chain.Collect{Run: s.run, Holder: s.at(work1 + i)})
		s.amount("collected", new(big.Int).Sub(s.balance(work1+i), was), owed)
	}
	if d := new(big.Int).Sub(chain.Coins(3), sum); d.Sign() < 0 || d.Cmp(chain.Int(3)) > 0 {
		s.Fatalf("share holders got %s of a royalty of 3 coins", sum)
	}

	s.do(val1, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(400)})
	s.refused(val1, chain.Withdraw{Role: chain.Validator}, "NothingMatured")
	s.advance(601)
	s.do(val1, chain.Withdraw{Role: chain.Validator})
	s.do(val1, chain.WithdrawBond{Amount: chain.Coins(500)})
	s.amount("val1 in the end", s.balance(val1), chain.Coins(10_000))

	es, c, err := s.Ledger.Events(s.ctx, chain.Cursor{})
	must(s, es, err)
	var names []string
	for _, e := range es {
		if e.Run == s.run || e.Name == "Slashed" {
			names = append(names, e.Name)
		}
	}
	want := []string{"Published", "Funded", "Proposed", "Rejected", "Slashed", "Proposed", "Finalized", "Claimed", "Claimed", "Claimed"}
	if !slices.Equal(names, want) {
		s.Fatalf("events %v, want %v", names, want)
	}
	for _, e := range es {
		if e.Name == "Proposed" && e.Serial == 2 && e.Epoch.Hash() != right.Epoch.Hash() {
			s.Fatal("the event shows another epoch than was proposed")
		}
	}
	if more, _, err := s.Ledger.Events(s.ctx, c); err != nil || len(more) != 0 {
		s.Fatalf("events after the last: %v, %v", more, err)
	}
}

// fastStory finalizes by signatures, and tries every signature that must not count.
func fastStory(s *scene) {
	s.publish(2)
	x := s.settled()
	s.refused(work1, chain.Propose{Epoch: x.Epoch}, "NotValidator")
	s.do(hot2, chain.Approve{Spender: chain.Settlement, Amount: chain.Unlimited()})
	s.do(sponsor, chain.Transfer{To: s.at(hot2), Amount: chain.Coins(100)})
	s.refused(hot2, chain.Propose{Epoch: x.Epoch}, "NoBond")
	s.do(hot2, chain.DepositBond{Amount: chain.Coins(100)})
	s.do(hot2, chain.Propose{Epoch: x.Epoch}) // a hot key proposes for its owner
	s.refused(val1, chain.Propose{Epoch: x.Epoch}, "AlreadyProposed")
	fast := func(sigs [][]byte, reason string) {
		s.Helper()
		s.refused(stranger, chain.FinalizeFast{Epoch: x.Epoch, Sigs: sigs}, reason)
	}
	good := s.sign(&x.Epoch, hot1, hot2) // 700 of 1,000
	fast(good[:1], "TooFewVotes")
	fast([][]byte{good[0], good[0]}, "Unordered") // replayed
	fast([][]byte{good[1], good[0]}, "Unordered")
	order, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)
	high := slices.Clone(good[0]) // malleated
	new(big.Int).Sub(order, new(big.Int).SetBytes(high[32:64])).FillBytes(high[32:64])
	high[64] ^= 7
	fast([][]byte{high, good[1]}, "BadSignature")
	b := s.Ledger.Book()
	other := b
	other.ChainID++ // another chain's signatures are by unknown keys here
	d := other.EpochDigest(&x.Epoch)
	fast([][]byte{chain.SignDigest(s.keys[hot1], d), chain.SignDigest(s.keys[hot2], d)}, "KeyUnknown")
	y := x.Epoch
	y.Run[0] ^= 1 // another run's
	d = s.Ledger.Book().EpochDigest(&y)
	fast([][]byte{chain.SignDigest(s.keys[hot1], d), chain.SignDigest(s.keys[hot2], d)}, "KeyUnknown")
	d = s.Ledger.Book().EpochDigest(&x.Epoch)
	fast([][]byte{chain.SignDigest(s.keys[stranger], d), chain.SignDigest(s.keys[payer], d)}, "KeyUnknown") // wrong keys
	fast([][]byte{good[0][:64], good[1]}, "BadSignature")
	z := x.Epoch
	z.Commit[0] ^= 1
	s.refused(stranger, chain.FinalizeFast{Epoch: z, Sigs: good}, "WrongHash")
	count := func(keys ...int) chain.Quorum {
		s.Helper()
		var as []chain.Approval
		for _, k := range keys {
			as = append(as, b.Approve(s.keys[k], &x.Epoch))
		}
		q, err := chain.Count(s.ctx, s.Ledger, &x.Epoch, as)
		return must(s, q, err)
	}
	q := count(hot4, hot2, hot2, stranger, hotw1) // one twice, one unknown, one without stake
	if len(q.Sigs) != 2 || len(q.Refused) != 2 || q.Enough {
		s.Fatalf("counted %+v", q)
	}
	s.amount("weight", q.Weight, chain.Coins(400))
	s.amount("all stakes", q.Total, chain.Coins(1000))
	wrong := other.Approve(s.keys[hot1], &x.Epoch)
	forged := b.Approve(s.keys[hot1], &x.Epoch)
	forged.Key = s.at(hot2)
	q, err := chain.Count(s.ctx, s.Ledger, &x.Epoch, []chain.Approval{wrong, forged})
	if must(s, q, err); len(q.Sigs) != 0 || len(q.Refused) != 2 {
		s.Fatalf("counted %+v", q)
	}
	s.do(val2, chain.RevokeKey{Key: s.at(hot2)})
	fast(good, "KeyUnknown") // revoked
	if q = count(hot1, hot2); len(q.Sigs) != 1 || q.Enough {
		s.Fatalf("counted a revoked key: %+v", q)
	}
	if q = count(hot4, hot3, hot1); !q.Enough {
		s.Fatalf("800 of 1,000 are not enough: %+v", q)
	}
	s.do(stranger, chain.FinalizeFast{Epoch: x.Epoch, Sigs: q.Sigs})
	fast(good, "NotProposed")
	s.refused(val1, chain.Propose{Epoch: x.Epoch}, "WrongEpoch")
	s.refused(hot2, chain.WithdrawBond{Amount: chain.Coins(101)}, "NoBond")
	s.do(hot2, chain.WithdrawBond{Amount: chain.Coins(100)})
	s.amount("hot2 has its bond again", s.balance(hot2), chain.Coins(100))

	// a key serves one owner, once, by its own consent
	nonce, err := s.Ledger.KeyNonce(s.ctx, s.at(stranger))
	must(s, nonce, err)
	reg := func(k int, signer int, nonce, deadline uint64) chain.RegisterKey {
		return chain.RegisterKey{Key: s.at(k), Deadline: deadline, Sig: chain.SignDigest(s.keys[signer], b.KeyDigest(s.at(stranger), s.at(k), nonce, deadline))}
	}
	const later = 1 << 40
	s.refused(stranger, reg(hot2, hot2, nonce, later), "KeyTaken")
	s.refused(stranger, reg(payer, stranger, nonce, later), "BadSignature")
	s.refused(stranger, reg(payer, payer, nonce+1, later), "BadSignature")
	s.refused(stranger, reg(payer, payer, nonce, 5), "Expired")
	abroad := reg(payer, payer, nonce, later)
	abroad.Sig = chain.SignDigest(s.keys[payer], other.KeyDigest(s.at(stranger), s.at(payer), nonce, later))
	s.refused(stranger, abroad, "BadSignature")                       // on another chain
	s.refused(work2, reg(payer, payer, nonce, later), "BadSignature") // consent was to another owner
}

// objectiveStory convicts by one proof each of the ways to lie in a tree.
func objectiveStory(s *scene) {
	s.publish(3)
	proposer := val1 // each conviction takes 30 % of a stake
	stake := func() chain.Amount {
		st, err := s.Ledger.StakeOf(s.ctx, s.at(proposer), chain.Validator)
		return must(s, st, err).Active
	}
	convict := func(name string, x *chain.Settled, a chain.Action) {
		s.Helper()
		s.do(proposer, chain.Propose{Epoch: x.Epoch})
		was := stake()
		s.do(stranger, a)
		if now := stake(); now.Cmp(was) >= 0 {
			s.Fatalf("%s: not slashed", name)
		}
	}
	entry := func(name string, change func(e *chain.Entry)) {
		x := s.lie(func(x *chain.Settled) { change(&x.Entries[2]) })
		convict(name, x, chain.ProveReceipt{Epoch: x.Epoch, Entry: x.Entries[2], Proof: x.EntryProof(2)})
	}
	b := s.Ledger.Book()
	entry("bad signature", func(e *chain.Entry) { e.Receipt.Units++ })
	entry("unregistered worker", func(e *chain.Entry) { *e = with(b.SignReceipt(s.keys[stranger], e.Receipt), e.Index) })
	entry("another epoch", func(e *chain.Entry) {
		r := e.Receipt
		r.Epoch++
		*e = with(b.SignReceipt(s.keys[hotw1], r), e.Index)
	})
	proposer = val2
	x := s.lie(func(x *chain.Settled) { x.Entries[1] = with(x.Entries[0], 1) })
	convict("duplicate", x, chain.ProveDuplicate{Epoch: x.Epoch, A: x.Entries[0], ProofA: x.EntryProof(0), B: x.Entries[1], ProofB: x.EntryProof(1)})
	n := len(x.Rewards) - 1
	x = s.lie(func(x *chain.Settled) {
		x.Rewards[n].Amount = new(big.Int).Add(x.Rewards[n].Amount, chain.Int(1))
	})
	convict("sum over the total", x, chain.ProveRewards{Epoch: x.Epoch, A: x.Rewards[n], ProofA: x.RewardProof(n), B: x.Rewards[n], ProofB: x.RewardProof(n)})
	s.finalizeSlow(val1, s.settled())
	s.nextEpoch()
	x = s.lie(func(x *chain.Settled) { // somebody's past is cut, somebody else is given it
		x.Rewards[0].Amount = chain.Int(1)
	})
	convict("decrease", x, chain.ProveDecrease{Epoch: x.Epoch, Was: s.last.Rewards[0], ProofWas: s.last.RewardProof(0), Now: x.Rewards[0], ProofNow: x.RewardProof(0)})

	// what is not wrong convicts nobody, and what is over budget is never proposed
	x = s.settled()
	s.do(val2, chain.Propose{Epoch: x.Epoch})
	s.refused(stranger, chain.ProveReceipt{Epoch: x.Epoch, Entry: x.Entries[2], Proof: x.EntryProof(2)}, "Innocent")
	s.refused(stranger, chain.ProveReceipt{Epoch: x.Epoch, Entry: x.Entries[2], Proof: x.EntryProof(1)}, "BadProof")
	s.refused(stranger, chain.ProveDuplicate{Epoch: x.Epoch, A: x.Entries[0], ProofA: x.EntryProof(0), B: x.Entries[1], ProofB: x.EntryProof(1)}, "Innocent")
	s.refused(stranger, chain.ProveDuplicate{Epoch: x.Epoch, A: x.Entries[0], ProofA: x.EntryProof(0), B: x.Entries[0], ProofB: x.EntryProof(0)}, "Innocent")
	s.refused(stranger, chain.ProveDecrease{Epoch: x.Epoch, Was: s.last.Rewards[0], ProofWas: s.last.RewardProof(0), Now: x.Rewards[0], ProofNow: x.RewardProof(0)}, "Innocent")
	s.advance(61)
	s.do(stranger, chain.Finalize{Epoch: x.Epoch})
	s.last = x
	s.nextEpoch()
	over := s.settled().Epoch
	over.Amounts[chain.Trainers] = new(big.Int).Add(chain.Coins(70), chain.Int(1))
	s.refused(val2, chain.Propose{Epoch: over}, "OverBudget")
	over = s.settled().Epoch
	over.Total = new(big.Int).Add(over.Total, chain.Int(1))
	s.refused(val2, chain.Propose{Epoch: over}, "WrongTotal")
	over = s.settled().Epoch
	over.Count = 0
	s.refused(val2, chain.Propose{Epoch: over}, "EmptyTree")
	over = s.settled().Epoch
	over.Number++
	s.refused(val2, chain.Propose{Epoch: over}, "TooEarly")
}

func with(e chain.Entry, index uint64) chain.Entry {
	e.Index = index
	return e
}

// stakeStory: nobody outruns a slash.
func stakeStory(s *scene) {
	s.publish(7)
	bad := s.lie(func(x *chain.Settled) { x.Entries[2].Receipt.Units++ })
	s.do(val3, chain.Propose{Epoch: bad.Epoch})
	s.do(val3, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(190)})
	s.do(stranger, chain.ProveReceipt{Epoch: bad.Epoch, Entry: bad.Entries[2], Proof: bad.EntryProof(2)})
	st, err := s.Ledger.StakeOf(s.ctx, s.at(val3), chain.Validator)
	s.amount("active", must(s, st, err).Active, chain.Coins(0)) // 60 of 200: 10 active, 50 on its way out
	s.amount("leaving", st.Leaving[0].Amount, chain.Coins(140))
	x := s.settled()
	s.do(val1, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(400)}) // it still counts for the past
	s.do(val2, chain.Propose{Epoch: x.Epoch})
	s.do(stranger, chain.FinalizeFast{Epoch: x.Epoch, Sigs: s.sign(&x.Epoch, hot1, hot2)})
	s.last = x
	s.refused(val1, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(1)}, "NotEnoughStake")
	s.refused(val1, chain.Stake{Role: 2, Amount: chain.Coins(1)}, "BadRole")
	s.refused(val1, chain.Stake{Role: chain.Validator, Amount: chain.Int(0)}, "ZeroAmount")
	for range 9 {
		s.do(val4, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(1)})
	}
	s.do(val4, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(1)})
	s.refused(val4, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(1)}, "TooManyUnbondings")
	s.nextEpoch()
	s.nextEpoch()
	y := s.settled()
	s.refused(val1, chain.Propose{Epoch: y.Epoch}, "NotValidator") // left before the epoch began
	s.advance(601)
	was := s.balance(val1)
	s.do(val1, chain.Withdraw{Role: chain.Validator})
	s.amount("withdrawn", new(big.Int).Sub(s.balance(val1), was), chain.Coins(400))
}

// moneyStory: rates change for the future only, and an ended run's rest goes back.
func moneyStory(s *scene) {
	s.publish(8)
	s.refused(sponsor, chain.Publish{Manifest: chain.Hash{8}, Start: 1 << 40, Length: 100, Rate: s.rate}, "RunExists")
	s.refused(sponsor, chain.Publish{Manifest: chain.Hash{9}, Start: 5, Length: 100, Rate: s.rate}, "BadTerms")
	s.refused(stranger, chain.SetRate{Run: s.run, Rate: s.rate}, "NotSponsor")
	s.refused(stranger, chain.Fund{Run: chain.Hash{1}, Amount: chain.Coins(1)}, "RunUnknown")
	s.refused(sponsor, chain.SetRate{Run: s.run, Rate: chain.Rate{Budget: chain.Coins(1), Split: [4]uint16{1, 2, 3, 4}}}, "BadTerms")
	low := s.rate
	low.Budget = chain.Coins(10)
	s.do(sponsor, chain.SetRate{Run: s.run, Rate: low})
	one := s.settled() // epoch 1 is paid as it was promised
	s.finalize(one)
	s.do(work1, s.claim(one, work1))
	s.nextEpoch()
	s.nextEpoch() // the new rate began with the epoch after the change, skipping one is in order
	s.refused(val1, chain.Propose{Epoch: s.settled().Epoch}, "OverBudget")
	s.rate = low
	s.do(sponsor, chain.PauseRun{Run: s.run, Paused: true})
	s.refused(val1, chain.Propose{Epoch: s.settled().Epoch}, "RunPaused")
	s.refused(stranger, chain.Fund{Run: s.run, Amount: chain.Coins(1)}, "RunPaused")
	s.do(work2, s.claim(one, work2)) // never a withdrawal
	s.do(sponsor, chain.PauseRun{Run: s.run})
	three := s.settled()
	s.finalize(three)
	s.refused(work3, s.claim(one, work3), "BadProof") // only the last tree counts
	s.do(work3, s.claim(three, work3))
	s.do(work1, s.claim(three, work1))
	s.refused(work1, s.claim(three, work1), "NothingToClaim")
	s.do(stranger, chain.Fund{Run: s.run, Amount: chain.Coins(7)})
	s.do(sponsor, chain.EndRun{Run: s.run})
	s.refused(sponsor, chain.EndRun{Run: s.run}, "RunEnded")
	s.refused(sponsor, chain.Refund{Run: s.run}, "TooEarly")
	s.advance(401)
	s.epoch++
	s.refused(val1, chain.Propose{Epoch: s.settled().Epoch}, "RunEnded")
	r, err := s.Ledger.Run(s.ctx, s.run)
	pool := must(s, r, err).Pool
	was := s.balance(sponsor)
	s.do(stranger, chain.Refund{Run: s.run})
	s.amount("refund", new(big.Int).Sub(s.balance(sponsor), was), pool)
	s.refused(stranger, chain.Refund{Run: s.run}, "NothingToRefund")
	s.do(work2, s.claim(three, work2)) // what was earned waits without a deadline
	s.do(sponsor, s.claim(three, sponsor))
	s.do(val1, s.claim(three, val1))
	r, err = s.Ledger.Run(s.ctx, s.run)
	s.amount("nothing is left", must(s, r, err).Unclaimed, chain.Int(0))
}

// voucherStory: a channel pays what was signed, once.
func voucherStory(s *scene) {
	s.publish(9)
	ch := s.do(payer, chain.OpenChannel{Run: s.run, Provider: s.at(work1), Amount: chain.Coins(10)}).ID
	book := s.Ledger.Book()
	voucher := func(ch chain.Hash, n int64) chain.Redeem {
		return chain.Redeem{Channel: ch, Cumulative: chain.Coins(n), Sig: chain.SignDigest(s.keys[payer], book.VoucherDigest(ch, chain.Coins(n)))}
	}
	v := voucher(ch, 4)
	s.do(work1, v)
	s.refused(work1, v, "NothingToRedeem")
	high := voucher(ch, 5)
	order, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)
	new(big.Int).Sub(order, new(big.Int).SetBytes(high.Sig[32:64])).FillBytes(high.Sig[32:64])
	high.Sig[64] ^= 7
	s.refused(work1, high, "BadSignature")
	forged := voucher(ch, 5)
	forged.Sig = chain.SignDigest(s.keys[work1], book.VoucherDigest(ch, chain.Coins(5)))
	s.refused(work1, forged, "BadSignature")
	more := voucher(ch, 5)
	more.Cumulative = chain.Coins(6)
	s.refused(work1, more, "BadSignature")
	elsewhere := book // another chain, and another deployment on this one
	elsewhere.ChainID++
	abroad := voucher(ch, 5)
	abroad.Sig = chain.SignDigest(s.keys[payer], elsewhere.VoucherDigest(ch, chain.Coins(5)))
	s.refused(work1, abroad, "BadSignature")
	elsewhere = chain.Book{ChainID: book.ChainID, Contracts: map[chain.Contract]chain.Address{chain.Vouchers: {1}}}
	abroad.Sig = chain.SignDigest(s.keys[payer], elsewhere.VoucherDigest(ch, chain.Coins(5)))
	s.refused(work1, abroad, "BadSignature")
	s.refused(work1, voucher(ch, 11), "OverDeposit")
	s.do(payer, chain.TopUp{Channel: ch, Amount: chain.Coins(5)})
	s.refused(work1, chain.RequestClose{Channel: ch}, "NotPayer")
	s.refused(payer, chain.CloseChannel{Channel: ch}, "TooEarly")
	s.do(payer, chain.RequestClose{Channel: ch})
	s.refused(payer, chain.CloseChannel{Channel: ch}, "TooEarly")
	s.do(work1, voucher(ch, 11)) // in time
	s.advance(61)
	was := s.balance(payer)
	s.do(payer, chain.CloseChannel{Channel: ch})
	s.amount("rest", new(big.Int).Sub(s.balance(payer), was), chain.Coins(4))
	s.refused(work1, voucher(ch, 12), "NoChannel")
	again := s.do(payer, chain.OpenChannel{Run: s.run, Provider: s.at(work1), Amount: chain.Coins(10)}).ID
	old := voucher(ch, 9)
	old.Channel = again // another channel's voucher
	s.refused(work1, old, "BadSignature")
	s.do(work1, chain.CloseChannel{Channel: again}) // the provider may at once

	// royalties that come before the first share wait for it
	s.do(stranger, chain.Flush{Run: s.run})
	s.refused(stranger, chain.Flush{Run: s.run, Channels: nil}, "NothingToFlush")
	s.finalize(s.settled())
	for i := range 2 {
		s.do(work1+i, s.claim(s.last, work1+i))
		s.do(work1+i, chain.MintShares{Run: s.run, Account: s.at(work1 + i)})
	}
	s.refused(stranger, chain.Collect{Run: s.run, Holder: s.at(work1)}, "NothingToCollect")
	ch = s.do(payer, chain.OpenChannel{Run: s.run, Provider: s.at(work1), Amount: chain.Coins(10)}).ID
	s.do(work1, voucher(ch, 10))
	s.refused(stranger, chain.Flush{Run: chain.Hash{1}, Channels: []chain.Hash{ch}}, "WrongRun")
	s.do(stranger, chain.Flush{Run: s.run, Channels: []chain.Hash{ch, ch}})
	h, err := s.Ledger.SharesOf(s.ctx, s.run, s.at(work1))
	must(s, h, err)
	s.do(work1, chain.TransferShares{Run: s.run, To: s.at(stranger), Amount: h.Balance}) // revenue of the past stays
	g, err := s.Ledger.SharesOf(s.ctx, s.run, s.at(stranger))
	s.amount("the buyer is owed", must(s, g, err).Owed, chain.Int(0))
	g, err = s.Ledger.SharesOf(s.ctx, s.run, s.at(work1))
	s.amount("the seller is owed", must(s, g, err).Owed, h.Owed)
	s.do(stranger, chain.Collect{Run: s.run, Holder: s.at(work1)})
	s.refused(work1, chain.TransferShares{Run: s.run, To: s.at(stranger), Amount: chain.Int(1)}, "ERC20InsufficientBalance")
}

// pauseStory: a pause stops deposits and proposals, never withdrawals.
func pauseStory(s *scene) {
	s.publish(10)
	x := s.settled()
	s.finalize(x)
	ch := s.do(payer, chain.OpenChannel{Run: s.run, Provider: s.at(work1), Amount: chain.Coins(10)}).ID
	s.do(val4, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(5)})
	s.refused(stranger, chain.Pause{Contract: chain.Staking}, "NotGovernor")
	for _, c := range []chain.Contract{chain.Staking, chain.Runs, chain.Settlement, chain.Vouchers} {
		s.do(governor, chain.Pause{Contract: c})
	}
	s.refused(governor, chain.Pause{Contract: chain.Runs}, "EnforcedPause")
	s.refused(val1, chain.Stake{Role: chain.Validator, Amount: chain.Coins(1)}, "EnforcedPause")
	s.refused(sponsor, chain.Fund{Run: s.run, Amount: chain.Coins(1)}, "EnforcedPause")
	s.refused(payer, chain.OpenChannel{Run: s.run, Provider: s.at(work1), Amount: chain.Coins(1)}, "EnforcedPause")
	s.refused(payer, chain.TopUp{Channel: ch, Amount: chain.Coins(1)}, "EnforcedPause")
	s.nextEpoch()
	s.refused(val1, chain.Propose{Epoch: s.settled().Epoch}, "EnforcedPause")
	s.do(work1, s.claim(x, work1))
	s.do(work1, chain.MintShares{Run: s.run, Account: s.at(work1)})
	s.do(work1, chain.CloseChannel{Channel: ch})
	s.do(val3, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(5)})
	s.advance(601)
	s.do(val4, chain.Withdraw{Role: chain.Validator})
	s.refused(stranger, chain.Unpause{Contract: chain.Staking}, "NotGovernor")
	s.do(governor, chain.Unpause{Contract: chain.Staking})
	s.do(val1, chain.Stake{Role: chain.Validator, Amount: chain.Coins(1)})
	p := s.cfg.Params
	p.RulingWindow = 600 // disputes could outlast unbonding
	s.refused(governor, chain.SetParams{Params: p}, "BadParams")
	p = s.cfg.Params
	p.ChallengerBps = 5001 // accusers would gain more than is lost
	s.refused(governor, chain.SetParams{Params: p}, "BadParams")
	p.ChallengerBps = 1000
	s.refused(stranger, chain.SetParams{Params: p}, "NotGovernor")
	s.do(governor, chain.SetParams{Params: p})
	got, err := s.Ledger.Params(s.ctx)
	if must(s, got, err) != p {
		s.Fatalf("params %+v, want %+v", got, p)
	}
	s.do(governor, chain.SetMinimum{Minimum: chain.Coins(500)})
}

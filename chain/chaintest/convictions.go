package chaintest

import (
	"math/big"
	"math/rand/v2"
	"slices"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// offence is a conviction of a hot key's owner for the n-th piece of work.
func (s *scene) offence(hot int, n byte) chain.Conviction {
	return chain.Conviction{Run: s.run, Key: s.at(hot), Subject: chain.Hash{n}, Evidence: chain.Hash{0xee, n}, Bps: 3000}
}

// convict is the report of c with the signatures of validators' hot keys.
func (s *scene) convict(c chain.Conviction, hot ...int) chain.Convict {
	hot = slices.Clone(hot)
	slices.SortFunc(hot, func(a, b int) int {
		x, y := s.at(a-hot1+val1), s.at(b-hot1+val1)
		return slices.Compare(x[:], y[:])
	})
	a := chain.Convict{Conviction: c}
	for _, h := range hot {
		a.Sigs = append(a.Sigs, chain.SignDigest(s.keys[h], s.Ledger.Book().ConvictionDigest(&c)))
	}
	return a
}

func (s *scene) sentence(c chain.Conviction) chain.Sentence {
	s.Helper()
	x, err := s.Ledger.Sentence(s.ctx, c.ID())
	return must(s, x, err)
}

func (s *scene) slashable(who int, role uint8) chain.Amount {
	s.Helper()
	x, err := s.Ledger.StakeOf(s.ctx, s.at(who), role)
	return must(s, x, err).Slashable()
}

// convictionStory slashes for what only a replay can show: by two thirds of the
// validators' stake and after a time to appeal, never by fewer, never at once.
func convictionStory(s *scene) {
	s.publish(1)
	c := s.offence(hotw1, 1)

	// who may not convict
	s.refused(val1, s.convict(c), "TooFewVotes")
	s.refused(val1, s.convict(c, hot1), "TooFewVotes")       // one alone, 400 of 1,000
	s.refused(val1, s.convict(c, hot1, hot3), "TooFewVotes") // 600 of 1,000
	twice := s.convict(c, hot1, hot2)
	twice.Sigs = append(twice.Sigs, twice.Sigs[1])
	s.refused(val1, twice, "Unordered")
	turned := s.convict(c, hot1, hot2)
	slices.Reverse(turned.Sigs)
	s.refused(val1, turned, "Unordered")
	cold := s.convict(c, hot1, hot2)
	cold.Sigs[0] = chain.SignDigest(s.keys[val1], s.Ledger.Book().ConvictionDigest(&c))
	s.refused(val1, cold, "KeyUnknown")
	forged := s.convict(c, hot1, hot2)
	forged.Sigs[0][64] = 29
	s.refused(val1, forged, "BadSignature")
	s.refused(val1, chain.Convict{Conviction: c, Sigs: [][]byte{twice.Sigs[0][:64]}}, "BadSignature")
	for _, change := range []func(*chain.Conviction){
		func(c *chain.Conviction) { c.Bps = 2999 }, func(c *chain.Conviction) { c.Evidence[5] = 1 }, func(c *chain.Conviction) { c.Key = s.at(hotw2) },
	} {
		other := s.convict(c, hot1, hot2) // signed for something else
		change(&other.Conviction)
		s.refused(val1, other, "KeyUnknown")
	}
	for _, bps := range []uint16{0, chain.MaxConvictionBps + 1} {
		x := c
		x.Bps = bps
		s.refused(val1, s.convict(x, hot1, hot2, hot3), "BadConviction")
	}
	x := c
	x.Run = chain.Hash{77}
	s.refused(val1, s.convict(x, hot1, hot2, hot3), "RunUnknown")
	now, err := s.Ledger.Now(s.ctx)
	must(s, now, err)
	x.Run = s.do(sponsor, chain.Publish{Manifest: chain.Hash{55}, Start: now + 10_000, Length: 100, Rate: s.rate}).ID
	s.refused(val1, s.convict(x, hot1, hot2, hot3), "TooEarly")
	// stake of this minute counts against, and not for
	s.do(stranger, chain.Approve{Spender: chain.Staking, Amount: chain.Unlimited()})
	s.do(stranger, chain.Stake{Role: chain.Validator, Amount: chain.Coins(9000)})
	s.refused(val1, s.convict(c, hot1, hot2, hot3, hot4), "TooFewVotes")
	s.do(stranger, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(9000)})

	// the report, the time to appeal, the slash: half to the run, half burned
	s.do(stranger, s.convict(c, hot1, hot2))
	s.refused(stranger, s.convict(c, hot1, hot2, hot3), "AlreadyConvicted")
	if x := s.sentence(c); x.Phase != chain.Reported || x.Account != s.at(work1) || x.Run != s.run || x.Bps != 3000 {
		s.Fatalf("sentence %+v", x)
	}
	s.refused(stranger, chain.ExecuteConviction{ID: c.ID()}, "TooEarly")
	s.refused(stranger, chain.AppealConviction{ID: c.ID()}, "NotAccused")
	s.refused(governor, chain.RuleConviction{ID: c.ID(), Guilty: false}, "WrongPhase")
	s.do(work1, chain.Unbond{Role: chain.Trainer, Amount: chain.Coins(50)}) // leaving does not help
	s.advance(31)
	s.refused(work1, chain.AppealConviction{ID: c.ID()}, "TooLate")
	run, err := s.Ledger.Run(s.ctx, s.run)
	pool := must(s, run, err).Pool
	was := s.balance(val1)
	s.do(stranger, chain.ExecuteConviction{ID: c.ID()})
	s.amount("stake of the convicted", s.slashable(work1, chain.Trainer), chain.Coins(35))
	run, err = s.Ledger.Run(s.ctx, s.run)
	gained := new(big.Int).Sub(must(s, run, err).Pool, pool)
	s.amount("part of the run", new(big.Int).Lsh(gained, 1), chain.Coins(15))
	s.amount("a judge's gain", s.balance(val1), was)
	s.refused(stranger, chain.ExecuteConviction{ID: c.ID()}, "WrongPhase")
	s.refused(stranger, s.convict(c, hot1, hot2, hot3), "AlreadyConvicted")
	s.refused(stranger, chain.ExecuteConviction{ID: chain.Hash{1}}, "WrongPhase")

	// an appeal that helps
	a := s.offence(hot4, 2)
	s.do(stranger, s.convict(a, hot1, hot2, hot3))
	was = s.balance(val4)
	s.do(val4, chain.AppealConviction{ID: a.ID()})
	s.refused(val4, chain.AppealConviction{ID: a.ID()}, "WrongPhase")
	s.amount("bond of an appeal", new(big.Int).Sub(was, s.balance(val4)), chain.Coins(100))
	s.refused(val4, chain.RuleConviction{ID: a.ID(), Guilty: false}, "NotGovernor")
	s.do(governor, chain.RuleConviction{ID: a.ID(), Guilty: false})
	s.amount("bond of an appeal, returned", s.balance(val4), was)
	s.amount("stake after it", s.slashable(val4, chain.Validator), chain.Coins(100))
	s.refused(stranger, s.convict(a, hot1, hot2, hot3), "AlreadyConvicted")
	s.refused(stranger, chain.ExecuteConviction{ID: a.ID()}, "WrongPhase")

	// one that does not, and one that nobody rules on
	for n, rule := range []bool{true, false} {
		a := s.offence(hot4, byte(3+n))
		s.do(stranger, s.convict(a, hot1, hot2, hot3))
		s.do(val4, chain.AppealConviction{ID: a.ID()})
		before := s.slashable(val4, chain.Validator)
		if rule {
			s.do(governor, chain.RuleConviction{ID: a.ID(), Guilty: true})
		} else {
			s.refused(stranger, chain.ExecuteConviction{ID: a.ID()}, "TooEarly")
			s.advance(61)
			s.refused(governor, chain.RuleConviction{ID: a.ID(), Guilty: false}, "TooLate")
			s.do(stranger, chain.ExecuteConviction{ID: a.ID()})
		}
		lost := new(big.Int).Sub(before, s.slashable(val4, chain.Validator))
		s.amount("lost", new(big.Int).Mul(lost, big.NewInt(10)), new(big.Int).Mul(before, big.NewInt(3)))
		if x := s.sentence(a); x.Phase != chain.Punished {
			s.Fatalf("sentence %+v", x)
		}
	}

	// Two signatures convict by themselves whatever the validators have signed: the two
	// contracts know nothing of each other. So validators sign nothing where two signatures do (package agent).
	both := s.offence(hotw2, 5)
	both.Bps = chain.MaxConvictionBps
	s.do(stranger, s.convict(both, hot1, hot2))
	s.advance(31)
	s.do(stranger, chain.ExecuteConviction{ID: both.ID()})
	whole := s.slashable(work2, chain.Trainer)
	parent := wire.SumCID(wire.CodecDagCBOR, []byte("parent"))
	var votes []wire.Signed
	for round := range uint64(2) {
		b, err := wire.Marshal(&diloco.Vote{Parent: parent, Round: 7, Final: parent, FinalRound: round})
		votes = append(votes, s.keys[hotw2].Sign(wire.KindVote, parent, must(s, b, err)))
	}
	s.do(stranger, chain.NewReport(votes[0], votes[1]))
	s.amount("half, and half of the rest", new(big.Int).Lsh(s.slashable(work2, chain.Trainer), 1), whole)

	// a run that takes no more money gets none: all is burned
	last := s.offence(hotw1, 9)
	s.do(stranger, s.convict(last, hot1, hot2))
	s.do(sponsor, chain.EndRun{Run: s.run})
	s.advance(31)
	run, err = s.Ledger.Run(s.ctx, s.run)
	pool = must(s, run, err).Pool
	s.do(stranger, chain.ExecuteConviction{ID: last.ID()})
	run, err = s.Ledger.Run(s.ctx, s.run)
	s.amount("pool of an ended run", must(s, run, err).Pool, pool)

	es, _, err := s.Ledger.Events(s.ctx, chain.Cursor{})
	must(s, es, err)
	guilty, innocent := 0, 0
	for _, e := range es {
		if e.Name == "ConvictionClosed" && e.Guilty {
			guilty++
		} else if e.Name == "ConvictionClosed" {
			innocent++
		}
	}
	if guilty != 5 || innocent != 1 {
		s.Errorf("events tell of %d slashes and %d dismissals, want 5 and 1", guilty, innocent)
	}
}

// selfStory is an account that keeps no second key: it signs for itself.
func selfStory(s *scene) {
	now, err := s.Ledger.Now(s.ctx)
	must(s, now, err)
	reg := func(owner, key int, nonce uint64) chain.RegisterKey {
		return chain.RegisterKey{Key: s.at(key), Deadline: now + 1000, Sig: chain.SignDigest(s.keys[key], s.Ledger.Book().KeyDigest(s.at(owner), s.at(key), nonce, now+1000))}
	}
	s.do(stranger, chain.Approve{Spender: chain.Staking, Amount: chain.Unlimited()})
	s.do(stranger, chain.Stake{Role: chain.Validator, Amount: chain.Coins(100)})
	s.refused(payer, reg(payer, stranger, 0), "KeyTaken") // one that has staked becomes nobody else's
	s.do(stranger, reg(stranger, stranger, 0))
	s.refused(stranger, reg(stranger, stranger, 1), "KeyTaken")
	s.do(stranger, chain.Stake{Role: chain.Validator, Amount: chain.Coins(100)}) // and it may still stake
	s.refused(hot1, chain.Stake{Role: chain.Validator, Amount: chain.Coins(1)}, "KeyTaken")
	k, err := s.Ledger.Key(s.ctx, s.at(stranger))
	if must(s, k, err).Owner != s.at(stranger) || !k.Served(now, now+1000) {
		s.Fatalf("key %+v", k)
	}
	// Its receipts are paid, and its signature counts.
	s.publish(1)
	s.rate.Split = [4]uint16{7000, 1500, 1000, 500}
	r := s.Ledger.Book().SignReceipt(s.keys[stranger], chain.Receipt{Run: s.run, Epoch: 1, Subject: chain.Hash{5}, Units: 10})
	b := s.basis()
	owner := b.Owner
	b.Owner = func(k chain.Address) (chain.Address, bool) {
		if k == s.at(stranger) {
			return k, true
		}
		return owner(k)
	}
	x, _, err := chain.Settle(b, append(s.receipts(), r))
	must(s, x, err)
	i := slices.IndexFunc(x.Entries, func(e chain.Entry) bool { return e.Receipt.Worker == s.at(stranger) })
	s.do(val1, chain.Propose{Epoch: x.Epoch})
	s.refused(val2, chain.ProveReceipt{Epoch: x.Epoch, Entry: x.Entries[i], Proof: x.EntryProof(i)}, "Innocent")
	q, err := chain.Count(s.ctx, s.Ledger, &x.Epoch, []chain.Approval{
		s.Ledger.Book().Approve(s.keys[stranger], &x.Epoch), s.Ledger.Book().Approve(s.keys[hot1], &x.Epoch), s.Ledger.Book().Approve(s.keys[hot2], &x.Epoch)})
	if must(s, q, err); !q.Enough || len(q.Sigs) != 3 {
		s.Fatalf("quorum %+v", q)
	}
	s.do(payer, chain.FinalizeFast{Epoch: x.Epoch, Sigs: q.Sigs})
	s.do(payer, s.claim(x, stranger))
	// Revoked, it signs no more, and still acts and answers for itself.
	s.do(stranger, chain.RevokeKey{Key: s.at(stranger)})
	s.do(stranger, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(50)})
	c := s.offence(stranger, 4)
	s.do(val1, s.convict(c, hot1, hot2, hot3))
	s.advance(31)
	s.do(val1, chain.ExecuteConviction{ID: c.ID()})
	s.amount("slashed", s.slashable(stranger, chain.Validator), chain.Coins(140))
}

// randomConviction is a step of the walk: about one of three offences.
func (s *scene) randomConviction(rng *rand.Rand, who *int) chain.Action {
	c := s.offence([]int{hot1, hot4, hotw1}[rng.IntN(3)], byte(1+rng.IntN(3)))
	switch rng.IntN(4) {
	case 0:
		*who = []int{val1, val4, work1}[rng.IntN(3)]
		return chain.AppealConviction{ID: c.ID()}
	case 1:
		*who = governor
		return chain.RuleConviction{ID: c.ID(), Guilty: rng.IntN(2) == 0}
	case 2:
		return chain.ExecuteConviction{ID: c.ID()}
	}
	return s.convict(c, []int{hot1, hot2, hot3, hot4}[:rng.IntN(5)]...)
}

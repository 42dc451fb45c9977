package chaintest

import (
	"math/big"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// leaverStory: who has left, and whoever found a key that was revoked, puts
// nobody's stake at risk.
func leaverStory(s *scene) {
	s.publish(11)
	x := s.settled()
	s.do(val2, chain.RevokeKey{Key: s.at(hot2)})
	s.do(sponsor, chain.Transfer{To: s.at(hot2), Amount: chain.Coins(100)})
	s.do(hot2, chain.Approve{Spender: chain.Settlement, Amount: chain.Unlimited()})
	s.do(hot2, chain.DepositBond{Amount: chain.Coins(100)})
	s.refused(hot2, chain.Propose{Epoch: x.Epoch}, "KeyUnknown") // a thief's proposal would cost val2

	// val3 leaves, waits until it can go at once, and only then would propose a lie
	s.do(val3, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(200)})
	s.refused(val3, chain.Propose{Epoch: x.Epoch}, "NotValidator")
	s.advance(601)
	s.refused(val3, chain.Propose{Epoch: x.Epoch}, "NotValidator")
	s.do(val3, chain.Withdraw{Role: chain.Validator})

	s.do(val1, chain.Propose{Epoch: x.Epoch})
	s.do(stranger, chain.Dispute{Epoch: x.Epoch, Evidence: chain.Hash{1}})
	s.refused(hot2, s.vote(val2, true, 1), "KeyUnknown")
	s.do(val2, s.vote(val2, false, 1))
	s.do(hot1, s.vote(val1, false, 1))
	s.do(val1, chain.RevokeKey{Key: s.at(hot1)})
	s.advance(31)
	s.refused(hot1, chain.RevealVote{Run: s.run, Salt: chain.Hash{1}}, "KeyUnknown")
	s.do(val1, chain.RevealVote{Run: s.run, Salt: chain.Hash{1}}) // the owner can
	s.do(val2, chain.RevealVote{Run: s.run, Salt: chain.Hash{1}})
	s.advance(31)
	s.do(stranger, chain.Decide{Run: s.run}) // 700 of the 1,000 that there were
	s.advance(31)
	s.do(stranger, chain.Execute{Run: s.run})
	s.do(stranger, chain.Finalize{Epoch: x.Epoch})
}

// turncoatStory: nobody hands the blame on to an account without stake.
func turncoatStory(s *scene) {
	s.publish(12)
	x := s.lie(func(x *chain.Settled) { x.Entries[2].Receipt.Units++ })
	s.do(val4, chain.Propose{Epoch: x.Epoch})
	nonce, err := s.Ledger.KeyNonce(s.ctx, s.at(payer))
	must(s, nonce, err)
	d := s.Ledger.Book().KeyDigest(s.at(payer), s.at(val4), nonce, 1<<40)
	s.refused(payer, chain.RegisterKey{Key: s.at(val4), Deadline: 1 << 40, Sig: chain.SignDigest(s.keys[val4], d)}, "KeyTaken")
	s.refused(hotw1, chain.Stake{Role: chain.Validator, Amount: chain.Coins(1)}, "KeyTaken")
	s.do(stranger, chain.ProveReceipt{Epoch: x.Epoch, Entry: x.Entries[2], Proof: x.EntryProof(2)})
	st, err := s.Ledger.StakeOf(s.ctx, s.at(val4), chain.Validator)
	s.amount("slashed all the same", must(s, st, err).Active, chain.Coins(70))

	// a vote that a proof has overtaken cannot be revealed, and is not punished
	x = s.lie(func(x *chain.Settled) { x.Entries[2].Receipt.Units++ })
	s.do(val1, chain.Propose{Epoch: x.Epoch})
	s.do(stranger, chain.Dispute{Epoch: x.Epoch, Evidence: chain.Hash{1}})
	s.do(val2, s.vote(val2, true, 2))
	s.do(payer, chain.ProveReceipt{Epoch: x.Epoch, Entry: x.Entries[2], Proof: x.EntryProof(2)})
	s.advance(62)
	s.refused(val2, chain.RevealVote{Run: s.run, Guilty: true, Salt: chain.Hash{2}}, "WrongStage")
	s.refused(stranger, chain.PunishAbsent{Run: s.run, Voter: s.at(val2)}, "NotAbsent")
	s.do(stranger, chain.Abandon{Run: s.run})
	s.refused(stranger, chain.PunishAbsent{Run: s.run, Voter: s.at(val2)}, "NotAbsent")
	st, err = s.Ledger.StakeOf(s.ctx, s.at(val2), chain.Validator)
	s.amount("val2 is innocent", must(s, st, err).Active, chain.Coins(300))
}

// powerStory: a sponsor cannot pause what it owes away, and a guardian that
// pauses without need is replaced.
func powerStory(s *scene) {
	s.publish(13)
	x := s.settled()
	s.do(sponsor, chain.PauseRun{Run: s.run, Paused: true})
	s.refused(val1, chain.Propose{Epoch: x.Epoch}, "RunPaused")
	s.do(sponsor, chain.EndRun{Run: s.run})
	s.refused(sponsor, chain.PauseRun{Run: s.run, Paused: true}, "RunEnded")
	s.finalize(x)
	s.do(work1, s.claim(x, work1))

	s.refused(stranger, chain.SetGuardian{Contract: chain.Runs, Guardian: s.at(stranger)}, "NotGovernor")
	s.do(governor, chain.SetGuardian{Contract: chain.Runs, Guardian: s.at(stranger)})
	s.do(stranger, chain.Pause{Contract: chain.Runs})
	s.refused(stranger, chain.Pause{Contract: chain.Staking}, "NotGovernor") // each contract has its own
	s.refused(stranger, chain.Unpause{Contract: chain.Runs}, "NotGovernor")
	s.do(governor, chain.SetGuardian{Contract: chain.Runs})
	s.do(governor, chain.Unpause{Contract: chain.Runs})
	s.refused(stranger, chain.Pause{Contract: chain.Runs}, "NotGovernor")
}

// equivocationStory convicts by the very bytes that peers exchange.
func equivocationStory(s *scene) {
	cid := func(text string) wire.CID { return wire.SumCID(wire.CodecDagCBOR, []byte(text)) }
	run := cid("manifest")
	say := func(who int, kind wire.Kind, body any) wire.Signed {
		s.Helper()
		b, err := wire.Marshal(body)
		m := s.keys[who].Sign(kind, run, must(s, b, err))
		if _, err := diloco.Open(&m); err != nil {
			s.Fatal(err)
		}
		return m
	}
	attest := func(who int, head string, round, source uint64) wire.Signed {
		return say(who, wire.KindAttest, &diloco.Attest{Head: cid(head), Round: round, Source: cid("source"), SourceRound: source})
	}
	vote := func(who int, parent string, deltas ...string) wire.Signed {
		v := diloco.Vote{Parent: cid(parent), Round: 7, Final: cid("final"), FinalRound: 3}
		for _, d := range deltas {
			v.Deltas = append(v.Deltas, cid(d))
		}
		return say(who, wire.KindVote, &v)
	}
	delta := func(parent string, tokens uint64) wire.Signed {
		return say(hotw1, wire.KindDelta, &diloco.Delta{Parent: cid(parent), Round: 7, State: cid("s"), Block: cid("b"), Steps: 3, Tokens: tokens, Loss: 1.5})
	}
	report := func(a, b wire.Signed, reason string) {
		s.Helper()
		if reason != "" {
			s.refused(stranger, chain.NewReport(a, b), reason)
			return
		}
		s.do(stranger, chain.NewReport(a, b))
		s.refused(stranger, chain.NewReport(b, a), "AlreadyConvicted")
	}
	a := vote(hotw1, "p")
	report(a, a, "SameMessage")
	report(a, vote(hotw1, "q", "d"), "OtherParent")
	report(a, vote(hotw2, "p", "d"), "BadSignature")
	report(vote(payer, "p"), vote(payer, "p", "d"), "KeyUnknown") // no key of anybody, and no stake of its own
	k := s.keys[hotw1]
	report(k.Sign(wire.KindVote, run, []byte{0xa0}), k.Sign(wire.KindVote, run, []byte{0xa1}), "BadBody")
	report(k.Sign(wire.KindJoin, run, a.Body), k.Sign(wire.KindJoin, run, vote(hotw1, "p", "d").Body), "BadKind")
	report(k.Sign(wire.KindAttest, run, a.Body), k.Sign(wire.KindAttest, run, vote(hotw1, "p", "d").Body), "BadBody")
	other := a
	other.Run = cid("another")
	report(other, vote(hotw1, "p", "d"), "BadSignature")

	was := s.balance(stranger)
	report(a, vote(hotw1, "p", "d"), "")
	s.amount("reporter's part", new(big.Int).Sub(s.balance(stranger), was), chain.Coins(5)) // 20 % of half of 50
	report(a, vote(hotw1, "p", "e"), "AlreadyConvicted")
	report(delta("p", 1), delta("q", 2), "OtherParent")
	report(delta("p", 1), delta("p", 2), "")
	for _, x := range []struct {
		a, b   wire.Signed
		reason string
	}{
		{attest(hotw1, "i", 6, 4), attest(hotw1, "h", 5, 4), "NoConflict"},
		{attest(hotw1, "i", 6, 5), attest(hotw1, "h", 5, 4), "NoConflict"},
		{attest(hotw1, "i", 70_000, 6), attest(hotw1, "h", 5, 4), "NoConflict"},
		{attest(hotw1, "h", 5, 4), attest(hotw2, "i", 5, 4), "BadSignature"},
		{attest(hotw1, "h", 5, 4), attest(hotw1, "i", 5, 4), ""},                 // two heads in a round
		{attest(hotw1, "h", 5, 4), attest(hotw1, "h", 5, 3), "AlreadyConvicted"}, // two sources for a head, in that round
		{attest(hotw1, "h", 7, 6), attest(hotw1, "h", 7, 3), ""},
		{attest(hotw1, "h", 5, 4), attest(hotw1, "i", 300, 3), ""}, // surrounds
		{attest(hotw1, "h", 1<<40, 1), attest(hotw1, "i", 65_536, 65_535), ""},
	} {
		report(x.a, x.b, x.reason)
		if x.reason == "NoConflict" {
			report(x.b, x.a, x.reason)
		}
	}
	st, err := s.Ledger.StakeOf(s.ctx, s.at(work1), chain.Trainer)
	s.amount("halved for each of six", must(s, st, err).Active, new(big.Int).Rsh(chain.Coins(50), 6))

	// a peer whose own key has staked answers for itself, and what leaves is reached
	s.do(val4, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(100)})
	report(attest(val4, "h", 5, 4), attest(val4, "i", 5, 4), "")
	st, err = s.Ledger.StakeOf(s.ctx, s.at(val4), chain.Validator)
	s.amount("half of what leaves", must(s, st, err).Leaving[0].Amount, chain.Coins(50))
	// a revoked key's owner answers until it could have left, no longer
	s.do(val3, chain.RevokeKey{Key: s.at(hot3)})
	report(attest(hot3, "h", 5, 4), attest(hot3, "i", 5, 4), "")
	s.advance(602)
	report(attest(hot3, "h", 6, 4), attest(hot3, "i", 6, 4), "KeyUnknown")
	st, err = s.Ledger.StakeOf(s.ctx, s.at(val3), chain.Validator)
	s.amount("once", must(s, st, err).Active, chain.Coins(100))
}

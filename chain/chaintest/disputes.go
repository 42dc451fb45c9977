package chaintest

import (
	"math/big"

	"github.com/shoalnet/shoal/chain"
)

// withheldStory asks for leaves: shown, the challenge pays who showed it; not
// shown, the proposer is convicted. Griefing costs a bond each time.
func withheldStory(s *scene) {
	s.publish(4)
	x := s.settled()
	s.do(val1, chain.Propose{Epoch: x.Epoch})
	s.do(stranger, chain.Demand{Epoch: x.Epoch, Side: chain.OfReceipts, Index: 3})
	s.refused(stranger, chain.Demand{Epoch: x.Epoch, Side: chain.OfReceipts, Index: 2}, "AlreadyChallenging")
	s.refused(payer, chain.Demand{Epoch: x.Epoch, Side: chain.OfReceipts, Index: 3}, "AlreadyDemanded")
	s.refused(payer, chain.Demand{Epoch: x.Epoch, Side: chain.OfRewards, Index: x.Epoch.Accounts}, "BadIndex")
	s.refused(stranger, chain.FinalizeFast{Epoch: x.Epoch, Sigs: s.sign(&x.Epoch, hot1, hot2)}, "Challenged")
	s.refused(stranger, chain.Expire{Epoch: x.Epoch, Side: chain.OfReceipts, Index: 3}, "TooEarly")
	s.refused(val1, chain.AnswerReceipt{Epoch: x.Epoch, Entry: x.Entries[2], Proof: x.EntryProof(2)}, "NoDemand")
	s.refused(val1, chain.AnswerReceipt{Epoch: x.Epoch, Entry: x.Entries[3], Proof: x.EntryProof(2)}, "BadProof")
	was, grief := s.balance(val1), s.balance(stranger)
	s.do(val1, chain.AnswerReceipt{Epoch: x.Epoch, Entry: x.Entries[3], Proof: x.EntryProof(3)})
	s.amount("answer's pay", new(big.Int).Sub(s.balance(val1), was), chain.Coins(50))
	s.amount("griefer", s.balance(stranger), grief) // its bond is gone
	s.refused(val1, chain.AnswerReceipt{Epoch: x.Epoch, Entry: x.Entries[3], Proof: x.EntryProof(3)}, "NoDemand")
	s.refused(stranger, chain.Demand{Epoch: x.Epoch, Side: chain.OfReceipts, Index: 3}, "AlreadyDemanded")

	was, other := s.balance(stranger), s.balance(payer)
	s.do(stranger, chain.Demand{Epoch: x.Epoch, Side: chain.OfRewards, Index: 1})
	s.do(payer, chain.Demand{Epoch: x.Epoch, Side: chain.OfRewards, Index: 2})
	s.advance(61)
	s.refused(val2, chain.Demand{Epoch: x.Epoch, Side: chain.OfRewards, Index: 0}, "TooLate")
	s.refused(stranger, chain.Finalize{Epoch: x.Epoch}, "Challenged")
	s.refused(payer, chain.Reclaim{Run: s.run, Serial: 1, Side: chain.OfRewards, Index: 2}, "StillLive")
	s.do(val3, chain.Expire{Epoch: x.Epoch, Side: chain.OfRewards, Index: 1}) // for its challenger
	s.amount("challenger", new(big.Int).Sub(s.balance(stranger), was), chain.Coins(40+48))
	s.do(val3, chain.Reclaim{Run: s.run, Serial: 1, Side: chain.OfRewards, Index: 2})
	s.amount("other challenger", s.balance(payer), other)
	s.refused(val3, chain.Reclaim{Run: s.run, Serial: 1, Side: chain.OfRewards, Index: 2}, "NoDemand")
	s.finalizeSlow(val2, s.settled()) // with a slashed stake among them, two thirds would be hard to find
}

func (s *scene) vote(voter int, guilty bool, salt byte) chain.CommitVote {
	p, err := s.Ledger.Proposal(s.ctx, s.run)
	return chain.CommitVote{Run: s.run, Hash: s.Ledger.Book().VoteHash(s.run, must(s, p, err).Serial, s.at(voter), guilty, chain.Hash{salt})}
}

// committeeStory judges by commit and reveal.
func committeeStory(s *scene) {
	s.publish(5)
	x := s.settled()
	s.do(val1, chain.Propose{Epoch: x.Epoch})
	s.do(stranger, chain.Dispute{Epoch: x.Epoch, Evidence: chain.Hash{0xe}})
	s.refused(payer, chain.Dispute{Epoch: x.Epoch, Evidence: chain.Hash{0xf}}, "CaseOpen")
	s.refused(stranger, chain.Demand{Epoch: x.Epoch, Side: chain.OfRewards}, "AlreadyChallenging")
	guilty := s.vote(val2, true, 2)
	s.do(val2, guilty)
	s.refused(val2, guilty, "AlreadyVoted")
	h, err := s.Ledger.Committed(s.ctx, s.run, s.at(val2))
	if must(s, h, err) != guilty.Hash {
		s.Fatalf("val2 has committed to %s", h)
	}
	s.refused(work1, s.vote(work1, true, 1), "NotVoter")
	s.do(val3, guilty) // a copy of val2's commitment
	s.do(hot1, s.vote(val1, false, 1))
	s.refused(val2, chain.RevealVote{Run: s.run, Guilty: true, Salt: chain.Hash{2}}, "TooEarly")
	s.advance(31)
	s.refused(val4, s.vote(val4, true, 4), "TooLate")
	s.do(val2, chain.RevealVote{Run: s.run, Guilty: true, Salt: chain.Hash{2}})
	s.refused(val3, chain.RevealVote{Run: s.run, Guilty: true, Salt: chain.Hash{2}}, "BadReveal") // the copy is worth nothing
	s.refused(val1, chain.RevealVote{Run: s.run, Guilty: true, Salt: chain.Hash{1}}, "BadReveal")
	s.do(val1, chain.RevealVote{Run: s.run, Salt: chain.Hash{1}})
	s.refused(stranger, chain.Decide{Run: s.run}, "TooEarly")
	s.refused(stranger, chain.PunishAbsent{Run: s.run, Voter: s.at(val3)}, "NotAbsent")
	s.advance(31)
	s.refused(val3, chain.RevealVote{Run: s.run, Guilty: true, Salt: chain.Hash{2}}, "TooLate")
	s.do(stranger, chain.Decide{Run: s.run}) // 300 against 400 of 1,000: nobody's verdict
	s.do(stranger, chain.PunishAbsent{Run: s.run, Voter: s.at(val3)})
	s.refused(stranger, chain.PunishAbsent{Run: s.run, Voter: s.at(val3)}, "NotAbsent")
	s.refused(stranger, chain.PunishAbsent{Run: s.run, Voter: s.at(val2)}, "NotAbsent")
	st, err := s.Ledger.StakeOf(s.ctx, s.at(val3), chain.Validator)
	s.amount("absent", must(s, st, err).Active, chain.Coins(198))
	s.refused(stranger, chain.Execute{Run: s.run}, "TooEarly")
	s.advance(61)
	was := s.balance(stranger)
	s.do(payer, chain.Execute{Run: s.run}) // void: no blame, half of the challenger's bond is lost
	s.amount("half a bond", new(big.Int).Sub(s.balance(stranger), was), chain.Coins(25))
	st, err = s.Ledger.StakeOf(s.ctx, s.at(val1), chain.Validator)
	s.amount("one validator's word slashes nobody", must(s, st, err).Active, chain.Coins(400))

	// guilty by two thirds
	s.do(val4, chain.Propose{Epoch: x.Epoch})
	s.do(payer, chain.Dispute{Epoch: x.Epoch, Evidence: chain.Hash{0xe}})
	for _, v := range []int{val1, val2} {
		s.do(v, s.vote(v, true, byte(v)))
	}
	s.advance(31)
	for _, v := range []int{val1, val2} {
		s.do(v, chain.RevealVote{Run: s.run, Guilty: true, Salt: chain.Hash{byte(v)}})
	}
	s.advance(31)
	s.do(stranger, chain.Decide{Run: s.run})
	s.refused(stranger, chain.Execute{Run: s.run}, "TooEarly")
	s.advance(31)
	v1, was := s.balance(val1), s.balance(payer)
	s.do(stranger, chain.Execute{Run: s.run})
	s.refused(stranger, chain.Execute{Run: s.run}, "WrongStage")
	s.amount("challenger", new(big.Int).Sub(s.balance(payer), was), chain.Coins(50+40+12))
	s.amount("a judge gains nothing", s.balance(val1), v1)
	st, err = s.Ledger.StakeOf(s.ctx, s.at(val4), chain.Validator)
	s.amount("slashed", must(s, st, err).Active, chain.Coins(70))
}

// appealStory takes verdicts to governance, and one case is overtaken by a proof.
func appealStory(s *scene) {
	s.publish(6)
	judge := func(guilty bool) {
		for _, v := range []int{val1, val2} {
			s.do(v, s.vote(v, guilty, byte(v)))
		}
		s.advance(31)
		for _, v := range []int{val1, val2} {
			s.do(v, chain.RevealVote{Run: s.run, Guilty: guilty, Salt: chain.Hash{byte(v)}})
		}
		s.advance(31)
		s.do(stranger, chain.Decide{Run: s.run})
	}
	x := s.settled()
	s.do(val3, chain.Propose{Epoch: x.Epoch})
	s.do(stranger, chain.Dispute{Epoch: x.Epoch, Evidence: chain.Hash{1}})
	judge(true)
	was := s.balance(val3)
	s.do(val3, chain.Appeal{Run: s.run})
	s.refused(val3, chain.Appeal{Run: s.run}, "WrongStage")
	s.refused(stranger, chain.Rule{Run: s.run, Serial: 1}, "NotGovernor")
	s.refused(governor, chain.Rule{Run: s.run, Serial: 2}, "WrongStage")
	s.do(governor, chain.Rule{Run: s.run, Serial: 1}) // innocent after all
	s.amount("appellant: its bond, and a part of the challenger's", new(big.Int).Sub(s.balance(val3), was), chain.Coins(20))
	s.refused(payer, chain.Dispute{Epoch: x.Epoch, Evidence: chain.Hash{1}}, "TooLate")
	s.do(stranger, chain.Finalize{Epoch: x.Epoch})
	s.last = x

	s.nextEpoch()
	x = s.lie(func(x *chain.Settled) { x.Entries[2].Receipt.Units++ })
	s.do(val3, chain.Propose{Epoch: x.Epoch})
	s.do(stranger, chain.Dispute{Epoch: x.Epoch, Evidence: chain.Hash{1}})
	judge(false)
	s.do(payer, chain.Appeal{Run: s.run})
	open := s.balance(stranger)
	s.refused(payer, chain.Abandon{Run: s.run}, "WrongStage")
	s.do(payer, chain.ProveReceipt{Epoch: x.Epoch, Entry: x.Entries[2], Proof: x.EntryProof(2)})
	s.refused(governor, chain.Rule{Run: s.run, Serial: 2}, "WrongStage")
	s.do(val4, chain.Abandon{Run: s.run})
	s.amount("overtaken case", new(big.Int).Sub(s.balance(stranger), open), chain.Coins(50))

	x = s.settled()
	s.do(val3, chain.Propose{Epoch: x.Epoch})
	s.do(stranger, chain.Dispute{Epoch: x.Epoch, Evidence: chain.Hash{1}})
	judge(false)
	s.do(stranger, chain.Appeal{Run: s.run})
	s.advance(61)
	was = s.balance(stranger)
	s.refused(governor, chain.Rule{Run: s.run, Serial: 3, Guilty: true}, "TooLate")
	s.do(stranger, chain.Execute{Run: s.run}) // the verdict stands, and the appeal is lost
	s.amount("lost appeal", s.balance(stranger), was)
	s.do(stranger, chain.Finalize{Epoch: x.Epoch})
}

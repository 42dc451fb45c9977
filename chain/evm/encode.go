package evm

import (
	"fmt"
	"math/big"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/contracts"
)

var (
	tokenABI        = contracts.NewToken()
	stakingABI      = contracts.NewStaking()
	sharesABI       = contracts.NewShares()
	runsABI         = contracts.NewRuns()
	settlementABI   = contracts.NewSettlement()
	disputesABI     = contracts.NewDisputes()
	equivocationABI = contracts.NewEquivocation()
	vouchersABI     = contracts.NewVouchers()
	convictionsABI  = contracts.NewConvictions()
)

func epoch(e *chain.Epoch) contracts.Epoch {
	return contracts.Epoch{Run: e.Run, Number: e.Number, Commit: e.Commit, Rewards: e.Rewards, Receipts: e.Receipts,
		Accounts: e.Accounts, Count: e.Count, Trainers: num(e.Amounts[0]), Workers: num(e.Amounts[1]),
		Validators: num(e.Amounts[2]), Sponsor: num(e.Amounts[3]), Total: num(e.Total)}
}

func reward(r *chain.Reward) contracts.Reward {
	return contracts.Reward{Index: r.Index, Account: address(r.Account), Amount: num(r.Amount), Before: num(r.Before)}
}

func entry(e *chain.Entry) contracts.Entry {
	r := e.Receipt
	return contracts.Entry{Index: e.Index, Signature: e.Sig, Receipt: contracts.Receipt{Run: r.Run, Epoch: r.Epoch,
		Worker: address(r.Worker), Kind: uint8(r.Kind), Subject: r.Subject, Units: r.Units}}
}

func proof(p []chain.Hash) [][32]byte {
	out := make([][32]byte, len(p))
	for i := range p {
		out[i] = p[i]
	}
	return out
}

func rate(r chain.Rate) contracts.RunsRate {
	return contracts.RunsRate{Budget: num(r.Budget), Split: r.Split}
}

// check refuses what the ABI cannot carry, before Pack would panic.
func check(amounts ...chain.Amount) error {
	for _, a := range amounts {
		if a != nil && (a.Sign() < 0 || a.BitLen() > 128) {
			return fmt.Errorf("amount %s is not in [0, 2^128)", a)
		}
	}
	return nil
}

// encode makes the call data of an action. Approvals are not checked: their
// amounts are 256 bits wide.
func encode(book chain.Book, a chain.Action) ([]byte, error) {
	var err error
	var data []byte
	switch a := a.(type) {
	case chain.Approve:
		if num(a.Amount).Sign() < 0 || num(a.Amount).BitLen() > 256 {
			return nil, fmt.Errorf("allowance %s is not in [0, 2^256)", a.Amount)
		}
		data = tokenABI.PackApprove(address(book.Contracts[a.Spender]), num(a.Amount))
	case chain.Transfer:
		err, data = check(a.Amount), tokenABI.PackTransfer(address(a.To), num(a.Amount))
	case chain.Stake:
		err, data = check(a.Amount), stakingABI.PackStake(a.Role, num(a.Amount))
	case chain.Unbond:
		err, data = check(a.Amount), stakingABI.PackUnbond(a.Role, num(a.Amount))
	case chain.Withdraw:
		data = stakingABI.PackWithdraw(a.Role)
	case chain.RegisterKey:
		data = stakingABI.PackRegisterKey(address(a.Key), big64(a.Deadline), a.Sig)
	case chain.RevokeKey:
		data = stakingABI.PackRevokeKey(address(a.Key))
	case chain.SetMinimum:
		err, data = check(a.Minimum), stakingABI.PackSetMinimum(num(a.Minimum))
	case chain.Publish:
		if a.Start >= 1<<48 || a.Length >= 1<<32 {
			return nil, &chain.Refusal{Reason: "BadTerms"}
		}
		err = check(a.Rate.Budget)
		data = runsABI.PackPublish(contracts.RunsTerms{Token: address(book.Contracts[chain.Token]), Manifest: a.Manifest,
			Start: big64(a.Start), Length: uint32(a.Length), Royalty: a.Royalty, Shares: a.Shares, Rate: rate(a.Rate)})
	case chain.SetRate:
		err, data = check(a.Rate.Budget), runsABI.PackSetRate(a.Run, rate(a.Rate))
	case chain.Fund:
		err, data = check(a.Amount), runsABI.PackFund(a.Run, num(a.Amount))
	case chain.PauseRun:
		data = runsABI.PackSetPaused(a.Run, a.Paused)
	case chain.EndRun:
		data = runsABI.PackEnd(a.Run)
	case chain.Refund:
		data = runsABI.PackRefund(a.Run)
	case chain.DepositBond:
		err, data = check(a.Amount), settlementABI.PackDepositBond(num(a.Amount))
	case chain.WithdrawBond:
		err, data = check(a.Amount), settlementABI.PackWithdrawBond(num(a.Amount))
	case chain.Propose:
		e := a.Epoch
		err, data = check(e.Amounts[0], e.Amounts[1], e.Amounts[2], e.Amounts[3], e.Total), settlementABI.PackPropose(epoch(&e))
	case chain.FinalizeFast:
		data = settlementABI.PackFinalizeFast(epoch(&a.Epoch), a.Sigs)
	case chain.Finalize:
		data = settlementABI.PackFinalize(epoch(&a.Epoch))
	case chain.Claim:
		err, data = check(a.Reward.Amount, a.Reward.Before), runsABI.PackClaim(a.Run, reward(&a.Reward), proof(a.Proof))
	case chain.SetParams:
		data = settlementABI.PackSetParams(contracts.SettlementParams(a.Params))
	case chain.MintShares:
		data = sharesABI.PackMint(address(a.Account))
	case chain.TransferShares:
		err, data = check(a.Amount), sharesABI.PackTransfer(address(a.To), num(a.Amount))
	case chain.Collect:
		data = sharesABI.PackCollect(address(a.Holder))
	case chain.OpenChannel:
		err, data = check(a.Amount), vouchersABI.PackOpen(a.Run, address(a.Provider), num(a.Amount))
	case chain.TopUp:
		err, data = check(a.Amount), vouchersABI.PackTopUp(a.Channel, num(a.Amount))
	case chain.Redeem:
		err, data = check(a.Cumulative), vouchersABI.PackRedeem(a.Channel, num(a.Cumulative), a.Sig)
	case chain.RequestClose:
		data = vouchersABI.PackRequestClose(a.Channel)
	case chain.CloseChannel:
		data = vouchersABI.PackClose(a.Channel)
	case chain.Flush:
		data = vouchersABI.PackFlush(a.Run, proof(a.Channels))
	case chain.Report:
		data = equivocationABI.PackReport(contracts.EquivocationEvidence(a))
	case chain.Pause, chain.Unpause:
		if _, on := a.(chain.Pause); on {
			data = runsABI.PackPause() // the same in all four contracts
		} else {
			data = runsABI.PackUnpause()
		}
	case chain.SetGuardian:
		data = runsABI.PackSetGuardian(address(a.Guardian)) // the same in all four contracts
	case chain.Convict:
		c := a.Conviction
		data = convictionsABI.PackConvict(contracts.Conviction{Run: c.Run, Key: address(c.Key), Subject: c.Subject, Evidence: c.Evidence, Bps: c.Bps}, a.Sigs)
	case chain.AppealConviction:
		data = convictionsABI.PackAppeal(a.ID)
	case chain.RuleConviction:
		data = convictionsABI.PackRule(a.ID, a.Guilty)
	case chain.ExecuteConviction:
		data = convictionsABI.PackExecute(a.ID)
	default:
		return encodeDispute(a)
	}
	return data, err
}

func encodeDispute(a chain.Action) ([]byte, error) {
	serial := func(n uint64) *big.Int { return big64(n & (1<<24 - 1)) }
	switch a := a.(type) {
	case chain.ProveReceipt:
		return disputesABI.PackProveReceipt(epoch(&a.Epoch), entry(&a.Entry), proof(a.Proof)), nil
	case chain.ProveDuplicate:
		return disputesABI.PackProveDuplicate(epoch(&a.Epoch), entry(&a.A), proof(a.ProofA), entry(&a.B), proof(a.ProofB)), nil
	case chain.ProveRewards:
		return disputesABI.PackProveRewards(epoch(&a.Epoch), reward(&a.A), proof(a.ProofA), reward(&a.B), proof(a.ProofB)), nil
	case chain.ProveDecrease:
		return disputesABI.PackProveDecrease(epoch(&a.Epoch), reward(&a.Was), proof(a.ProofWas), reward(&a.Now), proof(a.ProofNow)), nil
	case chain.Demand:
		return disputesABI.PackDemand(epoch(&a.Epoch), uint8(a.Side), a.Index), nil
	case chain.AnswerReward:
		return disputesABI.PackAnswerReward(epoch(&a.Epoch), reward(&a.Reward), proof(a.Proof)), nil
	case chain.AnswerReceipt:
		return disputesABI.PackAnswerReceipt(epoch(&a.Epoch), entry(&a.Entry), proof(a.Proof)), nil
	case chain.Expire:
		return disputesABI.PackExpire(epoch(&a.Epoch), uint8(a.Side), a.Index), nil
	case chain.Reclaim:
		return disputesABI.PackReclaim(a.Run, serial(a.Serial), uint8(a.Side), a.Index), nil
	case chain.Dispute:
		return disputesABI.PackDispute(epoch(&a.Epoch), a.Evidence), nil
	case chain.CommitVote:
		return disputesABI.PackCommitVote(a.Run, a.Hash), nil
	case chain.RevealVote:
		return disputesABI.PackRevealVote(a.Run, a.Guilty, a.Salt), nil
	case chain.Decide:
		return disputesABI.PackDecide(a.Run), nil
	case chain.Appeal:
		return disputesABI.PackAppeal(a.Run), nil
	case chain.Rule:
		return disputesABI.PackRule(a.Run, serial(a.Serial), a.Guilty), nil
	case chain.Execute:
		return disputesABI.PackExecute(a.Run), nil
	case chain.PunishAbsent:
		return disputesABI.PackPunishAbsent(a.Run, address(a.Voter)), nil
	case chain.Abandon:
		return disputesABI.PackAbandon(a.Run), nil
	}
	return nil, fmt.Errorf("the ledger knows no action %T", a)
}

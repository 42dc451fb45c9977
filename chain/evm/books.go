package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/shoalnet/shoal/chain"
)

// logged returns the first topic of every log of one event of a contract, up to
// the newest safe block: the IDs of everything that it ever made.
func (l *Ledger) logged(ctx context.Context, c chain.Contract, event common.Hash) ([]chain.Hash, error) {
	h, err := l.c.safe(ctx)
	if err != nil {
		return nil, err
	}
	var ids []chain.Hash
	for from := l.book.Block; from <= h.Number.Uint64(); from += chunk { // nodes bound what one question spans
		to := min(from+chunk-1, h.Number.Uint64())
		logs, err := l.c.FilterLogs(ctx, ethereum.FilterQuery{FromBlock: big64(from), ToBlock: big64(to),
			Addresses: []common.Address{l.at(c)}, Topics: [][]common.Hash{{event}}})
		if err != nil {
			return nil, fmt.Errorf("logs of the %s contract in blocks %d to %d: %w", c, from, to, err)
		}
		for _, log := range logs {
			if len(log.Topics) > 1 {
				ids = append(ids, chain.Hash(log.Topics[1]))
			}
		}
	}
	return ids, nil
}

var (
	publishedTopic = crypto.Keccak256Hash([]byte("Published(bytes32,bytes32,address,address,address)"))
	openedTopic    = crypto.Keccak256Hash([]byte("Opened(bytes32,bytes32,address,address,uint128)"))
)

// owedByRuns adds up the pools and unclaimed rewards of every run.
func (l *Ledger) owedByRuns(ctx context.Context) (chain.Amount, error) {
	sum := new(big.Int)
	ids, err := l.logged(ctx, chain.Runs, publishedTopic)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		r, err := l.Run(ctx, id)
		if err != nil {
			return nil, err
		}
		sum.Add(sum, r.Pool)
		sum.Add(sum, r.Unclaimed)
	}
	return sum, nil
}

// owedByVouchers adds up what every channel holds, and the royalties of closed ones.
func (l *Ledger) owedByVouchers(ctx context.Context) (chain.Amount, error) {
	sum := new(big.Int)
	ids, err := l.logged(ctx, chain.Vouchers, openedTopic)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		c, err := l.Channel(ctx, id)
		var r *chain.Refusal
		if errors.As(err, &r) {
			continue // closed
		}
		if err != nil {
			return nil, err
		}
		sum.Add(sum, c.Deposit)
		sum.Sub(sum, c.Redeemed)
		sum.Add(sum, c.Due)
	}
	runs, err := l.logged(ctx, chain.Runs, publishedTopic)
	if err != nil {
		return nil, err
	}
	for _, id := range runs {
		v, err := view(ctx, l, l.at(chain.Vouchers), vouchersABI.PackRoyalties(id), vouchersABI.UnpackRoyalties)
		if err != nil {
			return nil, err
		}
		sum.Add(sum, v)
	}
	return sum, nil
}

// Books implements chain.Ledger: the contracts' own records of what they hold,
// or where they keep none, the sum over everything that they ever made.
func (l *Ledger) Books(ctx context.Context, runs ...chain.Hash) ([]chain.Line, error) {
	held := func(c chain.Contract, data []byte, unpack func([]byte) (chain.Amount, error)) func(context.Context) (chain.Amount, error) {
		return func(ctx context.Context) (chain.Amount, error) { return view(ctx, l, l.at(c), data, unpack) }
	}
	var lines []chain.Line
	for _, x := range []struct {
		c    chain.Contract
		owes func(context.Context) (chain.Amount, error)
	}{
		{chain.Staking, held(chain.Staking, stakingABI.PackHeld(), stakingABI.UnpackHeld)},
		{chain.Runs, l.owedByRuns},
		{chain.Settlement, held(chain.Settlement, settlementABI.PackHeld(), settlementABI.UnpackHeld)},
		{chain.Disputes, held(chain.Disputes, disputesABI.PackHeld(), disputesABI.UnpackHeld)},
		{chain.Vouchers, l.owedByVouchers},
		{chain.Convictions, held(chain.Convictions, convictionsABI.PackHeld(), convictionsABI.UnpackHeld)},
	} {
		owes, err := x.owes(ctx)
		if err != nil {
			return nil, err
		}
		has, err := l.Balance(ctx, l.book.Contracts[x.c])
		if err != nil {
			return nil, err
		}
		lines = append(lines, chain.Line{Contract: string(x.c), Has: has, Owes: owes})
	}
	for _, run := range runs {
		at, err := l.sharesAt(ctx, run)
		var r *chain.Refusal
		if errors.As(err, &r) {
			continue
		}
		if err != nil {
			return nil, err
		}
		owes, err := view(ctx, l, at, sharesABI.PackHeld(), sharesABI.UnpackHeld)
		if err != nil {
			return nil, err
		}
		has, err := l.Balance(ctx, chain.Address(at))
		if err != nil {
			return nil, err
		}
		lines = append(lines, chain.Line{Contract: "shares " + run.String()[:10], Has: has, Owes: owes})
	}
	return lines, nil
}

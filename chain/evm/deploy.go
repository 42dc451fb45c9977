package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/contracts"
)

// A created contract: what it is, and its code with the constructor's arguments.
type creation struct {
	name chain.Contract
	code []byte
}

// Deploy creates the contracts and returns where they are. They name one
// another, so their addresses are computed before the first is created; should
// another transaction of the account get in between, Deploy fails and what it
// created is worthless.
func Deploy(ctx context.Context, s *Sender, cfg chain.Config) (chain.Book, error) {
	book := chain.Book{ChainID: s.c.Preset.ChainID, Contracts: map[chain.Contract]chain.Address{}}
	if err := s.looked(ctx); err != nil {
		return book, fmt.Errorf("deploy: %w", err)
	}
	if s.Pending() > 0 {
		return book, errors.New("deploy: transactions of this account are in flight: wait for them first")
	}
	nonce, err := s.c.NonceAt(ctx, s.from, nil)
	if err != nil {
		return book, fmt.Errorf("deploy: nonce: %w", err)
	}
	block, err := s.c.BlockNumber(ctx)
	if err != nil {
		return book, fmt.Errorf("deploy: newest block: %w", err)
	}
	book.Block = block
	order := []chain.Contract{chain.Token, chain.Staking, chain.ShareFactory, chain.Runs, chain.Settlement, chain.Disputes, chain.Equivocation, chain.Vouchers, chain.Convictions}
	council := cfg.Governor.IsZero()
	if council {
		order = append(order, chain.Timelock, chain.Council)
	}
	for i, c := range order {
		book.Contracts[c] = chain.Address(crypto.CreateAddress(s.from, nonce+uint64(i)))
	}
	if council {
		cfg.Governor = book.Contracts[chain.Timelock]
	}
	var flights []*flight
	for _, x := range creations(book, cfg, order) {
		gas := uint64(600_000 + 260*len(x.code))
		f, err := s.start(ctx, "the contract "+string(x.name), nil, x.code, nil, gas)
		if err != nil {
			return book, fmt.Errorf("deploy %s: %w", x.name, err)
		}
		flights = append(flights, f)
	}
	for i, f := range flights {
		rc, err := s.wait(ctx, f)
		if err != nil {
			return book, fmt.Errorf("deploy %s: %w", order[i], err)
		}
		if chain.Address(rc.ContractAddress) != book.Contracts[order[i]] {
			return book, fmt.Errorf("deploy %s: it is at %s and not at %s: another transaction of the account came in between; deploy again", order[i], rc.ContractAddress, book.Contracts[order[i]])
		}
	}
	return book, nil
}

func creations(book chain.Book, cfg chain.Config, order []chain.Contract) []creation {
	at := func(c chain.Contract) common.Address { return address(book.Contracts[c]) }
	gov, guard := address(cfg.Governor), address(cfg.Guardian)
	var out []creation
	for _, c := range order {
		var bin string
		var args []byte
		switch c {
		case chain.Token:
			bin, args = contracts.TokenMetaData.Bin, tokenABI.PackConstructor(address(cfg.Holder), num(cfg.Supply))
		case chain.Staking:
			bin, args = contracts.StakingMetaData.Bin, stakingABI.PackConstructor(at(chain.Token), gov, guard, at(chain.Settlement), at(chain.Disputes), at(chain.Equivocation), at(chain.Convictions), big64(cfg.UnbondDelay), num(cfg.Minimum))
		case chain.ShareFactory:
			bin, args = contracts.ShareFactoryMetaData.Bin, contracts.NewShareFactory().PackConstructor(at(chain.Runs))
		case chain.Runs:
			bin, args = contracts.RunsMetaData.Bin, runsABI.PackConstructor(gov, guard, at(chain.Settlement), at(chain.ShareFactory), big64(cfg.ClaimWindow))
		case chain.Settlement:
			bin, args = contracts.SettlementMetaData.Bin, settlementABI.PackConstructor(at(chain.Token), gov, guard, at(chain.Runs), at(chain.Staking), at(chain.Disputes), num(cfg.Bond), contracts.SettlementParams(cfg.Params))
		case chain.Disputes:
			bin, args = contracts.DisputesMetaData.Bin, disputesABI.PackConstructor(at(chain.Token), at(chain.Settlement), at(chain.Runs), at(chain.Staking), num(cfg.ChallengeBond))
		case chain.Equivocation:
			bin, args = contracts.EquivocationMetaData.Bin, equivocationABI.PackConstructor(at(chain.Staking))
		case chain.Vouchers:
			bin, args = contracts.VouchersMetaData.Bin, vouchersABI.PackConstructor(gov, guard, at(chain.Runs), big64(cfg.CloseDelay))
		case chain.Convictions:
			bin, args = contracts.ConvictionsMetaData.Bin, convictionsABI.PackConstructor(at(chain.Token), at(chain.Settlement), at(chain.Runs), at(chain.Staking), new(big.Int).Lsh(num(cfg.ChallengeBond), 1))
		case chain.Timelock:
			bin, args = contracts.TimelockMetaData.Bin, contracts.NewTimelock().PackConstructor(big64(councilDelay(cfg)), []common.Address{at(chain.Council)}, []common.Address{{}})
		case chain.Council:
			d := councilDelay(cfg)
			bin, args = contracts.CouncilMetaData.Bin, contracts.NewCouncil().PackConstructor(at(chain.Token), at(chain.Timelock), big64(d/2), uint32(d), new(big.Int).Div(num(cfg.Supply), big.NewInt(10_000)), big64(d/2))
		}
		out = append(out, creation{c, append(common.FromHex(bin), args...)})
	}
	return out
}

// councilDelay is the timelock's delay and the council's voting period, in
// seconds. Waiting to vote (half of it), a late extension (half), voting and the
// timelock fit in the time that an appeal leaves for a ruling.
func councilDelay(cfg chain.Config) uint64 {
	return max(2, uint64(cfg.Params.RulingWindow)/4)
}

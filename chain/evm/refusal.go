package evm

import (
	"fmt"
	"sync"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/accounts/abi/bind/v2"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/contracts"
)

// errorNames are the contracts' errors by selector.
var errorNames = sync.OnceValue(func() map[[4]byte]string {
	names := map[[4]byte]string{}
	for _, m := range []*bind.MetaData{&contracts.TokenMetaData, &contracts.StakingMetaData, &contracts.SharesMetaData, &contracts.RunsMetaData,
		&contracts.SettlementMetaData, &contracts.DisputesMetaData, &contracts.EquivocationMetaData, &contracts.VouchersMetaData, &contracts.ConvictionsMetaData,
		&contracts.CouncilMetaData, &contracts.TimelockMetaData} {
		a, err := m.ParseABI()
		if err != nil {
			continue // its errors stay numbers
		}
		for name, e := range a.Errors {
			names[[4]byte(e.ID[:4])] = name
		}
	}
	return names
})

// refusal makes a *chain.Refusal of a revert, and wraps anything else.
func refusal(err error, doing string) error {
	if err == nil {
		return nil
	}
	raw, ok := ethclient.RevertErrorData(err)
	if !ok {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if len(raw) >= 4 {
		if name, ok := errorNames()[[4]byte(raw[:4])]; ok {
			return &chain.Refusal{Reason: name}
		}
		if why, e := abi.UnpackRevert(raw); e == nil {
			return &chain.Refusal{Reason: why}
		}
	}
	return &chain.Refusal{Reason: fmt.Sprintf("reverted with %#x", raw[:min(len(raw), 68)])}
}

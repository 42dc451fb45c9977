package evm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/rpc"
	"github.com/ethereum/go-ethereum/trie"
	"github.com/shoalnet/shoal/chain"
)

// chunk is how many blocks one question for logs spans.
const chunk = 500

// ErrLyingNode is returned when a node's answers contradict its own headers.
var ErrLyingNode = errors.New("the node leaves out or invents logs: use another one")

// Events implements chain.Ledger. It reads up to the newest safe block, in
// chunks, and holds what the node says to the headers of every block: to its
// bloom filter and, where that says that there may be more, to its receipts.
func (l *Ledger) Events(ctx context.Context, cur chain.Cursor) ([]chain.Event, chain.Cursor, error) {
	safe, err := l.c.safe(ctx)
	if err != nil {
		return nil, cur, err
	}
	from := l.book.Block
	if cur != (chain.Cursor{}) {
		from = cur.Block + 1
		h, err := l.c.HeaderByNumber(ctx, big64(cur.Block))
		if errors.Is(err, ethereum.NotFound) {
			return nil, cur, chain.ErrRewritten
		}
		if err != nil {
			return nil, cur, fmt.Errorf("block %d: %w", cur.Block, err)
		}
		if h.Hash() != common.Hash(cur.Hash) {
			return nil, cur, chain.ErrRewritten
		}
	}
	var out []chain.Event
	for from <= safe.Number.Uint64() {
		to := min(from+chunk-1, safe.Number.Uint64())
		es, hash, err := l.read(ctx, from, to)
		if err != nil {
			return out, cur, err
		}
		out = append(out, es...)
		cur = chain.Cursor{Block: to, Hash: hash}
		from = to + 1
	}
	return out, cur, nil
}

// read returns the events of blocks [from, to] and the hash of the last.
func (l *Ledger) read(ctx context.Context, from, to uint64) ([]chain.Event, chain.Hash, error) {
	var ours []common.Address
	for _, c := range []chain.Contract{chain.Staking, chain.Runs, chain.Settlement, chain.Disputes, chain.Equivocation, chain.Convictions} {
		ours = append(ours, l.at(c))
	}
	logs, err := l.c.FilterLogs(ctx, ethereum.FilterQuery{FromBlock: big64(from), ToBlock: big64(to), Addresses: ours})
	if err != nil {
		return nil, chain.Hash{}, fmt.Errorf("logs of blocks %d to %d: %w", from, to, err)
	}
	byBlock := map[uint64][]types.Log{}
	for _, log := range logs {
		if log.BlockNumber < from || log.BlockNumber > to || !slices.Contains(ours, log.Address) {
			return nil, chain.Hash{}, fmt.Errorf("%w: a log of %s in block %d was not asked for", ErrLyingNode, log.Address, log.BlockNumber)
		}
		byBlock[log.BlockNumber] = append(byBlock[log.BlockNumber], log)
	}
	var out []chain.Event
	var last common.Hash
	for n := from; n <= to; n++ {
		h, err := l.c.HeaderByNumber(ctx, big64(n))
		if err != nil {
			return nil, chain.Hash{}, fmt.Errorf("block %d: %w", n, err)
		}
		if n > from && h.ParentHash != last {
			return nil, chain.Hash{}, chain.ErrRewritten
		}
		last = h.Hash()
		told := byBlock[n]
		if len(told) > 0 || slices.ContainsFunc(ours, func(a common.Address) bool { return types.BloomLookup(h.Bloom, a) }) {
			if told, err = l.proven(ctx, h, ours, told); err != nil {
				return nil, chain.Hash{}, err
			}
		}
		for i := range told {
			if e, ok := l.event(&told[i]); ok {
				out = append(out, e)
			}
		}
	}
	return out, chain.Hash(last), nil
}

// proven returns the logs of a block as its receipts have them, which must hash
// to the root in its header, and compares them with what the node told.
func (l *Ledger) proven(ctx context.Context, h *types.Header, ours []common.Address, told []types.Log) ([]types.Log, error) {
	rcs, err := l.c.BlockReceipts(ctx, rpc.BlockNumberOrHashWithHash(h.Hash(), false))
	if err != nil {
		return nil, fmt.Errorf("receipts of block %d: %w", h.Number, err)
	}
	if types.DeriveSha(types.Receipts(rcs), trie.NewListHasher()) != h.ReceiptHash {
		return nil, fmt.Errorf("%w: the receipts of block %d do not hash to its header", ErrLyingNode, h.Number)
	}
	var all []types.Log
	for _, rc := range rcs {
		for _, log := range rc.Logs {
			if slices.Contains(ours, log.Address) {
				all = append(all, *log)
			}
		}
	}
	if len(all) != len(told) {
		return nil, fmt.Errorf("%w: block %d has %d logs of ours, it told of %d", ErrLyingNode, h.Number, len(all), len(told))
	}
	return all, nil
}

// event translates one log; logs without a chain.Event are skipped.
func (l *Ledger) event(log *types.Log) (chain.Event, bool) {
	switch log.Address {
	case l.at(chain.Settlement):
		if e, err := settlementABI.UnpackProposedEvent(log); err == nil {
			x := e.Epoch
			return chain.Event{Name: "Proposed", Run: e.Run, Account: chain.Address(e.Proposer), Number: e.Number, Serial: e.Serial.Uint64(),
				Epoch: &chain.Epoch{Run: x.Run, Number: x.Number, Commit: x.Commit, Rewards: x.Rewards, Receipts: x.Receipts, Accounts: x.Accounts,
					Count: x.Count, Amounts: [4]chain.Amount{x.Trainers, x.Workers, x.Validators, x.Sponsor}, Total: x.Total}}, true
		}
		if e, err := settlementABI.UnpackFinalizedEvent(log); err == nil {
			return chain.Event{Name: "Finalized", Run: e.Run, Number: e.Number, Hash: e.Rewards, Amount: e.Total, Fast: e.Fast}, true
		}
		if e, err := settlementABI.UnpackRejectedEvent(log); err == nil {
			return chain.Event{Name: "Rejected", Run: e.Run, Serial: e.Serial.Uint64(), Account: chain.Address(e.Proposer), Guilty: e.Slashed}, true
		}
	case l.at(chain.Disputes):
		if e, err := disputesABI.UnpackDemandedEvent(log); err == nil {
			return chain.Event{Name: "Demanded", Run: e.Run, Serial: e.Serial.Uint64(), Account: chain.Address(e.Challenger), Side: chain.Side(e.Tree), Index: e.Index}, true
		}
		if e, err := disputesABI.UnpackAnsweredEvent(log); err == nil {
			return chain.Event{Name: "Answered", Run: e.Run, Serial: e.Serial.Uint64(), Account: chain.Address(e.By), Side: chain.Side(e.Tree), Index: e.Index}, true
		}
		if e, err := disputesABI.UnpackCaseOpenedEvent(log); err == nil {
			return chain.Event{Name: "CaseOpened", Run: e.Run, Serial: e.Serial.Uint64(), Account: chain.Address(e.Challenger), Hash: e.Evidence}, true
		}
		if e, err := disputesABI.UnpackCaseDecidedEvent(log); err == nil {
			return chain.Event{Name: "CaseDecided", Run: e.Run, Serial: e.Serial.Uint64(), Verdict: chain.Verdict(e.Verdict)}, true
		}
	case l.at(chain.Staking):
		if e, err := stakingABI.UnpackSlashedEvent(log); err == nil {
			return chain.Event{Name: "Slashed", Account: chain.Address(e.Account), Amount: e.Amount}, true
		}
		if e, err := stakingABI.UnpackKeyRegisteredEvent(log); err == nil {
			return chain.Event{Name: "KeyRegistered", Account: chain.Address(e.Owner), Key: chain.Address(e.Key)}, true
		}
		if e, err := stakingABI.UnpackKeyRevokedEvent(log); err == nil {
			return chain.Event{Name: "KeyRevoked", Account: chain.Address(e.Owner), Key: chain.Address(e.Key)}, true
		}
	case l.at(chain.Runs):
		if e, err := runsABI.UnpackPublishedEvent(log); err == nil {
			return chain.Event{Name: "Published", Run: e.Run, Account: chain.Address(e.Sponsor), Hash: e.Manifest}, true
		}
		if e, err := runsABI.UnpackClaimedEvent(log); err == nil {
			return chain.Event{Name: "Claimed", Run: e.Run, Account: chain.Address(e.Account), Amount: e.Amount}, true
		}
		if e, err := runsABI.UnpackFundedEvent(log); err == nil {
			return chain.Event{Name: "Funded", Run: e.Run, Account: chain.Address(e.From), Amount: e.Amount}, true
		}
	case l.at(chain.Equivocation):
		if e, err := equivocationABI.UnpackEquivocatedEvent(log); err == nil {
			return chain.Event{Name: "Equivocated", Account: chain.Address(e.Account), Key: chain.Address(e.Key)}, true
		}
	}
	if log.Address == l.at(chain.Convictions) {
		if e, err := convictionsABI.UnpackReportedEvent(log); err == nil {
			return chain.Event{Name: "Convicted", Run: e.Run, Account: chain.Address(e.Account), Key: chain.Address(e.Conviction.Key), Hash: e.Id}, true
		}
		if e, err := convictionsABI.UnpackAppealedEvent(log); err == nil {
			return chain.Event{Name: "ConvictionAppealed", Run: e.Run, Account: chain.Address(e.Account), Hash: e.Id}, true
		}
		if e, err := convictionsABI.UnpackClosedEvent(log); err == nil {
			return chain.Event{Name: "ConvictionClosed", Run: e.Run, Account: chain.Address(e.Account), Hash: e.Id, Guilty: e.Guilty, Amount: e.Taken}, true
		}
	}
	return chain.Event{}, false
}

package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/p2p/wire"
)

// SenderOptions tune a Sender. The zero value is usable.
type SenderOptions struct {
	File   string                                    // where transactions in flight are kept; "" forgets them with the process
	MaxFee *big.Int                                  // most wei a unit of gas; default 500 gwei
	Alarm  *big.Int                                  // balance in wei below which OnLow is told; nil: never
	OnLow  func(a common.Address, wei *big.Int)      // told at a Send
	OnBump func(nonce uint64, tx *types.Transaction) // told when fees are raised
	OnLoss func(Loss)                                // told when the chain has lost what it had
}

// A Sender sends one account's transactions, in the order of its nonces.
type Sender struct {
	c    *Client
	from common.Address
	sign func(*types.Transaction) (*types.Transaction, error)
	opt  SenderOptions

	mu      sync.Mutex         // guards the following
	flights map[uint64]*flight // sent and not yet safe, by nonce
	landed  map[uint64]*flight // the last that were safe, by nonce, see lost.go
	short   int                // looks in a row that found the chain shorter than it was
	gap     gap

	telling sync.Mutex      // guards the following; mu may be held during a call, and is locked before it
	losses  []Loss          // of which nothing more comes here
	again   map[uint64]Loss // by nonce: those that are being sent again, or waited for
}

// spare is gas on top of an estimate and a quarter. Whether a checkpoint takes a
// new slot or changes the last one depends on the second, and a slash writes
// four: what was estimated in one block can cost 17,000 more for each in the next.
const spare = 80_000

// ErrReplaced says that a transaction that is not ours has used the nonce, so
// that ours can never be mined: look what happened before doing it again.
var ErrReplaced = errors.New("another transaction of this account has used the nonce")

// NewSender returns a sender for k's account, with what is still in flight from
// an earlier process.
func NewSender(c *Client, k *wire.Key, opt SenderOptions) (*Sender, error) {
	priv, err := crypto.ToECDSA(k.Secret())
	if err != nil {
		return nil, fmt.Errorf("account key: %w", err)
	}
	if opt.MaxFee == nil {
		opt.MaxFee = big.NewInt(500e9)
	}
	signer := types.LatestSignerForChainID(big64(c.Preset.ChainID))
	s := &Sender{c: c, from: crypto.PubkeyToAddress(priv.PublicKey), opt: opt, flights: map[uint64]*flight{}, landed: map[uint64]*flight{}, again: map[uint64]Loss{},
		sign: func(tx *types.Transaction) (*types.Transaction, error) { return types.SignTx(tx, signer, priv) }}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

// Pending returns how many transactions are in flight.
func (s *Sender) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.flights)
}

// Send carries out one call and returns its receipt once that is safe. A revert
// is a *chain.Refusal, and then nothing was paid but perhaps gas. If the same
// call is in flight from a process that died, Send waits for that one.
func (s *Sender) Send(ctx context.Context, to *common.Address, data []byte) (*types.Receipt, error) {
	return s.send(ctx, "", to, data, nil)
}

// Pay sends wei to an account, as Send does.
func (s *Sender) Pay(ctx context.Context, to chain.Address, wei *big.Int) (*types.Receipt, error) {
	at := address(to)
	return s.send(ctx, "a payment of ether", &at, nil, wei)
}

func (s *Sender) send(ctx context.Context, what string, to *common.Address, data []byte, wei *big.Int) (*types.Receipt, error) {
	if err := s.looked(ctx); err != nil {
		return nil, err
	}
	f := s.adopt(to, data, wei)
	if f == nil {
		// What follows may need what was lost.
		if err := s.bring(ctx, func(f *flight) bool { return f.lost }); err != nil && !errors.Is(err, ErrReplaced) {
			return nil, err
		}
		est, err := s.c.EstimateGas(ctx, ethereum.CallMsg{From: s.from, To: to, Data: data, Value: wei})
		if err != nil {
			return nil, refusal(err, "estimate gas")
		}
		gas := est
		if len(data) > 0 {
			gas = est + est/4 + spare
		}
		if f, err = s.start(ctx, what, to, data, wei, gas); err != nil {
			return nil, err
		}
	}
	return s.wait(ctx, f)
}

// Resume sends again what an earlier process left in flight and waits until all
// of it is safe.
func (s *Sender) Resume(ctx context.Context) error {
	return s.bring(ctx, func(*flight) bool { return true })
}

func (s *Sender) fees(ctx context.Context) (tip, fee *big.Int, err error) {
	if tip, err = s.c.SuggestGasTipCap(ctx); err != nil {
		return nil, nil, fmt.Errorf("gas price: %w", err)
	}
	h, err := s.c.HeaderByNumber(ctx, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("newest block: %w", err)
	}
	fee = new(big.Int).Add(tip, new(big.Int).Lsh(num(h.BaseFee), 1))
	return s.cap(tip, fee)
}

func (s *Sender) cap(tip, fee *big.Int) (*big.Int, *big.Int, error) {
	if fee.Cmp(s.opt.MaxFee) > 0 {
		fee = s.opt.MaxFee
	}
	if tip.Cmp(fee) > 0 {
		tip = fee
	}
	return tip, fee, nil
}

// start takes a nonce, signs, writes down and sends. The lock spans all of it,
// so that the order on the chain is the order of the calls.
func (s *Sender) start(ctx context.Context, what string, to *common.Address, data []byte, wei *big.Int, gas uint64) (*flight, error) {
	tip, fee, err := s.fees(ctx)
	if err != nil {
		return nil, err
	}
	s.alarm(ctx)
	first := s.first(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.flights) >= maxFlights {
		return nil, fmt.Errorf("%d transactions are in flight already: wait for some", maxFlights)
	}
	nonce, err := s.c.NonceAt(ctx, s.from, nil)
	if err != nil {
		return nil, fmt.Errorf("nonce of %s: %w", s.from, err)
	}
	for _, known := range []map[uint64]*flight{s.flights, s.landed} {
		for n := range known {
			nonce = max(nonce, n+1)
		}
	}
	for tries := 0; ; tries++ {
		tx, err := s.sign(types.NewTx(&types.DynamicFeeTx{ChainID: big64(s.c.Preset.ChainID), Nonce: nonce, To: to, Value: num(wei), Data: data, Gas: gas, GasTipCap: tip, GasFeeCap: fee}))
		if err != nil {
			return nil, fmt.Errorf("sign: %w", err)
		}
		raw, err := tx.MarshalBinary()
		if err != nil {
			return nil, fmt.Errorf("sign: %w", err)
		}
		f := &flight{Nonce: nonce, What: what, To: to, Data: data, Value: (*hexutil.Big)(wei), Raw: []hexutil.Bytes{raw}, First: first, sent: time.Now(), adopted: true}
		s.flights[nonce] = f
		if err := s.saveLocked(); err != nil {
			delete(s.flights, nonce)
			return nil, err
		}
		err = s.c.SendTransaction(ctx, tx)
		switch {
		case err == nil || known(err):
			return f, nil
		case taken(err) && tries < 16: // another process sends for this account too
			if rc, e := s.c.TransactionReceipt(ctx, tx.Hash()); e == nil && rc != nil {
				return f, nil // or a proxy has sent ours twice
			}
			delete(s.flights, nonce)
			nonce++
			continue
		case ctx.Err() == nil && refusedForGood(err):
			delete(s.flights, nonce)
			return nil, errors.Join(fmt.Errorf("send: %w", err), s.saveLocked())
		default: // it may or may not have arrived: wait sends it again
			f.said = err
			return f, nil
		}
	}
}

func known(err error) bool {
	return strings.Contains(err.Error(), "already known") || strings.Contains(err.Error(), "already imported")
}

func taken(err error) bool {
	m := err.Error()
	return strings.Contains(m, "nonce too low") || strings.Contains(m, "replacement transaction underpriced")
}

// refusedForGood says that the node has judged the transaction itself and will
// never include it. Any other error may come after it was passed on, whatever it
// says: a transaction that is forgotten then would be paid twice.
func refusedForGood(err error) bool {
	for _, m := range []string{"insufficient funds", "intrinsic gas", "exceeds block gas limit", "gas limit too high", "exceeds the configured cap",
		"invalid sender", "invalid chain id", "transaction type not supported", "oversized data"} {
		if strings.Contains(err.Error(), m) {
			return true
		}
	}
	return false
}

func (s *Sender) alarm(ctx context.Context) {
	if s.opt.Alarm == nil || s.opt.OnLow == nil {
		return
	}
	if wei, err := s.c.BalanceAt(ctx, s.from, nil); err == nil && wei.Cmp(s.opt.Alarm) < 0 {
		s.opt.OnLow(s.from, wei)
	}
}

var errReverted = errors.New("the transaction was mined and reverted")

// wait polls until one of the flight's transactions is in a safe block.
func (s *Sender) wait(ctx context.Context, f *flight) (*types.Receipt, error) {
	lost := 0
	for {
		rc, sure := s.mined(ctx, f)
		if err := ctx.Err(); err != nil {
			return nil, s.kept(f, err)
		}
		switch {
		case rc != nil && s.settled(ctx, rc):
			if err := s.land(f, rc); err != nil {
				return rc, err
			}
			if rc.Status != types.ReceiptStatusSuccessful {
				return rc, s.why(ctx, f, rc)
			}
			return rc, nil
		case rc != nil:
			lost = 0
			s.mu.Lock()
			f.sent = time.Now() // a reorganization that drops it starts the clock anew
			s.mu.Unlock()
		default:
			if gone, err := s.gone(ctx, f); err == nil && gone {
				if !sure {
					lost = 0
				} else if lost++; lost > 20 {
					return nil, errors.Join(fmt.Errorf("%w: nonce %d of %s", ErrReplaced, f.Nonce, s.from), s.forget(f))
				}
			} else if err := s.mend(ctx, f.Nonce); ctx.Err() != nil {
				return nil, s.kept(f, ctx.Err())
			} else if err = errors.Join(err, s.resend(ctx, f)); err != nil {
				return nil, err
			}
		}
		if err := s.c.pause(ctx); err != nil {
			return nil, s.kept(f, err)
		}
	}
}

// kept says that a transaction stays in flight, and what the node last said.
func (s *Sender) kept(f *flight, why error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.adopted = false // who asks again waits for this one
	err := fmt.Errorf("transaction with nonce %d of %s is still in flight and is kept: %w", f.Nonce, s.from, why)
	if f.said != nil {
		err = fmt.Errorf("%w; the node says: %w", err, f.said)
	}
	return err
}

// mined finds the receipt of whichever transaction of the flight was mined. It
// is sure that there is none only if the node knows: one that has just started
// is still indexing, and one that is down knows nothing.
func (s *Sender) mined(ctx context.Context, f *flight) (rc *types.Receipt, sure bool) {
	s.mu.Lock()
	raws := slices.Clone(f.Raw)
	s.mu.Unlock()
	return s.receipt(ctx, raws)
}

func (s *Sender) receipt(ctx context.Context, raws []hexutil.Bytes) (rc *types.Receipt, sure bool) {
	sure = true
	for _, raw := range slices.Backward(raws) {
		rc, err := s.c.TransactionReceipt(ctx, crypto.Keccak256Hash(raw))
		if err == nil && rc != nil && rc.BlockNumber != nil {
			return rc, true
		}
		sure = sure && (err == nil || errors.Is(err, ethereum.NotFound))
	}
	return nil, sure
}

// settled reports whether the receipt's block is safe and canonical.
func (s *Sender) settled(ctx context.Context, rc *types.Receipt) bool {
	safe, err := s.c.safe(ctx)
	if err != nil || safe.Number.Cmp(rc.BlockNumber) < 0 {
		return false
	}
	h, err := s.c.HeaderByNumber(ctx, rc.BlockNumber)
	return err == nil && h.Hash() == rc.BlockHash
}

// gone reports whether the nonce is used in a safe block.
func (s *Sender) gone(ctx context.Context, f *flight) (bool, error) {
	safe, err := s.c.safe(ctx)
	if err != nil {
		return false, err
	}
	n, err := s.c.NonceAt(ctx, s.from, safe.Number)
	return n > f.Nonce, err
}

// resend sends the newest transaction of the flight once more, with higher fees
// if it has waited for long.
func (s *Sender) resend(ctx context.Context, f *flight) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx := new(types.Transaction)
	if err := tx.UnmarshalBinary(f.Raw[len(f.Raw)-1]); err != nil {
		return fmt.Errorf("transaction in flight: %w", err)
	}
	if f.sent.IsZero() { // from an earlier process
		f.sent = time.Now()
	}
	if time.Since(f.sent) >= s.c.Bump && len(f.Raw) < 64 {
		if tip, fee, err := s.fees(ctx); err == nil {
			tip, fee, _ = s.cap(higher(raise(tx.GasTipCap()), tip), higher(raise(tx.GasFeeCap()), fee))
			if fee.Cmp(raise(tx.GasFeeCap())) >= 0 { // else the cap forbids a valid replacement
				bumped, err := s.sign(types.NewTx(&types.DynamicFeeTx{ChainID: tx.ChainId(), Nonce: f.Nonce, To: f.To, Value: num(f.Value.ToInt()), Data: f.Data, Gas: tx.Gas(), GasTipCap: tip, GasFeeCap: fee}))
				if err != nil {
					return fmt.Errorf("sign: %w", err)
				}
				raw, err := bumped.MarshalBinary()
				if err != nil {
					return fmt.Errorf("sign: %w", err)
				}
				f.Raw = append(f.Raw, raw)
				if err := s.saveLocked(); err != nil {
					f.Raw = f.Raw[:len(f.Raw)-1]
					return err
				}
				tx = bumped
				if s.opt.OnBump != nil {
					s.opt.OnBump(f.Nonce, tx)
				}
			}
			f.sent = time.Now()
		}
	}
	// What the node says decides nothing: it may know it already, or be down.
	if f.said = s.c.SendTransaction(ctx, tx); f.said != nil && known(f.said) {
		f.said = nil
	}
	return nil
}

// raise adds what replaces a pending transaction: 12.5 % and a wei; nodes want 10 %.
func raise(x *big.Int) *big.Int {
	return new(big.Int).Add(new(big.Int).Add(x, new(big.Int).Rsh(x, 3)), big.NewInt(1))
}

func higher(a, b *big.Int) *big.Int {
	if a.Cmp(b) > 0 {
		return a
	}
	return b
}

// why asks for the reason of a transaction that was mined and reverted, by
// calling it again on top of its block's parent.
func (s *Sender) why(ctx context.Context, f *flight, rc *types.Receipt) error {
	tx := new(types.Transaction)
	if err := tx.UnmarshalBinary(f.Raw[len(f.Raw)-1]); err == nil && rc.GasUsed >= tx.Gas() {
		return fmt.Errorf("%w (%s): it ran out of gas at %d; try again", errReverted, rc.TxHash, rc.GasUsed)
	}
	_, err := s.c.CallContract(ctx, ethereum.CallMsg{From: s.from, To: f.To, Data: f.Data, Value: f.Value.ToInt()}, rc.BlockNumber)
	if err == nil {
		return fmt.Errorf("%w (%s), and would not revert now", errReverted, rc.TxHash)
	}
	return fmt.Errorf("%w: %w", errReverted, refusal(err, rc.TxHash.Hex()))
}

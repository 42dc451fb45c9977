package evm

import (
	"context"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/shoalnet/shoal/chain"
)

// A mood is a node that behaves as a test tells it to.
type mood struct {
	Backend
	down    atomic.Bool                            // answers nothing
	swallow func(*types.Transaction) (bool, error) // true: the transaction goes no further
	logs    func([]types.Log) []types.Log          // what becomes of logs
	receipt func() error                           // instead of a receipt, unless nil
	sends   atomic.Int64
}

var errDown = errors.New("connection refused")

func (m *mood) SendTransaction(ctx context.Context, tx *types.Transaction) error {
	m.sends.Add(1)
	if m.down.Load() {
		return errDown
	}
	if m.swallow != nil {
		if stop, err := m.swallow(tx); stop {
			return err
		}
	}
	return m.Backend.SendTransaction(ctx, tx)
}

func (m *mood) TransactionReceipt(ctx context.Context, h common.Hash) (*types.Receipt, error) {
	if m.down.Load() {
		return nil, errDown
	}
	if m.receipt != nil {
		if err := m.receipt(); err != nil {
			return nil, err
		}
	}
	return m.Backend.TransactionReceipt(ctx, h)
}

func (m *mood) BlockNumber(ctx context.Context) (uint64, error) {
	if m.down.Load() {
		return 0, errDown
	}
	return m.Backend.BlockNumber(ctx)
}

func (m *mood) FilterLogs(ctx context.Context, q ethereum.FilterQuery) ([]types.Log, error) {
	ls, err := m.Backend.FilterLogs(ctx, q)
	if m.logs != nil {
		ls = m.logs(ls)
	}
	return ls, err
}

// moody is a chain with a deployment, whose first account sends through a mood.
func moody(t *testing.T) (*sealing, *mood, *Client, *Ledger, string) {
	t.Helper()
	ks := testKeys(t, 2)
	s, c := simulate(t, ks)
	l := world(t, chain.DefaultConfig(chain.AddressOf(ks[0])), c, ks)
	m := &mood{Backend: s}
	mc, err := NewClient(t.Context(), m, c.Preset)
	if err != nil {
		t.Fatal(err)
	}
	return s, m, mc, l, filepath.Join(t.TempDir(), "flights.json")
}

// transfer is a payment of 5 coins from the first account to the second.
func transfer(l *Ledger, t *testing.T) (*common.Address, []byte, chain.Address) {
	t.Helper()
	to := chain.AddressOf(testKeys(t, 2)[1])
	at, data, err := l.Call(t.Context(), chain.Transfer{To: to, Amount: chain.Coins(5)})
	if err != nil {
		t.Fatal(err)
	}
	return &at, data, to
}

func paid(t *testing.T, l *Ledger, who chain.Address, coins int64) {
	t.Helper()
	b, err := l.Balance(t.Context(), who)
	if err != nil || b.Cmp(chain.Coins(coins)) != 0 {
		t.Fatalf("paid %s (%v), want %d coins", chain.FormatAmount(b), err, coins)
	}
}

func newSender(t *testing.T, c *Client, opt SenderOptions) *Sender {
	t.Helper()
	s, err := NewSender(c, testKeys(t, 1)[0], opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A process is killed after it has written a transaction down and before it has
// sent it, or after it has sent it and before it knows: the next one pays once,
// whether it resumes or is told to do the same again.
func TestKilledBetweenSignAndSend(t *testing.T) {
	for _, arrived := range []bool{false, true} {
		for _, again := range []bool{false, true} {
			_, m, c, l, file := moody(t)
			to, data, who := transfer(l, t)
			ctx, kill := context.WithCancel(t.Context())
			m.swallow = func(tx *types.Transaction) (bool, error) {
				if arrived {
					if err := m.Backend.SendTransaction(t.Context(), tx); err != nil {
						t.Error(err)
					}
				}
				kill()
				return true, errDown
			}
			if _, err := newSender(t, c, SenderOptions{File: file}).Send(ctx, to, data); !errors.Is(err, context.Canceled) {
				t.Fatalf("killed: %v", err)
			}
			m.swallow = nil
			s := newSender(t, c, SenderOptions{File: file})
			if s.Pending() != 1 {
				t.Fatalf("%d transactions were kept", s.Pending())
			}
			var err error
			if again {
				_, err = s.Send(t.Context(), to, data)
			} else {
				err = s.Resume(t.Context())
			}
			if err != nil {
				t.Fatalf("arrived %v, again %v: %v", arrived, again, err)
			}
			paid(t, l, who, 5)
			if s.Pending() != 0 || newSender(t, c, SenderOptions{File: file}).Pending() != 0 {
				t.Error("the transaction is still in flight")
			}
		}
	}
}

// An rpcError is an answer of a node.
type rpcError string

func (e rpcError) Error() string { return string(e) }
func (rpcError) ErrorCode() int  { return -32603 }

// A proxy passes a transaction on and then answers that it has failed: it is not
// sent a second time under another nonce.
func TestAnswersLateThatItFailed(t *testing.T) {
	_, m, c, l, file := moody(t)
	to, data, who := transfer(l, t)
	m.swallow = func(tx *types.Transaction) (bool, error) {
		if m.sends.Load() == 1 {
			if err := m.Backend.SendTransaction(t.Context(), tx); err != nil {
				t.Error(err)
			}
			return true, rpcError("request timed out")
		}
		return false, nil
	}
	for range 2 { // whoever is told that it failed does it again
		if _, err := newSender(t, c, SenderOptions{File: file}).Send(t.Context(), to, data); err == nil {
			break
		}
	}
	paid(t, l, who, 5)
}

// What a node will never take is said at once, with its reason, and forgotten;
// what it may take later is kept, with its reason.
func TestRefusedByTheNode(t *testing.T) {
	_, m, c, l, file := moody(t)
	to, data, who := transfer(l, t)
	m.swallow = func(*types.Transaction) (bool, error) {
		return true, rpcError("insufficient funds for gas * price + value")
	}
	s := newSender(t, c, SenderOptions{File: file})
	if _, err := s.Send(t.Context(), to, data); err == nil || !strings.Contains(err.Error(), "insufficient funds") || s.Pending() != 0 {
		t.Fatalf("%v, %d in flight", err, s.Pending())
	}
	ctx, cancel := context.WithCancel(t.Context())
	m.swallow = func(*types.Transaction) (bool, error) { cancel(); return true, rpcError("txpool is full") }
	if _, err := s.Send(ctx, to, data); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "txpool is full") || s.Pending() != 1 {
		t.Fatalf("%v, %d in flight", err, s.Pending())
	}
	m.swallow = nil
	if _, err := newSender(t, c, SenderOptions{File: file}).Send(t.Context(), to, data); err != nil {
		t.Fatal(err)
	}
	paid(t, l, who, 5)
}

// Just after its start a node may not find receipts that it has: the transaction
// is not taken for replaced.
func TestReceiptsAreIndexed(t *testing.T) {
	_, m, c, l, file := moody(t)
	to, data, who := transfer(l, t)
	polls := 0
	m.receipt = func() error {
		if polls++; polls < 60 {
			return rpcError("transaction indexing is in progress")
		}
		return nil
	}
	if _, err := newSender(t, c, SenderOptions{File: file}).Send(t.Context(), to, data); err != nil {
		t.Fatal(err)
	}
	paid(t, l, who, 5)
}

// Ether is paid once, by whichever process: the flight remembers the amount.
func TestPay(t *testing.T) {
	_, m, c, l, file := moody(t)
	to := chain.Address{9}
	ctx, cancel := context.WithCancel(t.Context())
	m.swallow = func(*types.Transaction) (bool, error) { cancel(); return true, errDown }
	if _, err := newSender(t, c, SenderOptions{File: file}).Pay(ctx, to, big.NewInt(7)); err == nil {
		t.Fatal("paid through a dead node")
	}
	m.swallow = nil
	s := newSender(t, c, SenderOptions{File: file})
	for _, wei := range []int64{7, 5} { // the first is the one in flight
		if _, err := s.Pay(t.Context(), to, big.NewInt(wei)); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := l.Gas(t.Context(), to); err != nil || b.Int64() != 12 {
		t.Fatalf("%s wei, %v", b, err)
	}
}

// The node goes down just when a transaction is sent, and comes back.
func TestNodeDownAndBack(t *testing.T) {
	_, m, c, l, file := moody(t)
	to, data, who := transfer(l, t)
	m.swallow = func(*types.Transaction) (bool, error) {
		if m.sends.Load() == 1 {
			m.down.Store(true)
			time.AfterFunc(30*time.Millisecond, func() { m.down.Store(false) })
			return true, errDown
		}
		return false, nil
	}
	if _, err := newSender(t, c, SenderOptions{File: file}).Send(t.Context(), to, data); err != nil {
		t.Fatal(err)
	}
	paid(t, l, who, 5)
}

// A transaction whose fee is too low is replaced until it is mined, once, and
// never above the cap.
func TestStuckFee(t *testing.T) {
	_, m, c, l, file := moody(t)
	c.Bump = time.Nanosecond
	to, data, who := transfer(l, t)
	var floor *big.Int
	m.swallow = func(tx *types.Transaction) (bool, error) {
		if floor == nil {
			floor = new(big.Int).Mul(tx.GasFeeCap(), big.NewInt(2))
		}
		return tx.GasFeeCap().Cmp(floor) < 0, nil
	}
	bumps := 0
	rc, err := newSender(t, c, SenderOptions{File: file, OnBump: func(uint64, *types.Transaction) { bumps++ }}).Send(t.Context(), to, data)
	if err != nil || bumps < 4 {
		t.Fatalf("%d bumps, %v", bumps, err)
	}
	if rc.EffectiveGasPrice.Sign() <= 0 {
		t.Error("no gas price")
	}
	paid(t, l, who, 5)

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	most := new(big.Int)
	m.swallow = func(tx *types.Transaction) (bool, error) {
		if tx.GasFeeCap().Cmp(most) > 0 {
			most.Set(tx.GasFeeCap())
		}
		return true, nil
	}
	limit := big.NewInt(5e9)
	if _, err := newSender(t, c, SenderOptions{MaxFee: limit}).Send(ctx, to, data); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if most.Cmp(limit) > 0 {
		t.Errorf("%s wei were offered, the cap is %s", most, limit)
	}
}

// A mined transaction is taken back by a reorganization before it is safe: it is
// sent again and counts once.
func TestReorganization(t *testing.T) {
	s, m, c, l, file := moody(t)
	c.Depth = 2
	to, data, who := transfer(l, t)
	parent, err := s.HeaderByNumber(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	forked := false
	m.swallow = func(tx *types.Transaction) (bool, error) {
		if err := s.SendTransaction(t.Context(), tx); err != nil && !known(err) && !taken(err) {
			return true, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !forked {
			forked = true
			if err := s.sim.Fork(parent.Hash()); err != nil {
				t.Error(err)
			}
			s.sim.Commit() // another block at the same height, without it
			s.sim.Commit()
		}
		return true, nil
	}
	s.beat(t)
	if _, err := newSender(t, c, SenderOptions{File: file}).Send(t.Context(), to, data); err != nil {
		t.Fatal(err)
	}
	paid(t, l, who, 5)
}

// Another process that holds the key has used the nonce: ours is not sent under
// another one unasked.
func TestReplaced(t *testing.T) {
	_, m, c, l, file := moody(t)
	to, data, who := transfer(l, t)
	other := newSender(t, c, SenderOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	m.swallow = func(*types.Transaction) (bool, error) { cancel(); return true, errDown }
	s := newSender(t, c, SenderOptions{File: file})
	if _, err := s.Send(ctx, to, data); err == nil {
		t.Fatal("sent through a dead node")
	}
	m.swallow = nil
	at, approve, err := l.Call(t.Context(), chain.Approve{Spender: chain.Runs, Amount: chain.Coins(1)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Send(t.Context(), &at, approve); err != nil {
		t.Fatal(err)
	}
	if err := newSender(t, c, SenderOptions{File: file}).Resume(t.Context()); !errors.Is(err, ErrReplaced) {
		t.Fatalf("%v, want ErrReplaced", err)
	}
	paid(t, l, who, 0)
}

func TestFlightsOnDisk(t *testing.T) {
	_, _, c, _, file := moody(t)
	for _, bad := range []string{"{", `[null]`, `[{"nonce":1}]`, `"x"`} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NewSender(c, testKeys(t, 1)[0], SenderOptions{File: file}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestBalanceAlarm(t *testing.T) {
	_, _, c, l, _ := moody(t)
	to, data, _ := transfer(l, t)
	low := 0
	s := newSender(t, c, SenderOptions{Alarm: new(big.Int).Lsh(big.NewInt(1), 100), OnLow: func(common.Address, *big.Int) { low++ }})
	if _, err := s.Send(t.Context(), to, data); err != nil || low != 1 {
		t.Fatalf("%d alarms, %v", low, err)
	}
}

// A node of another chain, one without the contracts, one that leaves logs out
// and one that invents them are all noticed.
func TestLyingNode(t *testing.T) {
	s, m, c, l, _ := moody(t)
	if _, err := NewClient(t.Context(), s, Preset{ChainID: 5}); !errors.Is(err, ErrWrongChain) {
		t.Errorf("wrong chain: %v", err)
	}
	wrong := l.book
	wrong.ChainID = 5
	if _, err := Open(t.Context(), c, wrong); !errors.Is(err, ErrWrongChain) {
		t.Errorf("wrong book: %v", err)
	}
	swapped := l.book
	swapped.Contracts = map[chain.Contract]chain.Address{}
	for k, v := range l.book.Contracts {
		swapped.Contracts[k] = v
	}
	swapped.Contracts[chain.Vouchers] = l.book.Contracts[chain.Token]
	if _, err := Open(t.Context(), c, swapped); !errors.Is(err, ErrNotDeployed) || !strings.Contains(err.Error(), "is not our vouchers") {
		t.Errorf("a token passed for the vouchers: %v", err)
	}
	swapped.Contracts[chain.Vouchers] = chain.Address{1}
	if _, err := Open(t.Context(), c, swapped); err == nil {
		t.Error("nothing passed for the vouchers")
	}

	ks := testKeys(t, 2)
	key := ks[1]
	if _, err := l.Do(t.Context(), chain.AddressOf(ks[0]), chain.RegisterKey{Key: chain.AddressOf(key), Deadline: 1 << 40,
		Sig: chain.SignDigest(key, l.book.KeyDigest(chain.AddressOf(ks[0]), chain.AddressOf(key), 0, 1<<40))}); err != nil {
		t.Fatal(err)
	}
	ml, err := Open(t.Context(), c, l.book)
	if err != nil {
		t.Fatal(err)
	}
	es, cur, err := ml.Events(t.Context(), chain.Cursor{})
	if err != nil || len(es) != 1 || es[0].Name != "KeyRegistered" {
		t.Fatalf("%v, %v", es, err)
	}
	m.logs = func([]types.Log) []types.Log { return nil }
	if _, _, err := ml.Events(t.Context(), chain.Cursor{}); !errors.Is(err, ErrLyingNode) {
		t.Errorf("missing logs: %v", err)
	}
	m.logs = func(ls []types.Log) []types.Log { return append(ls, ls...) }
	if _, _, err := ml.Events(t.Context(), chain.Cursor{}); !errors.Is(err, ErrLyingNode) {
		t.Errorf("invented logs: %v", err)
	}
	m.logs = nil
	cur.Hash[0] ^= 1
	if _, _, err := ml.Events(t.Context(), cur); !errors.Is(err, chain.ErrRewritten) {
		t.Errorf("a cursor of another history: %v", err)
	}
}

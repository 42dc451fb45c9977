// Package evm is chain.Ledger on an Ethereum virtual machine, by JSON-RPC.
//
// What it tells is safe: it reads at, and waits for, blocks that the chain will
// not take back, which is a number of blocks on a chain of one's own and the
// "safe" tag on a rollup. A transaction is on disk before it is on the wire, so
// that a process killed in between finds it again and sends it, and not another
// one. A node that is down is waited for; one of another chain is refused; one
// that leaves out logs is caught by the bloom filters and receipt roots of the
// headers.
package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/rpc"
	"github.com/shoalnet/shoal/chain"
)

// A Backend is the node that a Client talks to: *ethclient.Client is one.
type Backend interface {
	ethereum.BlockNumberReader
	ethereum.ChainIDReader
	ethereum.ContractCaller
	ethereum.GasEstimator
	ethereum.GasPricer1559
	ethereum.TransactionSender
	BalanceAt(ctx context.Context, account common.Address, block *big.Int) (*big.Int, error)
	CodeAt(ctx context.Context, account common.Address, block *big.Int) ([]byte, error)
	FilterLogs(ctx context.Context, q ethereum.FilterQuery) ([]types.Log, error)
	HeaderByNumber(ctx context.Context, number *big.Int) (*types.Header, error)
	NonceAt(ctx context.Context, account common.Address, block *big.Int) (uint64, error)
	TransactionReceipt(ctx context.Context, tx common.Hash) (*types.Receipt, error)
	BlockReceipts(ctx context.Context, block rpc.BlockNumberOrHash) ([]*types.Receipt, error)
}

// A Preset is a chain that Shoal knows how to treat.
type Preset struct {
	Name    string
	URL     string
	ChainID uint64        // 0: whatever answers
	Depth   uint64        // blocks on top of a safe one
	Tag     bool          // use the node's safe tag instead
	Poll    time.Duration // between looks at the chain
	Bump    time.Duration // without a receipt, until fees are raised
}

// DevPort is the loopback port of the chain that `shoal chain dev` runs.
const DevPort = 18560

// DevChainID is its chain ID.
const DevChainID = 31338

// Presets by name. The dev chain can lose its last two blocks in a crash.
var Presets = map[string]Preset{
	"dev":          {Name: "dev", URL: fmt.Sprintf("http://127.0.0.1:%d", DevPort), ChainID: DevChainID, Depth: 2, Poll: 200 * time.Millisecond, Bump: 15 * time.Second},
	"base-sepolia": {Name: "base-sepolia", URL: "https://sepolia.base.org", ChainID: 84532, Tag: true, Poll: 2 * time.Second, Bump: 30 * time.Second},
}

// Custom is the preset for any other node: its safe tag, and a fixed chain ID.
func Custom(url string, chainID uint64) Preset {
	return Preset{Name: "custom", URL: url, ChainID: chainID, Tag: true, Poll: 2 * time.Second, Bump: 30 * time.Second}
}

// ErrWrongChain is returned when a node serves another chain than was asked for.
var ErrWrongChain = errors.New("the node serves another chain")

// A Client is a node and how far it is to be believed.
type Client struct {
	Backend
	Preset
}

// Dial connects to p.URL and checks the chain ID.
func Dial(ctx context.Context, p Preset) (*Client, error) {
	node := &http.Client{Transport: bounded{http.DefaultTransport, maxAnswer, answerIn}}
	r, err := rpc.DialOptions(ctx, p.URL, rpc.WithHTTPClient(node)) // others are bounded by go-ethereum
	if err != nil {
		return nil, fmt.Errorf("connect to the chain at %s: %w", p.URL, err)
	}
	b := ethclient.NewClient(r)
	c, err := NewClient(ctx, b, p)
	if err != nil {
		b.Close()
	}
	return c, err
}

// NewClient wraps a node and checks its chain ID.
func NewClient(ctx context.Context, b Backend, p Preset) (*Client, error) {
	id, err := b.ChainID(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its chain ID: %w", p.URL, err)
	}
	if p.ChainID == 0 {
		p.ChainID = id.Uint64()
	}
	if !id.IsUint64() || id.Uint64() != p.ChainID {
		return nil, fmt.Errorf("%w: %s has chain ID %s, want %d", ErrWrongChain, p.URL, id, p.ChainID)
	}
	if p.Poll <= 0 {
		p.Poll = time.Second
	}
	if p.Bump <= 0 {
		p.Bump = 30 * time.Second
	}
	return &Client{b, p}, nil
}

// safe returns the newest block that counts.
func (c *Client) safe(ctx context.Context) (*types.Header, error) {
	if c.Tag {
		h, err := c.HeaderByNumber(ctx, big.NewInt(int64(rpc.SafeBlockNumber)))
		if err != nil {
			return nil, fmt.Errorf("safe block: %w", err)
		}
		return h, nil
	}
	n, err := c.BlockNumber(ctx)
	if err != nil {
		return nil, fmt.Errorf("newest block: %w", err)
	}
	h, err := c.HeaderByNumber(ctx, new(big.Int).SetUint64(n-min(n, c.Depth)))
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", n-min(n, c.Depth), err)
	}
	return h, nil
}

// pause waits for one poll, or for the end of ctx.
func (c *Client) pause(ctx context.Context) error {
	t := time.NewTimer(c.Poll)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func address(a chain.Address) common.Address { return common.Address(a) }

func num(a chain.Amount) *big.Int {
	if a == nil {
		return new(big.Int)
	}
	return a
}

func big64(n uint64) *big.Int { return new(big.Int).SetUint64(n) }

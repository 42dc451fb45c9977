// Package devchain is an EVM chain in this process, for a newcomer's machine
// and for tests: go-ethereum's execution with a sealer of our own, under the
// rules of Osaka, which are Base's. It is one sequencer and leads nobody: a
// swarm across machines settles on a public chain.
//
// The chain is on disk, answers JSON-RPC on loopback only and survives being
// killed: every block is flushed, all but perhaps the last. Clients wait for
// two on top before they believe one. A second process finds the port
// answered and joins the chain that runs (see Start).
//
// Time is the machine's. A block is at least a second after its parent, so the
// sealer looks once a second and seals if a transaction waits, twice more after
// it, and if the last block is older than Options.Beat: contracts see time pass
// even where nothing happens. An idle chain takes about 8 kB a block.
package devchain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core"
	"github.com/ethereum/go-ethereum/core/rawdb"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/eth"
	"github.com/ethereum/go-ethereum/eth/catalyst"
	"github.com/ethereum/go-ethereum/eth/ethconfig"
	"github.com/ethereum/go-ethereum/eth/filters"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/node"
	"github.com/ethereum/go-ethereum/p2p"
	"github.com/ethereum/go-ethereum/params"
	"github.com/ethereum/go-ethereum/rpc"
)

// Options say where the chain is. Dir must be set.
type Options struct {
	Dir     string           // the chain's data; made if absent
	Port    int              // on 127.0.0.1; 0 takes a free one
	ChainID uint64           // default 31338
	Funded  []common.Address // given a million ether at genesis; of no effect later
	Tick    time.Duration    // between looks for transactions; default and least 1 s
	Beat    time.Duration    // longest time without a block; default 5 s
}

// ErrInUse says that another process has the chain's directory and does not
// answer on the port.
var ErrInUse = errors.New("the chain's directory is used by another process")

// A Chain runs in this process, or in another that was joined.
type Chain struct {
	URL    string
	Joined bool // another process runs it

	node *node.Node
	once sync.Once
	stop chan struct{}
	done chan struct{}
	err  error // of the sealer; written before done is closed
}

// Start runs the chain of o.Dir, or joins the one that already answers on the
// port with the same chain ID. Close ends it.
func Start(ctx context.Context, o Options) (*Chain, error) {
	if o.Dir == "" {
		return nil, errors.New("dev chain: no directory")
	}
	if o.ChainID == 0 {
		o.ChainID = 31338
	}
	o.Tick = max(o.Tick, time.Second)
	if o.Beat <= 0 {
		o.Beat = 5 * time.Second
	}
	if o.Port != 0 {
		if c, err := join(ctx, o); c != nil || err != nil {
			return c, err
		}
	} else {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("dev chain: find a free port: %w", err)
		}
		o.Port = l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("dev chain: find a free port: %w", err)
		}
	}
	c, err := start(o)
	if err != nil && strings.Contains(err.Error(), "datadir already used") {
		// Two processes began at once: the other has won, and will answer soon.
		for range 50 {
			if c, err := join(ctx, o); c != nil || err != nil {
				return c, err
			}
			t := time.NewTimer(100 * time.Millisecond)
			select {
			case <-ctx.Done():
				t.Stop()
				return nil, ctx.Err()
			case <-t.C:
			}
		}
		return nil, fmt.Errorf("%w: %s; it does not answer on port %d, so give its port", ErrInUse, o.Dir, o.Port)
	}
	if err != nil {
		return nil, fmt.Errorf("dev chain: %w", err)
	}
	return c, nil
}

func url(port int) string { return "http://127.0.0.1:" + strconv.Itoa(port) }

// join returns the chain that answers on the port, nil if none does.
func join(ctx context.Context, o Options) (*Chain, error) {
	ok, err := answers(ctx, o.Port, o.ChainID)
	if err != nil || !ok {
		return nil, err
	}
	return &Chain{URL: url(o.Port), Joined: true}, nil
}

// answers reports whether a chain with this ID answers on the port; another
// chain there is an error.
func answers(ctx context.Context, port int, id uint64) (bool, error) {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false, nil
	}
	if err := conn.Close(); err != nil {
		return false, fmt.Errorf("dev chain: port %d: %w", port, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := ethclient.DialContext(ctx, url(port))
	if err != nil {
		return false, fmt.Errorf("dev chain: port %d: %w", port, err)
	}
	defer c.Close()
	got, err := c.ChainID(ctx)
	if err != nil {
		return false, fmt.Errorf("dev chain: something that is no chain listens on port %d; give another with --port: %w", port, err)
	}
	if !got.IsUint64() || got.Uint64() != id {
		return false, fmt.Errorf("dev chain: chain %s listens on port %d, want %d; give another with --port", got, port, id)
	}
	return true, nil
}

// rules are Osaka's. go-ethereum's own default for development is ahead of
// every public chain: a stored receipt costs three times as much there.
func rules(id uint64) *params.ChainConfig {
	c := *params.MergedTestChainConfig
	c.ChainID, c.Ethash = new(big.Int).SetUint64(id), nil
	return &c
}

func start(o Options) (c *Chain, err error) {
	nc := node.DefaultConfig
	nc.Name, nc.DataDir, nc.IPCPath = "devchain", o.Dir, ""
	nc.P2P = p2p.Config{NoDiscovery: true, NoDial: true}
	// No debug or admin; the host is checked against DNS rebinding, and no web
	// page may ask (no CORS).
	modules := []string{"eth", "net", "web3"}
	nc.HTTPHost, nc.HTTPPort, nc.HTTPModules, nc.HTTPVirtualHosts = "127.0.0.1", o.Port, modules, []string{"localhost", "127.0.0.1"}
	nc.WSHost, nc.WSPort, nc.WSModules = "127.0.0.1", o.Port, modules
	n, err := node.New(&nc)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()

	ec := ethconfig.Defaults
	ec.SyncMode, ec.NetworkId = ethconfig.FullSync, o.ChainID
	// Of all combinations only this one keeps the state of blocks that a killed
	// process has sealed; the others go back to genesis (go-ethereum #25080).
	ec.StateScheme, ec.NoPruning = rawdb.HashScheme, true
	ec.DatabaseCache, ec.DatabaseHandles, ec.TrieCleanCache, ec.TrieDirtyCache, ec.SnapshotCache = 32, 256, 16, 16, 0
	ec.Miner.GasCeil, ec.Miner.GasPrice = 60e6, big.NewInt(1)
	ec.TxPool.PriceLimit, ec.TxPool.Journal = 1, ""
	alloc := types.GenesisAlloc{}
	maps.Copy(alloc, core.SystemContractAllocs())
	million := new(big.Int).Mul(big.NewInt(1e6), big.NewInt(params.Ether))
	for _, a := range o.Funded {
		alloc[a] = types.Account{Balance: million}
	}
	ec.Genesis = &core.Genesis{Config: rules(o.ChainID), GasLimit: 60e6, BaseFee: big.NewInt(1e6), Difficulty: new(big.Int), Alloc: alloc}
	if known(n) {
		ec.Genesis = nil // the one on disk counts, whoever is funded now
	}
	e, err := eth.New(n, &ec)
	if err != nil {
		return nil, err
	}
	n.RegisterAPIs([]rpc.API{{Namespace: "eth", Service: filters.NewFilterAPI(filters.NewFilterSystem(e.APIBackend, filters.Config{}))}})
	sim, err := catalyst.NewSimulatedBeacon(0, common.Address{}, e) // not registered: ours is the only sealer
	if err != nil {
		return nil, err
	}
	if err := n.Start(); err != nil {
		return nil, err
	}
	c = &Chain{URL: url(o.Port), node: n, stop: make(chan struct{}), done: make(chan struct{})}
	go c.seal(e, sim, o)
	return c, nil
}

// known reports whether the directory holds a chain already.
func known(n *node.Node) bool {
	db, err := n.OpenDatabaseWithOptions("chaindata", node.DatabaseOptions{Cache: 16, Handles: 16})
	if err != nil {
		return false
	}
	ok := rawdb.ReadCanonicalHash(db, 0) != (common.Hash{})
	return db.Close() == nil && ok
}

// seal owns the simulated beacon, whose Commit has no lock of its own.
func (c *Chain) seal(e *eth.Ethereum, sim *catalyst.SimulatedBeacon, o Options) {
	defer close(c.done)
	t := time.NewTicker(o.Tick)
	defer t.Stop()
	var last time.Time
	follow := 0 // empty blocks to come: clients wait for two on top of a transaction
	for {
		select {
		case <-c.stop:
			return
		case now := <-t.C:
			pending, _ := e.TxPool().Stats()
			if pending > 0 {
				follow = 3
			}
			if follow > 0 || now.Sub(last) >= o.Beat {
				sim.Commit()
				// Without it a killed process takes with it up to 32 kB of what it has
				// written, which is several blocks.
				if err := e.ChainDb().SyncKeyValue(); err != nil {
					slog.Error("dev chain: flush a block", "err", err)
				}
				last, follow = now, max(0, follow-1)
			}
		}
	}
}

// Close ends the chain if this process runs it, and waits until it has.
func (c *Chain) Close() error {
	c.once.Do(func() {
		if c.node == nil {
			return
		}
		close(c.stop)
		<-c.done
		c.err = c.node.Close()
	})
	return c.err
}

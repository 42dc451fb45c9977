package evm

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/rpc"
	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/chaintest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// anvil finds the program that npm installs, "" where it is not.
func anvil() string {
	for _, dir := range []string{os.Getenv("SHOAL_NODE_MODULES"), "../contracts"} {
		p := filepath.Join(dir, "node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil")
		if _, err := os.Stat(p); dir != "" && err == nil {
			return p
		}
	}
	return ""
}

// The suite on another EVM than ours: anvil, which is revm.
func TestAnvil(t *testing.T) { chaintest.Suite(t, onAnvil(t)) }

// onAnvil skips the test where there is no anvil.
func onAnvil(t *testing.T) chaintest.Maker {
	t.Helper()
	bin := anvil()
	if bin == "" {
		t.Skip("SKIPPED: this was NOT run on anvil: `npm install` in chain/contracts or set SHOAL_NODE_MODULES")
	}
	return func(t testing.TB, cfg chain.Config, accounts []*wire.Key) chaintest.World {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cmd := exec.CommandContext(ctx, bin, "--host", "127.0.0.1", "--port", strconv.Itoa(port), "--hardfork", "osaka", "--accounts", "1", "--silent")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cancel()
			_ = cmd.Wait() // killed
		})
		var c *Client
		until := time.Now().Add(30 * time.Second)
		for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
			c, err = Dial(t.Context(), Preset{URL: "http://127.0.0.1:" + strconv.Itoa(port), Poll: 2 * time.Millisecond, Bump: time.Minute})
			if err == nil {
				tick.Stop()
				break
			}
			if time.Now().After(until) {
				t.Fatal(err)
			}
		}
		var raw *rpc.Client
		if e, ok := c.Backend.(*ethclient.Client); ok {
			raw = e.Client()
		}
		call := func(t testing.TB, method string, args ...any) {
			t.Helper()
			if err := raw.CallContext(context.Background(), nil, method, args...); err != nil {
				t.Fatal(err)
			}
		}
		for _, k := range accounts {
			call(t, "anvil_setBalance", address(chain.AddressOf(k)), "0x100000000000000000000")
		}
		return chaintest.World{Ledger: world(t, cfg, c, accounts), Advance: func(t testing.TB, n uint64) {
			call(t, "evm_increaseTime", n)
			call(t, "evm_mine")
		}}
	}
}

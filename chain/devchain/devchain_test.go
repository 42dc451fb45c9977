package devchain

import (
	"bufio"
	"context"
	"math/big"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/params"
)

// With SHOAL_DEVCHAIN_CHILD set, the test binary is a chain and nothing else.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SHOAL_DEVCHAIN_CHILD"); dir != "" {
		c, err := Start(context.Background(), Options{Dir: dir, Funded: []common.Address{testAddress}})
		if err != nil {
			os.Stdout.WriteString("failed " + err.Error() + "\n")
			os.Exit(1)
		}
		os.Stdout.WriteString("ready " + c.URL + "\n")
		select {}
	}
	os.Exit(m.Run())
}

var (
	testKey, _  = crypto.HexToECDSA("b71c71a67e1177ad4e901695e1b4b9ee17ae16c6668d313eac2f96dbcda3f291")
	testAddress = crypto.PubkeyToAddress(testKey.PublicKey)
)

// child runs a chain in a process of its own.
func child(t *testing.T, dir string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "SHOAL_DEVCHAIN_CHILD="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if err != nil || !ok {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd, url
}

func dial(t *testing.T, url string) *ethclient.Client {
	t.Helper()
	c, err := ethclient.DialContext(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// until polls a condition that another process brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if <-tick.C; time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func pay(t *testing.T, c *ethclient.Client, nonce uint64) *types.Receipt {
	t.Helper()
	id, err := c.ChainID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tx := types.MustSignNewTx(testKey, types.LatestSignerForChainID(id), &types.DynamicFeeTx{ChainID: id, Nonce: nonce, To: &common.Address{1},
		Value: big.NewInt(params.Ether), Gas: 21_000, GasTipCap: big.NewInt(1e9), GasFeeCap: big.NewInt(1e10)})
	if err := c.SendTransaction(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	var rc *types.Receipt
	until(t, "receipt", func() bool {
		rc, err = c.TransactionReceipt(t.Context(), tx.Hash())
		return err == nil
	})
	return rc
}

// A killed chain goes on where it was, less at most its last block, however little
// it has written since it began; a second process with the same directory is told
// so; one that is given the port joins.
func TestKilledAndJoined(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short: the dev chain was NOT killed and restarted")
	}
	dir := t.TempDir()
	var (
		cmd   *exec.Cmd
		c     *ethclient.Client
		first *types.Receipt
	)
	for life := range uint64(2) { // the first writes a whole genesis
		var url string
		cmd, url = child(t, dir)
		c = dial(t, url)
		first = pay(t, c, life)
		until(t, "two blocks on top", func() bool {
			n, err := c.BlockNumber(t.Context())
			return err == nil && n >= first.BlockNumber.Uint64()+2
		})
		if life == 0 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // killed
		}
	}
	head, err := c.BlockNumber(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h, err := c.HeaderByNumber(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if drift := time.Since(time.Unix(int64(h.Time), 0)); drift < -3*time.Second || drift > 20*time.Second {
		t.Errorf("the chain's time is off by %s", drift)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed

	again, err := Start(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}()
	c = dial(t, again.URL)
	n, err := c.BlockNumber(t.Context())
	if err != nil || n+1 < head {
		t.Fatalf("block %d after the kill, %d before: %v", n, head, err)
	}
	var rc *types.Receipt
	until(t, "the old receipt", func() bool { // "transaction indexing is in progress" just after the start
		rc, err = c.TransactionReceipt(t.Context(), first.TxHash)
		return err == nil
	})
	if rc.BlockHash != first.BlockHash {
		t.Error("the transaction is in another block than before the kill")
	}
	b, err := c.BalanceAt(t.Context(), common.Address{1}, nil)
	if err != nil || b.Cmp(big.NewInt(2*params.Ether)) != 0 {
		t.Errorf("balance %s after the kill: %v", b, err)
	}
	pay(t, c, 2)

	var port int
	for _, r := range again.URL[strings.LastIndexByte(again.URL, ':')+1:] {
		port = port*10 + int(r-'0')
	}
	joined, err := Start(t.Context(), Options{Dir: dir, Port: port})
	if err != nil || !joined.Joined || joined.URL != again.URL {
		t.Fatalf("joining: %+v, %v", joined, err)
	}
	if err := joined.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.BlockNumber(t.Context()); err != nil {
		t.Errorf("the chain ended with a process that had joined it: %v", err)
	}
	if _, err := Start(t.Context(), Options{Dir: t.TempDir(), Port: port, ChainID: 5}); err == nil || !strings.Contains(err.Error(), "want 5") {
		t.Errorf("another chain's port was taken for ours: %v", err)
	}
}

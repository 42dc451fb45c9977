package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/devchain"
	"github.com/shoalnet/shoal/chain/evm"
	"github.com/shoalnet/shoal/p2p/wire"
)

// shoal runs one command line and returns what it prints.
func shoal(t *testing.T, dir string, args ...string) (out, said string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(append([]string{"--dir", dir}, args...), os.Stdin, &o, &e)
	return o.String(), e.String(), code
}

// devChain starts a chain of the test's own, on which account has ether, and returns its URL.
func devChain(t *testing.T, account chain.Address) string {
	t.Helper()
	d, err := devchain.Start(t.Context(), devchain.Options{Dir: t.TempDir(), ChainID: evm.DevChainID, Funded: []common.Address{common.Address(account)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d.URL
}

// A newcomer deploys to a dev chain, stakes, funds a run, proposes an epoch from
// receipts, finalizes, claims, mints and leaves, by the commands alone.
func TestLedgerByCommands(t *testing.T) {
	if os.Getenv("SHOAL_CHAIN") == "" {
		t.Skip("SKIPPED: the ledger's commands were NOT run on a dev chain (two minutes): set SHOAL_CHAIN=1 or run `make contracts`")
	}
	t.Setenv(passphraseEnv, "")
	dir := t.TempDir()
	do := func(args ...string) string {
		t.Helper()
		out, said, code := shoal(t, dir, args...)
		if code != 0 {
			t.Fatalf("%v: exit %d\n%s%s", args, code, out, said)
		}
		t.Logf("$ shoal %s\n%s%s", strings.Join(args, " "), out, said)
		return out
	}
	refused := func(want string, args ...string) {
		t.Helper()
		_, said, code := shoal(t, dir, args...)
		if code == 0 || !strings.Contains(said, want) {
			t.Fatalf("%v: exit %d, %q, want %q", args, code, said, want)
		}
	}
	do("key", "new", "--light")
	refused("knows no ledger", "balance")
	own, ok := (&app{dir: dir}).ownAddress()
	if !ok {
		t.Fatal("no address in the keystore")
	}
	url := devChain(t, own)
	do("chain", "deploy", "--chain", url)
	refused("settles on a deployment already", "chain", "deploy", "--chain", url)
	hotFile := filepath.Join(dir, "hot.hex")
	hot, err := wire.NewKey(slices.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hotFile, []byte(fmt.Sprintf("%x", hot.Secret())), 0o600); err != nil {
		t.Fatal(err)
	}
	do("stake", "2000", "--dry-run")
	do("stake", "2000", "--hot", hotFile)
	refused("NotEnoughStake", "unbond", "5000")

	manifest := filepath.Join(dir, "run.yaml")
	yaml, _, _ := shoal(t, dir, "manifest", "init")
	cid := wire.SumCID(wire.CodecRaw, []byte("x")).String()
	for _, r := range [][2]string{{"shares: false", "shares: true"}, {"vocab_size: 0 ", "vocab_size: 64 "}, {`tokenizer: ""`, "tokenizer: " + cid},
		{`data: ""`, "data: " + wire.SumCID(wire.CodecDagCBOR, []byte("x")).String()}} {
		yaml = strings.ReplaceAll(yaml, r[0], r[1])
	}
	if err := os.WriteFile(manifest, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	do("fund", manifest, "1000", "--budget", "100", "--epoch", "10s")
	var status struct {
		Runs []struct {
			ID  chain.Hash
			Run chain.Run
		}
		Chain    deployment
		Balanced bool
	}
	if err := json.Unmarshal([]byte(do("chain", "status", "--json")), &status); err != nil || len(status.Runs) != 1 || !status.Balanced {
		t.Fatalf("%+v, %v", status, err)
	}
	id, book := status.Runs[0].ID, status.Chain.Book
	begin, end := status.Runs[0].Run.Span(1)
	for time.Now().Unix() <= int64(end) { // the chain's time is the machine's
		<-time.After(time.Second)
	}
	var es []chain.Entry
	for i := range 3 {
		es = append(es, book.SignReceipt(hot, chain.Receipt{Run: id, Epoch: 1, Kind: chain.Training, Subject: chain.Hash{byte(i)}, Units: uint64(100 * (i + 1))}))
	}
	bad := es[0]
	bad.Receipt.Units = 1 << 40
	raw, err := json.Marshal(append(es, es[1], bad))
	if err != nil {
		t.Fatal(err)
	}
	receipts, epoch := filepath.Join(dir, "receipts.json"), filepath.Join(dir, "epoch.json")
	if err := os.WriteFile(receipts, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	commit := wire.SumCID(wire.CodecDagCBOR, []byte("commit")).String()
	propose := []string{"epoch", "propose", id.String(), "--receipts", receipts, "--commit", commit, "--out", epoch}
	if info, _ := status.Runs[0].Run.Span(1); info != begin {
		t.Fatal("span")
	}
	_, said, code := shoal(t, dir, append(propose, "--number", "1")...)
	if code != 0 && strings.Contains(said, "NotValidator") {
		t.Fatalf("staked before the epoch: %s", said)
	}
	if code != 0 || strings.Count(said, "left out") != 2 {
		t.Fatalf("exit %d: %s", code, said)
	}
	refused("not final yet", "claim", epoch)
	refused("nothing is wrong", "epoch", "challenge", epoch)
	<-time.After(21 * time.Second) // fifteen to challenge, and a beat
	do("epoch", "finalize", epoch)
	do("claim", epoch, "--dry-run")
	do("claim", epoch)
	if out := do("claim", epoch); !strings.Contains(out, "nothing to claim") {
		t.Errorf("claimed twice: %s", out)
	}
	if status.Runs[0].Run.Shares {
		do("shares", id.String(), "--mint")
	}
	do("unbond", "2000")
	refused("NothingMatured", "withdraw")
	do("withdraw", "--bonds")
	if !strings.Contains(do("chain", "status"), "the books balance") {
		t.Error("the books do not balance")
	}
}

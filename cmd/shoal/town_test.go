package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A town is several accounts, each with its data directory and hot key, around
// one dev chain that is a process of its own.
type town struct {
	*testing.T
	dir  string
	port string
	proc *exec.Cmd
	run  string // ID
	file string // of the manifest
	book chain.Book
	at   chain.Run
}

func (t *town) home(who string) string { return filepath.Join(t.dir, who) }

// do runs a command line that must work and returns its output.
func (t *town) do(who string, args ...string) string {
	t.Helper()
	out, said, code := shoal(t.T, t.home(who), args...)
	t.Logf("[%s] $ shoal %s\n%s%s", who, strings.Join(args, " "), out, said)
	if code != 0 {
		t.Fatalf("exit %d", code)
	}
	return out
}

// no runs one that must fail, say want, and say what to do next.
func (t *town) no(want, who string, args ...string) {
	t.Helper()
	_, said, code := shoal(t.T, t.home(who), args...)
	t.Logf("[%s] $ shoal %s\n%s", who, strings.Join(args, " "), said)
	if code == 0 || !strings.Contains(said, want) || !strings.Contains(said, "next:") {
		t.Fatalf("exit %d, want %q and what to do next", code, want)
	}
}

func (t *town) key(who string) *wire.Key {
	t.Helper()
	k, err := (&app{dir: t.home(who)}).openKey(&keyFlags{})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (t *town) addr(who string) string { return chain.AddressOf(t.key(who)).String() }

func (t *town) hot(who string) *wire.Key {
	t.Helper()
	b, err := os.ReadFile(t.home(who) + ".hot")
	if err != nil {
		t.Fatal(err)
	}
	s, err := hex.DecodeString(string(b))
	if err != nil {
		t.Fatal(err)
	}
	k, err := wire.NewKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// start runs the chain, again if it was killed.
func (t *town) start() {
	t.Helper()
	args := []string{"--dir", t.home("sponsor"), "chain", "dev", "--port", t.port}
	for _, who := range []string{"ann", "ben", "cat", "pat"} {
		args = append(args, "--fund", t.addr(who))
	}
	t.proc = exec.CommandContext(t.Context(), "shoal", args...) // this test's binary, see TestMain
	out, err := t.proc.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := t.proc.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "http://127.0.0.1:"+t.port) {
		t.Fatalf("the chain says %q, %v", line, err)
	}
}

func (t *town) kill() {
	t.Helper()
	if err := t.proc.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = t.proc.Wait() // killed
}

// until waits until the chain has a block after a second: one comes every five.
func (t *town) until(second uint64) {
	for time.Now().Unix() <= int64(second)+6 {
		<-time.After(200 * time.Millisecond)
	}
}

// receipts writes what the three workers did in an epoch.
func (t *town) receipts(n uint64) string {
	t.Helper()
	id, err := chain.ParseHash(t.run)
	if err != nil {
		t.Fatal(err)
	}
	var es []chain.Entry
	for i, who := range []string{"ann", "ben", "cat"} {
		es = append(es, t.book.SignReceipt(t.hot(who), chain.Receipt{Run: id, Epoch: n, Subject: chain.Hash{byte(n), byte(i)}, Units: uint64(100 * (i + 1))}))
	}
	b, err := json.Marshal(es)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.dir, "receipts"+strconv.FormatUint(n, 10)+".json")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func newTown(t *testing.T) *town {
	t.Setenv(passphraseEnv, "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &town{T: t, dir: t.TempDir(), port: strconv.Itoa(l.Addr().(*net.TCPAddr).Port)}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for i, who := range []string{"sponsor", "ann", "ben", "cat", "pat"} {
		w.do(who, "key", "new", "--light")
		if err := os.WriteFile(w.home(who)+".hot", []byte(strings.Repeat(string("6789a"[i]), 64)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.no("knows no ledger", "ann", "balance")
	w.no("connection refused", "sponsor", "chain", "deploy", "--chain", "http://127.0.0.1:"+w.port)
	w.start()
	t.Cleanup(func() { w.kill() })
	url := "http://127.0.0.1:" + w.port
	w.no("is no preset", "sponsor", "chain", "deploy", "--chain", "base")
	w.no("another chain", "sponsor", "chain", "deploy", "--chain", url, "--chain-id", "5")
	w.do("sponsor", "chain", "deploy", "--chain", url)
	b, err := os.ReadFile(filepath.Join(w.home("sponsor"), chainFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{"ann", "ben", "cat", "pat"} {
		if err := os.WriteFile(filepath.Join(w.home(who), chainFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.no("has 0 SHOAL", "ann", "stake", "2000")
	for _, who := range []string{"ann", "ben", "cat", "pat"} {
		w.do("sponsor", "chain", "send", w.addr(who), "5000")
	}
	w.no("is not an address", "sponsor", "chain", "send", "0x01", "5")
	w.do("sponsor", "chain", "send", w.addr("ann"), "0.25", "--ether")
	for _, who := range []string{"ann", "ben", "cat"} {
		w.do(who, "stake", "2000", "--hot", w.home(who)+".hot")
	}
	return w
}

func (t *town) publish() {
	t.Helper()
	t.file = filepath.Join(t.dir, "run.yaml")
	yaml, _, _ := shoal(t.T, t.home("sponsor"), "manifest", "init")
	cid := wire.SumCID(wire.CodecRaw, []byte("x")).String()
	for _, r := range [][2]string{{"shares: false", "shares: true"}, {"vocab_size: 0 ", "vocab_size: 64 "}, {`tokenizer: ""`, "tokenizer: " + cid},
		{`data: ""`, "data: " + wire.SumCID(wire.CodecDagCBOR, []byte("x")).String()}} {
		yaml = strings.ReplaceAll(yaml, r[0], r[1])
	}
	if err := os.WriteFile(t.file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	t.no("does not know the run", "sponsor", "fund", t.file, "1000")
	t.do("sponsor", "fund", t.file, "1000", "--budget", "100", "--epoch", "10s")
	var status struct {
		Runs []struct {
			ID  chain.Hash
			Run chain.Run
		}
		Chain deployment
	}
	if err := json.Unmarshal([]byte(t.do("sponsor", "chain", "status", "--json")), &status); err != nil || len(status.Runs) != 1 {
		t.Fatalf("%+v, %v", status, err)
	}
	t.run, t.at, t.book = status.Runs[0].ID.String(), status.Runs[0].Run, status.Chain.Book
}

// lie proposes x by who's own hand, and writes its file.
func (t *town) lie(who string, x *chain.Settled, name string) {
	t.Helper()
	b, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(t.dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := (&app{dir: t.home(who), in: os.Stdin, out: os.Stdout, err: os.Stderr}).teller(ctx, &chainFlags{})
	if err != nil {
		t.Fatal(err)
	}
	bond := new(big.Int).Set(l.where.Config.Bond)
	if err := l.spend(ctx, bond, chain.DepositBond{Amount: bond}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.do(ctx, chain.Propose{Epoch: x.Epoch}); err != nil {
		t.Fatal(err)
	}
}

func (t *town) matter() (m matter) {
	t.Helper()
	if err := json.Unmarshal([]byte(t.do("pat", "dispute", "status", t.run, "--json")), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func (t *town) tamper(name, was, is string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil || !strings.Contains(string(b), was) {
		t.Fatalf("%s: no %s (%v)", b, was, err)
	}
	if err := os.WriteFile(name, []byte(strings.Replace(string(b), was, is, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// carry takes a motion from the vote to the deed.
func (t *town) carry(motion string) {
	t.Helper()
	for _, step := range [][]string{{"vote", "yes"}, {"queue"}, {"execute"}} {
		args := append([]string{"govern", step[0], motion}, step[1:]...)
		for until := time.Now().Add(time.Minute); ; <-time.After(time.Second) {
			_, said, code := shoal(t.T, t.home("sponsor"), append(args, "--dry-run")...)
			if code == 0 { // it would work, and has not been done
				t.do("sponsor", args...)
				break
			}
			if !strings.Contains(said, "next:") || time.Now().After(until) {
				t.Fatalf("%v: %s", args, said)
			}
		}
	}
	t.do("sponsor", "govern", "status", motion)
}

// convict brings who's hot key before the ledger, as agents do, and returns the conviction's ID.
func (t *town) convict(who string, by ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := (&app{dir: t.home("pat"), in: os.Stdin, out: os.Stdout, err: os.Stderr}).teller(ctx, &chainFlags{})
	if err != nil {
		t.Fatal(err)
	}
	run, err := chain.ParseHash(t.run)
	if err != nil {
		t.Fatal(err)
	}
	c := chain.Conviction{Run: run, Key: chain.AddressOf(t.hot(who)), Subject: chain.Hash{1}, Evidence: chain.Hash{2}, Bps: 3000}
	slices.SortFunc(by, func(a, b string) int { return strings.Compare(strings.ToLower(t.addr(a)), strings.ToLower(t.addr(b))) })
	var sigs [][]byte
	for _, x := range by {
		sigs = append(sigs, chain.SignDigest(t.hot(x), t.book.ConvictionDigest(&c)))
	}
	if _, err := l.do(ctx, chain.Convict{Conviction: c, Sigs: sigs}); err != nil {
		t.Fatal(err)
	}
	t.until(uint64(time.Now().Unix()))
	return c.ID().String()
}

// contradiction is two attestations of one round by who's hot key.
func (t *town) contradiction(who string) (out diloco.Evidence) {
	for name, s := range map[string]*wire.Signed{"a": &out.A, "b": &out.B} {
		c := func(s string) wire.CID { return wire.SumCID(wire.CodecDagCBOR, []byte(s)) }
		body, err := wire.Marshal(&diloco.Attest{Head: c(name), Round: 9, Source: c("source"), SourceRound: 8})
		if err != nil {
			t.Fatal(err)
		}
		*s = t.hot(who).Sign(wire.KindAttest, c("manifest"), body)
	}
	return out
}

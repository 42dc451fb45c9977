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

// Five people settle by commands alone: a liar is slashed, an epoch is
// finalized by signatures, another after a committee's verdict, inference is
// paid through to share holders, a parameter is voted on, an equivocator is
// reported, and the chain is killed in the middle.
func TestTown(t *testing.T) {
	if os.Getenv("SHOAL_CHAIN") == "" {
		t.Skip("SKIPPED: five accounts did NOT settle by commands on a dev chain (five minutes): set SHOAL_CHAIN=1 or run `make contracts`")
	}
	w := newTown(t)
	w.publish()
	_, end := w.at.Span(1)
	w.until(end)
	commit := []string{"--commit", wire.SumCID(wire.CodecDagCBOR, []byte("commit")).String()}
	epoch := func(n string) string { return filepath.Join(w.dir, "epoch"+n+".json") }
	propose := func(who, n string, more ...string) []string {
		args := []string{"epoch", "propose", w.run, "--number", n, "--out", epoch(n)}
		return append(append(args, commit...), more...)
	}

	// a wrong root: ann moves cat's reward to herself
	w.do("ann", append(propose("ann", "1", "--receipts", w.receipts(1)), "--dry-run")...)
	x, err := readEpoch(epoch("1"))
	if err != nil {
		t.Fatal(err)
	}
	i, j := x.Find(chain.AddressOf(w.key("ann"))), x.Find(chain.AddressOf(w.key("cat")))
	x.Rewards[i].Amount, x.Rewards[j].Amount = x.Rewards[j].Amount, x.Rewards[i].Amount
	total := x.Epoch.Total
	if err := x.Seal(w.book); err != nil {
		t.Fatal(err)
	}
	x.Epoch.Total = total
	w.lie("ann", x, "wrong.json")
	w.no("not signed", "ben", "epoch", "sign", filepath.Join(w.dir, "wrong.json"), "--hot", w.home("ben")+".hot", "--into", filepath.Join(w.dir, "wrong.sigs"))
	w.do("pat", "epoch", "challenge", filepath.Join(w.dir, "wrong.json"), "--dry-run")
	w.do("pat", "epoch", "challenge", filepath.Join(w.dir, "wrong.json"))
	if !strings.Contains(w.do("ann", "balance"), "1400 as validator") {
		t.Fatal("ann was not slashed")
	}
	w.do("ann", "unbond", "1400")
	left := time.Now()

	// the right one, by signatures
	sigs := filepath.Join(w.dir, "approvals.json")
	w.do("ben", propose("ben", "1", "--receipts", w.receipts(1))...)
	w.no("AlreadyProposed", "cat", propose("cat", "1", "--receipts", w.receipts(1))...)
	w.no("not a registered hot key", "ben", "epoch", "sign", epoch("1"), "--into", sigs)
	w.do("ben", "epoch", "sign", epoch("1"), "--hot", w.home("ben")+".hot", "--into", sigs)
	w.no("two thirds are needed", "pat", "epoch", "finalize", epoch("1"), "--approvals", sigs)
	w.do("cat", "epoch", "sign", epoch("1"), "--hot", w.home("cat")+".hot", "--into", sigs)
	w.no("not final yet", "cat", "claim", epoch("1"))
	w.do("pat", "epoch", "finalize", epoch("1"), "--approvals", sigs)
	w.no("is final already", "pat", "epoch", "finalize", epoch("1"), "--approvals", sigs)
	w.do("pat", "claim", epoch("1"), "--account", w.addr("cat"))
	w.do("ben", "claim", epoch("1"), "--json")
	w.do("ben", "shares", w.run, "--mint")
	w.do("cat", "shares", w.run, "--mint")

	// paid inference
	out := w.do("pat", "voucher", "open", w.run, w.addr("cat"), "20", "--json")
	var sent struct {
		Transactions []struct{ ID string }
	}
	if err := json.Unmarshal([]byte(out), &sent); err != nil || len(sent.Transactions) != 2 {
		t.Fatalf("%s: %v", out, err)
	}
	channel, v := sent.Transactions[1].ID, filepath.Join(w.dir, "voucher.json")
	w.no("over the channel's deposit", "pat", "voucher", "sign", channel, "21")
	w.no("is paid by", "cat", "voucher", "sign", channel, "1")
	w.do("pat", "voucher", "sign", channel, "10", "--out", v)
	w.do("cat", "voucher", "redeem", v, "--dry-run")
	w.do("cat", "voucher", "redeem", v, "--flush")
	w.no("pays nothing more", "cat", "voucher", "redeem", v)
	w.tamper(v, `"cumulative": "10"`, `"cumulative": "12"`)
	w.no("signed by", "cat", "voucher", "redeem", v)
	w.tamper(v, `"chainId": 31338`, `"chainId": 1`)
	w.no("on chain 1", "cat", "voucher", "redeem", v)
	if out := w.do("ben", "shares", w.run, "--collect", "--json"); !strings.Contains(out, "Collect") {
		t.Fatal(out)
	}
	w.do("pat", "voucher", "deposit", channel, "5")
	w.no("neither the channel's payer nor its provider", "ben", "voucher", "close", channel)
	w.do("pat", "voucher", "close", channel)
	w.no("can be closed after", "pat", "voucher", "close", channel)
	if !strings.Contains(w.do("cat", "voucher", "status", channel), "closing") {
		t.Fatal("a closing channel looks open")
	}

	// the chain is killed under a command, which goes on when it is back
	done := make(chan string, 1)
	go func() {
		_, said, code := shoal(w.T, w.home("pat"), "chain", "send", w.addr("ben"), "7")
		done <- strconv.Itoa(code) + said
	}()
	<-time.After(300 * time.Millisecond)
	w.kill()
	_, said, code := shoal(t, w.home("cat"), "balance")
	if code == 0 || !strings.Contains(said, "next:") {
		t.Fatalf("without a chain: exit %d, %s", code, said)
	}
	w.start()
	if got := <-done; got != "0" {
		w.do("pat", "chain", "send", w.addr("ben"), "7") // it had not begun, or is waited for
	}
	w.until(uint64(time.Now().Unix()))
	// 5,000 less 25 in the channel and 7, once; and 40 % of a bond of 100 and of a slash of 600
	if !strings.Contains(w.do("pat", "balance"), "tokens  5248\n") {
		t.Fatal("pat has paid twice, or not")
	}

	// a committee
	w.do("ben", propose("ben", "2", "--receipts", w.receipts(2), "--previous", epoch("1"))...)
	w.do("pat", "epoch", "challenge", epoch("2"), "--evidence", commit[1])
	w.no("still being committed to", "ben", "dispute", "reveal", w.run)
	for _, who := range []string{"ben", "cat"} {
		w.do(who, "dispute", "commit", w.run, "innocent")
	}
	w.no("NotVoter", "pat", "dispute", "commit", w.run, "guilty")
	w.no("committed to", "ben", "dispute", "commit", w.run, "guilty")
	w.no("nothing can be resolved", "pat", "dispute", "resolve", w.run)
	c := w.matter()
	w.until(c.Case.CommitEnd)
	for _, who := range []string{"ben", "cat"} {
		w.do(who, "dispute", "reveal", w.run)
	}
	w.until(c.Case.RevealEnd)
	w.do("pat", "dispute", "resolve", w.run)
	if c = w.matter(); c.Case.Verdict != chain.Innocent {
		t.Fatalf("%+v", c.Case)
	}
	w.until(c.Case.StageEnd)
	w.do("pat", "dispute", "resolve", w.run)
	w.do("pat", "epoch", "finalize", epoch("2"))
	w.do("cat", "claim", epoch("2"))
	w.do("pat", "voucher", "close", channel)

	// governance
	motion := filepath.Join(w.dir, "motion.json")
	move := []string{"govern", "propose", "--set", "challengeWindow=12", "--why", "quicker", "--out", motion}
	w.no("fee", "sponsor", "govern", "propose", "--set", "fee=1", "--out", motion)
	w.no("GovernorInsufficientProposerVotes", "sponsor", move...)
	w.do("sponsor", "govern", "delegate")
	w.do("sponsor", move...)
	for _, step := range [][]string{{"vote", "yes"}, {"queue"}, {"execute"}} {
		args := append([]string{"govern", step[0], motion}, step[1:]...)
		for until := time.Now().Add(time.Minute); ; <-time.After(time.Second) {
			_, said, code := shoal(t, w.home("sponsor"), args...)
			if code == 0 {
				break
			}
			if !strings.Contains(said, "next:") || time.Now().After(until) {
				t.Fatalf("%v: %s", args, said)
			}
		}
		w.do("sponsor", "govern", "status", motion)
	}
	if !strings.Contains(w.do("pat", "chain", "status", "--json"), `"challengeWindow": 12,`) {
		t.Fatal("governance has changed nothing")
	}

	// equivocation
	b, err := json.Marshal(w.contradiction("cat"))
	if err != nil {
		t.Fatal(err)
	}
	evidence := filepath.Join(w.dir, "evidence.json")
	if err := os.WriteFile(evidence, b, 0o600); err != nil {
		t.Fatal(err)
	}
	w.do("pat", "dispute", "report", evidence)
	if !strings.Contains(w.do("cat", "balance"), "1000 as validator") {
		t.Fatal("cat was not slashed")
	}
	w.no("AlreadyConvicted", "pat", "dispute", "report", evidence)

	// the end
	w.do("ben", "chain", "key", "revoke", chain.AddressOf(w.hot("ben")).String())
	w.no("the run's sponsor is", "ben", "sponsor", "end", w.run)
	w.do("sponsor", "sponsor", "rate", w.file, "50")
	w.do("sponsor", "sponsor", "end", w.file)
	w.no("can be settled until", "sponsor", "sponsor", "refund", w.file)
	w.until(uint64(left.Unix()) + 125)
	w.do("ann", "withdraw")
	if out := w.do("ann", "chain", "status"); !strings.Contains(out, "the books balance") {
		t.Fatal(out)
	}
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

// contradiction is two attestations of one round by who's hot key.
func (t *town) contradiction(who string) map[string]wire.Signed {
	out := map[string]wire.Signed{}
	for _, name := range []string{"a", "b"} {
		c := func(s string) wire.CID { return wire.SumCID(wire.CodecDagCBOR, []byte(s)) }
		body, err := wire.Marshal(&diloco.Attest{Head: c(name), Round: 9, Source: c("source"), SourceRound: 8})
		if err != nil {
			t.Fatal(err)
		}
		out[name] = t.hot(who).Sign(wire.KindAttest, c("manifest"), body)
	}
	return out
}

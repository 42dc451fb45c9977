package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
)

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
	move := []string{"govern", "propose", "--set", "challengeWindow=12,answerWindow=5,commitWindow=5,revealWindow=5,appealWindow=40", "--why", "quicker", "--out", motion}
	w.no("fee", "sponsor", "govern", "propose", "--set", "fee=1", "--out", motion)
	w.no("GovernorInsufficientProposerVotes", "sponsor", move...)
	w.do("sponsor", "govern", "delegate", "--dry-run")
	w.no("votes with 0", "sponsor", append(move, "--dry-run")...) // nothing was delegated
	w.do("sponsor", "govern", "delegate")
	w.until(uint64(time.Now().Unix()))
	w.do("sponsor", append(move, "--dry-run")...)
	w.no("GovernorNonexistentProposal", "sponsor", "govern", "status", motion) // nothing was moved
	w.do("sponsor", move...)
	w.carry(motion)
	if !strings.Contains(w.do("pat", "chain", "status", "--json"), `"challengeWindow": 12,`) {
		t.Fatal("governance has changed nothing")
	}

	// an appeal against a conviction
	id := w.convict("ann", "ben", "cat")
	if !strings.Contains(w.do("ann", "dispute", "status", w.run), "`shoal dispute appeal "+w.run+" "+id+"`") {
		t.Fatal("who is convicted is not told how to appeal")
	}
	w.no("NotAccused", "ben", "dispute", "appeal", w.run, id)
	w.no("no conviction", "ann", "dispute", "appeal", w.run, w.run)
	w.no("is not before governance", "sponsor", "govern", "propose", "--rule", id+"=innocent", "--out", motion)
	w.do("ann", "dispute", "appeal", w.run, id, "--dry-run")
	w.do("ann", "dispute", "appeal", w.run, id, "--json")
	w.no("is under appeal", "ann", "dispute", "appeal", w.run, id)
	w.do("sponsor", "govern", "propose", "--rule", id+"=innocent", "--why", "recomputed", "--out", motion)
	w.carry(motion)
	if c := w.matter(); len(c.Convictions) != 1 || c.Convictions[0].Phase != chain.Dismissed {
		t.Fatalf("%+v", c.Convictions)
	}

	// equivocation
	b, err := json.Marshal(w.contradiction("cat"))
	if err != nil {
		t.Fatal(err)
	}
	peer := w.hot("cat").Peer()
	w.no("has seen no contradiction", "pat", "dispute", "report", peer.String())
	evidence := node.EvidenceFile(w.home("pat"), peer) // where a node puts it
	if err := os.Mkdir(filepath.Dir(evidence), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(evidence, b, 0o600); err != nil {
		t.Fatal(err)
	}
	w.do("pat", "dispute", "report", peer.String(), "--dry-run")
	w.do("pat", "dispute", "report", peer.String())
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

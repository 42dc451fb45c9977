package node

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A till signs for another epoch each time that it is asked.
type till struct{ asked []string }

func (t *till) Sign(kind uint8, subject wire.CID, units uint64) (uint64, []byte) {
	t.asked = append(t.asked, fmt.Sprint(kind, subject, units))
	return uint64(len(t.asked)), bytes.Repeat([]byte{7}, 65)
}

func TestReceiptsAreOfPaidWorkAlone(t *testing.T) {
	block := wire.SumCID(wire.CodecRaw, []byte("payload"))
	enc := func(v any) []byte {
		b, err := wire.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	pay := new(till)
	p := purse{payer: pay}
	delta := enc(&diloco.Delta{Block: block, Tokens: 12})
	var first []byte
	for range 2 { // the same body becomes the same message
		out, err := p.pay(wire.KindDelta, delta)
		if err != nil {
			t.Fatal(err)
		}
		var d diloco.Delta
		if err := wire.Unmarshal(out, &d); err != nil || d.Epoch != 1 || len(d.Receipt) != 65 || d.Block != block {
			t.Fatalf("%+v, %v", d, err)
		}
		if first != nil && !bytes.Equal(first, out) {
			t.Error("a body that came again became another message")
		}
		first = out
	}
	if out, err := p.pay(wire.KindVerdict, enc(&diloco.Verdict{Subject: block})); err != nil {
		t.Fatal(err)
	} else {
		var v diloco.Verdict
		if err := wire.Unmarshal(out, &v); err != nil || v.Epoch != 2 || len(v.Receipt) != 65 {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	for kind, body := range map[wire.Kind][]byte{
		wire.KindVerdict: enc(&diloco.Verdict{Subject: block, Finding: diloco.Withheld}), wire.KindVote: enc(&diloco.Vote{}),
	} {
		if out, err := p.pay(kind, body); err != nil || !bytes.Equal(out, body) {
			t.Errorf("%v: changed (%v)", kind, err)
		}
	}
	if want := []string{fmt.Sprint(PaidTraining, block, 12), fmt.Sprint(PaidValidation, block, 1)}; fmt.Sprint(pay.asked) != fmt.Sprint(want) {
		t.Errorf("asked %v, want %v", pay.asked, want)
	}
	if out, err := new(purse).pay(wire.KindDelta, delta); err != nil || !bytes.Equal(out, delta) {
		t.Errorf("without a ledger: changed (%v)", err)
	}
}

// counter is a till of a fixed epoch that is safe at once.
type counter struct{}

func (counter) Sign(_ uint8, _ wire.CID, _ uint64) (uint64, []byte) {
	return 3, bytes.Repeat([]byte{9}, 65)
}

// A node's final commits can be read from genesis on, in any portions, and what
// it trained carries its receipts.
func TestFinalCommitsInOrderWithReceipts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, nil)
		for i := range 4 {
			m := s.member(i)
			if i == 0 {
				m.seed()
				m.opt = func(o *Options) { o.Payer = counter{} }
			}
			m.start()
		}
		s.until("done", 10*time.Minute, done)
		for _, m := range s.members {
			var at wire.CID
			round, paid := uint64(0), map[wire.PeerID]int{}
			f := m.node.Finals()
			for {
				xs, err := f.After(t.Context(), at, 3)
				if err != nil {
					t.Fatal(err)
				}
				for _, x := range xs {
					if c, err := x.Commit.CID(); err != nil || c != x.CID || x.Commit.Round != round || x.Commit.Parent != at {
						t.Fatalf("round %d: %s of round %d after %s (%v)", round, x.CID, x.Commit.Round, at, err)
					}
					at, round = x.CID, round+1
					for _, p := range x.Commit.Paid() {
						if len(p.Receipt) == 65 && p.Epoch == 3 {
							paid[p.Peer]++
						}
					}
				}
				if len(xs) == 0 {
					break
				}
			}
			if round < s.manifest.Stop.Rounds || paid[s.members[0].peer()] == 0 || len(paid) != 1 {
				t.Errorf("node %d: %d final commits, receipts %v", m.n, round, paid)
			}
			again := m.node.Finals()
			if xs, err := again.After(t.Context(), at, 3); err != nil || len(xs) != 0 {
				t.Errorf("after the last: %d commits, %v", len(xs), err)
			}
			if _, err := again.After(t.Context(), s.run, 3); err == nil {
				t.Error("commits after one that is none of the chain")
			}
		}
		s.stopAll()
	})
}

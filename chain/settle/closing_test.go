package settle_test

import (
	"testing"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/chain/settle/settletest"
	"github.com/shoalnet/shoal/diloco"
)

func TestTheLastCommitClosesEverything(t *testing.T) {
	s := settletest.New(t, 2, 0)
	s.Params.Stop = 4
	for range 6 {
		s.Round(3)
	}
	d := settle.New(s.Params)
	closed := feed(t, s, d)
	if len(closed) != 1 || closed[0].Round != 4 || !d.Over() {
		t.Fatalf("closed %+v, over %v", closed, d.Over())
	}
}

// Where validators audit, the last epochs are open until nothing about the last rounds' work can be said any
// more: verdicts of closing rounds are paid, who is convicted in them is not, and none of the few who
// speak there moves the clock alone.
func TestClosingRoundsCount(t *testing.T) {
	s := settletest.New(t, 3, 3)
	s.Params.Stop, s.Params.AuditWindow = 4, 3
	s.Round(3)
	s.Round(3)
	s.Round(3)
	bad := s.Delta(2, 3, 3, 1000)
	good := s.Delta(0, 3, 3, 1000)
	s.Commit() // 4, the stop rule's
	s.Verdict(4, good, 3, 1000)
	s.Commit() // 5
	s.Verdict(3, good, 3, 3)
	s.Next.Cases = []diloco.Case{{Subject: bad.ID(), Peer: bad.From, Round: 3, Opened: 6, Evidence: settletest.CID("evidence")}}
	s.Commit() // 6
	s.Commit() // 7 = 4 + 3: the case is open still
	s.Next.Cases = nil
	s.Ban(2, "wrong work")
	s.Commit() // 8
	s.Verdict(3, good, 3, 3, func(v *diloco.Verdict) { v.Segment = 1 })
	s.Commit() // 9
	d := settle.New(s.Params)
	closed := feed(t, s, d)
	if len(closed) != 1 || closed[0].Number != 3 || closed[0].Round != 8 || d.Clock() != 3 {
		t.Fatalf("closed %+v, clock %d", closed, d.Clock())
	}
	o := outcome(t, &closed[0], s.Params, words())
	for i, want := range []int64{54, 36, 0, 10, 0, 0} { // of 90 for five deltas: three are of trainer 0, two of trainer 1
		if got := earned(o.Lines, account(s, i)); got.Cmp(chain.Coins(want)) != 0 {
			t.Errorf("peer %d earned %s, want %d", i, got, want)
		}
	}
}

// Most of the validators in one commit do move it.
func TestValidatorsMoveTheClockInClosing(t *testing.T) {
	s := settletest.New(t, 3, 3)
	s.Params.Stop, s.Params.AuditWindow = 3, 8
	s.Round(3)
	s.Round(3)
	d := s.Delta(0, 2, 3, 1000)
	s.Commit() // 3
	s.Verdict(3, d, 2, 4)
	s.Verdict(4, d, 2, 4)
	s.Commit()
	x := settle.New(s.Params)
	feed(t, s, x)
	if x.Clock() != 4 {
		t.Errorf("clock %d", x.Clock())
	}
}

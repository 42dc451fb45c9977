package chain

import (
	"bytes"
	"testing"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// The chain judges two messages by the bytes that peers exchange as the peers
// do: diloco's conflict, written out again here.
func FuzzEvidence(f *testing.F) {
	f.Add(uint64(5), uint64(4), uint64(5), uint64(3), "p", "q", []byte{0xa0})
	f.Add(uint64(300), uint64(3), uint64(5), uint64(4), "p", "p", []byte{0xbf})
	f.Add(uint64(1<<40), uint64(1), uint64(65_536), uint64(65_535), "", "x", []byte{0xa1, 0x61, 0x61, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, roundA, sourceA, roundB, sourceB uint64, a, b string, raw []byte) {
		run := wire.SumCID(wire.CodecDagCBOR, []byte("run"))
		k, err := wire.NewKey(bytes.Repeat([]byte{7}, 32))
		if err != nil {
			t.Fatal(err)
		}
		say := func(kind wire.Kind, body any) wire.Signed {
			enc, err := wire.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			return k.Sign(kind, run, enc)
		}
		judge := func(x, y wire.Signed, want string) {
			t.Helper()
			if _, err := diloco.Open(&x); err != nil {
				return // no peer takes it
			}
			if _, err := diloco.Open(&y); err != nil {
				return
			}
			for _, r := range []Report{NewReport(x, y), NewReport(y, x)} {
				_, err := place(r)
				got := ""
				if r, ok := err.(*Refusal); ok {
					got = r.Reason
				}
				if got != want {
					t.Fatalf("%s %x and %x: %q, want %q", x.Kind, x.Body, y.Body, got, want)
				}
			}
		}
		cid := func(s string) wire.CID { return wire.SumCID(wire.CodecDagCBOR, []byte(s)) }
		want := "NoConflict"
		if roundA == roundB || sourceA < sourceB && roundB < roundA || sourceB < sourceA && roundA < roundB {
			want = ""
		}
		judge(say(wire.KindAttest, &diloco.Attest{Head: cid(a), Round: roundA, Source: cid("s"), SourceRound: sourceA}),
			say(wire.KindAttest, &diloco.Attest{Head: cid(b), Round: roundB, Source: cid("s"), SourceRound: sourceB}), want)
		want = "OtherParent"
		if a == b {
			want = ""
		}
		judge(say(wire.KindVote, &diloco.Vote{Parent: cid(a), Round: roundA, Final: cid("f")}),
			say(wire.KindVote, &diloco.Vote{Parent: cid(b), Round: roundB, Final: cid("f"), Joins: []wire.CID{cid("j")}}), want)
		judge(say(wire.KindDelta, &diloco.Delta{Parent: cid(a), Round: roundA, State: cid("s"), Block: cid("b"), Steps: 1, Tokens: 1}),
			say(wire.KindDelta, &diloco.Delta{Parent: cid(b), Round: roundB, State: cid("s"), Block: cid("b"), Steps: 1, Tokens: 2, Loss: 1.5}), want)
		for _, kind := range []wire.Kind{wire.KindVote, wire.KindAttest} { // whatever the bytes are, there is an answer
			_, _ = place(NewReport(k.Sign(kind, run, raw), k.Sign(kind, run, []byte(a))))
		}
	})
}

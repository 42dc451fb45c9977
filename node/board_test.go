package node

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

func TestBoardHearsOfRunsAndForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		defer work.Wait()
		defer cancel()
		s := newSea(10 * time.Millisecond)
		run := wire.SumCID(wire.CodecDagCBOR, []byte("run"))
		start := func(n int) (*Board, *wire.Key) {
			k := testKey(t, n)
			h := s.join(ctx, k.Peer(), newShelf())
			b, err := NewBoard(h, nil)
			if err != nil {
				t.Fatal(err)
			}
			work.Go(func() {
				if err := b.Run(ctx); err != nil {
					t.Error(err)
				}
				h.leave()
			})
			return b, k
		}
		a, ka := start(0)
		b, _ := start(1)
		var round atomic.Uint64
		round.Store(7)
		if err := a.Announce(ctx, ka, run, "whales", round.Load); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if l := b.List(); len(l) != 1 || l[0].Run != run || l[0].Name != "whales" || l[0].Round != 7 || len(l[0].Peers) != 1 {
			t.Fatalf("heard %+v", l)
		}
		c, _ := start(2) // a newcomer asks
		time.Sleep(5 * time.Second)
		if len(c.List()) != 1 {
			t.Error("the newcomer was not told")
		}
		round.Store(9)
		time.Sleep(3 * time.Minute)
		if l := b.List(); len(l) != 1 || l[0].Round != 9 {
			t.Errorf("the repetition was not heard: %+v", l)
		}
		if err := a.Announce(ctx, ka, run, "Bad Name", nil); err == nil {
			t.Error("bad name was announced")
		}

		// Rubbish, old news, and a flood of runs.
		for _, data := range [][]byte{nil, []byte("rubbish"), make([]byte, wire.MaxMessage+1)} {
			if j := b.judge(ctx, ka.Peer(), data); j != wire.Reject {
				t.Errorf("%d bytes: %v", len(data), j)
			}
		}
		say := func(n int, at time.Time) wire.Judgement {
			body, err := wire.Marshal(&Announce{Name: "x", Time: uint64(at.Unix())})
			if err != nil {
				t.Fatal(err)
			}
			m := ka.Sign(wire.KindAnnounce, wire.SumCID(wire.CodecDagCBOR, fmt.Append(nil, n)), body)
			data, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			return b.judge(ctx, ka.Peer(), data)
		}
		if j := say(0, time.Now().Add(-time.Hour)); j != wire.Ignore {
			t.Errorf("old news: %v", j)
		}
		if a, b := say(1, time.Now()), say(1, time.Now()); a != wire.Accept || b != wire.Ignore {
			t.Errorf("news, then a replay: %v, %v", a, b)
		}
		for n := range maxListings + 50 {
			say(n, time.Now())
		}
		if l := len(b.List()); l > maxListings {
			t.Errorf("%d runs are kept", l)
		}
	})
}

// A clock that is off is told apart from a swarm without runs.
func TestBoardComparesClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := NewBoard(newSea(0).join(t.Context(), testKey(t, 0).Peer(), newShelf()), nil)
		if err != nil {
			t.Fatal(err)
		}
		hear := func(n int, off time.Duration, from int) {
			body, err := wire.Marshal(&Announce{Name: "x", Time: uint64(time.Now().Add(off).Unix())})
			if err != nil {
				t.Fatal(err)
			}
			m := testKey(t, n).Sign(wire.KindAnnounce, wire.SumCID(wire.CodecDagCBOR, []byte("run")), body)
			data, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			b.judge(t.Context(), testKey(t, from).Peer(), data)
		}
		for _, c := range []struct {
			n    int
			off  time.Duration
			from int
			want time.Duration
		}{
			{1, -2 * time.Hour, 2, 0}, // old news of another
			{1, time.Hour, 1, time.Hour},
			{2, time.Hour, 2, time.Hour},
			{3, 0, 3, time.Hour},
			{4, time.Minute, 4, 0}, // half are right
			{1, -time.Hour, 1, 0},
			{2, -time.Hour, 2, 0},
			{3, -time.Hour, 3, -time.Hour},
		} {
			hear(c.n, c.off, c.from)
			if got := b.Skew().Round(time.Minute); got != c.want {
				t.Errorf("after %d's %v by %d: %v, want %v", c.n, c.off, c.from, got, c.want)
			}
		}
	})
}

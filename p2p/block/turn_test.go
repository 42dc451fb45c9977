package block

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	bsmsg "github.com/ipfs/boxo/bitswap/message"

	"github.com/shoalnet/shoal/p2p/p2ptest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Everybody fetches what one has just made, and names all the others behind
// it: nothing comes twice, and nobody who lacks the block is asked.
func TestFetchNewBlockOnce(t *testing.T) {
	for name, size := range map[string]int{"block": 600_000, "file of many": 5 << 20} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 5
				net := p2ptest.New(t, p2ptest.Options{})
				all := make([]*simPeer, n)
				for i := range all {
					all[i] = newSimPeer(t, net, i, nil)
					all[i].connect(t, all[:i]...)
				}
				time.Sleep(time.Second)
				file, err := all[0].s.PutFile(t.Context(), bytesOf(1, size))
				if err != nil {
					t.Fatal(err)
				}
				before := make([]uint64, n)
				for i := range all {
					before[i], _ = all[i].h.Bandwidth()
				}
				var wg sync.WaitGroup
				for i := range n - 1 {
					me := all[i+1]
					wg.Go(func() {
						if _, err := me.x.FetchFile(t.Context(), file, peers(all...), 1<<30); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				time.Sleep(5 * time.Second) // for what crosses the cancels
				for i := 1; i < n; i++ {
					in, _ := all[i].h.Bandwidth()
					st := all[i].x.Stats()
					if r := float64(in-before[i]) / float64(size); r > 1.1 || st.Duplicates > 0 {
						t.Errorf("peer %d received %.2f times the file, %+v", i, r, st)
					}
					if size < chunkSize && st.Sent > 0 {
						t.Errorf("peer %d, who had nothing, was asked and sent %d bytes", i, st.Sent)
					}
				}
			})
		})
	}
}

// Providers are asked in turn: the next one when one lacks the block, is gone,
// or says nothing for a second.
func TestFetchInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.New(t, p2ptest.Options{})
		me, good, empty := newSimPeer(t, net, 0, nil), newSimPeer(t, net, 1, nil), newSimPeer(t, net, 2, nil)
		mute := newVillain(t, net, 3, func([]bsmsg.Entry, func(bsmsg.BitSwapMessage)) {})
		me.connect(t, good, empty)
		if err := me.h.Connect(t.Context(), mute.h.Addrs()[0]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		nowhere := p2ptest.Key(9).Peer()
		const rtt = 100 * time.Millisecond
		for i, c := range []struct {
			what string
			from []wire.PeerID
			most time.Duration
		}{
			{"who has it", peers(good, empty), rtt + 20*time.Millisecond},
			{"one lacks it", peers(empty, good), 2*rtt + 20*time.Millisecond},
			{"one is not there", append([]wire.PeerID{nowhere}, peers(good)...), hedge + 3*rtt},
			{"one is silent", append([]wire.PeerID{mute.h.Peer()}, peers(good)...), hedge + 3*rtt},
			{"one is silent, one lacks it", append([]wire.PeerID{mute.h.Peer()}, peers(empty, good)...), hedge + 4*rtt},
		} {
			b, err := good.s.Put(t.Context(), wire.CodecRaw, bytesOf(byte(i), 1000))
			if err != nil {
				t.Fatal(err)
			}
			t0 := time.Now()
			if _, err := me.x.Fetch(t.Context(), b, c.from, 1000); err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
			if d := time.Since(t0); d > c.most {
				t.Errorf("%s: took %v, want at most %v", c.what, d, c.most)
			}
			time.Sleep(time.Minute)
		}
		absent := wire.SumCID(wire.CodecRaw, []byte("absent"))
		if _, err := me.x.Fetch(t.Context(), absent, peers(empty, good), 100); !errors.Is(err, ErrUnavailable) {
			t.Errorf("a block that nobody has: %v", err)
		}
	})
}

// What one on a slow line has made, others pass on: it need not send all of it
// to each.
func TestFetchRelieves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, size = 5, 10 << 20
		net := p2ptest.New(t, p2ptest.Options{Link: func(i int) (up, down int) {
			if i == 0 {
				return 8, 100
			}
			return 100, 100
		}})
		all := make([]*simPeer, n)
		for i := range all {
			all[i] = newSimPeer(t, net, i, nil)
			all[i].connect(t, all[:i]...)
		}
		time.Sleep(time.Second)
		file, err := all[0].s.PutFile(t.Context(), bytesOf(1, size))
		if err != nil {
			t.Fatal(err)
		}
		t0 := time.Now()
		var wg sync.WaitGroup
		for _, me := range all[1:] {
			wg.Go(func() {
				if _, err := me.x.FetchFile(t.Context(), file, peers(all...), 1<<30); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		took, sent, in := time.Since(t0), float64(all[0].x.Stats().Sent)/size, 0.0
		for _, me := range all[1:] {
			b, _ := me.h.Bandwidth()
			in += float64(b) / size / (n - 1)
		}
		t.Logf("%v; its author sent it %.1f times, each of %d received it %.2f times", took, sent, n-1, in)
		if took > 38*time.Second || sent > 3.4 || in > 1.6 { // 42 s if it sends all to each, 10 s once
			t.Errorf("took %v; its author sent it %.1f times, each of %d received it %.2f times", took, sent, n-1, in)
		}
	})
}

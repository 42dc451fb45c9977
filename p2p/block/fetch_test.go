package block

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	bsmsg "github.com/ipfs/boxo/bitswap/message"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	blocks "github.com/ipfs/go-block-format"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/p2ptest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// villain speaks Bitswap on a host and answers as f says.
type villain struct {
	h *p2p.Host
	f func(wants []bsmsg.Entry, send func(bsmsg.BitSwapMessage))
	n interface {
		SendMessage(context.Context, peer.ID, bsmsg.BitSwapMessage) error
	}
	asked atomic.Int64
	wg    sync.WaitGroup
}

func (v *villain) ReceiveMessage(ctx context.Context, p peer.ID, m bsmsg.BitSwapMessage) {
	w := slices.DeleteFunc(m.Wantlist(), func(e bsmsg.Entry) bool { return e.Cancel })
	if len(w) == 0 {
		return
	}
	v.asked.Add(int64(len(w)))
	v.wg.Go(func() {
		v.f(w, func(m bsmsg.BitSwapMessage) { _ = v.n.SendMessage(ctx, p, m) })
	})
}
func (v *villain) ReceiveError(error)       {}
func (v *villain) PeerConnected(peer.ID)    {}
func (v *villain) PeerDisconnected(peer.ID) {}

func newVillain(t *testing.T, net *p2ptest.Net, i int, f func([]bsmsg.Entry, func(bsmsg.BitSwapMessage))) *villain {
	t.Helper()
	h := net.Start(i)
	n := bsnet.NewFromIpfsHost(h.Libp2p())
	v := &villain{h: h, f: f, n: n}
	n.Start(v)
	t.Cleanup(func() { n.Stop(); v.wg.Wait() })
	return v
}

// dir20 is a directory with a file of 20 MiB.
var dir20 = sync.OnceValue(func() map[string][]byte {
	return map[string][]byte{"model.safetensors": bytesOf(9, 20<<20)}
})

func mustFetchDir(t *testing.T, me *simPeer, dir wire.CID, from []wire.PeerID) time.Duration {
	t.Helper()
	t0 := time.Now()
	if err := me.x.FetchDir(t.Context(), dir, from, 1<<30, nil); err != nil {
		t.Fatal(err)
	}
	got, err := me.s.GetDir(t.Context(), dir, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(got, dir20(), slices.Equal) {
		t.Error("the directory that came differs")
	}
	return time.Since(t0)
}

func TestFetchOneDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		me, sources, dir := star(t, 5, dir20())
		go func() {
			time.Sleep(1200 * time.Millisecond)
			sources[2].stop()
			_ = sources[2].h.Close()
		}()
		took := mustFetchDir(t, me, dir, peers(sources...))
		t.Logf("%v, %+v", took, me.x.Stats())
		if took > 6*time.Second { // 20 MiB over four lines: 2.6 s at best
			t.Errorf("took %v", took)
		}
	})
}

func TestFetchOneStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.New(t, p2ptest.Options{Mbps: 50})
		me := newSimPeer(t, net, 0, nil)
		good, also := newSimPeer(t, net, 1, nil), newSimPeer(t, net, 2, nil)
		dir, _ := good.s.PutDir(t.Context(), readers(dir20()))
		_, _ = also.s.PutDir(t.Context(), readers(dir20()))
		mute := newVillain(t, net, 3, func([]bsmsg.Entry, func(bsmsg.BitSwapMessage)) {})
		me.connect(t, good, also)
		if err := me.h.Connect(t.Context(), mute.h.Addrs()[0]); err != nil {
			t.Fatal(err)
		}
		took := mustFetchDir(t, me, dir, append(peers(good, also), mute.h.Peer()))
		t.Logf("%v, asked the mute one %d times", took, mute.asked.Load())
		if took > 7*time.Second { // 1.8 s at best
			t.Errorf("took %v", took)
		}
		// Alone it is given up, and the error says so.
		t0 := time.Now()
		_, err := me.x.Fetch(t.Context(), wire.SumCID(wire.CodecRaw, []byte("x")), []wire.PeerID{mute.h.Peer()}, 100)
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "1 peers asked") {
			t.Errorf("mute provider alone: %v", err)
		}
		if d := time.Since(t0); d > time.Minute {
			t.Errorf("giving up took %v", d)
		}
	})
}

func TestFetchOneLies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.New(t, p2ptest.Options{Mbps: 50})
		me, good := newSimPeer(t, net, 0, nil), newSimPeer(t, net, 1, nil)
		dir, _ := good.s.PutDir(t.Context(), readers(dir20()))
		seed := byte(0)
		var mu sync.Mutex
		liar := newVillain(t, net, 2, func(w []bsmsg.Entry, send func(bsmsg.BitSwapMessage)) {
			for range maxUnaskedBlocks + 4 { // one answer is enough to be noticed
				mu.Lock()
				seed++
				m := bsmsg.New(false)
				m.AddBlock(blocks.NewBlock(bytesOf(seed, 1000)))
				mu.Unlock()
				send(m)
			}
		})
		me.connect(t, good)
		if err := me.h.Connect(t.Context(), liar.h.Addrs()[0]); err != nil {
			t.Fatal(err)
		}
		var blamed atomic.Int64
		me.x.OnMisbehaviour(func(p wire.PeerID, why string) {
			if p != liar.h.Peer() {
				t.Errorf("blamed %s", p)
			}
			blamed.Add(1)
		})
		from := append(peers(good), liar.h.Peer())
		took := mustFetchDir(t, me, dir, from)
		st := me.x.Stats()
		t.Logf("%v, %+v", took, st)
		if blamed.Load() == 0 || st.Unasked == 0 {
			t.Error("the liar was not noticed")
		}
		if st.Bytes > 21<<20 || me.s.Usage().Bytes > 21<<20 {
			t.Error("garbage was stored")
		}
		// It is not asked again while there is somebody else.
		n := liar.asked.Load()
		c, _ := good.s.Put(t.Context(), wire.CodecRaw, []byte("another"))
		if _, err := me.x.Fetch(t.Context(), c, from, 100); err != nil {
			t.Error(err)
		}
		if liar.asked.Load() != n {
			t.Error("the liar was asked again")
		}
	})
}

func TestFetchPartialProviders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.New(t, p2ptest.Options{Mbps: 50})
		me, odd, even := newSimPeer(t, net, 0, nil), newSimPeer(t, net, 1, nil), newSimPeer(t, net, 2, nil)
		dir, _ := me.s.PutDir(t.Context(), readers(dir20()))
		// Each provider has the nodes and every other leaf.
		i := 0
		err := me.s.walk(t.Context(), []wire.CID{dir}, func(c wire.CID, _ hash) error {
			data, err := me.s.Get(t.Context(), c)
			if err != nil {
				return err
			}
			i++
			if c.Codec() != wire.CodecRaw || i%2 == 0 {
				_ = even.s.PutCID(t.Context(), c, data)
			}
			if c.Codec() != wire.CodecRaw || i%2 == 1 {
				_ = odd.s.PutCID(t.Context(), c, data)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := me.s.Collect(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		fresh := newSimPeer(t, net, 3, nil)
		fresh.connect(t, odd, even)
		t.Log(mustFetchDir(t, fresh, dir, peers(odd, even)))
		if st := fresh.x.Stats(); st.Duplicates > 0 {
			t.Errorf("%+v", st)
		}
		// From one of them alone it fails, soon and saying what is missing.
		alone := newSimPeer(t, net, 4, nil)
		alone.connect(t, odd)
		err = alone.x.FetchDir(t.Context(), dir, peers(odd), 1<<30, nil)
		if !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		t.Logf("%v, %+v", err, alone.x.Stats())
		// Going on elsewhere fetches only the rest.
		got := alone.x.Stats().Bytes
		alone.connect(t, even)
		mustFetchDir(t, alone, dir, peers(even))
		if all := alone.x.Stats().Bytes; got < 5<<20 || all > 20<<20+8192 {
			t.Errorf("%d bytes at first, %d in all", got, all)
		}
	})
}

func TestFetchPolicyAndLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.New(t, p2ptest.Options{})
		me, stranger := newSimPeer(t, net, 0, nil), newSimPeer(t, net, 1, nil)
		member := me.h.Peer()
		var secret atomic.Value
		src := newSimPeer(t, net, 2, func(p wire.PeerID, c wire.CID) bool {
			return p == member || c != secret.Load()
		})
		ctx := t.Context()
		c, _ := src.s.Put(ctx, wire.CodecDagCBOR, []byte{0xa0})
		secret.Store(c)
		open, _ := src.s.PutFile(ctx, bytesOf(1, 5<<20))
		me.connect(t, src)
		stranger.connect(t, src)
		if _, err := me.x.Fetch(ctx, c, peers(src), 100); err != nil {
			t.Errorf("member: %v", err)
		}
		if _, err := stranger.x.Fetch(ctx, c, peers(src), 100); !errors.Is(err, ErrUnavailable) {
			t.Errorf("stranger: %v", err)
		}
		if _, err := stranger.x.FetchFile(ctx, open, peers(src), 5<<20-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("file over the limit: %v", err)
		}
		if st := stranger.x.Stats(); st.Bytes > 64<<10 {
			t.Errorf("%d bytes fetched of a file that is too large", st.Bytes)
		}
		if b, err := stranger.x.FetchFile(ctx, open, nil, 5<<20); err != nil || len(b) != 5<<20 {
			t.Errorf("file at the limit from whoever is connected: %d bytes, %v", len(b), err)
		}
		big, _ := src.s.Put(ctx, wire.CodecRaw, bytesOf(2, 1000))
		if _, err := me.x.Fetch(ctx, big, peers(src), 999); !errors.Is(err, ErrTooLarge) {
			t.Errorf("block over the limit: %v", err)
		}
		if _, err := me.x.Fetch(ctx, "bad", peers(src), 999); err == nil {
			t.Error("bad CID accepted")
		}
	})
}

func TestFetchCancelAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		me, sources, dir := star(t, 2, dir20())
		before := runtime.NumGoroutine()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := me.x.FetchDir(ctx, dir, peers(sources...), 1<<30, nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second) // cancels go out, streams close
		synctest.Wait()
		if n := runtime.NumGoroutine(); n > before+5 {
			t.Errorf("%d goroutines before, %d after", before, n)
		}
		st := me.x.Stats()
		if st.Bytes < 2<<20 || st.Unasked+st.Duplicates > 0 {
			t.Errorf("%+v", st)
		}
		for _, s := range sources { // nothing is still on its way to us
			if n := s.x.sent.Load(); n > 12<<20 {
				t.Errorf("a source sent %d bytes in all", n)
			}
		}
		mustFetchDir(t, me, dir, peers(sources...))
		if all := me.x.Stats().Bytes; all > 20<<20+8192 {
			t.Errorf("%d bytes fetched in all: some twice", all)
		}
	})
}

func TestFetchFindsProviders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.New(t, p2ptest.Options{Mbps: 50})
		me, src, late := newSimPeer(t, net, 0, nil), newSimPeer(t, net, 1, nil), newSimPeer(t, net, 2, nil)
		dir, _ := src.s.PutDir(t.Context(), readers(dir20()))
		_, _ = late.s.PutDir(t.Context(), readers(dir20()))
		src.connect(t, me, late)
		me.connect(t, late)
		time.Sleep(time.Second)
		if err := src.h.Provide(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		// late is told while the fetch runs; the one in from has nothing.
		empty := newSimPeer(t, net, 3, nil)
		me.connect(t, empty)
		go func() {
			time.Sleep(time.Second)
			me.x.AddProviders(dir, late.h.Peer())
		}()
		t.Log(mustFetchDir(t, me, dir, peers(empty)))
		if late.x.sent.Load() == 0 {
			t.Error("the provider that was added was not used")
		}
	})
}

func TestFetchRateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.New(t, p2ptest.Options{})
		me, src := newSimPeer(t, net, 0, nil), newSimPeer(t, net, 1, nil)
		file, _ := src.s.PutFile(t.Context(), bytesOf(1, 10<<20))
		me.connect(t, src)
		fetch := func() float64 {
			t0 := time.Now()
			if _, err := me.x.FetchFile(t.Context(), file, peers(src), 1<<30); err != nil {
				t.Fatal(err)
			}
			if _, err := me.s.Collect(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Minute) // grace
			return 10 / time.Since(t0.Add(2*time.Minute)).Seconds()
		}
		src.x.SetRates(1<<20, 0)
		if r := fetch(); r < 0.8 || r > 1.5 {
			t.Errorf("%.2f MiB/s with an upload limit of 1", r)
		}
		if _, err := me.s.Collect(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		src.x.SetRates(0, 0)
		me.x.SetRates(0, 1<<20)
		if r := fetch(); r < 0.8 || r > 1.5 {
			t.Errorf("%.2f MiB/s with a download limit of 1", r)
		}
	})
}

// Many small fetches at once, some of the same blocks.
func TestFetchConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.New(t, p2ptest.Options{})
		me, a, b := newSimPeer(t, net, 0, nil), newSimPeer(t, net, 1, nil), newSimPeer(t, net, 2, nil)
		me.connect(t, a, b)
		var cs []wire.CID
		for i := range 50 {
			data := bytesOf(byte(i), 10_000)
			c, _ := a.s.Put(t.Context(), wire.CodecRaw, data)
			_, _ = b.s.Put(t.Context(), wire.CodecRaw, data)
			cs = append(cs, c)
		}
		var wg sync.WaitGroup
		t0 := time.Now()
		for i := range 100 {
			wg.Go(func() {
				got, err := me.x.Fetch(t.Context(), cs[i%50], peers(a, b), 10_000)
				if err != nil || len(got) != 10_000 {
					t.Errorf("%d: %d bytes, %v", i, len(got), err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(t0); d > time.Second {
			t.Errorf("took %v", d)
		}
	})
}

func TestExchangeLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.New(t, p2ptest.Options{})
		me, src := newSimPeer(t, net, 0, nil), newSimPeer(t, net, 1, nil)
		me.connect(t, src)
		if err := me.x.Run(t.Context()); err == nil {
			t.Error("Run twice is allowed")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		early := newExchange(me.h.Libp2p(), me.s, nil, nil)
		absent := wire.SumCID(wire.CodecRaw, []byte("absent"))
		if _, err := early.Fetch(ctx, absent, peers(src), 10); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("fetch before Run: %v", err)
		}
		// A fetch under way ends with the exchange, one after it is refused,
		// and what the store has is there all the same.
		mute := newVillain(t, net, 2, func([]bsmsg.Entry, func(bsmsg.BitSwapMessage)) {})
		if err := me.h.Connect(t.Context(), mute.h.Addrs()[0]); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := me.x.Fetch(t.Context(), absent, []wire.PeerID{mute.h.Peer()}, 10)
			done <- err
		}()
		time.Sleep(time.Second)
		stopped := make(chan struct{})
		go func() { defer close(stopped); me.stop() }()
		if err := <-done; !errors.Is(err, errEnded) {
			t.Errorf("fetch under way: %v", err)
		}
		<-stopped
		if _, err := me.x.Fetch(t.Context(), absent, peers(src), 10); err == nil {
			t.Error("fetch after the end succeeded")
		}
	})
}

func TestFetchQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.New(t, p2ptest.Options{Mbps: 1000})
		me, src := newSimPeer(t, net, 0, nil), newSimPeer(t, net, 1, nil)
		me.s.opt.Quota = 10 << 20
		keep := put(t, me.s, bytesOf(1, 1<<20))
		if err := me.s.Pin("keep", keep); err != nil {
			t.Fatal(err)
		}
		dir, _ := src.s.PutDir(t.Context(), readers(dir20()))
		me.connect(t, src)
		if err := me.x.FetchDir(t.Context(), dir, peers(src), 1<<30, nil); !errors.Is(err, ErrQuota) {
			t.Errorf("%v", err)
		}
		if u := me.s.Usage(); u.Bytes > 10<<20 || !me.s.Has(keep) || me.s.reserved != 0 || len(me.s.holds) != 0 {
			t.Errorf("%+v, %d reserved, %d held", u, me.s.reserved, len(me.s.holds))
		}
	})
}

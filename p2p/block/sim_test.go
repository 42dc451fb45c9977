package block

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/p2ptest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// memory is a backend without a disk.
type memory struct {
	mu sync.Mutex // guards following
	m  map[hash][]byte
}

func inMemory(b backend) backend {
	_ = b.close()
	return &memory{m: map[hash][]byte{}}
}

func (m *memory) put(h hash, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.m[h] = append([]byte(nil), data...)
	return nil
}

func (m *memory) get(h hash) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.m[h]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return b, nil
}

func (m *memory) size(h hash) (int64, error) {
	b, err := m.get(h)
	return int64(len(b)), err
}

func (m *memory) delete(h hash) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.m, h)
	return nil
}

func (m *memory) list(_ context.Context, f func(hash)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for h := range m.m {
		f(h)
	}
	return nil
}

func (m *memory) close() error { return nil }

// bytesOf returns n bytes that follow from seed.
func bytesOf(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// simPeer is a host with a store and an exchange in a simulated network.
type simPeer struct {
	h    *p2p.Host
	s    *Store
	x    *Exchange
	stop func()
}

// newSimPeer starts host i. Its exchange ends with the test, before the host.
func newSimPeer(t *testing.T, net *p2ptest.Net, i int, allow Policy) *simPeer {
	t.Helper()
	h := net.Start(i)
	s, err := Open(t.TempDir(), Options{NoSync: true, Log: slog.New(slog.DiscardHandler), wrap: inMemory})
	if err != nil {
		t.Fatal(err)
	}
	x, err := NewExchange(h, s, allow)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("SHOAL_DEBUG") != "" {
		x.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	p := &simPeer{h: h, s: s, x: x}
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("exchange %d: %v", i, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("store %d: %v", i, err)
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *simPeer) connect(t *testing.T, to ...*simPeer) {
	t.Helper()
	for _, q := range to {
		if err := p.h.Connect(t.Context(), q.h.Addrs()[0]); err != nil {
			t.Fatal(err)
		}
	}
}

func peers(ps ...*simPeer) (ids []wire.PeerID) {
	for _, p := range ps {
		ids = append(ids, p.h.Peer())
	}
	return ids
}

// star makes a fetcher (100 Mbit/s) connected to n sources (20 Mbit/s) that
// all have the given directory, with a round trip of 100 ms.
func star(t *testing.T, n int, files map[string][]byte) (*simPeer, []*simPeer, wire.CID) {
	t.Helper()
	net := p2ptest.New(t, p2ptest.Options{Link: func(i int) (int, int) {
		if i == 0 {
			return 100, 100
		}
		return 20, 100
	}})
	var dir wire.CID
	me := newSimPeer(t, net, 0, nil)
	var sources []*simPeer
	for i := range n {
		p := newSimPeer(t, net, i+1, nil)
		c, err := p.s.PutDir(t.Context(), readers(files))
		if err != nil {
			t.Fatal(err)
		}
		dir = c
		sources = append(sources, p)
	}
	me.connect(t, sources...)
	time.Sleep(time.Second)
	return me, sources, dir
}

func TestFetchDir(t *testing.T) {
	files := map[string][]byte{"config.json": []byte("{}"), "model.safetensors": bytesOf(1, 8<<20+5), "empty": nil}
	for _, n := range []int{1, 5} {
		synctest.Test(t, func(t *testing.T) {
			me, sources, dir := star(t, n, files)
			t0 := time.Now()
			last := int64(-1)
			err := me.x.FetchDir(t.Context(), dir, peers(sources...), 1<<30, func(done, total int64) {
				if done < last || total < done {
					t.Errorf("progress went from %d to %d of %d", last, done, total)
				}
				last = done
			})
			if err != nil {
				t.Fatal(err)
			}
			took := time.Since(t0)
			line := min(float64(n)*20e6, 100e6) / 8
			t.Logf("%d sources: %v, %.0f %% of the line, %+v", n, took, 100*float64(8<<20)/took.Seconds()/line, me.x.Stats())
			got, err := me.s.GetDir(t.Context(), dir, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(files) {
				t.Errorf("%d files, want %d", len(got), len(files))
			}
			for name, data := range files {
				if string(got[name]) != string(data) {
					t.Errorf("%s differs", name)
				}
			}
			if _, err := me.x.Fetch(t.Context(), wire.SumCID(wire.CodecRaw, []byte("nobody has this")), peers(sources...), 100); !errors.Is(err, ErrUnavailable) {
				t.Errorf("missing block: %v", err)
			}
		})
	}
}

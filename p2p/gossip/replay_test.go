package gossip

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// The window agrees with a set that forgets what is older than it.
func TestWindow(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		w, seen, top := new(window), map[uint64]bool{}, uint64(0)
		base := rng.Uint64N(1 << 40)
		for range 500 {
			step := uint64(1) << rng.Uint64N(10)
			seq := base + rng.Uint64N(step*3)
			if rng.IntN(3) == 0 {
				base += step
			}
			want := seq > top || top-seq < windowBits && !seen[seq]
			if got := w.fresh(seq); got != want {
				t.Fatalf("top %d, %d: fresh is %v, want %v", top, seq, got, want)
			}
			if want {
				w.accept(seq)
				seen[seq], top = true, max(top, seq)
			}
		}
	}
}

func TestReplayMemory(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	r := loadReplay("", quiet, now)
	p := wire.PeerID{1}
	if !r.accept(p, 10, now) || r.accept(p, 10, now) || r.fresh(p, 10, now) {
		t.Error("a number is accepted twice")
	}
	later := now.Add(replayMemory + time.Second)
	if !r.fresh(p, 5, later) || !r.accept(p, 5, later) || r.accept(p, 5, later) {
		t.Error("a silent author is not forgotten")
	}
	for i := range 2 * maxAuthors {
		r.accept(wire.PeerID{2, byte(i), byte(i >> 8)}, 1, later.Add(time.Duration(i)*time.Second))
	}
	if len(r.authors) > maxAuthors {
		t.Errorf("%d authors remembered", len(r.authors))
	}
	if r.top(p) != 0 || r.top(wire.PeerID{2, 0xff, 0x1f}) != 1 {
		t.Error("not the silent ones were forgotten")
	}
}

func TestReplayFile(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	path := filepath.Join(t.TempDir(), "seqno")
	r := loadReplay(path, quiet, now)
	for i := range 300 {
		r.accept(wire.PeerID{3, byte(i), byte(i >> 8)}, uint64(i)*3, now)
		r.accept(wire.PeerID{3, byte(i), byte(i >> 8)}, uint64(i)*3+1, now)
	}
	if err := r.save(now); err != nil {
		t.Fatal(err)
	}
	if d := loadReplay(path, quiet, now); !reflect.DeepEqual(d.authors, r.authors) {
		t.Error("what is read is not what was written")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(b) {
		if i > 200 && i%97 != 0 {
			continue
		}
		bad := append([]byte(nil), b...)
		bad[i] ^= 4
		if _, err := decodeReplay(bad); err == nil {
			t.Fatalf("byte %d is wrong, and nobody cares", i)
		}
		if _, err := decodeReplay(b[:i]); err == nil {
			t.Fatalf("cut at %d, and nobody cares", i)
		}
	}
	if err := os.WriteFile(path, b[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	if d := loadReplay(path, quiet, now); len(d.authors) != 0 {
		t.Error("something was read")
	}
	if _, err := os.Stat(path + ".corrupt"); err != nil {
		t.Errorf("not put aside: %v", err)
	}
}

func FuzzDecodeReplay(f *testing.F) {
	r := loadReplay("", quiet, time.Unix(1, 0))
	f.Add(r.encode(time.Unix(1, 0)))
	r.accept(wire.PeerID{1}, 7, time.Unix(1, 0))
	f.Add(r.encode(time.Unix(1, 0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeReplay(b)
		if err == nil && len(m) > maxAuthors {
			t.Fatal("out of bounds")
		}
	})
}

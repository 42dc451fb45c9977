package block

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// counting counts reads.
type counting struct {
	backend
	gets int
}

func (c *counting) get(h hash) ([]byte, error) {
	c.gets++
	return c.backend.get(h)
}

// Any part of a file that is open is that part, in any order; leaves that are read in order are read
// once.
func TestOpen(t *testing.T) {
	ctx := t.Context()
	d := &counting{}
	s := open(t, t.TempDir(), Options{wrap: func(b backend) backend { d.backend = inMemory(b); return d }})
	for _, n := range []int{0, 1, chunkSize, chunkSize + 1, 5*chunkSize - 3} {
		want := pattern(n)
		c, err := s.PutFile(ctx, want)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Open(ctx, c, int64(n))
		if err != nil || r.Size() != int64(n) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		before := d.gets
		part := make([]byte, 1000)
		var got []byte
		for {
			k, err := r.Read(part)
			got = append(got, part[:k]...)
			if err != nil {
				if err != io.EOF {
					t.Fatal(err)
				}
				break
			}
		}
		if leaves := max(1, (n+chunkSize-1)/chunkSize); !bytes.Equal(got, want) || d.gets-before > leaves {
			t.Errorf("%d bytes: other ones come back, or %d leaves were read %d times", n, leaves, d.gets-before)
		}
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		for range min(n, 50) {
			from := rng.IntN(n)
			part := make([]byte, rng.IntN(min(n-from, 2*chunkSize)+1))
			if _, err := r.ReadAt(part, int64(from)); err != nil || !bytes.Equal(part, want[from:from+len(part)]) {
				t.Errorf("%d bytes from %d of %d: %v", len(part), from, n, err)
			}
		}
		if k, err := r.ReadAt(make([]byte, 2), int64(n)-1); n > 0 && (k != 1 || err != io.EOF) {
			t.Errorf("beyond the end of %d bytes: %d, %v", n, k, err)
		}
		if _, err := s.Open(ctx, c, int64(n)-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d bytes, one more than allowed: %v", n, err)
		}
	}
}

// A leaf that is lacking shows before anything is read, one that goes bad then when it is read, and
// reading ends with its context.
func TestOpenDamaged(t *testing.T) {
	m := &memory{m: map[hash][]byte{}}
	s := open(t, t.TempDir(), Options{wrap: func(b backend) backend { _ = b.close(); return m }})
	c, err := s.PutFile(t.Context(), pattern(3*chunkSize))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := s.Open(ctx, c, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 10)
	if _, err := r.ReadAt(part, 0); err != nil {
		t.Error(err)
	}
	for h, b := range m.m {
		if bytes.Equal(b, pattern(3 * chunkSize)[chunkSize:2*chunkSize]) {
			m.m[h] = []byte("something else")
		}
	}
	if k, err := r.ReadAt(part, chunkSize-5); k != 5 || !errors.Is(err, ErrNotFound) {
		t.Errorf("a damaged leaf: %d bytes, %v", k, err)
	}
	if _, err := s.Open(t.Context(), c, 1<<30); !errors.Is(err, ErrNotFound) {
		t.Errorf("without a leaf: %v", err)
	}
	cancel()
	if _, err := r.ReadAt(part, 2*chunkSize); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of its context: %v", err)
	}
}

package block

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

var quiet = slog.New(slog.DiscardHandler)

func open(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	o.NoSync = true
	if o.Log == nil {
		o.Log = quiet
	}
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t testing.TB, s *Store, data []byte) wire.CID {
	t.Helper()
	c, err := s.Put(t.Context(), wire.CodecRaw, data)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// blockFile is where flatfs keeps a block.
func blockFile(t testing.TB, dir string, c wire.CID) string {
	t.Helper()
	h, err := hashOf(c)
	if err != nil {
		t.Fatal(err)
	}
	name := fileKey(h).String()[1:]
	return filepath.Join(dir, "blocks", name[len(name)-3:len(name)-1], name+".data")
}

// flaky is a backend that fails on demand.
type flaky struct {
	backend
	putErr, getErr, deleteErr atomic.Pointer[error]
}

func (f *flaky) put(h hash, b []byte) error {
	if e := f.putErr.Load(); e != nil {
		return &fs.PathError{Op: "write", Path: "blocks", Err: *e}
	}
	return f.backend.put(h, b)
}

func (f *flaky) get(h hash) ([]byte, error) {
	if e := f.getErr.Load(); e != nil {
		return nil, *e
	}
	return f.backend.get(h)
}

func (f *flaky) delete(h hash) error {
	if e := f.deleteErr.Load(); e != nil {
		return *e
	}
	return f.backend.delete(h)
}

func TestPutGet(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	ctx := t.Context()
	for _, codec := range []uint64{wire.CodecRaw, wire.CodecDagPB, wire.CodecDagCBOR} {
		for _, data := range [][]byte{{}, {1}, bytesOf(1, MaxBlock)} {
			c, err := s.Put(ctx, codec, data)
			if err != nil {
				t.Fatal(err)
			}
			if c != wire.SumCID(codec, data) {
				t.Error("wrong CID")
			}
			if got, err := s.Get(ctx, c); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes: %v", len(got), err)
			}
			if n, err := s.Size(c); err != nil || n != len(data) || !s.Has(c) {
				t.Errorf("size %d, %v", n, err)
			}
		}
	}
	if u := s.Usage(); u.Blocks != 3 || u.Bytes != MaxBlock+1 { // the codecs share files
		t.Errorf("%+v", u)
	}
	if _, err := s.Put(ctx, wire.CodecRaw, bytesOf(1, MaxBlock+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("oversized: %v", err)
	}
	absent := wire.SumCID(wire.CodecRaw, []byte("absent"))
	if _, err := s.Get(ctx, absent); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), absent.String()) {
		t.Errorf("absent: %v", err)
	}
	if err := s.PutCID(ctx, absent, []byte("something else")); err == nil || s.Has(absent) {
		t.Errorf("wrong bytes: %v", err)
	}
	for _, c := range []wire.CID{"", "x", wire.CID(strings.Repeat("x", 100))} {
		if _, err := s.Get(ctx, c); err == nil {
			t.Errorf("CID %q accepted", c)
		}
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Put(canceled, wire.CodecRaw, []byte("late")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(ctx, absent); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := s.Put(ctx, wire.CodecRaw, []byte("late")); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestReopenKeepsBlocksAndPins(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	file, err := s.PutFile(t.Context(), bytesOf(1, 3<<20))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Pin("checkpoint", file); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Log: quiet}); !errors.Is(err, ErrInUse) {
		t.Errorf("second open: %v", err)
	}
	want := s.Usage()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	if got := s.Usage(); got != want || got.Pinned != got.Bytes {
		t.Errorf("%+v, want %+v", got, want)
	}
	if p := s.Pins(); len(p) != 1 || p[0].Name != "checkpoint" || p[0].Blocks != 4 || p[0].Missing != 0 {
		t.Errorf("%+v", p)
	}
	if got, err := s.GetFile(t.Context(), file, 3<<20); err != nil || !bytes.Equal(got, bytesOf(1, 3<<20)) {
		t.Error(err)
	}
}

func TestQuotaAndCollection(t *testing.T) {
	s := open(t, t.TempDir(), Options{Quota: 10_000, Grace: -1})
	ctx := t.Context()
	var cs []wire.CID
	for i := range 10 {
		cs = append(cs, put(t, s, bytesOf(byte(i), 1000)))
	}
	if err := s.Pin("a", cs[0], cs[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, cs[2]); err != nil { // now the most recently used
		t.Fatal(err)
	}
	put(t, s, bytesOf(99, 1000))
	if !s.Has(cs[0]) || !s.Has(cs[1]) || !s.Has(cs[2]) || s.Has(cs[3]) {
		t.Error("not the least recently used unpinned block went")
	}
	if err := s.Pin("b", cs[2], cs[5], cs[6], cs[7], cs[8], cs[9]); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := 100; i < 110 && err == nil; i++ {
		var c wire.CID
		if c, err = s.Put(ctx, wire.CodecRaw, bytesOf(byte(i), 1000)); err == nil {
			err = s.Pin(fmt.Sprint(i), c)
		}
	}
	if !errors.Is(err, ErrQuota) || !strings.Contains(err.Error(), "10000 of 10000") {
		t.Errorf("full of pins: %v", err)
	}
	if u := s.Usage(); u.Pinned != 10_000 || u.Bytes != 10_000 {
		t.Errorf("%+v", u)
	}
	if err := s.Unpin("a"); err != nil {
		t.Fatal(err)
	}
	put(t, s, bytesOf(98, 2000))
	if s.Has(cs[0]) || s.Has(cs[1]) {
		t.Error("unpinned blocks stayed although room was needed")
	}
	if err := s.Pin("x", cs[0]); !errors.Is(err, ErrNotFound) {
		t.Errorf("pin of an absent block: %v", err)
	}
	if err := s.Unpin("never there"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", strings.Repeat("n", 257)} {
		if err := s.Pin(name, cs[2]); err == nil {
			t.Errorf("pin name of %d bytes accepted", len(name))
		}
	}
	// A file larger than the quota fails as a whole and leaves the pins alone.
	if _, err := s.PutFile(ctx, bytesOf(1, 20_000)); !errors.Is(err, ErrQuota) {
		t.Error(err)
	}
}

func TestGraceProtectsRecentBlocks(t *testing.T) {
	s := open(t, t.TempDir(), Options{Quota: 3000, Grace: time.Hour})
	for i := range 3 {
		put(t, s, bytesOf(byte(i), 1000))
	}
	if _, err := s.Put(t.Context(), wire.CodecRaw, bytesOf(9, 1000)); !errors.Is(err, ErrQuota) {
		t.Error(err)
	}
}

func TestDiskFull(t *testing.T) {
	var f *flaky
	s := open(t, t.TempDir(), Options{Grace: -1, wrap: func(b backend) backend { f = &flaky{backend: b}; return f }})
	ctx := t.Context()
	keep := put(t, s, []byte("keep"))
	if err := s.Pin("k", keep); err != nil {
		t.Fatal(err)
	}
	full := error(syscall.ENOSPC)
	f.putErr.Store(&full)
	_, err := s.Put(ctx, wire.CodecRaw, []byte("more"))
	if !errors.Is(err, ErrDiskFull) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("%v", err)
	}
	if _, err := s.PutDir(ctx, readers(map[string][]byte{"a": bytesOf(1, 3<<20)})); !errors.Is(err, ErrDiskFull) {
		t.Error(err)
	}
	if u := s.Usage(); u.Blocks != 1 || s.reserved != 0 || len(s.holds) != 0 {
		t.Errorf("%+v, %d reserved, %d held", u, s.reserved, len(s.holds))
	}
	f.putErr.Store(nil)
	put(t, s, []byte("more"))
	if _, err := s.Get(ctx, keep); err != nil {
		t.Error(err)
	}
	// An unreadable disk is not a damaged block: nothing is thrown away.
	broken := error(syscall.EIO)
	f.getErr.Store(&broken)
	if _, err := s.Get(ctx, keep); !errors.Is(err, syscall.EIO) || !s.Has(keep) {
		t.Errorf("%v", err)
	}
	f.getErr.Store(nil)
	f.deleteErr.Store(&broken)
	if _, err := s.Collect(ctx, 0); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	f.deleteErr.Store(nil)
	if n, err := s.Collect(ctx, 0); err != nil || n != 4 {
		t.Errorf("%d freed, %v", n, err)
	}
}

// Writers, readers, pins and the collector at once: what is pinned stays
// readable, and the accounts agree with the disk at the end.
func TestConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{Quota: 400_000, Grace: -1})
	ctx := t.Context()
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for i := range 60 {
				data := bytesOf(byte(i%40), 5000+i%40)
				root, err := s.PutFile(ctx, data)
				if err != nil {
					t.Error(err)
					return
				}
				name := fmt.Sprint(g)
				if err := s.Pin(name, root); errors.Is(err, ErrNotFound) {
					continue // collected in between: there is no grace here
				} else if err != nil {
					t.Error(err)
					return
				}
				if got, err := s.GetFile(ctx, root, 1<<20); err != nil || !bytes.Equal(got, data) {
					t.Errorf("pinned file: %v", err)
				}
			}
		})
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := s.Collect(ctx, 0); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	wg.Wait()
	close(stop)
	<-done
	want := s.Usage()
	if s.Stats().Corrupt > 0 || len(s.holds) > 0 || s.reserved != 0 {
		t.Errorf("%+v, %d held, %d reserved", s.Stats(), len(s.holds), s.reserved)
	}
	_ = s.Close()
	if got := open(t, dir, Options{Quota: 400_000}).Usage(); got != want {
		t.Errorf("after reopening %+v, before %+v", got, want)
	}
}

// ruin overwrites a block's file.
func ruin(t testing.TB, s *Store, c wire.CID) {
	t.Helper()
	if err := os.WriteFile(blockFile(t, s.dir, c), []byte("ruined"), 0o644); err != nil {
		t.Fatal(err)
	}
}

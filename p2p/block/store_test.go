package block

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
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

// A process that is killed loses nothing that was put: the test runs itself.
func TestKilled(t *testing.T) {
	const env = "SHOAL_BLOCK_TEST_DIR"
	if dir := os.Getenv(env); dir != "" {
		s, err := Open(dir, Options{Log: quiet})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		for i := 0; ; i++ {
			c, err := s.Put(context.Background(), wire.CodecRaw, bytesOf(byte(i), 50_000+i))
			if err == nil && i%10 == 0 {
				err = s.Pin("latest", c)
			}
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			fmt.Println(c)
		}
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), env+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	buf := make([]byte, 4096)
	var text strings.Builder
	for len(lines) < 60 {
		n, err := out.Read(buf)
		text.Write(buf[:n])
		if lines = strings.Split(text.String(), "\n"); err != nil {
			t.Fatalf("child: %v: %s", err, text.String())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	s := open(t, dir, Options{})
	lines = lines[:len(lines)-1]
	for _, l := range lines {
		c, err := wire.ParseCID(l)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(t.Context(), c); err != nil {
			t.Errorf("lost: %v", err)
		}
	}
	if p := s.Pins(); len(p) != 1 || p[0].Name != "latest" {
		t.Errorf("pins: %+v", p)
	}
}

func TestDamagedBlockIsAbsent(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"flipped":   func(p string) error { return os.WriteFile(p, append(bytesOf(1, 999), 0), 0o644) },
		"truncated": func(p string) error { return os.Truncate(p, 10) },
		"emptied":   func(p string) error { return os.Truncate(p, 0) },
		"grown":     func(p string) error { return os.Truncate(p, 100<<20) },
		"removed":   os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var log bytes.Buffer
			s := open(t, dir, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			data := bytesOf(1, 1000)
			c := put(t, s, data)
			if err := s.Pin("p", c); err != nil {
				t.Fatal(err)
			}
			if err := damage(blockFile(t, dir, c)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get(t.Context(), c); !errors.Is(err, ErrNotFound) {
				t.Fatalf("%v", err)
			}
			if s.Has(c) || s.Stats().Corrupt != 1 || s.Usage().Bytes != 0 || s.Pins()[0].Missing != 1 {
				t.Errorf("%+v %+v %+v", s.Stats(), s.Usage(), s.Pins())
			}
			if !strings.Contains(log.String(), c.String()) {
				t.Error("not reported")
			}
			put(t, s, data)
			if got, err := s.Get(t.Context(), c); err != nil || !bytes.Equal(got, data) {
				t.Errorf("put anew: %v", err)
			}
			if s.Pins()[0].Missing != 0 {
				t.Error("the pin does not see its block")
			}
		})
	}
}

// A pinned node that was damaged and fetched anew protects its leaves again.
func TestDamagedNodeAndCollection(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{Grace: -1})
	ctx := t.Context()
	root, err := s.PutFile(ctx, bytesOf(1, 3<<20))
	if err != nil {
		t.Fatal(err)
	}
	node, _ := s.Get(ctx, root)
	if err := s.Pin("f", root); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if err := os.Truncate(blockFile(t, dir, root), 5); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{Grace: -1})
	if p := s.Pins()[0]; p.Missing == 0 {
		t.Errorf("%+v", p)
	}
	if err := s.PutCID(ctx, root, node); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetFile(ctx, root, 3<<20); err != nil {
		t.Error(err)
	}
}

func TestDamagedDatabase(t *testing.T) {
	clean := t.TempDir()
	s := open(t, clean, Options{})
	var cs []wire.CID
	for i := range 40 {
		c := put(t, s, bytesOf(byte(i), 100+i))
		cs = append(cs, c)
		if err := s.Pin(fmt.Sprintf("pin-%d", i), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(clean, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, mutate func(b []byte) []byte, mustRecover bool) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(clean)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "meta.db"), mutate(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir, Options{Grace: -1})
			if mustRecover && !s.Stats().Recovered {
				t.Error("damage was not noticed")
			}
			if _, err := s.Collect(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			for _, c := range cs {
				if _, err := s.Get(t.Context(), c); err != nil {
					t.Fatalf("lost: %v", err)
				}
			}
			if !s.Stats().Recovered {
				return
			}
			if _, err := os.Stat(filepath.Join(dir, "meta.db.damaged-1")); err != nil && name != "gone" {
				t.Errorf("the bad file was not kept: %v", err)
			}
			// Once the node has pinned what it needs, the rest may go.
			if err := s.Pin("needed", cs[0]); err != nil {
				t.Fatal(err)
			}
			if err := s.Unpin(PinRecovered); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Collect(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if u := s.Usage(); u.Blocks != 1 || !s.Has(cs[0]) {
				t.Errorf("%+v", u)
			}
		})
	}
	check("garbage", func(b []byte) []byte { return bytesOf(1, len(b)) }, true)
	check("text", func([]byte) []byte { return []byte("hello") }, true)
	check("zeros", func(b []byte) []byte { return make([]byte, len(b)) }, true)
	check("cut in the middle", func(b []byte) []byte { return b[:len(b)/8+100] }, true)
	check("two pages left", func(b []byte) []byte { return b[:2*os.Getpagesize()] }, true)
	check("gone", func([]byte) []byte { return nil }, true)
	for seed := range 12 {
		check(fmt.Sprintf("page %d overwritten", seed+2), func(b []byte) []byte {
			p := os.Getpagesize()
			if off := (2 + seed) * p; off+p <= len(b) {
				copy(b[off:], bytesOf(byte(seed), p))
			}
			return b
		}, false)
	}
}

func TestDamagedDirectory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	c := put(t, s, []byte("x"))
	_ = s.Close()
	// Lost SHARDING file, junk, an unfinished write: all without consequence.
	if err := os.Remove(filepath.Join(dir, "blocks", "SHARDING")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(blockFile(t, dir, c)), "put-123"), []byte("y"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(blockFile(t, dir, c)), "JUNK.data"), []byte("y"), 0o644); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	if _, err := s.Get(t.Context(), c); err != nil || s.Usage().Blocks != 1 {
		t.Errorf("%v, %+v", err, s.Usage())
	}
	_ = s.Close()
	// Not a directory at all: a clear error, nothing touched.
	bad := t.TempDir()
	if err := os.WriteFile(filepath.Join(bad, "blocks"), []byte("file"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(bad, Options{Log: quiet}); err == nil || !strings.Contains(err.Error(), "blocks") {
		t.Errorf("blocks is a file: %v", err)
	}
	if _, err := Open(filepath.Join(bad, "blocks", "sub"), Options{Log: quiet}); err == nil {
		t.Error("path below a file accepted")
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
	if _, err := s.PutDir(ctx, map[string][]byte{"a": bytesOf(1, 3<<20)}); !errors.Is(err, ErrDiskFull) {
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

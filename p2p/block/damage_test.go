package block

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
)

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

// A database that turns out to be damaged when it is written is made anew at once, of what
// is in memory: no pin is lost, and nobody has to restart for it.
func TestDamagedDatabaseIsMadeAnew(t *testing.T) {
	clean := t.TempDir()
	const n = 100
	s := open(t, clean, Options{NoSync: true})
	var cs []wire.CID
	for i := range n {
		cs = append(cs, put(t, s, bytesOf(byte(i), 100+i)))
		if err := s.Pin(fmt.Sprintf("pin-%d", i), cs[i]); err != nil {
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
	mended := 0
	for page := 2; page < len(good)/4096; page++ {
		if binary.LittleEndian.Uint16(good[page*4096+8:]) != 0x10 { // not of the list of free pages
			continue
		}
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(clean)); err != nil {
			t.Fatal(err)
		}
		b := bytes.Clone(good)
		for at := 16; at < 4096; at += 8 {
			b[page*4096+at+1] ^= 0x80
		}
		if err := os.WriteFile(filepath.Join(dir, "meta.db"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, Options{Grace: -1, NoSync: true})
		for i := range n {
			if err := s.Pin(fmt.Sprintf("more-%d", i), cs[i]); err != nil {
				t.Fatalf("page %d: %v", page, err)
			}
		}
		put(t, s, []byte("one more"))
		if err := s.Close(); err != nil {
			t.Fatalf("page %d: %v", page, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "meta.db.damaged-1")); err == nil {
			mended++
		}
		s = open(t, dir, Options{})
		if got, u := len(s.Pins()), s.Usage(); got != 2*n || u.Blocks != n+1 || s.Stats().Recovered {
			t.Errorf("page %d: %d pins, %d blocks; made anew at the start: %v", page, got, u.Blocks, s.Stats().Recovered)
		}
		if fi, err := os.Stat(filepath.Join(dir, "meta.db")); err != nil || fi.Size() > 16<<20 {
			t.Errorf("page %d: the database has %d bytes, %v", page, fi.Size(), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if mended == 0 {
		t.Error("no damage was found while the store was open")
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
	for _, damage := range []string{"", "/repo/flatfs/shard/v1/next-to-last", "/repk/flatfs/shard/v1/next-to-last/2\n", "\x00\x00\x00"} {
		if err := os.WriteFile(filepath.Join(dir, "blocks", "SHARDING"), []byte(damage), 0o644); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir, Options{})
		if _, err := s.Get(t.Context(), c); err != nil {
			t.Errorf("SHARDING %q: %v", damage, err)
		}
		_ = s.Close()
	}
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

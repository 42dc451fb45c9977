package journal

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// rec is a record whose data says which one it is.
func rec(n int) Record { return Record{byte(n%250 + 1), []byte(fmt.Sprint("record ", n))} }

func same(a, b []Record) bool {
	return slices.EqualFunc(a, b, func(x, y Record) bool { return x.Type == y.Type && bytes.Equal(x.Data, y.Data) })
}

func TestRecordsSurvive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j, got, err := Open(dir)
	if err != nil || len(got) != 0 {
		t.Fatal(got, err)
	}
	want := []Record{rec(1), rec(2), {7, []byte{}}, {8, bytes.Repeat([]byte{9}, 1<<20)}}
	if err := j.Append(want[:2]...); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(want[2:]...); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(rec(3)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	j, got, err = Open(dir)
	if err != nil || !same(got, want) || j.Report().String() != "" {
		t.Fatalf("%d records, %v, %q", len(got), err, j.Report())
	}
	if err := j.Compact(want[1:2]); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(rec(4)); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, fileName)); err != nil || st.Size() != j.Size() {
		t.Errorf("size %d, file %v %v", j.Size(), st, err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, got, err = Open(dir); err != nil || !same(got, []Record{rec(2), rec(4)}) {
		t.Fatal(got, err)
	}
}

func TestBounds(t *testing.T) {
	j, _, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	size := j.Size()
	for _, r := range []Record{{0, []byte("x")}, {1, make([]byte, MaxRecord+1)}} {
		if err := j.Append(rec(1), r); err == nil {
			t.Errorf("record of type %d and %d bytes accepted", r.Type, len(r.Data))
		}
		if err := j.Compact([]Record{r}); err == nil {
			t.Errorf("record of type %d and %d bytes compacted", r.Type, len(r.Data))
		}
	}
	if j.Size() != size {
		t.Error("a refused append wrote something")
	}
	if err := j.Append(rec(1)); err != nil {
		t.Errorf("append after a refused one: %v", err)
	}
}

// A script runs appends and compactions on a disk and knows what was acknowledged.
type script struct {
	acked   []Record // what must be found
	pending []Record // what may be found after it
	old     []Record // what may be found instead, while a compaction is under way
}

// run stops at the first error if stop is set; otherwise it goes on as a node would.
func (s *script) run(d *disk, stop bool) error {
	j, got, err := open(d, "dir")
	if err != nil {
		return err
	}
	s.acked = got
	next := 0
	var first error
	for _, step := range []int{1, 2, 0, 3, 1, 0, 2} {
		s.pending, s.old = nil, nil
		if step == 0 {
			live := slices.Clone(s.acked[len(s.acked)/2:])
			s.old = s.acked
			s.pending = live
			err = j.Compact(live)
			if err == nil {
				s.acked = live
			}
		} else {
			for range step {
				next++
				s.pending = append(s.pending, rec(next))
			}
			err = j.Append(s.pending...)
			if err == nil {
				s.acked = append(slices.Clone(s.acked), s.pending...)
			}
		}
		if err != nil {
			first = cmp.Or(first, err)
			if stop || errors.Is(err, ErrFailed) {
				return first
			}
			continue
		}
		s.pending, s.old = nil, nil
	}
	return cmp.Or(first, j.Close())
}

// allowed reports whether got is what may be found after a crash.
func (s *script) allowed(got []Record) bool {
	if s.old != nil { // compaction: all of the old or all of the new
		return same(got, s.old) || same(got, s.pending)
	}
	return len(got) >= len(s.acked) && len(got) <= len(s.acked)+len(s.pending) &&
		same(got, append(slices.Clone(s.acked), s.pending...)[:len(got)])
}

// TestCrashAtEveryByte goes down at every operation, within writes at every byte, and
// looks at every state that the disk may be in afterwards.
func TestCrashAtEveryByte(t *testing.T) {
	states := 0
	for at := 1; ; at++ {
		crashed := false
		for keep := 0; ; keep++ {
			d := newDisk()
			d.failAt, d.crash, d.keep = at, true, keep
			var s script
			err := s.run(d, true)
			if err == nil {
				break
			}
			crashed = true
			if !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			for _, after := range d.outcomes() {
				states++
				j, got, err := open(after, "dir")
				if err != nil {
					t.Fatalf("%s, %d bytes kept: %v", d.failure, keep, err)
				}
				if !s.allowed(got) {
					t.Fatalf("%s, %d bytes kept: found %d records, acknowledged %d, pending %d", d.failure, keep, len(got), len(s.acked), len(s.pending))
				}
				if j.Report().CorruptFile != "" {
					t.Fatalf("%s, %d bytes kept: a torn write was taken for damage", d.failure, keep)
				}
				if err := j.Append(rec(99)); err != nil {
					t.Fatal(err)
				}
				if _, again, err := open(after, "dir"); err != nil || !same(again, append(got, rec(99))) {
					t.Fatalf("%s, %d bytes kept: second open: %v", d.failure, keep, err)
				}
			}
			if !strings.HasPrefix(d.failure, "write") || keep > 200 {
				break
			}
		}
		if !crashed {
			break
		}
	}
	if states < 1000 {
		t.Errorf("only %d states looked at", states)
	}
	t.Logf("%d states", states)
}

// TestEveryOperationFails lets each operation fail once while the machine stays up.
func TestEveryOperationFails(t *testing.T) {
	for at := 1; ; at++ {
		d := newDisk()
		d.failAt, d.keep = at, 5
		var s script
		err := s.run(d, false)
		if d.failure == "" {
			break
		}
		if err != nil && !strings.Contains(err.Error(), "dir/wal") {
			t.Errorf("%s: the error does not name the file: %v", d.failure, err)
		}
		if strings.HasPrefix(d.failure, "write wal") && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", d.failure, err)
		}
		if err == nil && !strings.HasPrefix(d.failure, "close") {
			t.Errorf("%s failed and nobody said so", d.failure)
		}
		for _, after := range append(d.outcomes(), d) {
			j, got, err := open(after, "dir")
			if err != nil {
				t.Fatalf("%s: open: %v", d.failure, err)
			}
			if i := missing(got, s.acked); i >= 0 && !(s.old != nil && same(got, s.pending)) {
				t.Errorf("%s: acknowledged record %d of %d is lost", d.failure, i, len(s.acked))
			}
			if j.Report().CorruptFile != "" {
				t.Errorf("%s: taken for damage", d.failure)
			}
		}
	}
}

// missing returns the first of want that is not in got, in order, or -1.
func missing(got, want []Record) int {
	for i, w := range want {
		k := slices.IndexFunc(got, func(r Record) bool { return r.Type == w.Type && bytes.Equal(r.Data, w.Data) })
		if k < 0 {
			return i
		}
		got = got[k+1:]
	}
	return -1
}

func TestDiskFullThenSpace(t *testing.T) {
	d := newDisk()
	j, _, err := open(d, "dir")
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Append(rec(1)); err != nil {
		t.Fatal(err)
	}
	d.failAt, d.keep = d.ops+1, 70 // more than the next append overwrites
	err = j.Append(rec(2), rec(2), rec(2), rec(2))
	if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "dir/wal") {
		t.Errorf("full disk: %v", err)
	}
	if err := j.Append(rec(3)); err != nil {
		t.Errorf("append once there is space: %v", err)
	}
	j, got, err := open(d, "dir")
	if err != nil || !same(got, []Record{rec(1), rec(3)}) || j.Report().String() != "" {
		t.Error(got, err)
	}
}

func TestFailedSyncStopsTheJournal(t *testing.T) {
	d := newDisk()
	j, _, err := open(d, "dir")
	if err != nil {
		t.Fatal(err)
	}
	d.failAt = d.ops + 2
	if err := j.Append(rec(1)); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Errorf("fsync failed: %v", err)
	}
	if err := j.Append(rec(2)); !errors.Is(err, ErrFailed) {
		t.Errorf("append after a failed fsync: %v", err)
	}
	if err := j.Compact(nil); !errors.Is(err, ErrFailed) {
		t.Errorf("compact after a failed fsync: %v", err)
	}
}

// TestEveryBitFlip damages each bit of the file and expects that nothing is lost silently.
func TestEveryBitFlip(t *testing.T) {
	d := newDisk()
	j, _, err := open(d, "dir")
	if err != nil {
		t.Fatal(err)
	}
	want := []Record{rec(1), rec(2), rec(3), rec(4)}
	if err := j.Append(want...); err != nil {
		t.Fatal(err)
	}
	const path = "dir/" + fileName
	clean := d.current[path].current
	for bit := range 8 * len(clean) {
		e := newDisk()
		bad := bytes.Clone(clean)
		bad[bit/8] ^= 1 << (bit % 8)
		e.current[path] = &inode{bad, bad}
		j, got, err := open(e, "dir")
		if err != nil {
			t.Fatal(err)
		}
		r := j.Report()
		if r.CorruptFile == "" || int(r.CorruptAt) > bit/8 {
			t.Fatalf("bit %d: report %q", bit, r)
		}
		if kept := e.current[r.CorruptFile]; kept == nil || !bytes.Equal(kept.current, bad) {
			t.Fatalf("bit %d: the damaged file was not kept", bit)
		}
		all := append(slices.Clone(got), r.Salvaged...)
		lost := 1
		if bit/8 < len(fileMagic) {
			lost = 0
		}
		if len(all) != len(want)-lost || missing(want, all) >= 0 {
			t.Fatalf("bit %d: %d records before and %d after the damage", bit, len(got), len(r.Salvaged))
		}
		// The new file goes on from what came before the damage.
		if err := j.Append(rec(5)); err != nil {
			t.Fatal(err)
		}
		if j, again, err := open(e, "dir"); err != nil || !same(again, append(slices.Clone(got), rec(5))) || j.Report().String() != "" {
			t.Fatalf("bit %d: second open: %d records, %v", bit, len(again), err)
		}
	}
}

// TestDamageOnFullDisk: the copy of a damaged file cannot be written; nothing must change.
func TestDamageOnFullDisk(t *testing.T) {
	for at := 1; ; at++ {
		d := newDisk()
		b, err := appendRecords(bytes.Clone(fileMagic[:]), 0, []Record{rec(1), rec(2), rec(3)})
		if err != nil {
			t.Fatal(err)
		}
		b[45] ^= 1
		d.current["dir/wal"] = &inode{b, b}
		d.durable["dir/wal"] = d.current["dir/wal"]
		d.failAt, d.keep = at, 3
		_, _, err = open(d, "dir")
		if d.failure == "" {
			break
		}
		held := bytes.Equal(d.current["dir/wal"].current, b)
		for _, name := range d.corrupt() {
			held = held || bytes.Equal(d.current[name].current, b)
		}
		if err == nil || !held {
			t.Errorf("%s failed: error %v, damaged bytes kept: %v", d.failure, err, held)
		}
	}
}

// TestDataThatLooksLikeARecord: bytes that a stranger chose must not become a record.
func TestDataThatLooksLikeARecord(t *testing.T) {
	inner, err := appendRecords(nil, 0, []Record{{66, []byte("forged")}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := appendRecords(bytes.Clone(fileMagic[:]), 0, []Record{{1, bytes.Repeat(inner, 3)}, rec(2)})
	if err != nil {
		t.Fatal(err)
	}
	b[len(fileMagic)] ^= 1
	if s := scan(b); len(s.records) != 0 || !same(s.after, []Record{rec(2)}) {
		t.Errorf("records %v, after the damage %v", s.records, s.after)
	}
}

func TestWriteFileIsAtomic(t *testing.T) {
	old, data := []byte("what was there before"), []byte("what comes after, a bit longer")
	for _, crash := range []bool{false, true} {
		for at := 1; ; at++ {
			d := newDisk()
			if err := writeFile(d, "dir/x", old); err != nil {
				t.Fatal(err)
			}
			d.ops, d.failAt, d.crash, d.keep = 0, at, crash, 4
			err := writeFile(d, "dir/x", data)
			if d.failure == "" {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			if err == nil || !strings.Contains(err.Error(), "dir/x") {
				t.Errorf("%s failed: %v", d.failure, err)
			}
			for _, after := range d.outcomes() {
				i := after.current["dir/x"]
				if i == nil || !bytes.Equal(i.current, old) && !bytes.Equal(i.current, data) {
					t.Errorf("%s failed: the file is neither old nor new", d.failure)
				}
			}
		}
	}
	path := filepath.Join(t.TempDir(), "x")
	for _, b := range [][]byte{old, data, {}} {
		if err := WriteFile(path, b); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, b) {
			t.Error(string(got), err)
		}
	}
	if err := WriteFile(filepath.Join(path, "y"), data); err == nil {
		t.Error("wrote into a file as if it were a directory")
	}
}

// FuzzScan: whatever the file holds, opening it keeps every byte somewhere, and
// the next opening finds the same records and no more to mend.
func FuzzScan(f *testing.F) {
	b, err := appendRecords(bytes.Clone(fileMagic[:]), 0, []Record{rec(1), {3, nil}, rec(2)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-3])
	f.Add(append(bytes.Clone(b), make([]byte, 40)...))
	f.Add(append(bytes.Clone(b[:20]), b[24:]...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		s := scan(b)
		if len(s.records) > 0 {
			again, err := appendRecords(bytes.Clone(fileMagic[:]), 0, s.records)
			if err != nil || !bytes.Equal(again, b[:s.end]) {
				t.Fatalf("records are not canonical: %v", err)
			}
		}
		d := newDisk()
		d.current["dir/wal"] = &inode{b, b}
		j, got, err := open(d, "dir")
		if err != nil || !same(got, s.records) {
			t.Fatal(err)
		}
		if r := j.Report(); s.damaged != (r.CorruptFile != "") || s.damaged && !bytes.Equal(d.current[r.CorruptFile].current, b) {
			t.Fatalf("report %q", r)
		}
		j, again, err := open(d, "dir")
		if err != nil || !same(again, got) || j.Report().String() != "" {
			t.Fatalf("second open: %v %q", err, j.Report())
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	j, _, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 400)
	for b.Loop() {
		if err := j.Append(Record{1, data}); err != nil {
			b.Fatal(err)
		}
	}
}

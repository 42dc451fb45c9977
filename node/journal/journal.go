// Package journal is what a peer must not forget: an append-only log whose
// records are on disk when Append returns, and atomic files for snapshots.
//
// A peer writes what it signed to the journal before it publishes it. After a crash it
// reads the journal, and so never contradicts itself.
//
// # Bytes
//
// One file, "wal", integers little-endian:
//
//	"SHWAL" ‖ 0 ‖ version 1 ‖ 0 ‖ records
//	record: u32 length of type and data
//	        u32 CRC-32C of type and data
//	        u32 CRC-32C of (u64 offset of this record in the file ‖ the 8 bytes above)
//	        u8 type ‖ data
//
// The offset under the third word keeps bytes inside a record's data, which a stranger may
// have chosen, from passing for a record.
//
// # What Open finds
//
//   - A record that is cut short at the end, or zeros up to the end: the torn tail of an
//     append that was never acknowledged. It is cut off; Report counts the bytes.
//   - Anything else that is not a record: damage. The file is kept aside as
//     wal.corrupt-N, and the records before the damage go on in a new file. Readable records
//     after it are in Report.Salvaged: they were acknowledged, so whoever replays the
//     journal heeds them (and appends again what it wants to keep), knowing that
//     something between is missing.
//
// # What Append does when the disk fails
//
// A write that fails (disk full) is undone by cutting the file back, and the journal can
// be used again once there is space. Where cutting back or fsync fails, the kernel may have
// dropped the pages, so what is on disk is unknown: the journal refuses all
// further use, and Open finds out what is there.
//
// One process owns a journal; the data directory's LOCK, elsewhere, sees to it.
package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// MaxRecord bounds the data of one record, in bytes.
const MaxRecord = 16 << 20

// MaxSize bounds the file: an Append that would pass it asks for Compact.
const MaxSize = 1 << 30

// fileName is the log's name in its directory.
const fileName = "wal"

// A Record is one entry. Types belong to whoever writes them; 0 is invalid.
type Record struct {
	Type byte
	Data []byte
}

// ErrFailed is wrapped by every error of a journal that must be opened again,
// because an earlier failure left it unknown what is on disk.
var ErrFailed = errors.New("journal failed and must be opened again")

// ErrClosed is returned after Close.
var ErrClosed = errors.New("journal is closed")

// A Report says what Open had to mend. The zero Report is a clean journal.
type Report struct {
	TornBytes   int64    // cut off the end: an append that was never acknowledged
	CorruptFile string   // the damaged file, kept aside; "" where there was no damage
	CorruptAt   int64    // offset of the first bad byte in it
	Salvaged    []Record // readable records that follow the damage
}

// String describes the report in one line, "" if there is nothing to say.
func (r Report) String() string {
	switch {
	case r.CorruptFile != "":
		return fmt.Sprintf("journal was damaged at byte %d: the file is kept as %s, %d records after the damage could be read", r.CorruptAt, r.CorruptFile, len(r.Salvaged))
	case r.TornBytes > 0:
		return fmt.Sprintf("journal ended in an unfinished append: %d bytes cut off, nothing acknowledged is lost", r.TornBytes)
	}
	return ""
}

// A Journal is an open log. It is safe for concurrent use.
type Journal struct {
	fs     fsys
	path   string
	report Report

	mu     sync.Mutex // guards following
	f      file
	size   int64 // bytes that are durable; the file has no more
	failed error // why nothing may be appended any more
}

// Open opens the journal in dir, which it makes if there is none, and returns its records,
// oldest first. Report says what it had to mend. On an error nothing has been lost: the
// files are as they were.
func Open(dir string) (*Journal, []Record, error) { return open(osFS{}, dir) }

func open(fsy fsys, dir string) (*Journal, []Record, error) {
	j := &Journal{fs: fsy, path: filepath.Join(dir, fileName)}
	records, err := j.load(dir)
	if err != nil {
		if j.f != nil {
			err = errors.Join(err, j.f.Close())
		}
		return nil, nil, fmt.Errorf("open journal %s: %w", j.path, err)
	}
	return j, records, nil
}

// load reads, mends and opens the file.
func (j *Journal) load(dir string) ([]Record, error) {
	if err := j.fs.MkdirAll(dir); err != nil {
		return nil, err
	}
	if err := j.fs.SyncDir(filepath.Dir(filepath.Clean(dir))); err != nil {
		return nil, fmt.Errorf("fsync of the directory above: %w", err)
	}
	if err := j.fs.Remove(j.path + tempSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	b, err := j.fs.ReadFile(j.path, MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, j.replaceLocked(nil)
	}
	if err != nil {
		return nil, err
	}
	s := scan(b)
	if s.damaged {
		name, err := j.keepAside(b)
		if err != nil {
			return nil, fmt.Errorf("damaged at byte %d, and keeping a copy aside failed: %w", s.end, err)
		}
		j.report = Report{CorruptFile: name, CorruptAt: s.end, Salvaged: s.after}
		return s.records, j.replaceLocked(s.records)
	}
	if j.f, err = j.fs.OpenFile(j.path, os.O_RDWR); err != nil {
		return nil, err
	}
	j.size = s.end
	j.report.TornBytes = int64(len(b)) - s.end
	if j.report.TornBytes > 0 {
		if err := j.cutBack(); err != nil {
			return nil, fmt.Errorf("cut off a torn tail: %w", err)
		}
	}
	return s.records, nil
}

// keepAside copies the damaged bytes to a new file and returns its path.
func (j *Journal) keepAside(b []byte) (string, error) {
	for n := 1; n < 10000; n++ {
		path := fmt.Sprintf("%s.corrupt-%d", j.path, n)
		used, err := j.fs.Exists(path)
		if err != nil {
			return "", err
		}
		if !used {
			return path, writeFile(j.fs, path, b)
		}
	}
	return "", errors.New("there are too many wal.corrupt files: move them away")
}

// Report returns what Open had to mend.
func (j *Journal) Report() Report { return j.report }

// Size returns the length of the file in bytes, to judge when to Compact.
func (j *Journal) Size() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size
}

// Append writes the records with one write and one fsync. When it returns nil they
// are on disk, in this order, after all earlier ones. When it returns an error none is
// acknowledged: after a crash, some of them may be found or none.
func (j *Journal) Append(records ...Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	if len(records) == 0 {
		return nil
	}
	b, err := appendRecords(nil, j.size, records)
	if err != nil {
		return fmt.Errorf("append to journal %s: %w", j.path, err)
	}
	if j.size+int64(len(b)) > MaxSize {
		return fmt.Errorf("append to journal %s: it would grow beyond %d bytes: compact it", j.path, int64(MaxSize))
	}
	if _, err := j.f.WriteAt(b, j.size); err != nil {
		err = fmt.Errorf("append to journal %s: %w (nothing acknowledged is lost)", j.path, err)
		if cut := j.cutBack(); cut != nil {
			return j.failLocked(errors.Join(err, cut))
		}
		return err
	}
	if err := j.f.Sync(); err != nil {
		return j.failLocked(fmt.Errorf("append to journal %s: fsync: %w (nothing acknowledged is lost)", j.path, err))
	}
	j.size += int64(len(b))
	return nil
}

// cutBack shortens the file to what is durable.
func (j *Journal) cutBack() error {
	if err := j.f.Truncate(j.size); err != nil {
		return err
	}
	return j.f.Sync()
}

// failLocked makes every later call fail and returns err.
func (j *Journal) failLocked(err error) error {
	j.failed = fmt.Errorf("%w: %w", ErrFailed, err)
	return j.failed
}

// Compact replaces the journal's content by records, atomically: after a crash either the
// old content is found or all of the new. On an error before the replacement the
// journal goes on with the old content.
func (j *Journal) Compact(records []Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	if err := j.replaceLocked(records); err != nil {
		return fmt.Errorf("compact journal %s: %w", j.path, err)
	}
	return nil
}

// replaceLocked writes records to a new file, puts it in the old one's place, and opens it.
func (j *Journal) replaceLocked(records []Record) error {
	b, err := appendRecords(fileMagic[:len(fileMagic):len(fileMagic)], 0, records)
	if err != nil {
		return err
	}
	if len(b) > MaxSize {
		return fmt.Errorf("%d bytes of records are over the limit of %d", len(b), int64(MaxSize))
	}
	f, err := writeTemp(j.fs, j.path, b)
	if err != nil {
		return err
	}
	if err := j.fs.Rename(j.path+tempSuffix, j.path); err != nil {
		return errors.Join(err, f.Close(), j.fs.Remove(j.path+tempSuffix))
	}
	old := j.f
	j.f, j.size = f, int64(len(b))
	// From here on the name may mean either file after a crash, until the directory is synced.
	if err := j.fs.SyncDir(filepath.Dir(j.path)); err != nil {
		err = j.failLocked(fmt.Errorf("fsync of directory %s: %w", filepath.Dir(j.path), err))
		if old != nil {
			err = errors.Join(err, old.Close())
		}
		return err
	}
	if old != nil {
		_ = old.Close() // nothing of it is needed: its name is gone and its content replaced
	}
	return nil
}

// Close closes the file. Everything acknowledged is on disk already.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f == nil {
		return nil
	}
	err := j.f.Close()
	j.f = nil
	j.failed = ErrClosed
	return err
}

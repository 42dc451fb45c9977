package node

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/journal"
	"github.com/shoalnet/shoal/p2p/wire"
)

// replaceFile writes a file whole or not at all: a temporary file next to it,
// fsync, rename, fsync of the directory. A crash leaves the old or the new.
func replaceFile(path string, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".tmp*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// removeTemps deletes what a crash in replaceFile left behind.
func removeTemps(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.tmp*"))
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := os.Remove(n); err != nil {
			return err
		}
	}
	return nil
}

// A container file is what the inner phase and the feedback are saved in:
//
//	8 bytes    magic "shoal-" and a letter, version
//	4 bytes    length of the head, little-endian
//	n bytes    head, canonical DAG-CBOR
//	the rest   body, then 32 bytes: sha2-256 of all before
const maxHead = 1 << 20

var errCorrupt = errors.New("file is damaged")

// writeContainer replaces path with a container file.
func writeContainer(path, magic string, head any, body func(io.Writer) error) error {
	h, err := wire.Marshal(head)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return replaceFile(path, func(f io.Writer) error {
		sum := sha256.New()
		w := io.MultiWriter(f, sum)
		top := binary.LittleEndian.AppendUint32([]byte(magic), uint32(len(h)))
		if _, err := w.Write(append(top, h...)); err != nil {
			return err
		}
		if err := body(w); err != nil {
			return err
		}
		_, err := f.Write(sum.Sum(nil))
		return err
	})
}

// readContainer checks a container file whole, decodes its head and hands the
// body on. A missing file is fs.ErrNotExist, a damaged one errCorrupt.
func readContainer(path, magic string, head any, body func(io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	end := info.Size() - sha256.Size
	if end < int64(len(magic))+4 {
		return fmt.Errorf("read %s: %w: it has %d bytes", path, errCorrupt, info.Size())
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, f, end); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	var want [sha256.Size]byte
	if _, err := io.ReadFull(f, want[:]); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if [sha256.Size]byte(sum.Sum(nil)) != want {
		return fmt.Errorf("read %s: %w: its checksum is wrong", path, errCorrupt)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	top := make([]byte, len(magic)+4)
	if _, err := io.ReadFull(f, top); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	n := int64(binary.LittleEndian.Uint32(top[len(magic):]))
	rest := end - int64(len(top))
	if string(top[:len(magic)]) != magic || n > maxHead || n > rest {
		return fmt.Errorf("read %s: %w: it is not %q", path, errCorrupt, magic)
	}
	h := make([]byte, n)
	if _, err := io.ReadFull(f, h); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := wire.Unmarshal(h, head); err != nil {
		return fmt.Errorf("read %s: %w: %w", path, errCorrupt, err)
	}
	if err := body(io.LimitReader(f, rest-n)); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// Names of the files below Options.Dir.
const (
	innerDir     = "inner"
	phaseFile    = "phase"    // the inner phase: phaseHead, then the trainer's own bytes
	feedbackFile = "feedback" // feedbackHead, then the residual
	journalDir   = "journal"
	historyFile  = "history.jsonl"

	phaseMagic    = "shoal-p1"
	feedbackMagic = "shoal-f1"
)

// notThere reports that a file does not exist.
func notThere(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// EvidenceFile is where a node that runs in dir keeps the two messages by which
// a peer has contradicted itself: the JSON of a diloco.Evidence, with which
// anybody can have it slashed.
func EvidenceFile(dir string, p wire.PeerID) string {
	return filepath.Join(dir, "evidence", p.String()+".json")
}

// keepEvidence writes the file. What convicted a peer first is kept.
func keepEvidence(dir string, e diloco.Convicted) error {
	name := EvidenceFile(dir, e.Peer)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	b, err := json.MarshalIndent(e.Evidence, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	return journal.WriteFile(name, append(b, '\n'))
}

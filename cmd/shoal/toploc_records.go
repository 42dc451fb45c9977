package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// A recordReader reads base64 records, one a line.
type recordReader struct {
	name string
	in   *bufio.Reader
	size int // of a record in bytes; 0 is any
	read int
}

// recordError reports a line that is no record.
type recordError struct{ error }

// newRecordReader reads records of a size or, where that is 0, of any up to most;
// of a longer line it holds no more than a part.
func newRecordReader(name string, in io.Reader, size, most int) *recordReader {
	return &recordReader{name: name, in: bufio.NewReaderSize(in, max(1<<16, 4+base64.StdEncoding.EncodedLen(max(size, most)))), size: size}
}

// drain counts the records that are left.
func (r *recordReader) drain() error {
	for {
		_, err := r.next()
		var bad recordError
		if err == io.EOF {
			return nil
		} else if err != nil && !errors.As(err, &bad) {
			return err
		}
	}
}

// next returns the next record's bytes, a recordError, or io.EOF.
func (r *recordReader) next() ([]byte, error) {
	line, err := r.in.ReadSlice('\n')
	if err == io.EOF && len(line) == 0 {
		return nil, io.EOF
	}
	long := false
	for errors.Is(err, bufio.ErrBufferFull) {
		long, line = true, nil
		_, err = r.in.ReadSlice('\n')
	}
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("%s: %w", r.name, err)
	}
	r.read++
	fail := func(err error) ([]byte, error) {
		return nil, recordError{fmt.Errorf("%s: line %d: %w", r.name, r.read, err)}
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
	if want := base64.StdEncoding.EncodedLen(r.size); r.size > 0 && !long && len(text) != want {
		return fail(fmt.Errorf("%d base64 characters, want %d", len(text), want))
	}
	if long {
		return fail(errors.New("the line is too long for a record"))
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return fail(err)
	}
	if r.size > 0 && len(b) != r.size {
		return fail(fmt.Errorf("%d bytes, want %d", len(b), r.size))
	}
	return b, nil
}

// A toplocLedger remembers the records of accepted submissions by their hash, one
// in hex a line.
type toplocLedger struct {
	name string
	old  map[[32]byte]struct{}
	new  [][32]byte
}

func openLedger(name string) (*toplocLedger, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return readLedger(name, strings.NewReader(""))
	} else if err != nil {
		return nil, fmt.Errorf("--seen: %w", err)
	}
	defer f.Close()
	return readLedger(name, f)
}

func readLedger(name string, in io.Reader) (*toplocLedger, error) {
	l := &toplocLedger{name: name, old: map[[32]byte]struct{}{}}
	s := bufio.NewScanner(in)
	for n := 1; s.Scan(); n++ {
		var id [32]byte
		if b, err := hex.DecodeString(s.Text()); err != nil || len(b) != len(id) {
			return nil, fmt.Errorf("--seen: %s: line %d is no SHA-256 in hex", name, n)
		} else {
			copy(id[:], b)
		}
		l.old[id] = struct{}{}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("--seen: %s: %w", name, err)
	}
	return l, nil
}

func (l *toplocLedger) seen(record []byte) bool {
	id := sha256.Sum256(record)
	if _, ok := l.old[id]; ok {
		return true
	}
	l.old[id] = struct{}{}
	l.new = append(l.new, id)
	return false
}

// save appends what is new.
func (l *toplocLedger) save() (err error) {
	if len(l.new) == 0 {
		return nil
	}
	f, err := os.OpenFile(l.name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("--seen: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var b strings.Builder
	for _, id := range l.new {
		b.WriteString(hex.EncodeToString(id[:]) + "\n")
	}
	_, err = f.WriteString(b.String())
	return err
}

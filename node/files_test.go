package node

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
)

func TestContainerSurvivesAndShowsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "phase")
	head := phaseHead{Run: wire.SumCID(wire.CodecDagCBOR, []byte("run")), Round: 3, Step: 7, LossSum: 1.5}
	body := bytes.Repeat([]byte("moments "), 1000)
	write := func(w io.Writer) error { _, err := w.Write(body); return err }
	if err := writeContainer(path, phaseMagic, &head, write); err != nil {
		t.Fatal(err)
	}
	// A write that fails half way leaves the old file and no other.
	fail := errors.New("no space")
	err := writeContainer(path, phaseMagic, &phaseHead{}, func(w io.Writer) error {
		w.Write(body[:100])
		return fail
	})
	if !errors.Is(err, fail) {
		t.Fatalf("failed write: %v", err)
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 1 {
		t.Errorf("a failed write left %v", names)
	}
	var got phaseHead
	read := func() error {
		got = phaseHead{}
		return readContainer(path, phaseMagic, &got, func(r io.Reader) error {
			b, err := io.ReadAll(r)
			if err == nil && !bytes.Equal(b, body) {
				err = errors.New("body differs")
			}
			return err
		})
	}
	if err := read(); err != nil || got != head {
		t.Fatalf("read %+v, %v", got, err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 9, 12, 40, len(good) / 2, len(good) - 1} {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := read(); !errors.Is(err, errCorrupt) {
			t.Errorf("byte %d flipped: %v", at, err)
		}
	}
	for _, n := range []int{0, 5, 11, 44, len(good) - 1} {
		if err := os.WriteFile(path, good[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := read(); !errors.Is(err, errCorrupt) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := read(); !notThere(err) {
		t.Errorf("missing file: %v", err)
	}
}

func FuzzReadContainer(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed")
	if err := writeContainer(path, phaseMagic, &phaseHead{Round: 1}, func(w io.Writer) error { return nil }); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		var head phaseHead
		if err := readContainer(path, phaseMagic, &head, func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }); err != nil && !errors.Is(err, errCorrupt) {
			t.Fatal(err)
		}
	})
}

func TestHistoryEndsACutLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), historyFile)
	h, err := openHistory(path, testLogger())
	if err != nil {
		t.Fatal(err)
	}
	for r := uint64(1); r <= 3; r++ {
		if err := h.append(Record{Round: r, Total: 10 * r}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b[:len(b)-5], 0o600); err != nil { // kill -9 within a write
		t.Fatal(err)
	}
	if h, err = openHistory(path, testLogger()); err != nil || h.last.Round != 2 {
		t.Fatalf("last %+v, %v", h.last, err)
	}
	if err := h.append(Record{Round: 4}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	recs, err := ReadHistory(f)
	if err != nil || len(recs) != 3 || recs[2].Round != 4 {
		t.Errorf("%d records, %v", len(recs), err)
	}
	if _, err := ReadHistory(strings.NewReader("{\"round\":1}\nrubbish\n{\"round\":2}\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("damage in the middle: %v", err)
	}
}

func TestChronicleWritesARecordOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), historyFile)
	h, err := openHistory(path, testLogger())
	if err != nil {
		t.Fatal(err)
	}
	state := func(s string) wire.CID { return wire.SumCID(wire.CodecRaw, []byte(s)) }
	c := &chronicle{file: h}
	c.adopted(Record{Round: 1, State: state("1")}, true)
	c.adopted(Record{Round: 2, State: state("2")}, true) // 1 never got its loss
	c.evaluated(state("1"), 9)                           // too late
	c.evaluated(state("2"), 3)
	c.evaluated(state("2"), 4)
	c.adopted(Record{Round: 3, State: state("3")}, false)
	c.flush()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	recs, err := ReadHistory(f)
	if err != nil || len(recs) != 3 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	if recs[0].ValLoss != nil || recs[2].ValLoss != nil || recs[1].ValLoss == nil || *recs[1].ValLoss != 3 {
		t.Errorf("losses %v %v %v", recs[0].ValLoss, recs[1].ValLoss, recs[2].ValLoss)
	}
}

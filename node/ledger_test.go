package node

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/journal"
	"github.com/shoalnet/shoal/p2p/wire"
)

// failing is a journal whose disk can be full.
type failing struct {
	journalFile
	full *bool
	once *error // returned by one Append
}

func (f failing) Append(r ...journal.Record) error {
	if *f.full {
		return errFull
	}
	if err := *f.once; err != nil {
		*f.once = nil
		return err
	}
	return f.journalFile.Append(r...)
}

func openerOf(dir string, full *bool, once *error) func() (journalFile, []journal.Record, error) {
	return func() (journalFile, []journal.Record, error) {
		j, recs, err := journal.Open(filepath.Join(dir, journalDir))
		if err != nil {
			return nil, nil, err
		}
		return failing{j, full, once}, recs, nil
	}
}

func attest(t *testing.T, k *wire.Key, run wire.CID, round uint64) wire.Signed {
	t.Helper()
	body, err := wire.Marshal(&diloco.Attest{Head: run, Round: round, Source: run})
	if err != nil {
		t.Fatal(err)
	}
	return k.Sign(wire.KindAttest, run, body)
}

func TestLedgerRemembersWhatWasSaid(t *testing.T) {
	var (
		dir  = t.TempDir()
		full bool
		once error
		run  = wire.SumCID(wire.CodecDagCBOR, []byte("run"))
		log  = slog.New(slog.DiscardHandler)
		key  = testKey(t, 1)
	)
	open := func() *ledger {
		l, err := openLedger(openerOf(dir, &full, &once), run, 8, log)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	for r := uint64(1); r <= 5; r++ {
		if err := l.said(attest(t, key, run, r)); err != nil {
			t.Fatal(err)
		}
	}
	full = true
	if err := l.said(attest(t, key, run, 6)); !errors.Is(err, errFull) || len(l.own) != 5 {
		t.Fatalf("full disk: %v, %d own messages", err, len(l.own))
	}
	full = false
	once = journal.ErrFailed // the journal must be opened again
	if err := l.said(attest(t, key, run, 6)); !errors.Is(err, journal.ErrFailed) {
		t.Fatalf("failed journal: %v", err)
	}
	if err := l.said(attest(t, key, run, 6)); err != nil {
		t.Fatalf("after opening again: %v", err)
	}
	if err := l.adopted(run, 5, 4); err != nil {
		t.Fatal(err)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}

	rounds := func(l *ledger) (out []uint64) {
		for _, m := range l.messages() {
			out = append(out, roundOf(&m, 8))
		}
		return out
	}
	l = open()
	if l.last.Head != run || l.last.Keep != 4 || !slices.Equal(rounds(l), []uint64{4, 5, 6}) {
		t.Fatalf("read back %+v, own rounds %v", l.last, rounds(l))
	}
	other := wire.SumCID(wire.CodecDagCBOR, []byte("final"))
	if err := l.finalized(other); err != nil {
		t.Fatal(err)
	}
	// However far Keep moves on, the latest Attest stays.
	if err := l.adopted(run, 20, 19); err != nil {
		t.Fatal(err)
	}
	if err := l.compact(); err != nil {
		t.Fatal(err)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	l = open()
	if l.last.Round != 20 || l.last.Final != other || !slices.Equal(rounds(l), []uint64{6}) {
		t.Fatalf("after compaction: %+v, own rounds %v", l.last, rounds(l))
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := openLedger(openerOf(dir, &full, &once), wire.SumCID(wire.CodecDagCBOR, []byte("other")), 8, log); err == nil || !strings.Contains(err.Error(), "another run") {
		t.Errorf("directory of another run: %v", err)
	}
}

// What convicts a peer lies in a file that others can read, and stays the first.
func TestEvidenceFile(t *testing.T) {
	dir, key := t.TempDir(), testKey(t, 1)
	run := wire.SumCID(wire.CodecDagCBOR, []byte("run"))
	e := diloco.Convicted{Peer: key.Peer(), Evidence: diloco.Evidence{A: attest(t, key, run, 1), B: attest(t, key, run, 2)}}
	for _, round := range []uint64{2, 3} {
		e.Evidence.B = attest(t, key, run, round)
		if err := keepEvidence(dir, e); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(EvidenceFile(dir, key.Peer()))
	if err != nil {
		t.Fatal(err)
	}
	var got diloco.Evidence
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	first := attest(t, key, run, 2)
	if got.A.ID() != e.Evidence.A.ID() || got.B.ID() != first.ID() || got.A.Verify() != nil || got.B.Verify() != nil {
		t.Errorf("read back %+v", got)
	}
}

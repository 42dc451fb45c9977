package node

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/journal"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Types of the journal's records.
const (
	recSaid      byte = 1 // a wire.Signed of this peer
	recAdopted   byte = 2 // an adoption
	recConvicted byte = 3 // a diloco.Evidence
	recDamaged   byte = 4 // never written: records that were here are lost
)

// adoption is the record of a new head.
type adoption struct {
	Run   wire.CID `cbor:"run"`
	Head  wire.CID `cbor:"head"`
	Round uint64   `cbor:"round"`
	Keep  uint64   `cbor:"keep"`  // the round of the oldest commit that Restore wants
	Final wire.CID `cbor:"final"` // the last that was found final, undefined before the first
}

// journalFile is what a ledger asks of a journal.Journal; tests make it fail.
type journalFile interface {
	Append(...journal.Record) error
	Compact([]journal.Record) error
	Size() int64
	Close() error
}

// ledger is the journal with a meaning: what this peer said and where it stands.
type ledger struct {
	open func() (journalFile, []journal.Record, error)
	file journalFile
	run  wire.CID
	log  *slog.Logger

	forgot bool   // something may have been said that is not in own
	memory uint64 // for how many rounds after the work a verdict of this peer matters

	own      []wire.Signed // since last.Keep, and the latest Attest
	last     adoption      // Head is undefined before the first
	evidence []diloco.Evidence
	floor    int64 // size after the last compaction
}

// compactAt is the size at which a journal is first rewritten; after that, at
// twice what the rewriting left.
const compactAt = 4 << 20

// maxEvidence bounds the convictions kept.
const maxEvidence = 256

func openLedger(open func() (journalFile, []journal.Record, error), run wire.CID, memory uint64, log *slog.Logger) (*ledger, error) {
	l := &ledger{open: open, run: run, memory: memory, log: log}
	file, records, err := open()
	if err != nil {
		return nil, err
	}
	l.file = file
	for i, r := range records {
		if err := l.read(r); err != nil {
			return nil, errors.Join(fmt.Errorf("journal record %d: %w", i, err), file.Close())
		}
	}
	l.forgot = l.forgot || len(records) == 0
	l.prune()
	return l, nil
}

func (l *ledger) read(r journal.Record) error {
	switch r.Type {
	case recSaid:
		m, err := wire.Decode(r.Data)
		if err != nil {
			return err
		}
		if m.Run != l.run {
			return fmt.Errorf("it is about the run %s, not %s: the directory belongs to another run", m.Run, l.run)
		}
		l.own = append(l.own, *m)
	case recAdopted:
		var a adoption
		if err := wire.Unmarshal(r.Data, &a); err != nil {
			return err
		}
		if a.Run != l.run {
			return fmt.Errorf("it is about the run %s, not %s: the directory belongs to another run", a.Run, l.run)
		}
		l.last = a
	case recConvicted:
		var e diloco.Evidence
		if err := wire.Unmarshal(r.Data, &e); err != nil {
			return err
		}
		l.evidence = append(l.evidence, e)
	case recDamaged:
		l.forgot = true
	default:
		return fmt.Errorf("type %d is unknown: the journal is of a later version", r.Type)
	}
	return nil
}

// append writes records durably. A journal that failed for good is opened
// again: what it acknowledged is there, and a repeated record changes nothing.
func (l *ledger) append(recs ...journal.Record) error {
	if l.file == nil {
		file, _, err := l.open()
		if err != nil {
			return err
		}
		l.file = file
	}
	err := l.file.Append(recs...)
	if errors.Is(err, journal.ErrFailed) {
		l.file.Close() // it has nothing more to lose
		l.file = nil
	}
	return err
}

func (l *ledger) said(m wire.Signed) error {
	data, err := m.Encode()
	if err != nil {
		return err
	}
	if err := l.append(journal.Record{Type: recSaid, Data: data}); err != nil {
		return err
	}
	l.own = append(l.own, m)
	return nil
}

func (l *ledger) adopted(head wire.CID, round, keep uint64) error {
	if err := l.stand(adoption{l.run, head, round, keep, l.last.Final}); err != nil {
		return err
	}
	l.prune()
	if l.file.Size() > max(compactAt, 2*l.floor) {
		return l.compact()
	}
	return nil
}

// finalized notes what is final, so that a peer which is alone after a restart
// still knows.
func (l *ledger) finalized(c wire.CID) error {
	a := l.last
	if a.Final == c || !a.Head.Defined() {
		return nil
	}
	a.Final = c
	return l.stand(a)
}

// stand records where this peer stands.
func (l *ledger) stand(a adoption) error {
	data, err := wire.Marshal(&a)
	if err != nil {
		return err
	}
	if err := l.append(journal.Record{Type: recAdopted, Data: data}); err != nil {
		return err
	}
	l.last = a
	return nil
}

func (l *ledger) convicted(e diloco.Convicted) error {
	if len(l.evidence) >= maxEvidence {
		return nil
	}
	data, err := wire.Marshal(&e.Evidence)
	if err != nil {
		return err
	}
	if err := l.append(journal.Record{Type: recConvicted, Data: data}); err != nil {
		return err
	}
	l.evidence = append(l.evidence, e.Evidence)
	return nil
}

// prune forgets, in memory, own messages that Restore will not ask for. The
// latest Attest and the latest Join stay, however old.
func (l *ledger) prune() {
	latest := map[wire.Kind]int{}
	for i := range l.own {
		latest[l.own[i].Kind] = i
	}
	kept := make([]wire.Signed, 0, len(l.own))
	for i := range l.own {
		k := l.own[i].Kind
		last := latest[k] == i && (k == wire.KindAttest || k == wire.KindJoin)
		if last || roundOf(&l.own[i], l.memory) >= l.last.Keep {
			kept = append(kept, l.own[i])
		}
	}
	l.own = kept
}

// compact rewrites the journal with what is still of use.
func (l *ledger) compact() error {
	var recs []journal.Record
	for i := range l.own {
		data, err := l.own[i].Encode()
		if err != nil {
			return err
		}
		recs = append(recs, journal.Record{Type: recSaid, Data: data})
	}
	a, err := wire.Marshal(&l.last)
	if err != nil {
		return err
	}
	recs = append(recs, journal.Record{Type: recAdopted, Data: a})
	for i := range l.evidence {
		data, err := wire.Marshal(&l.evidence[i])
		if err != nil {
			return err
		}
		recs = append(recs, journal.Record{Type: recConvicted, Data: data})
	}
	if err := l.file.Compact(recs); err != nil {
		// Everything is in the old file still; rewriting only saves space.
		l.log.Warn("compact the journal", "err", err)
		if errors.Is(err, journal.ErrFailed) {
			l.file.Close()
			l.file = nil
		}
		return nil
	}
	l.floor = l.file.Size()
	return nil
}

func (l *ledger) close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// messages returns own messages for Restore, in the order they were signed.
func (l *ledger) messages() []wire.Signed { return slices.Clone(l.own) }

// roundOf returns the last round that a message matters for, which for a verdict
// is memory rounds after the work; the highest there is where the body tells none.
func roundOf(m *wire.Signed, memory uint64) uint64 {
	round := ^uint64(0)
	switch m.Kind {
	case wire.KindJoin:
		var b diloco.Join
		if wire.Unmarshal(m.Body, &b) == nil {
			round = b.Round
		}
	case wire.KindDelta:
		var b diloco.Delta
		if wire.Unmarshal(m.Body, &b) == nil {
			round = b.Round
		}
	case wire.KindVote:
		var b diloco.Vote
		if wire.Unmarshal(m.Body, &b) == nil {
			round = b.Round
		}
	case wire.KindAttest:
		var b diloco.Attest
		if wire.Unmarshal(m.Body, &b) == nil {
			round = b.Round
		}
	case wire.KindVerdict:
		var b diloco.Verdict
		if wire.Unmarshal(m.Body, &b) == nil {
			round = b.Round + memory
		}
	}
	return round
}

package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// phaseHead is where an inner phase stands. Step counts those done; the
// weights and moments after them are the body of the phase file, in the
// trainer's own format.
type phaseHead struct {
	Run     wire.CID `cbor:"run"`
	Round   uint64   `cbor:"round"`
	State   wire.CID `cbor:"state"`
	Step    uint64   `cbor:"step"`
	LossSum float64  `cbor:"lossSum"` // over the steps done
	Tokens  uint64   `cbor:"tokens"`  // in them
	Total   uint64   `cbor:"total"`   // tokens of all rounds
	Compute uint64   `cbor:"compute"` // nanoseconds of the steps done
	Trained bool     `cbor:"trained"` // the phase has ended; only moments and Total are of use

	Trace     *phaseTrace `cbor:"trace,omitempty"`     // where the run audits
	AtSegment bool        `cbor:"atSegment,omitempty"` // the body is empty: it is the end of Trace's last segment
}

// open makes the trainer, and brings it to where the phase file says.
func (t *trainer) open(ctx context.Context, start *State) error {
	live, err := t.engine.NewTrainer(start.Params)
	if err != nil {
		return fmt.Errorf("make a trainer: %w", err)
	}
	var head phaseHead
	err = readContainer(t.path(), phaseMagic, &head, func(r io.Reader) error {
		if head.Run != t.run {
			return fmt.Errorf("%w: it is of the run %s", errCorrupt, head.Run)
		}
		body, end, err := t.phaseBody(ctx, &head, r)
		if err != nil || end {
			return err
		}
		if err := live.Load(body); err != nil {
			return fmt.Errorf("%w: %w", errCorrupt, err)
		}
		return nil
	})
	switch {
	case err == nil:
		t.at = head
		t.at.AtSegment = false
	case notThere(err):
		t.at = phaseHead{Run: t.run}
	case errors.Is(err, errCorrupt):
		// The moments are rebuilt in some tens of steps; agreement never depends on them.
		t.log.Warn("the saved inner phase is of no use, the phase starts anew", "err", err, "kept", t.path()+".bad")
		closeErr := live.Close()
		if err := os.Rename(t.path(), t.path()+".bad"); err != nil {
			return errors.Join(fmt.Errorf("put the damaged phase aside: %w", err), closeErr)
		}
		if live, err = t.engine.NewTrainer(start.Params); err != nil {
			return fmt.Errorf("make a trainer: %w", err)
		}
		t.at = phaseHead{Run: t.run}
	default:
		return errors.Join(err, live.Close())
	}
	t.live, t.saved = live, time.Now()
	return nil
}

// phaseBody returns what the trainer saved: the rest of the file, or, where a
// segment for audits ends there, the block that it is kept in anyway. end says
// that nobody needs it: the phase is over, and its trace has the moments.
func (t *trainer) phaseBody(ctx context.Context, head *phaseHead, r io.Reader) (body io.Reader, end bool, err error) {
	if !head.AtSegment {
		return bufio.NewReaderSize(r, 1<<20), false, nil
	}
	if head.Trained {
		return nil, true, nil
	}
	if head.Trace == nil || len(head.Trace.Segments) == 0 {
		return nil, false, fmt.Errorf("%w: it names no segment", errCorrupt)
	}
	b, err := t.blocks.GetFile(ctx, head.Trace.Segments[len(head.Trace.Segments)-1].End, maxSnapshot(t.model.Params()))
	if err != nil {
		return nil, false, fmt.Errorf("%w: the end of a segment: %w", errCorrupt, err)
	}
	return bytes.NewReader(b), false, nil
}

// snapshot writes the phase file.
func (t *trainer) snapshot(ctx context.Context) error {
	if err := t.traceStored(ctx); err != nil {
		return err
	}
	began := time.Now()
	err := writeContainer(t.path(), phaseMagic, &t.at, func(w io.Writer) error {
		out := bufio.NewWriterSize(w, 1<<20)
		if err := t.live.Save(out); err != nil {
			return err
		}
		return out.Flush()
	})
	if err != nil {
		return fmt.Errorf("save the inner phase: %w", err)
	}
	t.saved, t.saveCost = time.Now(), time.Since(began)
	return nil
}

// close gives the trainer's memory back. The next phase makes a new one from
// the last snapshot.
func (t *trainer) close() {
	t.trace.settle()
	if t.live == nil {
		return
	}
	if err := t.live.Close(); err != nil {
		t.log.Warn("close the trainer", "err", err)
	}
	t.live = nil
}

// forget drops the saved phase, whose moments are not to be used again.
func (t *trainer) forget() {
	if err := os.Remove(t.path()); err != nil && !notThere(err) {
		t.log.Warn("remove the saved phase", "err", err)
	}
	t.at = phaseHead{Run: t.run, Total: t.at.Total}
}

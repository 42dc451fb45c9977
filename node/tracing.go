package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// tracer keeps the audit material of the trainer's inner phases: a run that
// audits nobody has none. It belongs to the trainer's goroutine, except that a
// snapshot is stored apart, so that training goes on meanwhile: one at a time, so
// that at most one more than the live trainer is in memory.
type tracer struct {
	run    wire.CID
	self   wire.PeerID
	every  uint64 // steps of a segment
	reach  uint64 // see latestDelta
	engine string
	blocks Blocks
	keeper *keeper
	meter  *meter
	log    *slog.Logger

	prover  audit.Prover
	buf     bytes.Buffer // of the snapshot that is being stored
	work    sync.WaitGroup
	storing chan wire.CID      // its CID, once it is stored; nil where none is
	moments wire.CID           // the trace whose end's moments live holds; undefined: of an unfinished phase, or unknown
	mark    *phaseHead         // where the segment that is being stored has ended; nil once it is in the phase file
	fresh   bool               // the next phase starts with fresh moments: the last ones were spoilt
	encoded func(*audit.Trace) // tests spoil traces
}

// traced is what is kept in mind of one own trace, for as long as it may be
// asked for.
type traced struct {
	Round   uint64   `cbor:"round"`
	Payload wire.CID `cbor:"payload"`
	Trace   wire.CID `cbor:"trace"`
	End     wire.CID `cbor:"end"`  // the last snapshot
	Rest    wire.CID `cbor:"rest"` // what the payload left out; undefined is nothing
	Slot    int      `cbor:"slot"`
	Slots   int      `cbor:"slots"`
	Base    uint64   `cbor:"base"`
}

// maxTraced bounds the own traces that are remembered.
const maxTraced = 64

// maxSnapshot bounds what a trainer of n parameters saves, in bytes.
func maxSnapshot(n int) int64 { return 16*int64(n) + 1<<20 }

// seat says where a phase's data and moments come from.
type seat struct {
	Slot   int      `cbor:"slot"`
	Slots  int      `cbor:"slots"`
	Base   uint64   `cbor:"base"`
	Before wire.CID `cbor:"before"`
	Owed   wire.CID `cbor:"owed"`
}

func seatOf(job *diloco.Train) seat { return seat{Slot: job.Slot, Slots: job.Slots, Base: job.Base} }

// same reports whether the data is the same.
func (s seat) same(o seat) bool { return s.Slot == o.Slot && s.Slots == o.Slots && s.Base == o.Base }

// A phaseTrace is the trace of a phase so far, in the phase file.
type phaseTrace struct {
	Seat     seat            `cbor:"seat"`
	Segments []audit.Segment `cbor:"segments"`
	Proofs   []byte          `cbor:"proofs"` // of the segment under way
}

// latestDelta returns the delta of the highest round that p has in the commit or
// the reach-1 commits below it, nil where it has none: what a trace's Before
// must name.
func latestDelta(get func(wire.CID) (*diloco.Commit, error), at wire.CID, p wire.PeerID, reach uint64) (*diloco.Message, error) {
	var best *diloco.Message
	for ; reach > 0 && at.Defined(); reach-- {
		c, err := get(at)
		if err != nil {
			return nil, err
		}
		for i := range c.Deltas {
			if c.Deltas[i].From != p {
				continue
			}
			m, err := diloco.Open(&c.Deltas[i])
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrBadContent, err)
			}
			if best == nil || m.Body.(*diloco.Delta).Round > best.Body.(*diloco.Delta).Round {
				best = m
			}
		}
		at = c.Parent
	}
	return best, nil
}

// localCommits reads commits of the chain from the store.
func localCommits(ctx context.Context, b Blocks) func(wire.CID) (*diloco.Commit, error) {
	return func(c wire.CID) (*diloco.Commit, error) {
		block, err := b.Get(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("commit %s: %w", c, err)
		}
		return diloco.DecodeCommit(block)
	}
}

// begin makes live hold the moments that a phase must start with, and returns
// where it starts from. The caller sets the weights.
func (t *trainer) beginTrace(ctx context.Context, start *State, job *diloco.Train) (seat, error) {
	s, tr := seatOf(job), t.trace
	held := tr.moments
	tr.settle()
	var from *traced
	last, err := latestDelta(localCommits(ctx, t.blocks), job.Head, t.self, tr.reach)
	if err != nil {
		tr.log.Info("the phase starts with fresh moments: what came before it is not known", "err", err)
	} else if last != nil && !tr.fresh {
		d := last.Body.(*diloco.Delta)
		if i := slices.IndexFunc(t.debts.traces, func(x traced) bool { return x.Trace == d.Trace }); i >= 0 {
			from = &t.debts.traces[i]
		}
	}
	if from != nil && held != from.Trace {
		saved, err := t.blocks.GetFile(ctx, from.End, maxSnapshot(t.model.Params()))
		if err == nil {
			err = t.live.Load(bytes.NewReader(saved))
		}
		if err != nil {
			tr.log.Warn("the phase starts with fresh moments", "err", err)
			from = nil
		}
	}
	if from == nil {
		t.close()
		if t.live, err = t.engine.NewTrainer(start.Params); err != nil {
			return s, fmt.Errorf("make a trainer: %w", err)
		}
	} else {
		s.Before, s.Owed = from.Trace, from.Rest
	}
	tr.fresh = false
	return s, nil
}

// step notes the proof of a step just done, and at the end of a segment its
// snapshot.
func (t *trainer) traceStep(ctx context.Context) error {
	rows, width := t.live.Hidden()
	if rows == nil {
		return fmt.Errorf("prove a step: %w", ErrEngineLost)
	}
	var err error
	if t.at.Trace.Proofs, err = t.trace.prover.Append(t.at.Trace.Proofs, rows, width); err != nil {
		return fmt.Errorf("prove a step: %w", err)
	}
	if t.at.Step%t.trace.every == 0 {
		return t.traceSegment(ctx)
	}
	return nil
}

// traceSegment ends the segment under way, if there is one.
func (t *trainer) traceSegment(ctx context.Context) error {
	at, tr := t.at.Trace, t.trace
	if len(at.Proofs) == 0 {
		return nil
	}
	if err := t.traceStored(ctx); err != nil {
		return err
	}
	tr.buf.Reset()
	tr.buf.Grow(12*t.model.Params() + 4096) // about what it will be, and not by doubling
	if err := t.live.Save(&tr.buf); err != nil {
		return fmt.Errorf("snapshot for audits: %w", err)
	}
	at.Segments = append(at.Segments, audit.Segment{Proofs: at.Proofs})
	at.Proofs = nil
	mark := t.at
	tr.mark = &mark
	done, round := make(chan wire.CID, 1), t.at.Round
	tr.storing = done
	tr.work.Go(func() { tr.store(ctx, round, tr.buf.Bytes(), done) })
	return nil
}

// store keeps one snapshot, as often as it takes.
func (tr *tracer) store(ctx context.Context, round uint64, b []byte, done chan<- wire.CID) {
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		c, err := tr.blocks.PutFile(context.WithoutCancel(ctx), b) // a clean end waits for one write
		if err == nil {
			err = tr.keeper.trace(c, round)
		}
		if err == nil {
			tr.meter.clear("audit snapshot")
			done <- c
			return
		}
		if ctx.Err() != nil {
			close(done)
			return
		}
		tr.meter.trouble("audit snapshot", err)
		tr.log.Error("keep a snapshot for audits", "round", round, "err", err, "retry", wait)
		if pauseFor(ctx, wait) != nil {
			close(done)
			return
		}
	}
}

// traceStored waits for the snapshot that is being stored.
func (t *trainer) traceStored(ctx context.Context) error {
	tr := t.trace
	if tr == nil || tr.storing == nil {
		return nil
	}
	c, ok := <-tr.storing // store ends with ctx
	tr.storing = nil
	if !ok {
		return errors.Join(ctx.Err(), errors.New("a snapshot for audits was not stored"))
	}
	t.at.Trace.Segments[len(t.at.Trace.Segments)-1].End = c
	return nil
}

// settle waits for what is being stored of a phase that is given up.
func (tr *tracer) settle() {
	if tr == nil {
		return
	}
	tr.work.Wait()
	tr.storing, tr.mark, tr.moments = nil, nil, ""
}

// slowSegments is how many times longer than usual a trainer with audit material
// goes without a snapshot of its own, since the end of a segment is one.
const slowSegments = 10

// dueSnapshot returns what is to be saved of the phase now, or nil.
func (t *trainer) dueSnapshot(ctx context.Context) func() error {
	since, every := time.Since(t.saved), t.plan.Every
	if tr := t.trace; tr != nil {
		if tr.mark != nil && since >= every && (tr.storing == nil || len(tr.storing) > 0) {
			return func() error {
				if err := t.traceStored(ctx); err != nil {
					return err
				}
				err := t.snapshotMark(*tr.mark)
				tr.mark = nil
				return err
			}
		}
		every *= slowSegments
	}
	if since >= max(every, 20*t.saveCost) {
		return func() error { return t.snapshot(ctx) }
	}
	return nil
}

// snapshotMark writes a phase file without a body: that is the end of the last
// segment before at.
func (t *trainer) snapshotMark(at phaseHead) error {
	n := min(int(at.Step/t.trace.every), len(t.at.Trace.Segments))
	if at.Trained {
		n = len(t.at.Trace.Segments)
	}
	at.AtSegment, at.Trace = true, &phaseTrace{Seat: t.at.Trace.Seat, Segments: t.at.Trace.Segments[:n]}
	if err := writeContainer(t.path(), phaseMagic, &at, func(io.Writer) error { return nil }); err != nil {
		return fmt.Errorf("save the inner phase: %w", err)
	}
	t.saved = time.Now()
	return nil
}

// seal makes the trace of a payload just encoded, and puts it into the pending delta.
func (t *trainer) seal(ctx context.Context, msg diloco.Delta, rest wire.CID) (diloco.Delta, error) {
	at := t.at.Trace
	trace := &audit.Trace{
		Version: 1, Run: t.run, Peer: t.self, Round: msg.Round, State: msg.State,
		Slot: uint64(at.Seat.Slot), Slots: uint64(at.Seat.Slots), Base: at.Seat.Base,
		Steps: msg.Steps, Every: t.trace.every, Engine: t.trace.engine,
		Before: at.Seat.Before, Owed: at.Seat.Owed, Payload: msg.Block, Segments: at.Segments,
	}
	x := traced{
		Round: msg.Round, End: at.Segments[len(at.Segments)-1].End, Rest: rest,
		Slot: at.Seat.Slot, Slots: at.Seat.Slots, Base: at.Seat.Base,
	}
	return t.publishTrace(ctx, trace, msg, x)
}

func (t *trainer) publishTrace(ctx context.Context, trace *audit.Trace, msg diloco.Delta, x traced) (diloco.Delta, error) {
	if f := t.trace.encoded; f != nil {
		f(trace)
	}
	block, err := trace.Encode()
	if err != nil {
		return msg, err
	}
	c, err := t.blocks.Put(ctx, wire.CodecDagCBOR, block)
	if err == nil {
		err = t.trace.keeper.trace(c, msg.Round)
	}
	if err != nil {
		return msg, fmt.Errorf("%w: the trace: %w", errStore, err)
	}
	msg.Trace, x.Trace, x.Payload = c, c, msg.Block
	t.debts.traceOf(msg, x)
	t.trace.moments = c
	return msg, nil
}

// resendTraced offers the payload of one parent under another with the same
// state: the same work, so the same codes, and a trace that says so.
func (t *trainer) resendTraced(ctx context.Context, p pending, head wire.CID) (diloco.Delta, error) {
	i := slices.IndexFunc(t.debts.traces, func(x traced) bool { return x.Payload == p.Delta.Block })
	if i < 0 {
		return p.Delta, fmt.Errorf("the trace of payload %s is not known", p.Delta.Block.Short())
	}
	x := t.debts.traces[i]
	block, err := t.blocks.Get(ctx, x.Trace)
	if err != nil {
		return p.Delta, err
	}
	trace, err := audit.DecodeTrace(block)
	if err != nil {
		return p.Delta, err
	}
	old, err := localPayload(ctx, t.blocks, t.debts.codec, p.Delta.Block, codec.Header{Run: t.run, Parent: p.Delta.Parent, Peer: t.self})
	if err != nil {
		return p.Delta, err
	}
	out, err := old.Under(codec.Header{Run: t.run, Parent: head, Peer: t.self})
	if err != nil {
		return p.Delta, err
	}
	msg := p.Delta
	msg.Parent = head
	if msg.Block, err = t.debts.store(ctx, out); err != nil {
		return msg, err
	}
	t.debts.drop(t.debts.index(p.Delta.Block))
	t.debts.pending = append(t.debts.pending, pending{Delta: msg})
	trace.Payload = msg.Block
	moments := t.trace.moments
	msg, err = t.publishTrace(ctx, trace, msg, x)
	if moments != x.Trace {
		t.trace.moments = moments // live has gone on
	}
	return msg, err
}

// encodeTraced is debts.encode in a run that audits: what is owed is what the
// latest merged delta left out, and nothing else.
func (d *debts) encodeTraced(ctx context.Context, msg diloco.Delta, delta []float32, owed wire.CID) (diloco.Delta, wire.CID, error) {
	if err := d.makeRoom(ctx); err != nil {
		return msg, "", err
	}
	e, err := readVector(ctx, owed, d.codec.Params(), func(limit int64) ([]byte, error) { return d.blocks.GetFile(ctx, owed, limit) })
	if err != nil {
		return msg, "", fmt.Errorf("what is owed: %w", err)
	}
	out, rest, err := d.codec.EncodeOwed(codec.Header{Run: d.run, Parent: msg.Parent, Peer: d.self}, delta, e)
	if err != nil {
		return msg, "", err
	}
	d.dirty = true
	msg.Bytes = uint64(len(out.Block()))
	if msg.Block, err = d.store(ctx, out); err != nil {
		return msg, "", err
	}
	var left wire.CID
	if rest != nil {
		if left, err = d.blocks.PutFile(ctx, vector(rest)); err == nil {
			err = d.tracer.keeper.trace(left, msg.Round)
		}
		if err != nil {
			return msg, "", fmt.Errorf("%w: what it left out: %w", errStore, err)
		}
	}
	d.pending = append(d.pending, pending{Delta: msg})
	return msg, left, nil
}

// traceOf notes the trace of a pending payload.
func (d *debts) traceOf(msg diloco.Delta, x traced) {
	if i := d.index(msg.Block); i >= 0 {
		d.pending[i].Delta.Trace = x.Trace
	}
	d.traces = append(d.traces, x)
	if len(d.traces) > maxTraced {
		d.traces = slices.Delete(d.traces, 0, len(d.traces)-maxTraced)
	}
	d.dirty = true
}

// vector writes numbers as a file: float32, little-endian.
func vector(v []float32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

// readVector reads what vector wrote: n finite numbers; nil where c is undefined.
func readVector(ctx context.Context, c wire.CID, n int, get func(limit int64) ([]byte, error)) ([]float32, error) {
	if !c.Defined() {
		return nil, ctx.Err()
	}
	b, err := get(4 * int64(n))
	if err != nil {
		return nil, err
	}
	if len(b) != 4*n {
		return nil, fmt.Errorf("%w: %d bytes for %d numbers", ErrBadContent, len(b), n)
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		if f := float64(v[i]); math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("%w: number %d is %v", ErrBadContent, i, v[i])
		}
	}
	return v, nil
}

// reach is over how many commits a peer's latest delta is looked for: while one
// may still be merged late, and a round of silence more.
func reach(late uint64) uint64 { return late + 2 }

// beforeAudited is of how many rounds before the oldest work that may be audited the
// material is kept: what its trace says of the one before can still be checked.
func beforeAudited(late uint64) uint64 { return late + reach(late) }

func newTracer(t *trainer, p *parts) *tracer {
	m := p.manifest
	return &tracer{
		run: t.run, self: t.self, every: audit.Every(m.Round.InnerSteps, m.Verification.Segments), reach: reach(m.Round.LateRounds),
		engine: p.engine.Identity(), blocks: t.blocks, keeper: p.keeper, meter: t.meter, log: t.log,
	}
}

package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/diloco/shard"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// replayer recomputes segments of inner phases. One goroutine uses it.
type replayer struct {
	run      wire.CID
	model    *Model
	plan     plan
	segments uint64 // of a whole inner phase
	reach    uint64 // see latestDelta
	limits   audit.Limits
	blocks   Blocks
	engine   Engine
	data     *dataset // its own
	log      *slog.Logger
	from     func(accused wire.PeerID) []wire.PeerID // whom to ask, the likeliest first
	commit   func(context.Context, wire.CID) (*diloco.Commit, error)
	patience time.Duration // for what is not at hand, in a replay; 0: as long as it takes
	prover   audit.Prover
	used     []wire.CID // the material that the last audit had
}

func newReplayer(run wire.CID, m *manifest.Manifest, model *Model, b Blocks, e Engine, data *dataset, log *slog.Logger) *replayer {
	tol := m.Verification.Tolerance
	return &replayer{
		run: run, model: model, plan: planOf(m), segments: m.Verification.Segments, reach: reach(m.Round.LateRounds),
		limits: audit.NewLimits(tol.Exponents, tol.MantissaMean, tol.MantissaMedian),
		blocks: b, engine: e, data: data, log: log,
	}
}

// An outcome is what a replay has shown.
type outcome struct {
	Wrong   bool
	Reason  string // why it is wrong
	Numbers []audit.Number
	Work    []byte // the record of the probe; nil where the replay did not come to it
}

// wrongWork is an error that the accused is to blame for: it ends in a verdict.
type wrongWork struct{ error }

func (w wrongWork) Unwrap() error { return w.error }

// notServed is an error about audit material that the accused should serve and
// that cannot be had.
type notServed struct{ error }

func (n notServed) Unwrap() error { return n.error }

// theirs sorts an error about the accused's own material.
func theirs(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrBadContent):
		return wrongWork{fmt.Errorf("%s: %w", what, err)}
	case errors.Is(err, ErrNotFound), errors.Is(err, context.DeadlineExceeded):
		return notServed{fmt.Errorf("%s: %w", what, err)}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// A subject is one delta whose trace is to be replayed.
type subject struct {
	msg    *diloco.Message
	delta  *diloco.Delta
	trace  *audit.Trace
	before *diloco.Message // the peer's latest delta below; nil where there is none
}

func (s *subject) header(run wire.CID) codec.Header {
	return codec.Header{Run: run, Parent: s.delta.Parent, Peer: s.msg.From}
}

// open fetches the trace of a delta and holds it against what it must say.
func (r *replayer) open(ctx context.Context, msg *diloco.Message) (*subject, error) {
	s := &subject{msg: msg, delta: msg.Body.(*diloco.Delta)}
	r.used = nil
	d := s.delta
	if !d.Trace.Defined() {
		return s, wrongWork{errors.New("the delta names no trace")}
	}
	soon, stop := r.soon(ctx)
	defer stop()
	parent, err := r.commit(soon, d.Parent)
	if err != nil {
		return s, fmt.Errorf("the delta's parent: %w", err)
	}
	slot, slots := seatIn(parent.Roster, msg.From)
	if parent.Round != d.Round || parent.State != d.State || slot < 0 {
		return s, wrongWork{errors.New("the delta's round, state or author is not of its parent")}
	}
	get := func(c wire.CID) (*diloco.Commit, error) { return r.commit(soon, c) }
	if s.before, err = latestDelta(get, d.Parent, msg.From, r.reach); err != nil {
		return s, fmt.Errorf("the chain below the delta: %w", err)
	}
	if s.trace, err = r.fetchTrace(ctx, d.Trace, msg.From); err != nil {
		return s, err
	}
	claims := audit.Claims{
		Run: r.run, Peer: msg.From, Round: d.Round, State: d.State, Slot: uint64(slot), Slots: uint64(slots), Base: parent.Cursor,
		Steps: d.Steps, Payload: d.Block, Inner: r.plan.Steps, Segments: r.segments, Width: r.model.Config.HiddenSize,
	}
	if s.before != nil {
		claims.Before = s.before.Body.(*diloco.Delta).Trace
	}
	if err := s.trace.Check(&claims); err != nil {
		return s, wrongWork{err}
	}
	return s, nil
}

// start makes a trainer that stands where a segment begins, and returns the
// weights there.
func (r *replayer) start(ctx context.Context, s *subject, segment uint64) (t Trainer, params []float32, err error) {
	var saved []byte
	if segment > 0 {
		var snap audit.Snapshot
		if saved, snap, err = r.snapshot(ctx, fmt.Sprintf("the end of segment %d", segment-1), s.trace.Segments[segment-1].End, s.msg.From); err != nil {
			return nil, nil, err
		}
		params = snap.Params
	} else {
		state, err := r.state(ctx, s.delta.State, s.msg.From)
		if err != nil {
			return nil, nil, err
		}
		params = state.Params
		if s.trace.Before.Defined() {
			before, err := r.fetchTrace(ctx, s.trace.Before, s.msg.From)
			if err != nil {
				return nil, nil, err
			}
			if saved, _, err = r.snapshot(ctx, "the end of the phase before", before.Segments[len(before.Segments)-1].End, s.msg.From); err != nil {
				return nil, nil, err
			}
		}
	}
	if t, err = r.engine.NewTrainer(params); err != nil {
		return nil, nil, fmt.Errorf("make a trainer: %w", err)
	}
	if saved != nil {
		err = t.Load(bytes.NewReader(saved))
	}
	if err == nil && segment == 0 {
		err = t.SetParams(params)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("load a snapshot: %w", err), t.Close())
	}
	return t, params, nil
}

// walk does the first n steps of a segment. own are the proofs that it makes, and
// each, if set, is called after every step with what is known then.
func (r *replayer) walk(ctx context.Context, s *subject, t Trainer, segment, n uint64, each func(i uint64, rows []float32, width int) error) error {
	share := shard.Share{
		Run: r.run, Base: s.trace.Base, Slot: int(s.trace.Slot), Slots: int(s.trace.Slots), Each: uint64(r.data.each), Batch: r.data.inner.Batch,
	}
	first, _ := s.trace.Span(segment)
	for i := range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.data.ctx = ctx
		batch, err := r.data.train.Batch(share, first+i)
		if err != nil {
			return fmt.Errorf("batch of step %d: %w", first+i, err)
		}
		loss, err := t.Step(batch, r.plan.rate(s.delta.Round, first+i))
		if err != nil {
			return fmt.Errorf("replay step %d: %w", first+i, err)
		}
		if math.IsNaN(loss) || math.IsInf(loss, 0) {
			return wrongWork{fmt.Errorf("in a replay the loss of step %d is %v", first+i, loss)}
		}
		rows, width := t.Hidden()
		if err := each(i, rows, width); err != nil {
			return err
		}
	}
	return nil
}

// prove makes the record of a probe: the last hidden states of its windows under t's
// weights.
func (r *replayer) probe(ctx context.Context, t Trainer, p audit.Probe) (rows []float32, width int, err error) {
	batch := make([][]int32, len(p.Windows))
	r.data.ctx = ctx
	for i, w := range p.Windows {
		if batch[i], err = r.data.train.Window(w); err != nil {
			return nil, 0, fmt.Errorf("probe: %w", err)
		}
	}
	if _, err := t.Eval(batch); err != nil {
		return nil, 0, fmt.Errorf("probe: %w", err)
	}
	rows, width = t.Hidden()
	return rows, width, nil
}

func (r *replayer) probeFor(s *subject, segment uint64, seed [32]byte) audit.Probe {
	_, steps := s.trace.Span(segment)
	return audit.ProbeFor(seed, steps, r.data.train.Windows(), r.data.inner.Batch)
}

// audit replays one segment of a delta and says what it finds. An error says
// that it could not: notServed, that the trainer's material is out of reach.
func (r *replayer) audit(ctx context.Context, msg *diloco.Message, segment uint64, seed [32]byte) (outcome, error) {
	var out outcome
	s, err := r.open(ctx, msg)
	if err == nil && segment >= uint64(len(s.trace.Segments)) {
		return out, fmt.Errorf("segment %d of %d", segment, len(s.trace.Segments))
	}
	if err == nil {
		err = r.segment(ctx, s, segment, seed, &out)
	}
	var bad wrongWork
	if errors.As(err, &bad) {
		out.Wrong, out.Reason = true, bad.Error()
		return out, nil
	}
	return out, err
}

func (r *replayer) segment(ctx context.Context, s *subject, segment uint64, seed [32]byte, out *outcome) error {
	t, start, err := r.start(ctx, s, segment)
	if err != nil {
		return err
	}
	defer t.Close()
	_, n := s.trace.Span(segment)
	probe := r.probeFor(s, segment, seed)
	equal := s.trace.Engine == r.engine.Identity()
	size := audit.RecordSize(r.model.Config.HiddenSize)
	claimed := s.trace.Segments[segment].Proofs
	var own []byte
	var bad error // what is found wrong on the way; the walk goes on, for the work's proof
	err = r.walk(ctx, s, t, segment, n, func(i uint64, rows []float32, width int) (err error) {
		if equal {
			own, err = r.prover.Append(own, rows, width)
		} else if bad == nil {
			record := claimed[int(i)*size:][:size]
			if numbers, e := r.prover.Judge(record, rows, width, probe.Seed^i, r.limits); e != nil {
				bad, out.Numbers = fmt.Errorf("the proof of step %d of segment %d: %w", i+1, segment, e), numbers
			}
		}
		if err != nil || i+1 != probe.After {
			return err
		}
		if rows, width, err = r.probe(ctx, t, probe); err != nil {
			return err
		}
		out.Work, err = r.prover.Append(nil, rows, width)
		return err
	})
	if err != nil {
		return err
	}
	if equal {
		if e := audit.SameProofs(own, claimed, size); e != nil {
			bad = fmt.Errorf("segment %d: %w", segment, e)
		}
	}
	if bad != nil {
		return wrongWork{bad}
	}
	end, err := r.end(ctx, s, t, segment, start, equal, out)
	if err != nil || segment+1 < uint64(len(s.trace.Segments)) {
		return err
	}
	return r.codes(ctx, s, end)
}

// end compares where a replay has led with the end that the trace names, and
// returns the weights there.
func (r *replayer) end(ctx context.Context, s *subject, t Trainer, segment uint64, start []float32, equal bool, out *outcome) ([]float32, error) {
	var mine bytes.Buffer
	if err := t.Save(&mine); err != nil {
		return nil, fmt.Errorf("save the replay: %w", err)
	}
	what, c := fmt.Sprintf("the end of segment %d", segment), s.trace.Segments[segment].End
	if equal { // what is honest need not be fetched to be equal
		got, err := r.blocks.PutFile(ctx, mine.Bytes())
		if err != nil {
			return nil, fmt.Errorf("store the replay: %w", err)
		}
		if got == c {
			return t.Params(), nil
		}
	}
	own, err := r.engine.Unpack(mine.Bytes())
	if err != nil {
		return nil, fmt.Errorf("read the replay: %w", err)
	}
	_, claimed, err := r.snapshot(ctx, what, c, s.msg.From)
	if err != nil {
		return nil, err
	}
	out.Numbers, err = audit.CompareEnds(start, own, claimed, r.limits)
	if err != nil {
		return nil, wrongWork{fmt.Errorf("%s: %w", what, err)}
	}
	if equal {
		return nil, wrongWork{fmt.Errorf("%s is near what a replay makes, and not equal to it as on the same engine it must be", what)}
	}
	return claimed.Params, nil
}

// recheck recomputes what a validator's verdict says to have shown, from the seed
// that its coin or an open case gave it.
func (r *replayer) recheck(ctx context.Context, msg *diloco.Message, segment uint64, seed [32]byte, work []byte) (out outcome, err error) {
	err = r.shown(ctx, msg, segment, seed, func(p audit.Probe, rows []float32, width int) error {
		if out.Numbers, err = r.prover.Judge(work, rows, width, p.Seed, r.limits); err != nil {
			out.Wrong, out.Reason = true, fmt.Sprintf("its proof of a replay: %v", err)
		}
		return nil
	})
	var none noSegment
	if errors.As(err, &none) {
		return outcome{Wrong: true, Reason: none.Error()}, nil
	}
	return out, err
}

// work makes the proof of a replay.
func (r *replayer) work(ctx context.Context, msg *diloco.Message, segment uint64, seed [32]byte) (record []byte, err error) {
	err = r.shown(ctx, msg, segment, seed, func(_ audit.Probe, rows []float32, width int) (err error) {
		record, err = r.prover.Append(nil, rows, width)
		return err
	})
	return record, err
}

type noSegment struct{ error }

// shown replays a segment as far as its probe, and calls f with what that shows.
func (r *replayer) shown(ctx context.Context, msg *diloco.Message, segment uint64, seed [32]byte, f func(p audit.Probe, rows []float32, width int) error) error {
	s, err := r.open(ctx, msg)
	if err != nil {
		return err
	}
	if n := uint64(len(s.trace.Segments)); segment >= n {
		return noSegment{fmt.Errorf("it is about segment %d of %d", segment, n)}
	}
	t, _, err := r.start(ctx, s, segment)
	if err != nil {
		return err
	}
	defer t.Close()
	probe := r.probeFor(s, segment, seed)
	nothing := func(uint64, []float32, int) error { return nil }
	if err := r.walk(ctx, s, t, segment, probe.After, nothing); err != nil {
		return err
	}
	rows, width, err := r.probe(ctx, t, probe)
	if err != nil {
		return err
	}
	return f(probe, rows, width)
}

// seatIn returns a peer's place among those of a roster that train, and their
// number; -1 where it is none of them.
func seatIn(roster []diloco.Member, p wire.PeerID) (slot, slots int) {
	slot = -1
	for i := range roster {
		if roster[i].Banned || roster[i].Role != RoleTrainer {
			continue
		}
		if roster[i].Peer == p {
			slot = slots
		}
		slots++
	}
	return slot, slots
}

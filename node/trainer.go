package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// plan is what the manifest fixes about the inner phase.
type plan struct {
	Steps    uint64 // inner steps of a round
	Batch    uint64 // sequences of a step
	Sequence uint64 // tokens of a sequence
	Every    time.Duration
	LR       func(step uint64) float64 // of the step'th inner step since genesis
}

// planOf is what the manifest says; Every is the node's own.
func planOf(m *manifest.Manifest) plan {
	return plan{
		Steps: m.Round.InnerSteps, Batch: uint64(m.Inner.Batch), Sequence: uint64(m.Inner.Sequence),
		LR: func(step uint64) float64 { return LearningRate(m, step) },
	}
}

// rate is the learning rate of a round's step.
func (p *plan) rate(round, step uint64) float64 { return p.LR((max(round, 1)-1)*p.Steps + step) }

// trainer runs inner phases. One goroutine, in run, owns everything but the
// mailbox.
type trainer struct {
	run    wire.CID
	self   wire.PeerID
	dir    string
	plan   plan
	model  *Model
	states *states
	blocks Blocks
	engine Engine
	data   *dataset
	meter  *meter
	log    *slog.Logger
	emit   func(diloco.Event)

	mu     sync.Mutex   // guards the mailbox: the following two
	orders []order      // what the machine asked for, the oldest first
	evals  []*evalOrder // states to evaluate
	wake   chan struct{}

	debts    *debts
	trace    *tracer   // nil where the run audits nobody
	live     Trainer   // nil until the first phase
	at       phaseHead // where the phase stands
	saved    time.Time // when at was last written
	saveCost time.Duration
	adopted  wire.CID // the state whose weights live holds at step 0 of the phase
}

// order is one thing that the machine asks of the trainer: exactly one field is set.
type order struct {
	train    *diloco.Train
	cut      *diloco.Cut
	signed   *signedDelta
	included wire.CID // the block of a payload that is in a final commit
	expired  wire.CID // the block of one that never will be
}

type signedDelta struct{ block, id wire.CID }

// evalOrder asks for the validation loss of a state. One that must not be
// skipped is done however many others come.
type evalOrder struct {
	must  bool
	round uint64
	state wire.CID
	done  func(loss float64, took time.Duration, err error)
}

// errReplaced ends a phase for which nobody waits any more.
var errReplaced = errors.New("replaced by another round")

// errDiverged ends a phase whose loss is not finite.
var errDiverged = errors.New("the inner steps diverged")

// loop carries out orders until ctx ends.
func (t *trainer) loop(ctx context.Context) error {
	defer t.close()
	for ctx.Err() == nil {
		if job := t.nextJob(ctx); job != nil {
			t.work(ctx, *job)
			continue
		}
		if t.debts.dirty {
			if err := t.persist(ctx); err != nil {
				continue
			}
		}
		if e := t.nextEval(); e != nil {
			began := time.Now()
			loss, err := t.evalState(ctx, e.state)
			e.done(loss, time.Since(began), err)
			continue
		}
		select {
		case <-ctx.Done():
		case <-t.wake:
		}
	}
	return nil
}

// work carries out one Train, again and again where the machine below fails.
func (t *trainer) work(ctx context.Context, job diloco.Train) {
	wait := time.Second
	for {
		delta, err := t.phase(ctx, &job)
		switch {
		case err == nil:
			t.meter.clear("training")
			t.emit(diloco.Trained{Delta: delta})
			return
		case ctx.Err() != nil || errors.Is(err, errReplaced):
			return
		case errors.Is(err, errDiverged):
			t.log.Warn("nothing to send for this round", "round", job.Round, "err", err)
			t.meter.reject("own phase diverged")
			t.close() // its moments are spoilt as well
			if t.trace != nil {
				t.trace.fresh = true
			}
			t.forget()
			t.emit(diloco.Trained{Delta: t.empty(job)})
			return
		}
		t.meter.trouble("training", err)
		t.log.Error("inner phase", "round", job.Round, "err", err, "retry", wait)
		t.close()
		again, cut := t.sleep(ctx, wait, &job)
		if cut {
			t.emit(diloco.Trained{Delta: t.empty(job)})
		}
		if !again {
			return
		}
		wait = min(2*wait, 30*time.Second)
	}
}

func (t *trainer) empty(job diloco.Train) diloco.Delta {
	return diloco.Delta{Parent: job.Head, Round: job.Round, State: job.State}
}

// phase does the inner steps of one round, or the rest of them, and returns
// the delta, durable but not signed.
func (t *trainer) phase(ctx context.Context, job *diloco.Train) (diloco.Delta, error) {
	if err := t.debts.unsent(ctx, job.Round, job.State); err != nil {
		return diloco.Delta{}, err
	}
	if p := t.debts.find(job.Round, job.State, t.trace, seatOf(job)); p != nil {
		return t.again(ctx, *p, job.Head)
	}
	start, err := t.states.get(ctx, job.State)
	if err != nil {
		return diloco.Delta{}, fmt.Errorf("state to train from: %w", err)
	}
	if err := t.begin(ctx, start, job); err != nil {
		return diloco.Delta{}, err
	}
	t.meter.begin(t.at.Step, t.plan.Steps)
	defer t.meter.end()
	for t.at.Step < t.plan.Steps {
		cut, err := t.during(ctx, job)
		if err != nil {
			return diloco.Delta{}, err
		}
		if cut {
			break
		}
		if err := t.step(ctx, job); err != nil {
			return diloco.Delta{}, err
		}
		if ctx.Err() != nil {
			// A clean end costs not even the steps since the last snapshot.
			return diloco.Delta{}, errors.Join(ctx.Err(), t.snapshot(context.WithoutCancel(ctx)))
		}
		if save := t.dueSnapshot(ctx); save != nil {
			if err := save(); err != nil {
				t.meter.trouble("snapshot", err) // training needs no disk; the next may succeed
			} else {
				t.meter.clear("snapshot")
			}
		}
	}
	return t.finish(ctx, start, *job)
}

// again answers with the payload that this round and state already have.
func (t *trainer) again(ctx context.Context, p pending, head wire.CID) (diloco.Delta, error) {
	if p.Delta.Parent == head {
		return p.Delta, nil
	}
	resend := t.debts.resend
	if t.trace != nil {
		resend = t.resendTraced
	}
	delta, err := resend(ctx, p, head)
	if err != nil {
		return delta, err
	}
	return delta, t.persist(ctx)
}

// begin makes live hold the weights that the phase goes on from.
func (t *trainer) begin(ctx context.Context, start *State, job *diloco.Train) error {
	if t.live == nil {
		if err := t.open(ctx, start); err != nil {
			return err
		}
	}
	if !t.at.Trained && t.at.Round == job.Round && t.at.State == job.State && t.at.Step > 0 &&
		(t.trace == nil) == (t.at.Trace == nil) && (t.trace == nil || t.at.Trace.Seat.same(seatOf(job))) {
		t.meter.resumed(t.at.Step)
		return nil
	}
	at := phaseHead{Run: t.run, Round: job.Round, State: job.State, Total: t.at.Total}
	if t.trace != nil {
		s, err := t.beginTrace(ctx, start, job)
		if err != nil {
			return err
		}
		at.Trace = &phaseTrace{Seat: s}
	}
	if err := t.live.SetParams(start.Params); err != nil {
		return fmt.Errorf("set weights: %w", err)
	}
	t.at = at
	t.saved = time.Now()
	return nil
}

// step does one inner step.
func (t *trainer) step(ctx context.Context, job *diloco.Train) error {
	began := time.Now()
	batch, err := t.data.batch(ctx, *job, t.at.Step)
	if err != nil {
		return fmt.Errorf("batch of round %d, step %d: %w", job.Round, t.at.Step, err)
	}
	ready := time.Now()
	loss, err := t.live.Step(batch, t.plan.rate(job.Round, t.at.Step))
	if err != nil {
		return fmt.Errorf("round %d, inner step %d: %w", job.Round, t.at.Step, err)
	}
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return fmt.Errorf("round %d, inner step %d: %w: loss is %v", job.Round, t.at.Step, errDiverged, loss)
	}
	tokens := t.plan.Batch * t.plan.Sequence
	t.at.Step++
	t.at.LossSum += loss
	t.at.Tokens += tokens
	t.at.Total += tokens
	t.at.Compute += uint64(time.Since(ready))
	t.meter.advance(t.at, tokens, time.Since(began))
	if t.trace != nil {
		return t.traceStep(ctx)
	}
	return nil
}

// finish turns the local weights into a payload, durably.
func (t *trainer) finish(ctx context.Context, start *State, job diloco.Train) (diloco.Delta, error) {
	msg := t.empty(job)
	if t.at.Step == 0 {
		return msg, nil
	}
	msg.Steps, msg.Tokens, msg.Loss = t.at.Step, t.at.Tokens, t.at.LossSum/float64(t.at.Step)
	if t.trace != nil {
		if err := t.traceSegment(ctx); err != nil {
			return msg, err
		}
	}
	msg, err := t.encode(ctx, start, job, msg)
	if err != nil {
		return msg, err
	}
	if err := t.persist(ctx); err != nil {
		return msg, err
	}
	t.at.Trained = true
	if time.Since(t.saved) >= t.plan.Every {
		save := t.snapshot
		if t.trace != nil {
			save = func(context.Context) error { return t.snapshotMark(t.at) }
		}
		if err := save(ctx); err != nil {
			t.meter.trouble("snapshot", err)
		}
	}
	return msg, nil
}

// encode makes the payload of θ−w. Where the store refuses it, it is tried
// again: what was computed is not thrown away for a full disk.
func (t *trainer) encode(ctx context.Context, start *State, job diloco.Train, msg diloco.Delta) (diloco.Delta, error) {
	w := t.live.Params()
	if len(w) != len(start.Params) {
		return msg, fmt.Errorf("the engine has %d parameters, the state %d", len(w), len(start.Params))
	}
	delta := make([]float32, len(w))
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		for i, p := range start.Params { // Δ = θ − w (DiLoCo, algorithm 1, line 12)
			delta[i] = p - w[i]
			if d := float64(delta[i]); math.IsNaN(d) || math.IsInf(d, 0) {
				return msg, fmt.Errorf("%w: weight %d is %v", errDiverged, i, w[i])
			}
		}
		var rest wire.CID
		out, err := msg, error(nil)
		if t.trace == nil {
			out, err = t.debts.encode(ctx, msg, delta)
		} else if out, rest, err = t.debts.encodeTraced(ctx, msg, delta, t.at.Trace.Seat.Owed); err == nil {
			if err = t.traceStored(ctx); err == nil {
				out, err = t.seal(ctx, out, rest)
			}
			if err != nil {
				t.debts.drop(t.debts.index(out.Block))
			}
		}
		if err == nil {
			t.meter.clear("payload")
			return out, nil
		}
		if !errors.Is(err, errStore) {
			return msg, err
		}
		t.meter.trouble("payload", err)
		t.log.Error("keep the payload", "round", job.Round, "err", err, "retry", wait)
		if again, cut := t.sleep(ctx, wait, &job); !again && !cut {
			if ctx.Err() != nil {
				return msg, ctx.Err()
			}
			return msg, errReplaced
		}
		msg.Parent = job.Head
	}
}

// persist saves the debts, as often as it takes: a payload is not offered
// before what it left out is on disk.
func (t *trainer) persist(ctx context.Context) error {
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		err := t.debts.save()
		if err == nil {
			t.meter.clear("feedback")
			return nil
		}
		t.meter.trouble("feedback", err)
		t.log.Error("save the error feedback", "err", err, "retry", wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// evalState returns the validation loss of a state. It replaces live's
// weights, which nobody needs when no phase is under way.
func (t *trainer) evalState(ctx context.Context, c wire.CID) (float64, error) {
	s, err := t.states.get(ctx, c)
	if err != nil {
		return 0, fmt.Errorf("state to evaluate: %w", err)
	}
	if t.live == nil {
		if err := t.open(ctx, s); err != nil {
			return 0, err
		}
	}
	if !t.at.Trained && t.at.Step > 0 {
		defer t.close() // a saved phase may go on: from its file
	}
	if err := t.live.SetParams(s.Params); err != nil {
		return 0, fmt.Errorf("set weights: %w", err)
	}
	return t.data.validate(ctx, t.live)
}

func (t *trainer) path() string { return filepath.Join(t.dir, phaseFile) }

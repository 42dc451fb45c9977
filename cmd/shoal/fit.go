package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"time"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/node/manifest"
)

const (
	fitFile  = "machine.json" // the latest fit, in the data directory
	fitValid = 24 * time.Hour
	fitTime  = 300 * time.Millisecond // for which one measurement lasts, about
)

// A fit is how this machine takes part in a run, by what was measured here.
//
// What a step computes is the manifest's: batch, data, learning rate, and the number
// of steps of a round. A machine may choose what changes no bit of it: threads, and
// whether activations are kept or computed again. Another micro-batch changes last
// bits, which an audit would find: it is chosen only in runs that audit nobody. Nor
// does a machine choose fewer inner steps beforehand: the machine of package diloco
// cuts the phase of whoever is late by what the round really takes, and the delta
// says how many steps it is of. The steps that are told here are a forecast.
type fit struct {
	For        string    `json:"for"` // engine, model and batch
	At         time.Time `json:"at"`
	How        string    `json:"how"` // what the rate was told by: steps, products (too large to try), or nothing
	TokensPerS float64   `json:"tokens_per_s"`
	Threads    int       `json:"threads"`
	Checkpoint bool      `json:"checkpoint"`  // activations are computed again: they have no room
	MicroBatch int       `json:"micro_batch"` // sequences at a time; 0 is all
	Memory     int64     `json:"memory"`      // bytes that training takes
	Free       int64     `json:"free"`        // bytes that there were; 0 is not known
	Steps      uint64    `json:"steps"`       // of a round's inner steps that are done before its deadline
	Of         uint64    `json:"of"`
}

// fitTo measures this machine for a run, or remembers it. threads is that of
// --threads, 0 to choose.
func (a *app) fitTo(ctx context.Context, m *manifest.Manifest, threadsAsked int, foreign bool) fit {
	e := newEngine(m, threads(threadsAsked))
	key := fmt.Sprintf("%s %d/%d threads, model %s, %d by %d tokens, audits %d", e.Identity(), threadsAsked, threads(0), modelKey(m), m.Inner.Batch, m.Inner.Sequence, m.Verification.AuditRate)
	f := fit{For: key, At: time.Now(), How: "nothing", Threads: threads(threadsAsked), Of: m.Round.InnerSteps}
	if foreign {
		f.For += ", elsewhere" // another program computes, perhaps on another machine
		return f
	}
	f.Free = freeMemory()
	f.room(m)
	var old fit
	if b, err := readBounded(a.path(fitFile), 1<<16); a.dir != "" && err == nil && json.Unmarshal(b, &old) == nil && old.For == key && old.At.Before(f.At) && f.At.Sub(old.At) < fitValid &&
		old.Checkpoint == f.Checkpoint && old.MicroBatch == f.MicroBatch {
		f.At, f.How, f.TokensPerS, f.Threads = old.At, old.How, old.TokensPerS, old.Threads
		f.forecast(m)
		return f
	}
	if err := f.measure(ctx, m, threadsAsked == 0); err != nil {
		slog.Warn("this machine was not measured", "err", err)
		return f
	}
	f.forecast(m)
	if a.dir == "" {
		return f
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err == nil {
		err = writeFile(a.path(fitFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		slog.Warn("what was measured is not kept", "err", err)
	}
	return f
}

// showFit prints how this machine fits a manifest's run.
func (a *app) showFit(ctx context.Context, config string, threadsAsked int) error {
	m, _, err := readManifest(config)
	if err != nil {
		return err
	}
	if a.dir != "" {
		_ = os.MkdirAll(a.dir, 0o700) // where it cannot be, fitTo says that nothing is kept
	}
	f := a.fitTo(ctx, m, threadsAsked, false)
	text := f.String() + "\n"
	for _, d := range f.doubts() {
		text += "note: " + d + "\n"
	}
	return a.show(&f, text)
}

// modelKey names a model's shape.
func modelKey(m *manifest.Manifest) string {
	b, err := m.Model.Config.HF().Marshal()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))[:16]
}

// room chooses how activations are kept, so that training fits into what memory is
// free. Nothing is known of a machine that does not tell.
func (f *fit) room(m *manifest.Manifest) {
	cfg := m.Model.Config.HF()
	need := func(checkpoint bool, micro int) int64 {
		return llama.TrainingMemory(cfg, m.Inner.Batch, m.Inner.Sequence, llama.Options{Checkpoint: checkpoint, MicroBatch: micro})
	}
	room := f.Free - f.Free/8 - nodeMemory(cfg.NumParams(), true)
	f.Checkpoint, f.MicroBatch, f.Memory = arrange(need, room, m.Inner.Batch, m.Verification.AuditRate > 0)
	if f.Free == 0 {
		f.Checkpoint, f.MicroBatch, f.Memory = false, 0, need(false, 0)
	}
}

// nodeMemory is how many bytes a node of a model of n parameters takes at least, besides what computes:
// two states of weights and momentum and, where it trains, a delta and what earlier ones left out.
func nodeMemory(n int64, trains bool) int64 {
	if trains {
		return 24 * n
	}
	return 16 * n
}

// nodeDisk is how many bytes its store comes to hold at least: the state that the run begins with, those
// up to the head from before the last final commit, and the next one.
func nodeDisk(n int64) int64 { return 5 * 8 * n }

// refusal is why a machine with so many free bytes of memory cannot take part, 0 being not known: else
// the system would end the node in the middle of a round. compute is what the engine takes here.
func refusal(m *manifest.Manifest, compute int64, observe bool, free int64) error {
	n := m.Model.Config.HF().NumParams()
	holds := nodeMemory(n, !observe)
	if free <= 0 || compute+holds <= free {
		return nil
	}
	what, next := fmt.Sprintf("a node of %s, %s parameters", m.Name, count(float64(n))), "take part on a machine with more memory"
	if !observe {
		what += fmt.Sprintf(": %s to train and %s for states and deltas", size(compute), size(holds))
		if nodeMemory(n, false) <= free {
			next = fmt.Sprintf("--observe follows and serves the run in %s; or %s", size(nodeMemory(n, false)), next)
		}
	} else {
		what += ", which holds two states"
	}
	return fits(what, compute+holds, free, next)
}

// arrange chooses the fastest way to train that needs no more than room bytes, or
// where none does, the one that needs least. Audited runs do whole batches.
func arrange(need func(checkpoint bool, micro int) int64, room int64, batch int, audited bool) (checkpoint bool, micro int, bytes int64) {
	if n := need(false, 0); n <= room {
		return false, 0, n
	}
	bytes = need(true, 0)
	if audited {
		return true, 0, bytes
	}
	for n := batch / 2; n >= 1 && bytes > room; n /= 2 {
		micro, bytes = n, need(true, n)
	}
	return true, micro, bytes
}

// measure finds how many tokens a second this machine trains. Where it may choose,
// half of many threads are tried, too: two threads of one core often do no more than one.
func (f *fit) measure(ctx context.Context, m *manifest.Manifest, choose bool) error {
	counts := []int{f.Threads}
	if choose && f.Threads >= 4 {
		counts = append(counts, f.Threads/2)
	}
	// What a token costs in products: once forward, twice backward.
	cost := 6 * float64(m.Model.Config.HF().NumParams())
	for i, n := range counts {
		rate, err := productRate(n)
		if err != nil {
			return err
		}
		how, tokens := "products", 0.6*rate/cost // which training reaches at least
		if tokens*fitTime.Seconds() >= float64(m.Inner.Sequence) {
			how = "steps"
			if tokens, err = f.stepRate(ctx, m, n, int(tokens*fitTime.Seconds())/m.Inner.Sequence); err != nil {
				return err
			}
		}
		if i == 0 || tokens > 1.1*f.TokensPerS {
			f.How, f.TokensPerS, f.Threads = how, tokens, n
		}
	}
	return nil
}

// productRate is how many operations a second matrix products do.
func productRate(threads int) (rate float64, err error) {
	dev, err := cpu.New(cpu.Options{Threads: threads})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	const n = 384
	a, b, c := dev.Alloc(n*n).Matrix(n, n), dev.Alloc(n*n).Matrix(n, n), dev.Alloc(n*n).Matrix(n, n)
	for start := time.Now(); rate == 0 || time.Since(start) < fitTime/6; {
		at := time.Now()
		dev.MatMul(gpu.NT, c, a, b, false)
		if err := dev.Sync(); err != nil {
			return 0, err
		}
		rate = max(rate, 2*n*n*n/time.Since(at).Seconds())
	}
	return rate, nil
}

// stepRate is how many tokens a second steps of up to seqs sequences do, as they will be.
func (f *fit) stepRate(ctx context.Context, m *manifest.Manifest, threads, seqs int) (rate float64, err error) {
	e := f.engine(m)
	e.threads = threads
	t, err := e.NewTrainer(make([]float32, e.cfg.NumParams())) // as fast as any weights
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	batch := make([][]int32, max(1, min(seqs, m.Inner.Batch)))
	for i := range batch {
		batch[i] = make([]int32, m.Inner.Sequence+1)
	}
	for n, start := 0, time.Now(); n < 2 || n < 4 && time.Since(start) < fitTime; n++ {
		at := time.Now()
		if _, err := t.Step(batch, 0); err != nil {
			return 0, err
		}
		if n > 0 { // the first allocates
			rate = max(rate, float64(len(batch)*m.Inner.Sequence)/time.Since(at).Seconds())
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
	return rate, nil
}

// forecast says how far an inner phase comes: it is cut when an eighth of the
// deadline is left.
func (f *fit) forecast(m *manifest.Manifest) {
	left := (m.Round.Deadline - m.Round.Deadline/8).Seconds()
	steps := left * f.TokensPerS / float64(m.Inner.Batch*m.Inner.Sequence)
	f.Steps = uint64(math.Min(steps, float64(m.Round.InnerSteps)))
}

// engine is the run's engine as it fits this machine.
func (f *fit) engine(m *manifest.Manifest) engine {
	e := newEngine(m, f.Threads)
	e.opts.Checkpoint, e.opts.MicroBatch = f.Checkpoint, f.MicroBatch
	return e
}

// args are those of a worker of our own that computes so.
func (f *fit) args() []string {
	return []string{"--threads", fmt.Sprint(f.Threads), "--micro-batch", fmt.Sprint(f.MicroBatch), fmt.Sprintf("--checkpoint=%t", f.Checkpoint)}
}

// String is what a person wants to know of it.
func (f *fit) String() string {
	s := fmt.Sprintf("%d threads", f.Threads)
	switch f.How {
	case "steps":
		s += fmt.Sprintf(", %s tokens/s", count(f.TokensPerS))
	case "products":
		s += fmt.Sprintf(", about %s tokens/s", count(f.TokensPerS))
	default:
		return s + ", not measured"
	}
	s += fmt.Sprintf(": %d of %d inner steps before the deadline; training takes %s", f.Steps, f.Of, size(f.Memory))
	if f.Free > 0 {
		s += fmt.Sprintf(" of %s free", size(f.Free))
	}
	switch {
	case f.MicroBatch > 0:
		s += fmt.Sprintf(", %d sequences at a time, activations computed again", f.MicroBatch)
	case f.Checkpoint:
		s += ", activations computed again"
	}
	return s
}

// doubts are reasons to think before taking part.
func (f *fit) doubts() (out []string) {
	if f.How == "nothing" {
		return nil
	}
	if f.Steps == 0 {
		out = append(out, "no inner step is done before a round's deadline: what this machine does comes late, at half its weight or not at all; --observe follows without training")
	}
	if f.Free > 0 && f.Memory > f.Free {
		out = append(out, fmt.Sprintf("training takes %s and %s are free: the system may end it", size(f.Memory), size(f.Free)))
	}
	return out
}

package cheat

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc"
	"github.com/shoalnet/shoal/toploc/audit"
)

const (
	scaled   = 10               // what Scale multiplies by
	poisoned = 0.1              // of the norm: what Poison adds
	noised   = 0.1              // of the norm: what Copy adds
	patient  = 20 * time.Second // how long Copy waits for somebody's delta
)

// Engine wraps what makes the node's engine.
func (l *Liar) Engine(make func(context.Context, *manifest.Manifest) (node.Engine, error)) func(context.Context, *manifest.Manifest) (node.Engine, error) {
	return func(ctx context.Context, m *manifest.Manifest) (node.Engine, error) {
		l.width = m.Model.Config.HiddenSize
		e, err := make(ctx, m)
		if f, ok := FactOf(l.kind); err != nil || !ok || f.Validator {
			return e, err
		}
		out := &engine{Engine: e, l: l, steps: m.Round.InnerSteps, segments: m.Verification.Segments}
		if l.kind == Copy {
			if out.codec, err = codecOf(m); err != nil {
				return nil, err
			}
		}
		if l.kind == SmallModel {
			small := *m
			small.Model.Config = m.Model.Config.Resize(max(1, m.Model.Config.NumHiddenLayers/2))
			if out.small, err = make(ctx, &small); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
}

// codecOf is the codec of a run's deltas.
func codecOf(m *manifest.Manifest) (*codec.Codec, error) {
	kind, err := codec.ParseKind(m.Codec.Kind)
	if err != nil {
		return nil, err
	}
	var layout codec.Layout
	for _, t := range m.Model.Config.HF().Tensors() {
		layout = append(layout, t.Len())
	}
	return codec.New(codec.Spec{Kind: kind, Chunk: m.Codec.Chunk, Density: m.Codec.Density}, layout)
}

type engine struct {
	node.Engine
	l               *Liar
	steps, segments uint64
	codec           *codec.Codec // of Copy
	small           node.Engine  // of SmallModel
}

func (e *engine) NewTrainer(params []float32) (node.Trainer, error) {
	t, err := e.Engine.NewTrainer(params)
	if err != nil {
		return nil, err
	}
	out := &trainer{Trainer: t, e: e, l: e.l, theta: slices.Clone(params)}
	if e.small != nil {
		w, err := e.small.Genesis()
		if err == nil {
			out.small, err = e.small.NewTrainer(w)
		}
		if err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	return out, nil
}

// Identity is another than the honest one's where the lie may hope to be taken
// for another engine's rounding: then it is compared within a tolerance.
func (e *engine) Identity() string {
	switch e.l.kind {
	case Poison, SmallModel, Constant, Modulus, Replay, Signs, Null:
		return e.Engine.Identity() + " of another build"
	}
	return e.Engine.Identity()
}

// A trainer does what the cheat does honestly by the real one.
type trainer struct {
	node.Trainer
	e *engine
	l *Liar

	theta  []float32 // weights that the phase began with
	step   uint64    // of the phase
	lies   bool      // in this phase
	target []float32 // where Idle, First and Copy pretend to be trained to
	rows   []float32 // and the last hidden states that they show
	loss   float64   // said last
	small  node.Trainer
}

func (t *trainer) Close() error {
	if t.small != nil {
		return errors.Join(t.small.Close(), t.Trainer.Close())
	}
	return t.Trainer.Close()
}

// Hidden shows other activations than those of the step.
func (t *trainer) Hidden() ([]float32, int) {
	rows, width := t.Trainer.Hidden()
	if !t.lies {
		return rows, width
	}
	switch {
	case t.l.kind == SmallModel:
		return t.small.Hidden()
	case t.l.kind == Signs:
		rows = slices.Clone(rows)
		for i := range rows {
			rows[i] = -rows[i]
		}
	case t.l.kind == Constant || t.l.kind == Modulus:
		t.l.notice(rows)
	case t.target != nil:
		rows = t.rows
	}
	return rows, width
}

// notice remembers the bits of a typical large activation: the median of the
// magnitudes that a proof holds.
func (l *Liar) notice(rows []float32) {
	mags := make([]uint16, len(rows))
	toploc.RoundBF16(mags, rows)
	for i := range mags {
		mags[i] &= 0x7fff
	}
	slices.Sort(mags)
	if n := len(mags); n > 0 {
		l.mu.Lock()
		l.usual = mags[n-min(n, audit.TopK/2)]
		l.mu.Unlock()
	}
}

func (t *trainer) SetParams(p []float32) error {
	t.theta, t.step = slices.Clone(p), 0
	return t.Trainer.SetParams(p)
}

// Step pretends to do one inner step.
func (t *trainer) Step(batch [][]int32, lr float64) (loss float64, err error) {
	if t.step == 0 {
		if err := t.begin(batch); err != nil {
			return 0, err
		}
	}
	t.step++
	if !t.lies {
		loss, err = t.Trainer.Step(batch, lr)
		if err == nil && t.step == t.e.steps {
			t.l.norm = distance(t.Trainer.Params(), t.theta)
		}
		return loss, err
	}
	switch t.l.kind {
	case Idle, Copy:
		return t.pretend(batch, lr, 0)
	case First:
		honest := (t.e.steps + t.e.segments - 1) / max(t.e.segments, 1)
		if t.step > honest {
			return t.pretend(batch, lr, honest)
		}
	case Lazy:
		if t.step%2 == 0 {
			return t.jitter(), nil
		}
	case OwnData:
		batch = t.l.batch
	}
	if t.loss, err = t.Trainer.Step(batch, lr); err == nil && t.small != nil {
		_, err = t.small.Eval(batch)
	}
	if err != nil || t.step != t.e.steps {
		return t.loss, err
	}
	return t.loss, t.twist()
}

// begin settles whether this phase is a lie.
func (t *trainer) begin(batch [][]int32) error {
	t.lies, t.target = t.l.lies(), nil
	was := t.l.began
	t.l.began = t.theta
	if t.l.batch == nil {
		for _, row := range batch {
			t.l.batch = append(t.l.batch, slices.Clone(row))
		}
	}
	if t.lies && t.l.kind == Stale && was != nil {
		return t.Trainer.SetParams(was)
	}
	return nil
}

// twist changes the weights after the last step.
func (t *trainer) twist() error {
	w := slices.Clone(t.Trainer.Params())
	switch t.l.kind {
	case Scale:
		for i := range w {
			w[i] = t.theta[i] + scaled*(w[i]-t.theta[i])
		}
	case Flip:
		for i := range w {
			w[i] = 2*t.theta[i] - w[i]
		}
	case Poison:
		addNoise(w, poisoned*distance(w, t.theta))
	default:
		return nil
	}
	return t.Trainer.SetParams(w)
}

// pretend moves the weights towards where honest training might have gone, and
// says a loss that it has only looked up. Steps up to done were honest.
func (t *trainer) pretend(batch [][]int32, lr float64, done uint64) (loss float64, err error) {
	w := slices.Clone(t.Trainer.Params())
	if t.target == nil {
		if t.loss, err = t.Trainer.Eval(batch); err != nil {
			return 0, err
		}
		rows, _ := t.Trainer.Hidden()
		t.rows = slices.Clone(rows)
		norm := t.l.norm
		if norm == 0 { // AdamW moves each weight by about lr a step, often back and forth
			norm = lr * float64(t.e.steps) * math.Sqrt(float64(len(w))) / 2
		}
		t.target = slices.Clone(w)
		if d := t.others(); d != nil {
			if err := d.SubtractFrom(t.target); err != nil { // w = θ − Δ
				return 0, err
			}
			norm = noised * distance(t.target, w)
		}
		addNoise(t.target, norm)
	}
	left := float32(t.e.steps - t.step + 1)
	for i := range w {
		w[i] += (t.target[i] - w[i]) / left
	}
	return t.jitter(), t.Trainer.SetParams(w)
}

// others waits for a delta of the round by somebody else, where the cheat is to copy it.
func (t *trainer) others() *codec.Delta {
	if t.l.kind != Copy {
		return nil
	}
	b := t.l.wait(patient)
	h, ok := headerOf(b)
	if !ok {
		return nil
	}
	d, err := t.e.codec.Decode(h, b)
	if err != nil {
		return nil
	}
	return d
}

// headerOf reads whose delta a payload is, see package codec.
func headerOf(b []byte) (h codec.Header, ok bool) {
	if len(b) < 155 || string(b[:4]) != "SHPG" {
		return h, false
	}
	return codec.Header{Run: wire.CID(b[50:86]), Parent: wire.CID(b[86:122]), Peer: wire.PeerID(b[122:155])}, true
}

// jitter is a loss near the last one.
func (t *trainer) jitter() float64 { return t.loss * (1 + 0.02*rand.NormFloat64()) }

// addNoise adds Gaussian noise of a norm to w.
func addNoise(w []float32, norm float64) {
	sigma := norm / math.Sqrt(float64(max(1, len(w))))
	for i := range w {
		w[i] += float32(sigma * rand.NormFloat64())
	}
}

func distance(a, b []float32) float64 {
	sum := 0.0
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		sum += d * d
	}
	return math.Sqrt(sum)
}

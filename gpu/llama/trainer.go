package llama

import (
	"errors"
	"fmt"
	"math"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/hf"
)

// Version rises with each change that alters the bits of a training step on a
// device whose results are the same.
//
//	1  first
const Version = 1

// ErrNotFinite is what Step wraps where the loss or the gradient is not a
// finite number; weights, moments and step count are as before.
var ErrNotFinite = errors.New("not finite")

// Options are AdamW's numbers.
type Options struct {
	Beta1       float64 // decay of the first moment, in [0, 1)
	Beta2       float64 // decay of the second moment, in [0, 1)
	Eps         float64 // added to the root of the second moment; above 0
	WeightDecay float64 // decoupled, of matrices only; norm gains do not decay
	Clip        float64 // largest norm of the whole gradient; 0 clips nothing

	// MicroBatch is how many sequences go through the model at a time; the
	// gradients of a step's are added before it is made. 0 means all: the fastest,
	// with the most memory. Sums over tokens of norms' gains and of tied embeddings
	// are added in another order for another MicroBatch, so that results differ in
	// their last bits.
	MicroBatch int
	// Checkpoint keeps each block's input only and computes the rest of its
	// activations again in the backward pass: the same bits for less memory and
	// about a third more time.
	Checkpoint bool
	// Pack says that sequences hold several documents, each ended by the token
	// Separator, that must not see one another, in Step and in Eval.
	Pack      bool
	Separator int32
}

// DefaultOptions are DiLoCo's inner AdamW settings (Douillard et al. 2023 as
// published by OpenDiLoCo).
func DefaultOptions() Options {
	return Options{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1, Clip: 1}
}

// Validate names the first option out of range.
func (o Options) Validate() error {
	in := func(name string, v, lo, hi float64, open bool) error {
		if !(v >= lo && v <= hi) || (open && v == hi) {
			return fmt.Errorf("%s: %g is out of range [%g, %g]", name, v, lo, hi)
		}
		return nil
	}
	if o.MicroBatch < 0 {
		return fmt.Errorf("micro-batch of %d sequences", o.MicroBatch)
	}
	return errors.Join(
		in("beta1", o.Beta1, 0, 1, true),
		in("beta2", o.Beta2, 0, 1, true),
		in("eps", o.Eps, 1e-30, 1, false),
		in("weight decay", o.WeightDecay, 0, 10, false),
		in("clip", o.Clip, 0, 1e30, false),
	)
}

// A Trainer is a model with its gradients and Adam moments. It is for one
// goroutine. After the first Step of a batch's size a Step allocates nothing.
type Trainer struct {
	Model
	opts    Options
	grads   gpu.Buffer // flat, as params; zero between steps
	g       weights    // views of grads
	m, v    gpu.Buffer // Adam's moments
	steps   uint64     // steps done
	runs    []run
	train   *plan
	mirror  []float32 // Params, on devices with memory of their own
	tap     []float32 // Hidden, likewise
	split   bool      // the latest step went through the model in parts, whose last hidden states are in tap
	rows    int       // of the last Step; 0 where an Eval came after it
	lastMag float64   // norm of the last gradient, before clipping
}

// A run is a stretch of the flat vector whose tensors decay alike.
type run struct {
	p, g, m, v gpu.Buffer
	decay      bool
}

// NewTrainer makes a trainer with a copy of params and fresh moments.
func NewTrainer(dev gpu.Device, cfg hf.Config, params []float32, o Options) (*Trainer, error) {
	if err := check(cfg, params); err != nil {
		return nil, err
	}
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("llama: optimizer: %w", err)
	}
	if o.Pack && (o.Separator < 0 || int(o.Separator) >= cfg.VocabSize) {
		return nil, fmt.Errorf("llama: separator: token %d is not in the vocabulary of %d", o.Separator, cfg.VocabSize)
	}
	n := len(params)
	p := dev.Alloc(n)
	dev.Upload(p, params)
	model, err := newModel(dev, cfg, p)
	if err != nil {
		return nil, err
	}
	t := &Trainer{Model: *model, opts: o, grads: dev.Alloc(n), m: dev.Alloc(n), v: dev.Alloc(n)}
	if t.g, err = views(cfg, t.grads, true); err != nil {
		return nil, err
	}
	off, from := 0, 0
	tensors := cfg.Tensors()
	for i, x := range tensors {
		off += x.Len()
		decay := len(x.Shape) > 1
		if i+1 < len(tensors) && (len(tensors[i+1].Shape) > 1) == decay {
			continue
		}
		t.runs = append(t.runs, run{t.params.Slice(from, off), t.grads.Slice(from, off), t.m.Slice(from, off), t.v.Slice(from, off), decay})
		from = off
	}
	return t, nil
}

// Step does one step of AdamW at learning rate lr on the mean loss of tokens,
// sequences of T+1 ids each, and returns that loss in nats per token, as it
// was before the step. Where packed sequences hold separators only there is
// nothing to predict: the loss is 0, the step that of Adam's moments and the decay.
func (t *Trainer) Step(tokens [][]int32, lr float64) (float64, error) {
	if !(lr >= 0) || math.IsInf(lr, 0) {
		return 0, fmt.Errorf("llama: step %d: learning rate %g", t.steps+1, lr)
	}
	t.rows = 0
	loss, err := t.gradient(tokens)
	if err == nil {
		t.rows = len(tokens) * (len(tokens[0]) - 1)
		err = t.update(lr)
	}
	if err != nil {
		t.dev.Zero(t.grads)
		return loss, fmt.Errorf("llama: step %d: %w", t.steps+1, err)
	}
	return loss, nil
}

// gradient adds the gradient of the mean loss of tokens to t.grads.
func (t *Trainer) gradient(tokens [][]int32) (float64, error) {
	length, err := t.checkTokens(tokens)
	if err != nil {
		return 0, err
	}
	group := len(tokens)
	if t.opts.MicroBatch > 0 {
		group = min(group, t.opts.MicroBatch)
	}
	if t.train == nil || t.train.rows < group*length {
		t.train = newPlanOf(t.dev, t.cfg, group*length, true, t.opts.Checkpoint)
	}
	predictions := max(1, t.opts.predictions(tokens))
	if err := t.packable(&t.opts, length); err != nil {
		return 0, err
	}
	t.turn = t.tables(length, length)
	t.split = group < len(tokens)
	var sum float64
	for i := 0; i < len(tokens); i += group {
		part := tokens[i:min(i+group, len(tokens))]
		n := len(part) * length
		t.train.load(part)
		t.opts.separate(t.train, len(part), length)
		t.forward(t.train, len(part), length)
		t.tapPart(i*length, n, len(tokens)*length)
		t.head(t.train, n, predictions, &t.g)
		t.backward(t.train, len(part), length, &t.g)
		sum += t.dev.Sum(t.train.loss.Slice(0, n))
	}
	loss := sum / float64(predictions)
	if !finite(loss) {
		return loss, fmt.Errorf("loss %g: %w", loss, ErrNotFinite)
	}
	return loss, t.dev.Sync()
}

// update applies t.grads and clears them.
func (t *Trainer) update(lr float64) error {
	norm := math.Sqrt(t.dev.SumSquares(t.grads))
	if !finite(norm) {
		return fmt.Errorf("gradient of norm %g: %w", norm, ErrNotFinite)
	}
	t.lastMag = norm
	o := gpu.AdamW{Scale: 1, Beta1: float32(t.opts.Beta1), Beta2: float32(t.opts.Beta2), Eps: float32(t.opts.Eps)}
	if t.opts.Clip > 0 && norm > t.opts.Clip {
		o.Scale = float32(t.opts.Clip / norm)
	}
	o.Rate = float32(lr / (1 - power(t.opts.Beta1, t.steps+1)))
	o.Correct2 = float32(1 / (1 - power(t.opts.Beta2, t.steps+1)))
	for i := range t.runs {
		r := &t.runs[i]
		o.Keep = 1
		if r.decay {
			o.Keep = float32(1 - float64(lr*t.opts.WeightDecay))
		}
		t.dev.AdamW(r.p, r.g, r.m, r.v, o)
	}
	t.steps++
	return t.dev.Sync()
}

// power is b^n by repeated squaring: multiplications only, so that every
// machine gets the same number.
func power(b float64, n uint64) float64 {
	r := 1.0
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			r = float64(r * b)
		}
		b = float64(b * b)
	}
	return r
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// Steps is the number of steps done, those before a Load included.
func (t *Trainer) Steps() uint64 { return t.steps }

// GradNorm is the norm of the last step's gradient before it was clipped.
func (t *Trainer) GradNorm() float64 { return t.lastMag }

// Params are the live weights in the order of hf.Config.Tensors, to be read
// and not kept: the next Step changes them.
func (t *Trainer) Params() []float32 {
	if t.params.Host != nil {
		return t.params.Host
	}
	if t.mirror == nil {
		t.mirror = make([]float32, t.params.N)
	}
	t.dev.Download(t.mirror, t.params)
	return t.mirror
}

// Eval is Model's, of packed sequences where Step's are.
func (t *Trainer) Eval(tokens [][]int32) (float64, error) {
	t.rows, t.hidden = 0, t.hidden[:0]
	loss, err := t.evalAs(tokens, &t.opts)
	if err != nil {
		t.hidden = t.hidden[:0]
	}
	return loss, err
}

// tapPart keeps the last hidden states of a micro-batch, n rows of total from
// row at on, before the next one takes their place.
func (t *Trainer) tapPart(at, n, total int) {
	if n == total {
		return // they stay where they are, see Hidden
	}
	d := t.cfg.HiddenSize
	if cap(t.tap) < total*d {
		t.tap = make([]float32, total*d)
	}
	t.tap = t.tap[:total*d]
	t.dev.Download(t.tap[at*d:(at+n)*d], t.train.h.Row(0, n).Buffer)
}

// Hidden are the last hidden states, after the final norm, of the batch of the
// latest Step, as they were before its update, or of the latest Eval: rows of
// width values, one for each position that predicts, sequence after sequence. They
// cost no pass of their own, and are valid until the next call. Nil before the first.
func (t *Trainer) Hidden() (rows []float32, width int) {
	width = t.cfg.HiddenSize
	if t.rows == 0 {
		return t.hidden, width
	}
	if t.split {
		return t.tap, width // by tapPart
	}
	h := t.train.h.Row(0, t.rows).Buffer // the backward pass leaves it alone
	if h.Host != nil {
		return h.Host, width
	}
	if cap(t.tap) < h.N {
		t.tap = make([]float32, h.N)
	}
	t.tap = t.tap[:h.N]
	t.dev.Download(t.tap, h)
	return t.tap, width
}

// SetParams copies params in. Moments and step count stay, as DiLoCo's inner
// optimizer keeps its own across outer steps.
func (t *Trainer) SetParams(params []float32) error {
	if len(params) != t.params.N {
		return fmt.Errorf("llama: %d parameters, the model has %d", len(params), t.params.N)
	}
	t.dev.Upload(t.params, params)
	return nil
}

// Close gives up the trainer's memory; the device stays.
func (t *Trainer) Close() error {
	*t = Trainer{}
	return nil
}

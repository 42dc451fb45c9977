// Package calibrate measures, on one model, how far honest machines drift from
// a verifier and how far forgeries are from both, and writes the limits that tell
// them apart: a toploc.Policy with its evidence.
//
// Limits come from one half of the sequences. The other half, which they have not
// seen, gives the false-reject rate with an upper bound (Clopper and Pearson 1934)
// and, with the first, each forgery's pass rate.
//
// Everything measured is kept until the report: (1 + honest machines + forgers) ·
// sequences · tokens · hidden · 2 bytes.
package calibrate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/toploc"
)

// A Machine is one way of computing a model.
type Machine struct {
	Name    string
	Device  gpu.Device
	Stretch int // tokens in a pass: 1 generates, more reads ahead
}

// A Net is a model: its configuration and its flat weights.
type Net struct {
	Config  hf.Config
	Weights []float32
}

// Config says what to measure.
type Config struct {
	Model  Net
	Params toploc.Params
	// Prompts begin the sequences, which go on with Tokens drawn tokens: a multiple
	// of the batch, so that all chunks are whole. At least four sequences.
	Prompts [][]int32
	Tokens  int
	// Temperature of the draws; EOS tokens are drawn like any other, so that all
	// sequences have one length.
	Temperature float64
	Verifier    Machine
	// Honest machines. The first one generates.
	Honest []Machine
	// Forgers compute something else on the verifier's machine: other weights of
	// the same shape, or another prompt.
	Forgers []Forger
	// Drafts are models that generate the text instead; the right model then reads
	// it, so that all activations are honest.
	Drafts []Draft
	// Values and Bits of the projection; 0 means 8 and 4.
	Values, Bits int
	// Confidence of the bounds; 0 means 0.95.
	Confidence float64
	// Progress, if not nil, is told what was done.
	Progress func(what string)
}

// A Forger passes off other activations for the model's.
type Forger struct {
	Name   string
	Model  Net                          // of the same hidden size
	Prompt func(prompt []int32) []int32 // what it reads instead; nil means the prompt
}

// A Draft generates with another model or temperature.
type Draft struct {
	Name        string
	Model       Net // of the same vocabulary
	Temperature float64

	unseeded bool // randomness of its own
	edit     bool // one token is another than the one drawn
	honest   bool
	machine  int // that generates, of the honest ones
}

// maxKept bounds the memory of a measurement, in bytes.
const maxKept = 16 << 30

func (c *Config) check() error {
	if c.Values == 0 {
		c.Values = 8
	}
	if c.Bits == 0 {
		c.Bits = 4
	}
	if c.Confidence == 0 {
		c.Confidence = 0.95
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	if c.Model.Config.HiddenSize != c.Params.Hidden {
		return fmt.Errorf("calibrate: hidden size %d, the model's is %d", c.Params.Hidden, c.Model.Config.HiddenSize)
	}
	if len(c.Prompts) < 4 {
		return fmt.Errorf("calibrate: %d sequences, want 4 and more", len(c.Prompts))
	}
	if c.Tokens < 1 || c.Params.Batch < 1 || c.Tokens%c.Params.Batch != 0 {
		return fmt.Errorf("calibrate: %d tokens are no multiple of the batch of %d", c.Tokens, c.Params.Batch)
	}
	if !(c.Temperature > 0) || !(c.Confidence > 0 && c.Confidence < 1) {
		return fmt.Errorf("calibrate: temperature %g, confidence %g: want above 0, and below 1", c.Temperature, c.Confidence)
	}
	if len(c.Honest) == 0 {
		return errors.New("calibrate: no honest machine")
	}
	var tokens int64
	for i, p := range c.Prompts {
		if n := len(p) + c.Tokens; len(p) == 0 || n > c.Model.Config.Context() {
			return fmt.Errorf("calibrate: sequence %d has %d tokens of prompt and %d after it, the model takes 1 to %d", i, len(p), c.Tokens, c.Model.Config.Context())
		}
		tokens += int64(len(p) + c.Tokens)
	}
	if kept := tokens * int64(c.Params.Hidden) * 2 * int64(1+len(c.Honest)+len(c.Forgers)); kept > maxKept {
		return fmt.Errorf("calibrate: %d MiB of activations, at most %d: take fewer sequences", kept>>20, maxKept>>20)
	}
	return nil
}

// rows are the activations of each sequence, as bfloat16 bits.
type rows [][]uint16

// A run is what one machine or forger made of all sequences.
type run struct {
	name    string
	rows    rows
	margins [][]float64 // honest: how far from the verifier's choice its own is, by token
	drift   [][]float64 // and by how much the gap between the verifier's two best differs
}

// A measurement is all that the report is made of.
type measurement struct {
	c       *Config
	tokens  [][]int32 // prompt and drawn tokens
	own     rows      // the verifier's
	honest  []run
	forged  []run
	prompts []int // their lengths
}

func job(sequence int) []byte {
	return binary.BigEndian.AppendUint64([]byte("calibration"), uint64(sequence))
}

// Run measures and makes the report.
func Run(ctx context.Context, c Config) (*Report, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	m := &measurement{c: &c}
	if err := m.generate(ctx); err != nil {
		return nil, err
	}
	if err := m.read(ctx); err != nil {
		return nil, err
	}
	r, err := m.report()
	if err != nil {
		return nil, err
	}
	if err := m.drafts(ctx, r); err != nil {
		return nil, err
	}
	return r, nil
}

// generate draws the text of all sequences on the first honest machine.
func (m *measurement) generate(ctx context.Context) error {
	model, err := llama.New(m.c.Honest[0].Device, m.c.Model.Config, m.c.Model.Weights)
	if err != nil {
		return err
	}
	for i, p := range m.c.Prompts {
		ids, err := m.write(ctx, model, Draft{Temperature: m.c.Temperature}, i, p, job(i))
		if err != nil {
			return fmt.Errorf("calibrate: sequence %d: %w", i, err)
		}
		m.tokens = append(m.tokens, ids)
		m.prompts = append(m.prompts, len(p))
	}
	m.c.Progress(fmt.Sprintf("drew %d sequences of %d tokens", len(m.tokens), m.c.Tokens))
	return nil
}

// read has the verifier and everybody else read all sequences.
func (m *measurement) read(ctx context.Context) error {
	var models []*llama.Model
	load := func(dev gpu.Device, n Net) error {
		model, err := llama.New(dev, n.Config, n.Weights)
		models = append(models, model)
		return err
	}
	err := load(m.c.Verifier.Device, m.c.Model)
	for _, h := range m.c.Honest {
		err = errors.Join(err, load(h.Device, m.c.Model))
		m.honest = append(m.honest, run{name: h.Name})
	}
	for _, f := range m.c.Forgers {
		if f.Model.Config.HiddenSize != m.c.Params.Hidden {
			err = errors.Join(err, fmt.Errorf("calibrate: forger %s has a hidden size of %d", f.Name, f.Model.Config.HiddenSize))
		}
		err = errors.Join(err, load(m.c.Verifier.Device, f.Model))
		m.forged = append(m.forged, run{name: f.Name})
	}
	if err != nil {
		return err
	}
	for i, ids := range m.tokens {
		own, logits, err := readAll(ctx, models[0], ids, m.c.Verifier.Stretch)
		if err != nil {
			return fmt.Errorf("calibrate: verifier, sequence %d: %w", i, err)
		}
		m.own = append(m.own, own)
		for h := range m.honest {
			if err := m.readHonest(ctx, models[1+h], h, i, logits); err != nil {
				return fmt.Errorf("calibrate: %s, sequence %d: %w", m.honest[h].name, i, err)
			}
		}
		for f := range m.forged {
			a, err := m.readForged(ctx, models[1+len(m.honest)+f], f, i)
			if err != nil {
				return fmt.Errorf("calibrate: %s, sequence %d: %w", m.forged[f].name, i, err)
			}
			m.forged[f].rows = append(m.forged[f].rows, a)
		}
		if (i+1)%32 == 0 || i+1 == len(m.tokens) {
			m.c.Progress(fmt.Sprintf("read %d of %d sequences on %d machines", i+1, len(m.tokens), len(models)))
		}
	}
	return nil
}

// readAll reads a sequence and keeps the rows and logits of all its tokens.
func readAll(ctx context.Context, model *llama.Model, ids []int32, stretch int) (a []uint16, logits [][]float32, err error) {
	r, err := model.NewReader(len(ids), max(1, stretch))
	if err != nil {
		return nil, nil, err
	}
	err = r.Read(ctx, ids, func(hidden, z []float32) error {
		a = appendBF16(a, hidden)
		logits = append(logits, append([]float32(nil), z...))
		return nil
	})
	return a, logits, err
}

func appendBF16(a []uint16, f []float32) []uint16 {
	n := len(a)
	a = append(a, make([]uint16, len(f))...)
	toploc.RoundBF16(a[n:], f)
	return a
}

// readHonest reads sequence i on machine h: the prompt at once, what follows as
// the machine does it. It keeps the rows, the margin of the token that this machine
// would have drawn, and the drift of scores. The two seldom draw different tokens, so
// that margins say little of how large they may become; but where they do, the margin
// is at most the drift of the gap between the two tokens, which every position shows.
func (m *measurement) readHonest(ctx context.Context, model *llama.Model, h, i int, own [][]float32) error {
	s, err := toploc.NewSampler(job(i), m.c.Temperature)
	if err != nil {
		return err
	}
	ids, prompt, stretch := m.tokens[i], m.prompts[i], max(1, m.c.Honest[h].Stretch)
	r, err := model.NewReader(len(ids), max(stretch, prompt))
	if err != nil {
		return err
	}
	var a []uint16
	var margins, drift []float64
	at := 0
	see := func(hidden, logits []float32) error {
		a = appendBF16(a, hidden)
		if n := at - (prompt - 1); n >= 0 && n < m.c.Tokens {
			id, err := s.Pick(uint64(n), logits)
			if err != nil {
				return err
			}
			c, err := s.Check(uint64(n), own[at], id)
			if err != nil {
				return err
			}
			margins = append(margins, c.Margin)
			second, err := s.Without(uint64(n), own[at], c.Token)
			if err != nil {
				return err
			}
			gap := func(z []float32) float64 { return float64(z[c.Token]) - float64(z[second]) }
			drift = append(drift, math.Abs(gap(logits)-gap(own[at]))/m.c.Temperature)
		}
		at++
		return nil
	}
	if err := r.Read(ctx, ids[:prompt], see); err != nil {
		return err
	}
	for rest := ids[prompt:]; len(rest) > 0; {
		n := min(stretch, len(rest))
		if err := r.Read(ctx, rest[:n], see); err != nil {
			return err
		}
		rest = rest[n:]
	}
	m.honest[h].rows = append(m.honest[h].rows, a)
	m.honest[h].margins = append(m.honest[h].margins, margins)
	m.honest[h].drift = append(m.honest[h].drift, drift)
	return nil
}

// readForged reads sequence i as forger f does, and returns as many rows as the
// verifier has. Where the forger's prompt is shorter, its first row stands for
// those that it lacks.
func (m *measurement) readForged(ctx context.Context, model *llama.Model, f, i int) ([]uint16, error) {
	ids := m.tokens[i]
	if alter := m.c.Forgers[f].Prompt; alter != nil {
		ids = append(alter(append([]int32(nil), ids[:m.prompts[i]]...)), ids[m.prompts[i]:]...)
	}
	a, _, err := readAll(ctx, model, ids, len(ids))
	if err != nil {
		return nil, err
	}
	d := m.c.Params.Hidden
	for len(a) < len(m.own[i]) {
		a = append(a[:d:d], a...)
	}
	return a[len(a)-len(m.own[i]):], nil
}

// shuffled is a random order of n, the same each time.
func shuffled(seed uint64, n int) []int { return rand.New(rand.NewPCG(seed, 1)).Perm(n) }

package node

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/shoalnet/shoal/toploc/audit"
)

// toyEngine computes a toy: each weight is drawn to a point near 1 that the
// batch moves, with momentum, so that order, data and moments all show in the
// result. It is deterministic.
type toyEngine struct {
	n     int
	speed time.Duration // of a step
	// before, if set, is called before each step and may fail it.
	before func(step uint64) error
	// poison, if set, is added to every weight after each step.
	poison float32
}

func (e *toyEngine) Genesis() ([]float32, error) {
	w := make([]float32, e.n)
	for i := range w {
		w[i] = float32(i%7) / 64
	}
	return w, nil
}

func (e *toyEngine) NewTrainer(params []float32) (Trainer, error) {
	t := &toyTrainer{engine: e, m: make([]float32, e.n)}
	return t, t.SetParams(params)
}

type toyTrainer struct {
	engine *toyEngine
	w, m   []float32
	steps  uint64
	hidden []float32
}

func (t *toyTrainer) goal(batch [][]int32, i int) float32 {
	sum := int32(0)
	for _, row := range batch {
		sum += row[i%len(row)]
	}
	return 1 + float32(sum%5)/32
}

func (t *toyTrainer) Step(batch [][]int32, lr float64) (float64, error) {
	if f := t.engine.before; f != nil {
		if err := f(t.steps); err != nil {
			return 0, err
		}
	}
	time.Sleep(t.engine.speed)
	loss, err := t.Eval(batch)
	for i := range t.w {
		t.m[i] = 0.5*t.m[i] + (t.w[i] - t.goal(batch, i))
		t.w[i] -= float32(lr)*t.m[i] + t.engine.poison
	}
	t.steps++
	return loss, err
}

func (t *toyTrainer) Eval(batch [][]int32) (float64, error) {
	t.hidden = t.hidden[:0]
	for _, row := range batch {
		for i, id := range row[1:] {
			for j := range 8 {
				t.hidden = append(t.hidden, t.w[(8*i+j)%len(t.w)]+float32(id+1)*t.w[j]/4)
			}
		}
	}
	sum := 0.0
	for i, w := range t.w {
		d := float64(w - t.goal(batch, i))
		sum += d * d
	}
	return sum / float64(len(t.w)), nil
}

func (t *toyTrainer) Params() []float32 { return t.w }

func (t *toyTrainer) SetParams(p []float32) error {
	if len(p) != t.engine.n {
		return fmt.Errorf("%d weights, want %d", len(p), t.engine.n)
	}
	t.w = append(t.w[:0], p...)
	return nil
}

func (t *toyTrainer) Save(w io.Writer) error {
	b := binary.LittleEndian.AppendUint64(nil, t.steps)
	for _, v := range append(append([]float32{}, t.w...), t.m...) {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	_, err := w.Write(b)
	return err
}

func (t *toyTrainer) Load(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(b) != 8+8*t.engine.n {
		return fmt.Errorf("%d bytes, want %d", len(b), 8+8*t.engine.n)
	}
	t.steps = binary.LittleEndian.Uint64(b)
	for i := range t.w {
		t.w[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[8+4*i:]))
		t.m[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[8+4*(i+t.engine.n):]))
	}
	return nil
}

func (t *toyTrainer) Close() error { return nil }

func (e *toyEngine) Identity() string { return "toy" }

func (e *toyEngine) Unpack(b []byte) (audit.Snapshot, error) {
	t := &toyTrainer{engine: e, w: make([]float32, e.n), m: make([]float32, e.n)}
	err := t.Load(bytes.NewReader(b))
	return audit.Snapshot{Steps: t.steps, Params: t.w, First: t.m, Second: make([]float32, e.n)}, err
}

// Hidden mixes weights and batch, 16 rows of 8 as the toy's batches have.
func (t *toyTrainer) Hidden() ([]float32, int) { return t.hidden, 8 }

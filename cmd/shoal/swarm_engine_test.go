package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// simEngine stands for a model of n parameters whose inner steps take a given
// time and no work: each weight is drawn to a point that the batch chooses, so
// that state and data show in the result. It is deterministic.
type simEngine struct {
	n     int
	speed time.Duration
}

var _ node.Engine = (*simEngine)(nil)

func (e *simEngine) Genesis() ([]float32, error) {
	w := make([]float32, e.n)
	for i := range w {
		w[i] = float32(i%7) / 64
	}
	return w, nil
}

func (e *simEngine) NewTrainer(params []float32) (node.Trainer, error) {
	t := &simTrainer{engine: e}
	return t, t.SetParams(params)
}

type simTrainer struct {
	engine *simEngine
	w      []float32
}

// goal is where a batch draws the weights: near 1.
func goal(batch [][]int32) (g [8]float32) {
	for i := range g {
		sum := int32(0)
		for _, row := range batch {
			sum += row[i%len(row)]
		}
		g[i] = 1 + float32(sum%5)/32
	}
	return g
}

func (t *simTrainer) Step(batch [][]int32, lr float64) (float64, error) {
	time.Sleep(t.engine.speed)
	g := goal(batch)
	sum := 0.0
	for i, w := range t.w {
		d := w - g[i%8]
		sum += float64(d * d)
		t.w[i] = w - float32(lr)*d
	}
	return sum / float64(len(t.w)), nil
}

func (t *simTrainer) Eval(batch [][]int32) (float64, error) {
	g := goal(batch)
	sum := 0.0
	for i, w := range t.w {
		d := float64(w - g[i%8])
		sum += d * d
	}
	return sum / float64(len(t.w)), nil
}

func (e *simEngine) Identity() string { return "sim" }

func (e *simEngine) Unpack(b []byte) (audit.Snapshot, error) {
	t := &simTrainer{engine: e, w: make([]float32, e.n)}
	err := t.Load(bytes.NewReader(b))
	return audit.Snapshot{Params: t.w}, err
}

func (t *simTrainer) Hidden() ([]float32, int) { return t.w[:min(len(t.w), 256)], 8 }

func (t *simTrainer) Params() []float32 { return t.w }

func (t *simTrainer) SetParams(p []float32) error {
	if len(p) != t.engine.n {
		return fmt.Errorf("%d weights, want %d", len(p), t.engine.n)
	}
	t.w = append(t.w[:0], p...)
	return nil
}

func (t *simTrainer) Save(w io.Writer) error {
	b := make([]byte, 0, 4*len(t.w))
	for _, v := range t.w {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	_, err := w.Write(b)
	return err
}

func (t *simTrainer) Load(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(b) != 4*t.engine.n {
		return fmt.Errorf("%d bytes, want %d", len(b), 4*t.engine.n)
	}
	for i := range t.w {
		t.w[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return nil
}

func (t *simTrainer) Close() error { return nil }

// watchedNet notes what a node publishes.
type watchedNet struct {
	node.Net
	w *watch
}

func (n watchedNet) Join(topic string, judge node.Judge) (node.Topic, error) {
	t, err := n.Net.Join(topic, judge)
	if err != nil {
		return nil, err
	}
	return watchedTopic{t, n.w}, nil
}

type watchedTopic struct {
	node.Topic
	w *watch
}

func (t watchedTopic) Publish(ctx context.Context, data []byte) error {
	if m, err := wire.Decode(data); err == nil {
		t.w.heard(m)
	}
	return t.Topic.Publish(ctx, data)
}

func (w *watch) heard(m *wire.Signed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kinds[m.Kind]++
	if m.Kind != wire.KindDelta {
		return
	}
	var d diloco.Delta
	if wire.Unmarshal(m.Body, &d) != nil {
		return
	}
	if _, again := w.said[d.Block]; !again {
		w.said[d.Block] = said{time.Now(), d.Round}
	}
}

// watchedBlocks notes which files a node fetches, and when.
type watchedBlocks struct {
	node.Blocks
	w *watch
}

func (b watchedBlocks) FetchFile(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64) ([]byte, error) {
	began := time.Now()
	data, err := b.Blocks.FetchFile(ctx, c, from, limit)
	if err == nil {
		b.w.mu.Lock()
		defer b.w.mu.Unlock()
		if _, again := b.w.fetched[c]; !again {
			b.w.fetched[c] = interval{began, time.Now()}
		}
	}
	return data, err
}

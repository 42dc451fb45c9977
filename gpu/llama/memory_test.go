package llama

import (
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/hf"
)

// allocating counts what a real device is asked for.
type allocating struct {
	gpu.Device
	n int64
}

func (a *allocating) Alloc(n int) gpu.Buffer {
	a.n += int64(n)
	return a.Device.Alloc(n)
}

// What is told beforehand is what passes and caches then take.
func TestScorerAndCacheMemory(t *testing.T) {
	cfg := small(true)
	dev := &allocating{Device: devices(t)[0]}
	m, err := New(dev, cfg, Genesis(cfg, 1))
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.NewScorer(33)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Score(t.Context(), make([]int32, 33), nil); err != nil {
		t.Fatal(err)
	}
	want, err := ScorerMemory(cfg, 33, true)
	if err != nil {
		t.Fatal(err)
	}
	// Packed weights are padded to whole panels, or not counted where the device makes them.
	if got := 4 * (dev.n + int64(cap(m.hidden))); got > want+want/4 || got+4*cfg.NumParams() < want {
		t.Errorf("a scorer takes %d bytes, %d were told", got, want)
	}
	d := m.newDecoder(1, pages(70), 1, false)
	want = 0
	for _, c := range d.caches {
		want += 4 * int64(c.N)
	}
	if got := CacheMemory(cfg, 70); got != want {
		t.Errorf("caches take %d bytes, %d were told", want, got)
	}
}

// What is told beforehand is what a trainer then takes, but for the rotary tables.
func TestTrainingMemory(t *testing.T) {
	for _, family := range []string{"", hf.Qwen2, hf.Qwen3} {
		cfg := hf.Config{Family: family, HiddenSize: 16, IntermediateSize: 24, NumHiddenLayers: 3, NumAttentionHeads: 4, NumKeyValueHeads: 2, HeadDim: 4,
			VocabSize: 11, MaxPositionEmbeddings: 16, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: family != hf.Qwen2}
		var was int64
		for _, o := range []Options{{}, {Checkpoint: true}, {Checkpoint: true, MicroBatch: 2}} {
			d := DefaultOptions()
			d.Checkpoint, d.MicroBatch = o.Checkpoint, o.MicroBatch
			dev := &allocating{Device: devices(t)[0]}
			tr, err := NewTrainer(dev, cfg, Genesis(cfg, 1), d)
			if err != nil {
				t.Fatal(err)
			}
			batch := make([][]int32, 5)
			for i := range batch {
				batch[i] = make([]int32, 9)
			}
			if _, err := tr.Step(batch, 0.1); err != nil {
				t.Fatal(err)
			}
			got := TrainingMemory(cfg, 5, 8, d)
			tables := 4 * dev.n
			for _, b := range []gpu.Buffer{tr.turn.cos.Buffer, tr.turn.sin.Buffer} {
				tables -= 4 * int64(b.N)
			}
			if got != tables {
				t.Errorf("%q, %+v: %d bytes told, %d taken", family, o, got, tables)
			}
			if was > 0 && got >= was {
				t.Errorf("%+v takes %d bytes, no less than %d", o, got, was)
			}
			was = got
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

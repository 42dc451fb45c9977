package llama

import (
	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/hf"
)

// TrainingMemory is how many bytes of a device a Trainer takes for steps of seqs
// sequences of length tokens: parameters, gradients, both moments and, with what
// o says of micro-batches and checkpoints, the activations.
func TrainingMemory(cfg hf.Config, seqs, length int, o Options) int64 {
	if o.MicroBatch > 0 {
		seqs = min(seqs, o.MicroBatch)
	}
	c := &counter{n: 4 * cfg.NumParams()}
	newPlanOf(c, cfg, seqs*length, true, o.Checkpoint)
	return 4 * c.n
}

// ScorerMemory is how many bytes a Scorer of documents of up to longest tokens takes
// besides the parameters, of which it has a copy in its device's order.
func ScorerMemory(cfg hf.Config, longest int) (int64, error) {
	c := &counter{}
	m, err := newModel(c, cfg, gpu.Buffer{N: int(cfg.NumParams())})
	if err != nil {
		return 0, err
	}
	m.newScorer(longest)
	if n := min(longest-1, m.atOnce()); n > 0 {
		newPlan(c, cfg, n, false)
		c.n += int64(n) * int64(cfg.HiddenSize)
	}
	return 4 * (c.n + int64(longest)*int64(cfg.HeadSize())), nil // with cosines and sines
}

// CacheMemory is how many bytes the keys and values of so many positions take.
func CacheMemory(cfg hf.Config, positions int) int64 {
	return 4 * int64(cfg.NumHiddenLayers) * int64(gpu.CacheLen(pages(positions), cfg.KVHeads(), cfg.HeadSize()))
}

// A counter is a device that only counts what is asked of it.
type counter struct {
	gpu.Device
	n int64 // values
}

func (c *counter) Alloc(n int) gpu.Buffer {
	c.n += int64(n)
	return gpu.Buffer{N: n}
}

func (*counter) Upload(gpu.Buffer, []float32) {}

func (c *counter) Pack(_ bool, w ...gpu.Matrix) gpu.Packed {
	rows, cols := 0, 0
	for _, m := range w {
		rows, cols = rows+m.Rows, m.Cols
	}
	return gpu.Packed{Buffer: c.Alloc(rows * cols), Rows: rows, Cols: cols}
}

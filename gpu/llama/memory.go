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

// LoadedMemory is how many bytes the weights of a model that Load makes take.
func LoadedMemory(cfg hf.Config, half bool) int64 {
	c := &counter{}
	_, _ = load(c, cfg, half, func([]piece, int) error { return nil })
	return c.bytes()
}

// ScorerMemory is how many bytes a Scorer of documents of up to longest tokens takes
// besides the parameters: with flat, which New takes, it has a copy of them in its device's order.
func ScorerMemory(cfg hf.Config, longest int, flat bool) (int64, error) {
	c := &counter{}
	m, err := newModel(c, cfg, gpu.Buffer{N: int(cfg.NumParams())})
	if err != nil {
		return 0, err
	}
	if !flat {
		m.packed = &packed{layers: make([]packedLayer, cfg.NumHiddenLayers)}
	}
	m.newScorer(longest)
	if n := min(longest-1, m.atOnce()); n > 0 {
		newPlan(c, cfg, n, false)
		c.n += int64(n) * int64(cfg.HiddenSize)
	}
	return c.bytes() + 4*int64(longest)*int64(cfg.HeadSize()), nil // with cosines and sines
}

// CacheMemory is how many bytes the keys and values of so many positions take.
func CacheMemory(cfg hf.Config, positions int) int64 {
	return 4 * int64(cfg.NumHiddenLayers) * int64(gpu.CacheLen(pages(positions), cfg.KVHeads(), cfg.HeadSize()))
}

// A counter is a device that only counts what is asked of it.
type counter struct {
	gpu.Device
	n    int64 // values
	half int64 // in bfloat16
}

func (c *counter) bytes() int64 { return 4*c.n + 2*c.half }

func (c *counter) Alloc(n int) gpu.Buffer {
	c.n += int64(n)
	return gpu.Buffer{N: n}
}

func (*counter) Upload(gpu.Buffer, []float32) {}

func (c *counter) NewPacked(half bool, rows, cols int) gpu.Packed {
	p := gpu.Packed{Rows: rows, Cols: cols}
	if half {
		c.half += int64(rows * cols)
	} else {
		p.Buffer = c.Alloc(rows * cols)
	}
	return p
}

func (*counter) PackRows(gpu.Packed, int, gpu.Matrix) {}

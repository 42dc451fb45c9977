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

// EvalMemory is how many bytes Eval of one sequence of length predictions takes
// besides the parameters.
func EvalMemory(cfg hf.Config, length int) int64 {
	c := &counter{}
	newPlan(c, cfg, length, false)
	tables := int64(length) * int64(cfg.HeadSize()) // cosines and sines
	return 4 * (c.n + tables + int64(length)*int64(cfg.HiddenSize))
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

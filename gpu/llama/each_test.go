package llama

import (
	"math/rand/v2"
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
)

// op by op: a device that has no EachRow.
type opByOp struct{ gpu.Device }

// TestEachRow holds passes that take rows by stretches to those that take operation by
// operation, bit for bit.
func TestEachRow(t *testing.T) {
	isas := cpu.ISAs()
	const pairs = "avx512bf16" // for products in bfloat16 only
	if dev, err := cpu.New(cpu.Options{ISA: pairs}); err == nil {
		dev.Close()
		isas = append(isas, pairs)
	}
	for _, isa := range isas {
		if isa == "portable" {
			continue // goes operation by operation
		}
		biased := wide()
		biased.AttentionBias, biased.MLPBias = true, true
		for name, cfg := range map[string]hf.Config{"llama": wide(), "biased": biased, "qwen2": family(hf.Qwen2, false), "qwen3": family(hf.Qwen3, true)} {
			for _, half := range []bool{false, true} {
				if isa == pairs && !half {
					continue
				}
				steps := func(dev gpu.Device, o Options) uint32 {
					tr, err := NewTrainer(dev, cfg, Genesis(cfg, 3), o)
					if err != nil {
						t.Fatal(err)
					}
					for i := range 2 {
						if _, err := tr.Step(batch(rand.New(rand.NewPCG(9, uint64(i))), 77, 17, cfg.VocabSize), 1e-2); err != nil {
							t.Fatal(err)
						}
					}
					loss, err := tr.Eval(batch(rand.New(rand.NewPCG(9, 9)), 77, 17, cfg.VocabSize))
					if err != nil || !finite(loss) {
						t.Fatalf("loss %g: %v", loss, err)
					}
					return crc(append(tr.Params(), tr.hidden...))
				}
				want := steps(opByOp{newCPU(t, cpu.Options{Threads: 1, ISA: isa, BF16: half})}, DefaultOptions())
				for _, threads := range []int{1, 2, 3} {
					for _, again := range []bool{false, true} {
						o := DefaultOptions()
						o.Checkpoint = again
						if got := steps(newCPU(t, cpu.Options{Threads: threads, ISA: isa, BF16: half}), o); got != want {
							t.Errorf("%s, %s, bf16 %v, %d threads, checkpoints %v: %#x, want %#x", isa, name, half, threads, again, got, want)
						}
					}
				}
			}
		}
	}
}

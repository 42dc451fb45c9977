package llama

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/hf"
)

// breaking fails at its nth read.
type breaking struct {
	hf.Values
	left int
}

var errDisk = errors.New("the disk fails")

func (b *breaking) Read(i int, out []float32, number int) error {
	if b.left--; b.left < 0 {
		return errDisk
	}
	return b.Values.Read(i, out, number)
}

// What a loaded model writes, and what it makes of texts, are the bits of one whose weights
// lie in memory as they are; in bfloat16, too, where they are so.
func TestLoad(t *testing.T) {
	for name, cfg := range map[string]hf.Config{"tied": small(true), "untied": small(false), "qwen2": family(hf.Qwen2, false), "qwen3": family(hf.Qwen3, true), "mlp bias": mlpBias()} {
		rng := rand.New(rand.NewPCG(8, 1))
		params := wild(cfg, rng)
		for i := range params {
			params[i] = gpu.FromBF16(gpu.RoundBF16(params[i]))
		}
		from, err := hf.NewVector(cfg.Tensors(), params)
		if err != nil {
			t.Fatal(err)
		}
		prompt := batch(rng, 1, 10, cfg.VocabSize)[0]
		read := func(m *Model) (all []float32) {
			r, err := m.NewReader(30, 7)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Read(t.Context(), prompt, func(hidden, logits []float32) error {
				all = append(append(all, hidden...), logits...)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			var text []int32
			if err := m.Generate(t.Context(), prompt, GenerateOptions{MaxTokens: 20, Temperature: 0.7, LogProbs: true}, func(x Token) bool {
				all, text = append(all, float32(x.LogProb)), append(text, x.ID)
				return true
			}); err != nil || len(text) != 20 {
				t.Fatalf("%d tokens: %v", len(text), err)
			}
			s, err := m.NewScorer(12)
			if err != nil {
				t.Fatal(err)
			}
			s.once = 0
			loss, err := s.Score(t.Context(), prompt, nil)
			if err != nil {
				t.Fatal(err)
			}
			return append(all, float32(loss))
		}
		for _, dev := range devices(t) {
			m, err := New(dev, cfg, params)
			if err != nil {
				t.Fatal(err)
			}
			want := read(m)
			for _, half := range []bool{false, true} {
				told := int64(0)
				m, err := Load(t.Context(), dev, cfg, from, half, func(done, total int64) {
					if told = done; total != cfg.NumParams() {
						t.Errorf("%s: %d parameters in all", name, total)
					}
				})
				if err != nil || told != cfg.NumParams() {
					t.Fatalf("%s: told of %d parameters of %d: %v", name, told, cfg.NumParams(), err)
				}
				if !slices.Equal(read(m), want) {
					t.Errorf("%s, %s, half %v: another text, or other bits", name, dev.Name(), half)
				}
				if _, err := m.Loss(prompt); err == nil {
					t.Errorf("%s: a loaded model computed Loss", name)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			if _, err := Load(ctx, dev, cfg, from, true, func(int64, int64) { cancel() }); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: after a cancel: %v", name, err)
			}
			for n := range len(cfg.Tensors()) {
				if _, err := Load(t.Context(), dev, cfg, &breaking{from, n}, false, nil); !errors.Is(err, errDisk) {
					t.Fatalf("%s: the disk failed at read %d: %v", name, n, err)
				}
			}
		}
		matrices := int64(0)
		for _, x := range cfg.Tensors() {
			if len(x.Shape) > 1 {
				matrices += int64(x.Len())
			}
		}
		if f, h := LoadedMemory(cfg, false), LoadedMemory(cfg, true); f != 4*cfg.NumParams() || h != f-2*matrices {
			t.Errorf("%s: %d and %d bytes were told for %d parameters, %d of them in matrices", name, f, h, cfg.NumParams(), matrices)
		}
	}
}

// A batch rounds nothing that is packed already.
func TestLoadedBatch(t *testing.T) {
	cfg := small(true)
	from, err := hf.NewVector(cfg.Tensors(), Genesis(cfg, 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, half := range []bool{false, true} {
		m, err := Load(t.Context(), devices(t)[0], cfg, from, half, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.NewBatch(BatchOptions{BF16: true}); (err == nil) != half {
			t.Errorf("half %v: a batch in bfloat16: %v", half, err)
		}
	}
}

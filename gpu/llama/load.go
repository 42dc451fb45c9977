package llama

import (
	"context"
	"fmt"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/hf"
)

// packed are a model's matrices in the order in which its device reads them fastest.
type packed struct {
	layers []packedLayer
	head   gpu.Packed
	embed  gpu.Packed // of a loaded model; head where tied
}

// packedLayer holds a block's matrices.
type packedLayer struct{ kqv, o, gateUp, down gpu.Packed }

// pack packs the matrices of a flat model. Its embedding stays where it is.
func (m *Model) pack(half bool) *packed {
	x := &packed{}
	for i := range m.w.layers {
		w := &m.w.layers[i]
		parts := []gpu.Matrix{w.k, w.qv}
		if w.qv.N == 0 {
			parts = []gpu.Matrix{w.k, w.q, w.v}
		}
		mlp := []gpu.Matrix{w.gateUp}
		if w.gateUp.N == 0 {
			mlp = []gpu.Matrix{w.gate, w.up}
		}
		x.layers = append(x.layers, packedLayer{
			kqv: gpu.Pack(m.dev, half, parts...), o: gpu.Pack(m.dev, half, w.o), gateUp: gpu.Pack(m.dev, half, mlp...), down: gpu.Pack(m.dev, half, w.down),
		})
	}
	x.head = gpu.Pack(m.dev, half, m.w.head)
	return x
}

// Load makes a model that reads and writes texts, of weights that it takes from where they
// are, some at a time: in memory they are once, packed, the embedding of a tied model as
// its head only. With half matrices are in bfloat16, rounded to nearest; where they are stored so,
// each result is the same bits as without, with half the memory and its traffic. The
// model does not train, nor does it compute Loss and Eval: a Scorer does.
//
// told, where not nil, hears how many of all parameters are there.
func Load(ctx context.Context, dev gpu.Device, cfg hf.Config, from hf.Values, half bool, told func(done, total int64)) (*Model, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("llama: config: %w", err)
	}
	const stretch = 1 << 20 // parameters read at a time
	buf := make([]float32, stretch)
	done := int64(0)
	m, err := load(dev, cfg, half, func(to []piece, cols int) error {
		for _, p := range to {
			// Whole panels are packed by all threads.
			rows := max(1, min(p.rows, stretch/cols))
			if rows*cols > len(buf) {
				buf = make([]float32, rows*cols)
			}
			for r := 0; r < p.rows; r += rows {
				if err := ctx.Err(); err != nil {
					return err
				}
				n := min(rows, p.rows-r)
				part := buf[:n*cols]
				if err := from.Read(p.tensor, part, r*cols); err != nil {
					return err
				}
				p.put(r, n, part)
				if done += int64(len(part)); told != nil {
					told(done, cfg.NumParams())
				}
			}
		}
		return nil
	})
	if err == nil {
		err = dev.Sync()
	}
	if err != nil {
		return nil, fmt.Errorf("llama: load: %w", err)
	}
	return m, nil
}

// A piece is a tensor to be read: put takes n of its rows from row r on, and keeps none of values.
type piece struct {
	tensor, rows int
	put          func(r, n int, values []float32)
}

// load makes the model; read reads pieces of cols columns.
func load(dev gpu.Device, cfg hf.Config, half bool, read func(to []piece, cols int) error) (*Model, error) {
	index, tensors, vectors := map[string]int{}, cfg.Tensors(), 0
	for i, t := range tensors {
		index[t.Name] = i
		if len(t.Shape) == 1 {
			vectors += t.Len()
		}
	}
	small := dev.Alloc(vectors)
	w, err := views(cfg, small, false)
	if err != nil {
		return nil, err
	}
	// matrix packs tensors one below the other.
	matrix := func(names ...string) (p gpu.Packed) {
		if err != nil {
			return p
		}
		rows, cols := 0, 0
		var to []piece
		for _, name := range names {
			t, at := tensors[index[name]], rows
			rows, cols = rows+t.Shape[0], t.Shape[1]
			to = append(to, piece{index[name], t.Shape[0], func(r, n int, values []float32) {
				dev.PackRows(p, at+r, dev.Import(values).Matrix(n, len(values)/n))
			}})
		}
		p = dev.NewPacked(half, rows, cols)
		err = read(to, cols)
		return p
	}
	x := &packed{embed: matrix("model.embed_tokens.weight")}
	x.head = x.embed
	if !cfg.TieWordEmbeddings {
		x.head = matrix("lm_head.weight")
	}
	for i := range cfg.NumHiddenLayers {
		at := fmt.Sprintf("model.layers.%d.", i)
		attn, mlp := at+"self_attn.", at+"mlp."
		x.layers = append(x.layers, packedLayer{
			kqv: matrix(attn+"k_proj.weight", attn+"q_proj.weight", attn+"v_proj.weight"), o: matrix(attn + "o_proj.weight"),
			gateUp: matrix(mlp+"gate_proj.weight", mlp+"up_proj.weight"), down: matrix(mlp + "down_proj.weight"),
		})
	}
	off := 0
	for i, t := range tensors {
		if len(t.Shape) > 1 || err != nil {
			continue
		}
		to := small.Slice(off, off+t.Len())
		off += t.Len()
		err = read([]piece{{i, t.Len(), func(r, n int, values []float32) { dev.Upload(to.Slice(r, r+n), values) }}}, 1)
	}
	if err != nil {
		return nil, err
	}
	return &Model{dev: dev, cfg: cfg, w: w, packed: x}, nil
}

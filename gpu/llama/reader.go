package llama

import (
	"context"
	"fmt"

	"github.com/shoalnet/shoal/gpu"
)

// A Reader reads one sequence and shows, after each token, what the head is
// given and what it says: the activations that a proof of inference is made of
// and the logits that a check of sampling needs. It is for one goroutine.
type Reader struct {
	d              decoder
	limit          int
	hidden, logits []float32 // (stretch, D), (stretch, V)
}

// NewReader makes a reader of a sequence of up to limit tokens, which computes
// up to stretch tokens in one pass: 1 is how text is generated, more is how a
// prompt is read.
func (m *Model) NewReader(limit, stretch int) (*Reader, error) {
	if limit < 1 || limit > m.cfg.MaxPositionEmbeddings {
		return nil, fmt.Errorf("llama: read: %d tokens, the model takes 1 to %d", limit, m.cfg.MaxPositionEmbeddings)
	}
	if stretch < 1 {
		return nil, fmt.Errorf("llama: read: %d tokens in a pass", stretch)
	}
	m.rotary(limit)
	p := newPlan(m.dev, m.cfg, min(stretch, limit), false)
	return &Reader{
		d: decoder{Model: m, cache: m.newCache(limit), plan: p}, limit: limit,
		hidden: make([]float32, p.rows*m.cfg.HiddenSize),
		logits: make([]float32, p.logits.Rows*m.cfg.VocabSize),
	}, nil
}

// Read takes ids in, after what was read before, and calls see for each in turn
// with the last hidden state after the final norm (D) and the logits of the
// token to follow (V), which are valid during the call. It ends with see's
// first error.
func (r *Reader) Read(ctx context.Context, ids []int32, see func(hidden, logits []float32) error) error {
	d := &r.d
	if len(ids) > r.limit-d.pos {
		return fmt.Errorf("llama: read: %d tokens after %d, the limit is %d", len(ids), d.pos, r.limit)
	}
	if err := d.checkIDs(ids); err != nil {
		return fmt.Errorf("llama: read: %w", err)
	}
	width, vocab := d.cfg.HiddenSize, d.cfg.VocabSize
	for len(ids) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := copy(d.plan.ids, ids)
		d.forward(d.plan, 1, n, d.pos, d.cache)
		d.pos += n
		ids = ids[n:]
		h := d.plan.h.Row(0, n)
		for i := 0; i < n; i += d.plan.logits.Rows {
			rows := min(d.plan.logits.Rows, n-i)
			z := d.plan.logits.Row(0, rows)
			d.dev.MatMul(gpu.NT, z, h.Row(i, rows), d.w.head, false)
			if err := d.dev.Sync(); err != nil {
				return fmt.Errorf("llama: read: %w", err)
			}
			d.dev.Download(r.hidden[:rows*width], h.Row(i, rows).Buffer)
			d.dev.Download(r.logits[:rows*vocab], z.Buffer)
			for j := range rows {
				if err := see(r.hidden[j*width:(j+1)*width], r.logits[j*vocab:(j+1)*vocab]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

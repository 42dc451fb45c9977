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
	d              *decoder
	pages          []int32
	ids            []int32   // read
	limit          int       // of them at most
	turn           int       // hf.Config.RopeLength of what is in the cache
	hidden, logits []float32 // (stretch, D), (some, V)
	want           []int
}

// NewReader makes a reader of a sequence of up to limit tokens, which computes
// up to stretch tokens in one pass: 1 is how text is generated, more is how a
// prompt is read.
func (m *Model) NewReader(limit, stretch int) (*Reader, error) {
	if limit < 1 || limit > m.cfg.Context() {
		return nil, fmt.Errorf("llama: read: %d tokens, the model takes 1 to %d", limit, m.cfg.Context())
	}
	if stretch < 1 {
		return nil, fmt.Errorf("llama: read: %d tokens in a pass", stretch)
	}
	rows := min(stretch, limit)
	some := min(rows, max(1, 1<<18/m.cfg.VocabSize))
	return &Reader{d: m.newDecoder(rows, pages(limit), some, false), pages: sequential(pages(limit)), limit: limit,
		hidden: make([]float32, some*m.cfg.HiddenSize), logits: make([]float32, some*m.cfg.VocabSize), want: make([]int, some)}, nil
}

// Read takes ids in, after what was read before, and calls see for each in turn
// with the last hidden state after the final norm (D) and the logits of the
// token to follow (V), which are valid during the call. It ends with see's
// first error.
func (r *Reader) Read(ctx context.Context, ids []int32, see func(hidden, logits []float32) error) error {
	d, m := r.d, r.d.m
	if len(ids) > r.limit-len(r.ids) {
		return fmt.Errorf("llama: read: %d tokens after %d, the limit is %d", len(ids), len(r.ids), r.limit)
	}
	if err := m.checkIDs(ids); err != nil {
		return fmt.Errorf("llama: read: %w", err)
	}
	width, vocab := m.cfg.HiddenSize, m.cfg.VocabSize
	for len(ids) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		pos := len(r.ids)
		if turn := m.cfg.RopeLength(pos + 1); turn != r.turn { // as stream.know has it
			for at := 0; at < pos; at += d.rows {
				r.pass(at, r.ids[at:min(at+d.rows, pos)], pos+1)
			}
			r.turn = turn
		}
		n := m.alike(pos+1, pos+min(len(ids), d.rows)) - pos
		r.pass(pos, ids[:n], pos+n)
		r.ids = append(r.ids, ids[:n]...)
		ids = ids[n:]
		for i := 0; i < n; i += len(r.want) {
			want := r.want[:min(len(r.want), n-i)]
			for j := range want {
				want[j] = i + j
			}
			z := d.score(want)
			if err := m.dev.Sync(); err != nil {
				return fmt.Errorf("llama: read: %w", err)
			}
			m.dev.Download(r.hidden[:len(want)*width], d.chosen.Row(0, len(want)).Buffer)
			m.dev.Download(r.logits[:len(want)*vocab], z.Buffer)
			for j := range want {
				if err := see(r.hidden[j*width:(j+1)*width], r.logits[j*vocab:(j+1)*vocab]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// pass reads ids at position at of a text of n tokens.
func (r *Reader) pass(at int, ids []int32, n int) {
	r.d.pass([]gpu.Span{{Rows: len(ids), Start: at, Pages: r.pages[:pages(at+len(ids))]}}, []int{n}, ids)
}

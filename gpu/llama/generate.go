package llama

import (
	"context"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/gpu"
)

// A cache holds a sequence's keys and values, block by block.
type cache struct {
	k, v []gpu.Matrix // (positions, K·d) each
}

func (m *Model) newCache(n int) *cache {
	c := &cache{k: make([]gpu.Matrix, len(m.w.layers)), v: make([]gpu.Matrix, len(m.w.layers))}
	cols := m.cfg.KVHeads() * m.cfg.HeadSize()
	for i := range c.k {
		c.k[i], c.v[i] = m.dev.Alloc(n*cols).Matrix(n, cols), m.dev.Alloc(n*cols).Matrix(n, cols)
	}
	return c
}

// GenerateOptions say how to go on from a prompt.
type GenerateOptions struct {
	MaxTokens   int     // tokens to generate at most; 0 means until the model's context is full
	Temperature float64 // divides the logits; 0 takes the likeliest token
	TopK        int     // sample among the TopK likeliest only; 0 means all
	TopP        float64 // of those, among the fewest that have this share of probability; 0 and 1 mean all
	MinP        float64 // of those, among the ones this fraction as likely as the likeliest; 0 means all
	// Repetition, above 0, divides the positive logits of tokens that the text
	// has already, prompt included, and multiplies the negative (Keskar et al.
	// 2019, section 4.1). 0 and 1 change nothing.
	Repetition float64
	Seed       uint64  // equal seeds give equal text
	Stop       []int32 // tokens that end the text; they are not yielded
	// LogProb, where not nil, is told each token before it is yielded with its
	// log-probability under the model as it is: at temperature 1, of all tokens.
	LogProb func(id int32, logProb float64)
}

// Generate goes on from prompt and yields token by token until yield returns
// false, MaxTokens are out, a Stop token comes or the context is full.
func (m *Model) Generate(ctx context.Context, prompt []int32, o GenerateOptions, yield func(int32) bool) error {
	limit := m.cfg.MaxPositionEmbeddings
	switch {
	case len(prompt) == 0:
		return fmt.Errorf("llama: generate: the prompt is empty; give at least one token")
	case len(prompt) > limit:
		return fmt.Errorf("llama: generate: prompt of %d tokens, the model takes %d", len(prompt), limit)
	case o.MaxTokens < 0:
		return fmt.Errorf("llama: generate: %d tokens at most", o.MaxTokens)
	case !(o.Temperature >= 0) || !finite(o.Temperature):
		return fmt.Errorf("llama: generate: temperature %g is not a number from 0 on", o.Temperature)
	case o.TopK < 0:
		return fmt.Errorf("llama: generate: top-k %d is below 0", o.TopK)
	case !(o.TopP >= 0 && o.TopP <= 1):
		return fmt.Errorf("llama: generate: top-p %g is not in [0, 1]", o.TopP)
	case !(o.MinP >= 0 && o.MinP <= 1):
		return fmt.Errorf("llama: generate: min-p %g is not in [0, 1]", o.MinP)
	case !(o.Repetition >= 0 && o.Repetition <= 1e6):
		return fmt.Errorf("llama: generate: repetition penalty %g is not in [0, 1e6]", o.Repetition)
	}
	if err := m.checkIDs(prompt); err != nil {
		return fmt.Errorf("llama: generate: prompt: %w", err)
	}
	total := limit
	if o.MaxTokens > 0 && o.MaxTokens < limit-len(prompt)+1 {
		total = len(prompt) + o.MaxTokens - 1 // the last token is not read
	}
	total = max(total, len(prompt))
	m.rotary(total)
	d := decoder{Model: m, cache: m.newCache(total), plan: newPlan(m.dev, m.cfg, min(len(prompt), 256), false),
		logits: make([]float32, m.cfg.VocabSize)}
	s := sampler{opts: o}
	next := prompt
	for i := 0; ; i++ {
		if err := d.read(ctx, next); err != nil {
			return fmt.Errorf("llama: generate: %w", err)
		}
		var norm float64
		if o.LogProb != nil {
			norm = logSum(d.logits)
		}
		raw := d.logits
		if o.Repetition > 0 && o.Repetition != 1 {
			raw = s.penalize(d.logits, next)
		}
		id, err := s.pick(d.logits, uint64(i))
		if err != nil {
			return fmt.Errorf("llama: generate: token %d: %w", i, err)
		}
		if slices.Contains(o.Stop, id) {
			return nil
		}
		if o.LogProb != nil {
			o.LogProb(id, float64(raw[id])-norm)
		}
		if !yield(id) || d.pos == total {
			return nil
		}
		d.one[0] = id
		next = d.one[:]
	}
}

// A decoder reads one sequence and knows the logits after it.
type decoder struct {
	*Model
	cache  *cache
	plan   *plan
	pos    int // tokens read
	logits []float32
	one    [1]int32
}

// read takes ids in, as many at a time as the plan holds, and sets logits.
func (d *decoder) read(ctx context.Context, ids []int32) error {
	for len(ids) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := copy(d.plan.ids, ids)
		d.forward(d.plan, 1, n, d.pos, d.cache)
		d.pos += n
		ids = ids[n:]
		if len(ids) > 0 {
			continue
		}
		z := d.plan.logits.Row(0, 1)
		d.dev.MatMul(gpu.NT, z, d.plan.h.Row(n-1, 1), d.w.head, false)
		if err := d.dev.Sync(); err != nil {
			return err
		}
		d.dev.Download(d.logits, z.Buffer)
	}
	return nil
}

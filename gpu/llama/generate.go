package llama

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/shoalnet/shoal/gpu"
)

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
	// Frequency is taken from a token's logit for each time that it was
	// written, Presence once if it was; the prompt does not count.
	Frequency, Presence float64
	Seed                uint64  // equal seeds give equal text
	Stop                []int32 // tokens that end the text; they are not yielded
	LogProbs            bool    // Token.LogProb is wanted
	// Hidden, where not nil, is told the last hidden state (D), after the final
	// norm, of each token that is read, the prompt's first: what a proof of
	// inference is made of. It is valid during the call, which the goroutine that
	// computes makes. The last token of a text is not read.
	Hidden func(position int, hidden []float32)
}

// A Token is one that was written.
type Token struct {
	ID int32
	// LogProb is its log-probability under the model as it is: at temperature
	// 1, of all tokens. Only where LogProbs is set.
	LogProb float64
}

// Validate names the first option out of range.
func (o GenerateOptions) Validate() error {
	switch {
	case o.MaxTokens < 0:
		return fmt.Errorf("%d tokens at most", o.MaxTokens)
	case !(o.Temperature >= 0) || !finite(o.Temperature):
		return fmt.Errorf("temperature %g is not a number from 0 on", o.Temperature)
	case o.TopK < 0:
		return fmt.Errorf("top-k %d is below 0", o.TopK)
	case !(o.TopP >= 0 && o.TopP <= 1):
		return fmt.Errorf("top-p %g is not in [0, 1]", o.TopP)
	case !(o.MinP >= 0 && o.MinP <= 1):
		return fmt.Errorf("min-p %g is not in [0, 1]", o.MinP)
	case !(o.Repetition >= 0 && o.Repetition <= 1e6):
		return fmt.Errorf("repetition penalty %g is not in [0, 1e6]", o.Repetition)
	case !(o.Frequency >= -100 && o.Frequency <= 100), !(o.Presence >= -100 && o.Presence <= 100):
		return fmt.Errorf("frequency penalty %g, presence penalty %g: want -100 to 100", o.Frequency, o.Presence)
	}
	return nil
}

// newStream checks a request and makes a stream of it.
func (m *Model) newStream(prompt []int32, o GenerateOptions) (*stream, error) {
	if err := m.checkPrompt(prompt); err != nil {
		return nil, fmt.Errorf("llama: generate: %w", err)
	}
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("llama: generate: %w", err)
	}
	// The last token is written, not read, so that a text may be one longer
	// than the context.
	limit := m.cfg.Context() + 1
	if o.MaxTokens > 0 && o.MaxTokens < limit-len(prompt) {
		limit = len(prompt) + o.MaxTokens
	}
	return &stream{ids: slices.Clone(prompt), limit: limit, opts: o, sampler: sampler{opts: o}}, nil
}

// A writer computes the passes that a schedule plans. It is for one goroutine.
type writer struct {
	*decoder
	sched *schedule

	spans  []gpu.Span
	len    []int     // of the spans' texts, as RoPE takes them
	ends   []int     // rows that a token follows
	due    []*stream // and their streams
	host   []float32 // logits, (most, V), where the device's memory is not the host's
	hidden []float32 // (rows, D)
	best   []int32   // the likeliest tokens, see gpu.Decoder.Greatest
	slow   []int     // of due: those whose choice takes time
	tokens []Token
	errs   []error
}

func (m *Model) newWriter(rows, most, pages int, half bool) *writer {
	most = min(most, rows)
	w := &writer{decoder: m.newDecoder(rows, pages, most, half), sched: newSchedule(rows, most, pages),
		best: make([]int32, most), slow: make([]int, 0, most), tokens: make([]Token, most), errs: make([]error, most)}
	w.sched.know = m.know
	return w
}

// know says how many of a stream's tokens are read as one text, and has what is in the
// cache read again where RoPE turns that text otherwise, so that a token and its
// log-probability are those of a pass over all that precedes it, however long it
// was when its beginning was read. A hidden state is told as it was when its token was the last:
// who taps sees the same whether the text was written or given.
func (m *Model) know(s *stream) {
	s.known = len(s.ids)
	if s.opts.Hidden != nil {
		s.known = m.alike(s.told+1, s.known)
	}
	if turn := m.cfg.RopeLength(s.known); turn != s.turn {
		s.turn, s.read = turn, 0
	}
}

// step does one pass. For each stream that has come to the end of what it knows
// it calls write with the token that follows, or with why there is none; where
// write returns false the stream is removed. It reports whether there was
// anything to do.
func (w *writer) step(write func(*stream, Token, error) bool) (bool, error) {
	parts := w.sched.next()
	if len(parts) == 0 {
		return false, nil
	}
	w.spans, w.len, w.ends, w.due, w.ids = w.spans[:0], w.len[:0], w.ends[:0], w.due[:0], w.ids[:0]
	tap := false
	for _, p := range parts {
		w.spans = append(w.spans, p.span())
		w.len = append(w.len, p.s.known)
		w.ids = append(w.ids, p.s.ids[p.s.read:p.s.read+p.rows]...)
		tap = tap || p.s.opts.Hidden != nil
		if p.s.read+p.rows == len(p.s.ids) {
			w.ends, w.due = append(w.ends, len(w.ids)-1), append(w.due, p.s)
		}
	}
	w.pass(w.spans, w.len, w.ids)
	z := w.score(w.ends)
	best := w.best[:len(w.due)]
	w.m.dev.Greatest(best, z)
	if err := w.m.dev.Sync(); err != nil {
		return true, fmt.Errorf("llama: generate: %w", err)
	}
	if tap {
		w.tell(parts)
	}
	for _, p := range parts {
		p.s.read += p.rows
		p.s.told = max(p.s.told, p.s.read)
	}
	logits := z.Host
	if logits == nil {
		if w.host == nil {
			w.host = make([]float32, w.logits.N)
		}
		logits = w.host[:z.N]
		w.m.dev.Download(logits, z.Buffer)
	}
	w.draw(logits)
	for i, s := range w.due {
		if !write(s, w.tokens[i], w.errs[i]) {
			w.sched.remove(s)
			continue
		}
		s.ids = append(s.ids, w.tokens[i].ID)
	}
	return true, nil
}

// tell hands hidden states to those who want them.
func (w *writer) tell(parts []part) {
	d := w.m.cfg.HiddenSize
	h := w.h.Row(0, len(w.ids)).Buffer
	w.hidden = append(w.hidden[:0], make([]float32, h.N)...)
	w.m.dev.Download(w.hidden, h)
	row := 0
	for _, p := range parts {
		for i := range p.rows {
			if f := p.s.opts.Hidden; f != nil && p.s.read+i >= p.s.told {
				f(p.s.read+i, w.hidden[row*d:(row+1)*d])
			}
			row++
		}
	}
}

// draw picks a token for each stream that is due, those that are not just the likeliest on as many
// goroutines as are worth it.
func (w *writer) draw(logits []float32) {
	vocab := w.m.cfg.VocabSize
	one := func(i int) {
		w.tokens[i], w.errs[i] = w.due[i].draw(logits[i*vocab:(i+1)*vocab], w.best[i])
	}
	w.slow = w.slow[:0]
	for i, s := range w.due {
		if o := &s.opts; o.greedy() && !o.penalizes() && !o.LogProbs {
			one(i)
		} else {
			w.slow = append(w.slow, i)
		}
	}
	helpers := min(len(w.slow), runtime.GOMAXPROCS(0))
	if helpers < 2 || vocab*len(w.slow) < 1<<14 {
		for _, i := range w.slow {
			one(i)
		}
		return
	}
	var next atomic.Int64
	var work sync.WaitGroup
	for range helpers {
		work.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(w.slow); i = int(next.Add(1)) - 1 {
				one(w.slow[i])
			}
		})
	}
	work.Wait()
}

// draw picks the token that follows s, from logits, which it may change and of which best is the greatest,
// or below 0.
func (s *stream) draw(logits []float32, best int32) (Token, error) {
	o := &s.opts
	var norm float64
	if o.LogProbs {
		norm = logSum(logits)
	}
	raw := logits
	if o.penalizes() {
		raw = s.sampler.penalize(logits, s.ids[s.marked:], s.drawn > 0)
		s.marked, best = len(s.ids), -1
	}
	id, err := s.sampler.pick(logits, best, s.drawn)
	if err != nil {
		return Token{}, fmt.Errorf("llama: generate: token %d: %w", s.drawn, err)
	}
	s.drawn++
	t := Token{ID: id}
	if o.LogProbs {
		t.LogProb = float64(raw[id]) - norm
	}
	return t, nil
}

// ends says whether s ends without token id, or with it.
func (s *stream) ends(id int32) (without, with bool) {
	return slices.Contains(s.opts.Stop, id), len(s.ids)+1 >= s.limit
}

// Generate goes on from prompt and yields token by token until yield returns
// false, MaxTokens are out, a Stop token comes or the context is full.
func (m *Model) Generate(ctx context.Context, prompt []int32, o GenerateOptions, yield func(Token) bool) error {
	s, err := m.newStream(prompt, o)
	if err != nil {
		return err
	}
	w := m.newWriter(m.passRows(len(prompt)), 1, s.need(), false)
	if err := w.sched.add(s); err != nil {
		return err
	}
	var failed error
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		more, err := w.step(func(s *stream, t Token, err error) bool {
			if failed = err; err != nil {
				return false
			}
			without, with := s.ends(t.ID)
			return !without && yield(t) && !with
		})
		if err != nil || failed != nil || !more {
			if err == nil {
				err = failed
			}
			return err
		}
	}
}

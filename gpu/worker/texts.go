package worker

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/shoalnet/shoal/gpu/hf"
)

// Texts is a generator that runs in a worker.
type Texts struct {
	c     *Client
	cfg   hf.Config
	ended chan struct{} // closed when nothing is read any more

	out sync.Mutex // guards the writing half of c.link, and c.id

	mu   sync.Mutex // guards following
	open map[uint64]*text
}

var _ Generator = (*Texts)(nil)

// A text is one that the worker writes.
type text struct {
	logProbs bool
	left     int // tokens that may still come
	states   int // hidden states that may still come

	// Under Texts.mu.
	new    []news
	done   bool
	err    error
	gone   bool          // nobody listens any more
	signal chan struct{} // there is something new
}

// news is a token, or a hidden state.
type news struct {
	token  Token
	hidden []float32 // nil: a token
}

// Write makes the worker open a model that writes texts. A worker holds one model.
// Closing the Texts closes the client.
func (c *Client) Write(cfg hf.Config, b Batch, params []float32) (*Texts, error) {
	if err := c.open(cfg, head{Batch: &b}, params); err != nil {
		return nil, err
	}
	t := &Texts{c: c, cfg: cfg, ended: make(chan struct{}), open: map[uint64]*text{}}
	go t.listen() // Close waits for it
	return t, nil
}

// Close ends the worker and all texts.
func (t *Texts) Close() error {
	err := t.c.Close()
	<-t.ended
	return err
}

// listen hands what the worker says to whom it belongs, until the link ends.
func (t *Texts) listen() {
	defer close(t.ended)
	for {
		err := t.hear()
		if err == nil {
			continue
		}
		// How a process ended is the better half of why.
		err = t.c.lose(err)
		t.mu.Lock()
		for _, x := range t.open {
			x.end(err)
		}
		t.open = nil
		t.mu.Unlock()
		return
	}
}

// hear takes one message in.
func (t *Texts) hear() error {
	var a head
	if err := t.c.link.receive(&a); err != nil {
		return noEOF(err)
	}
	t.mu.Lock()
	x := t.open[a.ID]
	t.mu.Unlock()
	if x == nil {
		return fmt.Errorf("%w: an answer about text %d, which nobody asked for", ErrProtocol, a.ID)
	}
	if !a.More {
		if err := t.c.link.drop(); err != nil {
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.open, a.ID)
		var err error
		if a.Error != "" {
			err = fmt.Errorf("worker: %.2000s", a.Error)
		}
		x.end(err)
		return nil
	}
	read := t.tokens
	if a.Cols != 0 {
		read = t.states
	}
	out, err := read(&a, x)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !x.gone {
		x.new = append(x.new, out...)
		x.ring()
	}
	return nil
}

// tokens reads those that were written of x.
func (t *Texts) tokens(a *head, x *text) ([]news, error) {
	if a.Rows < 1 || a.Rows > x.left {
		return nil, fmt.Errorf("%w: %d tokens of a text that may have %d more", ErrProtocol, a.Rows, x.left)
	}
	x.left -= a.Rows // belongs to listen's goroutine from now on
	tokens, err := readTokens(t.c.link, a.Rows, x.logProbs)
	if err != nil {
		return nil, err
	}
	out := make([]news, len(tokens))
	for i, k := range tokens {
		if k.ID < 0 || int(k.ID) >= t.cfg.VocabSize {
			return nil, fmt.Errorf("%w: token %d of a vocabulary of %d", ErrProtocol, k.ID, t.cfg.VocabSize)
		}
		out[i].token = k
	}
	return out, nil
}

// states reads hidden states of x.
func (t *Texts) states(a *head, x *text) ([]news, error) {
	if a.Cols != t.cfg.HiddenSize || a.Rows < 1 || a.Rows > x.states {
		return nil, fmt.Errorf("%w: %d hidden states of %d values, want at most %d of %d", ErrProtocol, a.Rows, a.Cols, x.states, t.cfg.HiddenSize)
	}
	x.states -= a.Rows // as left
	values, err := readNewFloats(t.c.link, a.Rows*a.Cols)
	if err != nil {
		return nil, err
	}
	out := make([]news, a.Rows)
	for i := range out {
		out[i].hidden = values[i*a.Cols : (i+1)*a.Cols]
	}
	return out, nil
}

func (x *text) end(err error) {
	x.done, x.err = true, err
	x.ring()
}

func (x *text) ring() {
	select {
	case x.signal <- struct{}{}:
	default:
	}
}

// Generate is that of the worker's generator, whose s.Hidden is set where tap is not
// nil; many goroutines may call it. tap and yield are called on the caller's; if they
// are slow they hold nobody up. It waits as long as ctx
// lets it. An error that wraps ErrLost says that the worker is gone, and the text
// with it.
func (t *Texts) Generate(ctx context.Context, prompt []int32, s Sampling, tap func(hidden []float32), yield func(Token) bool) error {
	limit := t.cfg.Context() + 1 - len(prompt)
	if s.MaxTokens > 0 {
		limit = min(limit, s.MaxTokens)
	}
	x := &text{logProbs: s.LogProbs, left: limit, signal: make(chan struct{}, 1)}
	if s.Hidden = tap != nil; s.Hidden {
		x.states = len(prompt) + limit
	}
	id, err := t.begin(x, prompt, s)
	if err != nil {
		return fmt.Errorf("worker: generate: %w", err)
	}
	for {
		select {
		case <-x.signal:
		case <-ctx.Done():
			t.leave(id, x)
			return ctx.Err()
		}
		t.mu.Lock()
		out, done, err := x.new, x.done, x.err
		x.new = nil
		t.mu.Unlock()
		for _, k := range out {
			if k.hidden != nil {
				tap(k.hidden)
			} else if !yield(k.token) {
				t.leave(id, x)
				return nil
			}
		}
		if done {
			return err
		}
	}
}

func (t *Texts) begin(x *text, prompt []int32, s Sampling) (id uint64, err error) {
	t.out.Lock()
	defer t.out.Unlock()
	t.c.id++
	id = t.c.id
	t.mu.Lock()
	open := t.open != nil
	if open {
		t.open[id] = x
	}
	t.mu.Unlock()
	if !open {
		return id, t.c.fail(io.ErrUnexpectedEOF) // it is known why, and that is told
	}
	err = t.send(&head{ID: id, Op: "generate", Cols: len(prompt), Sampling: &s}, func(w io.Writer) error { return writeIDs(w, [][]int32{prompt}) })
	if err != nil { // nothing was sent, or the worker is lost
		t.mu.Lock()
		delete(t.open, id)
		t.mu.Unlock()
	}
	return id, err
}

// leave gives a text up: the worker hears of it, and what it still says is dropped.
func (t *Texts) leave(id uint64, x *text) {
	t.mu.Lock()
	done := x.done
	x.gone, x.new = true, nil
	t.mu.Unlock()
	if done {
		return
	}
	t.out.Lock()
	defer t.out.Unlock()
	_ = t.send(&head{ID: id, Op: "cancel"}, nil) // a worker that is lost writes nothing more
}

// send says something to the worker, which must listen.
func (t *Texts) send(h *head, body func(io.Writer) error) error {
	var own error
	err := t.c.within(Patience, func() (err error) {
		own, err = t.c.link.send(h, body)
		return err
	})
	if err != nil {
		return t.c.lose(err)
	}
	return own
}

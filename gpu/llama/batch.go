package llama

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// BatchOptions size a Batch. Zero values take the defaults.
type BatchOptions struct {
	Streams   int  // texts at a time; default 16
	Rows      int  // tokens of a pass, those of prompts included; default 256
	Positions int  // tokens that the cache holds, of all texts together; default 16 full contexts, or 65,536
	BF16      bool // round matrices to bfloat16: half the memory traffic
}

// ErrBatchClosed is what Generate returns where its Batch does not run any more.
var ErrBatchClosed = errors.New("the batch has ended")

// A Batch writes many texts at once. Run computes; Generate may be called by
// many goroutines. A text has the same bits as it would have alone.
type Batch struct {
	m   *Model
	w   *writer
	ask chan *request

	mu    sync.Mutex    // guards following
	ended chan struct{} // closed by Run
	why   error
}

// A request is a stream and the way back to who asked.
type request struct {
	stream
	mu     sync.Mutex // guards following
	out    []Token
	done   bool
	err    error
	gone   bool          // nobody listens any more
	signal chan struct{} // there is something new
}

// NewBatch packs the model's weights. The model's device is Run's as long as it
// runs.
func (m *Model) NewBatch(o BatchOptions) (*Batch, error) {
	if o.Streams == 0 {
		o.Streams = 16
	}
	if o.Rows == 0 {
		o.Rows = 256
	}
	if o.Positions == 0 {
		o.Positions = min(16*m.cfg.Context(), 65536)
	}
	if o.Streams < 1 || o.Rows < o.Streams || o.Rows > 1<<20 || o.Positions < 1 || o.Positions > 1<<31 {
		return nil, fmt.Errorf("llama: batch: %d streams, %d rows, %d positions: want 1 to rows, up to %d, up to %d", o.Streams, o.Rows, o.Positions, 1<<20, 1<<31)
	}
	if m.packed != nil && o.BF16 && m.packed.head.Half == nil {
		return nil, errors.New("llama: batch: the weights are packed as float32: load them with half")
	}
	// Pages are not shared: each stream may leave one unfilled.
	return &Batch{m: m, w: m.newWriter(o.Rows, o.Streams, pages(o.Positions)+o.Streams-1, o.BF16),
		ask: make(chan *request), ended: make(chan struct{})}, nil
}

// Run computes until ctx ends or the device fails.
func (b *Batch) Run(ctx context.Context) error {
	owner := map[*stream]*request{}
	var err error
	defer func() {
		b.mu.Lock()
		b.why = errors.Join(ErrBatchClosed, err)
		b.mu.Unlock()
		close(b.ended)
		for _, r := range owner {
			r.finish(b.why)
		}
	}()
	take := func(r *request) {
		if err := b.w.sched.add(&r.stream); err != nil {
			r.finish(err)
			return
		}
		owner[&r.stream] = r
	}
	drop := func(s *stream) {
		delete(owner, s)
		b.w.sched.remove(s)
	}
	for {
		if len(owner) == 0 {
			select {
			case r := <-b.ask:
				take(r)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for more := true; more; {
			select {
			case r := <-b.ask:
				take(r)
			case <-ctx.Done():
				return ctx.Err()
			default:
				more = false
			}
		}
		for s, r := range owner {
			if r.left() {
				drop(s)
			}
		}
		_, err = b.w.step(func(s *stream, t Token, err error) bool {
			r := owner[s]
			without, with := s.ends(t.ID)
			over := err != nil || without || with
			if err == nil && !without {
				r.put(t)
			}
			if over {
				delete(owner, s)
				r.finish(err)
			}
			return !over
		})
		if err != nil {
			return err
		}
	}
}

func (r *request) put(t Token) {
	r.mu.Lock()
	r.out = append(r.out, t)
	r.mu.Unlock()
	r.ring()
}

func (r *request) finish(err error) {
	r.mu.Lock()
	r.done, r.err = true, err
	r.mu.Unlock()
	r.ring()
}

func (r *request) left() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gone
}

func (r *request) leave() {
	r.mu.Lock()
	r.gone = true
	r.mu.Unlock()
}

func (r *request) ring() {
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// Generate is Model.Generate among others. yield is called on the caller's
// goroutine; one that is slow holds nobody up.
func (b *Batch) Generate(ctx context.Context, prompt []int32, o GenerateOptions, yield func(Token) bool) error {
	s, err := b.m.newStream(prompt, o)
	if err != nil {
		return err
	}
	r := &request{stream: *s, signal: make(chan struct{}, 1)}
	defer r.leave()
	select {
	case b.ask <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-b.ended:
		return b.reason()
	}
	for {
		select {
		case <-r.signal:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.mu.Lock()
		out, done, err := r.out, r.done, r.err
		r.out = nil
		r.mu.Unlock()
		for _, t := range out {
			if !yield(t) {
				return nil
			}
		}
		if done {
			return err
		}
	}
}

func (b *Batch) reason() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.why
}

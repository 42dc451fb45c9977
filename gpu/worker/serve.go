package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/shoalnet/shoal/gpu/hf"
)

// A Backend is what computes in a worker.
type Backend struct {
	// Name says what it is, for people.
	Name string
	// Identity names whose results are equal bit for bit.
	Identity string
	// Train makes a trainer with a copy of params and fresh moments; nil where the
	// worker trains nothing. The documents of packed sequences end with separator,
	// which is in the vocabulary; without one sequences are not packed.
	Train func(cfg hf.Config, o Optimizer, separator *int32, params []float32) (Trainer, error)
	// Write makes a generator with params, which are its own; nil where the worker
	// writes nothing.
	Write func(cfg hf.Config, b Batch, params []float32) (Generator, error)
}

// Serve answers one node until in ends, which is no error, or ctx does, which
// takes effect when in is closed or speaks.
func Serve(ctx context.Context, in io.Reader, out io.Writer, b Backend) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	s := server{ctx: ctx, link: newLink(in, out), backend: b, texts: map[uint64]context.CancelFunc{}}
	defer func() {
		cancel()
		s.writing.Wait()
		err = errors.Join(err, s.close())
	}()
	if _, err := s.send(&head{Worker: Version, Name: b.Name, Identity: b.Identity}, nil); err != nil {
		return fmt.Errorf("worker: greet: %w", err)
	}
	for ctx.Err() == nil {
		var q head
		if err := s.link.receive(&q); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("worker: %w", err)
		}
		a, body, err := s.answer(&q)
		if dropped := s.link.drop(); dropped != nil {
			return fmt.Errorf("worker: %s: %w", short(q.Op), dropped)
		}
		if a == nil && err == nil {
			continue // it will be answered, or wants no answer
		}
		if err != nil {
			a, body = &head{Error: err.Error()}, nil
			if len(a.Error) > 4096 {
				a.Error = a.Error[:4096]
			}
		}
		a.ID = q.ID
		if _, err := s.send(a, body); err != nil { // why a body is broken off, the node is told
			return fmt.Errorf("worker: answer %s: %w", short(q.Op), err)
		}
	}
	return context.Cause(ctx)
}

// short is an op fit to be printed.
func short(op string) string { return fmt.Sprintf("%.20q", op) }

type server struct {
	ctx     context.Context // of the texts
	link    *link
	backend Backend
	trainer Trainer
	writer  Generator
	params  int
	writing sync.WaitGroup // a goroutine for each text

	out sync.Mutex // one message at a time

	mu    sync.Mutex // guards following
	texts map[uint64]context.CancelFunc
}

func (s *server) close() error {
	switch {
	case s.trainer != nil:
		return s.trainer.Close()
	case s.writer != nil:
		return s.writer.Close()
	}
	return nil
}

func (s *server) send(h *head, body func(io.Writer) error) (own, err error) {
	s.out.Lock()
	defer s.out.Unlock()
	return s.link.send(h, body)
}

// answer carries out one question. Without an answer and an error, there will be
// one later, or none.
func (s *server) answer(q *head) (*head, func(io.Writer) error, error) {
	switch {
	case q.Op == "open":
		return &head{}, nil, s.open(q)
	case q.Op == "generate" && s.writer != nil:
		return nil, nil, s.generate(q)
	case q.Op == "cancel" && s.writer != nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		if cancel := s.texts[q.ID]; cancel != nil {
			cancel()
		}
		return nil, nil, nil
	case s.writer != nil:
		return nil, nil, fmt.Errorf("%s of a model that was opened to write", short(q.Op))
	}
	t := s.trainer
	if t == nil {
		return nil, nil, fmt.Errorf("%s before open", short(q.Op))
	}
	switch q.Op {
	case "step", "eval":
		batch, err := readIDs(s.link, q.Rows, q.Cols)
		if err != nil {
			return nil, nil, err
		}
		var loss float64
		if q.Op == "step" {
			loss, err = t.Step(batch, q.LR)
		} else {
			loss, err = t.Eval(batch)
		}
		n := number(loss)
		return &head{Loss: &n}, nil, err
	case "hidden":
		rows, width := t.Hidden()
		if len(rows) == 0 || width < 1 {
			return nil, nil, errors.New("hidden: no batch was seen")
		}
		return &head{Rows: len(rows) / width, Cols: width}, func(w io.Writer) error { return writeFloats(w, rows) }, nil
	case "params":
		return &head{}, func(w io.Writer) error { return writeFloats(w, t.Params()) }, nil
	case "set":
		p, err := readNewFloats(s.link, s.params)
		if err == nil {
			err = t.SetParams(p)
		}
		return &head{}, nil, err
	case "save":
		return &head{}, t.Save, nil
	case "load":
		return &head{}, nil, t.Load(s.link)
	}
	return nil, nil, fmt.Errorf("unknown op %s", short(q.Op))
}

func (s *server) open(q *head) error {
	if s.trainer != nil || s.writer != nil {
		return errors.New("open: a model is open")
	}
	cfg, err := hf.ParseConfig(q.Config)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	switch {
	case (q.Optimizer == nil) == (q.Batch == nil):
		return errors.New("open: want either an optimizer or a batch")
	case q.Optimizer != nil && s.backend.Train == nil:
		return errors.New("open: this worker trains nothing")
	case q.Batch != nil && s.backend.Write == nil:
		return errors.New("open: this worker writes nothing")
	case q.Separator != nil && (*q.Separator < 0 || int(*q.Separator) >= cfg.VocabSize):
		return fmt.Errorf("open: separator %d is not in the vocabulary of %d", *q.Separator, cfg.VocabSize)
	}
	n := cfg.NumParams()
	if int64(int(n)) != n {
		return fmt.Errorf("open: %d parameters are too many for this machine", n)
	}
	p, err := readNewFloats(s.link, int(n))
	if err != nil {
		return fmt.Errorf("open: parameters: %w", err)
	}
	if s.params = int(n); q.Batch != nil {
		s.writer, err = s.backend.Write(cfg, *q.Batch, p)
	} else {
		s.trainer, err = s.backend.Train(cfg, *q.Optimizer, q.Separator, p)
	}
	if err != nil {
		s.writer, s.trainer = nil, nil // not typed ones
		return fmt.Errorf("open: %w", err)
	}
	return nil
}

// generate begins a text.
func (s *server) generate(q *head) error {
	prompt, err := readIDs(s.link, 1, q.Cols)
	switch {
	case err != nil:
		return fmt.Errorf("generate: prompt: %w", err)
	case q.Sampling == nil || len(q.Sampling.Stop) > maxStop:
		return fmt.Errorf("generate: want sampling with at most %d stop tokens", maxStop)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	s.mu.Lock()
	_, twice := s.texts[q.ID]
	full := len(s.texts) >= MaxTexts
	if !twice && !full {
		s.texts[q.ID] = cancel
	}
	s.mu.Unlock()
	switch {
	case twice:
		cancel()
		return fmt.Errorf("generate: text %d is being written", q.ID)
	case full:
		cancel()
		return fmt.Errorf("generate: %d texts at a time", MaxTexts)
	}
	id, o := q.ID, *q.Sampling
	s.writing.Go(func() {
		defer cancel()
		var broken error // the link: Serve finds out by itself
		// Whoever computes may be about to tell of a text that has been given up.
		var turn sync.Mutex
		over := false // guarded by turn: nothing more is said
		var tap func([]float32)
		if o.Hidden {
			tap = func(h []float32) {
				turn.Lock()
				defer turn.Unlock()
				if over {
					return
				}
				_, err := s.send(&head{ID: id, More: true, Rows: 1, Cols: len(h)}, func(w io.Writer) error { return writeFloats(w, h) })
				if err != nil {
					cancel() // the next token finds the link broken, too
				}
			}
		}
		err := s.writer.Generate(ctx, prompt[0], o, tap, func(t Token) bool {
			_, broken = s.send(&head{ID: id, More: true, Rows: 1}, func(w io.Writer) error { return writeTokens(w, []Token{t}, o.LogProbs) })
			return broken == nil
		})
		turn.Lock()
		over = true
		turn.Unlock()
		s.mu.Lock()
		delete(s.texts, id) // before its end is told: the id is free again then
		s.mu.Unlock()
		end := &head{ID: id}
		if err != nil {
			end.Error = fmt.Sprintf("generate: %.2000s", err)
		}
		if broken == nil {
			_, _ = s.send(end, nil) // as broken
		}
	})
	return nil
}

package worker

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/shoalnet/shoal/gpu/hf"
)

// A Backend is what computes in a worker.
type Backend struct {
	// Name says what it is, for people.
	Name string
	// Identity names whose results are equal bit for bit.
	Identity string
	// Train makes a trainer with a copy of params and fresh moments.
	Train func(cfg hf.Config, o Optimizer, params []float32) (Trainer, error)
}

// Serve answers one node until in ends, which is no error, or ctx does, which
// takes effect when in is closed or speaks.
func Serve(ctx context.Context, in io.Reader, out io.Writer, b Backend) (err error) {
	s := server{link: newLink(in, out), backend: b}
	defer func() { err = errors.Join(err, s.close()) }()
	if _, err := s.link.send(&head{Worker: Version, Name: b.Name, Identity: b.Identity}, nil); err != nil {
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
		if err != nil {
			a, body = &head{Error: err.Error()}, nil
			if len(a.Error) > 4096 {
				a.Error = a.Error[:4096]
			}
		}
		a.ID = q.ID
		if _, err := s.link.send(a, body); err != nil { // why a body is broken off, the node is told
			return fmt.Errorf("worker: answer %s: %w", short(q.Op), err)
		}
	}
	return context.Cause(ctx)
}

// short is an op fit to be printed.
func short(op string) string { return fmt.Sprintf("%.20q", op) }

type server struct {
	link    *link
	backend Backend
	trainer Trainer
	params  int
}

func (s *server) close() error {
	if s.trainer == nil {
		return nil
	}
	err := s.trainer.Close()
	s.trainer = nil
	return err
}

// answer carries out one question.
func (s *server) answer(q *head) (*head, func(io.Writer) error, error) {
	if q.Op == "open" {
		return &head{}, nil, s.open(q)
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
	if s.trainer != nil {
		return errors.New("open: a model is open")
	}
	cfg, err := hf.ParseConfig(q.Config)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if q.Optimizer == nil {
		return errors.New("open: no optimizer")
	}
	n := cfg.NumParams()
	if int64(int(n)) != n {
		return fmt.Errorf("open: %d parameters are too many for this machine", n)
	}
	p, err := readNewFloats(s.link, int(n))
	if err != nil {
		return fmt.Errorf("open: parameters: %w", err)
	}
	t, err := s.backend.Train(cfg, *q.Optimizer, p)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	s.trainer, s.params = t, int(n)
	return nil
}

package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"

	"github.com/shoalnet/shoal/gpu/hf"
)

// Patience is how long a worker may take over one question before it counts as
// lost.
const Patience = 30 * time.Minute

// maxState is how many bytes a parameter may take in what a worker saves.
const maxState = 64

// A Client speaks to one worker. Its methods are for one goroutine at a time.
type Client struct {
	name, identity string
	link           *link
	conn           io.Closer
	id             uint64

	mu   sync.Mutex // guards following
	lost error      // why nothing is asked any more
}

// Connect reads the greeting of the worker at the other end of in and out.
// Closing conn must end reads and writes; Close does.
func Connect(in io.Reader, out io.Writer, conn io.Closer) (*Client, error) {
	c := &Client{link: newLink(in, out), conn: conn}
	var hello head
	err := c.within(time.Minute, func() error {
		if err := c.link.receive(&hello); err != nil {
			return err
		}
		return c.link.drop()
	})
	if err == nil && hello.Worker != Version {
		err = fmt.Errorf("%w: version %d, this program speaks %d", ErrProtocol, hello.Worker, Version)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("worker: greeting: %w", err), c.Close())
	}
	c.name, c.identity = hello.Name, hello.Identity
	if len(c.name) > maxName {
		c.name = c.name[:maxName]
	}
	if len(c.identity) > maxName {
		c.identity = c.identity[:maxName]
	}
	return c, nil
}

// Dial connects to the worker that listens on a Unix socket. The greeting is not waited for beyond ctx.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return greeted(ctx, conn, conn, conn)
}

// Name is what the worker calls itself.
func (c *Client) Name() string { return c.name }

// Identity is what the worker says whose results equal its own bit for bit.
func (c *Client) Identity() string { return c.identity }

// Close ends the conversation, and with it the worker where it was spawned.
func (c *Client) Close() error {
	c.mu.Lock()
	gone := c.lost != nil
	if !gone {
		c.lost = fmt.Errorf("%w: it was closed", ErrLost)
	}
	c.mu.Unlock()
	err := c.conn.Close()
	if gone {
		return nil // its failure has been told
	}
	return err
}

// within runs f, and takes the worker for lost where f lasts.
func (c *Client) within(d time.Duration, f func() error) error {
	timer := time.AfterFunc(d, func() {
		c.fail(fmt.Errorf("no answer in %s", d))
		_ = c.conn.Close() // ends f; why is told by lost
	})
	defer timer.Stop()
	return f()
}

// fail notes why the worker is lost and returns that.
func (c *Client) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == nil {
		c.lost = fmt.Errorf("%w: %w", ErrLost, err)
	}
	return c.lost
}

// lose ends the conversation because of err and returns why it ended. How a process
// ended is the better half of that.
func (c *Client) lose(err error) error { return c.fail(errors.Join(err, c.conn.Close())) }

// ask sends one question and hands the answer's body to take, which may be nil.
func (c *Client) ask(q *head, body func(io.Writer) error, take func(io.Reader) error) (a head, err error) {
	c.mu.Lock()
	err = c.lost
	c.mu.Unlock()
	if err != nil {
		return a, fmt.Errorf("worker: %s: %w", q.Op, err)
	}
	c.id++
	q.ID = c.id
	var own error // not the link's
	err = c.within(Patience, func() (err error) {
		if own, err = c.link.send(q, body); err != nil {
			return err
		}
		if err := c.link.receive(&a); err != nil {
			return noEOF(err)
		}
		if a.ID != q.ID {
			return fmt.Errorf("%w: answer %d to question %d", ErrProtocol, a.ID, q.ID)
		}
		if own == nil && a.Error == "" && take != nil {
			own = take(c.link)
		}
		return c.link.drop()
	})
	switch {
	case err != nil:
		// What follows on this link could be anything.
		return a, fmt.Errorf("worker: %s: %w", q.Op, c.lose(err))
	case own != nil:
		return a, fmt.Errorf("worker: %s: %w", q.Op, own)
	case a.Error != "":
		return a, fmt.Errorf("worker: %s: %.2000s", q.Op, a.Error)
	}
	return a, nil
}

// open makes the worker open a model with a copy of params; how holds the rest.
func (c *Client) open(cfg hf.Config, how head, params []float32) error {
	conf, err := cfg.Marshal()
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	how.Op, how.Config = "open", conf
	_, err = c.ask(&how, func(w io.Writer) error { return writeFloats(w, params) }, nil)
	return err
}

// A Remote is a trainer that runs in a worker.
type Remote struct {
	c      *Client
	params []float32 // as last fetched
	rows   int       // of the last batch: positions that predict
	width  int       // of the model
	hidden []float32 // as last fetched
}

var _ Trainer = (*Remote)(nil)

// Train makes the worker open a model with a copy of params and fresh moments, for
// sequences whose documents end with separator, or that are not packed (nil).
// A worker holds one. Closing the trainer closes the client.
func (c *Client) Train(cfg hf.Config, o Optimizer, separator *int32, params []float32) (*Remote, error) {
	if err := c.open(cfg, head{Optimizer: &o, Separator: separator}, params); err != nil {
		return nil, err
	}
	return &Remote{c: c, params: make([]float32, len(params)), width: cfg.HiddenSize}, nil
}

func (r *Remote) batch(op string, batch [][]int32, lr float64) (float64, error) {
	if len(batch) == 0 || len(batch[0]) == 0 {
		return 0, fmt.Errorf("worker: %s: an empty batch", op)
	}
	for i, s := range batch {
		if len(s) != len(batch[0]) {
			return 0, fmt.Errorf("worker: %s: sequence %d has %d tokens, the first has %d", op, i, len(s), len(batch[0]))
		}
	}
	if math.IsNaN(lr) || math.IsInf(lr, 0) {
		return 0, fmt.Errorf("worker: %s: learning rate %g", op, lr)
	}
	r.rows = 0
	a, err := r.c.ask(&head{Op: op, Rows: len(batch), Cols: len(batch[0]), LR: lr}, func(w io.Writer) error { return writeIDs(w, batch) }, nil)
	if err != nil {
		return 0, err
	}
	r.rows = len(batch) * (len(batch[0]) - 1)
	if a.Loss == nil {
		return math.NaN(), nil
	}
	return float64(*a.Loss), nil
}

// Step does one inner step. A loss that is not finite comes back as NaN.
func (r *Remote) Step(batch [][]int32, lr float64) (float64, error) {
	return r.batch("step", batch, lr)
}

// Eval returns the mean loss of batch.
func (r *Remote) Eval(batch [][]int32) (float64, error) { return r.batch("eval", batch, 0) }

// Hidden fetches the last hidden states of the latest batch; nil where there
// are none, or the worker is lost.
func (r *Remote) Hidden() ([]float32, int) {
	if r.rows == 0 {
		return nil, r.width
	}
	if n := r.rows * r.width; cap(r.hidden) < n {
		r.hidden = make([]float32, n)
	} else {
		r.hidden = r.hidden[:n]
	}
	_, err := r.c.ask(&head{Op: "hidden"}, nil, func(b io.Reader) error { return readFloats(b, r.hidden) })
	if err != nil {
		_ = r.c.fail(err) // as Params
		return nil, r.width
	}
	return r.hidden, r.width
}

// Params fetches the weights; nil where the worker is lost.
func (r *Remote) Params() []float32 {
	_, err := r.c.ask(&head{Op: "params"}, nil, func(b io.Reader) error { return readFloats(b, r.params) })
	if err != nil {
		_ = r.c.fail(err) // the port has no error here: the next call tells it
		return nil
	}
	return r.params
}

// SetParams replaces the weights. Moments and step count stay.
func (r *Remote) SetParams(params []float32) error {
	_, err := r.c.ask(&head{Op: "set"}, func(w io.Writer) error { return writeFloats(w, params) }, nil)
	return err
}

// Save writes what Load reads, in the worker's own format.
func (r *Remote) Save(w io.Writer) error {
	limit := int64(len(r.params))*maxState + maxPart
	_, err := r.c.ask(&head{Op: "save"}, nil, func(b io.Reader) error {
		n, err := io.Copy(w, io.LimitReader(b, limit+1))
		if err == nil && n > limit {
			err = fmt.Errorf("over %d bytes", limit)
		}
		return err
	})
	return err
}

// Load reads what Save wrote, to the end of in.
func (r *Remote) Load(in io.Reader) error {
	_, err := r.c.ask(&head{Op: "load"}, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	}, nil)
	return err
}

// Close ends the worker.
func (r *Remote) Close() error { return r.c.Close() }

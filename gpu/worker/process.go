package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

// How long a spawned program may take to end once its input has: a worker, and one that has not shown to be
// any.
const (
	grace = 5 * time.Second
	hurry = time.Second
)

// Spawn starts a program that speaks the protocol on its standard input and
// output, and connects to it. What it writes to its standard error goes to log.
// Close ends it: it waits a while for the program to end by itself, and kills
// it otherwise. The greeting is not waited for beyond ctx.
func Spawn(ctx context.Context, argv []string, log io.Writer) (*Client, error) {
	if len(argv) == 0 {
		return nil, errors.New("worker: no program to start")
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = log
	cmd.WaitDelay = time.Second // for a grandchild that holds on to log
	detach(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	p := &process{cmd: cmd, in: in}
	p.grace.Store(int64(hurry))
	c, err := greeted(ctx, out, in, p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", argv[0], err)
	}
	p.grace.Store(int64(grace))
	return c, nil
}

// greeted is Connect that ends with ctx.
func greeted(ctx context.Context, in io.Reader, out io.Writer, conn io.Closer) (*Client, error) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = conn.Close() // why is told by ctx
	})
	c, err := Connect(in, out, conn)
	if stop() {
		return c, err
	}
	<-done
	if err == nil {
		_ = c.Close()
	}
	return nil, fmt.Errorf("worker: greeting: %w", ctx.Err())
}

type process struct {
	cmd   *exec.Cmd
	in    io.Closer
	grace atomic.Int64 // a time.Duration
	once  sync.Once
	err   error
}

// Close ends the process and waits for it.
func (p *process) Close() error {
	p.once.Do(func() {
		_ = p.in.Close() // that is all it means: a pipe that is broken already is as good
		grace := time.Duration(p.grace.Load())
		kill := time.AfterFunc(grace, func() { _ = p.cmd.Process.Kill() })
		p.err = p.cmd.Wait()
		if !kill.Stop() {
			p.err = fmt.Errorf("worker: killed, %s after its input had ended: %w", grace, p.err)
		}
	})
	return p.err
}

// PID is that of the process that c spawned, 0 where there is none.
func (c *Client) PID() int {
	if p, ok := c.conn.(*process); ok {
		return p.cmd.Process.Pid
	}
	return 0
}

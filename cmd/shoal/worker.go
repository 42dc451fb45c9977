package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/gpu/worker"
	"github.com/shoalnet/shoal/node"
)

// What --engine may be, besides unix:SOCKET and exec:COMMAND.
const (
	inProcess = "inprocess"
	inWorker  = "worker"
)

func (a *app) workerCmd() *cobra.Command {
	var thr int
	var how llama.Options
	var socket string
	c := &cobra.Command{
		Use:   "worker",
		Short: "Train or write for another process",
		Long: `Speaks the worker protocol on standard input and output, as "shoal join --engine worker"
and "shoal generate --engine worker" start it, or with --socket on a Unix socket. It ends
with its input. The protocol is described in the package comment of gpu/worker; any
program that speaks it can train for a node:

  shoal join RUN --engine unix:SOCKET     one that listens on a Unix socket
  shoal join RUN --engine "exec:COMMAND"  one that the node is to start

A worker that dies is started again; the round goes on from the last snapshot, a text
is written again to where it was.`,
		Example: `  shoal join moby --engine worker
  shoal worker --socket /run/shoal-worker.sock --threads 8`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if how.MicroBatch < 0 {
				return usagef("--micro-batch %d: want 0 or more", how.MicroBatch)
			}
			b := backend(threads(thr), how)
			if socket != "" {
				return a.listenWorker(cmd.Context(), socket, b)
			}
			if fi, err := a.in.Stat(); err == nil && fi.Mode()&os.ModeCharDevice != 0 {
				return usageError{errors.New("shoal worker speaks to a program, not to a terminal"), "shoal join RUN --engine worker starts one; or give --socket"}
			}
			return worker.Serve(cmd.Context(), a.in, a.out, b)
		},
	}
	c.Flags().IntVar(&thr, "threads", 0, "threads that compute (default: one for each core)")
	c.Flags().IntVar(&how.MicroBatch, "micro-batch", 0, "sequences at a time, whose gradients are added: fewer need less memory (default: the whole batch)")
	c.Flags().BoolVar(&how.Checkpoint, "checkpoint", false, "compute activations again in the backward pass: less memory, a third more time")
	c.Flags().StringVar(&socket, "socket", "", "listen on this Unix socket instead of standard input")
	return c
}

// listenWorker serves all who connect, each with a model of its own, until ctx ends.
func (a *app) listenWorker(ctx context.Context, path string, b worker.Backend) error {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return advise(fmt.Errorf("--socket: %w", err), "choose a path that is not there yet, in a directory that only you may enter")
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("--socket: %w", err), ln.Close())
	}
	a.say("listening on %s: shoal join RUN --engine unix:%s", path, path)
	own, cancel := context.WithCancel(ctx)
	var nodes sync.WaitGroup
	defer nodes.Wait()
	defer cancel()
	defer context.AfterFunc(own, func() { _ = ln.Close() })()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("--socket: %w", err)
		}
		nodes.Go(func() {
			defer context.AfterFunc(own, func() { _ = conn.Close() })() // ends Serve
			err := worker.Serve(own, conn, conn, b)
			_ = conn.Close()
			if err != nil && own.Err() == nil {
				a.say("shoal: %v", err)
			}
		})
	}
}

// backend trains and writes on the host's processor; how says how activations are kept.
func backend(threads int, how llama.Options) worker.Backend {
	return worker.Backend{
		Identity: engine{}.Identity(),
		Name:     fmt.Sprintf("shoal cpu %s, %d threads", cpu.ISAs()[0], threads),
		Train: func(cfg hf.Config, o worker.Optimizer, separator *int32, params []float32) (worker.Trainer, error) {
			opts := how
			if separator != nil {
				opts.Pack, opts.Separator = true, *separator
			}
			opts.Beta1, opts.Beta2, opts.Eps, opts.WeightDecay, opts.Clip = o.Beta1, o.Beta2, o.Eps, o.WeightDecay, o.Clip
			return engine{cfg: cfg, opts: opts, threads: threads}.NewTrainer(params)
		},
		Write: func(cfg hf.Config, b worker.Batch, params []float32) (worker.Generator, error) {
			return newBatchModel(cfg, b, params, threads)
		},
	}
}

// spawner turns --engine into what starts a worker; nil is none. args are for one of
// our own. What starts is not waited for beyond ctx.
func spawner(ctx context.Context, where string, args ...string) (func() (*worker.Client, error), error) {
	kind, what, _ := strings.Cut(where, ":")
	switch {
	case where == "" || where == inProcess:
		return nil, nil
	case where == inWorker:
		exe, err := os.Executable()
		if err != nil {
			return nil, err
		}
		return func() (*worker.Client, error) {
			return worker.Spawn(ctx, append([]string{exe, "worker"}, args...), os.Stderr)
		}, nil
	case kind == "unix" && what != "":
		return func() (*worker.Client, error) { return worker.Dial(ctx, what) }, nil
	case kind == "exec" && len(strings.Fields(what)) > 0:
		return func() (*worker.Client, error) { return worker.Spawn(ctx, strings.Fields(what), os.Stderr) }, nil
	}
	return nil, usagef("--engine %q: want %s, %s, unix:SOCKET or exec:COMMAND", where, inProcess, inWorker)
}

// during closes what spawn starts when ctx ends.
func during(ctx context.Context, spawn func() (*worker.Client, error)) func() (*worker.Client, error) {
	if spawn == nil {
		return nil
	}
	return func() (*worker.Client, error) {
		c, err := spawn()
		if err == nil {
			context.AfterFunc(ctx, func() { _ = c.Close() }) // why is told by ctx
		}
		return c, err
	}
}

// remote makes a trainer in a worker of its own.
func (e engine) remote(params []float32) (node.Trainer, error) {
	c, err := e.spawn()
	if err != nil {
		return nil, err
	}
	var separator *int32
	if e.opts.Pack {
		separator = &e.opts.Separator
	}
	t, err := c.Train(e.cfg, worker.Optimizer{Beta1: e.opts.Beta1, Beta2: e.opts.Beta2, Eps: e.opts.Eps, WeightDecay: e.opts.WeightDecay, Clip: e.opts.Clip}, separator, params)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return remote{t}, nil
}

// remoteIdentity is what a worker says of itself, or "none" where none can be
// had: then there will be no trainer either.
func remoteIdentity(spawn func() (*worker.Client, error)) string {
	c, err := spawn()
	if err != nil {
		return "none"
	}
	defer c.Close()
	return c.Identity()
}

// remote is node.Trainer with the errors that node knows.
type remote struct{ *worker.Remote }

func engineError(err error) error {
	if errors.Is(err, worker.ErrLost) {
		return fmt.Errorf("%w: %w", node.ErrEngineLost, err)
	}
	return err
}

func (r remote) Step(batch [][]int32, lr float64) (float64, error) {
	loss, err := r.Remote.Step(batch, lr)
	return loss, engineError(err)
}

func (r remote) Eval(batch [][]int32) (float64, error) {
	loss, err := r.Remote.Eval(batch)
	return loss, engineError(err)
}

func (r remote) SetParams(params []float32) error { return engineError(r.Remote.SetParams(params)) }
func (r remote) Save(w io.Writer) error           { return engineError(r.Remote.Save(w)) }
func (r remote) Load(in io.Reader) error          { return engineError(r.Remote.Load(in)) }

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/testnet"
)

type trainFlags struct {
	config, out string
	snapshot    string
	local, bf16 bool
	windows     int
	threads     int
	microBatch  int
	checkpoint  bool
}

func (a *app) trainCmd() *cobra.Command {
	var tf trainFlags
	c := &cobra.Command{
		Use:   "train --config MANIFEST --local",
		Short: "Train a run's model alone, in one process",
		Long: `Does the inner steps of a whole run on this machine, without a swarm and without outer
steps: the baseline that a run of the same manifest is to be compared with. The engine,
the data and the learning rates are those of the swarm. The data must have been prepared
or imported here.

Prints a line for each round's worth of steps, with --json an array of them. Ctrl-C ends
it; with --out the model that it has come to is written all the same. With --snapshot
the state of training is kept in a file at the end of each round, every half minute and
at Ctrl-C instead; the same command goes on from there, also after a crash, to the same
bits.`,
		Example: `  shoal data prepare corpus.txt --tokenizer char --into run.yaml
  shoal train --config run.yaml --local --out model/
  shoal train --config run.yaml --local --out model/ --snapshot run.state
  shoal train --config run.yaml --local --micro-batch 2 --checkpoint
  shoal generate model/ -p "Call me "`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if tf.config == "" {
				return usageError{errors.New("shoal train: --config is needed"), "shoal train --config run.yaml --local"}
			}
			if !tf.local {
				return usageError{errors.New("shoal train: only --local trains in this process"), "to train with others: shoal publish " + tf.config + " --join, or shoal join RUN"}
			}
			return a.train(cmd.Context(), tf)
		},
	}
	f := c.Flags()
	f.StringVar(&tf.config, "config", "", "the manifest, run.yaml")
	f.BoolVar(&tf.local, "local", false, "in this process, without a swarm")
	f.StringVar(&tf.out, "out", "", "write the model into this new directory")
	f.StringVar(&tf.snapshot, "snapshot", "", "keep the state of training in this file, and go on from it where it is there")
	f.BoolVar(&tf.bf16, "bf16", false, "round the operands of products to bfloat16; sums and weights stay float32")
	f.IntVar(&tf.threads, "threads", 0, "threads that compute (default: one for each core)")
	f.IntVar(&tf.microBatch, "micro-batch", 0, "sequences at a time, whose gradients are added: fewer need less memory (default: the whole batch)")
	f.BoolVar(&tf.checkpoint, "checkpoint", false, "compute activations again in the backward pass: less memory, a third more time")
	f.IntVar(&tf.windows, "val-windows", node.DefaultValWindows, "windows of each validation")
	return c
}

func (a *app) train(ctx context.Context, tf trainFlags) (err error) {
	m, run, err := readManifest(tf.config)
	if err != nil {
		return err
	}
	if tf.microBatch < 0 {
		return usagef("--micro-batch %d: want 0 or more", tf.microBatch)
	}
	if tf.windows < 1 {
		return usagef("--val-windows %d: want 1 or more", tf.windows)
	}
	var out *draft
	if tf.out != "" {
		if out, err = newDir(tf.out); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		defer func() { err = errors.Join(err, out.discard()) }()
		signal.Ignore(syscall.SIGPIPE) // who looked on may leave: a failure to tell is not one to train
		defer signal.Reset(syscall.SIGPIPE)
	}
	s, err := a.offline()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	tok, err := s.blocks.GetFile(ctx, m.Tokenizer, maxTokenizer)
	if err != nil {
		return advise(fmt.Errorf("tokenizer %s: %w", m.Tokenizer, err), "prepare the data here: shoal data prepare TEXT --into %s", tf.config)
	}
	points := []testnet.Point{}
	var told error // the first failure to print a line: what was trained is not lost with it
	tell := func(format string, args ...any) {
		if !a.json {
			if _, err := fmt.Fprintf(a.out, format, args...); told == nil {
				told = err
			}
		}
	}
	tell("%8s %12s %9s %10s %9s\n", "step", "tokens", "seconds", "train_loss", "val_loss")
	b := baseline{m: m, run: run, peers: []int{1}, windows: tf.windows, blocks: s.blocks,
		microBatch: tf.microBatch, checkpoint: tf.checkpoint, bf16: tf.bf16, snapshot: tf.snapshot}
	params, err := b.train(ctx, threads(tf.threads), func(p testnet.Point) {
		points = append(points, p)
		tell("%8d %12d %9.1f %10.4f %9.4f\n", p.Step, p.Tokens, p.Seconds, p.TrainLoss, p.ValLoss)
	})
	done := err == nil
	err = errors.Join(err, told)
	if errors.Is(err, node.ErrNotFound) {
		err = advise(err, "prepare the data here: shoal data prepare TEXT --into %s", tf.config)
	}
	if tf.snapshot != "" && errors.Is(err, context.Canceled) {
		err = advise(err, "the same command goes on from %s", tf.snapshot)
	}
	if params == nil {
		return err
	}
	if out != nil && (done || tf.snapshot == "") {
		beside, werr := a.beside(context.WithoutCancel(ctx), s.blocks, m, tok) // after an interrupt, too
		if werr == nil {
			werr = out.trained(m.Model.Config.HF(), tok, params, beside)
		}
		if werr != nil {
			return errors.Join(err, werr)
		}
		a.say("the model is in %s", tf.out)
	}
	if a.json {
		err = errors.Join(err, a.show(points, ""))
	}
	return err
}

// trained makes a draft the directory of a model, with what lies beside it.
func (d *draft) trained(cfg hf.Config, tokenizer []byte, params []float32, beside map[string][]byte) error {
	tok, err := hf.LoadTokenizer(tokenizer)
	if err != nil {
		return err
	}
	small := map[string][]byte{node.TokenizerFile: tokenizer}
	if small[node.ConfigFile], err = cfg.Marshal(); err != nil {
		return err
	}
	if small[tokenizerConfigFile], err = hf.TokenizerConfig(tok, cfg); err != nil {
		return err
	}
	maps.Copy(small, beside)
	weights, err := hf.Safetensors(cfg.Tensors(), params)
	if err != nil {
		return err
	}
	files := map[string]io.Reader{node.WeightsFile: weights}
	for name, b := range small {
		files[name] = bytes.NewReader(b)
	}
	return d.place(files)
}

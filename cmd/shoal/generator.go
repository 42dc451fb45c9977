package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/gpu/worker"
)

// A generator goes on from prompts: a model in this process, or one in a worker.
type generator interface {
	Generate(ctx context.Context, prompt []int32, o llama.GenerateOptions, yield func(llama.Token) bool) error
}

// restarts are how often a text is begun again where workers die under it.
const restarts = 3

// A remoteModel writes in a worker. One that dies is started again, and what it wrote
// is written again; nobody is told the same token twice.
type remoteModel struct {
	spawn  func() (*worker.Client, error)
	cfg    hf.Config
	batch  worker.Batch
	params func() ([]float32, error) // reads them: a worker has its own, and here they would lie idle

	mu    sync.Mutex // guards following
	texts *worker.Texts
}

// worker is the one that writes now, started where there is none. It ends with ctx, as what spawn
// starts does.
func (r *remoteModel) worker(ctx context.Context) (*worker.Texts, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.texts != nil {
		return r.texts, nil
	}
	t, err := r.start()
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("start a worker: %w", ctx.Err())
	}
	if err == nil {
		r.texts = t
	}
	return t, err
}

func (r *remoteModel) start() (*worker.Texts, error) {
	params, err := r.params()
	if err != nil {
		return nil, err
	}
	c, err := r.spawn()
	if err != nil {
		return nil, err
	}
	t, err := c.Write(r.cfg, r.batch, params)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return t, nil
}

// lost lets go of a worker that is lost, once.
func (r *remoteModel) lost(t *worker.Texts) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.texts != t {
		return nil
	}
	r.texts = nil
	return t.Close()
}

func (r *remoteModel) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.texts == nil {
		return nil
	}
	return r.texts.Close()
}

// Generate is llama.Model.Generate. Hidden is called on the caller's goroutine.
func (r *remoteModel) Generate(ctx context.Context, prompt []int32, o llama.GenerateOptions, yield func(llama.Token) bool) error {
	s := worker.Sampling{MaxTokens: o.MaxTokens, Temperature: o.Temperature, TopK: o.TopK, TopP: o.TopP, MinP: o.MinP, Repetition: o.Repetition,
		Frequency: o.Frequency, Presence: o.Presence, Seed: o.Seed, Stop: o.Stop, LogProbs: o.LogProbs}
	var told []worker.Token
	shown := 0 // hidden states
	for begun := 0; ; begun++ {
		t, err := r.worker(ctx)
		if err != nil {
			return err
		}
		at, state, other := 0, 0, false
		var tap func([]float32)
		if o.Hidden != nil {
			tap = func(h []float32) {
				if state++; state > shown {
					shown = state
					o.Hidden(state-1, h)
				}
			}
		}
		err = t.Generate(ctx, prompt, s, tap, func(k worker.Token) bool {
			if at++; at <= len(told) {
				other = k != told[at-1]
				return !other
			}
			told = append(told, k)
			return yield(llama.Token(k))
		})
		switch {
		case other:
			return fmt.Errorf("the worker that was started anew writes another text than the one before, from token %d on: its engine is not the same", at)
		case !errors.Is(err, worker.ErrLost):
			return err
		}
		if e := r.lost(t); e != nil {
			err = errors.Join(err, e)
		}
		if begun == restarts {
			return advise(fmt.Errorf("%d workers were lost under one text: %w", begun+1, err), "look at what the worker says; or generate without --engine")
		}
		slog.Warn("the worker is lost and started again", "err", err)
	}
}

// A batchModel is a worker's generator: it writes many texts at once.
type batchModel struct {
	*llama.Batch
	dev  *cpu.Device
	end  context.CancelFunc
	over chan error
}

// newBatchModel makes one on the host's processor.
func newBatchModel(cfg hf.Config, b worker.Batch, params []float32, threads int) (_ *batchModel, err error) {
	dev, err := cpu.New(cpu.Options{Threads: threads})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dev.Close())
		}
	}()
	from, err := hf.NewVector(cfg.Tensors(), params)
	if err != nil {
		return nil, err
	}
	thrifty(4 * int64(len(params)))
	m, err := llama.Load(context.Background(), dev, cfg, from, b.BF16 || from.BF16(), nil)
	if err != nil {
		return nil, err
	}
	all, err := m.NewBatch(llama.BatchOptions(b))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	x := &batchModel{all, dev, cancel, make(chan error, 1)}
	go func() { x.over <- all.Run(ctx) }() // Close waits for it
	return x, nil
}

// Generate implements worker.Generator.
func (x *batchModel) Generate(ctx context.Context, prompt []int32, s worker.Sampling, tap func([]float32), yield func(worker.Token) bool) error {
	o := generateOptions(s)
	if s.Hidden {
		o.Hidden = func(_ int, h []float32) { tap(h) } // positions come in order
	}
	return x.Batch.Generate(ctx, prompt, o, func(t llama.Token) bool { return yield(worker.Token(t)) })
}

// Close implements worker.Generator.
func (x *batchModel) Close() error {
	x.end()
	err := <-x.over
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, x.dev.Close())
}

func generateOptions(s worker.Sampling) llama.GenerateOptions {
	return llama.GenerateOptions{MaxTokens: s.MaxTokens, Temperature: s.Temperature, TopK: s.TopK, TopP: s.TopP, MinP: s.MinP, Repetition: s.Repetition,
		Frequency: s.Frequency, Presence: s.Presence, Seed: s.Seed, Stop: s.Stop, LogProbs: s.LogProbs}
}

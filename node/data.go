package node

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/shard"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// dataset is a run's data: its token blocks are fetched when they are needed
// first, and kept. The trainer's goroutine uses it, besides prefetch.
type dataset struct {
	run    wire.CID
	blocks Blocks
	keeper *keeper
	index  *shard.Index
	names  map[wire.CID]string // of the shards, for their pins
	peers  func() []wire.PeerID

	inner *manifest.Inner
	each  int // windows of one trainer in a round
	evals int // windows of a validation

	train, val *shard.Reader
	ctx        context.Context // of the call under way: a shard.Reader has none
}

// Bounds of the data's fetches.
const (
	prefetchShards = 256              // data sets up to 256 MiB are fetched whole at the start
	shardTimeout   = 60 * time.Second // for one block
)

// openDataset gets the index and checks that it fits the manifest.
func openDataset(ctx context.Context, b Blocks, k *keeper, run wire.CID, m *manifest.Manifest, evals int, from []wire.PeerID) (*dataset, error) {
	block, err := b.Fetch(ctx, m.Data, from, shard.MaxBlock)
	if err != nil {
		return nil, err
	}
	x, err := shard.DecodeIndex(block)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadContent, err)
	}
	switch {
	case x.Tokenizer != m.Tokenizer:
		return nil, fmt.Errorf("%w: the data was made with the tokenizer %s, the manifest names %s", ErrBadContent, x.Tokenizer, m.Tokenizer)
	case x.Vocab > uint64(m.Model.Config.VocabSize):
		return nil, fmt.Errorf("%w: the data has tokens up to %d, the model %d", ErrBadContent, x.Vocab, m.Model.Config.VocabSize)
	}
	d := &dataset{
		run: run, blocks: b, keeper: k, index: x, names: map[wire.CID]string{},
		inner: &m.Inner, each: int(m.WindowsPerRound()), evals: evals,
		peers: func() []wire.PeerID { return from },
	}
	for i, s := range append(append([]shard.Shard{}, x.Train...), x.Val...) {
		d.names[s.CID] = "run/data/" + strconv.Itoa(i)
	}
	fetch := func(c wire.CID) ([]byte, error) { return d.shard(d.ctx, c) }
	if d.train, err = shard.NewReader(x, x.Train, m.Inner.Sequence, fetch); err != nil {
		return nil, err
	}
	if d.val, err = shard.NewReader(x, x.Val, m.Inner.Sequence, fetch); err != nil {
		return nil, err
	}
	if d.train.Windows() == 0 {
		return nil, fmt.Errorf("%w: the data has %d tokens, fewer than a sequence of %d", ErrBadContent, shard.Tokens(x.Train), m.Inner.Sequence)
	}
	return d, nil
}

// shard gets one token block and keeps it.
func (d *dataset) shard(ctx context.Context, c wire.CID) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, shardTimeout)
	defer cancel()
	b, err := d.blocks.Fetch(ctx, c, d.peers(), shard.MaxBlock)
	if err != nil {
		return nil, err
	}
	return b, d.keeper.pin(d.names[c], c)
}

// batch returns the tokens of one inner step of a round: (B, T+1).
func (d *dataset) batch(ctx context.Context, job diloco.Train, step uint64) ([][]int32, error) {
	d.ctx = ctx
	return d.train.Batch(shard.Share{
		Run: d.run, Base: job.Base, Slot: job.Slot, Slots: job.Slots, Each: uint64(d.each), Batch: d.inner.Batch,
	}, step)
}

// validate returns the mean loss over the validation split.
func (d *dataset) validate(ctx context.Context, t Trainer) (float64, error) {
	d.ctx = ctx
	return Validate(ctx, t, d.val, d.evals, d.inner)
}

// Validate returns the mean loss of t over a fixed set of windows, spread evenly
// over val, in nats per predicted token: what every peer calls its validation loss.
func Validate(ctx context.Context, t Trainer, val *shard.Reader, windows int, in *manifest.Inner) (float64, error) {
	all := val.Windows()
	n := min(uint64(max(windows, 0)), all)
	if n == 0 || in.Batch < 1 {
		return 0, errors.New("the data has no validation split")
	}
	sum, weight := 0.0, 0.0 // in windows
	for at := uint64(0); at < n; {
		var batch [][]int32
		for ; at < n && len(batch) < in.Batch; at++ {
			w, err := val.Window(at * all / n)
			if err != nil {
				return 0, err
			}
			batch = append(batch, w)
		}
		loss, err := t.Eval(batch)
		if err != nil {
			return 0, fmt.Errorf("evaluate: %w", err)
		}
		w := float64(in.Predictions(batch)) / float64(len(batch[0])-1)
		sum, weight = sum+loss*w, weight+w
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
	if weight == 0 {
		return 0, errors.New("the validation split holds nothing but separators")
	}
	return sum / weight, nil
}

// prefetch gets the token blocks of a small data set, in the background, so
// that later steps wait for none and others can have them here.
func (d *dataset) prefetch(ctx context.Context, work *sync.WaitGroup) {
	if len(d.names) > prefetchShards {
		return
	}
	work.Go(func() {
		for c := range d.names {
			for {
				_, err := d.shard(ctx, c)
				if ctx.Err() != nil {
					return
				}
				if err == nil {
					break
				}
				if pauseFor(ctx, 5*time.Second) != nil {
					return
				}
			}
		}
	})
}

// pauseFor waits, or returns the error of ctx.
func pauseFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/diloco/shard"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/testnet"
)

// baselineCmd trains by oneself what a run's peers train together; the testnet
// calls it for its comparison.
func (a *app) baselineCmd() *cobra.Command {
	var thr, windows int
	var peers []int
	c := &cobra.Command{
		Use:     "baseline MANIFEST",
		Short:   "Train a run's model in one process, with the batches of some peers in each step",
		Example: "  shoal testnet baseline run.yaml --peers 4\n  shoal testnet baseline run.yaml --peers 4,4,3   # in the first rounds; then three",
		Args:    exactly("MANIFEST"),
		Hidden:  true,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			m, run, err := readManifest(args[0])
			if err != nil {
				return err
			}
			s, err := a.offline()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.close()) }()
			b := baseline{m: m, run: run, peers: peers, windows: windows, blocks: s.blocks}
			points := []testnet.Point{}
			_, err = b.train(cmd.Context(), threads(thr), func(p testnet.Point) { points = append(points, p) })
			if err != nil {
				return err
			}
			a.json = true
			return a.show(points, "")
		},
	}
	c.Flags().IntSliceVar(&peers, "peers", []int{1}, "how many peers' batches make one step, round by round; the last number is for all that follow")
	c.Flags().IntVar(&thr, "threads", 0, "threads that compute (default: one for each core)")
	c.Flags().IntVar(&windows, "val-windows", node.DefaultValWindows, "windows of each validation")
	return c
}

type baseline struct {
	m       *manifest.Manifest
	run     wire.CID
	peers   []int // whose batches make a step, round by round; the last is for all that follow
	windows int
	// See llama.Options.
	microBatch int
	checkpoint bool
	bf16       bool   // see cpu.Options
	snapshot   string // file that training goes on from, and keeps; "" is none
	blocks     node.Blocks

	data, val *shard.Reader
	kept      time.Time // when the snapshot was written
}

// train does the steps of one peer over the whole run, with the batches that
// so many peers would take, evaluates after each round's worth of them and
// hands that to see. It returns the weights, when it is interrupted those that
// it has come to.
func (b *baseline) train(ctx context.Context, threads int, see func(testnet.Point)) (weights []float32, err error) {
	m := b.m
	if len(b.peers) == 0 || slices.Min(b.peers) < 1 || slices.Max(b.peers) > testnet.MaxPeers {
		return nil, usagef("--peers %v: want 1 to %d", b.peers, testnet.MaxPeers)
	}
	if b.windows < 1 {
		return nil, usagef("--val-windows %d: want 1 or more", b.windows)
	}
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	e := newEngine(m, threads)
	e.bf16 = b.bf16
	e.opts.MicroBatch, e.opts.Checkpoint = b.microBatch, b.checkpoint
	if err := b.room(&e, freeMemory()); err != nil {
		return nil, err
	}
	thrifty(16 * e.cfg.NumParams())
	params, err := b.begin(ctx, e)
	if err != nil {
		return nil, err
	}
	t, err := e.NewTrainer(params)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil || ctx.Err() != nil {
			weights = slices.Clone(t.Params())
		}
		err = errors.Join(err, t.Close())
	}()
	at, err := b.resume(t)
	if err != nil {
		return nil, err
	}
	for _, p := range at.Points {
		see(p)
	}
	since := time.Now() // without evaluation: not the swarm's way of counting either
	worked := func() {
		now := time.Now()
		at.Seconds += now.Sub(since).Seconds()
		since = now
	}
	each := m.WindowsPerRound()
	for ; at.Round < m.Stop.Rounds; at.Round++ {
		r := at.Round
		peers := b.peers[min(r, uint64(len(b.peers)-1))]
		for ; at.Step < m.Round.InnerSteps; at.Step++ {
			worked()
			if err := b.keep(t, &at, ctx.Err() != nil); err != nil {
				return nil, err
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			h := at.Step
			var batch [][]int32
			for slot := range peers {
				w, err := b.data.Batch(shard.Share{
					Run: b.run, Base: at.Base, Slot: slot, Slots: peers, Each: each, Batch: m.Inner.Batch}, h)
				if err != nil {
					return nil, err
				}
				batch = append(batch, w...)
			}
			step := r*m.Round.InnerSteps + h
			loss, err := t.Step(batch, node.LearningRate(m, step))
			if err != nil {
				return nil, fmt.Errorf("step %d: %w", step, err)
			}
			if math.IsNaN(loss) {
				return nil, advise(fmt.Errorf("step %d: loss or gradient is not finite", step), "try a lower inner.lr, or a longer inner.warmup")
			}
			at.Sum += loss
		}
		worked()
		val, err := node.Validate(ctx, t, b.val, b.windows, &m.Inner)
		if err != nil {
			return nil, errors.Join(err, b.keep(t, &at, ctx.Err() != nil))
		}
		since = time.Now()
		at.Base += each * uint64(peers)
		at.Tokens += m.Round.InnerSteps * uint64(peers*m.Inner.Batch*m.Inner.Sequence)
		p := testnet.Point{
			Step: (r + 1) * m.Round.InnerSteps, Tokens: at.Tokens, Seconds: at.Seconds,
			TrainLoss: at.Sum / float64(m.Round.InnerSteps), ValLoss: val}
		at.Step, at.Sum, at.Points = 0, 0, append(at.Points, p)
		see(p)
		// The next round has begun: what is kept is at its first step.
		next := at
		next.Round++
		if err := b.keep(t, &next, true); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// room refuses what has none in so many free bytes of memory, 0 where that is not known.
func (b *baseline) room(e *engine, free int64) error {
	seqs, length := b.m.Inner.Batch*slices.Max(b.peers), b.m.Inner.Sequence
	need := func(o llama.Options) int64 { // weights are there twice as long as they are copied
		return llama.TrainingMemory(e.cfg, seqs, length, o) + 4*e.cfg.NumParams()
	}
	least := e.opts
	least.MicroBatch, least.Checkpoint = 1, true
	next := "train a smaller model, or on a machine with more memory"
	if n := need(least); n <= free && n < need(e.opts) {
		next = fmt.Sprintf("--checkpoint --micro-batch 1 need %s; or %s", size(n), next)
	}
	return fits(fmt.Sprintf("training %s parameters with %d sequences of %d tokens in a step", count(float64(e.cfg.NumParams())), seqs, length),
		need(e.opts), free, next)
}

// begin gives the weights that the run starts from: those of its base, or those
// that its seed makes.
func (b *baseline) begin(ctx context.Context, e engine) ([]float32, error) {
	if !b.m.Model.Base.Defined() {
		return e.Genesis()
	}
	return node.BaseWeights(ctx, b.blocks, b.m.Model.Base, e.cfg, nil, nil)
}

// open finds the data of the manifest in the local store.
func (b *baseline) open(ctx context.Context) error {
	raw, err := b.blocks.Get(ctx, b.m.Data)
	if err != nil {
		return fmt.Errorf("data: %w", err)
	}
	x, err := shard.DecodeIndex(raw)
	if err != nil {
		return fmt.Errorf("data: %w", err)
	}
	fetch := func(c wire.CID) ([]byte, error) { return b.blocks.Get(ctx, c) }
	if b.data, err = shard.NewReader(x, x.Train, b.m.Inner.Sequence, fetch); err != nil {
		return err
	}
	b.val, err = shard.NewReader(x, x.Val, b.m.Inner.Sequence, fetch)
	return err
}

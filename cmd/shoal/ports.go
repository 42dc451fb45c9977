package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/gpu/worker"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/block"
	"github.com/shoalnet/shoal/p2p/gossip"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// swarmNet is node.Net made of a libp2p host and its gossip.
type swarmNet struct {
	*p2p.Host
	gossip *gossip.Gossip
}

var _ node.Net = swarmNet{}

// Self is the host's peer.
func (n swarmNet) Self() wire.PeerID { return n.Peer() }

// Join enters a topic.
func (n swarmNet) Join(topic string, judge node.Judge) (node.Topic, error) {
	t, err := n.gossip.Join(topic, gossip.Judge(judge))
	if err != nil {
		return nil, err // not a typed nil
	}
	return t, nil
}

// Handle answers questions of a protocol.
func (n swarmNet) Handle(proto string, maxReq int, h node.Handler) { n.Host.Handle(proto, maxReq, h) }

// Peers are those connected now.
func (n swarmNet) Peers() []wire.PeerID {
	infos := n.Host.Peers()
	out := make([]wire.PeerID, len(infos))
	for i, p := range infos {
		out[i] = p.Peer
	}
	return out
}

// blocks is node.Blocks made of a store and, where there is a network, an
// exchange.
type blocks struct {
	store    *block.Store
	exchange *block.Exchange // nil: only what the store holds
}

var _ node.Blocks = blocks{}

// sorted tells node's kinds of failure apart.
func sorted(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, block.ErrNotFound), errors.Is(err, block.ErrUnavailable):
		return fmt.Errorf("%w: %w", node.ErrNotFound, err)
	case errors.Is(err, block.ErrTooLarge), errors.Is(err, block.ErrBadDAG):
		return fmt.Errorf("%w: %w", node.ErrBadContent, err)
	}
	return err
}

func with[T any](v T, err error) (T, error) { return v, sorted(err) }

func (b blocks) Put(ctx context.Context, codec uint64, data []byte) (wire.CID, error) {
	return with(b.store.Put(ctx, codec, data))
}

func (b blocks) Get(ctx context.Context, c wire.CID) ([]byte, error) {
	return with(b.store.Get(ctx, c))
}

func (b blocks) PutFile(ctx context.Context, data []byte) (wire.CID, error) {
	return with(b.store.PutFile(ctx, data))
}

func (b blocks) PutDir(ctx context.Context, files map[string]io.Reader) (wire.CID, error) {
	return with(b.store.PutDir(ctx, files))
}

func (b blocks) GetFile(ctx context.Context, c wire.CID, limit int64) ([]byte, error) {
	return with(b.store.GetFile(ctx, c, limit))
}

func (b blocks) OpenDir(ctx context.Context, c wire.CID, limit int64) (map[string]*io.SectionReader, error) {
	files, err := b.store.OpenDir(ctx, c, limit)
	for name, f := range files {
		files[name] = io.NewSectionReader(sortedReader{f}, 0, f.Size())
	}
	return with(files, err)
}

// sortedReader tells node's kinds of failure apart.
type sortedReader struct{ r io.ReaderAt }

func (s sortedReader) ReadAt(b []byte, at int64) (int, error) { return with(s.r.ReadAt(b, at)) }

func (b blocks) Fetch(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64) ([]byte, error) {
	if b.exchange == nil {
		data, err := with(b.store.Get(ctx, c))
		if err == nil && int64(len(data)) > limit {
			return nil, fmt.Errorf("block %s: %w: %d bytes, over the limit of %d", c, node.ErrBadContent, len(data), limit)
		}
		return data, err
	}
	return with(b.exchange.Fetch(ctx, c, from, limit))
}

func (b blocks) FetchFile(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64) ([]byte, error) {
	if b.exchange == nil {
		return b.GetFile(ctx, c, limit)
	}
	return with(b.exchange.FetchFile(ctx, c, from, limit))
}

func (b blocks) FetchDir(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64, progress func(done, total int64)) error {
	if b.exchange == nil {
		_, err := b.OpenDir(ctx, c, limit)
		return err
	}
	return sorted(b.exchange.FetchDir(ctx, c, from, limit, progress))
}

func (b blocks) FetchEntry(ctx context.Context, dir wire.CID, name string, from []wire.PeerID, limit int64) ([]byte, error) {
	if _, err := b.Fetch(ctx, dir, from, block.MaxBlock); err != nil {
		return nil, err
	}
	entries, err := b.store.List(ctx, dir)
	if err != nil {
		return nil, sorted(err)
	}
	for _, e := range entries {
		if e.Name == name {
			data, err := b.FetchFile(ctx, e.CID, from, limit)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			return data, nil
		}
	}
	return nil, nil
}

func (b blocks) Pin(name string, c wire.CID) error { return sorted(b.store.Pin(name, c)) }
func (b blocks) Unpin(name string) error           { return sorted(b.store.Unpin(name)) }

func (b blocks) Pins() (map[string]wire.CID, error) {
	out := map[string]wire.CID{}
	for _, p := range b.store.Pins() {
		if len(p.Roots) > 0 && p.Name != block.PinRecovered {
			out[p.Name] = p.Roots[0]
		}
	}
	return out, nil
}

// GC keeps to the quota. Without one, what nothing pins goes all the same: old
// states and audit material would fill any disk, and who keeps the lineage pins it.
func (b blocks) GC(ctx context.Context) error {
	target := int64(0)
	if q := b.store.Usage().Quota; q > 0 {
		target = q - q/10
	}
	_, err := b.store.Collect(ctx, target)
	return sorted(err)
}

func (b blocks) Usage() (int64, error) { return b.store.Usage().Bytes, nil }

// engine is node.Engine on the host's processor, or in a worker.
type engine struct {
	cfg     hf.Config
	seed    uint64
	opts    llama.Options
	threads int                            // 0: all
	bf16    bool                           // see cpu.Options; of this process only
	spawn   func() (*worker.Client, error) // nil: in this process

	remoteID func() string // what workers say of themselves, asked once; nil without
}

var _ node.Engine = engine{}

// newEngine is the engine that a manifest asks for.
func newEngine(m *manifest.Manifest, threads int) engine {
	o := llama.Options{Beta1: m.Inner.Beta1, Beta2: m.Inner.Beta2, Eps: m.Inner.Eps, WeightDecay: m.Inner.WeightDecay, Clip: m.Inner.Clip}
	if s := m.Inner.Separator; s != nil {
		o.Pack, o.Separator = true, int32(*s)
	}
	return engine{cfg: m.Model.Config.HF(), seed: m.Model.Seed, opts: o, threads: threads}
}

// within returns the engine as workers that spawn starts; nil is this process.
func (e engine) within(spawn func() (*worker.Client, error)) engine {
	if e.spawn = spawn; spawn != nil {
		e.remoteID = sync.OnceValue(func() string { return remoteIdentity(spawn) })
	}
	return e
}

// engines makes newEngine what node wants to be given.
func engines(threads int) func(context.Context, *manifest.Manifest) (node.Engine, error) {
	return func(_ context.Context, m *manifest.Manifest) (node.Engine, error) { return newEngine(m, threads), nil }
}

func (e engine) Genesis() ([]float32, error) { return llama.Genesis(e.cfg, e.seed), nil }

// Identity implements node.Engine.
func (e engine) Identity() string {
	if e.remoteID != nil {
		return e.remoteID()
	}
	dev, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		return "none" // NewTrainer says why
	}
	defer dev.Close()
	return fmt.Sprintf("llama/%d %s", llama.Version, dev.Class())
}

// Unpack implements node.Engine.
func (e engine) Unpack(saved []byte) (audit.Snapshot, error) {
	s, err := llama.ReadState(e.cfg, bytes.NewReader(saved))
	if err != nil {
		return audit.Snapshot{}, err
	}
	return audit.Snapshot{Steps: s.Steps, Params: s.Params, First: s.First, Second: s.Second}, nil
}

// trainer is node.Trainer with a device of its own.
type trainer struct {
	*llama.Trainer
	dev *cpu.Device
}

func (e engine) NewTrainer(params []float32) (node.Trainer, error) {
	if e.spawn != nil {
		return e.remote(params)
	}
	dev, err := cpu.New(cpu.Options{Threads: e.threads, BF16: e.bf16})
	if err != nil {
		return nil, err
	}
	t, err := llama.NewTrainer(dev, e.cfg, params, e.opts)
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return trainer{t, dev}, nil
}

// Step's loss is NaN where loss or gradient is not finite: that is the model's
// fault, not the engine's.
func (t trainer) Step(batch [][]int32, lr float64) (float64, error) {
	loss, err := t.Trainer.Step(batch, lr)
	if errors.Is(err, llama.ErrNotFinite) {
		return math.NaN(), nil
	}
	return loss, err
}

func (t trainer) Close() error { return errors.Join(t.Trainer.Close(), t.dev.Close()) }

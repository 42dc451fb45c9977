package node

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/shard"
	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/block"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// llamaEngine is the engine that cmd/shoal makes.
type llamaEngine struct {
	cfg hf.Config
	isa string
}

type llamaTrainer struct {
	*llama.Trainer
	dev *cpu.Device
}

func (e llamaEngine) Genesis() ([]float32, error) { return llama.Genesis(e.cfg, 1), nil }

func (e llamaEngine) NewTrainer(p []float32) (Trainer, error) {
	dev, err := cpu.New(cpu.Options{Threads: 2, ISA: e.isa})
	if err != nil {
		return nil, err
	}
	t, err := llama.NewTrainer(dev, e.cfg, p, llama.DefaultOptions())
	return llamaTrainer{t, dev}, err
}

func (e llamaEngine) Identity() string {
	dev, err := cpu.New(cpu.Options{Threads: 1, ISA: e.isa})
	if err != nil {
		return err.Error()
	}
	defer dev.Close()
	return dev.Class()
}

func (e llamaEngine) Unpack(b []byte) (audit.Snapshot, error) {
	s, err := llama.ReadState(e.cfg, bytes.NewReader(b))
	if err != nil {
		return audit.Snapshot{}, err
	}
	return audit.Snapshot{Steps: s.Steps, Params: s.Params, First: s.First, Second: s.Second}, nil
}

func (t llamaTrainer) Close() error {
	if err := t.Trainer.Close(); err != nil {
		return err
	}
	return t.dev.Close()
}

// disk is a real store without a network.
type disk struct{ *block.Store }

func (d disk) Fetch(ctx context.Context, c wire.CID, _ []wire.PeerID, _ int64) ([]byte, error) {
	return d.Get(ctx, c)
}
func (d disk) FetchFile(ctx context.Context, c wire.CID, _ []wire.PeerID, limit int64) ([]byte, error) {
	return d.GetFile(ctx, c, limit)
}
func (d disk) FetchEntry(context.Context, wire.CID, string, []wire.PeerID, int64) ([]byte, error) {
	return nil, ErrNotFound
}
func (d disk) FetchDir(context.Context, wire.CID, []wire.PeerID, int64, func(done, total int64)) error {
	return nil
}
func (d disk) Pin(name string, c wire.CID) error  { return d.Store.Pin(name, c) }
func (d disk) Pins() (map[string]wire.CID, error) { return map[string]wire.CID{}, nil }
func (d disk) GC(ctx context.Context) error       { _, err := d.Store.GC(ctx); return err }
func (d disk) Usage() (int64, error)              { return d.Store.Usage().Bytes, nil }

// A bench trains phase after phase, as a node does, without a machine.
type bench struct {
	t     *trainer
	key   *wire.Key
	state wire.CID
	head  wire.CID
	round uint64
}

func newBench(b testing.TB, m *manifest.Manifest, traced bool) *bench {
	b.Helper()
	ctx := context.Background()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	dir := b.TempDir()
	store, err := block.Open(dir, block.Options{Log: slog.New(slog.DiscardHandler)})
	must(err)
	b.Cleanup(func() { store.Close() })
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	for i := range 32 * 32 { // as in a store that was used for a while
		must(os.MkdirAll(filepath.Join(dir, "blocks", digits[i/32:][:1]+digits[i%32:][:1]), 0o755))
	}
	blocks := disk{store}
	tok, err := hf.NewChar("abcdefghijklmnop")
	must(err)
	m.Tokenizer, err = blocks.Put(ctx, wire.CodecRaw, tok.JSON())
	must(err)
	tokens := make([]int32, 200_000)
	x := uint32(1)
	for i := range tokens { // there is something to learn: two tokens tell the next, mostly
		x = x*1664525 + 1013904223
		if tokens[i] = int32(x >> 28); i > 1 && x>>16&7 != 0 {
			tokens[i] = (tokens[i-1] + 3*tokens[i-2] + 1) % 16
		}
	}
	data, err := shard.Prepare(tokens, m.Tokenizer, uint64(tok.VocabSize()), shard.Options{})
	must(err)
	m.Data, err = blocks.Put(ctx, wire.CodecDagCBOR, data.Block)
	must(err)
	for _, s := range data.Blocks {
		_, err := blocks.Put(ctx, wire.CodecRaw, s.Data)
		must(err)
	}
	run, err := m.CID()
	must(err)
	model, err := NewModel(run, m, tok.JSON())
	must(err)
	k, err := newKeeper(blocks, true, testLogger())
	must(err)
	ds, err := openDataset(ctx, blocks, k, run, m, 1, nil)
	must(err)
	engine := llamaEngine{cfg: m.Model.Config.HF()}
	s := &bench{key: testKey(b, 1)}
	t := &trainer{
		run: run, self: s.key.Peer(), dir: b.TempDir(), plan: planOf(m), model: model, states: &states{model: model, blocks: blocks},
		blocks: blocks, engine: engine, data: ds, meter: newMeter(time.Now()), log: testLogger(), wake: make(chan struct{}, 1),
		emit: func(diloco.Event) {},
	}
	t.plan.Every = 2 * time.Second
	t.debts, err = openDebts(t.dir, run, t.self, model.Codec, blocks, testLogger())
	must(err)
	if traced {
		t.trace = newTracer(t, &parts{manifest: m, engine: engine, keeper: k})
		t.debts.tracer = t.trace
	}
	params, err := engine.Genesis()
	must(err)
	g, err := model.Genesis(params)
	must(err)
	s.state, err = model.Put(ctx, blocks, g, Position{Run: run})
	must(err)
	s.t = t
	first, err := (&diloco.Commit{Version: 1, Run: run, State: s.state}).Encode()
	must(err)
	s.head, err = blocks.Put(ctx, wire.CodecDagCBOR, first)
	must(err)
	s.commit(b, nil)
	b.Cleanup(t.close)
	return s
}

// commit makes the head that the next phase trains from.
func (s *bench) commit(b testing.TB, deltas []wire.Signed) {
	b.Helper()
	s.round++
	block, err := (&diloco.Commit{Version: 1, Run: s.t.run, Round: s.round, Parent: s.head, State: s.state, Deltas: deltas, Cursor: 100 * s.round,
		Roster: []diloco.Member{{Peer: s.key.Peer(), Role: RoleTrainer, Weight: 1}}}).Encode()
	if err != nil {
		b.Fatal(err)
	}
	if s.head, err = s.t.blocks.Put(context.Background(), wire.CodecDagCBOR, block); err != nil {
		b.Fatal(err)
	}
}

// phase does one round.
func (s *bench) phase(b testing.TB) diloco.Delta {
	b.Helper()
	d, err := s.t.phase(context.Background(), &diloco.Train{Head: s.head, Round: s.round, State: s.state, Slots: 1, Base: 100 * s.round})
	if err != nil {
		b.Fatal(err)
	}
	body, err := wire.Marshal(&d)
	if err != nil {
		b.Fatal(err)
	}
	env := s.key.Sign(wire.KindDelta, s.t.run, body)
	s.t.debts.included(d.Block)
	s.commit(b, []wire.Signed{env})
	return d
}

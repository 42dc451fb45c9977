package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/diloco/outer"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// maxTokenizer bounds a run's tokenizer.json, in bytes.
const maxTokenizer = 64 << 20

// parts is what a run's manifest stands for, fetched and made.
type parts struct {
	manifest *manifest.Manifest
	model    *Model
	plan     plan
	engine   Engine
	data     *dataset
	keeper   *keeper
	genesis  *diloco.Commit
}

// prepare gets everything that the manifest names, from the store or the
// swarm, however long that takes.
func (n *Node) prepare(ctx context.Context) (*parts, error) {
	m, err := n.findManifest(ctx)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.manifest = m
	n.mu.Unlock()
	if m.Admission.Kind == "stake" && n.opt.Stake == nil && !n.opt.Observe {
		return nil, errors.New("the run admits by stake, and this peer asks no ledger who has one: join from a data directory that holds its chain.json, and not with --chain=false")
	}
	p := &parts{manifest: m}
	if p.keeper, err = newKeeper(n.opt.Blocks, !n.opt.Prune, n.opt.Log); err != nil {
		return nil, err
	}
	if v := m.Verification; v.AuditRate > 0 {
		p.keeper.before, p.keeper.audits = beforeAudited(m.Round.LateRounds), n.opt.Role == RoleValidator
	}
	if err := p.keeper.pin("run/manifest", n.opt.Run); err != nil {
		return nil, err
	}
	var tokenizer []byte
	err = n.retry(ctx, "fetch the tokenizer", small, func(ctx context.Context, from []wire.PeerID) (err error) {
		if tokenizer, err = n.opt.Blocks.FetchFile(ctx, m.Tokenizer, from, maxTokenizer); err != nil {
			return err
		}
		return p.keeper.pin("run/tokenizer", m.Tokenizer)
	})
	if err != nil {
		return nil, err
	}
	if p.model, err = NewModel(n.opt.Run, m, tokenizer); err != nil {
		return nil, err
	}
	p.plan = planOf(m)
	p.plan.Every = n.opt.SnapshotEvery
	err = n.retry(ctx, "fetch the data's index", small, func(ctx context.Context, from []wire.PeerID) (err error) {
		p.data, err = openDataset(ctx, n.opt.Blocks, p.keeper, n.opt.Run, m, n.opt.ValWindows, from)
		if err != nil {
			return err
		}
		return p.keeper.pin("run/data", m.Data)
	})
	if err != nil {
		return nil, err
	}
	if p.engine, err = n.opt.Engine(ctx, m); err != nil {
		return nil, fmt.Errorf("training engine: %w", err)
	}
	p.genesis, err = n.makeGenesis(ctx, p)
	return p, err
}

// findManifest takes the manifest from the options, the store or the swarm.
func (n *Node) findManifest(ctx context.Context) (m *manifest.Manifest, err error) {
	if n.opt.Manifest != nil {
		block, err := n.opt.Manifest.Encode()
		if err != nil {
			return nil, err
		}
		_, err = n.opt.Blocks.Put(ctx, wire.CodecDagCBOR, block)
		if err != nil {
			return nil, fmt.Errorf("store the manifest: %w", err)
		}
		return n.opt.Manifest, nil
	}
	err = n.retry(ctx, "fetch the manifest", small, func(ctx context.Context, from []wire.PeerID) error {
		block, err := n.opt.Blocks.Fetch(ctx, n.opt.Run, from, manifest.MaxSize)
		if err != nil {
			return err
		}
		if m, err = manifest.Decode(block); err != nil {
			return fmt.Errorf("%w: %w", ErrBadContent, err)
		}
		return nil
	})
	return m, err
}

// Waits between two attempts to get what a run needs.
const (
	prepareFirst = time.Second
	prepareLast  = 15 * time.Second
	small        = time.Minute // for a block or a small file
	large        = 0           // for a state or its making: as long as it takes
)

// retry tries again until f succeeds, finds that the content is bad, or ctx
// ends. limit bounds each try, 0 not at all.
func (n *Node) retry(ctx context.Context, what string, limit time.Duration, f func(ctx context.Context, from []wire.PeerID) error) error {
	for wait := prepareFirst; ; wait = min(2*wait, prepareLast) {
		peers := n.opt.Net.Peers()
		rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] }) // or all newcomers would ask the same one first
		n.setPhase(FindingPeers)
		if len(peers) > 0 {
			n.setPhase(Syncing)
		}
		try, cancel := context.WithCancel(ctx)
		if limit > 0 {
			try, cancel = context.WithTimeout(ctx, limit)
		}
		err := f(try, peers)
		cancel()
		switch {
		case err == nil:
			n.meter.clear("prepare")
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrBadContent):
			return fmt.Errorf("%s: %w", what, err)
		}
		n.meter.trouble("prepare", fmt.Errorf("%s: %w", what, err))
		n.opt.Log.Info(what, "err", err, "retry", wait, "peers", len(peers))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

func (n *Node) setPhase(p Phase) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.phase = p
}

// NewModel derives from a manifest what states and payloads of its run look
// like. tokenizer is the file that the manifest names.
func NewModel(run wire.CID, m *manifest.Manifest, tokenizer []byte) (*Model, error) {
	t, err := hf.LoadTokenizer(tokenizer)
	if err != nil {
		return nil, fmt.Errorf("tokenizer %s: %w: %w", m.Tokenizer, ErrBadContent, err)
	}
	cfg := m.Model.Config.HF()
	if t.VocabSize() > cfg.VocabSize {
		return nil, fmt.Errorf("tokenizer %s: %w: it has %d tokens, the model %d", m.Tokenizer, ErrBadContent, t.VocabSize(), cfg.VocabSize)
	}
	kind, err := codec.ParseKind(m.Codec.Kind)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	tensors := cfg.Tensors()
	layout := make(codec.Layout, len(tensors))
	for i, t := range tensors {
		layout[i] = t.Len()
	}
	c, err := codec.New(codec.Spec{Kind: kind, Chunk: m.Codec.Chunk, Density: m.Codec.Density}, layout)
	if err != nil {
		return nil, fmt.Errorf("manifest: codec: %w", err)
	}
	out := outer.Config{LR: float32(m.Outer.LR), Momentum: float32(m.Outer.Momentum)}
	if err := out.Validate(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return &Model{Run: run, Config: cfg, Tokenizer: tokenizer, Tensors: tensors, Codec: c, Outer: out}, nil
}

// MakeGenesis makes the first state of a run, stores it and returns the first
// commit: from the engine's weights, which the manifest's seed fixes, or from
// the weights of the base checkpoint, fetched where they are not held; progress, if
// not nil, is told of that.
func MakeGenesis(ctx context.Context, b Blocks, model *Model, m *manifest.Manifest, engine Engine, from []wire.PeerID, progress func(done, total int64)) (*diloco.Commit, error) {
	var params []float32
	var err error
	if m.Model.Base.Defined() {
		params, err = BaseWeights(ctx, b, m.Model.Base, model.Config, from, progress)
	} else {
		params, err = engine.Genesis()
	}
	if err != nil {
		return nil, fmt.Errorf("genesis weights: %w", err)
	}
	s, err := model.Genesis(params)
	if err != nil {
		return nil, err
	}
	c, err := model.Put(ctx, b, s, Position{Run: model.Run})
	if err != nil {
		return nil, err
	}
	return &diloco.Commit{Version: 1, Run: model.Run, State: c}, nil
}

const (
	genesisPin = "run/genesis"
	firstPin   = "run/first" // the genesis commit
)

// makeGenesis makes the genesis commit, or finds what an earlier start made.
func (n *Node) makeGenesis(ctx context.Context, p *parts) (*diloco.Commit, error) {
	var first *diloco.Commit
	if c := p.keeper.pinned(genesisPin); c.Defined() && p.keeper.pinned(firstPin).Defined() {
		if err := p.model.Check(ctx, n.opt.Blocks, c); err == nil {
			first = &diloco.Commit{Version: 1, Run: n.opt.Run, State: c}
		} else {
			n.opt.Log.Warn("the genesis state is made anew", "err", err)
		}
	}
	if first == nil {
		err := n.retry(ctx, "make the genesis state", large, func(ctx context.Context, from []wire.PeerID) (err error) {
			first, err = MakeGenesis(ctx, n.opt.Blocks, p.model, p.manifest, p.engine, from, n.meter.transfer(true))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if err := p.keeper.pin(genesisPin, first.State); err != nil {
		return nil, err
	}
	if err := p.keepBase(); err != nil {
		return nil, err
	}
	block, err := first.Encode()
	if err != nil {
		return nil, err
	}
	c, err := n.opt.Blocks.Put(ctx, wire.CodecDagCBOR, block)
	if err != nil {
		return nil, fmt.Errorf("store the genesis commit: %w", err)
	}
	return first, p.keeper.pin(firstPin, c)
}

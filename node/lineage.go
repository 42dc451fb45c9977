package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Lineage is what VerifyLineage is asked, and whom it may ask for blocks.
type Lineage struct {
	Blocks Blocks
	Run    wire.CID
	Head   wire.CID // the commit to be traced
	// From is the round whose state is taken from the store as it is, instead of
	// recomputing everything from genesis. 0 is genesis.
	From uint64
	// Peers are asked for what the store lacks. None: the store must have it all.
	Peers []wire.PeerID
	// Engine computes the genesis weights.
	Engine func(ctx context.Context, m *manifest.Manifest) (Engine, error)
	// Progress, if set, hears of each step that was recomputed.
	Progress func(LineageStep)
	// Fetching, if set, hears how much of the base is there.
	Fetching func(done, total int64)
}

// A LineageStep is one commit that was recomputed.
type LineageStep struct {
	Round  uint64   `json:"round"`
	Rounds uint64   `json:"rounds"` // of the head
	Commit wire.CID `json:"commit"`
	State  wire.CID `json:"state"`
	Deltas int      `json:"deltas"`
}

// A LineageReport says what was recomputed. Mismatch is empty where all agreed;
// otherwise it names the first thing that did not, and the rest was not looked at.
type LineageReport struct {
	Run        wire.CID `json:"run"`
	Name       string   `json:"name"`
	Head       wire.CID `json:"head"`
	State      wire.CID `json:"state"`
	From       uint64   `json:"from"`
	Rounds     uint64   `json:"rounds"`     // the head's round
	Commits    int      `json:"commits"`    // whose votes, rosters and signatures were checked
	Steps      int      `json:"steps"`      // outer steps recomputed
	Deltas     int      `json:"deltas"`     // merged in them
	Signatures int      `json:"signatures"` // checked
	Bytes      int64    `json:"bytes"`      // of deltas
	Peers      int      `json:"peers"`      // whose work is in it
	Tokens     uint64   `json:"tokens"`
	Mismatch   string   `json:"mismatch"`
	Verified   bool     `json:"verified"`
}

// mismatch is an error about the lineage itself, not about getting at it.
type mismatch struct{ error }

func (m mismatch) Unwrap() error { return m.error }

// VerifyLineage recomputes the chain from the manifest to a commit: the genesis
// weights, every commit's rosters and votes with their signatures, every outer
// step. It returns an error where something cannot be had; that something is
// wrong is in the report.
func VerifyLineage(ctx context.Context, l Lineage) (*LineageReport, error) {
	r := &LineageReport{Run: l.Run, Head: l.Head, From: l.From}
	err := l.verify(ctx, r)
	var bad mismatch
	switch {
	case errors.As(err, &bad):
		r.Mismatch = err.Error()
		return r, nil
	case err != nil:
		return nil, fmt.Errorf("lineage: %w", err)
	}
	r.Verified = true
	return r, nil
}

// wrong turns an error about content into a mismatch.
func wrong(err error) error {
	if errors.Is(err, ErrBadContent) {
		return mismatch{err}
	}
	return err
}

func (l *Lineage) verify(ctx context.Context, r *LineageReport) error {
	m, model, err := LoadRun(ctx, l.Blocks, l.Run, l.Peers)
	if err != nil {
		return wrong(err)
	}
	r.Name = m.Name
	chain, err := l.chain(ctx)
	if err != nil {
		return wrong(err)
	}
	head := chain[len(chain)-1]
	r.State, r.Rounds = head.State, head.Round
	if l.From > head.Round {
		return fmt.Errorf("from round %d: the commit is of round %d", l.From, head.Round)
	}
	engine, err := l.Engine(ctx, m)
	if err != nil {
		return err
	}
	genesis, err := MakeGenesis(ctx, l.Blocks, model, m, engine, l.Peers, l.Fetching)
	if err != nil {
		return wrong(err)
	}
	if first, err := genesis.CID(); err != nil {
		return err
	} else if got, err := chain[0].CID(); err != nil {
		return err
	} else if first != got {
		return mismatch{fmt.Errorf("genesis: the manifest makes the commit %s with the state %s, the chain begins with %s and %s", first, genesis.State, got, chain[0].State)}
	}
	start := chain[l.From]
	if l.From > 0 { // the genesis state is held: it was just made
		if err := l.Blocks.FetchDir(ctx, start.State, l.Peers, model.Limit(), nil); err != nil {
			return fmt.Errorf("state of round %d: %w (states in between are not kept for ever: verify from 0)", l.From, err)
		}
	}
	state, _, err := model.Load(ctx, l.Blocks, start.State)
	if err != nil {
		return wrong(err)
	}
	return l.replay(ctx, r, m, model, chain, state)
}

// chain fetches the commits from genesis to the head.
func (l *Lineage) chain(ctx context.Context) ([]*diloco.Commit, error) {
	var out []*diloco.Commit
	for at := l.Head; ; {
		c, err := getCommit(ctx, l.Blocks, at, l.Peers)
		if err != nil {
			return nil, err
		}
		if c.Run != l.Run {
			return nil, mismatch{fmt.Errorf("commit %s is of the run %s", at, c.Run)}
		}
		if n := len(out); n > 0 && out[n-1].Round != c.Round+1 {
			return nil, mismatch{fmt.Errorf("commit %s of round %d is the parent of one of round %d", at, c.Round, out[n-1].Round)}
		}
		out = append(out, c)
		if c.Round == 0 {
			break
		}
		at = c.Parent
	}
	slices.Reverse(out)
	return out, nil
}

// replay checks every commit, and recomputes every step after From.
func (l *Lineage) replay(ctx context.Context, r *LineageReport, m *manifest.Manifest, model *Model, chain []*diloco.Commit, state *State) error {
	cfg := RunConfig(l.Run, m)
	cfg.Verify = func(s *wire.Signed) error { r.Signatures++; return s.Verify() }
	byCID := make(map[wire.CID]*diloco.Commit, len(chain))
	past := func(c wire.CID) *diloco.Commit { return byCID[c] }
	who := map[wire.PeerID]bool{}
	rules := claimsOf(m, model)
	id, err := chain[0].CID()
	if err != nil {
		return err
	}
	byCID[id] = chain[0]
	for i, c := range chain[1:] {
		parent := chain[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := diloco.VerifyCommit(cfg, parent, c, past); err != nil {
			return mismatch{fmt.Errorf("round %d: %w", c.Round, err)}
		}
		if id, err = c.CID(); err != nil {
			return err
		}
		byCID[id] = c
		r.Commits++
		for j := range c.Deltas {
			d, err := diloco.Open(&c.Deltas[j])
			if err != nil {
				return mismatch{fmt.Errorf("round %d: %w", c.Round, err)}
			}
			body := d.Body.(*diloco.Delta) // VerifyCommit has seen to it
			if err := rules.check(body); err != nil {
				return mismatch{fmt.Errorf("round %d: delta of %s: %w", c.Round, d.From, err)}
			}
			r.Tokens += body.Tokens
			who[d.From] = true
		}
		r.Peers = len(who)
		if c.Round <= l.From {
			continue
		}
		if state, err = l.step(ctx, r, model, state, c); err != nil {
			return err
		}
		if l.Progress != nil {
			l.Progress(LineageStep{c.Round, r.Rounds, id, c.State, len(c.Deltas)})
		}
	}
	return nil
}

// step recomputes one outer step and compares the state that it makes.
func (l *Lineage) step(ctx context.Context, r *LineageReport, model *Model, state *State, c *diloco.Commit) (*State, error) {
	merged := c.Merged()
	next, err := mergeDeltas(ctx, model, state, merged, func(w diloco.Weighted) (*codec.Delta, error) {
		h := codec.Header{Run: l.Run, Parent: w.Parent, Peer: w.Peer}
		return fetchPayload(ctx, l.Blocks, model.Codec, w.Block, h, l.Peers)
	})
	if err != nil {
		return nil, wrong(fmt.Errorf("round %d: %w", c.Round, err))
	}
	cid, err := model.Put(ctx, l.Blocks, next, Position{Run: l.Run, Round: c.Round, Parent: c.Parent})
	if err != nil {
		return nil, fmt.Errorf("round %d: %w", c.Round, err)
	}
	if cid != c.State {
		return nil, mismatch{fmt.Errorf("round %d: its deltas make the state %s, the commit says %s", c.Round, cid, c.State)}
	}
	r.Steps++
	r.Deltas += len(merged)
	r.Bytes += int64(len(merged)) * int64(model.Codec.Size())
	return next, nil
}

// LoadRun gets a run's manifest and tokenizer, from the store or the peers, and
// derives its model.
func LoadRun(ctx context.Context, b Blocks, run wire.CID, from []wire.PeerID) (*manifest.Manifest, *Model, error) {
	block, err := b.Fetch(ctx, run, from, manifest.MaxSize)
	if err != nil {
		return nil, nil, fmt.Errorf("manifest: %w", err)
	}
	m, err := manifest.Decode(block)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrBadContent, err)
	}
	tokenizer, err := b.FetchFile(ctx, m.Tokenizer, from, maxTokenizer)
	if err != nil {
		return nil, nil, fmt.Errorf("tokenizer: %w", err)
	}
	model, err := NewModel(run, m, tokenizer)
	return m, model, err
}

// claims is what a delta may say of itself in a run.
type claims struct {
	Size   uint64 // bytes of a payload
	Steps  uint64 // inner steps of a round
	Tokens uint64 // of a step
	Traced bool   // it names audit material
}

func claimsOf(m *manifest.Manifest, model *Model) claims {
	return claims{
		Size: uint64(model.Codec.Size()), Steps: m.Round.InnerSteps, Tokens: uint64(m.Inner.Batch) * uint64(m.Inner.Sequence),
		Traced: m.Verification.AuditRate > 0,
	}
}

// check holds a delta's word about itself against the manifest.
func (c claims) check(d *diloco.Delta) error {
	switch {
	case d.Bytes != c.Size:
		return fmt.Errorf("%w: it claims %d bytes, payloads of this run have %d", ErrBadContent, d.Bytes, c.Size)
	case d.Steps < 1 || d.Steps > c.Steps:
		return fmt.Errorf("%w: it claims %d inner steps, a round has %d", ErrBadContent, d.Steps, c.Steps)
	case d.Tokens != d.Steps*c.Tokens:
		return fmt.Errorf("%w: it claims %d tokens for %d steps of %d", ErrBadContent, d.Tokens, d.Steps, c.Tokens)
	case c.Traced && d.Trace.Codec() != wire.CodecDagCBOR:
		return fmt.Errorf("%w: it names no audit material, and the run audits", ErrBadContent)
	}
	return nil
}

package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/diloco/outer"
	"github.com/shoalnet/shoal/p2p/wire"
)

// maxSources bounds how many peers are asked for one thing.
const maxSources = 24

// sources orders whom to ask: those who should have it, then others of the run.
func (o *owner) sources(lists ...[]wire.PeerID) []wire.PeerID {
	var out []wire.PeerID
	self := o.key.Peer()
	for _, list := range append(lists, o.peers()) {
		for _, p := range list {
			if len(out) < maxSources && p != self && !p.IsZero() && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// fetchDelta gets a payload, checks it and says what came of it.
func (o *owner) fetchDelta(ctx context.Context, e diloco.FetchDelta) {
	done := o.meter.move()
	err := o.checkDelta(ctx, e)
	done()
	o.room(err)
	final := errors.Is(err, ErrBadContent)
	if final { // the machine counts it
		o.log.Warn("a delta is not what it should be", "peer", e.Peer, "round", e.Delta.Round, "err", err)
	} else if err != nil && ctx.Err() == nil {
		o.meter.reject("delta out of reach")
		o.log.Info("a delta cannot be had now", "peer", e.Peer, "round", e.Delta.Round, "err", err)
	}
	o.tell(ctx, diloco.DeltaChecked{ID: e.ID, Err: err, Final: final})
}

// room tells the user where a fetch failed for want of room on this machine's disk, until
// one succeeds: nothing else would, who cannot be reached is no trouble of ours.
func (o *owner) room(err error) {
	switch {
	case err == nil:
		o.meter.clear("fetch")
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		o.meter.trouble("fetch", err)
	}
}

// checkDelta holds a delta's claims against the manifest, and its payload
// against the claims.
func (o *owner) checkDelta(ctx context.Context, e diloco.FetchDelta) error {
	d := &e.Delta
	if err := o.claims.check(d); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.patience)
	defer cancel()
	h := codec.Header{Run: o.run, Parent: d.Parent, Peer: e.Peer}
	if _, err := o.payload(ctx, d.Block, h, o.sources(e.From, []wire.PeerID{e.Peer})); err != nil {
		return err
	}
	return o.keeper.delta(d.Block, d.Round)
}

// payload fetches and decodes one payload.
func (o *owner) payload(ctx context.Context, c wire.CID, h codec.Header, from []wire.PeerID) (*codec.Delta, error) {
	return fetchPayload(ctx, o.blocks, o.model.Codec, c, h, from)
}

func fetchPayload(ctx context.Context, b Blocks, cd *codec.Codec, c wire.CID, h codec.Header, from []wire.PeerID) (*codec.Delta, error) {
	block, err := b.FetchFile(ctx, c, from, int64(cd.Size()))
	if err != nil {
		return nil, fmt.Errorf("payload %s of %s: %w", c, h.Peer.Short(), err)
	}
	d, err := cd.Decode(h, block)
	if err != nil {
		return nil, fmt.Errorf("payload %s of %s: %w: %w", c, h.Peer.Short(), ErrBadContent, err)
	}
	return d, nil
}

// fetchCommit gets and decodes a commit's block.
func (o *owner) fetchCommit(ctx context.Context, e diloco.FetchCommit) {
	done := o.meter.move()
	limit, cancel := context.WithTimeout(ctx, o.patience)
	c, err := getCommit(limit, o.blocks, e.CID, o.sources(e.From))
	cancel()
	done()
	o.room(err)
	if err != nil && ctx.Err() == nil {
		o.log.Info("a commit cannot be had", "commit", e.CID, "err", err)
		if errors.Is(err, ErrBadContent) {
			o.meter.reject("bad commit")
		}
	}
	o.tell(ctx, diloco.CommitFetched{CID: e.CID, Commit: c, Err: err})
}

// getCommit fetches a commit and decodes it. That its block has the CID is the
// store's word; that it is canonical, so that the CID is also that of the
// commit's encoding, the decoder's.
func getCommit(ctx context.Context, b Blocks, c wire.CID, from []wire.PeerID) (*diloco.Commit, error) {
	if c.Codec() != wire.CodecDagCBOR {
		return nil, fmt.Errorf("commit %s: %w: it is not DAG-CBOR", c, ErrBadContent)
	}
	block, err := b.Fetch(ctx, c, from, diloco.MaxCommit)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", c, err)
	}
	commit, err := diloco.DecodeCommit(block)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w: %w", c, ErrBadContent, err)
	}
	return commit, nil
}

// fetchState gets a whole checkpoint and checks that it can be used.
func (o *owner) fetchState(ctx context.Context, e diloco.FetchState) {
	done := o.meter.move()
	err := o.getState(ctx, e)
	done()
	o.room(err)
	if err != nil && ctx.Err() == nil {
		o.log.Warn("a state cannot be had", "state", e.State, "err", err)
		if errors.Is(err, ErrBadContent) {
			o.meter.reject("bad state")
		}
	}
	o.tell(ctx, diloco.StateFetched{State: e.State, Err: err})
}

// stallLimit is how long the fetch of a state may go without a byte.
const stallLimit = 60 * time.Second

func (o *owner) getState(ctx context.Context, e diloco.FetchState) error {
	if err := o.keeper.state(e.State, 0); err == nil {
		if _, err := o.states.get(ctx, e.State); err == nil {
			return nil // held already
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallLimit, func() {
		cancel(fmt.Errorf("%w: no byte for %v", ErrNotFound, stallLimit))
	})
	defer stalled.Stop()
	best, note := int64(-1), o.meter.transfer(false)
	err := o.blocks.FetchDir(ctx, e.State, o.sources(e.From), o.model.Limit(), func(done, total int64) {
		if done > best {
			best = done
			stalled.Reset(stallLimit)
		}
		note(done, total)
	})
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w (%w)", err, cause)
		}
		return fmt.Errorf("state %s: %w", e.State, err)
	}
	if _, err := o.states.get(ctx, e.State); err != nil {
		return err
	}
	return o.keeper.state(e.State, 0)
}

// runMerge does the outer step of a commit to be.
func (o *owner) runMerge(ctx context.Context, e diloco.Merge) {
	select {
	case o.merge <- struct{}{}:
		defer func() { <-o.merge }()
	case <-ctx.Done():
		return
	}
	done := o.meter.move()
	c, err := o.mergeState(ctx, e)
	done()
	if err != nil && ctx.Err() == nil {
		o.log.Error("merge", "round", e.Round, "deltas", len(e.Deltas), "err", err)
		o.meter.trouble("merge", err)
	} else {
		o.meter.clear("merge")
	}
	o.tell(ctx, diloco.Merged{Key: e.Key, State: c, Err: err})
}

func (o *owner) mergeState(ctx context.Context, e diloco.Merge) (wire.CID, error) {
	parent, err := o.states.get(ctx, e.State)
	if err != nil {
		return "", fmt.Errorf("parent state: %w", err)
	}
	o.states.makeRoom(e.State)
	limit, cancel := context.WithTimeout(ctx, o.patience)
	defer cancel()
	next, err := mergeDeltas(limit, o.model, parent, e.Deltas, func(w diloco.Weighted) (*codec.Delta, error) {
		h := codec.Header{Run: o.run, Parent: w.Parent, Peer: w.Peer}
		d, err := o.payload(limit, w.Block, h, o.sources([]wire.PeerID{w.Peer}))
		if err != nil {
			return nil, err
		}
		return d, o.keeper.delta(w.Block, w.Round)
	})
	if err != nil {
		return "", err
	}
	c, err := o.model.Put(ctx, o.blocks, next, Position{Run: o.run, Round: e.Round, Parent: e.Parent})
	if err != nil {
		return "", err
	}
	o.states.put(c, next)
	return c, o.keeper.state(c, e.Round)
}

// mergeDeltas is the outer step of one commit: parent's state and the deltas
// that the commit merges give the next. It is what a peer does in a round and
// what a verifier does years later.
func mergeDeltas(ctx context.Context, m *Model, parent *State, deltas []diloco.Weighted, get func(diloco.Weighted) (*codec.Delta, error)) (*State, error) {
	inputs := make([]outer.Input, len(deltas))
	for i, w := range deltas {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, err := get(w)
		if err != nil {
			return nil, err
		}
		inputs[i] = outer.Input{Delta: d, Weight: w.Weight}
	}
	return m.Step(parent, inputs)
}

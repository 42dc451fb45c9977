package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// soon bounds the wait for one thing.
func (r *replayer) soon(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.patience <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, r.patience)
}

func (r *replayer) fetchTrace(ctx context.Context, c wire.CID, accused wire.PeerID) (*audit.Trace, error) {
	if c.Codec() != wire.CodecDagCBOR {
		return nil, wrongWork{errors.New("the trace is not DAG-CBOR")}
	}
	ctx, stop := r.soon(ctx)
	defer stop()
	block, err := r.blocks.Fetch(ctx, c, r.from(accused), audit.MaxTrace)
	if err != nil {
		return nil, theirs("the trace", err)
	}
	r.used = append(r.used, c)
	t, err := audit.DecodeTrace(block)
	if err != nil {
		return nil, wrongWork{err}
	}
	return t, nil
}

// file fetches a file of the accused's material.
func (r *replayer) file(ctx context.Context, what string, c wire.CID, accused wire.PeerID, limit int64) ([]byte, error) {
	ctx, stop := r.soon(ctx)
	defer stop()
	b, err := r.blocks.FetchFile(ctx, c, r.from(accused), limit)
	if err == nil {
		r.used = append(r.used, c)
	}
	return b, theirs(what, err)
}

func (r *replayer) snapshot(ctx context.Context, what string, c wire.CID, accused wire.PeerID) ([]byte, audit.Snapshot, error) {
	b, err := r.file(ctx, what, c, accused, maxSnapshot(r.model.Params()))
	if err != nil {
		return nil, audit.Snapshot{}, err
	}
	s, err := r.engine.Unpack(b)
	if err != nil {
		return nil, s, wrongWork{fmt.Errorf("%s: %w", what, err)}
	}
	if len(s.Params) != r.model.Params() {
		return nil, s, wrongWork{fmt.Errorf("%s has %d parameters, the model %d", what, len(s.Params), r.model.Params())}
	}
	return b, s, nil
}

// fetchState gets a state of the chain, which is nobody's to withhold.
func (r *replayer) fetchState(ctx context.Context, c wire.CID, accused wire.PeerID) error {
	ctx, stop := r.soon(ctx)
	defer stop()
	if err := r.blocks.FetchDir(ctx, c, r.from(accused), r.model.Limit(), nil); err != nil {
		return fmt.Errorf("state %s: %w", c, err)
	}
	return nil
}

func (r *replayer) state(ctx context.Context, c wire.CID, accused wire.PeerID) (*State, error) {
	if err := r.fetchState(ctx, c, accused); err != nil {
		return nil, err
	}
	s, _, err := r.model.Load(ctx, r.blocks, c)
	return s, err
}

// bring fetches into the store what a replay of a segment needs, or of all of the
// segment what it may need. Many goroutines may do so. It judges nothing: what is
// wrong the replay finds.
func (r *replayer) bring(ctx context.Context, delta *diloco.Message, segment uint64, all bool) error {
	d := delta.Body.(*diloco.Delta)
	if !d.Trace.Defined() {
		return nil
	}
	f := replayer{model: r.model, blocks: r.blocks, from: r.from} // in no hurry, with its own list of what was used
	end := func(t *audit.Trace, i uint64) error {
		_, err := f.file(ctx, fmt.Sprintf("the end of segment %d", i), t.Segments[i].End, delta.From, maxSnapshot(f.model.Params()))
		return err
	}
	err := func() error {
		t, err := f.fetchTrace(ctx, d.Trace, delta.From)
		if err != nil || segment >= uint64(len(t.Segments)) {
			return err
		}
		if all {
			if err := end(t, segment); err != nil {
				return err
			}
		}
		if segment > 0 {
			return end(t, segment-1)
		}
		if t.Before.Defined() {
			before, err := f.fetchTrace(ctx, t.Before, delta.From)
			if err != nil {
				return err
			}
			if err := end(before, uint64(len(before.Segments)-1)); err != nil {
				return err
			}
		}
		return f.fetchState(ctx, d.State, delta.From)
	}()
	if errors.As(err, new(wrongWork)) {
		return nil
	}
	return err
}

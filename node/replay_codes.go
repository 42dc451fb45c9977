package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/p2p/wire"
)

// codes checks that a delta's payload is what encoding makes of the state, the
// weights that the phase ended with, and what was owed.
func (r *replayer) codes(ctx context.Context, s *subject, end []float32) error {
	state, err := r.state(ctx, s.delta.State, s.msg.From)
	if err != nil {
		return err
	}
	owed, err := r.owed(ctx, s)
	if err != nil {
		return err
	}
	d, _, err := r.encode(s.header(r.run), state.Params, end, owed)
	if err != nil {
		return wrongWork{fmt.Errorf("the last snapshot: %w", err)}
	}
	block, err := r.file(ctx, "the payload", s.delta.Block, s.msg.From, int64(r.model.Codec.Size()))
	if err != nil {
		return err
	}
	if !bytes.Equal(block, d.Block()) {
		return wrongWork{errors.New("the payload does not follow from the last snapshot and from what was owed")}
	}
	return nil
}

func (r *replayer) encode(h codec.Header, state, end, owed []float32) (*codec.Delta, []float32, error) {
	u := slices.Clone(state)
	for i, w := range end { // Δ = θ − w, as trainer.encode
		u[i] = u[i] - w
	}
	return r.model.Codec.EncodeOwed(h, u, owed)
}

// owed returns the error feedback of a delta, after checking that it follows
// from the delta before.
func (r *replayer) owed(ctx context.Context, s *subject) ([]float32, error) {
	vector := func(what string, c wire.CID) ([]float32, error) {
		return readVector(ctx, c, r.model.Params(), func(limit int64) ([]byte, error) { return r.blocks.FetchFile(ctx, c, r.from(s.msg.From), limit) })
	}
	owed, err := vector("owed", s.trace.Owed)
	if err != nil {
		return nil, theirs("what was owed", err)
	}
	if !s.trace.Before.Defined() {
		return nil, nil // nor does the trace name any: Trace.check
	}
	if r.model.Codec.Spec().Kind == codec.Int8 { // leaves nothing out that is kept
		if owed != nil {
			return nil, wrongWork{errors.New("something was owed, and this codec leaves nothing out")}
		}
		return nil, nil
	}
	d := s.before.Body.(*diloco.Delta)
	b, err := r.fetchTrace(ctx, s.trace.Before, s.msg.From)
	if err != nil {
		return nil, err
	}
	_, end, err := r.snapshot(ctx, "the end of the phase before", b.Segments[len(b.Segments)-1].End, s.msg.From)
	if err != nil {
		return nil, err
	}
	state, err := r.state(ctx, d.State, s.msg.From)
	if err != nil {
		return nil, err
	}
	before, err := vector("owed before", b.Owed)
	if err != nil {
		return nil, theirs("what was owed before", err)
	}
	_, rest, err := r.encode(codec.Header{Run: r.run, Parent: d.Parent, Peer: s.msg.From}, state.Params, end.Params, before)
	if err != nil {
		return nil, wrongWork{fmt.Errorf("the end of the phase before: %w", err)}
	}
	if !slices.Equal(rest, owed) {
		return nil, wrongWork{errors.New("what was owed does not follow from the delta before")}
	}
	return owed, nil
}

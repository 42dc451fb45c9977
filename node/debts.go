package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/p2p/wire"
)

// debts is the error feedback of this peer together with the payloads whose
// fate is open: what of its work is not in the chain yet. It belongs to the
// trainer's goroutine.
//
// A payload's life: encoded (block and file durable), signed, and then either
// included in a final commit or expired, as the machine says.
type debts struct {
	path   string
	run    wire.CID
	self   wire.PeerID
	codec  *codec.Codec
	blocks Blocks
	log    *slog.Logger

	feedback *codec.Feedback
	pending  []pending // the oldest first
	counted  uint64    // own deltas in final commits so far
	dirty    bool      // memory is ahead of the file

	tracer *tracer  // nil where the run audits nobody; else feedback stays empty
	traces []traced // the oldest first
}

// feedbackHead is the head of the feedback file; its body is the codec's feedback.
type feedbackHead struct {
	Run     wire.CID  `cbor:"run"`
	Pending []pending `cbor:"pending"`
	Counted uint64    `cbor:"counted"`
	Traces  []traced  `cbor:"traces,omitempty"`
}

// A pending is one payload of this peer.
type pending struct {
	Delta diloco.Delta `cbor:"delta"`
	ID    wire.CID     `cbor:"id"` // of the envelope, undefined until it was signed
}

// errStore is wrapped by errors of the block store, which may pass.
var errStore = errors.New("cannot store the payload")

func ownPin(block wire.CID) string { return "own/" + block.String() }

// openDebts reads the file. One that is damaged is kept aside: what was owed is
// then lost, which costs accuracy and no agreement.
func openDebts(dir string, run wire.CID, self wire.PeerID, c *codec.Codec, b Blocks, log *slog.Logger) (*debts, error) {
	d := &debts{
		path: filepath.Join(dir, feedbackFile), run: run, self: self, codec: c, blocks: b, log: log,
		feedback: codec.NewFeedback(c),
	}
	var head feedbackHead
	err := readContainer(d.path, feedbackMagic, &head, func(r io.Reader) error {
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if head.Run != run {
			return fmt.Errorf("%w: it is of the run %s", errCorrupt, head.Run)
		}
		if err := d.feedback.UnmarshalBinary(body); err != nil {
			return fmt.Errorf("%w: %w", errCorrupt, err)
		}
		return nil
	})
	switch {
	case err == nil:
		d.pending, d.counted, d.traces = head.Pending, head.Counted, head.Traces
	case notThere(err):
	case errors.Is(err, errCorrupt):
		log.Warn("error feedback starts anew", "err", err, "kept", d.path+".bad")
		d.feedback = codec.NewFeedback(c)
		if err := os.Rename(d.path, d.path+".bad"); err != nil {
			return nil, fmt.Errorf("put the damaged feedback aside: %w", err)
		}
	default:
		return nil, err
	}
	return d, nil
}

// save makes the file follow memory.
func (d *debts) save() error {
	body, err := d.feedback.MarshalBinary()
	if err != nil {
		return fmt.Errorf("feedback: %w", err)
	}
	err = writeContainer(d.path, feedbackMagic, &feedbackHead{d.run, d.pending, d.counted, d.traces}, func(w io.Writer) error {
		_, err := w.Write(body)
		return err
	})
	if err != nil {
		return err
	}
	d.dirty = false
	return nil
}

// find returns the payload of that round and state, and, in a run that audits, of
// that data.
func (d *debts) find(round uint64, state wire.CID, tr *tracer, s seat) *pending {
	for i := range d.pending {
		p := &d.pending[i]
		if p.Delta.Round != round || p.Delta.State != state {
			continue
		}
		if tr == nil || slices.ContainsFunc(d.traces, func(x traced) bool {
			return x.Payload == p.Delta.Block && s.same(seat{Slot: x.Slot, Slots: x.Slots, Base: x.Base})
		}) {
			return p
		}
	}
	return nil
}

// encode makes the payload of a finished phase, stores its block and notes it
// as pending. delta, θ−w, is overwritten. The caller saves, until that
// succeeds, before anybody hears of the payload.
func (d *debts) encode(ctx context.Context, msg diloco.Delta, delta []float32) (diloco.Delta, error) {
	if err := d.makeRoom(ctx); err != nil {
		return msg, err
	}
	out, err := d.feedback.Encode(codec.Header{Run: d.run, Parent: msg.Parent, Peer: d.self}, delta)
	if err != nil {
		return msg, err
	}
	d.dirty = true
	msg.Bytes = uint64(len(out.Block()))
	msg.Block, err = d.store(ctx, out)
	if err != nil {
		if _, foldErr := d.feedback.Fold(out); foldErr != nil {
			err = errors.Join(err, foldErr)
		}
		return msg, err
	}
	d.pending = append(d.pending, pending{Delta: msg})
	return msg, nil
}

func (d *debts) store(ctx context.Context, out *codec.Delta) (wire.CID, error) {
	c, err := d.blocks.PutFile(ctx, out.Block())
	if err != nil {
		return "", fmt.Errorf("%w: %w", errStore, err)
	}
	if err := d.blocks.Pin(ownPin(c), c); err != nil {
		return "", fmt.Errorf("%w: pin it: %w", errStore, err)
	}
	return c, nil
}

// makeRoom takes the oldest payloads back before the codec refuses more of them.
func (d *debts) makeRoom(ctx context.Context) error {
	for len(d.pending) >= codec.MaxOutstanding-1 {
		if err := d.fold(ctx, 0); err != nil {
			return err
		}
	}
	return nil
}

// resend makes the payload of one parent one of another parent with the same
// state: two commits of a fork may differ in votes alone.
func (d *debts) resend(ctx context.Context, p pending, head wire.CID) (diloco.Delta, error) {
	i := d.index(p.Delta.Block)
	if i < 0 {
		return p.Delta, fmt.Errorf("payload %s is not pending", p.Delta.Block.Short())
	}
	if err := d.fold(ctx, i); err != nil {
		return p.Delta, err
	}
	msg := p.Delta
	msg.Parent = head
	return d.encode(ctx, msg, make([]float32, d.codec.Params()))
}

// signed notes the envelope of a payload.
func (d *debts) signed(block, id wire.CID) {
	for i := range d.pending {
		if p := &d.pending[i]; p.Delta.Block == block && p.ID != id {
			p.ID, d.dirty = id, true
		}
	}
}

// included settles a payload that is in a final commit.
func (d *debts) included(block wire.CID) {
	if i := d.index(block); i >= 0 {
		d.counted++
		d.drop(i)
	}
}

// expired takes back a payload that will not be merged any more.
func (d *debts) expired(ctx context.Context, block wire.CID) error {
	if i := d.index(block); i >= 0 {
		return d.fold(ctx, i)
	}
	return nil
}

func (d *debts) index(block wire.CID) int {
	return slices.IndexFunc(d.pending, func(p pending) bool { return p.Delta.Block == block })
}

// unsent takes back what was encoded for other rounds and never signed: the
// machine did not want it any more, or a crash came between.
func (d *debts) unsent(ctx context.Context, round uint64, state wire.CID) error {
	for i := 0; i < len(d.pending); {
		p := d.pending[i]
		if p.ID.Defined() || p.Delta.Round == round && p.Delta.State == state {
			i++
			continue
		}
		if err := d.fold(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// fold puts the content of payload i back into what is owed. In a run that audits it
// is lost: nobody could have audited it, and the next delta must hold nothing else.
func (d *debts) fold(ctx context.Context, i int) error {
	p := d.pending[i]
	if d.tracer != nil {
		d.drop(i)
		return nil
	}
	block, err := d.blocks.GetFile(ctx, p.Delta.Block, int64(d.codec.Size()))
	if err == nil {
		var out *codec.Delta
		out, err = d.codec.Decode(codec.Header{Run: d.run, Parent: p.Delta.Parent, Peer: d.self}, block)
		if err == nil {
			_, err = d.feedback.Fold(out)
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.log.Warn("a payload that was not merged is lost to the error feedback", "block", p.Delta.Block, "err", err)
	}
	d.drop(i)
	return nil
}

// drop forgets payload i.
func (d *debts) drop(i int) {
	p := d.pending[i]
	d.feedback.Merged(p.Delta.Parent)
	if err := d.blocks.Unpin(ownPin(p.Delta.Block)); err != nil {
		d.log.Warn("unpin a payload", "block", p.Delta.Block, "err", err)
	}
	d.pending = slices.Delete(d.pending, i, i+1)
	d.dirty = true
}

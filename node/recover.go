package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/p2p/wire"
)

// recover returns the chain that the machine is to be restored with: the
// commits from the journal's Keep to the adopted head, parents first. The
// head's state is held when it returns. Blocks that the store has lost are
// fetched, and a lost state is made anew where its parts are there. No
// adoption, no chain.
func (n *Node) recover(ctx context.Context, p *parts, states *states, last adoption) ([]*diloco.Commit, error) {
	if !last.Head.Defined() {
		return nil, nil
	}
	var chain []*diloco.Commit
	for at := last.Head; ; {
		var c *diloco.Commit
		err := n.retry(ctx, fmt.Sprintf("read commit %s of the journal", at), small, func(ctx context.Context, from []wire.PeerID) (err error) {
			c, err = getCommit(ctx, n.opt.Blocks, at, from)
			return err
		})
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
		if c.Round <= last.Keep || c.Round == 0 {
			break
		}
		at = c.Parent
	}
	slices.Reverse(chain)
	head := chain[len(chain)-1]
	if _, err := states.get(ctx, head.State); err == nil {
		return chain, nil
	} else if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	} else {
		n.opt.Log.Warn("the head's state is not whole", "round", head.Round, "err", err)
	}
	if err := n.remake(ctx, p, states, chain); err == nil {
		return chain, nil
	} else if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	} else {
		n.opt.Log.Warn("the head's state cannot be made here, it is fetched", "err", err)
	}
	err := n.retry(ctx, "fetch the head's state", large, func(ctx context.Context, from []wire.PeerID) error {
		if err := n.opt.Blocks.FetchDir(ctx, head.State, from, p.model.Limit(), nil); err != nil {
			return err
		}
		_, err := states.get(ctx, head.State)
		return err
	})
	return chain, err
}

// remake makes the head's state of the latest state of the chain that is whole.
func (n *Node) remake(ctx context.Context, p *parts, states *states, chain []*diloco.Commit) error {
	from := len(chain) - 2
	var state *State
	for ; from >= 0; from-- {
		s, err := states.get(ctx, chain[from].State)
		if err == nil {
			state = s
			break
		}
	}
	if state == nil {
		return errors.New("no state of the journal's chain is whole")
	}
	for _, c := range chain[from+1:] {
		next, cid, err := remerge(ctx, n.opt.Blocks, p.model, state, c)
		if err != nil {
			return err
		}
		if cid != c.State {
			return fmt.Errorf("round %d: the deltas make the state %s, the commit says %s", c.Round, cid, c.State)
		}
		state = next
	}
	return nil
}

// remerge makes the state of c of its parent's and of the payloads in the store.
func remerge(ctx context.Context, b Blocks, m *Model, parent *State, c *diloco.Commit) (*State, wire.CID, error) {
	next, err := mergeDeltas(ctx, m, parent, c.Merged(), func(w diloco.Weighted) (*codec.Delta, error) {
		return localPayload(ctx, b, m.Codec, w.Block, codec.Header{Run: m.Run, Parent: w.Parent, Peer: w.Peer})
	})
	if err != nil {
		return nil, "", fmt.Errorf("round %d: %w", c.Round, err)
	}
	cid, err := m.Put(ctx, b, next, Position{Run: m.Run, Round: c.Round, Parent: c.Parent})
	return next, cid, err
}

func localPayload(ctx context.Context, b Blocks, cd *codec.Codec, c wire.CID, h codec.Header) (*codec.Delta, error) {
	block, err := b.GetFile(ctx, c, int64(cd.Size()))
	if err != nil {
		return nil, fmt.Errorf("payload %s of %s: %w", c, h.Peer.Short(), err)
	}
	d, err := cd.Decode(h, block)
	if err != nil {
		return nil, fmt.Errorf("payload %s of %s: %w: %w", c, h.Peer.Short(), ErrBadContent, err)
	}
	return d, nil
}

// reconcile brings the debts up to what the journal and the chain say: which
// payloads were signed, and what became of those that the restored machine
// will not speak of any more, because they were settled just before a crash.
func (n *Node) reconcile(ctx context.Context, d *debts, l *ledger, chain []*diloco.Commit) error {
	for i := range l.own {
		if l.own[i].Kind != wire.KindDelta {
			continue
		}
		m, err := diloco.Open(&l.own[i])
		if err != nil {
			return fmt.Errorf("journal: own delta: %w", err)
		}
		d.signed(m.Body.(*diloco.Delta).Block, m.ID)
	}
	if len(chain) == 0 {
		return nil
	}
	root, oldest := chain[0], ^uint64(0)
	old := func(p pending) bool { return p.ID.Defined() && p.Delta.Round+1 < root.Round }
	for _, p := range d.pending {
		if old(p) {
			oldest = min(oldest, p.Delta.Round)
		}
	}
	merged := map[wire.CID]bool{}
	for c := root; c.Round > oldest; {
		for i := range c.Deltas {
			merged[c.Deltas[i].ID()] = true
		}
		block, err := n.opt.Blocks.Get(ctx, c.Parent)
		if err != nil {
			break // pruned
		}
		if c, err = diloco.DecodeCommit(block); err != nil {
			return fmt.Errorf("commit of the chain: %w", err)
		}
	}
	for i := len(d.pending) - 1; i >= 0; i-- {
		switch p := d.pending[i]; {
		case !old(p):
		case merged[p.ID]:
			d.included(p.Delta.Block)
		default:
			if err := d.fold(ctx, i); err != nil {
				return err
			}
		}
	}
	return nil
}

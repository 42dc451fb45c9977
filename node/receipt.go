package node

import (
	"context"
	"fmt"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A purse puts receipts into what this peer is about to sign.
type purse struct {
	payer Payer // nil: there is no ledger
	// The last body and what it became: where the disk refuses to write, the same
	// body comes again, and must not become another message.
	was, is string
}

// pay returns the body with its receipt, where it is of paid work.
func (p *purse) pay(kind wire.Kind, body []byte) ([]byte, error) {
	if p.payer == nil || kind != wire.KindDelta && kind != wire.KindVerdict {
		return body, nil
	}
	if p.was == string(body) {
		return []byte(p.is), nil
	}
	out, err := p.fill(kind, body)
	if err != nil {
		return nil, fmt.Errorf("own %v: %w", kind, err)
	}
	p.was, p.is = string(body), string(out)
	return out, nil
}

func (p *purse) fill(kind wire.Kind, body []byte) ([]byte, error) {
	if kind == wire.KindDelta {
		var d diloco.Delta
		if err := wire.Unmarshal(body, &d); err != nil {
			return nil, err
		}
		d.Epoch, d.Receipt = p.payer.Sign(PaidTraining, d.Block, d.Tokens)
		return wire.Marshal(&d)
	}
	var v diloco.Verdict
	if err := wire.Unmarshal(body, &v); err != nil {
		return nil, err
	}
	if v.Finding == diloco.Withheld { // nobody pays for having looked in vain
		return body, nil
	}
	v.Epoch, v.Receipt = p.payer.Sign(PaidValidation, v.Subject, 1)
	return wire.Marshal(&v)
}

// A FinalCommit is a commit that is final, with its CID.
type FinalCommit struct {
	CID    wire.CID
	Commit *diloco.Commit
}

// Finals reads a node's final commits in order. One goroutine uses it at a time.
type Finals struct {
	n    *Node
	from wire.CID   // what path follows
	path []wire.CID // final commits after from that were found and not yet returned, oldest last
}

// Finals returns a reader of the node's final commits.
func (n *Node) Finals() *Finals { return &Finals{n: n} }

// After returns up to max final commits that follow after, oldest first; genesis
// comes first where after is undefined. None: nothing newer is final. Commits that
// this peer has pruned are fetched from others.
func (f *Finals) After(ctx context.Context, after wire.CID, max int) ([]FinalCommit, error) {
	if len(f.path) == 0 || f.from != after {
		if err := f.find(ctx, after); err != nil {
			return nil, err
		}
	}
	var out []FinalCommit
	for len(f.path) > 0 && len(out) < max {
		id := f.path[len(f.path)-1]
		c, err := getCommit(ctx, f.n.opt.Blocks, id, f.n.peers())
		if err != nil {
			return nil, err
		}
		out = append(out, FinalCommit{id, c})
		f.from, f.path = id, f.path[:len(f.path)-1]
	}
	return out, nil
}

// find walks from the last final commit back to after.
func (f *Finals) find(ctx context.Context, after wire.CID) error {
	f.from, f.path = after, nil
	f.n.mu.Lock()
	last := f.n.final
	f.n.mu.Unlock()
	if last == nil {
		return nil
	}
	at, err := last.CID()
	if err != nil {
		return err
	}
	var path []wire.CID
	for at != after && at.Defined() {
		c, err := getCommit(ctx, f.n.opt.Blocks, at, f.n.peers())
		if err != nil {
			return err
		}
		path = append(path, at)
		at = c.Parent
	}
	if at != after {
		return fmt.Errorf("the commit %s is not before the last final one: what was derived from it belongs to another chain", after)
	}
	f.path = path
	return nil
}

// peers are those to ask for a commit.
func (n *Node) peers() []wire.PeerID {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.topic == nil {
		return nil
	}
	return n.topic.Peers()
}

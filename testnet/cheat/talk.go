package cheat

import (
	"context"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Net wraps the node's network.
func (l *Liar) Net(n node.Net) node.Net { return net{n, l} }

type net struct {
	node.Net
	l *Liar
}

func (n net) Join(name string, judge node.Judge) (node.Topic, error) {
	t, err := n.Net.Join(name, judge)
	if err != nil {
		return nil, err
	}
	return topic{t, n.l}, nil
}

type topic struct {
	node.Topic
	l *Liar
}

// Next listens to what is to be copied.
func (t topic) Next(ctx context.Context) ([]byte, wire.PeerID, error) {
	data, from, err := t.Topic.Next(ctx)
	if err == nil && t.l.kind == CopyVerdicts {
		t.l.hear(data)
	}
	return data, from, err
}

// Publish says a second delta beside the first, no verdict at all, or a vote without its coin.
func (t topic) Publish(ctx context.Context, data []byte) error {
	m, err := wire.Decode(data)
	if err != nil || m.From != t.l.key.Peer() {
		return t.Topic.Publish(ctx, data)
	}
	switch {
	case m.Kind == wire.KindVerdict && (t.l.is(Silent) || t.l.is(HideCoin)):
		return nil
	case m.Kind == wire.KindVote && t.l.is(HideCoin):
		var v diloco.Vote
		if wire.Unmarshal(m.Body, &v) != nil || len(v.Coin) == 0 {
			break
		}
		v.Coin = nil
		body, err := wire.Marshal(&v)
		if err != nil {
			return err
		}
		other := t.l.key.Sign(m.Kind, m.Run, body)
		if data, err = other.Encode(); err != nil {
			return err
		}
	case m.Kind == wire.KindDelta && t.l.is(TwoDeltas):
		var d diloco.Delta
		if wire.Unmarshal(m.Body, &d) != nil {
			break
		}
		d.Loss /= 2
		body, err := wire.Marshal(&d)
		if err != nil {
			return err
		}
		other := t.l.key.Sign(m.Kind, m.Run, body)
		also, err := other.Encode()
		if err != nil {
			return err
		}
		if err := t.Topic.Publish(ctx, also); err != nil {
			return err
		}
	}
	return t.Topic.Publish(ctx, data)
}

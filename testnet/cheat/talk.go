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

// Handle makes what a newcomer is told the same as what all were told.
func (n net) Handle(proto string, maxReq int, h node.Handler) {
	if proto != node.SyncProto {
		n.Net.Handle(proto, maxReq, h)
		return
	}
	n.Net.Handle(proto, maxReq, func(ctx context.Context, from wire.PeerID, req []byte) ([]byte, error) {
		answer, err := h(ctx, from, req)
		var r struct {
			Messages [][]byte `cbor:"messages"`
		}
		if err != nil || wire.Unmarshal(answer, &r) != nil {
			return answer, err
		}
		var out [][]byte
		for _, data := range r.Messages {
			said, err := n.l.says(data)
			if err != nil {
				return nil, err
			}
			out = append(out, said...)
		}
		r.Messages = out
		return wire.Marshal(&r)
	})
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

// Publish says what the liar says instead.
func (t topic) Publish(ctx context.Context, data []byte) error {
	said, err := t.l.says(data)
	if err != nil {
		return err
	}
	for _, d := range said {
		if err := t.Topic.Publish(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// says returns what is said instead of an own message: a second delta beside the
// first, no verdict at all, or a vote without its coin.
func (l *Liar) says(data []byte) ([][]byte, error) {
	as := [][]byte{data}
	m, err := wire.Decode(data)
	if err != nil || m.From != l.key.Peer() {
		return as, nil
	}
	sign := func(body any) ([]byte, error) {
		b, err := wire.Marshal(body)
		if err != nil {
			return nil, err
		}
		other := l.key.Sign(m.Kind, m.Run, b)
		return other.Encode()
	}
	switch {
	case m.Kind == wire.KindVerdict && (l.is(Silent) || l.is(HideCoin)):
		return nil, nil
	case m.Kind == wire.KindVote && l.is(HideCoin):
		var v diloco.Vote
		if wire.Unmarshal(m.Body, &v) != nil {
			break
		}
		v.Coin = nil
		other, err := sign(&v)
		return [][]byte{other}, err
	case m.Kind == wire.KindDelta && l.is(TwoDeltas):
		var d diloco.Delta
		if wire.Unmarshal(m.Body, &d) != nil {
			break
		}
		d.Loss /= 2
		other, err := sign(&d)
		return [][]byte{data, other}, err
	}
	return as, nil
}

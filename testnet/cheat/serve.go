package cheat

import (
	"bytes"
	"context"
	"math/rand/v2"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc"
	"github.com/shoalnet/shoal/toploc/audit"
)

// Blocks wraps the node's store.
func (l *Liar) Blocks(b node.Blocks) node.Blocks { return blocks{b, l} }

// Serves reports whether the block exchange may serve a block to others.
func (l *Liar) Serves(c wire.CID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.hidden[c]
}

type blocks struct {
	node.Blocks
	l *Liar
}

// FetchFile notes the deltas of others.
func (b blocks) FetchFile(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64) ([]byte, error) {
	data, err := b.Blocks.FetchFile(ctx, c, from, limit)
	if h, ok := headerOf(data); err == nil && ok && h.Peer != b.l.key.Peer() {
		b.l.mu.Lock()
		defer b.l.mu.Unlock()
		b.l.payload = data
		close(b.l.fresh)
		b.l.fresh = make(chan struct{})
	}
	return data, err
}

// wait returns another's delta of the round that the head is of, or after
// patience whichever was fetched last.
func (l *Liar) wait(patience time.Duration) []byte {
	t := time.NewTimer(patience)
	defer t.Stop()
	for {
		l.mu.Lock()
		p, fresh := l.payload, l.fresh
		l.mu.Unlock()
		if h, ok := headerOf(p); ok && h.Parent == l.status().Head {
			return p
		}
		select {
		case <-fresh:
		case <-t.C:
			return p
		}
	}
}

// Put falsifies the trace of an own delta, or notes what not to serve of it.
func (b blocks) Put(ctx context.Context, codec uint64, data []byte) (wire.CID, error) {
	var t audit.Trace
	l := b.l
	if codec != wire.CodecDagCBOR || !l.traces() || wire.Unmarshal(data, &t) != nil || t.Peer != l.key.Peer() || len(t.Segments) == 0 {
		return b.Blocks.Put(ctx, codec, data)
	}
	l.mu.Lock()
	l.falsify(&t)
	l.mu.Unlock()
	data, err := wire.Marshal(&t)
	if err != nil {
		return "", err
	}
	c, err := b.Blocks.Put(ctx, codec, data)
	if err == nil && l.is(Withhold) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.hidden[c] = true
		for _, s := range t.Segments {
			l.hidden[s.End] = true
		}
	}
	return c, err
}

// traces reports whether the cheat is about the trace.
func (l *Liar) traces() bool {
	switch l.kind {
	case Withhold, Constant, Modulus, Replay, Null, Short, Surplus:
		return true
	}
	return false
}

// falsify replaces the proofs of a trace. l.mu is held.
func (l *Liar) falsify(t *audit.Trace) {
	lies := l.lies()
	if l.kind == Replay && (!lies || l.old == nil) {
		lies, l.old = false, nil
		for _, s := range t.Segments {
			l.old = append(l.old, bytes.Clone(s.Proofs))
		}
	}
	if !lies {
		return
	}
	for i := range t.Segments {
		s := &t.Segments[i]
		steps := int(t.Every)
		if i == len(t.Segments)-1 {
			steps = int(t.Steps) - i*int(t.Every)
		}
		if steps < 1 || len(s.Proofs)%steps != 0 {
			continue
		}
		size := len(s.Proofs) / steps // of one record
		switch l.kind {
		case Replay:
			if i < len(l.old) && len(l.old[i]) == len(s.Proofs) {
				s.Proofs = l.old[i]
			}
		case Short:
			s.Proofs = s.Proofs[:len(s.Proofs)-size]
		case Surplus:
			s.Proofs = append(bytes.Clone(s.Proofs), s.Proofs[:size]...)
		case Constant, Modulus, Null:
			var out []byte
			for j := 0; j < len(s.Proofs); j += size {
				out = append(out, forge(l.kind, l.usual, s.Proofs[j:j+size])...)
			}
			s.Proofs = out
		}
	}
}

// forge makes a record of the kind beside an honest one.
func forge(k Kind, usual uint16, honest []byte) []byte {
	pf, err := toploc.ParseProof(honest, (len(honest)-2)/2)
	if err != nil || len(pf.Coeffs) == 0 {
		return honest
	}
	out := &toploc.Proof{Modulus: pf.Modulus, Coeffs: make([]uint16, len(pf.Coeffs))}
	switch k {
	case Constant:
		out.Coeffs[0] = usual % toploc.Prime
	case Modulus:
		out.Modulus = 1
		for i := range out.Coeffs {
			out.Coeffs[i] = uint16(rand.IntN(toploc.Prime))
		}
		out.Coeffs[0] = usual % toploc.Prime
	case Null:
		out.Modulus = 0
	}
	return out.AppendBinary(nil)
}

package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A Tally is the body of wire.KindTally: one validator's signature for an epoch
// or a conviction. Its sender's key signed.
type Tally struct {
	What chain.Hash `cbor:"what"` // Book.EpochDigest or Book.ConvictionDigest
	Sig  []byte     `cbor:"sig"`  // 65 bytes
	File wire.CID   `cbor:"file"` // of an epoch's proposer: the leaves, which it serves
}

type tally struct {
	chain.Approval
	peer wire.PeerID
	file wire.CID
	sent time.Time // own ones
}

type heard struct {
	from  wire.PeerID
	key   chain.Address
	tally Tally
}

// Bounds of what is kept of tallies.
const (
	maxDigests = 512 // in all
	maxEach    = 64  // of one key
)

// open decodes and checks a message of the settlement's topic. Whatever it
// refuses, every honest peer would.
func (a *Agent) open(data []byte) (*heard, error) {
	if len(data) > 4096 {
		return nil, fmt.Errorf("a tally of %d bytes is over the limit", len(data))
	}
	m, err := wire.Decode(data)
	if err != nil {
		return nil, err
	}
	if m.Kind != wire.KindTally || m.Run != a.opt.Params.Run {
		return nil, fmt.Errorf("a %s of the run %s has no place here", m.Kind, m.Run)
	}
	if err := m.Verify(); err != nil {
		return nil, err
	}
	h := &heard{from: m.From}
	if err := wire.Unmarshal(m.Body, &h.tally); err != nil {
		return nil, err
	}
	if h.key, err = m.From.Address(); err != nil {
		return nil, err
	}
	who, err := chain.Recover(h.tally.What, h.tally.Sig)
	if err != nil || who != h.key {
		return nil, fmt.Errorf("the tally of %s is not signed by its key", m.From)
	}
	return h, nil
}

// Judge decides about a message of the settlement's topic before it is relayed.
func (a *Agent) Judge(_ context.Context, _ wire.PeerID, data []byte) wire.Judgement {
	h, err := a.open(data)
	if err != nil {
		return wire.Reject
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.validators[h.from] {
		return wire.Ignore // not by what is final here
	}
	return wire.Accept
}

// listen hands what the topic brings to Run's goroutine.
func (a *Agent) listen(ctx context.Context) {
	for {
		data, _, err := a.opt.Topic.Next(ctx)
		if err != nil {
			return // the topic is closed, or ctx has ended
		}
		h, err := a.open(data)
		if err != nil {
			continue
		}
		select {
		case a.heard <- *h:
		case <-ctx.Done():
			return
		}
	}
}

// count keeps a signature.
func (a *Agent) count(h heard) {
	a.mu.Lock()
	known := a.validators[h.from]
	a.mu.Unlock()
	if !known {
		return
	}
	mine := 0
	for _, ts := range a.tallies {
		if _, ok := ts[h.key]; ok {
			mine++
		}
	}
	a.keep(h.tally.What, h.key, tally{Approval: chain.Approval{Epoch: h.tally.What, Key: h.key, Sig: h.tally.Sig}, peer: h.from, file: h.tally.File}, mine)
}

func (a *Agent) keep(what chain.Hash, key chain.Address, t tally, mine int) {
	ts := a.tallies[what]
	if ts == nil {
		// One that is new must fit; what is not wanted any more makes room.
		if len(a.tallies) >= maxDigests || mine >= maxEach {
			a.tallies = map[chain.Hash]map[chain.Address]tally{}
		}
		ts = map[chain.Address]tally{}
		a.tallies[what] = ts
	}
	if old, ok := ts[key]; ok && !t.file.Defined() {
		t.file = old.file
	}
	ts[key] = t
}

func (a *Agent) approvals(what chain.Hash) []chain.Approval {
	var as []chain.Approval
	for _, t := range a.tallies[what] {
		as = append(as, t.Approval)
	}
	return as
}

// sign says that this validator agrees: once, and again while nothing comes of it.
func (a *Agent) sign(ctx context.Context, what chain.Hash, file wire.CID) error {
	now := a.opt.Clock()
	t, had := a.tallies[what][a.me]
	if had && (file == t.file || !file.Defined()) && now.Sub(t.sent) < a.opt.Again {
		return nil
	}
	if !had {
		t = tally{Approval: chain.Approval{Epoch: what, Key: a.me, Sig: chain.SignDigest(a.opt.Key, what)}, peer: a.opt.Key.Peer()}
	}
	if file.Defined() {
		t.file = file
	}
	t.sent = now
	a.keep(what, a.me, t, 0)
	if a.opt.Topic == nil {
		return nil
	}
	body, err := wire.Marshal(&Tally{What: what, Sig: t.Sig, File: t.file})
	if err != nil {
		return err
	}
	m := a.opt.Key.Sign(wire.KindTally, a.opt.Params.Run, body)
	data, err := m.Encode()
	if err != nil {
		return err
	}
	if err := a.opt.Topic.Publish(ctx, data); err != nil {
		a.warn("publish tally", "a signature could not be published", "err", err)
	}
	return nil
}

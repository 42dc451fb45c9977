package settle

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A memo is a Deriver as bytes: lists in order, so that equal derivers have
// equal bytes.
type memo struct {
	Version   uint64     `cbor:"version"` // 1
	Run       wire.CID   `cbor:"run"`
	ID        chain.Hash `cbor:"id"`
	At        wire.CID   `cbor:"at"`
	Round     uint64     `cbor:"round"`
	Clock     uint64     `cbor:"clock"`
	Closed    uint64     `cbor:"closed"`
	Over      bool       `cbor:"over"`
	Passed    []pass     `cbor:"passed"`
	Open      []bucket   `cbor:"open"`
	Convicted []Ban      `cbor:"convicted"`
	Seen      []sight    `cbor:"seen"`
	Expect    []due      `cbor:"expect"`
}

type bucket struct {
	Number uint64 `cbor:"number"`
	Works  []Work `cbor:"works"`
}

type sight struct {
	Worker  chain.Address `cbor:"worker"`
	Kind    chain.Kind    `cbor:"kind"`
	Subject chain.Hash    `cbor:"subject"`
	Round   uint64        `cbor:"round"`
}

type due struct {
	Round uint64        `cbor:"round"`
	Epoch uint64        `cbor:"epoch"`
	Peers []wire.PeerID `cbor:"peers"`
}

// Encode returns the deriver as bytes, equal for equal derivers.
func (d *Deriver) Encode() ([]byte, error) {
	m := memo{Version: 1, Run: d.p.Run, ID: d.p.ID, At: d.at, Round: d.round, Clock: d.clock, Closed: d.closed, Over: d.over, Passed: d.passed, Convicted: d.Bans()}
	for _, n := range slices.Sorted(maps.Keys(d.open)) {
		m.Open = append(m.Open, bucket{n, *d.open[n]})
	}
	for k, r := range d.seen {
		m.Seen = append(m.Seen, sight{k.worker, k.kind, k.subject, r})
	}
	slices.SortFunc(m.Seen, func(a, b sight) int {
		return cmp.Or(cmp.Compare(a.Round, b.Round), bytes.Compare(a.Worker[:], b.Worker[:]), cmp.Compare(a.Kind, b.Kind), bytes.Compare(a.Subject[:], b.Subject[:]))
	})
	for _, r := range slices.Sorted(maps.Keys(d.expect)) {
		m.Expect = append(m.Expect, due{r, d.expect[r].epoch, slices.SortedFunc(maps.Keys(d.expect[r].peers), wire.PeerID.Compare)})
	}
	return wire.Marshal(&m)
}

// Decode reads what Encode wrote for the same run and ledger.
func Decode(p Params, b []byte) (*Deriver, error) {
	var m memo
	if err := wire.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("settlement's state: %w", err)
	}
	switch {
	case m.Version != 1:
		return nil, fmt.Errorf("settlement's state: version %d is unknown", m.Version)
	case m.Run != p.Run || m.ID != p.ID:
		return nil, errors.New("settlement's state is of another run or ledger")
	}
	d := New(p)
	d.at, d.round, d.clock, d.closed, d.over, d.passed = m.At, m.Round, m.Clock, m.Closed, m.Over, m.Passed
	for _, x := range m.Open {
		d.open[x.Number] = &x.Works
	}
	for _, x := range m.Convicted {
		d.convicted[x.Peer] = x
	}
	for _, x := range m.Seen {
		d.seen[seenKey{x.Worker, x.Kind, x.Subject}] = x.Round
	}
	for _, x := range m.Expect {
		e := &expected{x.Epoch, map[wire.PeerID]bool{}}
		for _, p := range x.Peers {
			e.peers[p] = true
		}
		d.expect[x.Round] = e
	}
	return d, nil
}

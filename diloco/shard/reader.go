package shard

import (
	"fmt"
	"sort"

	"github.com/shoalnet/shoal/p2p/wire"
)

// A Reader gives the windows of one part of a data set. One goroutine uses it
// at a time.
type Reader struct {
	shards []Shard
	starts []uint64 // of each shard, in tokens; the last is the total
	vocab  uint64
	seq    int
	fetch  func(wire.CID) ([]byte, error)
	cache  []cached // the latest used first
}

type cached struct {
	shard int
	block block
}

// cacheShards is how many blocks, of at most 1 MiB, a Reader keeps.
const cacheShards = 16

// NewReader reads windows of seq inputs from shards, the Train or Val of an
// index. fetch returns a block by its CID; the Reader does not check the CID again.
func NewReader(x *Index, shards []Shard, seq int, fetch func(wire.CID) ([]byte, error)) (*Reader, error) {
	if err := x.Validate(); err != nil {
		return nil, err
	}
	if seq < 1 || seq > 1<<24 {
		return nil, fmt.Errorf("sequence of %d tokens is out of bounds", seq)
	}
	r := &Reader{shards: shards, vocab: x.Vocab, seq: seq, fetch: fetch, starts: make([]uint64, 1, len(shards)+1)}
	for i, s := range shards {
		r.starts = append(r.starts, r.starts[i]+s.Tokens)
	}
	return r, nil
}

// Windows returns how many windows there are.
func (r *Reader) Windows() uint64 { return Windows(r.starts[len(r.shards)], r.seq) }

// Window returns the T+1 tokens of window w, across the borders of blocks.
func (r *Reader) Window(w uint64) ([]int32, error) {
	if w >= r.Windows() {
		return nil, fmt.Errorf("data window %d of %d does not exist", w, r.Windows())
	}
	at := w * uint64(r.seq)
	out := make([]int32, 0, r.seq+1)
	for k := sort.Search(len(r.shards), func(i int) bool { return r.starts[i+1] > at }); len(out) <= r.seq; k++ {
		b, err := r.shard(k)
		if err != nil {
			return nil, fmt.Errorf("data window %d: shard %d (%s): %w", w, k, r.shards[k].CID, err)
		}
		for i := int(at - r.starts[k]); i < b.len() && len(out) <= r.seq; i++ {
			out = append(out, b.at(i))
			at++
		}
	}
	return out, nil
}

func (r *Reader) shard(k int) (block, error) {
	for i, c := range r.cache {
		if c.shard == k {
			copy(r.cache[1:i+1], r.cache[:i])
			r.cache[0] = c
			return c.block, nil
		}
	}
	raw, err := r.fetch(r.shards[k].CID)
	if err != nil {
		return block{}, err
	}
	b, err := checkBlock(raw, r.vocab)
	if err != nil {
		return block{}, err
	}
	if uint64(b.len()) != r.shards[k].Tokens {
		return block{}, fmt.Errorf("%d tokens, the index says %d", b.len(), r.shards[k].Tokens)
	}
	if len(r.cache) < cacheShards {
		r.cache = append(r.cache, cached{})
	}
	copy(r.cache[1:], r.cache)
	r.cache[0] = cached{k, b}
	return b, nil
}

// A Share is the data that one trainer uses in one round.
type Share struct {
	Run   wire.CID
	Base  uint64 // the commit's cursor
	Slot  int    // the trainer's place among Slots
	Slots int
	Each  uint64 // windows set aside for each trainer
	Batch int    // windows in an inner step; at most Each
}

// Batch returns the tokens of inner step number step, from 0: Batch windows of
// T+1 tokens. This is the one definition of what a peer trains on, for the
// trainer and for whoever rechecks it.
func (r *Reader) Batch(s Share, step uint64) ([][]int32, error) {
	if s.Batch < 1 || uint64(s.Batch) > s.Each || step >= s.Each/uint64(s.Batch) {
		return nil, fmt.Errorf("inner step %d with %d windows: %d windows are set aside", step, s.Batch, s.Each)
	}
	out := make([][]int32, s.Batch)
	for k := range out {
		p, err := Assign(s.Base, s.Slot, s.Slots, s.Each, step*uint64(s.Batch)+uint64(k))
		if err != nil {
			return nil, err
		}
		w, err := Window(s.Run, r.Windows(), p)
		if err != nil {
			return nil, err
		}
		if out[k], err = r.Window(w); err != nil {
			return nil, err
		}
	}
	return out, nil
}

package shard

import (
	"fmt"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Options say how Prepare cuts a text. The zero value is the default.
type Options struct {
	Val      int // of the text that is for validation, its last: parts per 10,000; 0 means 1,000, below 0 none
	PerShard int // tokens in a block; 0 means as many as fit 1 MiB
	Sequence int // T; where set, each part must hold one window at least
}

// A Block is a token block under its CID.
type Block struct {
	CID  wire.CID
	Data []byte
}

// Prepared is a data set, ready to be stored.
type Prepared struct {
	Index  *Index
	CID    wire.CID // of IndexBlock: the manifest's `data`
	Block  []byte   // the index
	Blocks []Block  // train, then val
}

// Prepare cuts tokens into blocks. The same tokens and options give the same
// CIDs everywhere.
func Prepare(tokens []int32, tokenizer wire.CID, vocab uint64, o Options) (*Prepared, error) {
	if vocab < 1 || vocab > MaxVocab {
		return nil, fmt.Errorf("prepare data: vocabulary of %d tokens is not in 1..%d", vocab, MaxVocab)
	}
	switch {
	case o.Val == 0:
		o.Val = 1000
	case o.Val < 0:
		o.Val = 0
	case o.Val > 9000:
		return nil, fmt.Errorf("prepare data: %d parts of 10,000 for validation leave too little to train on (at most 9,000)", o.Val)
	}
	if o.PerShard == 0 {
		o.PerShard = maxTokens(vocab)
	}
	if o.PerShard < 1 || o.PerShard > maxTokens(vocab) {
		return nil, fmt.Errorf("prepare data: %d tokens in a shard are not in 1..%d", o.PerShard, maxTokens(vocab))
	}
	n := uint64(len(tokens))
	cut := n/10000*uint64(10000-o.Val) + n%10000*uint64(10000-o.Val)/10000 // n·(1−val), rounded down
	p := &Prepared{Index: &Index{Version: version, Tokenizer: tokenizer, Vocab: vocab}}
	for _, part := range []struct {
		name   string
		tokens []int32
		shards *[]Shard
		must   bool
	}{{"training", tokens[:cut], &p.Index.Train, true}, {"validation", tokens[cut:], &p.Index.Val, o.Val > 0}} {
		if part.must && (len(part.tokens) == 0 || o.Sequence > 0 && Windows(uint64(len(part.tokens)), o.Sequence) == 0) {
			if o.Sequence == 0 {
				return nil, fmt.Errorf("prepare data: %d tokens are too few: with %d parts of 10,000 for validation none is left for %s", n, o.Val, part.name)
			}
			return nil, fmt.Errorf("prepare data: %d tokens for %s are too few for a sequence of %d", len(part.tokens), part.name, o.Sequence)
		}
		for rest := part.tokens; len(rest) > 0; {
			k := min(o.PerShard, len(rest))
			b, err := EncodeBlock(rest[:k], vocab)
			if err != nil {
				return nil, fmt.Errorf("prepare data: %w", err)
			}
			c := wire.SumCID(wire.CodecRaw, b)
			p.Blocks = append(p.Blocks, Block{c, b})
			*part.shards = append(*part.shards, Shard{c, uint64(k)})
			rest = rest[k:]
		}
	}
	var err error
	if p.Block, err = p.Index.Encode(); err != nil {
		return nil, fmt.Errorf("prepare data: %w", err)
	}
	p.CID = wire.SumCID(wire.CodecDagCBOR, p.Block)
	return p, nil
}

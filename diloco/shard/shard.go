package shard

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Limits of data.
const (
	MaxBlock  = 1 << 20 // bytes of a token block, and of an index
	MaxVocab  = 1 << 20 // tokens in the vocabulary
	MaxShards = 1 << 16 // in an index
	headSize  = 12
	magic     = "SHTK"
	version   = 1
)

// A Shard is one token block of an Index.
type Shard struct {
	CID    wire.CID `cbor:"cid" json:"cid"`
	Tokens uint64   `cbor:"tokens" json:"tokens"`
}

// An Index lists the token blocks of a data set in order.
type Index struct {
	Version   uint64   `cbor:"version" json:"version"`     // 1
	Tokenizer wire.CID `cbor:"tokenizer" json:"tokenizer"` // whose tokens they are
	Vocab     uint64   `cbor:"vocab" json:"vocab"`         // every token is below
	Train     []Shard  `cbor:"train" json:"train"`
	Val       []Shard  `cbor:"val" json:"val"` // may be empty
}

// Tokens returns how many tokens shards hold in all.
func Tokens(shards []Shard) uint64 {
	var n uint64
	for _, s := range shards {
		n += s.Tokens
	}
	return n
}

// width returns the bytes of a token for a vocabulary.
func width(vocab uint64) int {
	if vocab <= 1<<16 {
		return 2
	}
	return 4
}

// maxTokens returns how many tokens fit one block.
func maxTokens(vocab uint64) int { return (MaxBlock - headSize) / width(vocab) }

// Validate reports the first field that is out of bounds.
func (x *Index) Validate() error {
	switch {
	case x.Version != version:
		return fmt.Errorf("data index: version %d, want %d", x.Version, version)
	case !x.Tokenizer.Defined():
		return errors.New("data index: tokenizer is missing")
	case x.Vocab < 1 || x.Vocab > MaxVocab:
		return fmt.Errorf("data index: vocab: %d is not in 1..%d", x.Vocab, MaxVocab)
	case len(x.Train) == 0:
		return errors.New("data index: train: no shards")
	case len(x.Train)+len(x.Val) > MaxShards:
		return fmt.Errorf("data index: %d shards are above the limit of %d", len(x.Train)+len(x.Val), MaxShards)
	}
	most := uint64(maxTokens(x.Vocab))
	for _, part := range []struct {
		name   string
		shards []Shard
	}{{"train", x.Train}, {"val", x.Val}} {
		for i, s := range part.shards {
			if s.CID.Codec() != wire.CodecRaw {
				return fmt.Errorf("data index: %s[%d]: %q is not the CID of a raw block", part.name, i, s.CID.String())
			}
			if s.Tokens < 1 || s.Tokens > most {
				return fmt.Errorf("data index: %s[%d]: %d tokens are not in 1..%d", part.name, i, s.Tokens, most)
			}
		}
	}
	return nil
}

// Encode returns the canonical bytes of the index: a block under CodecDagCBOR,
// whose CID is the manifest's `data`.
func (x *Index) Encode() ([]byte, error) {
	if err := x.Validate(); err != nil {
		return nil, err
	}
	b, err := wire.Marshal(x)
	if err != nil {
		return nil, fmt.Errorf("data index: %w", err)
	}
	if len(b) > MaxBlock {
		return nil, fmt.Errorf("data index of %d shards takes %d bytes, the limit is %d", len(x.Train)+len(x.Val), len(b), MaxBlock)
	}
	return b, nil
}

// DecodeIndex parses and checks an index block.
func DecodeIndex(b []byte) (*Index, error) {
	if len(b) > MaxBlock {
		return nil, fmt.Errorf("data index of %d bytes is over the limit of %d", len(b), MaxBlock)
	}
	x := new(Index)
	if err := wire.Unmarshal(b, x); err != nil {
		return nil, fmt.Errorf("data index: %w", err)
	}
	if err := x.Validate(); err != nil {
		return nil, err
	}
	return x, nil
}

// EncodeBlock returns the block of tokens, which must be below vocab and fit.
func EncodeBlock(tokens []int32, vocab uint64) ([]byte, error) {
	if vocab < 1 || vocab > MaxVocab || len(tokens) < 1 || len(tokens) > maxTokens(vocab) {
		return nil, fmt.Errorf("block of %d tokens of a vocabulary of %d: out of bounds", len(tokens), vocab)
	}
	w := width(vocab)
	b := make([]byte, headSize, headSize+w*len(tokens))
	copy(b, magic)
	b[4], b[5] = version, byte(w)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(tokens)))
	for i, t := range tokens {
		if t < 0 || uint64(t) >= vocab {
			return nil, fmt.Errorf("token %d, at %d, is not below the vocabulary's %d", t, i, vocab)
		}
		if w == 2 {
			b = binary.LittleEndian.AppendUint16(b, uint16(t))
		} else {
			b = binary.LittleEndian.AppendUint32(b, uint32(t))
		}
	}
	return b, nil
}

// A block is the checked bytes of a token block.
type block struct {
	width int
	body  []byte
}

func (k block) len() int { return len(k.body) / k.width }

func (k block) at(i int) int32 {
	if k.width == 2 {
		return int32(binary.LittleEndian.Uint16(k.body[2*i:]))
	}
	return int32(binary.LittleEndian.Uint32(k.body[4*i:]))
}

func checkBlock(b []byte, vocab uint64) (block, error) {
	if vocab < 1 || vocab > MaxVocab {
		return block{}, fmt.Errorf("vocabulary of %d tokens is not in 1..%d", vocab, MaxVocab)
	}
	if len(b) < headSize || len(b) > MaxBlock || string(b[:4]) != magic {
		return block{}, errors.New("not a token block")
	}
	w := width(vocab)
	if b[4] != version || b[6] != 0 || b[7] != 0 {
		return block{}, fmt.Errorf("token block: version %d is unknown", b[4])
	}
	if int(b[5]) != w {
		return block{}, fmt.Errorf("token block: %d bytes a token, a vocabulary of %d takes %d", b[5], vocab, w)
	}
	n := binary.LittleEndian.Uint32(b[8:])
	if n == 0 || uint64(n)*uint64(w) != uint64(len(b)-headSize) {
		return block{}, fmt.Errorf("token block: %d tokens in %d bytes", n, len(b))
	}
	k := block{w, b[headSize:]}
	for i := range k.len() {
		if t := uint32(k.at(i)); uint64(t) >= vocab {
			return block{}, fmt.Errorf("token block: token %d, at %d, is not below the vocabulary's %d", t, i, vocab)
		}
	}
	return k, nil
}

// DecodeBlock returns the tokens of a block, each of which is below vocab.
func DecodeBlock(b []byte, vocab uint64) ([]int32, error) {
	k, err := checkBlock(b, vocab)
	if err != nil {
		return nil, err
	}
	out := make([]int32, k.len())
	for i := range out {
		out[i] = k.at(i)
	}
	return out, nil
}

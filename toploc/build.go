package toploc

import (
	"errors"
	"fmt"
	"slices"
)

// Params fix what prover and verifier must agree on.
type Params struct {
	Hidden int  `json:"hidden"` // activations of one token; at least 1
	TopK   int  `json:"topk"`   // activations in a proof; at most the size of the smallest chunk, and 640 is a good limit
	Batch  int  `json:"batch"`  // tokens in a chunk of generated tokens
	Ties   Ties `json:"ties"`
}

// Default are the parameters of the reference's production use.
func Default(hidden int) Params { return Params{Hidden: hidden, TopK: 128, Batch: 32} }

func (p Params) validate() error {
	switch {
	case p.Hidden < 1 || p.Hidden > 1<<24:
		return fmt.Errorf("hidden size %d is outside 1..2^24", p.Hidden)
	case p.TopK < 1 || p.TopK > 4096:
		return fmt.Errorf("top-k %d is outside 1..4096", p.TopK)
	case p.Batch < 1 || p.Batch > 1<<20:
		return fmt.Errorf("batch of %d tokens is outside 1..2^20", p.Batch)
	case p.Ties != TiesLowest && p.Ties != TiesLibstdcxx:
		return fmt.Errorf("unknown tie rule %d", p.Ties)
	}
	return nil
}

// A Chunk is one proof's part of a sequence, in tokens.
type Chunk struct {
	Start, Tokens int
	Prefill       bool
}

// Chunks splits a sequence of prompt and generated tokens. prompt 0 says that
// the prompt's activations are absent (the reference's skip_prefill).
func (p Params) Chunks(prompt, generated int) []Chunk {
	var cs []Chunk
	if prompt > 0 {
		cs = append(cs, Chunk{0, prompt, true})
	}
	for at := 0; at < generated; at += p.Batch {
		cs = append(cs, Chunk{prompt + at, min(p.Batch, generated-at), false})
	}
	return cs
}

// rows checks the shape of a sequence's activations and returns its tokens.
func (p Params) rows(a []uint16, prompt int) (int, error) {
	if err := p.validate(); err != nil {
		return 0, err
	}
	if len(a)%p.Hidden != 0 {
		return 0, fmt.Errorf("%d activations are no whole rows of %d", len(a), p.Hidden)
	}
	tokens := len(a) / p.Hidden
	if prompt < 0 || prompt > tokens {
		return 0, fmt.Errorf("prompt of %d tokens in a sequence of %d", prompt, tokens)
	}
	return tokens, nil
}

// Build proves a sequence: a holds a row for each of its tokens, the first
// prompt of them being the prompt's. One proof a chunk.
func Build(p Params, a []uint16, prompt int) ([]*Proof, error) {
	tokens, err := p.rows(a, prompt)
	if err != nil {
		return nil, err
	}
	cs := p.Chunks(prompt, tokens-prompt)
	out := make([]*Proof, len(cs))
	for i, c := range cs {
		if out[i], err = BuildChunk(p, a[c.Start*p.Hidden:(c.Start+c.Tokens)*p.Hidden]); err != nil {
			return nil, fmt.Errorf("chunk %d: %w", i, err)
		}
	}
	return out, nil
}

// BuildChunk proves the activations of one chunk.
func BuildChunk(p Params, a []uint16) (*Proof, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	pos, bits, err := topK(a, p.TopK, p.Ties)
	if err != nil {
		return nil, err
	}
	return fromPoints(pos, bits)
}

func fromPoints(pos []uint32, bits []uint16) (*Proof, error) {
	m, err := injectiveModulus(pos)
	if err != nil {
		return nil, err
	}
	x, y := make([]uint32, len(pos)), make([]uint32, len(pos))
	for i := range pos {
		x[i], y[i] = pos[i]%m, uint32(bits[i])%Prime
	}
	p := &Proof{Modulus: uint16(m), Coeffs: make([]uint16, len(pos))}
	interpolate(p.Coeffs, x, y)
	return p, nil
}

var errNoModulus = errors.New("no modulus keeps the positions apart: choose a smaller top-k, or shorter chunks")

// injectiveModulus returns the largest m up to Prime for which all pos are
// distinct mod m.
func injectiveModulus(pos []uint32) (uint32, error) {
	if slices.Max(pos) < Prime {
		return Prime, nil // distinct as they are
	}
	var seen [Prime/64 + 1]uint64
	for m := uint32(Prime); m > 0; m-- {
		ok, used := true, 0
		for _, p := range pos {
			r := p % m
			if seen[r/64]>>(r%64)&1 != 0 {
				ok = false
				break
			}
			seen[r/64] |= 1 << (r % 64)
			used++
		}
		if ok {
			return m, nil
		}
		for _, p := range pos[:used] {
			seen[p%m/64] = 0
		}
	}
	return 0, errNoModulus
}

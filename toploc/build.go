package toploc

import (
	"errors"
	"fmt"
	"slices"
)

// Params fix what prover and verifier must agree on.
type Params struct {
	Hidden int // activations of one token; at least 1
	TopK   int // activations in a proof; at most the size of the smallest chunk
	Batch  int // tokens in a chunk of generated tokens
	Ties   Ties
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

// rows splits the activations of a sequence into its chunks.
func (p Params) rows(a []uint16, prompt int) ([]Chunk, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	if len(a)%p.Hidden != 0 {
		return nil, fmt.Errorf("%d activations are no whole rows of %d", len(a), p.Hidden)
	}
	tokens := len(a) / p.Hidden
	if prompt < 0 || prompt > tokens {
		return nil, fmt.Errorf("prompt of %d tokens in a sequence of %d", prompt, tokens)
	}
	return p.Chunks(prompt, tokens-prompt), nil
}

// Build proves a sequence: a holds a row for each of its tokens, the first
// prompt of them being the prompt's. One proof a chunk.
func Build(p Params, a []uint16, prompt int) ([]*Proof, error) {
	cs, err := p.rows(a, prompt)
	if err != nil {
		return nil, err
	}
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
	pos, err := topK(a, p.TopK, p.Ties)
	if err != nil {
		return nil, err
	}
	return fromPositions(pos, a)
}

func fromPositions(pos []uint32, a []uint16) (*Proof, error) {
	bits := make([]uint16, len(pos))
	for i, p := range pos {
		bits[i] = a[p]
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

var errRepeatedPosition = errors.New("a position occurs twice")

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
	return 0, errRepeatedPosition
}

// A Prover proves a sequence while it is generated. It holds k activations,
// not the rows. The zero value is not usable: use NewProver.
type Prover struct {
	p      Params
	sel    selector
	tokens int
	pos    uint32
}

// NewProver makes a prover of generated tokens. Ties must be TiesLowest: the
// other rule needs the whole chunk at once.
func NewProver(p Params) (*Prover, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	if p.Ties != TiesLowest {
		return nil, errors.New("a streaming prover takes ties by the lowest position")
	}
	if int64(p.Hidden)*int64(p.Batch) > 1<<31-1 {
		return nil, fmt.Errorf("chunks of %d activations are over the limit of 2^31-1", int64(p.Hidden)*int64(p.Batch))
	}
	return &Prover{p: p, sel: selector{k: p.TopK}}, nil
}

// Push takes the row of the next token and returns the proof of the chunk that
// it completes, else nil.
func (pr *Prover) Push(row []uint16) (*Proof, error) {
	if len(row) != pr.p.Hidden {
		return nil, fmt.Errorf("row has %d activations, want %d", len(row), pr.p.Hidden)
	}
	pr.sel.scan(row, pr.pos)
	pr.pos += uint32(len(row))
	if pr.tokens++; pr.tokens < pr.p.Batch {
		return nil, nil
	}
	return pr.Flush()
}

// Flush ends the chunk under way and returns its proof, nil if it has no token.
func (pr *Prover) Flush() (*Proof, error) {
	if pr.tokens == 0 {
		return nil, nil
	}
	defer func() { pr.tokens, pr.pos = 0, 0; pr.sel.reset() }()
	if len(pr.sel.heap) < pr.p.TopK {
		return nil, fmt.Errorf("a chunk of %d activations has no top %d: choose k at most the hidden size", pr.pos, pr.p.TopK)
	}
	return fromPoints(pr.sel.points())
}

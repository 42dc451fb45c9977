package toploc

import "fmt"

// A Top is what a proof is made of: the k activations of largest magnitude of
// one chunk.
type Top struct {
	Chunk
	Index int      // of the chunk in its sequence
	Pos   []uint32 // of k activations in the chunk, in no useful order
	Bits  []uint16 // theirs
}

// Prove makes the proof of the chunk.
func (t *Top) Prove() (*Proof, error) { return fromPoints(t.Pos, t.Bits) }

// Compare compares a proof with the verifier's own top of the chunk. It judges
// nothing: see Strict.
func (t *Top) Compare(sem Semantics, pf *Proof) (Result, error) {
	return compare(sem, pf, t.Pos, t.Bits)
}

// A Selector takes the rows of a sequence as they come and finds each chunk's
// top. It holds some multiple of k activations, never the rows.
type Selector struct {
	p      Params
	sel    selection
	prompt int
	chunk  Chunk // under way
	index  int
}

// NewSelector makes a selector for a sequence whose first prompt rows are the
// prompt's, which is one chunk; see Params.Chunks.
func NewSelector(p Params, prompt int) (*Selector, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	if prompt < 0 {
		return nil, fmt.Errorf("prompt of %d tokens", prompt)
	}
	if prompt > maxChunk/p.Hidden || p.Batch > maxChunk/p.Hidden {
		return nil, checkChunk(uint64(p.Hidden)*uint64(max(p.Batch, prompt)), p.TopK)
	}
	return &Selector{p: p, sel: newSelection(p.TopK, p.Ties), prompt: prompt, chunk: Chunk{Prefill: prompt > 0}}, nil
}

// Push takes the next token's row and returns the top of the chunk that it
// completes, else nil. A Top is valid until the next call.
func (s *Selector) Push(row []uint16) (*Top, error) {
	if len(row) != s.p.Hidden {
		return nil, fmt.Errorf("row has %d activations, want %d", len(row), s.p.Hidden)
	}
	s.sel.scan(row)
	s.chunk.Tokens++
	if s.chunk.Prefill && s.chunk.Tokens < s.prompt || !s.chunk.Prefill && s.chunk.Tokens < s.p.Batch {
		return nil, nil
	}
	return s.Flush()
}

// Flush ends the chunk under way and returns its top, nil if it has no token.
// A prompt that is cut short is an error.
func (s *Selector) Flush() (*Top, error) {
	c, i := s.chunk, s.index
	if c.Tokens == 0 {
		return nil, nil
	}
	if c.Prefill && c.Tokens < s.prompt {
		return nil, fmt.Errorf("the prompt ends after %d of %d tokens", c.Tokens, s.prompt)
	}
	s.chunk, s.index = Chunk{Start: c.Start + c.Tokens}, i+1
	pos, bits, err := s.sel.take()
	if err != nil {
		return nil, fmt.Errorf("chunk %d: %w", i, err)
	}
	return &Top{Chunk: c, Index: i, Pos: pos, Bits: bits}, nil
}

// A Prover proves a sequence while it is generated.
type Prover struct{ sel *Selector }

// NewProver makes a prover of a sequence whose first prompt rows are the
// prompt's; 0 if they are not proved.
func NewProver(p Params, prompt int) (*Prover, error) {
	s, err := NewSelector(p, prompt)
	if err != nil {
		return nil, err
	}
	return &Prover{s}, nil
}

// Push takes the row of the next token and returns the proof of the chunk that
// it completes, else nil.
func (pr *Prover) Push(row []uint16) (*Proof, error) { return prove(pr.sel.Push(row)) }

// Flush ends the chunk under way and returns its proof, nil if it has no token.
func (pr *Prover) Flush() (*Proof, error) { return prove(pr.sel.Flush()) }

func prove(t *Top, err error) (*Proof, error) {
	if t == nil || err != nil {
		return nil, err
	}
	return t.Prove()
}

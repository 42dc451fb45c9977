package llama

import "fmt"

// Packed sequences: documents follow one another, each ended by a separator,
// and are cut where a sequence is full. With Options.Pack no token sees a document before
// its own, and none is asked to predict the next document's first token: what
// is learnt is what the documents alone would teach, without padding. Positions
// run on, because rotary embeddings see their differences only.

// separate sets targets and first keys of the seqs sequences of t tokens that p
// holds, where they are packed.
func (o *Options) separate(p *plan, seqs, t int) {
	if !o.Pack {
		return
	}
	n, sep := seqs*t, o.Separator
	p.packed = true
	for at := 0; at < n; at++ {
		i := at % t
		switch {
		case i == 0:
			p.from[at] = 0
		case p.ids[at-1] == sep:
			p.from[at] = int32(i)
		default:
			p.from[at] = p.from[at-1]
		}
		if p.ids[at] == sep {
			p.targets[at] = -1
		}
	}
}

// packable refuses packed sequences of n tokens where RoPE depends on the length of each document.
func (m *Model) packable(o *Options, n int) error {
	if o.Pack && m.cfg.RopeLength(n) != 0 {
		return fmt.Errorf("llama: packed sequences of %d tokens: %s RoPE depends on the length of each document; at most %d, or one document in each", n, m.cfg.RopeScaling.Kind, m.alike(1, n))
	}
	return nil
}

// documents are the first keys of the n tokens of a packed pass, else nil.
func (p *plan) documents(n int) []int32 {
	if !p.packed {
		return nil
	}
	return p.from[:n]
}

// predictions counts what tokens ask for: all that follow another, but in packed
// sequences those that follow a separator.
func (o *Options) predictions(tokens [][]int32) int {
	n := 0
	for _, s := range tokens {
		n += len(s) - 1
		if o.Pack {
			for _, id := range s[:len(s)-1] {
				if id == o.Separator {
					n--
				}
			}
		}
	}
	return n
}

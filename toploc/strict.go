package toploc

import (
	"crypto/sha256"
	"errors"
	"fmt"
)

// Limits are the most that an honest chunk may deviate. They depend on model,
// dtype and engine: calibrate them.
type Limits struct {
	ExpMismatches  int     `json:"exp_mismatches"`
	MantErrMean    float64 `json:"mant_err_mean"`
	MantErrMedian  float64 `json:"mant_err_median"`
	SignMismatches int     `json:"sign_mismatches"`
}

// Published are the limits of the paper for bfloat16 (exponents 38, mean 10,
// median 8; k = 128) with a sign limit of ours. A constant polynomial passes the
// first three; control points and the sign limit are what stops it.
var Published = Limits{ExpMismatches: 38, MantErrMean: 10, MantErrMedian: 8, SignMismatches: 4}

// For scales limits that were made for k = 128 to another k: counts in proportion.
func (l Limits) For(k int) Limits {
	l.ExpMismatches = l.ExpMismatches * k / 128
	l.SignMismatches = (l.SignMismatches*k + 127) / 128
	return l
}

// Check returns what of r is over the limits, nil if nothing is.
func (l Limits) Check(r Result) error {
	switch {
	case r.ExpMismatches > l.ExpMismatches:
		return fmt.Errorf("%d exponents differ, limit %d", r.ExpMismatches, l.ExpMismatches)
	case !(r.MantErrMean <= l.MantErrMean):
		return fmt.Errorf("mean mantissa error %.3g, limit %.3g", r.MantErrMean, l.MantErrMean)
	case !(r.MantErrMedian <= l.MantErrMedian):
		return fmt.Errorf("median mantissa error %.3g, limit %.3g", r.MantErrMedian, l.MantErrMedian)
	case r.SignMismatches > l.SignMismatches:
		return fmt.Errorf("%d signs differ, limit %d", r.SignMismatches, l.SignMismatches)
	}
	return nil
}

// MinModulus is the least modulus that is taken for honest at a k. At 128 each
// candidate fails with a probability of 0.12 at most, at 640 with one of 0.96, so that
// falling from 65497 below 65000 has less than 1e-9. Beyond, chunks of more than p
// activations may fall far, and at about 1200 they have no modulus at all.
func MinModulus(k int) int {
	if k <= 640 {
		return 65000
	}
	return 1 << 15
}

// Strict judges whole sequences.
type Strict struct {
	Params  Params
	Prefill Limits // for the chunk of the prompt: quieter than decoding
	Decode  Limits
	// MinModulus refuses moduli that no honest chunk needs. 0 means MinModulus(TopK).
	MinModulus int
	// Controls is how many positions outside the verifier's top-k are evaluated;
	// 0 means 256, and 4096 is the most. Seed, which the prover must not know
	// beforehand, draws them.
	Controls int
	Seed     uint64
	// MaxControlHits is how many of the controls may carry an exponent of the
	// verifier's top-k. The polynomial of an honest proof is pseudo-random there: 0
	// means what that exceeds with a probability of 1e-9 at most.
	MaxControlHits int
	// Seen, if not nil, is asked whether a record was in an earlier submission and
	// remembers it: once for each record of generated tokens that passes all else.
	// A prompt's record is no evidence, it repeats with the prompt. So do those of a
	// prompt answered greedily: there, version 2 binds to the job. Forget what it was
	// asked for a sequence that fails in the end: else whoever gets hold of a record can
	// have its owner's refused.
	Seen func(record []byte) bool
}

// A ChunkVerdict is what Strict says of one chunk.
type ChunkVerdict struct {
	Result
	ControlHits int    `json:"control_hits"`
	OK          bool   `json:"ok"`
	Reason      string `json:"reason,omitempty"`
}

// ErrEmpty reports a sequence of no chunks.
var ErrEmpty = errors.New("a sequence of no chunks proves nothing")

// Verify judges the records of a sequence against the verifier's own activations
// of it (see Build). An error says why the submission as a whole fails; else
// every chunk has a verdict and the sequence passes if all are OK.
func (s Strict) Verify(records [][]byte, a []uint16, prompt int) ([]ChunkVerdict, error) {
	tokens, err := s.Params.rows(a, prompt)
	if err != nil {
		return nil, err
	}
	cs := s.Params.Chunks(prompt, tokens-prompt)
	if len(cs) == 0 {
		return nil, ErrEmpty
	}
	if len(records) != len(cs) {
		return nil, fmt.Errorf("%d proofs for %d chunks", len(records), len(cs))
	}
	j := s.Judge()
	out := make([]ChunkVerdict, len(cs))
	for i, c := range cs {
		pos, bits, err := topK(a[c.Start*s.Params.Hidden:(c.Start+c.Tokens)*s.Params.Hidden], s.Params.TopK, s.Params.Ties)
		if err != nil {
			return nil, fmt.Errorf("chunk %d: %w", i, err)
		}
		out[i] = j.Chunk(&Top{Chunk: c, Index: i, Pos: pos, Bits: bits}, records[i])
	}
	return out, nil
}

// A Judge judges the chunks of one sequence as they come. That there are as
// many records as chunks, and at least one, is the caller's to see.
type Judge struct {
	s    Strict
	mine map[[32]byte]struct{} // hashes of this sequence's records
	most map[[2]int]int        // hits allowed, by controls tried and exponents in the top-k
}

// Judge begins a sequence.
func (s Strict) Judge() *Judge { return &Judge{s, map[[32]byte]struct{}{}, map[[2]int]int{}} }

// Chunk judges one record against the verifier's top of its chunk.
func (j *Judge) Chunk(t *Top, record []byte) ChunkVerdict {
	v, err := j.chunk(t, record)
	id := sha256.Sum256(record)
	if _, again := j.mine[id]; err == nil && again {
		err = errors.New("the record of an earlier chunk, again")
	}
	j.mine[id] = struct{}{}
	if err == nil && !t.Prefill && j.s.Seen != nil && j.s.Seen(record) {
		err = errors.New("the record of an earlier submission, again")
	}
	if v.OK = err == nil; err != nil {
		v.Reason = err.Error()
	}
	return v
}

func (j *Judge) chunk(t *Top, record []byte) (v ChunkVerdict, err error) {
	s := &j.s
	v.Result = Null(s.Params.TopK)
	pf, err := ParseProof(record, s.Params.TopK)
	if err != nil {
		return v, err
	}
	floor := s.MinModulus
	if floor == 0 {
		floor = MinModulus(s.Params.TopK)
	}
	if int(pf.Modulus) < floor {
		return v, fmt.Errorf("modulus %d is below %d: no honest chunk needs it", pf.Modulus, floor)
	}
	if v.Result, err = t.Compare(Tensor, pf); err != nil {
		return v, err
	}
	var tried, exponents int
	v.ControlHits, tried, exponents = s.controls(pf, t)
	lim := s.Decode
	if t.Prefill {
		lim = s.Prefill
	}
	if err := lim.Check(v.Result); err != nil {
		return v, err
	}
	if most := j.controlLimit(tried, exponents); v.ControlHits > most {
		return v, fmt.Errorf("%d of %d control points look like activations, limit %d: the polynomial is no interpolation", v.ControlHits, tried, most)
	}
	return v, nil
}

func (j *Judge) controlLimit(tried, exponents int) int {
	if j.s.MaxControlHits > 0 {
		return j.s.MaxControlHits
	}
	key := [2]int{tried, exponents}
	most, ok := j.most[key]
	if !ok {
		// An exponent has 256 of the 65497 values, or a few less.
		most = BinomialLimit(tried, min(1, 256*float64(exponents)/Prime), 1e-9)
		j.most[key] = most
	}
	return most
}

// controls evaluates the proof where it commits to nothing, and counts the
// values whose exponent is among those of the top-k, which are so many.
func (s *Strict) controls(pf *Proof, t *Top) (hits, tried, exponents int) {
	m := uint32(pf.Modulus)
	var exps [256]bool
	var taken [1 << 16 / 64]uint64
	for i, q := range t.Pos {
		exps[t.Bits[i]>>7&0xff] = true
		taken[q%m/64] |= 1 << (q % m % 64)
	}
	n := s.Controls
	if n == 0 {
		n = 256
	}
	n = min(max(n, 1), 4096)
	x := make([]uint32, 0, n)
	state := s.Seed ^ (uint64(t.Index)+1)*0x9e3779b97f4a7c15
	// Residues, not positions: a chunk smaller than the field has few positions
	// to spare, and the polynomial is defined on all of it.
	for range 4 * n {
		if len(x) == n {
			break
		}
		if r := uint32(splitmix(&state) % uint64(m)); taken[r/64]>>(r%64)&1 == 0 {
			x = append(x, r)
		}
	}
	w := make([]uint32, len(x))
	evaluate(w, pf.Coeffs, x)
	for _, v := range w {
		if exps[v>>7&0xff] {
			hits++
		}
	}
	for _, in := range exps {
		if in {
			exponents++
		}
	}
	return hits, len(x), exponents
}

// splitmix steps SplitMix64 (Steele, Lea and Flood 2014).
func splitmix(state *uint64) uint64 {
	*state += 0x9e3779b97f4a7c15
	return mix(*state)
}

// mix is SplitMix64's finalizer.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

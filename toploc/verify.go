package toploc

import (
	"fmt"
	"slices"
)

// A Result compares a proof with the verifier's own activations of a chunk.
type Result struct {
	ExpMismatches  int     `json:"exp_mismatches"`  // of k, how many exponents differ
	MantErrMean    float64 `json:"mant_err_mean"`   // over the others: |difference| of the 7 mantissa bits
	MantErrMedian  float64 `json:"mant_err_median"` // 2^64 where no exponent agrees
	SignMismatches int     `json:"sign_mismatches"` // among those whose exponent agrees; the reference never looks
}

// noneAgree is the reference's value for mean and median where no exponent agrees.
const noneAgree = 1 << 64

// Semantics says which of the reference's two verification paths to follow.
type Semantics int

// Tensor is the C++ path, the production one: positions are reduced by the
// proof's modulus and the median is the upper one. List is the Python path, right
// only for modulus 65497, with the mean of the middle two as median.
const (
	Tensor Semantics = iota
	List
)

// CompareChunk compares one proof with the activations of its chunk. It judges
// nothing: see Strict.
func CompareChunk(p Params, sem Semantics, pf *Proof, a []uint16) (Result, error) {
	if err := p.validate(); err != nil {
		return Result{}, err
	}
	pos, err := topK(a, p.TopK, p.Ties)
	if err != nil {
		return Result{}, err
	}
	return compare(sem, pf, pos, a)
}

func compare(sem Semantics, pf *Proof, pos []uint32, a []uint16) (Result, error) {
	if pf.Modulus == 0 {
		return Result{}, ErrNull
	}
	x, w := make([]uint32, len(pos)), make([]uint32, len(pos))
	for i, q := range pos {
		if sem == Tensor {
			q %= uint32(pf.Modulus)
		}
		x[i] = q % Prime
	}
	evaluate(w, pf.Coeffs, x)
	var r Result
	var hist [128]int // of mantissa errors
	n, sum := 0, 0
	for i, q := range pos {
		got, own := uint16(w[i]), a[q]
		if (got^own)&0x7f80 != 0 {
			r.ExpMismatches++
			continue
		}
		e := int(got&0x7f) - int(own&0x7f)
		if e < 0 {
			e = -e
		}
		hist[e]++
		sum += e
		n++
		if (got^own)&0x8000 != 0 {
			r.SignMismatches++
		}
	}
	if n == 0 {
		r.MantErrMean, r.MantErrMedian = noneAgree, noneAgree
		return r, nil
	}
	r.MantErrMean = float64(sum) / float64(n)
	r.MantErrMedian = float64(nth(&hist, n/2))
	if sem == List && n%2 == 0 {
		r.MantErrMedian = (float64(nth(&hist, n/2-1)) + r.MantErrMedian) / 2
	}
	return r, nil
}

// nth returns the i-th smallest of the values counted in hist.
func nth(hist *[128]int, i int) int {
	for v, c := range hist {
		if i -= c; i < 0 {
			return v
		}
	}
	return len(hist)
}

// Limits are the most that an honest chunk may deviate. They depend on model,
// dtype and engine: calibrate them.
type Limits struct {
	ExpMismatches  int     `json:"exp_mismatches"`
	MantErrMean    float64 `json:"mant_err_mean"`
	MantErrMedian  float64 `json:"mant_err_median"`
	SignMismatches int     `json:"sign_mismatches"`
}

// Published are the limits of the paper for bfloat16 (exponents 38, mean 10,
// median 8) with a sign limit of ours. A constant polynomial passes the first
// three; control points and the sign limit are what stops it.
var Published = Limits{ExpMismatches: 38, MantErrMean: 10, MantErrMedian: 8, SignMismatches: 4}

func (l Limits) check(r Result) error {
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

// Strict judges whole sequences.
type Strict struct {
	Params  Params
	Prefill Limits // for the chunk of the prompt: quieter than decoding
	Decode  Limits
	// MinModulus refuses moduli that no honest chunk needs. 0 means 65000.
	MinModulus int
	// Controls is how many positions outside the verifier's top-k are evaluated;
	// 0 means 256. Seed, which the prover must not know beforehand, draws them.
	Controls int
	Seed     uint64
	// MaxControlHits is how many of the controls may carry an exponent of the
	// verifier's top-k. The polynomial of an honest proof is pseudo-random there.
	// 0 means one in 16.
	MaxControlHits int
	// Seen, if not nil, is asked whether a record was in an earlier submission and
	// remembers it.
	Seen func(record []byte) bool
}

// A ChunkVerdict is what Strict says of one chunk.
type ChunkVerdict struct {
	Result
	ControlHits int    `json:"control_hits"`
	OK          bool   `json:"ok"`
	Reason      string `json:"reason,omitempty"`
}

// Verify judges the records of a sequence against the verifier's own activations
// of it (see Build). An error says why the submission as a whole fails; else
// every chunk has a verdict and the sequence passes if all are OK.
func (s Strict) Verify(records [][]byte, a []uint16, prompt int) ([]ChunkVerdict, error) {
	cs, err := s.Params.rows(a, prompt)
	if err != nil {
		return nil, err
	}
	if len(cs) == 0 {
		return nil, fmt.Errorf("a sequence of no chunks proves nothing")
	}
	if len(records) != len(cs) {
		return nil, fmt.Errorf("%d proofs for %d chunks", len(records), len(cs))
	}
	out := make([]ChunkVerdict, len(cs))
	for i, c := range cs {
		lim := s.Decode
		if c.Prefill {
			lim = s.Prefill
		}
		out[i], err = s.chunk(records[i], a[c.Start*s.Params.Hidden:(c.Start+c.Tokens)*s.Params.Hidden], lim, uint64(i))
		if err == nil && slices.ContainsFunc(records[:i], func(r []byte) bool { return slices.Equal(r, records[i]) }) {
			err = fmt.Errorf("the record of an earlier chunk, again")
		}
		if err == nil && s.Seen != nil && s.Seen(records[i]) {
			err = fmt.Errorf("the record of an earlier submission, again")
		}
		if err != nil {
			out[i].Reason = err.Error()
			continue
		}
		out[i].OK = true
	}
	return out, nil
}

func (s Strict) chunk(record []byte, a []uint16, lim Limits, chunk uint64) (v ChunkVerdict, err error) {
	v.MantErrMean, v.MantErrMedian, v.ExpMismatches = noneAgree, noneAgree, s.Params.TopK
	pf, err := ParseProof(record, s.Params.TopK)
	if err != nil {
		return v, err
	}
	floor := s.MinModulus
	if floor == 0 {
		floor = 65000
	}
	if int(pf.Modulus) < floor {
		return v, fmt.Errorf("modulus %d is below %d: no honest chunk needs it", pf.Modulus, floor)
	}
	pos, err := topK(a, s.Params.TopK, s.Params.Ties)
	if err != nil {
		return v, err
	}
	if v.Result, err = compare(Tensor, pf, pos, a); err != nil {
		return v, err
	}
	var tried int
	v.ControlHits, tried = s.controls(pf, pos, a, chunk)
	if err := lim.check(v.Result); err != nil {
		return v, err
	}
	most := s.MaxControlHits
	if most == 0 {
		most = max(1, tried/16)
	}
	if v.ControlHits > most {
		return v, fmt.Errorf("%d of %d control points look like activations, limit %d: the polynomial is no interpolation", v.ControlHits, tried, most)
	}
	return v, nil
}

// controls evaluates the proof where it commits to nothing, and counts the
// values whose exponent is among those of the top-k.
func (s Strict) controls(pf *Proof, pos []uint32, a []uint16, chunk uint64) (hits, tried int) {
	m := uint32(pf.Modulus)
	var exps [256]bool
	taken := make(map[uint32]bool, len(pos))
	for _, q := range pos {
		exps[a[q]>>7&0xff] = true
		taken[q%m] = true
	}
	n := s.Controls
	if n == 0 {
		n = 256
	}
	x := make([]uint32, 0, n)
	state := s.Seed ^ (chunk+1)*0x9e3779b97f4a7c15
	// Residues, not positions: a chunk smaller than the field has few positions
	// to spare, and the polynomial is defined on all of it.
	for range 4 * n {
		if len(x) == n {
			break
		}
		if r := uint32(splitmix(&state) % uint64(m)); !taken[r] {
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
	return hits, len(x)
}

// splitmix steps SplitMix64 (Steele, Lea and Flood 2014).
func splitmix(state *uint64) uint64 {
	*state += 0x9e3779b97f4a7c15
	z := *state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

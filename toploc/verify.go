package toploc

import "fmt"

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

// Null is the result of a null proof, or of one with which nothing agrees.
func Null(k int) Result {
	return Result{ExpMismatches: k, MantErrMean: noneAgree, MantErrMedian: noneAgree}
}

// CompareChunk compares one proof with the activations of its chunk. It judges
// nothing: see Strict.
func CompareChunk(p Params, sem Semantics, pf *Proof, a []uint16) (Result, error) {
	if err := p.validate(); err != nil {
		return Result{}, err
	}
	pos, bits, err := topK(a, p.TopK, p.Ties)
	if err != nil {
		return Result{}, err
	}
	return compare(sem, pf, pos, bits)
}

func compare(sem Semantics, pf *Proof, pos []uint32, bits []uint16) (Result, error) {
	if pf.Modulus == 0 {
		if sem == List { // as the Python path does
			return Null(len(pos)), nil
		}
		return Result{}, ErrNull
	}
	for i, c := range pf.Coeffs {
		if c >= Prime {
			return Result{}, fmt.Errorf("coefficient %d is %d, outside the field of %d", i, c, Prime)
		}
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
	for i, own := range bits {
		got := uint16(w[i])
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

package calibrate

import "github.com/shoalnet/shoal/toploc"

// A Rate is how often something happened, with Clopper and Pearson's bounds on
// its probability.
type Rate struct {
	N     int     `json:"n"`
	K     int     `json:"k"`
	Lower float64 `json:"lower"`
	Upper float64 `json:"upper"`
}

// NewRate bounds the probability of what happened in k of n independent trials:
// it is above Upper, or below Lower, in a share 1-confidence of all experiments at
// most (each bound by itself is one-sided).
func NewRate(k, n int, confidence float64) Rate {
	r := Rate{N: n, K: k, Upper: 1}
	if n == 0 {
		return r
	}
	alpha := 1 - confidence
	if k < n { // P(X ≤ k) = alpha
		r.Upper = root(func(p float64) bool { return 1-toploc.BinomialTail(n, k, p) <= alpha })
	}
	if k > 0 { // P(X ≥ k) = alpha
		r.Lower = root(func(p float64) bool { return toploc.BinomialTail(n, k-1, p) >= alpha })
	}
	return r
}

// root is the least p in [0, 1] at which above holds.
func root(above func(float64) bool) float64 {
	lo, hi := 0.0, 1.0
	for range 60 {
		if p := (lo + hi) / 2; above(p) {
			hi = p
		} else {
			lo = p
		}
	}
	return hi
}

package toploc

import (
	"fmt"
	"math"
	"slices"
)

// A RankVerdict says whether tokens were drawn from the verifier's distributions.
//
// If they were, the rank of each (the probability of all that is less likely, and a
// random share of its own) is uniform whatever the text. Tokens of another model are
// too often unlikely ones, those of a lower temperature too seldom.
type RankVerdict struct {
	KS       float64 `json:"ks"` // distance of the ranks' distribution from uniform
	KSMost   float64 `json:"ks_limit"`
	Rare     int     `json:"rare"` // tokens out of the least likely hundredth
	RareMost int     `json:"rare_limit"`
}

// TestRanks tests ranks for being uniform. An honest prover fails either test with
// a probability of at most alpha: the distance from uniform (Kolmogorov-Smirnov) by
// the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart, P(D > d) ≤
// 2·exp(-2nd²), the count of rare ones by the binomial.
func TestRanks(ranks []float64, alpha float64) RankVerdict {
	const rare = 0.01
	n := len(ranks)
	v := RankVerdict{RareMost: BinomialLimit(n, rare, alpha), KSMost: 1}
	if n == 0 {
		return v
	}
	v.KSMost = math.Sqrt(math.Log(2/alpha) / float64(2*n))
	for i, u := range slices.Sorted(slices.Values(ranks)) {
		v.KS = max(v.KS, u-float64(i)/float64(n), float64(i+1)/float64(n)-u)
		if u < rare {
			v.Rare++
		}
	}
	return v
}

// Check returns what is over a limit, nil if nothing is.
func (v RankVerdict) Check() error {
	switch {
	case v.Rare > v.RareMost:
		return fmt.Errorf("%d tokens are out of the least likely hundredth, limit %d: another model drew them", v.Rare, v.RareMost)
	case v.KS > v.KSMost:
		return fmt.Errorf("the tokens' ranks are %.3g from uniform, limit %.3g: another model or temperature drew them", v.KS, v.KSMost)
	}
	return nil
}

// BinomialTail returns P(X > m) for X of n trials of probability p.
func BinomialTail(n, m int, p float64) float64 {
	switch {
	case m >= n || p <= 0:
		return 0
	case m < 0 || p >= 1:
		return 1
	}
	ln := func(x int) float64 { v, _ := math.Lgamma(float64(x) + 1); return v }
	term := func(k int) float64 {
		return math.Exp(ln(n) - ln(k) - ln(n-k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
	}
	var sum float64
	if float64(m) < float64(n)*p { // the lower side is the smaller one
		for k := m; k >= 0; k-- {
			t := term(k)
			if sum += t; t < sum*1e-17 {
				break
			}
		}
		return max(0, 1-sum)
	}
	for k := m + 1; k <= n; k++ {
		t := term(k)
		if sum += t; t < sum*1e-17 {
			break
		}
	}
	return min(1, sum)
}

// BinomialLimit returns the least m with P(X > m) ≤ alpha for X of n trials of
// probability p.
func BinomialLimit(n int, p, alpha float64) int {
	lo, hi := 0, n
	for lo < hi {
		if m := (lo + hi) / 2; BinomialTail(n, m, p) <= alpha {
			hi = m
		} else {
			lo = m + 1
		}
	}
	return lo
}

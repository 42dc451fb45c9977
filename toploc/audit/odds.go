package audit

import "math"

// Detection is the probability that at least one of so many honest validators
// looks at a faked segment within so many rounds, where the cheat fakes that share of
// the segments of each of its deltas (0 to 1) and every validator audits a delta with
// probability rate (parts per 10,000), one segment of it:
//
//	1 − (1 − rate·share)^(validators·rounds)
//
// Choices are independent: each coin's secret is new each round, and nobody's but its
// own validator's before it is used.
func Detection(rate uint64, share float64, validators, rounds int) float64 {
	p := float64(min(rate, 10_000)) / 10_000 * min(max(share, 0), 1)
	return -math.Expm1(float64(max(validators, 0)) * float64(max(rounds, 0)) * math.Log1p(-p))
}

// RoundsUntil returns after how many rounds of cheating Detection reaches a
// confidence below 1; 0 where it never does.
func RoundsUntil(rate uint64, share float64, validators int, confidence float64) int {
	p := Detection(rate, share, validators, 1)
	switch {
	case p <= 0 || confidence >= 1 && p < 1:
		return 0
	case p >= 1:
		return 1
	}
	return max(1, int(math.Ceil(math.Log1p(-confidence)/math.Log1p(-p)-1e-9)))
}

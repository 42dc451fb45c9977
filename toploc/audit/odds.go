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

// What a validator that does not do what it owes costs itself: each audit owed and missed
// adds MissCost to its account in the roster, each that it answers takes one away, and at
// MissLimit it is removed: ten in a row do, and in the long run whoever misses more
// than a third. One that misses one in ten by accident is removed with probability 5e-5
// in 20,000 audits (TestForgiven).
const (
	MissCost  = 2
	MissLimit = 20
)

// Miss returns the account after one more audit owed.
func Miss(account uint64, missed bool) uint64 {
	if missed {
		return account + MissCost
	}
	return account - min(account, 1)
}

// Removed is the probability that a validator that misses each audit owed with
// probability miss is removed within so many.
func Removed(miss float64, audits int) float64 {
	at, gone := make([]float64, MissLimit), 0.0
	at[0] = 1
	for range audits {
		next := make([]float64, MissLimit)
		for a, p := range at {
			next[Miss(uint64(a), false)] += p * (1 - miss)
			if b := Miss(uint64(a), true); b < MissLimit {
				next[b] += p * miss
			} else {
				gone += p * miss
			}
		}
		at = next
	}
	return gone
}

// SilentUntil returns after how many rounds of work a validator that never answers is
// removed with that confidence below 1, where so many trainers each bring a delta a round;
// 0 where it never is. The audits are counted when their window ends: the removal
// itself comes Window + 2 rounds later.
func SilentUntil(rate uint64, trainers int, confidence float64) int {
	owes := Detection(rate, 1, trainers, 1) // an audit, of one round
	if owes <= 0 || confidence >= 1 {
		return 0
	}
	// at is how likely it has missed so many.
	const need = (MissLimit + MissCost - 1) / MissCost
	at, gone := make([]float64, need), 0.0
	at[0] = 1
	for r := 1; r < 1<<20; r++ {
		gone += at[need-1] * owes
		for k := need - 1; k >= 0; k-- {
			at[k] *= 1 - owes
			if k > 0 {
				at[k] += at[k-1] * owes
			}
		}
		if gone >= confidence {
			return r
		}
	}
	return 0
}

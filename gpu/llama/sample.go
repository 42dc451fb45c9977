package llama

import (
	"fmt"
	"math"
	"slices"
)

// A sampler picks tokens. Its randomness is a function of (seed, token number).
type sampler struct {
	opts GenerateOptions
	heap []int32 // the TopK best so far, worst first
	prob []float64

	order []int32   // tokens in question, the likeliest first
	seen  []bool    // by token: the text has it
	count []uint32  // by token: how often it was written
	raw   []float32 // logits before penalties
}

// penalizes says whether the text so far changes logits.
func (o *GenerateOptions) penalizes() bool {
	return o.Repetition > 0 && o.Repetition != 1 || o.Frequency != 0 || o.Presence != 0
}

// greedy says whether the likeliest token is taken.
func (o *GenerateOptions) greedy() bool { return o.Temperature == 0 || o.TopK == 1 }

// penalize takes note of ids, which are of the prompt or were written, and
// lowers the logits of tokens that the text has. It returns a copy of the logits
// as they were.
func (s *sampler) penalize(logits []float32, ids []int32, written bool) []float32 {
	if s.seen == nil {
		s.seen, s.count = make([]bool, len(logits)), make([]uint32, len(logits))
	}
	for _, id := range ids {
		s.seen[id] = true
		if written {
			s.count[id]++
		}
	}
	s.raw = append(s.raw[:0], logits...)
	r := s.opts.Repetition
	for id, z := range logits {
		if !s.seen[id] {
			continue
		}
		x := float64(z)
		if r > 0 && x > 0 {
			x /= r
		} else if r > 0 {
			x *= r
		}
		if n := float64(s.count[id]); n > 0 {
			x -= float64(n*s.opts.Frequency) + s.opts.Presence
		}
		logits[id] = float32(x)
	}
	return s.raw
}

// logSum is log(sum(exp(logits))).
func logSum(logits []float32) float64 {
	most := float64(slices.Max(logits))
	sum := 0.0
	for _, z := range logits {
		sum += math.Exp(float64(z) - most)
	}
	return most + math.Log(sum)
}

// nucleus clears the probabilities, which add up to sum, of all tokens but the
// fewest likeliest that have share of it (Holtzman et al. 2020, section 3.1),
// and returns what is left.
func (s *sampler) nucleus(logits []float32, sum, share float64) float64 {
	s.order = s.order[:0]
	for id, p := range s.prob {
		if p > 0 {
			s.order = append(s.order, int32(id))
		}
	}
	slices.SortFunc(s.order, func(a, b int32) int {
		if less(logits, b, a) {
			return -1
		}
		return 1
	})
	left := 0.0
	for _, id := range s.order {
		if left >= share*sum {
			s.prob[id] = 0
			continue
		}
		left += s.prob[id]
	}
	return left
}

// greatest is the likeliest token; ties go to the lower id.
func greatest(logits []float32) (int32, error) {
	best := 0
	for id, z := range logits {
		if z-z != 0 { // it is not finite
			return 0, fmt.Errorf("logit of token %d is %g: %w", id, z, ErrNotFinite)
		}
		if z > logits[best] {
			best = id
		}
	}
	return int32(best), nil
}

// pick chooses token i after logits, of which best is the greatest, or below 0 where that is not known.
func (s *sampler) pick(logits []float32, best int32, i uint64) (int32, error) {
	if best < 0 {
		var err error
		if best, err = greatest(logits); err != nil {
			return 0, err
		}
	}
	if s.opts.greedy() {
		return best, nil
	}
	kept := func(int) bool { return true }
	if s.opts.TopK > 0 && s.opts.TopK < len(logits) {
		worst := s.cut(logits)
		kept = func(id int) bool { return !less(logits, int32(id), worst) }
	}
	if s.prob == nil {
		s.prob = make([]float64, len(logits))
	}
	var sum float64
	for id, z := range logits {
		if s.prob[id] = 0; kept(id) {
			s.prob[id] = math.Exp(float64(z-logits[best]) / s.opts.Temperature)
			sum += s.prob[id]
		}
	}
	if p := s.opts.TopP; p > 0 && p < 1 {
		sum = s.nucleus(logits, sum, p)
	}
	if s.opts.MinP > 0 { // the likeliest has probability 1 before the division by sum
		sum = 0
		for id, p := range s.prob {
			if p < s.opts.MinP {
				s.prob[id] = 0
			}
			sum += s.prob[id]
		}
	}
	// 53 bits make a number in [0, 1).
	at := float64(random(mix(s.opts.Seed), i)>>11) / (1 << 53) * sum
	for id, p := range s.prob {
		if at -= p; p > 0 && at < 0 {
			return int32(id), nil
		}
	}
	return best, nil // rounding used up the last token's share
}

// less orders tokens: smaller logits first, of equals the higher id.
func less(logits []float32, a, b int32) bool {
	return logits[a] < logits[b] || (logits[a] == logits[b] && a > b)
}

// cut is the worst of the TopK best tokens: the root of a heap of them.
func (s *sampler) cut(logits []float32) int32 {
	h := s.heap[:0]
	for id := range int32(len(logits)) {
		switch {
		case len(h) < s.opts.TopK:
			h = append(h, id)
			for c := len(h) - 1; c > 0; {
				p := (c - 1) / 2
				if !less(logits, h[c], h[p]) {
					break
				}
				h[c], h[p] = h[p], h[c]
				c = p
			}
		case less(logits, h[0], id):
			h[0] = id
			for p := 0; ; {
				c := 2*p + 1
				if c >= len(h) {
					break
				}
				if c+1 < len(h) && less(logits, h[c+1], h[c]) {
					c++
				}
				if !less(logits, h[c], h[p]) {
					break
				}
				h[c], h[p] = h[p], h[c]
				p = c
			}
		}
	}
	s.heap = h
	return h[0]
}

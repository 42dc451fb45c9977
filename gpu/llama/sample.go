package llama

import (
	"fmt"
	"math"
)

// A sampler picks tokens. Its randomness is a function of (seed, token number).
type sampler struct {
	opts GenerateOptions
	heap []int32 // the TopK best so far, worst first
	prob []float64
}

// pick chooses a token after logits. Ties go to the lower id.
func (s *sampler) pick(logits []float32, i uint64) (int32, error) {
	best := 0
	for id, z := range logits {
		if !finite(float64(z)) {
			return 0, fmt.Errorf("logit of token %d is %g: %w", id, z, ErrNotFinite)
		}
		if z > logits[best] {
			best = id
		}
	}
	if s.opts.Temperature == 0 || s.opts.TopK == 1 {
		return int32(best), nil
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
	// 53 bits make a number in [0, 1).
	at := float64(random(mix(s.opts.Seed), i)>>11) / (1 << 53) * sum
	for id, p := range s.prob {
		if at -= p; p > 0 && at < 0 {
			return int32(id), nil
		}
	}
	return int32(best), nil // rounding used up the last token's share
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

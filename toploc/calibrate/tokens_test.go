package calibrate

import (
	"testing"

	"github.com/shoalnet/shoal/toploc"
)

// Near-ties come in clusters: one sequence has as many as all others together. A rate
// of all tokens would have it rejected, and others like it that were not seen.
func TestCountRate(t *testing.T) {
	const tokens, alpha = 256, 2.5e-7
	for name, counts := range map[string][]int{
		"clustered": {0, 1, 0, 2, 0, 0, 16, 0, 3, 0, 0, 1},
		"even":      {2, 3, 2, 3, 2, 2, 3, 3},
		"none":      {0, 0, 0, 0},
	} {
		most, sum := 0, 0
		for _, c := range counts {
			most, sum = max(most, c), sum+c
		}
		r := countRate(counts, tokens, alpha, 0.95)
		if limit := toploc.BinomialLimit(tokens, r, alpha); limit < most+most/2+2 {
			t.Errorf("%s: at a rate of %.4f %d tokens pass, an honest sequence has %d", name, r, limit, most)
		}
		if low := NewRate(sum, tokens*len(counts), 0.95).Upper; r < low || r > max(3*low, 0.1) {
			t.Errorf("%s: a rate of %.4f, that of all tokens is up to %.4f", name, r, low)
		}
	}
}

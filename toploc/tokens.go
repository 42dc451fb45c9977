package toploc

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// TokenLimits say how a sequence's tokens may deviate from what the verifier's
// model, sampled as agreed, would have drawn. Margins depend on model and engine:
// calibrate them. A false reject of an honest sequence has a probability of at most
// Alpha for each of the three tests that count, where they say so.
type TokenLimits struct {
	// Margin is a difference of scores that honest drift explains. More tokens
	// beyond it than Rate explains are rejected: the count's limit is the least m
	// with P(Binomial(n, Rate) > m) ≤ Alpha.
	Margin float64 `json:"margin"`
	Rate   float64 `json:"rate"`
	// Outright is a margin that no honest token has: one such is too many.
	Outright float64 `json:"outright"`
	// Alpha is the false-reject bound of each counting test. 0 means 1e-6.
	Alpha float64 `json:"alpha"`
	// MinEOS is the least probability, under the verifier's model at the agreed
	// temperature, of the token that ended the text (INTELLECT-2, section 3.3:
	// 0.1). It does not apply where the seeded choice is that token.
	MinEOS float64 `json:"min_eos"`
}

// A TokenRule is how the tokens of a job are to be drawn.
type TokenRule struct {
	Sampler *Sampler // with the job's temperature
	// Unseeded says that the prover drew with randomness of its own: then only
	// distributions can be checked, not choices.
	Unseeded bool
	EOS      []int32 // tokens that end a text
	Max      int     // most tokens generated, the one that ends the text included
	Limits   TokenLimits
	// Seed, which the prover must not know, smooths the rank test.
	Seed uint64
}

// A TokenVerdict is what a TokenJudge says of a sequence.
type TokenVerdict struct {
	Tokens     int     `json:"tokens"`
	Differ     int     `json:"differ"`       // tokens other than the one that had to be drawn
	Beyond     int     `json:"beyond"`       // of them, beyond Margin
	BeyondMost int     `json:"beyond_limit"` // and how many may be
	Worst      float64 `json:"worst_margin"`
	RankVerdict
	MeanProb float64 `json:"mean_probability"`
	Ended    string  `json:"ended"` // "eos", "length" or "cut"
	EndProb  float64 `json:"end_probability"`
	OK       bool    `json:"ok"`
	Reason   string  `json:"reason,omitempty"`
}

// A TokenJudge checks the tokens of one sequence as the verifier's logits come.
type TokenJudge struct {
	r     TokenRule
	v     TokenVerdict
	ranks []float64
	end   bool // an EOS was seen
	drawn bool // and the seeded choice was it
}

// Judge begins a sequence.
func (r TokenRule) Judge() (*TokenJudge, error) {
	if r.Limits.Alpha == 0 {
		r.Limits.Alpha = 1e-6
	}
	switch {
	case r.Sampler == nil:
		return nil, errors.New("no sampler: the agreed temperature is not known")
	case r.Max < 1:
		return nil, fmt.Errorf("at most %d tokens", r.Max)
	}
	if err := r.Limits.validate(); err != nil {
		return nil, err
	}
	return &TokenJudge{r: r}, nil
}

func (l TokenLimits) validate() error {
	switch {
	case !(l.Margin >= 0) || !(l.Outright >= l.Margin):
		return fmt.Errorf("margins %g and %g: want 0 ≤ margin ≤ outright", l.Margin, l.Outright)
	case !(l.Rate >= 0 && l.Rate <= 1) || !(l.Alpha >= 0 && l.Alpha < 1) || !(l.MinEOS >= 0 && l.MinEOS <= 1):
		return errors.New("rate, alpha and min_eos are probabilities")
	}
	return nil
}

// Push takes the next token generated and the verifier's logits at its position.
func (j *TokenJudge) Push(token int32, logits []float32) error {
	if j.end {
		return fmt.Errorf("token %d follows the one that ends the text", j.v.Tokens)
	}
	if j.v.Tokens == j.r.Max {
		return fmt.Errorf("more than the %d tokens agreed", j.r.Max)
	}
	pos := uint64(j.v.Tokens)
	c, err := j.r.Sampler.Check(pos, logits, token)
	if err != nil {
		return fmt.Errorf("token %d: %w", j.v.Tokens, err)
	}
	j.v.Tokens++
	if c.Token != token {
		j.v.Differ++
		j.v.Worst = max(j.v.Worst, c.Margin)
		if c.Margin > j.r.Limits.Margin {
			j.v.Beyond++
		}
	}
	p, below := j.probability(token, logits)
	j.v.MeanProb += p
	state := j.r.Seed ^ mix(pos)
	u := below + p*float64(splitmix(&state)>>11)/(1<<53)
	j.ranks = append(j.ranks, u)
	if slices.Contains(j.r.EOS, token) {
		j.end, j.drawn, j.v.EndProb = true, c.Token == token, p
	}
	return nil
}

// probability returns the token's and that of all that are less likely, ties by id.
func (j *TokenJudge) probability(token int32, logits []float32) (p, below float64) {
	t := j.r.Sampler.temperature
	if t == 0 {
		t = 1
	}
	top := float64(slices.Max(logits))
	var sum float64
	own := logits[token]
	for id, z := range logits {
		e := math.Exp((float64(z) - top) / t)
		sum += e
		if z < own || z == own && id < int(token) {
			below += e
		}
	}
	return math.Exp((float64(own)-top)/t) / sum, below / sum
}

// Verdict ends the sequence.
func (j *TokenJudge) Verdict() TokenVerdict {
	v, l, n := j.v, j.r.Limits, j.v.Tokens
	if n == 0 {
		v.Ended, v.Reason = "cut", "no token was generated"
		return v
	}
	v.MeanProb /= float64(n)
	v.BeyondMost = BinomialLimit(n, l.Rate, l.Alpha)
	v.RankVerdict = TestRanks(j.ranks, l.Alpha)
	v.Ended = "cut"
	if n == j.r.Max {
		v.Ended = "length"
	}
	if j.end {
		v.Ended = "eos"
	}
	greedy := j.r.Sampler.temperature == 0
	seeded := greedy || !j.r.Unseeded
	switch {
	case v.Ended == "cut":
		v.Reason = fmt.Sprintf("the text ends after %d of %d tokens without an end token", n, j.r.Max)
	case seeded && v.Worst > l.Outright:
		v.Reason = fmt.Sprintf("a token is %.3g from the one that had to be drawn, limit %.3g", v.Worst, l.Outright)
	case seeded && v.Beyond > v.BeyondMost:
		v.Reason = fmt.Sprintf("%d of %d tokens are not those that had to be drawn, limit %d", v.Beyond, n, v.BeyondMost)
	case !greedy && v.RankVerdict.Check() != nil:
		v.Reason = v.RankVerdict.Check().Error()
	case j.end && !(seeded && j.drawn) && v.EndProb < l.MinEOS:
		v.Reason = fmt.Sprintf("the text ends where the end has a probability of %.3g, limit %.3g", v.EndProb, l.MinEOS)
	default:
		v.OK = true
	}
	return v
}

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

// Ranks returns those of the tokens so far, in order, to be tested together with
// those of other sequences: the more there are, the smaller a difference shows.
func (j *TokenJudge) Ranks() []float64 { return j.ranks }

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

package toploc

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// TokenLimits say how a sequence's tokens may deviate from what the verifier's
// model, sampled as agreed, would have drawn. Margins depend on model and engine:
// calibrate them.
type TokenLimits struct {
	// Beyond gives rates at which honest drift makes tokens exceed margins. More
	// of n than that explains are rejected: the limit is the least m with
	// P(Binomial(n, Rate) > m) ≤ Alpha/len(Beyond). Low margins are exceeded by many
	// tokens of a wrong sampler, high ones by few but hardly by any honest one.
	Beyond []MarginRate `json:"beyond"`
	// Outright is a margin that no honest token has: one such is too many.
	Outright float64 `json:"outright"`
	// Alpha bounds the probability that an honest sequence fails for its ranks'
	// distance from uniform, or for its rare tokens, each. For its margins' count it
	// does so if tokens are independent and rates right; near-ties come in clusters, so
	// that calibration allows for higher rates, and measures. 0 means 1e-6.
	Alpha float64 `json:"alpha"`
	// MinEOS is the least probability, under the verifier's model at the agreed
	// temperature, of the token that ended the text (INTELLECT-2, section 3.3:
	// 0.1). It does not apply where the seeded choice is that token.
	MinEOS float64 `json:"min_eos"`
}

// MarginRate says how often an honest token's margin exceeds a margin.
type MarginRate struct {
	Margin float64 `json:"margin"`
	Rate   float64 `json:"rate"`
}

// maxBeyond is the most margins that are counted.
const maxBeyond = 16

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
	Tokens int     `json:"tokens"`
	Differ int     `json:"differ"` // tokens other than the one that had to be drawn
	Worst  float64 `json:"worst_margin"`
	Beyond []struct {
		Tokens int `json:"tokens"` // beyond a margin of the limits
		Most   int `json:"limit"`
	} `json:"beyond"`
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
	j := &TokenJudge{r: r}
	j.v.Beyond = slices.Grow(j.v.Beyond, len(r.Limits.Beyond))[:len(r.Limits.Beyond)]
	return j, nil
}

func (l TokenLimits) validate() error {
	switch {
	case !(l.Outright >= 0):
		return fmt.Errorf("outright margin %g: want 0 or more", l.Outright)
	case len(l.Beyond) > maxBeyond:
		return fmt.Errorf("%d margins, at most %d", len(l.Beyond), maxBeyond)
	case !(l.Alpha >= 0 && l.Alpha < 1) || !(l.MinEOS >= 0 && l.MinEOS <= 1):
		return errors.New("alpha and min_eos are probabilities")
	}
	for _, b := range l.Beyond {
		if !(b.Margin >= 0) || !(b.Rate >= 0 && b.Rate <= 1) {
			return fmt.Errorf("margin %g at a rate of %g: want 0 or more, and a probability", b.Margin, b.Rate)
		}
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
		for i, b := range j.r.Limits.Beyond {
			if c.Margin > b.Margin {
				j.v.Beyond[i].Tokens++
			}
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

// Ranks returns those of the tokens so far, in order, to be tested together with
// those of other sequences: the more there are, the smaller a difference shows.
func (j *TokenJudge) Ranks() []float64 { return j.ranks }

// Verdict ends the sequence.
func (j *TokenJudge) Verdict() TokenVerdict {
	v, l, n := j.v, j.r.Limits, j.v.Tokens
	if n == 0 {
		v.Ended, v.Reason = "cut", "no token was generated"
		return v
	}
	v.MeanProb /= float64(n)
	v.Beyond = slices.Clone(v.Beyond)
	counted := -1
	for i, b := range l.Beyond {
		v.Beyond[i].Most = BinomialLimit(n, b.Rate, l.Alpha/float64(len(l.Beyond)))
		if v.Beyond[i].Tokens > v.Beyond[i].Most {
			counted = i
		}
	}
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
	case seeded && counted >= 0:
		b := v.Beyond[counted]
		v.Reason = fmt.Sprintf("%d of %d tokens are more than %.3g from those that had to be drawn, limit %d", b.Tokens, n, l.Beyond[counted].Margin, b.Most)
	case !greedy && v.RankVerdict.Check() != nil:
		v.Reason = v.RankVerdict.Check().Error()
	case j.end && !(seeded && j.drawn) && v.EndProb < l.MinEOS:
		v.Reason = fmt.Sprintf("the text ends where the end has a probability of %.3g, limit %.3g", v.EndProb, l.MinEOS)
	default:
		v.OK = true
	}
	return v
}

package hf

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
)

// The kinds of RopeScaling.
const (
	RopeLinear  = "linear"   // positions divided by Factor
	RopeLlama3  = "llama3"   // low frequencies divided by Factor (Llama 3.1)
	RopeYarn    = "yarn"     // low frequencies divided by Factor, queries and keys made longer (Peng et al. 2023)
	RopeDynamic = "dynamic"  // a larger base for texts longer than MaxPositionEmbeddings (ibid., section 3.3)
	RopeLong    = "longrope" // frequencies divided one by one (Ding et al. 2024)
)

// A RopeScaling stretches rotary frequencies beyond the length that a model was
// first trained on, as transformers does. Rotary has the formulas.
type RopeScaling struct {
	Kind              string
	Factor            float64   // at least 1
	LowFreq, HighFreq float64   // llama3
	Original          int       // llama3, yarn, longrope: tokens
	Attention         float64   // yarn, longrope: factor of queries and keys; 0 is the kind's own
	BetaFast          float64   // yarn: turns within Original from which on a frequency stays; 0 is 32
	BetaSlow          float64   // yarn: turns up to which it is divided; 0 is 1
	MScale, MScaleAll float64   // yarn: of the factor of queries and keys, where both are above 0
	Exact             bool      // yarn: the bounds that the betas mean are no whole pairs ("truncate": false)
	Short, Long       []float64 // longrope: d/2 divisors, of texts of up to Original tokens and of longer ones
}

func (r *RopeScaling) validate(c *Config) error {
	if r == nil {
		return nil
	}
	for _, f := range []struct {
		name string
		x    float64
	}{{"attention_factor", r.Attention}, {"beta_fast", r.BetaFast}, {"beta_slow", r.BetaSlow}, {"mscale", r.MScale}, {"mscale_all_dim", r.MScaleAll}} {
		if f.x != 0 && !(f.x >= 1e-3 && f.x <= 1e6) {
			return fmt.Errorf("%s: %g is not in [1e-3, 1e6]", f.name, f.x)
		}
	}
	short, long, d := len(r.Short), len(r.Long), c.HeadSize()
	switch kind := r.Kind; {
	case kind != RopeLinear && kind != RopeLlama3 && kind != RopeYarn && kind != RopeDynamic && kind != RopeLong:
		return unknownRope(kind)
	case !(r.Factor >= 1 && r.Factor <= 1e6):
		return fmt.Errorf("factor: %g is not in [1, 1e6]", r.Factor)
	case r.foreign() != "":
		return fmt.Errorf("%s: %s has none", r.foreign(), kind)
	case kind == RopeLlama3 && !(r.LowFreq > 0 && r.LowFreq < r.HighFreq && r.HighFreq <= 1e6):
		name := "low_freq_factor"
		if r.LowFreq > 0 && !(r.HighFreq > 0 && r.HighFreq <= 1e6) {
			name = "high_freq_factor"
		}
		return fmt.Errorf("%s: low_freq_factor is %g and high_freq_factor %g, want 0 < low < high <= 1e6", name, r.LowFreq, r.HighFreq)
	case kind != RopeLinear && kind != RopeDynamic && (r.Original < 1 || r.Original > MaxPositions):
		return fmt.Errorf("original_max_position_embeddings: %d is not in 1..%d", r.Original, MaxPositions)
	case kind == RopeYarn && c.RopeTheta <= 1:
		return fmt.Errorf("rope_type: yarn with rope_theta %g, want above 1", c.RopeTheta)
	case kind == RopeDynamic && d < 4:
		return fmt.Errorf("rope_type: dynamic with head_dim %d, want 4 or more", d)
	case kind == RopeLong && short != d/2:
		return fmt.Errorf("short_factor: %d numbers, want half of head_dim, %d", short, d/2)
	case kind == RopeLong && long != d/2:
		return fmt.Errorf("long_factor: %d numbers, want half of head_dim, %d", long, d/2)
	case kind == RopeLong && r.Original < 2:
		return errors.New("original_max_position_embeddings: 1, longrope wants 2 or more")
	}
	for i := range r.Short {
		for j, x := range []float64{r.Short[i], r.Long[i]} {
			if !(x >= 0.05 && x <= 1e6) { // angles must stay in sincos's range
				return fmt.Errorf("%s: %g is not in [0.05, 1e6]", [...]string{"short_factor", "long_factor"}[j], x)
			}
		}
	}
	return nil
}

func unknownRope(kind string) error {
	return fmt.Errorf("rope_type: %.40q is not supported, only linear, dynamic, yarn, longrope and llama3", kind)
}

// only is r with what its kind knows.
func (r *RopeScaling) only() RopeScaling {
	s := RopeScaling{Kind: r.Kind, Factor: r.Factor}
	switch r.Kind {
	case RopeLlama3:
		s.LowFreq, s.HighFreq, s.Original = r.LowFreq, r.HighFreq, r.Original
	case RopeYarn:
		s.Original, s.Attention, s.BetaFast, s.BetaSlow = r.Original, r.Attention, r.BetaFast, r.BetaSlow
		s.MScale, s.MScaleAll, s.Exact = r.MScale, r.MScaleAll, r.Exact
	case RopeLong:
		s.Original, s.Attention, s.Short, s.Long = r.Original, r.Attention, r.Short, r.Long
	}
	return s
}

// foreign is the first thing that is set and that r's kind does not know, "" if none.
func (r *RopeScaling) foreign() string {
	s := r.only()
	switch {
	case r.LowFreq != s.LowFreq:
		return "low_freq_factor"
	case r.HighFreq != s.HighFreq:
		return "high_freq_factor"
	case r.Original != s.Original:
		return "original_max_position_embeddings"
	case r.Attention != s.Attention:
		return "attention_factor"
	case r.BetaFast != s.BetaFast:
		return "beta_fast"
	case r.BetaSlow != s.BetaSlow:
		return "beta_slow"
	case r.MScale != s.MScale:
		return "mscale"
	case r.MScaleAll != s.MScaleAll:
		return "mscale_all_dim"
	case r.Exact != s.Exact:
		return "truncate"
	case len(r.Short) != len(s.Short):
		return "short_factor"
	case len(r.Long) != len(s.Long):
		return "long_factor"
	}
	return ""
}

// Context is how many tokens a text may have: MaxPositionEmbeddings, but what
// yarn and dynamic stretch to where that is more.
func (c Config) Context() int {
	n := float64(c.MaxPositionEmbeddings)
	switch r := c.RopeScaling; {
	case r == nil:
	case r.Kind == RopeDynamic:
		n *= r.Factor
	case r.Kind == RopeYarn:
		n = max(n, float64(r.Original)*r.Factor)
	}
	return int(min(n, MaxPositions))
}

// RopeLength names the frequencies of a text of n tokens: texts with the same
// RopeLength have the same. It is 0 for all, but with longrope for those of more
// than Original tokens, and with dynamic for those of more than
// MaxPositionEmbeddings, each of whose lengths has its own. It never falls as n grows.
func (c Config) RopeLength(n int) int {
	switch r := c.RopeScaling; {
	case r == nil:
	case r.Kind == RopeLong && n > r.Original:
		return r.Original + 1
	case r.Kind == RopeDynamic && n > c.MaxPositionEmbeddings:
		return n
	}
	return 0
}

// Rotary returns RoPE's frequencies f_i in radians a position, one for each of
// the d/2 pairs of a head, and the factor of its cosines and sines, for one pass
// over n tokens. With b = RopeTheta, s = Factor, O = Original, L = max(n, MaxPositionEmbeddings)
//
//	plain     b^(-2i/d)
//	linear    plain/s
//	llama3    plain where it turns more than HighFreq times in O tokens, plain/s where less
//	          than LowFreq times, and between the two in proportion to the turns
//	yarn      γ·plain/s + (1-γ)·plain, where γ rises from 0 at the pair that turns BetaFast times in O
//	          tokens to 1 at the one that turns BetaSlow times (Peng et al. 2023, section 3.2)
//	dynamic   plain of the base b·(s·L/MaxPositionEmbeddings - s + 1)^(d/(d-2)) (section 3.3)
//	longrope  plain/Long[i], or plain/Short[i] where n <= O (Ding et al. 2024)
//
// yarn's factor is 0.1·ln(s) + 1 (section 3.4), or the quotient of those with
// MScale·ln(s) and MScaleAll·ln(s); longrope's is √(1 + ln(s)/ln(O)). All is
// rounded after every operation, so that every machine gets the same numbers.
func (c Config) Rotary(n int) (freqs []float64, scale float64) {
	half, r := c.HeadSize()/2, c.RopeScaling
	freqs, scale = make([]float64, half), 1
	// Frequency i is θ^(-i/half): powers of θ's root.
	root, power := nthRoot(c.RopeTheta, half), 1.0
	for i := range freqs {
		freqs[i] = 1 / power
		power *= root
	}
	switch {
	case r == nil:
	case r.Kind == RopeLinear || r.Kind == RopeLlama3:
		for i, f := range freqs {
			freqs[i] = r.scaled(f)
		}
	case r.Kind == RopeYarn:
		low, high := r.ramp(c.RopeTheta, 2*half)
		for i, f := range freqs {
			g := min(max((float64(i)-low)/(high-low), 0), 1)
			freqs[i] = float64(g*(f/r.Factor)) + float64((1-g)*f)
		}
		scale = r.attention()
	case r.Kind == RopeDynamic:
		if longest := c.MaxPositionEmbeddings; n > longest {
			// The base's factor to the power of -2i/d is that of -i/(d/2-1) without the exponent.
			root, power := nthRoot(float64(r.Factor*float64(n))/float64(longest)-(r.Factor-1), half-1), 1.0
			for i := range freqs {
				freqs[i] /= power
				power *= root
			}
		}
	case r.Kind == RopeLong:
		by := r.Short
		if n > r.Original {
			by = r.Long
		}
		for i := range freqs {
			freqs[i] /= by[i]
		}
		scale = r.attention()
	}
	return freqs, scale
}

// scaled is what linear and llama3 make of a frequency. With wavelength λ = 2π/f,
// llama3 leaves frequencies of λ < O/HighFreq, divides those of λ > O/LowFreq by
// Factor, and blends the two in O/λ between.
func (r *RopeScaling) scaled(f float64) float64 {
	low := f / r.Factor
	if r.Kind == RopeLinear {
		return low
	}
	waves := float64(float64(r.Original)*f) / (2 * math.Pi) // O/λ
	switch {
	case waves > r.HighFreq:
		return f
	case waves < r.LowFreq:
		return low
	}
	mix := (waves - r.LowFreq) / (r.HighFreq - r.LowFreq)
	return float64((1-mix)*low) + float64(mix*f)
}

// ramp is between which pairs of a head of d yarn's γ rises.
func (r *RopeScaling) ramp(base float64, d int) (low, high float64) {
	pair := func(turns, otherwise float64) float64 {
		if turns == 0 {
			turns = otherwise
		}
		return float64(float64(d)*ln(float64(r.Original)/float64(turns*(2*math.Pi)))) / float64(2*ln(base))
	}
	low, high = pair(r.BetaFast, 32), pair(r.BetaSlow, 1)
	if !r.Exact {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(d-1))
	if low == high {
		high += 0.001
	}
	return low, high
}

// attention is the factor of cosines and sines.
func (r *RopeScaling) attention() float64 {
	longer := func(m float64) float64 { return float64(float64(0.1*m)*ln(r.Factor)) + 1 }
	switch {
	case r.Attention != 0:
		return r.Attention
	case r.Kind == RopeLong:
		return math.Sqrt(1 + ln(r.Factor)/ln(float64(r.Original)))
	case r.MScale != 0 && r.MScaleAll != 0:
		return longer(r.MScale) / longer(r.MScaleAll)
	}
	return longer(1)
}

// nthRoot is the n-th root of x >= 1, by Newton's method from above.
func nthRoot(x float64, n int) float64 {
	r := x
	for {
		p := 1.0
		for range n - 1 {
			p *= r
		}
		var next float64
		if math.IsInf(p, 0) {
			next = float64(r * (1 - 1/float64(n)))
		} else {
			next = r - float64((r-x/p)/float64(n))
		}
		if !(next < r) {
			return r
		}
		r = next
	}
}

// ln is the natural logarithm of x > 0, from the series of the inverse
// hyperbolic tangent: math.Log is rounded in other places on other architectures.
func ln(x float64) float64 {
	f, e := math.Frexp(x)
	if f < math.Sqrt2/2 {
		f, e = 2*f, e-1
	}
	s := (f - 1) / (f + 1) // f = (1+s)/(1-s)
	z, sum := float64(s*s), 0.0
	for k := 25; k > 0; k -= 2 {
		sum = float64(sum*z) + 1/float64(k)
	}
	return float64(float64(e)*math.Ln2) + float64(2*float64(s*sum))
}

// ropeParameters is rope_scaling and, since transformers 5, rope_parameters.
type ropeParameters struct {
	Type      string    `json:"type,omitempty"`
	RopeType  string    `json:"rope_type,omitempty"`
	RopeTheta *float    `json:"rope_theta,omitempty"`
	Partial   *float    `json:"partial_rotary_factor,omitempty"`
	Factor    *float    `json:"factor,omitempty"`
	LowFreq   float     `json:"low_freq_factor,omitempty"`
	HighFreq  float     `json:"high_freq_factor,omitempty"`
	Original  int       `json:"original_max_position_embeddings,omitempty"`
	Attention *float    `json:"attention_factor,omitempty"`
	BetaFast  float     `json:"beta_fast,omitempty"`
	BetaSlow  float     `json:"beta_slow,omitempty"`
	MScale    float     `json:"mscale,omitempty"`
	MScaleAll float     `json:"mscale_all_dim,omitempty"`
	Truncate  *bool     `json:"truncate,omitempty"`
	Short     []float64 `json:"short_factor,omitempty"`
	Long      []float64 `json:"long_factor,omitempty"`

	Full    json.RawMessage `json:"full_attention,omitempty"` // parameters by kind of layer
	Sliding json.RawMessage `json:"sliding_attention,omitempty"`
}

// scaling is what r says besides the base; nil for the plain RoPE. What a kind does not
// know means nothing. Of what is missing, transformers 5 takes Original to be what the
// configuration says outside of r, or longest, its max_position_embeddings; yarn's and
// longrope's Factor to be the quotient of the two.
func (r *ropeParameters) scaling(longest, original int) (*RopeScaling, error) {
	if r == nil {
		return nil, nil
	}
	if err := whole(r.Partial); err != nil {
		return nil, err
	}
	if len(r.Full) > 0 || len(r.Sliding) > 0 {
		return nil, errors.New("full_attention: layers that differ are not supported")
	}
	kind := r.RopeType
	switch {
	case r.Type != "" && kind != "" && kind != r.Type:
		return nil, fmt.Errorf("type %.40q and rope_type %.40q contradict one another", r.Type, kind)
	case kind == "":
		kind = r.Type
	}
	s := &RopeScaling{Kind: kind, Factor: float64(or(r.Factor, 0)), LowFreq: float64(r.LowFreq), HighFreq: float64(r.HighFreq), Original: r.Original,
		Attention: float64(or(r.Attention, 0)), BetaFast: float64(r.BetaFast), BetaSlow: float64(r.BetaSlow),
		MScale: float64(r.MScale), MScaleAll: float64(r.MScaleAll), Exact: !or(r.Truncate, true), Short: r.Short, Long: r.Long}
	scaled := false
	switch kind {
	case "":
		if !reflect.DeepEqual(*s, RopeScaling{}) {
			return nil, errors.New("rope_type is missing")
		}
		return nil, nil
	case "default":
		return nil, nil
	case RopeYarn, RopeLong:
		scaled = true
	case RopeLinear, RopeDynamic, RopeLlama3:
	default:
		return nil, unknownRope(kind)
	}
	switch {
	case original != 0 && s.Original != 0 && s.Original != original:
		return nil, fmt.Errorf("original_max_position_embeddings: %d in one place and %d in another", original, s.Original)
	case original != 0:
		s.Original = original
	case s.Original == 0:
		s.Original = longest
	}
	switch {
	case scaled && r.Attention != nil && *r.Attention == 0:
		return nil, errors.New("attention_factor: 0 leaves nothing of queries and keys")
	case scaled && r.Factor == nil && s.Original > 0:
		s.Factor = float64(longest) / float64(s.Original)
		if kind == RopeLong {
			s.Factor = max(s.Factor, 1) // below, its queries and keys stay as they are
		}
	}
	if *s = s.only(); len(s.Short)+len(s.Long) == 0 {
		s.Short, s.Long = nil, nil
	}
	return s, nil
}

// whole refuses heads that are rotated in part.
func whole(partial *float) error {
	if partial != nil && *partial != 1 {
		return fmt.Errorf("partial_rotary_factor: %g, only 1 is supported", float64(*partial))
	}
	return nil
}

// rope finds the base and the kind of RoPE, which configurations have in more than
// one place, of a model of up to longest tokens.
func (j *configJSON) rope(longest int) (theta float64, scaling *RopeScaling, err error) {
	if err := whole(j.Partial); err != nil {
		return 0, nil, err
	}
	original := or(j.Original, 0)
	if scaling, err = j.RopeScaling.scaling(longest, original); err != nil {
		return 0, nil, fmt.Errorf("rope_scaling: %w", err)
	}
	other, err := j.RopeParameters.scaling(longest, original)
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("rope_parameters: %w", err)
	case j.RopeScaling == nil:
		scaling = other
	case j.RopeParameters != nil && !reflect.DeepEqual(scaling, other):
		return 0, nil, errors.New("rope_scaling and rope_parameters contradict one another")
	}
	base := j.RopeTheta
	for _, p := range []*ropeParameters{j.RopeScaling, j.RopeParameters} {
		switch {
		case p == nil || p.RopeTheta == nil:
		case base != nil && *base != *p.RopeTheta:
			return 0, nil, fmt.Errorf("rope_theta: %g in one place and %g in another", float64(*base), float64(*p.RopeTheta))
		default:
			base = p.RopeTheta
		}
	}
	return float64(or(base, 10000)), scaling, nil
}

func (r *RopeScaling) json() *ropeParameters {
	if r == nil {
		return nil
	}
	factor := float(r.Factor)
	p := &ropeParameters{RopeType: r.Kind, Factor: &factor, LowFreq: float(r.LowFreq), HighFreq: float(r.HighFreq), Original: r.Original,
		BetaFast: float(r.BetaFast), BetaSlow: float(r.BetaSlow), MScale: float(r.MScale), MScaleAll: float(r.MScaleAll), Short: r.Short, Long: r.Long}
	if r.Attention != 0 {
		a := float(r.Attention)
		p.Attention = &a
	}
	if r.Exact {
		p.Truncate = new(bool)
	}
	return p
}

package calibrate

import (
	"fmt"
	"math"

	"github.com/shoalnet/shoal/toploc"
)

// A Report is a policy, which ParsePolicy reads, and its evidence.
type Report struct {
	toploc.Policy
	Confidence float64 `json:"confidence"`
	// TokensDrawn is the length of the sequences measured, without their prompts.
	TokensDrawn int `json:"tokens_drawn"`
	// FalseReject is of chunks of the held-out half, on the machine that does worst:
	// under version 1's limits, version 2's, and both.
	FalseReject struct {
		V1   Rate `json:"v1"`
		V2   Rate `json:"v2"`
		Both Rate `json:"both"`
		// Sequences with any chunk rejected under either. Chunks of a sequence are
		// not independent, sequences are.
		Sequences Rate `json:"sequences"`
		// Sequences whose tokens are rejected, outright or by their count. The tests of
		// ranks have the bound that the policy's alpha says.
		Tokens Rate `json:"tokens"`
	} `json:"false_reject"`
	Machines  []HonestMachine `json:"machines"`
	Forgeries []Forgery       `json:"forgeries"`
	Drafts    []DraftResult   `json:"drafts"`
	Curve     []CurvePoint    `json:"curve"`
}

// HonestMachine says how a machine drifted from the verifier, in all sequences.
type HonestMachine struct {
	Name   string `json:"name"`
	Chunks int    `json:"chunks"`
	// Largest of what was seen in any chunk.
	Largest    toploc.Result           `json:"largest"`
	Projection toploc.ProjectionResult `json:"projection"`
	Margin     float64                 `json:"margin"`
	Drift      float64                 `json:"drift"` // of the gap between the best two scores
	// Rejected of the held-out chunks, under both versions' limits.
	Rejected Rate `json:"rejected"`
}

// Forgery says how many of a forgery's chunks pass under which limits.
type Forgery struct {
	Name   string `json:"name"`
	Chunks int    `json:"chunks"`
	// Passed under the reference verifier with the paper's limits, with those
	// deployed, under Strict with the paper's, under Strict with the calibrated
	// ones, and under version 2's.
	Paper      int `json:"paper"`
	Deployed   int `json:"deployed"`
	Strict     int `json:"strict"`
	Calibrated int `json:"calibrated"`
	V2         int `json:"v2"`
	// Margin is by how much of the limit the least bad chunk exceeds it: the
	// largest ratio of a metric to its limit, of the chunk where that is smallest.
	// Infinite (-1) where records are refused for another reason.
	Margin1 float64 `json:"margin_v1"`
	Margin2 float64 `json:"margin_v2"`
	// NoV2 says that the forgery is of version 1 records alone.
	NoV2 bool `json:"no_v2,omitempty"`
}

// Pool is how many sequences of one worker are tested together.
const Pool = 16

// DraftResult says how many sequences of a draft's pass the checks of tokens.
type DraftResult struct {
	Name      string `json:"name"`
	Honest    bool   `json:"honest,omitempty"`
	Sequences int    `json:"sequences"`
	Tokens    int    `json:"tokens"`
	// Passed where choices are seeded, and where only distributions are known.
	Seeded   int `json:"seeded"`
	Unseeded int `json:"unseeded"`
	// Pools of sequences that pass the distribution test together.
	Pools  int `json:"pools"`
	Pooled int `json:"pooled"`
	// Differ is the mean share of tokens that are not those to be drawn.
	Differ float64 `json:"differ"`
}

// paper and deployed are published limits for k = 128, scaled to another k.
func paper(k int) toploc.Limits { return toploc.Published.For(k) }

func deployed(k int) toploc.Limits {
	return toploc.Limits{ExpMismatches: 60, MantErrMean: 40, MantErrMedian: 40, SignMismatches: 128}.For(k)
}

func (m *measurement) report() (r *Report, err error) {
	r = &Report{Confidence: m.c.Confidence, TokensDrawn: m.c.Tokens}
	r.Version, r.Params = 1, m.c.Params
	r.Projection = &toploc.Projection{Values: m.c.Values, Bits: m.c.Bits, Gain: m.gains(m.c.Values)}
	compared := make([]comparison, len(m.honest))
	for h := range m.honest {
		c, err := m.compare(r, m.honest[h].rows)
		if err != nil {
			return nil, err
		}
		compared[h] = c
	}
	m.choose(r, compared)
	m.holdOut(r, compared)
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("calibrate: these machines drift too far for limits that mean anything: %w", err)
	}
	m.c.Progress("limits are chosen; now the forgeries")
	for _, f := range m.forgeries() {
		g, err := m.forge(r, f)
		if err != nil {
			return nil, fmt.Errorf("calibrate: %s: %w", f.name, err)
		}
		r.Forgeries = append(r.Forgeries, g)
	}
	r.Curve, err = m.curve(r)
	return r, err
}

// calibrating says whether a sequence is of the half that limits are chosen from.
func calibrating(seq int) bool { return seq%2 == 0 }

// gains weigh each channel by its honest drift, so that all contribute alike to a
// number's error, whose root mean square is then half a step. The drift is that of
// the machine that drifts most, and no less than what rounding to bfloat16 makes.
func (m *measurement) gains(values int) []float32 {
	d := m.c.Params.Hidden
	drift, size := make([]float64, d), make([]float64, d)
	n := 0
	for h := range m.honest {
		mine := make([]float64, d)
		n = 0
		for seq := range m.own {
			if !calibrating(seq) {
				continue
			}
			for i, b := range m.own[seq] {
				x := float64(value(b))
				e := float64(value(m.honest[h].rows[seq][i])) - x
				mine[i%d] += e * e
				if h == 0 {
					size[i%d] += x * x
				}
			}
			n += len(m.own[seq]) / d
		}
		for c, v := range mine {
			drift[c] = max(drift[c], v)
		}
	}
	g := make([]float32, d)
	channels := float64(d) / float64(values)
	for c := range g {
		// Half a unit in the last of 8 bits, at most 2^-9 of the value.
		rms := math.Sqrt(max(drift[c], size[c]*(1.0/(1<<18))) / float64(n))
		if rms > 0 {
			g[c] = float32(0.5 / math.Sqrt(channels) / rms)
		}
	}
	return g
}

// A comparison is what comparing one run's honest records gives, by sequence and
// chunk.
type comparison struct {
	v1 [][]toploc.Result
	v2 [][]toploc.ProjectionResult
}

func (m *measurement) compare(r *Report, a rows) (c comparison, err error) {
	for seq := range m.own {
		records := m.prove(a[seq], m.prompts[seq])
		var v1 []toploc.Result
		i := 0
		m.tops(seq, func(t *toploc.Top) {
			pf, perr := toploc.ParseProof(records[i], m.c.Params.TopK)
			i++
			if err = perr; err == nil {
				var res toploc.Result
				res, err = t.Compare(toploc.Tensor, pf)
				v1 = append(v1, res)
			}
		})
		if err != nil {
			return c, fmt.Errorf("calibrate: sequence %d: %w", seq, err)
		}
		v2, err := m.project(r.Projection, seq, a[seq])
		if err != nil {
			return c, fmt.Errorf("calibrate: sequence %d: %w", seq, err)
		}
		c.v1, c.v2 = append(c.v1, v1), append(c.v2, v2)
	}
	return c, nil
}

// project compares version 2 records of a with the verifier's rows.
func (m *measurement) project(p *toploc.Projection, seq int, a []uint16) (out []toploc.ProjectionResult, err error) {
	var prs [2]*toploc.Projector
	for i := range prs {
		if prs[i], err = toploc.NewProjector(*p, m.c.Params, m.prompts[seq], job(seq)); err != nil {
			return nil, err
		}
	}
	d := m.c.Params.Hidden
	for i := 0; i < len(a); i += d {
		whole := false
		for j, b := range [][]uint16{a, m.own[seq]} {
			if whole, err = prs[j].Push(b[i : i+d]); err != nil {
				return nil, err
			}
		}
		if whole {
			res, err := prs[1].Check(prs[0].Record())
			if err != nil {
				return nil, err
			}
			out = append(out, res)
		}
	}
	return out, nil
}

// choose sets version 1's limits at twice the most that any honest chunk of the
// calibrating half has, and a little more: few texts are far worse than all others
// (their activations hang on a hair), and what is near the honest ones is version
// 2's to find.
func (m *measurement) choose(r *Report, compared []comparison) {
	var tokens toploc.TokenLimits
	var widest float64
	for h, c := range compared {
		for seq := range c.v1 {
			if !calibrating(seq) {
				continue
			}
			for j, res := range c.v1[seq] {
				lim, proj := &r.Decode, &r.ProjectionDecode
				if m.chunks(seq)[j].Prefill {
					lim, proj = &r.Prefill, &r.ProjectionPrefill
				}
				lim.ExpMismatches = max(lim.ExpMismatches, res.ExpMismatches)
				lim.SignMismatches = max(lim.SignMismatches, res.SignMismatches)
				if res.ExpMismatches < m.c.Params.TopK {
					lim.MantErrMean = max(lim.MantErrMean, res.MantErrMean)
					lim.MantErrMedian = max(lim.MantErrMedian, res.MantErrMedian)
				}
				proj.Mean = max(proj.Mean, c.v2[seq][j].Mean)
				proj.WorstToken = max(proj.WorstToken, c.v2[seq][j].WorstToken)
			}
			for i, d := range m.honest[h].drift[seq] {
				tokens.Outright = max(tokens.Outright, d)
				widest = max(widest, m.honest[h].margins[seq][i])
			}
		}
	}
	for _, l := range []*toploc.Limits{&r.Prefill, &r.Decode} {
		l.ExpMismatches = 2*l.ExpMismatches + 2
		l.SignMismatches = 2*l.SignMismatches + 2
		l.MantErrMean = 2*l.MantErrMean + 0.5
		l.MantErrMedian = 2*l.MantErrMedian + 1
	}
	for _, l := range []*toploc.ProjectionLimits{&r.ProjectionPrefill, &r.ProjectionDecode} {
		*l = widened(*l, m.c.Bits)
	}
	// Twice the widest drift, as of version 1's limits: one text in hundreds is far
	// worse than all others. What is counted lies below.
	tokens.Outright = 2*tokens.Outright + 1e-4
	tokens.Alpha, tokens.MinEOS = 1e-6, 0.1
	shares := []float64{0, 0.1, 0.3, 1}
	for _, share := range shares {
		b := toploc.MarginRate{Margin: share * widest}
		for _, h := range m.honest {
			var counts []int
			for seq, margins := range h.margins {
				if calibrating(seq) {
					counts = append(counts, beyond(margins, b.Margin))
				}
			}
			b.Rate = max(b.Rate, countRate(counts, m.c.Tokens, tokens.Alpha/float64(len(shares)), m.c.Confidence))
		}
		tokens.Beyond = append(tokens.Beyond, b)
	}
	r.Tokens = &tokens
}

// beyond counts the tokens whose margin exceeds one.
func beyond(margins []float64, margin float64) (n int) {
	for _, d := range margins {
		if d > margin {
			n++
		}
	}
	return n
}

// countRate is the rate to allow for, of which sequences of so many tokens had these
// counts: an upper bound of that of all tokens, and one under which a sequence may
// have half again as many as the worst of these, and two. The binomial's limits are
// for independent tokens, but some texts hang on a hair from end to end.
func countRate(counts []int, tokens int, alpha, confidence float64) float64 {
	sum, most := 0, 0
	for _, c := range counts {
		sum, most = sum+c, max(most, c)
	}
	want := min(most+most/2+2, tokens)
	return max(NewRate(sum, tokens*len(counts), confidence).Upper,
		root(func(p float64) bool { return toploc.BinomialLimit(tokens, p, alpha) >= want }))
}

// tokensPass says whether a sequence's margins are within the limits.
func tokensPass(l *toploc.TokenLimits, margins []float64) bool {
	if beyond(margins, l.Outright) > 0 {
		return false
	}
	for _, b := range l.Beyond {
		if beyond(margins, b.Margin) > toploc.BinomialLimit(len(margins), b.Rate, l.Alpha/float64(len(l.Beyond))) {
			return false
		}
	}
	return true
}

// widened leaves room above the largest that was seen, short of what guessing
// makes. The mean of a chunk is over many numbers, so that its noise is small.
func widened(l toploc.ProjectionLimits, bits int) toploc.ProjectionLimits {
	guess := math.Exp2(float64(bits - 2)) // the mean of guessing
	return toploc.ProjectionLimits{
		Mean:       min(l.Mean*1.5, (l.Mean+guess)/2),
		WorstToken: min(l.WorstToken*1.75, 2*guess),
	}
}

// holdOut measures what the limits reject of the other half.
func (m *measurement) holdOut(r *Report, compared []comparison) {
	worst := func(dst *Rate, k, n int) {
		if v := NewRate(k, n, m.c.Confidence); v.Upper > dst.Upper || dst.N == 0 {
			*dst = v
		}
	}
	f := &r.FalseReject
	for h, c := range compared {
		hm := HonestMachine{Name: m.honest[h].name}
		var n, v1, v2, both, seqs, bad, badTokens int
		for seq := range c.v1 {
			rejected := false
			for j, res := range c.v1[seq] {
				hm.Chunks++
				hm.Largest.ExpMismatches = max(hm.Largest.ExpMismatches, res.ExpMismatches)
				hm.Largest.MantErrMean = max(hm.Largest.MantErrMean, res.MantErrMean)
				hm.Largest.MantErrMedian = max(hm.Largest.MantErrMedian, res.MantErrMedian)
				hm.Largest.SignMismatches = max(hm.Largest.SignMismatches, res.SignMismatches)
				hm.Projection.Mean = max(hm.Projection.Mean, c.v2[seq][j].Mean)
				hm.Projection.WorstToken = max(hm.Projection.WorstToken, c.v2[seq][j].WorstToken)
				lim, proj := r.limits(m.chunks(seq)[j].Prefill)
				bad1, bad2 := lim.Check(res) != nil, proj.Check(c.v2[seq][j]) != nil
				if calibrating(seq) {
					continue
				}
				n++
				if bad1 {
					v1++
				}
				if bad2 {
					v2++
				}
				if bad1 || bad2 {
					both++
					rejected = true
				}
			}
			for i, d := range m.honest[h].margins[seq] {
				hm.Margin = max(hm.Margin, d)
				hm.Drift = max(hm.Drift, m.honest[h].drift[seq][i])
			}
			if !calibrating(seq) {
				if seqs++; rejected {
					bad++
				}
				if !tokensPass(r.Tokens, m.honest[h].margins[seq]) {
					badTokens++
				}
			}
		}
		hm.Rejected = NewRate(both, n, m.c.Confidence)
		r.Machines = append(r.Machines, hm)
		worst(&f.V1, v1, n)
		worst(&f.V2, v2, n)
		worst(&f.Both, both, n)
		worst(&f.Sequences, bad, seqs)
		worst(&f.Tokens, badTokens, seqs)
	}
}

func (r *Report) limits(prefill bool) (toploc.Limits, toploc.ProjectionLimits) {
	if prefill {
		return r.Prefill, r.ProjectionPrefill
	}
	return r.Decode, r.ProjectionDecode
}

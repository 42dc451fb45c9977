package calibrate

import (
	"fmt"
	"strings"

	"github.com/shoalnet/shoal/toploc"
)

// Markdown writes the report as the tables of a README.
func (r *Report) Markdown() string {
	var b strings.Builder
	f := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	f("| honest machine | chunks | exponents | mean | median | signs | v2 mean | v2 worst token | margin | drift of scores | rejected of held out |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, m := range r.Machines {
		f("| %s | %d | %d | %.2f | %.0f | %d | %.2f | %.2f | %.2g | %.2g | %d of %d |\n", m.Name, m.Chunks, m.Largest.ExpMismatches, m.Largest.MantErrMean,
			m.Largest.MantErrMedian, m.Largest.SignMismatches, m.Projection.Mean, m.Projection.WorstToken, m.Margin, m.Drift, m.Rejected.K, m.Rejected.N)
	}
	l := func(name string, prefill bool) {
		v1, v2 := r.limits(prefill)
		f("| **limit, %s** | | %d | %.2f | %.0f | %d | %.2f | %.2f | %.2g | | |\n", name, v1.ExpMismatches, v1.MantErrMean, v1.MantErrMedian,
			v1.SignMismatches, v2.Mean, v2.WorstToken, r.Tokens.Outright)
	}
	l("prompt", true)
	l("generated", false)
	q := r.FalseReject
	f("\nFalse rejects of what was held out, on the worst machine, with the upper bound of %.0f %% confidence (Clopper and Pearson): of chunks under version 1 %s, under version 2 %s, under either %s; of sequences for any chunk %s, for their tokens %s. The count of tokens beyond margins, in a sequence of %d:",
		100*r.Confidence, rate(q.V1), rate(q.V2), rate(q.Both), rate(q.Sequences), rate(q.Tokens), r.TokensDrawn)
	for _, b := range r.Tokens.Beyond {
		f(" beyond %.2g at most %d;", b.Margin, toploc.BinomialLimit(r.TokensDrawn, b.Rate, r.Tokens.Alpha/float64(len(r.Tokens.Beyond))))
	}
	f(" beyond %.2g none.\n", r.Tokens.Outright)
	three := func(l toploc.Limits) string {
		return fmt.Sprintf("%d/%.3g/%.3g", l.ExpMismatches, l.MantErrMean, l.MantErrMedian)
	}
	k := r.Params.TopK
	f("\n| forgery: chunks that pass, k = %d | chunks | reference, paper's %s | reference, deployed %s | strict, paper's | strict, calibrated | version 2 | margin v1 | margin v2 |\n|---|---|---|---|---|---|---|---|---|\n", k, three(paper(k)), three(deployed(k)))
	for _, g := range r.Forgeries {
		v2, m2 := share(g.V2, g.Chunks), times(g.Margin2)
		if g.NoV2 {
			v2, m2 = "–", "–"
		}
		f("| %s | %d | %s | %s | %s | %s | %s | %s | %s |\n", g.Name, g.Chunks, share(g.Paper, g.Chunks), share(g.Deployed, g.Chunks), share(g.Strict, g.Chunks),
			share(g.Calibrated, g.Chunks), v2, times(g.Margin1), m2)
	}
	f("\n| text drawn by: sequences that pass | sequences | tokens not drawn | seeded check | distributions only | the same, %d sequences at once |\n|---|---|---|---|---|---|\n", Pool)
	for _, d := range r.Drafts {
		pooled := "–"
		if d.Pools > 0 {
			pooled = share(d.Pooled, d.Pools)
		}
		f("| %s | %d | %.2g %% | %s | %s | %s |\n", d.Name, d.Sequences, 100*d.Differ, share(d.Seeded, d.Sequences), share(d.Unseeded, d.Sequences), pooled)
	}
	if len(r.Curve) > 0 {
		f("\n| error of activations: chunks that pass | chunks | version 1, paper's | version 1, calibrated |")
		for _, v := range r.Curve[0].V2 {
			f(" version 2, %d × %d bits: %.3g B/token |", v.Values, v.Bits, v.BytesPerToken)
		}
		f("\n|---|---|---|---|%s\n", strings.Repeat("---|", len(r.Curve[0].V2)))
	}
	for _, p := range r.Curve {
		f("| %g %% | %d | %s | %s |", 100*p.Error, p.Chunks, share(p.Strict, p.Chunks), share(p.Calibrated, p.Chunks))
		for _, v := range p.V2 {
			f(" %s |", share(v.Passed, p.Chunks))
		}
		f("\n")
	}
	return b.String()
}

func rate(r Rate) string { return fmt.Sprintf("%d of %d (≤ %.2g %%)", r.K, r.N, 100*r.Upper) }

func share(k, n int) string {
	switch {
	case k == 0:
		return "0"
	case k == n:
		return "all"
	}
	p := 100 * float64(k) / float64(n)
	if p < 0.1 || p > 99.9 {
		return fmt.Sprintf("%d of %d", k, n)
	}
	return fmt.Sprintf("%.1f %%", p)
}

func times(x float64) string {
	if x < 0 {
		return "refused"
	}
	return fmt.Sprintf("×%.1f", x)
}

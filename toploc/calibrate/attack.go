package calibrate

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/toploc"
)

// forge tries one forgery on all sequences.
func (m *measurement) forge(r *Report, f forgery) (Forgery, error) {
	g := Forgery{Name: f.name, Margin1: -1, Margin2: -1, NoV2: f.rows == nil}
	k := m.c.Params.TopK
	published := toploc.Strict{Params: m.c.Params, Prefill: paper(k), Decode: paper(k), Seed: 1}
	calibrated := r.Strict(2)
	for seq := range m.own {
		records := f.records(seq)
		cs := m.chunks(seq)
		g.Chunks += len(cs)
		var tops []*toploc.Top
		m.tops(seq, func(t *toploc.Top) {
			c := *t
			c.Pos, c.Bits = append([]uint32(nil), t.Pos...), append([]uint16(nil), t.Bits...)
			tops = append(tops, &c)
		})
		g.Paper += reference(tops, records, paper(k))
		g.Deployed += reference(tops, records, deployed(k))
		if v, err := published.Verify(records, m.own[seq], m.prompts[seq]); err == nil {
			for _, c := range v {
				if c.OK {
					g.Strict++
				}
			}
		}
		v, err := calibrated.Verify(records, m.own[seq], m.prompts[seq])
		for j := range cs {
			if err != nil { // refused as a whole
				break
			}
			if v[j].OK {
				g.Calibrated++
			}
			lim, _ := r.limits(cs[j].Prefill)
			least(&g.Margin1, ratio(v[j].Result, lim))
		}
		if f.rows == nil {
			continue
		}
		p, err := m.project(r.Projection, seq, f.rows(seq))
		if err != nil {
			return g, err
		}
		for j, res := range p {
			_, lim := r.limits(cs[j].Prefill)
			if lim.Check(res) == nil {
				g.V2++
			}
			least(&g.Margin2, max(res.Mean/lim.Mean, res.WorstToken/lim.WorstToken))
		}
	}
	return g, nil
}

func least(dst *float64, v float64) {
	if *dst < 0 || v < *dst {
		*dst = v
	}
}

// ratio is the largest of metric / limit.
func ratio(r toploc.Result, l toploc.Limits) float64 {
	if r.ExpMismatches > 0 && r.MantErrMean > 127 { // none agrees
		return math.Max(float64(r.ExpMismatches)/float64(l.ExpMismatches), 127/l.MantErrMean)
	}
	return max(float64(r.ExpMismatches)/float64(l.ExpMismatches), r.MantErrMean/l.MantErrMean,
		r.MantErrMedian/l.MantErrMedian, float64(r.SignMismatches)/float64(l.SignMismatches))
}

// reference counts the chunks that toploc 0.1.6's verifier would pass, with its
// one result a proof: signs, counts and sizes are not looked at. What ends its
// process passes nothing.
func reference(tops []*toploc.Top, records [][]byte, l toploc.Limits) (passed int) {
	if len(records) > len(tops) {
		return 0
	}
	l.SignMismatches = math.MaxInt
	for j, t := range tops {
		if j >= len(records) { // never looked at
			passed++
			continue
		}
		b := records[j]
		if len(b) < 4 || b[0] == 0 && b[1] == 0 {
			return 0
		}
		pf := &toploc.Proof{Modulus: binary.BigEndian.Uint16(b)}
		for b = b[2:]; len(b) >= 2; b = b[2:] {
			pf.Coeffs = append(pf.Coeffs, binary.BigEndian.Uint16(b)%toploc.Prime)
		}
		if res, err := t.Compare(toploc.Tensor, pf); err == nil && l.Check(res) == nil {
			passed++
		}
	}
	return passed
}

// maxDrafted is how many of the sequences dishonest drafts write, at most.
const maxDrafted = 128

// drafts lets every draft write the sequences, and judges their tokens.
func (m *measurement) drafts(ctx context.Context, r *Report) error {
	verifier, err := llama.New(m.c.Verifier.Device, m.c.Model.Config, m.c.Model.Weights)
	if err != nil {
		return err
	}
	list := make([]Draft, 0, len(m.c.Honest)+2+len(m.c.Drafts))
	for i, h := range m.c.Honest {
		if h.Stretch <= 1 {
			list = append(list, Draft{Name: "honest: " + h.Name, Model: m.c.Model, Temperature: m.c.Temperature, machine: i, honest: true})
		}
	}
	own := Draft{Name: "right model, randomness of its own", Model: m.c.Model, Temperature: m.c.Temperature, unseeded: true}
	edited := Draft{Name: "one token edited, then honest", Model: m.c.Model, Temperature: m.c.Temperature, edit: true}
	list = append(list, own, edited)
	for _, d := range append(list, m.c.Drafts...) {
		res, err := m.draft(ctx, r, verifier, d)
		if err != nil {
			return fmt.Errorf("calibrate: draft %s: %w", d.Name, err)
		}
		r.Drafts = append(r.Drafts, res)
		m.c.Progress("drafted: " + d.Name)
	}
	return nil
}

func (m *measurement) draft(ctx context.Context, r *Report, verifier *llama.Model, d Draft) (out DraftResult, err error) {
	out.Name, out.Honest = d.Name, d.honest
	model, err := llama.New(m.c.Honest[d.machine].Device, d.Model.Config, d.Model.Weights)
	if err != nil {
		return out, err
	}
	var pool []float64
	for seq, prompt := range m.c.Prompts {
		if !d.honest && seq == maxDrafted {
			break
		}
		key := job(seq)
		if d.unseeded {
			key = append(key, "another"...)
		}
		ids, err := m.write(ctx, model, d, seq, prompt, key)
		if err != nil {
			return out, err
		}
		_, logits, err := readAll(ctx, verifier, ids, len(ids))
		if err != nil {
			return out, err
		}
		s, err := toploc.NewSampler(job(seq), m.c.Temperature)
		if err != nil {
			return out, err
		}
		for _, unseeded := range []bool{false, true} {
			j, err := toploc.TokenRule{Sampler: s, Unseeded: unseeded, Max: m.c.Tokens, Limits: *r.Tokens, Seed: uint64(seq)}.Judge()
			if err != nil {
				return out, err
			}
			for n := range m.c.Tokens {
				if err := j.Push(ids[len(prompt)+n], logits[len(prompt)+n-1]); err != nil {
					return out, err
				}
			}
			v := j.Verdict()
			if v.OK && unseeded {
				out.Unseeded++
			} else if v.OK {
				out.Seeded++
			}
			if !unseeded {
				out.Differ += float64(v.Differ)
				pool = append(pool, j.Ranks()...)
			}
		}
		if (seq+1)%Pool == 0 {
			out.Pools++
			if toploc.TestRanks(pool, r.Tokens.Alpha).Check() == nil {
				out.Pooled++
			}
			pool = pool[:0]
		}
		out.Sequences++
		out.Tokens += m.c.Tokens
	}
	out.Differ /= float64(out.Tokens)
	return out, nil
}

// write draws a sequence as a draft does.
func (m *measurement) write(ctx context.Context, model *llama.Model, d Draft, seq int, prompt []int32, key []byte) ([]int32, error) {
	s, err := toploc.NewSampler(key, d.Temperature)
	if err != nil {
		return nil, err
	}
	r, err := model.NewReader(len(prompt)+m.c.Tokens, len(prompt))
	if err != nil {
		return nil, err
	}
	edit := -1
	if d.edit {
		edit = rand.New(rand.NewPCG(uint64(seq), 5)).IntN(m.c.Tokens)
	}
	return write(ctx, r, s, prompt, m.c.Tokens, edit)
}

// write goes on from prompt by n tokens; token number edit is the likeliest of
// those that were not to be drawn.
func write(ctx context.Context, r *llama.Reader, s *toploc.Sampler, prompt []int32, n, edit int) ([]int32, error) {
	ids := append([]int32(nil), prompt...)
	next := ids
	for i := range n {
		var id int32
		left := len(next)
		err := r.Read(ctx, next, func(_, logits []float32) (err error) {
			if left--; left > 0 {
				return nil
			}
			if id, err = s.Pick(uint64(i), logits); err == nil && i == edit {
				id = likeliestBut(logits, id)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
		next = ids[len(ids)-1:]
	}
	return ids, nil
}

func likeliestBut(logits []float32, but int32) int32 {
	best := int32(-1)
	for id, z := range logits {
		if int32(id) != but && (best < 0 || z > logits[best]) {
			best = int32(id)
		}
	}
	return best
}

package calibrate

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/shoalnet/shoal/toploc"
)

// A CurvePoint says how many chunks pass whose activations are the honest ones
// with noise of Error times each channel's root mean square.
type CurvePoint struct {
	Error      float64   `json:"error"`
	Chunks     int       `json:"chunks"`
	Strict     int       `json:"strict"`
	Calibrated int       `json:"calibrated"`
	V2         []CurveV2 `json:"v2"`
}

// CurveV2 is a point of the curve of one size of version 2 records.
type CurveV2 struct {
	Values        int     `json:"values"`
	Bits          int     `json:"bits"`
	BytesPerToken float64 `json:"bytes_per_token"`
	Passed        int     `json:"passed"`
}

// sizes of version 2 records whose curves are drawn: values and bits.
var sizes = [][2]int{{16, 4}, {8, 4}, {4, 4}, {2, 4}, {1, 4}, {8, 2}}

// A sized projection has limits chosen as the report's are.
type sized struct {
	p               *toploc.Projection
	prefill, decode toploc.ProjectionLimits
}

func (m *measurement) sized(values, bits int) (s sized, err error) {
	s.p = &toploc.Projection{Values: values, Bits: bits, Gain: m.gains(values)}
	for h := range m.honest {
		for seq := range m.own {
			if !calibrating(seq) {
				continue
			}
			res, err := m.project(s.p, seq, m.honest[h].rows[seq])
			if err != nil {
				return s, err
			}
			for j, c := range m.chunks(seq) {
				l := s.limits(c.Prefill)
				l.Mean, l.WorstToken = max(l.Mean, res[j].Mean), max(l.WorstToken, res[j].WorstToken)
			}
		}
	}
	s.prefill, s.decode = widened(s.prefill, bits), widened(s.decode, bits)
	return s, nil
}

func (s *sized) limits(prefill bool) *toploc.ProjectionLimits {
	if prefill {
		return &s.prefill
	}
	return &s.decode
}

// curve adds noise to the verifier's own rows of the held-out sequences, at most
// 64 of them.
func (m *measurement) curve(r *Report) (points []CurvePoint, err error) {
	var all []sized
	for _, s := range sizes {
		v, err := m.sized(s[0], s[1])
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	d := m.c.Params.Hidden
	rms := make([]float64, d)
	n := 0
	for seq, a := range m.own {
		if calibrating(seq) {
			for i, b := range a {
				rms[i%d] += float64(value(b)) * float64(value(b))
			}
			n += len(a) / d
		}
	}
	strict, calibrated := toploc.Strict{Params: m.c.Params, Prefill: paper(m.c.Params.TopK), Decode: paper(m.c.Params.TopK), Seed: 3}, r.Strict(3)
	for _, e := range []float64{0, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1} {
		p := CurvePoint{Error: e}
		for i, s := range sizes {
			p.V2 = append(p.V2, CurveV2{s[0], s[1], float64(all[i].p.RecordSize(m.c.Params.Batch)) / float64(m.c.Params.Batch), 0})
		}
		rng := rand.New(rand.NewPCG(math.Float64bits(e), 4))
		for seq := 1; seq < min(len(m.own), 128); seq += 2 {
			a := slices.Clone(m.own[seq])
			for i, b := range a {
				x := float64(value(b)) + e*math.Sqrt(rms[i%d]/float64(n))*rng.NormFloat64()
				toploc.RoundBF16(a[i:], []float32{float32(x)})
			}
			records := m.prove(a, m.prompts[seq])
			for _, s := range []struct {
				judge  toploc.Strict
				passed *int
			}{{strict, &p.Strict}, {calibrated, &p.Calibrated}} {
				v, err := s.judge.Verify(records, m.own[seq], m.prompts[seq])
				if err != nil {
					return nil, err
				}
				for _, c := range v {
					if c.OK {
						*s.passed++
					}
				}
			}
			for i := range all {
				res, err := m.project(all[i].p, seq, a)
				if err != nil {
					return nil, err
				}
				for j, c := range m.chunks(seq) {
					if all[i].limits(c.Prefill).Check(res[j]) == nil {
						p.V2[i].Passed++
					}
				}
			}
			p.Chunks += len(records)
		}
		points = append(points, p)
	}
	return points, nil
}

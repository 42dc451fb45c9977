package toploc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// A Policy is what a verifier of one model asks for: parameters and calibrated
// limits. toploc/calibrate writes policies, with the evidence beside them.
type Policy struct {
	Version int    `json:"version"` // 1
	Params  Params `json:"params"`
	Prefill Limits `json:"prefill"`
	Decode  Limits `json:"decode"`
	// Projection is absent where version 2 records are not asked for.
	Projection        *Projection      `json:"projection,omitempty"`
	ProjectionPrefill ProjectionLimits `json:"projection_prefill"`
	ProjectionDecode  ProjectionLimits `json:"projection_decode"`
	// Tokens is absent where the model's sampling was not calibrated.
	Tokens *TokenLimits `json:"tokens,omitempty"`
}

// maxPolicy bounds what ParsePolicy reads.
const maxPolicy = 1 << 26

// ParsePolicy reads a policy in JSON. Fields that it does not know, such as
// evidence, are left out; limits that refuse everything or nothing are errors.
func ParsePolicy(b []byte) (*Policy, error) {
	if len(b) > maxPolicy {
		return nil, fmt.Errorf("policy has %d bytes, at most %d", len(b), maxPolicy)
	}
	p := new(Policy)
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("policy: more follows the JSON object")
	}
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return p, nil
}

// Validate names the first field out of range.
func (p *Policy) Validate() error {
	if p.Version != 1 {
		return fmt.Errorf("version %d, this program reads 1", p.Version)
	}
	if err := p.Params.validate(); err != nil {
		return err
	}
	for i, l := range []Limits{p.Prefill, p.Decode} {
		name := [...]string{"prefill", "decode"}[i]
		switch {
		case l.ExpMismatches < 0 || l.ExpMismatches >= p.Params.TopK:
			return fmt.Errorf("%s: exp_mismatches %d is outside 0..%d", name, l.ExpMismatches, p.Params.TopK-1)
		case l.SignMismatches < 0 || l.SignMismatches > p.Params.TopK:
			return fmt.Errorf("%s: sign_mismatches %d is outside 0..%d", name, l.SignMismatches, p.Params.TopK)
		case !(l.MantErrMean >= 0 && l.MantErrMean <= 127) || !(l.MantErrMedian >= 0 && l.MantErrMedian <= 127):
			return fmt.Errorf("%s: mantissa limits %g and %g are outside 0..127", name, l.MantErrMean, l.MantErrMedian)
		}
	}
	if q := p.Projection; q != nil {
		if err := q.validate(); err != nil {
			return err
		}
		if len(q.Gain) != p.Params.Hidden {
			return fmt.Errorf("projection: %d gains for a hidden size of %d", len(q.Gain), p.Params.Hidden)
		}
		half := math.Exp2(float64(q.Bits - 1))
		for i, l := range []ProjectionLimits{p.ProjectionPrefill, p.ProjectionDecode} {
			name := [...]string{"projection_prefill", "projection_decode"}[i]
			if !(l.Mean > 0 && l.Mean < half/2) || !(l.WorstToken > 0 && l.WorstToken <= half) {
				return fmt.Errorf("%s: limits %g and %g: guessing has a mean of %g", name, l.Mean, l.WorstToken, half/2)
			}
		}
	}
	if l := p.Tokens; l != nil {
		if err := l.validate(); err != nil {
			return fmt.Errorf("tokens: %w", err)
		}
	}
	return nil
}

// Strict is the judge of version 1 records under this policy. The prover must
// not know seed.
func (p *Policy) Strict(seed uint64) Strict {
	return Strict{Params: p.Params, Prefill: p.Prefill, Decode: p.Decode, Seed: seed}
}

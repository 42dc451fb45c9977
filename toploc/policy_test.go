package toploc

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func policy() Policy {
	l := Limits{ExpMismatches: 3, MantErrMean: 1, MantErrMedian: 1, SignMismatches: 1}
	q := ProjectionLimits{Mean: 0.6, WorstToken: 1.5}
	return Policy{
		Version: 1, Params: Params{Hidden: 4, TopK: 4, Batch: 32}, Prefill: l, Decode: l,
		Projection: &Projection{Values: 4, Bits: 4, Gain: gains(4, 1)}, ProjectionPrefill: q, ProjectionDecode: q,
		Tokens: &TokenLimits{Beyond: []MarginRate{{0.01, 1e-2}, {0.1, 1e-4}}, Outright: 0.4, Alpha: 1e-6, MinEOS: 0.1},
	}
}

func TestPolicy(t *testing.T) {
	p := policy()
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParsePolicy(b)
	if err != nil || got.Decode != p.Decode || got.Projection.Values != 4 || !slices.Equal(got.Tokens.Beyond, p.Tokens.Beyond) || got.Tokens.Outright != p.Tokens.Outright || got.Params != p.Params {
		t.Fatalf("%+v %v", got, err)
	}
	if s := got.Strict(5); s.Decode != p.Decode || s.Params != p.Params || s.Seed != 5 {
		t.Errorf("%+v", s)
	}
	for name, spoil := range map[string]func(*Policy){
		"version":           func(p *Policy) { p.Version = 2 },
		"top-k":             func(p *Policy) { p.Params.TopK = 0 },
		"decode: exp":       func(p *Policy) { p.Decode.ExpMismatches = 4 },
		"prefill: sign":     func(p *Policy) { p.Prefill.SignMismatches = -1 },
		"prefill: mant":     func(p *Policy) { p.Prefill.MantErrMean = 200 },
		"gains":             func(p *Policy) { p.Projection.Gain = gains(5, 1) },
		"bits":              func(p *Policy) { p.Projection.Bits = 1 },
		"projection_decode": func(p *Policy) { p.ProjectionDecode.Mean = 4 },
		"tokens":            func(p *Policy) { p.Tokens.Outright = -1 },
	} {
		p := policy()
		q, k := *p.Projection, *p.Tokens
		p.Projection, p.Tokens = &q, &k
		spoil(&p)
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePolicy(b); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{"", "{", "{}", "[]", string(b) + "{}", strings.Replace(string(b), `"lowest"`, `"first"`, 1)} {
		if _, err := ParsePolicy([]byte(bad)); err == nil {
			t.Errorf("%.30q is a policy", bad)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	b, err := json.Marshal(policy())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePolicy(b)
		if err != nil {
			return
		}
		if p.Projection != nil {
			if _, err := NewProjector(*p.Projection, p.Params, 0, nil); err != nil && p.Params.Batch <= maxProjTokens {
				t.Fatalf("a policy's projection is refused: %v", err)
			}
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePolicy(again); err != nil {
			t.Fatalf("written again: %v", err)
		}
	})
}

func FuzzParseBase64(f *testing.F) {
	f.Add("/9kAAQAC", 2)
	f.Add("/9kAAQAD/9k=", 3)
	f.Fuzz(func(t *testing.T, s string, k int) {
		if k < 0 || k > 4096 {
			return
		}
		pf, err := ParseBase64(s, k)
		if err == nil && pf.Base64() != s {
			t.Fatal("accepted text is not canonical")
		}
	})
}

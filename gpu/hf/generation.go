package hf

import (
	"errors"
	"fmt"
)

// A Generation is what generation_config.json advises on how to sample. Nil
// fields are not said.
type Generation struct {
	BOS         *int  // token that begins a text
	EOS         []int // tokens that end one, none to 16
	Sample      *bool // false: take the likeliest
	Temperature *float64
	TopK        *int
	TopP        *float64
	MinP        *float64
	Repetition  *float64
	MaxNew      *int // tokens to write at most
}

// ParseGeneration reads generation_config.json. What it holds besides is
// ignored; values out of range are refused.
func ParseGeneration(b []byte) (Generation, error) {
	var g Generation
	if len(b) > maxConfig {
		return g, fmt.Errorf("generation_config.json: %d bytes are over the limit of %d", len(b), maxConfig)
	}
	var j struct {
		BOS         *int      `json:"bos_token_id"`
		EOS         tokenList `json:"eos_token_id"`
		Sample      *bool     `json:"do_sample"`
		Temperature *float64  `json:"temperature"`
		TopK        *int      `json:"top_k"`
		TopP        *float64  `json:"top_p"`
		MinP        *float64  `json:"min_p"`
		Repetition  *float64  `json:"repetition_penalty"`
		MaxNew      *int      `json:"max_new_tokens"`
	}
	if err := Unmarshal(b, &j); err != nil {
		return g, fmt.Errorf("generation_config.json: %w", err)
	}
	if len(j.EOS) > 16 {
		return g, fmt.Errorf("generation_config.json: eos_token_id: %d tokens, at most 16", len(j.EOS))
	}
	for _, e := range j.EOS {
		if e < 0 || e >= MaxVocab {
			return g, fmt.Errorf("generation_config.json: eos_token_id: %d is not in 0..%d", e, MaxVocab-1)
		}
	}
	if j.BOS != nil && (*j.BOS < 0 || *j.BOS >= MaxVocab) {
		return g, fmt.Errorf("generation_config.json: bos_token_id: %d is not in 0..%d", *j.BOS, MaxVocab-1)
	}
	for _, f := range []struct {
		name   string
		v      *float64
		lo, hi float64
	}{{"temperature", j.Temperature, 0, 1e6}, {"top_p", j.TopP, 0, 1}, {"min_p", j.MinP, 0, 1}, {"repetition_penalty", j.Repetition, 0, 1e6}} {
		if f.v != nil && !(*f.v >= f.lo && *f.v <= f.hi) {
			return g, fmt.Errorf("generation_config.json: %s: %g is not in [%g, %g]", f.name, *f.v, f.lo, f.hi)
		}
	}
	if j.Repetition != nil && *j.Repetition == 0 {
		return g, errors.New("generation_config.json: repetition_penalty: 0 is not above 0; 1 is none")
	}
	if j.TopK != nil && (*j.TopK < 0 || *j.TopK > MaxVocab) {
		return g, fmt.Errorf("generation_config.json: top_k: %d is not in 0..%d", *j.TopK, MaxVocab)
	}
	if j.MaxNew != nil && (*j.MaxNew < 1 || *j.MaxNew > MaxPositions) {
		return g, fmt.Errorf("generation_config.json: max_new_tokens: %d is not in 1..%d", *j.MaxNew, MaxPositions)
	}
	return Generation{j.BOS, j.EOS, j.Sample, j.Temperature, j.TopK, j.TopP, j.MinP, j.Repetition, j.MaxNew}, nil
}

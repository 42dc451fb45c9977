package llama

import (
	"fmt"
	"math"
)

// The kinds of Schedule.
const (
	Constant = "constant" // LR after the warm-up
	Cosine   = "cosine"   // half a cosine from LR to MinLR at Steps
	WSD      = "wsd"      // warm-up, stable, decay: LR, then a line to MinLR over the last Decay steps
)

// A Schedule gives the learning rate of each inner step as a function of the
// step's number alone, so that a peer that joins at any time is in step.
type Schedule struct {
	Kind   string
	LR     float64 // peak
	MinLR  float64 // floor, at Steps and after; unused by Constant
	Warmup uint64  // steps of linear rise: step s < Warmup has LR·(s+1)/Warmup
	Steps  uint64  // length of the schedule; unused by Constant
	Decay  uint64  // WSD: steps of the final decay
}

// Validate names the first field out of range.
func (s Schedule) Validate() error {
	switch {
	case s.Kind != Constant && s.Kind != Cosine && s.Kind != WSD:
		return fmt.Errorf("schedule: kind %q is none of %s, %s, %s", s.Kind, Constant, Cosine, WSD)
	case !(s.LR > 0 && s.LR <= 1):
		return fmt.Errorf("schedule: learning rate %g is not in (0, 1]", s.LR)
	case !(s.MinLR >= 0 && s.MinLR <= s.LR):
		return fmt.Errorf("schedule: smallest learning rate %g is not in [0, %g]", s.MinLR, s.LR)
	case s.Kind != Constant && s.Warmup >= s.Steps:
		return fmt.Errorf("schedule: warm-up of %d steps in a schedule of %d", s.Warmup, s.Steps)
	case s.Kind == WSD && (s.Decay == 0 || s.Decay > s.Steps-s.Warmup):
		return fmt.Errorf("schedule: decay of %d steps after a warm-up of %d in a schedule of %d", s.Decay, s.Warmup, s.Steps)
	}
	return nil
}

// At is the learning rate of step number step, the first being 0.
func (s Schedule) At(step uint64) float64 {
	if step < s.Warmup {
		return s.LR * float64(step+1) / float64(s.Warmup)
	}
	switch s.Kind {
	case Cosine:
		if step >= s.Steps {
			return s.MinLR
		}
		done := float64(step-s.Warmup) / float64(s.Steps-s.Warmup)
		_, c := sincos(math.Pi * done)
		return s.MinLR + float64((s.LR-s.MinLR)*(1+c)/2)
	case WSD:
		if step >= s.Steps {
			return s.MinLR
		}
		if left := s.Steps - step; left < s.Decay {
			return s.MinLR + float64((s.LR-s.MinLR)*float64(left)/float64(s.Decay))
		}
	}
	return s.LR
}

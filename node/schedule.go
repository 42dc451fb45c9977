package node

import (
	"math"

	"github.com/shoalnet/shoal/node/manifest"
)

// LearningRate returns the rate of the step'th inner step since genesis, from
// 0 on, which all peers share whenever they joined: a linear rise over
// inner.warmup steps to inner.lr, then
//
//	constant  inner.lr
//	cosine    half a cosine from inner.lr down to inner.min_lr (Loshchilov and Hutter 2017, equation 5)
//	wsd       inner.lr, and over the last inner.decay_steps the fall to inner.min_lr
//	          by 1−√x (Hägele et al. 2024, section 3.2)
//
// over the steps of the schedule; after its end, what it ended with.
func LearningRate(m *manifest.Manifest, step uint64) float64 {
	in := &m.Inner
	if step < in.Warmup {
		return in.LR * float64(step+1) / float64(in.Warmup)
	}
	total := m.ScheduleSteps()
	switch in.Schedule {
	case "cosine":
		x := fraction(step, min(in.Warmup, total), total)
		return in.MinLR + (in.LR-in.MinLR)*(1+math.Cos(math.Pi*x))/2
	case "wsd":
		x := fraction(step, total-min(in.DecaySteps, total), total)
		return in.MinLR + (in.LR-in.MinLR)*(1-math.Sqrt(x))
	}
	return in.LR
}

// fraction returns how far step is on the way from begin to end, 0 to 1.
func fraction(step, begin, end uint64) float64 {
	switch {
	case step >= end:
		return 1
	case step <= begin:
		return 0
	}
	return float64(step-begin) / float64(end-begin)
}

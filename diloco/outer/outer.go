// Package outer is the outer optimizer: it merges the payloads of a round into
// the parameters, with the same bits on every machine.
//
// # The step
//
// Nesterov momentum on the mean pseudo-gradient, as PyTorch's SGD does it
// (DiLoCo, Douillard et al. 2023, algorithm 1, line 14; OpenDiLoCo):
//
//	g ← mean of Δ_i      m ← μ·m + g      θ ← θ − η·(g + μ·m)
//
// where the mean is weighted by tokens and each Δ_i is first shortened to the
// median norm of the round: Δ_i ← Δ_i·min(1, √(τ/n_i)) with n_i = ‖Δ_i‖² and τ their
// lower median by weight (the smallest n_i such that deltas no longer than it
// have at least half of all weight; with equal weights, the lower median). This
// bounds what one peer can do, not in which direction it pulls.
//
// The median is taken by weight because slower peers do fewer inner steps: a
// plain median of norms would cut the fast ones down to the slow ones' length.
// Weights are what the messages claim; the caller bounds them by the data that the
// round set aside for a peer.
//
// # Exactness
//
// A value of payload i is an integer v_ij times 2^S, S = codec.MinExponent, |v_ij| < 2^31.
//
//	κ_i = min(2^16, isqrt(⌊τ·2^32/n_i⌋))           clip factor, 2^16 is 1
//	w_i = max(1, ⌊W_i·2^16/max W⌋)                 weight, 2^16 is the largest
//	f_i = ⌊(κ_i·w_i + 2^15)/2^16⌋                  both, at most 2^16
//	G_j = Σ_i f_i·v_ij                             int64
//	g_j = float32(float64(G_j)/float64(Σ w_i) · 2^S)
//
// |f_i·v_ij| < 2^47, so MaxDeltas = 2^15 of them stay below 2^62. Sums of integers do not
// depend on order. What follows is float32 with an explicit conversion after
// each operation, which forbids the compiler to fuse a multiplication with an
// addition (Go specification, floating-point operators); +, −, ×, ÷ are
// IEEE 754 exact on every architecture that Go supports.
package outer

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/p2p/wire"
)

// MaxDeltas bounds the payloads of one step; see the package comment.
const MaxDeltas = 1 << 15

// MaxWeight bounds a weight: a larger one counts as MaxWeight.
const MaxWeight = 1 << 47

// Config holds the hyperparameters, which the manifest fixes.
type Config struct {
	LR       float32 // η, above 0 and at most 2
	Momentum float32 // μ, at least 0 and below 1
}

// Validate names the first field that is out of range.
func (c Config) Validate() error {
	switch {
	case !(c.LR > 0 && c.LR <= 2):
		return fmt.Errorf("outer learning rate %v is not above 0 and at most 2", c.LR)
	case !(c.Momentum >= 0 && c.Momentum < 1):
		return fmt.Errorf("outer momentum %v is not at least 0 and below 1", c.Momentum)
	}
	return nil
}

// An Input is one payload and its weight in the mean, in tokens. A weight of 0
// leaves the payload out, and so does a payload of zeros: it neither dilutes the mean
// nor lowers the median.
type Input struct {
	Delta  *codec.Delta
	Weight uint64
}

// Step applies one outer step to params and momentum in place. Both have one value a
// parameter. Without any input that counts they stay as they are. On an error
// nothing has changed. The order of inputs does not matter.
func Step(params, momentum []float32, inputs []Input, cfg Config) error {
	p, err := NewPlan(inputs, cfg)
	if err != nil {
		return err
	}
	if p == nil {
		return nil
	}
	if err := p.Check(params, momentum); err != nil {
		return err
	}
	return p.Apply(params, momentum, 0, p.Chunks())
}

// A Plan is an outer step whose factors are known. Its chunks are independent: a
// caller may Apply disjoint ranges of them from several goroutines, and gets the
// same bits.
type Plan struct {
	cfg    Config
	codec  *codec.Codec
	terms  []term
	weight int64 // Σ w_i
}

type term struct {
	delta  *codec.Delta
	weight uint64
	norm   u128
	factor int64 // f_i
	clip   uint32
}

// NewPlan computes the factors of one outer step. It returns nil if no input
// counts: then nothing is to be done.
func NewPlan(inputs []Input, cfg Config) (*Plan, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if len(inputs) > MaxDeltas {
		return nil, fmt.Errorf("outer step over %d payloads: the limit is %d", len(inputs), MaxDeltas)
	}
	type author struct {
		parent wire.CID
		peer   wire.PeerID
	}
	seen := make(map[author]bool, len(inputs))
	p := &Plan{cfg: cfg}
	for _, in := range inputs {
		if in.Delta == nil {
			return nil, errors.New("outer step: a payload is missing")
		}
		h := in.Delta.Header()
		if p.codec == nil {
			p.codec = in.Delta.Codec()
		}
		if !p.codec.Same(in.Delta.Codec()) {
			return nil, fmt.Errorf("outer step: the payload of %s is of another codec or layout", h.Peer.Short())
		}
		if seen[author{h.Parent, h.Peer}] {
			return nil, fmt.Errorf("outer step: two payloads of %s for one parent", h.Peer.Short())
		}
		seen[author{h.Parent, h.Peer}] = true
		if in.Weight == 0 {
			continue
		}
		hi, lo := in.Delta.Norm()
		if hi|lo == 0 {
			continue
		}
		p.terms = append(p.terms, term{delta: in.Delta, weight: min(in.Weight, MaxWeight), norm: u128{hi, lo}})
	}
	if len(p.terms) == 0 {
		return nil, nil
	}
	p.factors()
	return p, nil
}

// factors fills in factor, clip and weight. The order of terms ends up by norm,
// which nothing depends on.
func (p *Plan) factors() {
	slices.SortFunc(p.terms, func(a, b term) int { return a.norm.cmp(b.norm) })
	var total, largest uint64 // total ≤ 2^15·2^47
	for _, t := range p.terms {
		total += t.weight
		largest = max(largest, t.weight)
	}
	median := p.terms[lowerMedian(p.terms, total)].norm
	for i := range p.terms {
		t := &p.terms[i]
		t.clip = clipFactor(median, t.norm)
		w := max(1, t.weight<<16/largest) // weight < 2^48
		t.factor = int64((uint64(t.clip)*w + 1<<15) >> 16)
		p.weight += int64(w)
	}
}

// lowerMedian returns the first index, in ascending order of norms, up to which
// terms have at least half of the weight.
func lowerMedian(terms []term, total uint64) int {
	sum := uint64(0)
	for i, t := range terms {
		sum += t.weight
		if sum >= total-sum {
			return i
		}
	}
	return len(terms) - 1
}

// clipFactor returns min(2^16, isqrt(⌊t·2^32/n⌋)), or 2^16 where n is 0. Both are
// below 2^127.
func clipFactor(t, n u128) uint32 {
	if t.cmp(n) >= 0 {
		return 1 << 16
	}
	q := uint64(0) // ⌊t·2^32/n⌋ by long division: the remainder t stays below n
	for range 32 {
		t = t.double()
		q <<= 1
		if t.cmp(n) >= 0 {
			t = t.sub(n)
			q |= 1
		}
	}
	return isqrt(q)
}

// isqrt returns ⌊√x⌋ for x < 2^32, bit by bit.
func isqrt(x uint64) uint32 {
	r := uint64(0)
	for b := uint64(1 << 15); b > 0; b >>= 1 {
		if s := r | b; s*s <= x {
			r = s
		}
	}
	return uint32(r)
}

// Chunks returns how many chunks there are to Apply.
func (p *Plan) Chunks() int { return p.codec.Chunks() }

// Check reports parameters or momentum of the wrong length, or not finite.
func (p *Plan) Check(params, momentum []float32) error {
	if n := p.codec.Params(); len(params) != n || len(momentum) != n {
		return fmt.Errorf("outer step: payloads of %d parameters for %d parameters and %d of momentum", n, len(params), len(momentum))
	}
	for _, v := range []struct {
		name string
		x    []float32
	}{{"parameter", params}, {"momentum", momentum}} {
		for i, x := range v.x {
			if math.Float32bits(x)&0x7f800000 == 0x7f800000 {
				return fmt.Errorf("outer step: %s %d is %v", v.name, i, x)
			}
		}
	}
	return nil
}

// Apply does the step on chunks [from, to). params and momentum are the whole vectors,
// which Check has passed.
func (p *Plan) Apply(params, momentum []float32, from, to int) error {
	if n := p.codec.Params(); len(params) != n || len(momentum) != n || from < 0 || to > p.codec.Chunks() {
		return errors.New("outer step: chunks or vectors out of range")
	}
	var acc [codec.MaxChunk]int64
	weight, unit := float64(p.weight), math.Ldexp(1, codec.MinExponent)
	eta, mu := p.cfg.LR, p.cfg.Momentum
	for c := from; c < to; c++ {
		lo, hi := p.codec.Chunk(c)
		sum := acc[:hi-lo]
		clear(sum)
		for i := range p.terms {
			p.terms[i].delta.Accumulate(c, p.terms[i].factor, sum)
		}
		theta, mom := params[lo:hi], momentum[lo:hi]
		for j, s := range sum {
			g := float32(float64(float64(s)/weight) * unit)
			m := float32(mu * mom[j])
			m = float32(m + g)
			n := float32(mu * m)
			n = float32(g + n)
			n = float32(eta * n)
			mom[j] = m
			theta[j] = float32(theta[j] - n)
		}
	}
	return nil
}

// A Contribution says what one payload counted for in a step.
type Contribution struct {
	Header codec.Header
	Share  float64 // its weight over all weights, 0 to 1
	Clip   float64 // what it was shortened by: 1 is not at all
}

// Contributions describes the payloads of the step, for logs and reports.
func (p *Plan) Contributions() []Contribution {
	out := make([]Contribution, len(p.terms))
	total := uint64(0)
	for _, t := range p.terms {
		total += t.weight
	}
	for i, t := range p.terms {
		out[i] = Contribution{t.delta.Header(), float64(t.weight) / float64(total), float64(t.clip) / (1 << 16)}
	}
	slices.SortFunc(out, func(a, b Contribution) int {
		return cmp.Or(a.Header.Peer.Compare(b.Header.Peer), cmp.Compare(a.Header.Parent, b.Header.Parent))
	})
	return out
}

// u128 is an unsigned integer of 128 bits.
type u128 struct{ hi, lo uint64 }

func (a u128) cmp(b u128) int { return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo)) }

func (a u128) double() u128 { return u128{a.hi<<1 | a.lo>>63, a.lo << 1} }

func (a u128) sub(b u128) u128 {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	hi, _ := bits.Sub64(a.hi, b.hi, borrow)
	return u128{hi, lo}
}

package toploc

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// A Sampler draws tokens so that anyone with the logits can say which token had
// to be drawn: the one with the largest logit/Temperature + Gumbel noise (Maddison,
// Tarlow and Minka 2014), where the noise is a function of (job, position, token).
// Tokens are distributed as softmax(logits/Temperature).
type Sampler struct {
	temperature float64
	key         [2]uint64
}

// NewSampler makes the sampler of a job, whose identifier the prover must not be
// able to choose. Temperature 0 takes the likeliest token each time.
func NewSampler(job []byte, temperature float64) (*Sampler, error) {
	if !(temperature >= 0) || math.IsInf(temperature, 0) || temperature > 0 && temperature < 1e-6 {
		return nil, fmt.Errorf("temperature %g: want 0, or 1e-6 and more", temperature)
	}
	sum := sha256.Sum256(append([]byte("toploc sampling 2"), job...))
	return &Sampler{temperature, [2]uint64{binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])}}, nil
}

const golden = 0x9e3779b97f4a7c15 // SplitMix64's increment

// stream returns the noise generator's state at a position: token id reads its
// output number id.
func (s *Sampler) stream(pos uint64) uint64 {
	return mix(mix(s.key[0]+pos*golden) ^ s.key[1])
}

// noise returns a number of SplitMix64's and the Gumbel noise made of it:
// -log(-log(v)) with v = (n + 1/2)/2^52 of its 52 high bits n.
func noise(state uint64, id int) float64 {
	return gumbel(mix(state + (uint64(id)+1)*golden))
}

func gumbel(x uint64) float64 {
	return -math.Log(-math.Log((float64(x>>12) + 0.5) / (1 << 52)))
}

// noiseBound is a cheap upper bound of gumbel(x): v is at most 1 - 2^-(l+1) for
// l leading ones, and -log(1-d) is at least d.
func noiseBound(x uint64) float64 {
	return float64(bits.LeadingZeros64(^x)+1) * math.Ln2
}

// A Choice is what a sampler says of one position.
type Choice struct {
	Token int32 // that had to be drawn
	// Margin is by how much its score is above that of the token in question, 0
	// for itself. With temperature 0 it is in logits.
	Margin float64
}

// Pick draws the token at a position of the sequence, of equal scores the one
// with the lowest id.
func (s *Sampler) Pick(pos uint64, logits []float32) (int32, error) {
	c, err := s.check(pos, logits, -1)
	return c.Token, err
}

// Check says which token had to be drawn and how far from it the given one is.
func (s *Sampler) Check(pos uint64, logits []float32, token int32) (Choice, error) {
	if token < 0 || int(token) >= len(logits) {
		return Choice{}, fmt.Errorf("token %d is not in a vocabulary of %d", token, len(logits))
	}
	return s.check(pos, logits, token)
}

// Without draws the token at a position as if one were not there: the second best.
func (s *Sampler) Without(pos uint64, logits []float32, token int32) (int32, error) {
	best, at := math.Inf(-1), int32(-1)
	state := s.stream(pos)
	for id, z := range logits {
		if math.IsNaN(float64(z)) || math.IsInf(float64(z), 0) {
			return 0, fmt.Errorf("token %d: %w", id, errLogit)
		}
		if int32(id) == token {
			continue
		}
		if v := s.score(state, logits, int32(id)); v > best {
			best, at = v, int32(id)
		}
	}
	if at < 0 {
		return 0, fmt.Errorf("%d logits, none but token %d", len(logits), token)
	}
	return at, nil
}

var errLogit = errors.New("a logit is not finite")

func (s *Sampler) check(pos uint64, logits []float32, token int32) (Choice, error) {
	if len(logits) == 0 || len(logits) > 1<<30 {
		return Choice{}, fmt.Errorf("%d logits", len(logits))
	}
	state := s.stream(pos)
	best, at := math.Inf(-1), int32(0)
	for id, z := range logits {
		if math.IsNaN(float64(z)) || math.IsInf(float64(z), 0) {
			return Choice{}, fmt.Errorf("token %d: %w", id, errLogit)
		}
		v := float64(z)
		if s.temperature > 0 {
			v /= s.temperature
			x := mix(state + (uint64(id)+1)*golden)
			if v+noiseBound(x) <= best {
				continue
			}
			v += gumbel(x)
		}
		if v > best {
			best, at = v, int32(id)
		}
	}
	c := Choice{Token: at}
	if token >= 0 && token != at {
		c.Margin = best - s.score(state, logits, token)
	}
	return c, nil
}

func (s *Sampler) score(state uint64, logits []float32, token int32) float64 {
	v := float64(logits[token])
	if s.temperature > 0 {
		v = v/s.temperature + noise(state, int(token))
	}
	return v
}

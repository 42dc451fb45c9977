package toploc

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// A Projection is what prover and verifier agree on for version 2 records,
// which stand beside those of version 1. Version 1 commits to the largest
// activations only, and in a model with outlier channels those hardly depend on
// the text. Version 2 commits to all of them: each token's row is multiplied by a
// gain a channel, given signs that the job's key draws, summed into Values numbers
// and quantised, of which only the lowest Bits bits are sent. Who has the row
// knows them but for the drift of honest machines; who has not, guesses.
type Projection struct {
	// Values are the numbers a token, a divisor of 16: channel c adds to number
	// c mod Values.
	Values int `json:"values"`
	// Bits of each number are sent, 2 to 8. At 4, an error is seen modulo 16 steps.
	Bits int `json:"bits"`
	// Gain turns an activation into steps of quantisation, one a channel. It
	// decides what counts: a channel whose honest drift is large needs a small one.
	Gain []float32 `json:"gain"`
}

const (
	projMagic   = 0xfffe // no modulus of a version 1 record
	projVersion = 2
	projHeader  = 16
	projUnits   = 64 // a step in the fixed-point numbers that are summed
	projLanes   = 16
)

func (p Projection) validate() error {
	switch {
	case p.Values < 1 || p.Values > projLanes || projLanes%p.Values != 0:
		return fmt.Errorf("projection: %d values a token, want a divisor of %d", p.Values, projLanes)
	case p.Bits < 2 || p.Bits > 8:
		return fmt.Errorf("projection: %d bits a value, want 2 to 8", p.Bits)
	case len(p.Gain) < 1 || len(p.Gain) > 1<<24:
		return fmt.Errorf("projection: %d gains, want one a channel", len(p.Gain))
	}
	for c, g := range p.Gain {
		if !(g >= 0 && g <= 1<<40) {
			return fmt.Errorf("projection: gain of channel %d is %g, want 0 to 2^40", c, g)
		}
	}
	return nil
}

// RecordSize returns the bytes of a record of so many tokens.
func (p Projection) RecordSize(tokens int) int {
	return projHeader + (tokens*p.Values*p.Bits+7)/8
}

// maxProjTokens is what a record's 16-bit count can say.
const maxProjTokens = 1<<16 - 1

// A Projector makes the version 2 records of a sequence, or checks them, while
// the rows come. It holds Values numbers a token of one chunk.
type Projector struct {
	p      Projection
	params Params
	prompt int
	key    [32]byte
	gain   []float32 // signed, in units
	sums   []int32   // of the chunk under way, Values a token, in units
	index  int
}

// NewProjector makes a projector for one job, whose identifier the prover must
// not be able to choose. The first prompt rows are the prompt's; see Params.Chunks.
// The top-k of params plays no part.
func NewProjector(p Projection, params Params, prompt int, job []byte) (*Projector, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	if err := params.validate(); err != nil {
		return nil, err
	}
	if len(p.Gain) != params.Hidden {
		return nil, fmt.Errorf("projection: %d gains for a hidden size of %d", len(p.Gain), params.Hidden)
	}
	if n := max(prompt, params.Batch); prompt < 0 || n > maxProjTokens {
		return nil, fmt.Errorf("projection: chunks of %d tokens, want 0 to %d", n, maxProjTokens)
	}
	pr := &Projector{p: p, params: params, prompt: prompt, key: p.key(job), gain: make([]float32, len(p.Gain))}
	for c := range pr.gain {
		pr.gain[c] = p.Gain[c] * projUnits
	}
	// Bit c of SHA-256(key ‖ BE32(0)) ‖ SHA-256(key ‖ BE32(1)) ‖ …, the lowest
	// of a byte first, negates channel c.
	for c := 0; c < len(pr.gain); c += 256 {
		bits := sha256.Sum256(binary.BigEndian.AppendUint32(pr.key[:], uint32(c/256)))
		for i := range min(256, len(pr.gain)-c) {
			if bits[i/8]>>(i%8)&1 != 0 {
				pr.gain[c+i] = -pr.gain[c+i]
			}
		}
	}
	return pr, nil
}

// key binds a job to the parameters, so that records made under others differ
// in their tag.
func (p Projection) key(job []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte("toploc projection 2"))
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(len(job)))
	h.Write(b[:])
	h.Write(job)
	h.Write([]byte{byte(p.Values), byte(p.Bits)})
	for _, g := range p.Gain {
		binary.BigEndian.PutUint32(b[:4], math.Float32bits(g))
		h.Write(b[:4])
	}
	return [32]byte(h.Sum(nil))
}

// tag names the job and the chunk in a record.
func (pr *Projector) tag(chunk int) [8]byte {
	b := append([]byte("chunk"), pr.key[:]...)
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(b, uint64(chunk)))
	return [8]byte(sum[:8])
}

// errNotFinite reports NaN or infinity, of which no number can be made.
var errNotFinite = errors.New("an activation is NaN or infinite")

// Push takes the next token's row and says whether it completes a chunk: then
// Record or Check must be called before the next Push.
func (pr *Projector) Push(row []uint16) (bool, error) {
	if len(row) != len(pr.gain) {
		return false, fmt.Errorf("row has %d activations, want %d", len(row), len(pr.gain))
	}
	if i := above(row, 0x7f7f); i < len(row) {
		return false, fmt.Errorf("token %d of chunk %d, channel %d: %w", len(pr.sums)/pr.p.Values, pr.index, i, errNotFinite)
	}
	var lanes [projLanes]int32
	project(&lanes, row, pr.gain)
	for l := pr.p.Values; l < projLanes; l++ {
		lanes[l%pr.p.Values] += lanes[l]
	}
	pr.sums = append(pr.sums, lanes[:pr.p.Values]...)
	return len(pr.sums)/pr.p.Values == pr.size(), nil
}

// size is that of the chunk under way, where the sequence does not end in it.
func (pr *Projector) size() int {
	if pr.index == 0 && pr.prompt > 0 {
		return pr.prompt
	}
	return pr.params.Batch
}

// Tokens is how many rows of the chunk under way were taken.
func (pr *Projector) Tokens() int { return len(pr.sums) / pr.p.Values }

func (pr *Projector) next() {
	pr.sums = pr.sums[:0]
	pr.index++
}

// Record ends the chunk under way and returns its record, nil if it has no token:
//
//	BE16(0xfffe) ‖ 2 ‖ Bits ‖ Values ‖ 0 ‖ BE16(tokens) ‖ tag (8) ‖ numbers
//
// the numbers in order of tokens, packed highest bit first, zeros to the next byte.
func (pr *Projector) Record() []byte {
	n := pr.Tokens()
	if n == 0 {
		return nil
	}
	b := make([]byte, projHeader, pr.p.RecordSize(n))
	pr.header(b, n)
	acc, have := uint32(0), 0
	for _, s := range pr.sums {
		acc = acc<<pr.p.Bits | uint32(s>>6)&(1<<pr.p.Bits-1)
		for have += pr.p.Bits; have >= 8; have -= 8 {
			b = append(b, byte(acc>>(have-8)))
		}
	}
	if have > 0 {
		b = append(b, byte(acc<<(8-have)))
	}
	pr.next()
	return b
}

func (pr *Projector) header(b []byte, tokens int) {
	binary.BigEndian.PutUint16(b, projMagic)
	b[2], b[3], b[4], b[5] = projVersion, byte(pr.p.Bits), byte(pr.p.Values), 0
	binary.BigEndian.PutUint16(b[6:], uint16(tokens))
	tag := pr.tag(pr.index)
	copy(b[8:], tag[:])
}

// A ProjectionHeader is what a version 2 record says of itself.
type ProjectionHeader struct {
	Bits, Values, Tokens int
	Tag                  [8]byte
}

// ParseProjectionHeader reads a version 2 record's header and checks the record's
// size against it. ok is false for what does not begin as such a record does.
func ParseProjectionHeader(record []byte) (h ProjectionHeader, ok bool, err error) {
	if len(record) < 2 || binary.BigEndian.Uint16(record) != projMagic {
		return h, false, nil
	}
	if len(record) < projHeader {
		return h, true, fmt.Errorf("projection record has %d bytes, its header alone %d", len(record), projHeader)
	}
	h = ProjectionHeader{int(record[3]), int(record[4]), int(binary.BigEndian.Uint16(record[6:])), [8]byte(record[8:])}
	p := Projection{Values: h.Values, Bits: h.Bits, Gain: []float32{1}}
	if err := p.validate(); err != nil {
		return h, true, err
	}
	switch {
	case record[2] != projVersion || record[5] != 0:
		return h, true, fmt.Errorf("projection record of version %d", record[2])
	case h.Tokens == 0 || len(record) != p.RecordSize(h.Tokens):
		return h, true, fmt.Errorf("projection record has %d bytes, want %d for %d tokens", len(record), p.RecordSize(h.Tokens), h.Tokens)
	}
	return h, true, nil
}

// A ProjectionResult compares a version 2 record with the verifier's own rows:
// by how many steps of quantisation a number is off, round the circle of 2^Bits.
// Honest rounding alone makes a mean of 0.25, guessing one of 2^Bits/4.
type ProjectionResult struct {
	Mean       float64 `json:"proj_err_mean"`
	WorstToken float64 `json:"proj_err_worst_token"` // the largest mean of one token's
}

// ProjectionLimits are the most that an honest chunk may deviate.
type ProjectionLimits struct {
	Mean       float64 `json:"proj_err_mean"`
	WorstToken float64 `json:"proj_err_worst_token"`
}

// Check returns what of r is over the limits, nil if nothing is.
func (l ProjectionLimits) Check(r ProjectionResult) error {
	switch {
	case !(r.Mean <= l.Mean):
		return fmt.Errorf("projections are off by %.3g steps, limit %.3g", r.Mean, l.Mean)
	case !(r.WorstToken <= l.WorstToken):
		return fmt.Errorf("a token's projections are off by %.3g steps, limit %.3g", r.WorstToken, l.WorstToken)
	}
	return nil
}

// Check ends the chunk under way, of which Push took the verifier's own rows,
// and compares a prover's record with it. An error says that the record is none
// of this job, chunk and size. Check judges nothing else: see ProjectionLimits.
func (pr *Projector) Check(record []byte) (ProjectionResult, error) {
	defer pr.next()
	n := pr.Tokens()
	r := ProjectionResult{Mean: float64(uint(1) << pr.p.Bits), WorstToken: float64(uint(1) << pr.p.Bits)}
	if n == 0 {
		return r, ErrEmpty
	}
	if want := pr.p.RecordSize(n); len(record) != want {
		return r, fmt.Errorf("projection record has %d bytes, want %d for %d tokens", len(record), want, n)
	}
	var head [projHeader]byte
	pr.header(head[:], n)
	if [8]byte(record) != [8]byte(head[:]) {
		return r, fmt.Errorf("projection record begins with %x, want %x", record[:8], head[:8])
	}
	if [8]byte(record[8:]) != [8]byte(head[8:]) {
		return r, errors.New("projection record of another job, chunk or projection")
	}
	body := record[projHeader:]
	span := int32(projUnits) << pr.p.Bits
	acc, have := uint32(0), 0
	sum, token, worst := 0, 0, 0
	for i, own := range pr.sums {
		for have < pr.p.Bits {
			acc, body, have = acc<<8|uint32(body[0]), body[1:], have+8
		}
		have -= pr.p.Bits
		q := int32(acc >> have & (1<<pr.p.Bits - 1))
		e := (q*projUnits + projUnits/2 - own) & (span - 1)
		e = min(e, span-e)
		sum += int(e)
		token += int(e)
		if (i+1)%pr.p.Values == 0 {
			worst, token = max(worst, token), 0
		}
	}
	if acc&(1<<have-1) != 0 {
		return r, errors.New("projection record ends with bits that are not zero")
	}
	r.Mean = float64(sum) / float64(projUnits*len(pr.sums))
	r.WorstToken = float64(worst) / float64(projUnits*pr.p.Values)
	return r, nil
}

// projectGeneric adds to lane c mod 16 activation c times its gain, rounded to
// the nearest integer, ties to even, of those within ±2^30.
func projectGeneric(lanes *[projLanes]int32, row []uint16, gain []float32) {
	for c, b := range row {
		x := math.Float32frombits(uint32(b)<<16) * gain[c]
		x = min(max(x, -1<<30), 1<<30)
		lanes[c%projLanes] += int32(math.RoundToEven(float64(x)))
	}
}

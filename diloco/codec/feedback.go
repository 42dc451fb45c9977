package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
)

// A Feedback is what one peer still owes the swarm: the part e of its
// pseudo-gradients that no payload carried, because rounding left it out or
// because the payload was never merged (error feedback, Seide et al. 2014;
// Karimireddy et al. 2019, algorithm 1). Each payload is made of u = Δ + e.
//
//	Encode   e ← β·(u − payload)
//	Merged   the payload is in a commit: nothing is owed for it
//	Fold     the payload will never be merged: e ← e + payload
//
// β is 1 for int4 and 0.95 for topk, as in SparseLoCo, which multiplies by it one round
// later: here what Fold takes back does not decay. For int8, whose rounding costs nothing
// measurable, β is 0.
//
// A Feedback remembers the parents of payloads that were neither merged nor
// folded, so that doing either twice changes nothing. Its byte form survives a
// restart. Write it (journal.WriteFile) after the payload's block is stored and
// before its Delta is signed. After a restart, Fold what is Outstanding but was
// never signed, then Encode anew.
//
// Not safe for concurrent use.
type Feedback struct {
	codec *Codec
	e     []float32 // nil is all zero
	out   []wire.CID
}

// MaxOutstanding bounds the payloads of one peer that are neither merged nor folded.
const MaxOutstanding = 64

// NewFeedback returns a Feedback that owes nothing.
func NewFeedback(c *Codec) *Feedback { return &Feedback{codec: c} }

// beta returns how much of what rounding leaves out is kept.
func (c *Codec) beta() float32 {
	switch c.spec.Kind {
	case Int4:
		return 1
	case TopK:
		return 0.95
	}
	return 0
}

// Encode makes the payload of the pseudo-gradient delta and of what was owed.
// delta is overwritten with u, which spares a copy of the model. On an error
// the Feedback is unchanged. There is one outstanding payload a parent.
func (f *Feedback) Encode(h Header, delta []float32) (*Delta, error) {
	if slices.Contains(f.out, h.Parent) {
		return nil, fmt.Errorf("encode: a payload for parent %s is outstanding: fold it first", h.Parent.Short())
	}
	if len(f.out) == MaxOutstanding {
		return nil, fmt.Errorf("encode: %d payloads are outstanding: mark them merged or fold them", len(f.out))
	}
	if len(delta) != f.codec.params {
		return nil, fmt.Errorf("encode: %d values for %d parameters", len(delta), f.codec.params)
	}
	d, rest, err := f.codec.EncodeOwed(h, delta, f.e)
	if err != nil {
		return nil, err
	}
	f.e = rest
	f.out = append(f.out, h.Parent)
	return d, nil
}

// EncodeOwed makes the payload of u = delta + owed, and returns with it what is
// owed after it, β·(u − payload); nil stands for nothing. delta is overwritten
// with u, owed is not touched. It is Feedback's rule by itself, for whoever checks it.
func (c *Codec) EncodeOwed(h Header, delta, owed []float32) (d *Delta, rest []float32, err error) {
	if len(delta) != c.params || owed != nil && len(owed) != c.params {
		return nil, nil, fmt.Errorf("encode: %d values and %d owed for %d parameters", len(delta), len(owed), c.params)
	}
	for i, e := range owed {
		delta[i] = delta[i] + e
	}
	if d, err = c.Encode(h, delta); err != nil {
		return nil, nil, err
	}
	beta := c.beta()
	if beta == 0 {
		return d, nil, nil
	}
	rest = slices.Clone(delta)
	if err := d.SubtractFrom(rest); err != nil {
		return nil, nil, err
	}
	for i := range rest {
		rest[i] = float32(beta * rest[i])
	}
	return d, rest, nil
}

// Merged notes that the payload for that parent is in a commit. It reports
// whether the payload was outstanding.
func (f *Feedback) Merged(parent wire.CID) bool {
	i := slices.Index(f.out, parent)
	if i < 0 {
		return false
	}
	f.out = slices.Delete(f.out, i, i+1)
	return true
}

// Fold takes back a payload that will never be merged, so that the next one
// carries its content. It reports whether the payload was outstanding; if not,
// nothing changes.
func (f *Feedback) Fold(d *Delta) (bool, error) {
	if !d.codec.Same(f.codec) {
		return false, errors.New("fold: the payload is of another codec or layout")
	}
	if !f.Merged(d.header.Parent) {
		return false, nil
	}
	if f.e == nil {
		f.e = make([]float32, f.codec.params)
	}
	return true, d.AddTo(f.e)
}

// Outstanding returns the parents of the payloads that were neither merged nor folded,
// oldest first.
func (f *Feedback) Outstanding() []wire.CID { return slices.Clone(f.out) }

// Norm returns the Euclidean norm of what is owed, for status and metrics.
func (f *Feedback) Norm() float64 {
	s := 0.0
	for _, e := range f.e {
		s += float64(e) * float64(e)
	}
	return math.Sqrt(s)
}

var (
	feedbackMagic = [4]byte{'S', 'H', 'F', 'B'}
	castagnoli    = crc32.MakeTable(crc32.Castagnoli)
)

// feedbackHead is the length of magic, version, kind, chunk, density, layout, flag and count.
const feedbackHead = 4 + 1 + 1 + 2 + 2 + 32 + 1 + 1

// MarshalBinary returns the Feedback's bytes, integers little-endian:
//
//	"SHFB" ‖ version 1 ‖ kind ‖ u16 chunk ‖ u16 density ‖ layout hash ‖
//	u8 1 if e is present ‖ u8 outstanding ‖ 36 bytes a parent ‖
//	float32 a parameter, if present ‖ CRC-32C of all before
func (f *Feedback) MarshalBinary() ([]byte, error) {
	s := f.codec.spec
	b := make([]byte, 0, feedbackHead+len(f.out)*cidSize+4*len(f.e)+4)
	b = append(b, feedbackMagic[:]...)
	b = append(b, 1, byte(s.Kind))
	b = binary.LittleEndian.AppendUint16(b, uint16(s.Chunk))
	b = binary.LittleEndian.AppendUint16(b, uint16(s.Density))
	b = append(b, f.codec.hash[:]...)
	present := byte(0)
	if f.e != nil {
		present = 1
	}
	b = append(b, present, byte(len(f.out)))
	for _, p := range f.out {
		b = append(b, p...)
	}
	for _, e := range f.e {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(e))
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// UnmarshalBinary replaces f, which must come from NewFeedback with the run's codec,
// by what MarshalBinary wrote. On an error f is unchanged; it says whether the bytes are
// damaged or belong to another codec or layout.
func (f *Feedback) UnmarshalBinary(b []byte) error {
	limit := feedbackHead + MaxOutstanding*cidSize + 4*f.codec.params + 4
	if len(b) < feedbackHead+4 || len(b) > limit {
		return fmt.Errorf("feedback: %d bytes, want %d to %d", len(b), feedbackHead+4, limit)
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return errors.New("feedback: checksum does not match: the file is damaged")
	}
	if [4]byte(body) != feedbackMagic || body[4] != 1 {
		return errors.New("feedback: not the bytes of a feedback of version 1")
	}
	s := Spec{Kind(body[5]), int(binary.LittleEndian.Uint16(body[6:])), int(binary.LittleEndian.Uint16(body[8:]))}
	if s != f.codec.spec || [32]byte(body[10:]) != f.codec.hash {
		return errors.New("feedback: it belongs to another codec or layout")
	}
	present, n := body[42], int(body[43])
	values := 0
	if present == 1 {
		values = f.codec.params
	}
	body = body[feedbackHead:]
	if present > 1 || n > MaxOutstanding || len(body) != n*cidSize+4*values {
		return errors.New("feedback: its length does not match its content")
	}
	var out []wire.CID
	for range n {
		c, err := wire.CIDFromBytes(body[:cidSize])
		if err != nil {
			return fmt.Errorf("feedback: outstanding payload: %w", err)
		}
		if slices.Contains(out, c) {
			return errors.New("feedback: an outstanding payload is named twice")
		}
		out = append(out, c)
		body = body[cidSize:]
	}
	var e []float32
	if present == 1 {
		e = make([]float32, values)
		for i := range e {
			e[i] = math.Float32frombits(binary.LittleEndian.Uint32(body[4*i:]))
		}
		if i := nonFinite(e); i >= 0 {
			return fmt.Errorf("feedback: value %d is %v", i, e[i])
		}
	}
	f.e, f.out = e, out
	return nil
}

package toploc

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// A Proof commits to the top-k activations of one chunk. Version 1 record:
//
//	BE16(modulus) ‖ BE16(coefficient 0) ‖ … ‖ BE16(coefficient k-1)
//
// The polynomial maps position mod Modulus to the bfloat16 bits at that position.
type Proof struct {
	Modulus uint16
	Coeffs  []uint16 // k of them, lowest degree first, each below Prime
}

// RecordSize returns the bytes of a version 1 record for k activations.
func RecordSize(k int) int { return 2 + 2*k }

// ErrNull reports the reference's null proof: it stands for a failed build.
var ErrNull = errors.New("null proof: its builder failed")

// AppendBinary appends the version 1 record.
func (p *Proof) AppendBinary(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, p.Modulus)
	for _, c := range p.Coeffs {
		b = binary.BigEndian.AppendUint16(b, c)
	}
	return b
}

// Base64 returns the record in standard base64 with padding.
func (p *Proof) Base64() string {
	return base64.StdEncoding.EncodeToString(p.AppendBinary(make([]byte, 0, RecordSize(len(p.Coeffs)))))
}

// ParseProof reads a version 1 record for top-k k, and accepts only what an
// honest builder writes: the exact length, coefficients in the field, a modulus
// of 1 to Prime. Whether the modulus is plausible is Strict's to judge.
func ParseProof(b []byte, k int) (*Proof, error) {
	if len(b) != RecordSize(k) {
		return nil, fmt.Errorf("record has %d bytes, want %d for top-k %d", len(b), RecordSize(k), k)
	}
	p := &Proof{Modulus: binary.BigEndian.Uint16(b), Coeffs: make([]uint16, k)}
	zero := p.Modulus == 0
	for i := range p.Coeffs {
		c := binary.BigEndian.Uint16(b[2+2*i:])
		if c >= Prime {
			return nil, fmt.Errorf("coefficient %d is %d, outside the field of %d", i, c, Prime)
		}
		zero = zero && c == 0
		p.Coeffs[i] = c
	}
	if zero {
		return nil, ErrNull
	}
	if p.Modulus == 0 || p.Modulus > Prime {
		return nil, fmt.Errorf("modulus is %d, want 1 to %d", p.Modulus, Prime)
	}
	return p, nil
}

// ParseBase64 reads one record in canonical standard base64.
func ParseBase64(s string, k int) (*Proof, error) {
	if want := base64.StdEncoding.EncodedLen(RecordSize(k)); len(s) != want {
		return nil, fmt.Errorf("record has %d base64 characters, want %d for top-k %d", len(s), want, k)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	return ParseProof(b, k)
}

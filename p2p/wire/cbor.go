package wire

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// cbor options that make DAG-CBOR of plain Go structs. Fields are encoded as
// maps under their `cbor:"name"` tags; use omitempty for what may be absent.
var (
	encMode = must(cbor.EncOptions{
		Sort:          cbor.SortLengthFirst,
		ShortestFloat: cbor.ShortestFloatNone, // DAG-CBOR: always 64 bits, see float64 below
		NaNConvert:    cbor.NaNConvertReject,
		InfConvert:    cbor.InfConvertReject,
		IndefLength:   cbor.IndefLengthForbidden,
		NilContainers: cbor.NilContainerAsEmpty,
		TextMarshaler: cbor.TextMarshalerNone,
	}.EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   16,
		MaxArrayElements:  1 << 17,
		MaxMapPairs:       1 << 12,
		NaN:               cbor.NaNDecodeForbidden,
		Inf:               cbor.InfDecodeForbidden,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic("wire: " + err.Error()) // wrong options: a bug that the first test finds
	}
	return v
}

// Marshal returns the canonical DAG-CBOR of v: a struct with `cbor:"name"`
// tags whose floats, if any, are float64.
func Marshal(v any) ([]byte, error) { return encMode.Marshal(v) }

// ErrNotCanonical is returned for bytes that decode but are not the one
// encoding of their value.
var ErrNotCanonical = errors.New("bytes are not canonical DAG-CBOR")

// Unmarshal decodes canonical DAG-CBOR into v, a pointer to a struct. Unknown
// keys, missing canonical form, trailing bytes, NaN and infinities are errors.
// The caller bounds len(b) first.
func Unmarshal(b []byte, v any) error {
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	again, err := Marshal(v)
	if err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	if !bytes.Equal(again, b) {
		return ErrNotCanonical
	}
	return nil
}

// tag 42, then a byte string that begins with the zero of the multibase prefix.
var cidHead = []byte{0xd8, 0x2a}

// MarshalCBOR encodes a CID as DAG-CBOR does; undefined is null.
func (c CID) MarshalCBOR() ([]byte, error) {
	if c == "" {
		return []byte{0xf6}, nil
	}
	b, err := encMode.Marshal(append([]byte{0}, c...))
	if err != nil {
		return nil, err
	}
	return append(cidHead[:2:2], b...), nil
}

// UnmarshalCBOR decodes tag 42 or null.
func (c *CID) UnmarshalCBOR(b []byte) error {
	if len(b) == 1 && b[0] == 0xf6 {
		*c = ""
		return nil
	}
	if !bytes.HasPrefix(b, cidHead) {
		return errors.New("not a CID (tag 42)")
	}
	var raw []byte
	if err := decMode.Unmarshal(b[2:], &raw); err != nil {
		return fmt.Errorf("CID: %w", err)
	}
	if len(raw) == 0 || raw[0] != 0 {
		return errors.New("CID without the identity multibase prefix")
	}
	v, err := CIDFromBytes(raw[1:])
	*c = v
	return err
}

// MarshalCBOR encodes the peer's 33 bytes.
func (p PeerID) MarshalCBOR() ([]byte, error) { return encMode.Marshal(p[:]) }

// UnmarshalCBOR decodes exactly 33 bytes.
func (p *PeerID) UnmarshalCBOR(b []byte) error {
	var raw []byte
	if err := decMode.Unmarshal(b, &raw); err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	if len(raw) != len(p) {
		return fmt.Errorf("peer key has %d bytes, want %d", len(raw), len(p))
	}
	*p = PeerID(raw)
	return nil
}

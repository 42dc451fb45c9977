package diloco

import (
	"errors"
	"fmt"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Names are the IDs of envelopes that a vote names. Every ID has the same head
// (CIDv1, DAG-CBOR, sha2-256), so that only the digests travel, 32 bytes each in one
// byte string: a commit holds up to MaxRoster × MaxNames of them.
type Names []wire.CID

const (
	nameHead = "\x01\x71\x12\x20"
	nameSize = 32
)

// MarshalCBOR encodes the digests one after another.
func (n Names) MarshalCBOR() ([]byte, error) {
	b := make([]byte, 0, nameSize*len(n))
	for _, id := range n {
		if len(id) != len(nameHead)+nameSize || string(id[:len(nameHead)]) != nameHead {
			return nil, fmt.Errorf("%s is not the ID of an envelope", id.Short())
		}
		b = append(b, id[len(nameHead):]...)
	}
	return wire.Marshal(b)
}

// UnmarshalCBOR decodes whole digests.
func (n *Names) UnmarshalCBOR(b []byte) error {
	var raw []byte
	if err := wire.Unmarshal(b, &raw); err != nil {
		return fmt.Errorf("names: %w", err)
	}
	if len(raw)%nameSize != 0 {
		return errors.New("names are not whole digests")
	}
	*n = nil
	for ; len(raw) > 0; raw = raw[nameSize:] {
		*n = append(*n, wire.CID(nameHead+string(raw[:nameSize])))
	}
	return nil
}

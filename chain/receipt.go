package chain

import (
	"errors"
	"fmt"

	"github.com/shoalnet/shoal/p2p/wire"
)

// A Kind says which work a receipt is for.
type Kind uint8

// The kinds of work.
const (
	Training Kind = iota
	Rollout
	Validation
)

func (k Kind) String() string {
	if k > Validation {
		return "unknown"
	}
	return [...]string{"training", "rollout", "validation"}[k]
}

// A Receipt is a worker's signed word for one piece of work. Whether the work
// was done is for validators to say; a receipt says who is to be paid for it,
// and that it is counted once.
type Receipt struct {
	Run     Hash    `cbor:"run" json:"run"`
	Epoch   uint64  `cbor:"epoch" json:"epoch"`
	Worker  Address `cbor:"worker" json:"worker"` // a registered hot key
	Kind    Kind    `cbor:"kind" json:"kind"`
	Subject Hash    `cbor:"subject" json:"subject"` // digest of the CID of what was made or checked
	Units   uint64  `cbor:"units" json:"units"`     // tokens trained on, tokens sampled, audits done; above 0
}

// An Entry is one signed receipt at its place in an epoch.
type Entry struct {
	Index   uint64  `cbor:"index" json:"index"`
	Receipt Receipt `cbor:"receipt" json:"receipt"`
	Sig     []byte  `cbor:"sig" json:"sig"` // 65 bytes over Book.ReceiptDigest
}

// maxEntry bounds one encoded Entry, in bytes.
const maxEntry = 512

// SignReceipt signs r, whose Worker it sets, with a hot key.
func (b Book) SignReceipt(k *wire.Key, r Receipt) Entry {
	r.Worker = AddressOf(k)
	return Entry{Receipt: r, Sig: SignDigest(k, b.ReceiptDigest(&r))}
}

// Check reports why e cannot be paid, whoever is asked: what Disputes.proveReceipt
// would convict for, except that it does not know which keys are registered.
func (b Book) Check(e *Entry) error {
	switch r := &e.Receipt; {
	case r.Kind > Validation:
		return fmt.Errorf("receipt %d: kind %d is unknown", e.Index, r.Kind)
	case r.Units == 0:
		return fmt.Errorf("receipt %d is for nothing: units are 0", e.Index)
	}
	who, err := Recover(b.ReceiptDigest(&e.Receipt), e.Sig)
	if err != nil {
		return fmt.Errorf("receipt %d: %w", e.Index, err)
	}
	if who != e.Receipt.Worker {
		return fmt.Errorf("receipt %d is signed by %s and not by its worker %s", e.Index, who, e.Receipt.Worker)
	}
	return nil
}

// Leaf returns the entry's leaf in the tree of receipts.
func (b Book) Leaf(e *Entry) Hash {
	d, s := b.ReceiptDigest(&e.Receipt), keccak(e.Sig)
	return leafOf(word(e.Index), d[:], s[:])
}

// Encode returns the canonical bytes of e; their CID names the receipt.
func (e *Entry) Encode() ([]byte, error) { return wire.Marshal(e) }

// DecodeEntry parses what Encode wrote. It does not check the signature.
func DecodeEntry(b []byte) (*Entry, error) {
	if len(b) > maxEntry {
		return nil, fmt.Errorf("receipt of %d bytes is over the limit of %d", len(b), maxEntry)
	}
	e := new(Entry)
	if err := wire.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	if len(e.Sig) != 65 {
		return nil, fmt.Errorf("receipt's signature has %d bytes, want 65", len(e.Sig))
	}
	return e, nil
}

// MarshalCBOR encodes a hash as 32 bytes.
func (h Hash) MarshalCBOR() ([]byte, error) { return wire.Marshal(h[:]) }

// UnmarshalCBOR decodes exactly 32 bytes.
func (h *Hash) UnmarshalCBOR(b []byte) error { return fixed(b, h[:]) }

// MarshalCBOR encodes an address as 20 bytes.
func (a Address) MarshalCBOR() ([]byte, error) { return wire.Marshal(a[:]) }

// UnmarshalCBOR decodes exactly 20 bytes.
func (a *Address) UnmarshalCBOR(b []byte) error { return fixed(b, a[:]) }

func fixed(b, into []byte) error {
	var raw []byte
	if err := wire.Unmarshal(b, &raw); err != nil {
		return err
	}
	if len(raw) != len(into) {
		return errors.New("byte string has the wrong length")
	}
	copy(into, raw)
	return nil
}

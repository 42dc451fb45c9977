package wire

import (
	"errors"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
)

// A Signed is one message of one peer about one run.
type Signed struct {
	Kind Kind   `cbor:"kind" json:"kind"`
	Run  CID    `cbor:"run" json:"run"`   // the manifest's CID
	From PeerID `cbor:"from" json:"from"` // who signed
	Body []byte `cbor:"body" json:"body"` // canonical DAG-CBOR of the kind's body
	Sig  []byte `cbor:"sig" json:"sig"`   // 65 bytes: r ‖ s ‖ v
}

// A Key signs for one peer.
type Key struct {
	priv *secp256k1.PrivateKey
	peer PeerID
}

// NewKey makes a Key of a 32-byte secret.
func NewKey(secret []byte) (*Key, error) {
	var s secp256k1.ModNScalar
	if len(secret) != 32 || s.SetByteSlice(secret) || s.IsZero() {
		return nil, errors.New("a secp256k1 secret is 32 bytes, above 0 and below the curve's order")
	}
	k := secp256k1.NewPrivateKey(&s)
	return &Key{k, PeerID(k.PubKey().SerializeCompressed())}, nil
}

// Peer returns whom the key signs for.
func (k *Key) Peer() PeerID { return k.peer }

// Secret returns the 32-byte secret.
func (k *Key) Secret() []byte { return k.priv.Serialize() }

// Sign wraps body, canonical bytes of the given kind, in a signed envelope.
// Signatures are deterministic (RFC 6979): the same body gives the same bytes.
func (k *Key) Sign(kind Kind, run CID, body []byte) Signed {
	m := Signed{Kind: kind, Run: run, From: k.peer, Body: body}
	c := ecdsa.SignCompact(k.priv, m.digest(), false) // v ‖ r ‖ s, v in {27, 28}
	m.Sig = append(c[1:], c[0])
	return m
}

func (m *Signed) digest() []byte {
	inner := keccak([]byte("shoal/1"), []byte{byte(m.Kind), byte(len(m.Run))}, []byte(m.Run), m.Body)
	return keccak([]byte("\x19Ethereum Signed Message:\n32"), inner)
}

// Verify checks the signature against From. It does not look into Body.
func (m *Signed) Verify() error {
	who, err := m.Signer()
	if err != nil {
		return err
	}
	if who != m.From {
		return fmt.Errorf("signature is not by %s", m.From)
	}
	return nil
}

// Signer recovers who signed, whatever From says.
func (m *Signed) Signer() (PeerID, error) {
	if len(m.Sig) != 65 || len(m.Run) > 64 || len(m.Body) > MaxBody {
		return PeerID{}, errors.New("envelope is out of bounds")
	}
	v := m.Sig[64]
	if v != 27 && v != 28 {
		return PeerID{}, fmt.Errorf("signature's recovery value is %d, want 27 or 28", v)
	}
	var s secp256k1.ModNScalar
	if s.SetByteSlice(m.Sig[32:64]) || s.IsOverHalfOrder() {
		return PeerID{}, errors.New("signature is malleable (high s)")
	}
	pub, _, err := ecdsa.RecoverCompact(append([]byte{v}, m.Sig[:64]...), m.digest())
	if err != nil {
		return PeerID{}, fmt.Errorf("signature: %w", err)
	}
	return PeerID(pub.SerializeCompressed()), nil
}

// ID returns the CID of the envelope without its signature: what was said, by
// whom, about which run.
func (m *Signed) ID() CID {
	u := *m
	u.Sig = nil
	b, err := Marshal(&u)
	if err != nil { // cannot happen: every field has a fixed encoding
		return ""
	}
	return SumCID(CodecDagCBOR, b)
}

// Encode returns the canonical bytes of m.
func (m *Signed) Encode() ([]byte, error) { return Marshal(m) }

// Decode parses one envelope and checks bounds and signature.
func Decode(b []byte) (*Signed, error) {
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("message of %d bytes is over the limit of %d", len(b), MaxMessage)
	}
	m := new(Signed)
	if err := Unmarshal(b, m); err != nil {
		return nil, err
	}
	if err := m.Verify(); err != nil {
		return nil, err
	}
	return m, nil
}

package wire

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/ipfs/go-cid"
	"github.com/mr-tron/base58"
	"github.com/multiformats/go-multihash"
	"golang.org/x/crypto/sha3"
)

// A PeerID is a compressed secp256k1 public key. Its text form is the libp2p
// peer ID of that key (16Uiu2…), which contains the key itself.
type PeerID [33]byte

// peerPrefix turns a compressed key into libp2p's peer ID: an identity
// multihash (00, length 37) over the protobuf {1: type secp256k1 (2), 2: key}.
var peerPrefix = []byte{0x00, 0x25, 0x08, 0x02, 0x12, 0x21}

// String returns the libp2p peer ID.
func (p PeerID) String() string { return base58.Encode(append(peerPrefix[:6:6], p[:]...)) }

// Short returns the last six characters of the peer ID, for logs and tables.
func (p PeerID) Short() string {
	s := p.String()
	return s[len(s)-6:]
}

// IsZero reports whether p is unset.
func (p PeerID) IsZero() bool { return p == PeerID{} }

// Compare orders peers by the bytes of their keys.
func (p PeerID) Compare(q PeerID) int { return bytes.Compare(p[:], q[:]) }

// ParsePeer parses the text form of a peer ID and checks that it holds a
// secp256k1 key.
func ParsePeer(s string) (PeerID, error) {
	if len(s) > 80 {
		return PeerID{}, errors.New("peer ID is too long")
	}
	b, err := base58.Decode(s)
	if err != nil {
		return PeerID{}, fmt.Errorf("peer ID %q: %w", s, err)
	}
	if len(b) != 39 || !bytes.HasPrefix(b, peerPrefix) {
		return PeerID{}, fmt.Errorf("peer ID %q does not hold a secp256k1 key (it must begin with 16Uiu2)", s)
	}
	p := PeerID(b[6:])
	if _, err := secp256k1.ParsePubKey(p[:]); err != nil {
		return PeerID{}, fmt.Errorf("peer ID %q: %w", s, err)
	}
	return p, nil
}

// Address returns the 20-byte EVM address of the peer's key.
func (p PeerID) Address() ([20]byte, error) {
	k, err := secp256k1.ParsePubKey(p[:])
	if err != nil {
		return [20]byte{}, fmt.Errorf("peer %x: %w", p[:4], err)
	}
	h := keccak(k.SerializeUncompressed()[1:])
	return [20]byte(h[12:]), nil
}

// MarshalText and UnmarshalText use the libp2p text form.
func (p PeerID) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText parses the libp2p text form.
func (p *PeerID) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePeer(string(b))
	return err
}

// A CID is a binary CIDv1 as a string: comparable, usable as a map key and
// ordered by its bytes. The zero value is undefined.
type CID string

// ParseCID parses the text form of a CID.
func ParseCID(s string) (CID, error) {
	if len(s) > 128 {
		return "", errors.New("CID is too long")
	}
	c, err := cid.Decode(s)
	if err != nil {
		return "", fmt.Errorf("CID %q: %w", s, err)
	}
	return CIDFromBytes(c.Bytes())
}

// CIDFromBytes checks that b is one whole CIDv1 with a sha2-256 multihash.
func CIDFromBytes(b []byte) (CID, error) {
	if len(b) > 64 {
		return "", errors.New("CID is too long")
	}
	n, c, err := cid.CidFromBytes(b)
	if err != nil {
		return "", fmt.Errorf("CID: %w", err)
	}
	p := c.Prefix()
	if n != len(b) || p.Version != 1 || p.MhType != multihash.SHA2_256 || p.MhLength != 32 {
		return "", errors.New("CID is not a CIDv1 with sha2-256")
	}
	// Varints have more than one encoding; only the shortest is a CID of ours.
	if !bytes.Equal(c.Bytes(), b) || !bytes.Equal(cid.NewCidV1(p.Codec, c.Hash()).Bytes(), b) {
		return "", errors.New("CID is not in canonical form")
	}
	return CID(b), nil
}

// Codecs of the blocks that Shoal makes.
const (
	CodecRaw     = cid.Raw         // bytes
	CodecDagPB   = cid.DagProtobuf // UnixFS nodes
	CodecDagCBOR = cid.DagCBOR     // everything that links
)

// SumCID returns the CIDv1 (sha2-256) of block under the given codec.
func SumCID(codec uint64, block []byte) CID {
	h := sha256.Sum256(block)
	mh, err := multihash.Encode(h[:], multihash.SHA2_256)
	if err != nil { // cannot happen: the length matches the code
		return ""
	}
	return CID(cid.NewCidV1(codec, mh).Bytes())
}

// Defined reports whether c is set.
func (c CID) Defined() bool { return c != "" }

// Codec returns the multicodec of the block that c names, 0 if c is undefined.
func (c CID) Codec() uint64 {
	v, err := cid.Cast([]byte(c))
	if err != nil {
		return 0
	}
	return v.Type()
}

// String returns the base32 text form, "" if undefined.
func (c CID) String() string {
	v, err := cid.Cast([]byte(c))
	if err != nil {
		return ""
	}
	return v.String()
}

// Short returns the last eight characters of the text form, for logs.
func (c CID) Short() string {
	s := c.String()
	return s[max(0, len(s)-8):]
}

// MarshalText returns the base32 form; undefined gives the empty text.
func (c CID) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText parses the base32 form; the empty text gives undefined.
func (c *CID) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*c = ""
		return nil
	}
	*c, err = ParseCID(string(b))
	return err
}

func keccak(parts ...[]byte) []byte {
	h := sha3.NewLegacyKeccak256()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

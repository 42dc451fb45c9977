package p2p

import (
	"errors"
	"fmt"

	lcrypto "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/shoalnet/shoal/p2p/wire"
)

// libp2p peer IDs of secp256k1 keys: an identity multihash (code 0, length 37)
// of the protobuf {type: secp256k1, data: 33 bytes}. The same bytes as
// wire.PeerID's text form, before base58.
const idPrefix = "\x00\x25\x08\x02\x12\x21"

var errNotSecp = errors.New("not a secp256k1 peer ID")

// ToWire returns the key inside a libp2p peer ID, or an error if it holds no
// valid secp256k1 key.
func ToWire(id peer.ID) (wire.PeerID, error) {
	if len(id) != len(idPrefix)+33 || id[:len(idPrefix)] != idPrefix {
		return wire.PeerID{}, fmt.Errorf("peer %s: %w", id, errNotSecp)
	}
	p := wire.PeerID([]byte(id[len(idPrefix):]))
	if _, err := p.Address(); err != nil { // checks that it is a point of the curve
		return wire.PeerID{}, fmt.Errorf("peer %s: %w", id, errNotSecp)
	}
	return p, nil
}

// FromWire returns the libp2p peer ID of p. It does not check p's key.
func FromWire(p wire.PeerID) peer.ID { return peer.ID(idPrefix + string(p[:])) }

// isSecp is ToWire's check without the curve: enough where libp2p has already
// verified that the peer holds the key.
func isSecp(id peer.ID) bool {
	return len(id) == len(idPrefix)+33 && id[:len(idPrefix)] == idPrefix
}

func libp2pKey(k *wire.Key) (lcrypto.PrivKey, error) {
	sk, err := lcrypto.UnmarshalSecp256k1PrivateKey(k.Secret())
	if err != nil {
		return nil, fmt.Errorf("p2p identity: %w", err)
	}
	return sk, nil
}

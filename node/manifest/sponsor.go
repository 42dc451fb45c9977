package manifest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/shoalnet/shoal/p2p/wire"
	"golang.org/x/crypto/sha3"
)

// An Address is a 20-byte EVM address. Its text form is 0x and 40 hex digits.
type Address [20]byte

// String returns the address with the checksum of EIP-55 in its letters' case.
func (a Address) String() string {
	s := []byte(hex.EncodeToString(a[:]))
	h := sha3.NewLegacyKeccak256()
	h.Write(s)
	sum := h.Sum(nil)
	for i, c := range s {
		if c >= 'a' && sum[i/2]>>(4*(1-i%2))&8 != 0 {
			s[i] = c - 'a' + 'A'
		}
	}
	return "0x" + string(s)
}

// IsZero reports whether a is unset.
func (a Address) IsZero() bool { return a == Address{} }

// MarshalText returns the form of String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText parses 0x and 40 hex digits. Where upper and lower case are
// mixed the checksum must be right.
func (a *Address) UnmarshalText(b []byte) error {
	s := string(b)
	raw, err := unhex(s, len(a))
	if err != nil {
		return fmt.Errorf("%.60q is not an address: %w", s, err)
	}
	v := Address(raw)
	if digits := s[2:]; digits != strings.ToLower(digits) && digits != strings.ToUpper(digits) && s != v.String() {
		return fmt.Errorf("%s has a wrong EIP-55 checksum: a digit or letter is mistyped", s)
	}
	*a = v
	return nil
}

// A Signature is r ‖ s ‖ v, 65 bytes. Its text form is 0x and 130 hex digits.
type Signature [65]byte

// MarshalText returns the hex form.
func (s Signature) MarshalText() ([]byte, error) { return []byte("0x" + hex.EncodeToString(s[:])), nil }

// UnmarshalText parses the hex form.
func (s *Signature) UnmarshalText(b []byte) error {
	raw, err := unhex(string(b), len(s))
	if err != nil {
		return fmt.Errorf("%.40q is not a signature: %w", b, err)
	}
	*s = Signature(raw)
	return nil
}

func unhex(s string, n int) ([]byte, error) {
	if len(s) != 2+2*n || !strings.HasPrefix(s, "0x") {
		return nil, fmt.Errorf("want 0x and %d hex digits", 2*n)
	}
	return hex.DecodeString(s[2:])
}

// Sign makes the key's address the sponsor and signs. The signature is that of
// a wire.Signed of KindManifest without a run, whose body is the canonical form
// of the manifest with no sponsor but the address. It changes the run's ID.
func (m *Manifest) Sign(key *wire.Key) error {
	addr, err := key.Peer().Address()
	if err != nil {
		return fmt.Errorf("sign manifest: %w", err)
	}
	signed := *m
	signed.Sponsor = &Sponsor{Address: addr}
	body, err := signed.encode()
	if err != nil {
		return err
	}
	env := key.Sign(wire.KindManifest, "", body)
	signed.Sponsor.Signature = Signature(env.Sig)
	if err := signed.Validate(); err != nil {
		return fmt.Errorf("sign manifest: %w", err)
	}
	m.Sponsor = signed.Sponsor
	return nil
}

// verifySponsor checks the sponsor's signature, where there is a sponsor.
func (m *Manifest) verifySponsor() error {
	unsigned := *m
	unsigned.Sponsor = &Sponsor{Address: m.Sponsor.Address}
	body, err := unsigned.encode()
	if err != nil {
		return err
	}
	env := wire.Signed{Kind: wire.KindManifest, Body: body, Sig: m.Sponsor.Signature[:]}
	who, err := env.Signer()
	if err != nil {
		return err
	}
	addr, err := who.Address()
	if err != nil {
		return err
	}
	if addr != m.Sponsor.Address {
		return errors.New("it was made by " + Address(addr).String() + ", or over another manifest: sign again after any change")
	}
	return nil
}

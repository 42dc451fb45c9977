// Package chain is the ledger of the swarm: stakes, receipts, rewards and
// shares, as a port that an EVM chain or a value in memory fills.
//
// The chain is never on a round's path. Workers sign receipts off the chain;
// once an epoch a staked validator proposes the root of what everybody has
// earned so far, others sign it or challenge it, and workers claim by proof.
//
// The package decides and does no I/O. It has four parts:
//
//   - what is signed and hashed (receipt.go, eip712.go, merkle.go): the very
//     bytes that the contracts of package chain/contracts check;
//   - how an epoch's receipts become a tree (epoch.go), the same on every peer;
//   - the contracts' rules as a pure state machine (State), which names every
//     refusal as the contracts do, so that tests can hold one to the other;
//   - the port (Ledger), what it can be asked to do (Action) and a ledger in
//     memory.
//
// # Identifiers
//
// A run's ID is keccak256(abi.encode(manifest, sponsor)), where manifest is the
// sha2-256 digest in the manifest's CID. Commits, receipts' subjects and
// evidence are named by the digests in their CIDs too. Amounts are in the
// token's smallest unit, below 2^128; times are seconds of the chain.
package chain

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/shoalnet/shoal/p2p/wire"
	"golang.org/x/crypto/sha3"
)

// An Address is an EVM account.
type Address [20]byte

// A Hash is 32 bytes: a digest, a root or an identifier.
type Hash [32]byte

// An Amount is a number of a token's smallest units. It is never changed in
// place; nil is zero.
type Amount = *big.Int

type bigInt = big.Int

// String returns 0x and 40 lower-case hex digits.
func (a Address) String() string { return "0x" + hex.EncodeToString(a[:]) }

// IsZero reports whether a is unset.
func (a Address) IsZero() bool { return a == Address{} }

// MarshalText returns the form of String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText parses what ParseAddress does.
func (a *Address) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAddress(string(b))
	return err
}

// ParseAddress parses 40 hex digits, with or without 0x. Where upper and lower case are mixed, the
// EIP-55 checksum must be right.
func ParseAddress(s string) (Address, error) {
	digits := strings.TrimPrefix(s, "0x")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != 20 {
		return Address{}, fmt.Errorf("%.60q is not an address: want 40 hex digits", s)
	}
	lower := strings.ToLower(digits)
	if digits == lower || digits == strings.ToUpper(digits) {
		return Address(b), nil
	}
	sum := keccak([]byte(lower))
	for i, c := range lower {
		if c >= 'a' && (sum[i/2]>>(4*(1-i%2))&8 != 0) != (digits[i] < 'a') {
			return Address{}, fmt.Errorf("%.60q has a wrong EIP-55 checksum: a digit or letter is mistyped", s)
		}
	}
	return Address(b), nil
}

// String returns 0x and 64 lower-case hex digits.
func (h Hash) String() string { return "0x" + hex.EncodeToString(h[:]) }

// IsZero reports whether h is unset.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText returns the form of String.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText parses what ParseHash does.
func (h *Hash) UnmarshalText(b []byte) (err error) {
	*h, err = ParseHash(string(b))
	return err
}

// ParseHash parses 64 hex digits, with or without 0x.
func ParseHash(s string) (Hash, error) {
	b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil || len(b) != 32 {
		return Hash{}, fmt.Errorf("%.80q is not a hash: want 64 hex digits", s)
	}
	return Hash(b), nil
}

// Digest returns the sha2-256 digest in c, by which the chain names a CID.
func Digest(c wire.CID) (Hash, error) {
	if len(c) < 32 {
		return Hash{}, errors.New("CID is undefined: the chain can only name a defined one")
	}
	return Hash([]byte(c[len(c)-32:])), nil
}

// RunID returns the ID of a sponsor's run.
func RunID(manifest Hash, sponsor Address) Hash {
	return keccak(manifest[:], pad(sponsor[:]))
}

// Int returns n as an Amount.
func Int(n int64) Amount { return big.NewInt(n) }

// Coins returns n whole tokens of 18 decimals.
func Coins(n int64) Amount {
	return new(big.Int).Mul(big.NewInt(n), big.NewInt(1_000_000_000_000_000_000))
}

// ParseAmount parses a decimal number of whole tokens with up to 18 decimals.
func ParseAmount(s string) (Amount, error) {
	whole, frac, _ := strings.Cut(s, ".")
	if len(s) > 60 || len(frac) > 18 || whole == "" || strings.Trim(whole+frac, "0123456789") != "" {
		return nil, fmt.Errorf("%.70q is not an amount: want a decimal number with at most 18 decimals and no sign or exponent", s)
	}
	v, ok := new(big.Int).SetString(whole+frac+strings.Repeat("0", 18-len(frac)), 10)
	if !ok || !fits(v) {
		return nil, fmt.Errorf("%.70q is not an amount: it is over 2^128 of the smallest unit", s)
	}
	return v, nil
}

// FormatAmount writes a as whole tokens without trailing zeros.
func FormatAmount(a Amount) string {
	if a == nil {
		return "0"
	}
	neg, s := "", new(big.Int).Abs(a).String()
	if a.Sign() < 0 {
		neg = "-"
	}
	if len(s) <= 18 {
		s = strings.Repeat("0", 19-len(s)) + s
	}
	whole, frac := s[:len(s)-18], strings.TrimRight(s[len(s)-18:], "0")
	if frac != "" {
		frac = "." + frac
	}
	return neg + whole + frac
}

// maxAmount is 2^128 - 1.
var maxAmount = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1))

// fits reports whether a is in [0, 2^128).
func fits(a Amount) bool { return a == nil || a.Sign() >= 0 && a.Cmp(maxAmount) <= 0 }

func val(a Amount) *big.Int {
	if a == nil {
		return new(big.Int)
	}
	return a
}

func add(as ...Amount) Amount {
	s := new(big.Int)
	for _, a := range as {
		s.Add(s, val(a))
	}
	return s
}

func sub(a, b Amount) Amount { return new(big.Int).Sub(val(a), val(b)) }
func less(a, b Amount) bool  { return val(a).Cmp(val(b)) < 0 }
func positive(a Amount) bool { return val(a).Sign() > 0 }
func lower(a, b Amount) Amount {
	if less(b, a) {
		return val(b)
	}
	return val(a)
}

// bps returns n parts per 10,000 of a, rounded down.
func bps(a Amount, n uint64) Amount {
	x := new(big.Int).Mul(val(a), new(big.Int).SetUint64(n))
	return x.Quo(x, big.NewInt(10_000))
}

func keccak(parts ...[]byte) Hash {
	h := sha3.NewLegacyKeccak256()
	for _, p := range parts {
		h.Write(p)
	}
	return Hash(h.Sum(nil))
}

// pad returns b, right-aligned in one 32-byte word of the ABI.
func pad(b []byte) []byte {
	w := make([]byte, 32)
	copy(w[32-len(b):], b)
	return w
}

func word(n uint64) []byte { return pad(new(big.Int).SetUint64(n).Bytes()) }

// wordOf is one word of a, which must fit in 256 bits.
func wordOf(a Amount) []byte { return val(a).FillBytes(make([]byte, 32)) }

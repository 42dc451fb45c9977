package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Rounds is for how many rounds one coin lasts; a validator of a longer run
// joins anew with the next one.
const Rounds = 1 << 16

const depth = 16 // log2(Rounds)

// RevealSize is the length of a Reveal: the secret and its Merkle path.
const RevealSize = 32 + 32*depth

// A Coin is one validator's source of choices in one run.
type Coin struct {
	key  [32]byte
	tree [][32]byte // a heap: node i has the children 2i and 2i+1, the leaves begin at Rounds
}

// NewCoin derives a validator's coin from a secret of its own, which must not
// serve for anything else, and the run.
func NewCoin(secret []byte, run wire.CID) *Coin {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("shoal/audit coin/1"))
	mac.Write([]byte(run))
	c := &Coin{tree: make([][32]byte, 2*Rounds)}
	mac.Sum(c.key[:0])
	for r := range uint64(Rounds) {
		s := c.secret(r)
		c.tree[Rounds+r] = leaf(r, s)
	}
	for i := Rounds - 1; i >= 1; i-- {
		c.tree[i] = inner(c.tree[2*i], c.tree[2*i+1])
	}
	return c
}

// Inputs of three lengths and first bytes: a secret never stands for a leaf or
// an inner node. The key is as long as the digest and the round's length is fixed,
// so that hashing key and round is as good a function of a secret as HMAC, at a
// third of its price (a tree has 65,536 of them).

func (c *Coin) secret(round uint64) [32]byte { return hashed(2, c.key, round) }

func leaf(round uint64, secret [32]byte) [32]byte { return hashed(0, secret, round) }

func hashed(what byte, x [32]byte, round uint64) [32]byte {
	var b [41]byte
	b[0] = what
	copy(b[1:], x[:])
	binary.BigEndian.PutUint64(b[33:], round)
	return sha256.Sum256(b[:])
}

func inner(l, r [32]byte) [32]byte {
	var b [65]byte
	b[0] = 1
	copy(b[1:], l[:])
	copy(b[33:], r[:])
	return sha256.Sum256(b[:])
}

// Root is what the validator's Join says.
func (c *Coin) Root() [32]byte { return c.tree[1] }

// Reveal returns the secret of a round below Rounds with its path, RevealSize bytes.
func (c *Coin) Reveal(round uint64) []byte {
	round %= Rounds
	s := c.secret(round)
	out := append(make([]byte, 0, RevealSize), s[:]...)
	for i := Rounds + round; i > 1; i /= 2 {
		out = append(out, c.tree[i^1][:]...)
	}
	return out
}

// errReveal is what CheckReveal returns.
var errReveal = errors.New("the coin's reveal does not lead to the root in the validator's join")

// CheckReveal verifies that reveal is the coin of root for round.
func CheckReveal(root [32]byte, round uint64, reveal []byte) error {
	if len(reveal) != RevealSize {
		return errReveal
	}
	round %= Rounds
	at := leaf(round, [32]byte(reveal))
	for i, path := Rounds+round, reveal[32:]; i > 1; i, path = i/2, path[32:] {
		sibling := [32]byte(path)
		if i%2 == 0 {
			at = inner(at, sibling)
		} else {
			at = inner(sibling, at)
		}
	}
	if at != root {
		return errReveal
	}
	return nil
}

// A Draw is what a coin says about one piece of work.
type Draw struct {
	Audit   bool
	Segment uint64
	// Seed is for what the audit itself chooses: where in the segment, and on
	// which data, it proves that it replayed.
	Seed [32]byte
}

// DrawFor says whether the coin of that reveal audits subject, the ID of a Delta or
// Verdict envelope. rate is in parts per 10,000; segments is how many the work
// has. For a verdict the segment is that of the verdict and not drawn.
func DrawFor(reveal []byte, subject wire.CID, rate, segments uint64) Draw {
	mac := hmac.New(sha256.New, reveal[:32])
	mac.Write([]byte("shoal/audit draw/1"))
	mac.Write([]byte(subject))
	h := mac.Sum(nil)
	return Draw{
		Audit:   binary.BigEndian.Uint64(h)%10_000 < rate,
		Segment: binary.BigEndian.Uint64(h[8:]) % max(segments, 1),
		Seed:    sha256.Sum256(h),
	}
}

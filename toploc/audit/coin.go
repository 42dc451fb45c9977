package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Rounds is for how many rounds a coin lasts. Afterwards it has nothing to show,
// and its validator leaves the roster.
const Rounds = 1 << 18

// stride is how far the secrets lie apart that a Coin remembers.
const stride = 1 << 6

// RevealSize is the length of a Reveal.
const RevealSize = 32

// A Coin is one validator's source of choices in one run: a chain of secrets, one a
// round, each the hash of the next. Who shows that of a round shows those of all
// rounds before it, and nothing of those to come.
type Coin struct {
	marks [Rounds/stride + 1][32]byte // secrets of the rounds 0, stride, 2·stride, ...
}

// NewCoin derives a validator's coin from a secret of its own, which must not
// serve for anything else, and the run.
func NewCoin(secret []byte, run wire.CID) *Coin {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("shoal/audit coin/2"))
	mac.Write([]byte(run))
	c := &Coin{}
	s := [32]byte(mac.Sum(nil))
	for r := uint64(Rounds); ; r-- {
		if r%stride == 0 {
			c.marks[r/stride] = s
		}
		if r == 0 {
			return c
		}
		s = before(s, r)
	}
}

// before returns the secret of the round before, from that of round. The round is
// hashed too, so that no two links of any chains are the same function.
func before(s [32]byte, round uint64) [32]byte {
	var b [40]byte
	copy(b[:], s[:])
	binary.BigEndian.PutUint64(b[32:], round)
	return sha256.Sum256(b[:])
}

// Reveal returns the secret of a round, RevealSize bytes; nil for a round beyond Rounds.
func (c *Coin) Reveal(round uint64) []byte {
	if c == nil || round > Rounds {
		return nil
	}
	at := (round + stride - 1) / stride
	return Earlier(c.marks[at][:], at*stride, round)
}

// At is what the validator's Join at that round says: it fixes the secrets of all
// rounds after it. Zero for a round beyond Rounds.
func (c *Coin) At(round uint64) (coin [32]byte) {
	copy(coin[:], c.Reveal(round))
	return coin
}

// Earlier returns the secret of a round that is not after the one of reveal, which
// is of RevealSize bytes.
func Earlier(reveal []byte, round, earlier uint64) []byte {
	s := [32]byte(reveal)
	for ; round > earlier; round-- {
		s = before(s, round)
	}
	return s[:]
}

// errReveal is what CheckReveal returns.
var errReveal = errors.New("the coin's reveal does not lead to the one in the validator's join")

// CheckReveal verifies that reveal is the secret of round, where coin is that of
// the earlier round at. It takes a hash for each round in between.
func CheckReveal(coin [32]byte, at, round uint64, reveal []byte) error {
	if len(reveal) != RevealSize || round <= at || round > Rounds || !bytes.Equal(Earlier(reveal, round, at), coin[:]) {
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
	mac := hmac.New(sha256.New, reveal)
	mac.Write([]byte("shoal/audit draw/1"))
	mac.Write([]byte(subject))
	h := mac.Sum(nil)
	return Draw{
		Audit:   binary.BigEndian.Uint64(h)%10_000 < rate,
		Segment: binary.BigEndian.Uint64(h[8:]) % max(segments, 1),
		Seed:    sha256.Sum256(h),
	}
}

// A Choice is a work that a coin chose.
type Choice struct {
	Work
	Draw
	// Owed: its validator owes a verdict on it, or the word that it is withheld. It owes
	// only what came in on time, and one audit of one commit, so that also a machine that is
	// busy, or slower than the trainers', can keep up. What else is chosen it may do, and is
	// paid for.
	Owed bool
}

// Choose returns what the coin of that reveal, for h.Round, chooses among h.Works, in an
// order that nobody can foresee: what is owed comes first. h.Since must be set. Of
// cfg it uses Self, Rate and Every.
func Choose(reveal []byte, h Head, cfg Config) []Choice {
	var out []Choice
	for _, w := range h.Works {
		if h.Since > w.Round || w.Peer == cfg.Self {
			continue
		}
		if d := DrawFor(reveal, w.ID, cfg.Rate, segmentsOf(w.Steps, cfg.Every)); d.Audit {
			out = append(out, Choice{Work: w, Draw: d, Owed: w.Round+1 == h.Round})
		}
	}
	slices.SortFunc(out, func(a, b Choice) int {
		if a.Owed != b.Owed {
			return map[bool]int{true: -1, false: 1}[a.Owed]
		}
		return bytes.Compare(a.Seed[:], b.Seed[:])
	})
	for i := range out {
		out[i].Owed = out[i].Owed && i == 0
	}
	return out
}

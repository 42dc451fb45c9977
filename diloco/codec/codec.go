// Package codec turns pseudo-gradients into payloads and back.
//
// A pseudo-gradient is Δ = θ − w: the parameters that a round began with minus
// those that a peer's inner steps ended with (DiLoCo, Douillard et al. 2023,
// algorithm 1, line 12). A payload is Δ, or Δ plus what earlier payloads left
// out (see Feedback), rounded to small integers. It is what the swarm merges, so
// its meaning is exact: every value is an integer code q times 2^s with s in
// [MinExponent, MaxExponent]. A merge of such values in integers does not depend
// on order, thread or architecture (package outer).
//
// The window of exponents is a constant on purpose: a window relative to the
// round's payloads would let one peer's odd scale push out the others'.
//
// # Kinds
//
//	int8  one code in [−127, 127] a parameter, one exponent a chunk
//	int4  one code in [−7, 7] a parameter, one exponent a chunk; error feedback
//	topk  the k largest of each chunk, each with a sign and one of two
//	      magnitudes of the chunk (2 bits); error feedback. After SparseLoCo
//	      (Sarfi et al. 2025, 2508.15706), with two differences: the codebook is
//	      integer, and indices are written in Elias-Fano form, which takes
//	      two thirds of the bytes of 12-bit indices at 1.56 % and half at 12 %
//
// # Layout and chunks
//
// The parameters are one flat vector, the concatenation of the model's tensors.
// Each tensor is cut into chunks of Spec.Chunk values, its last one shorter where
// it must be; no chunk spans two tensors.
//
// # Bytes
//
// Integers are little-endian. The length of a payload follows from the Spec and the
// Layout alone, and values that can be written have one encoding: whatever else
// arrives is refused.
//
//	offset  bytes
//	     0      4  "SHPG"
//	     4      1  version, 1
//	     5      1  kind: 1 int8, 2 int4, 3 topk
//	     6      2  values in a chunk
//	     8      2  density in parts per 10,000; 0 unless topk
//	    10      8  parameters
//	    18     32  layout: SHA-256 over "shoal/layout/1" ‖ u64 tensors ‖ u64 length of each
//	    50     36  run: CIDv1, sha2-256
//	    86     36  parent: the commit that was trained from, CIDv1, sha2-256
//	   122     33  peer: the author's compressed secp256k1 key
//	   155         body
//
// Run, parent and peer are part of the payload, so that another peer's copy of it is
// invalid whatever its CID.
//
// Body of int8 and int4: one byte s−MinExponent for each chunk of the model, then the
// codes of each chunk. int8: one two's complement byte each, −128 is invalid.
// int4: two's complement nibbles, the even value in the low one, each chunk padded
// to whole bytes with zero; −8 is invalid. Where s > MinExponent some |q| of the
// chunk is at least 64 (int8) or 4 (int4): the exponent is the smallest that fits.
//
// Body of topk: for each chunk of n values with k = max(1, ⌈n·density/10,000⌉)
// entries at ascending indices x_0 < … < x_{k−1}:
//
//	1 byte   s−MinExponent
//	1 byte   a, the low magnitude
//	1 byte   b, the high magnitude; a < b ≤ 127, or all three bytes are 0
//	bits     from the least significant of each byte on, padded with zeros:
//	         high: k + ((n−1)>>l) bits, of which bits (x_i>>l)+i are set
//	         low:  for each entry, the l low bits of x_i
//	         code: for each entry, sign (1 is negative), then magnitude (1 is b)
//
// where l = ⌊log2(n/k)⌋. Where s > MinExponent, b ≥ 64. Some entry has magnitude b unless b is 0;
// where none has a, a is 0. An entry whose value is 0 has sign 0 and fills the
// lowest index that is free: x_i = i.
package codec

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Version is the version of the payload's bytes.
//
//	1  first
const Version = 1

// The constant window of chunk exponents: a chunk's values are codes times 2^s.
const (
	MinExponent = -28
	MaxExponent = MinExponent + 24
)

// MaxCode bounds the absolute value of every code of every kind.
const MaxCode = 127

// Limits of a Layout and a Spec. MaxParams keeps every length and the squared
// norm of a payload (2^14 · 4^24 · MaxParams < 2^103) in bounds.
const (
	MaxParams  = 1 << 40
	MaxTensors = 1 << 16
	MinChunk   = 64
	MaxChunk   = 4096
)

// A Kind is one way to write a pseudo-gradient.
type Kind uint8

// The kinds of payload; see the package comment.
const (
	Int8 Kind = iota + 1
	Int4
	TopK
)

var kindNames = [...]string{"invalid", "int8", "int4", "topk"}

// String returns the name that manifests use.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "invalid"
}

// ParseKind returns the Kind of that name.
func ParseKind(name string) (Kind, error) {
	for k := Int8; k <= TopK; k++ {
		if kindNames[k] == name {
			return k, nil
		}
	}
	return 0, fmt.Errorf("codec kind %q is unknown: it is int8, int4 or topk", name)
}

// A Spec is what a run fixes about its payloads.
type Spec struct {
	Kind    Kind
	Chunk   int // values in a chunk: a power of two from MinChunk to MaxChunk; 0 is 4096
	Density int // topk: entries kept, in parts per 10,000 (1 to 10,000); otherwise 0
}

// withDefaults returns s with its chunk filled in.
func (s Spec) withDefaults() Spec {
	if s.Chunk == 0 {
		s.Chunk = MaxChunk
	}
	return s
}

// Validate names the first field that is out of range.
func (s Spec) Validate() error {
	s = s.withDefaults()
	switch {
	case s.Kind < Int8 || s.Kind > TopK:
		return fmt.Errorf("codec kind %d is unknown: it is int8, int4 or topk", s.Kind)
	case s.Chunk < MinChunk || s.Chunk > MaxChunk || s.Chunk&(s.Chunk-1) != 0:
		return fmt.Errorf("codec chunk %d is not a power of two from %d to %d", s.Chunk, MinChunk, MaxChunk)
	case s.Kind == TopK && (s.Density < 1 || s.Density > 10000):
		return fmt.Errorf("codec density %d is not within 1 and 10,000 (parts per 10,000)", s.Density)
	case s.Kind != TopK && s.Density != 0:
		return fmt.Errorf("codec density %d: %v has none, leave it at 0", s.Density, s.Kind)
	}
	return nil
}

// kept returns how many entries topk keeps of a chunk of n values.
func (s Spec) kept(n int) int { return max(1, (n*s.Density+9999)/10000) }

// A Layout holds the length of each tensor, in the order of the flat vector.
type Layout []int

// Params returns the sum of the lengths.
func (l Layout) Params() int {
	n := 0
	for _, t := range l {
		n += t
	}
	return n
}

// Validate checks the bounds.
func (l Layout) Validate() error {
	if len(l) == 0 || len(l) > MaxTensors {
		return fmt.Errorf("layout has %d tensors, want 1 to %d", len(l), MaxTensors)
	}
	sum := 0
	for i, n := range l {
		if n < 1 || n > MaxParams || sum > MaxParams-n {
			return fmt.Errorf("layout: tensor %d has %d values: each has at least one and all together at most %d", i, n, MaxParams)
		}
		sum += n
	}
	return nil
}

// Hash identifies the layout in payloads.
func (l Layout) Hash() [32]byte {
	h := sha256.New()
	h.Write([]byte("shoal/layout/1"))
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(len(l)))
	h.Write(b[:])
	for _, n := range l {
		binary.LittleEndian.PutUint64(b[:], uint64(n))
		h.Write(b[:])
	}
	return [32]byte(h.Sum(nil))
}

// A Header says whose payload it is, and of what.
type Header struct {
	Run    wire.CID    // the manifest
	Parent wire.CID    // the commit that was trained from
	Peer   wire.PeerID // the author
}

// ErrInvalid is wrapped by every error about bytes that are no payload of the
// expected header, or not the canonical one.
var ErrInvalid = errors.New("invalid payload")

const (
	cidSize    = 36 // of CIDv1 with a one-byte codec and sha2-256
	headerSize = 155
)

var magic = [4]byte{'S', 'H', 'P', 'G'}

// A chunk is one run of values that share an exponent or codebook.
type chunk struct {
	start int // index of the first value in the flat vector
	n     int // values
	at    int // offset of the chunk's codes (int8, int4) or record (topk) in the payload
}

// A Codec reads and writes the payloads of one run. It is immutable and safe for
// concurrent use.
type Codec struct {
	spec   Spec
	layout Layout
	hash   [32]byte
	params int
	chunks []chunk
	size   int
}

// New returns the codec of spec for parameters of the given layout.
func New(spec Spec, layout Layout) (*Codec, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if err := layout.Validate(); err != nil {
		return nil, err
	}
	c := &Codec{spec: spec.withDefaults(), layout: append(Layout(nil), layout...), hash: layout.Hash(), params: layout.Params()}
	count := 0
	for _, n := range layout {
		count += (n + c.spec.Chunk - 1) / c.spec.Chunk
	}
	c.chunks = make([]chunk, 0, count)
	at := headerSize
	if c.spec.Kind != TopK {
		at += count // exponents
	}
	start := 0
	for _, n := range layout {
		for n > 0 {
			m := min(n, c.spec.Chunk)
			c.chunks = append(c.chunks, chunk{start, m, at})
			at += c.chunkSize(m)
			start += m
			n -= m
		}
	}
	c.size = at
	return c, nil
}

// chunkSize returns the bytes of a chunk's codes or record.
func (c *Codec) chunkSize(n int) int {
	switch c.spec.Kind {
	case Int8:
		return n
	case Int4:
		return (n + 1) / 2
	default:
		k := c.spec.kept(n)
		l := lowBits(n, k)
		return 3 + (k+(n-1)>>l+k*l+2*k+7)/8
	}
}

// lowBits is l of the Elias-Fano form of k indices below n.
func lowBits(n, k int) int { return bits.Len(uint(n/k)) - 1 }

// Spec returns what the codec was made of, with defaults filled in.
func (c *Codec) Spec() Spec { return c.spec }

// Params returns how many parameters a payload covers.
func (c *Codec) Params() int { return c.params }

// Size returns the length of every payload in bytes.
func (c *Codec) Size() int { return c.size }

// Chunks returns how many chunks the parameters have.
func (c *Codec) Chunks() int { return len(c.chunks) }

// Chunk returns the range [from, to) of chunk i in the flat vector.
func (c *Codec) Chunk(i int) (from, to int) {
	k := c.chunks[i]
	return k.start, k.start + k.n
}

// Same reports whether d writes the same bytes as c.
func (c *Codec) Same(d *Codec) bool {
	return c == d || c.spec == d.spec && c.hash == d.hash && c.params == d.params
}

// header returns the first headerSize bytes of a payload under h.
func (c *Codec) header(h Header) ([]byte, error) {
	if len(h.Run) != cidSize || len(h.Parent) != cidSize {
		return nil, fmt.Errorf("payload header: run and parent must be CIDs of %d bytes, not %d and %d", cidSize, len(h.Run), len(h.Parent))
	}
	if h.Peer.IsZero() {
		return nil, errors.New("payload header: peer is not set")
	}
	b := make([]byte, 0, headerSize)
	b = append(b, magic[:]...)
	b = append(b, Version, byte(c.spec.Kind))
	b = binary.LittleEndian.AppendUint16(b, uint16(c.spec.Chunk))
	b = binary.LittleEndian.AppendUint16(b, uint16(c.spec.Density))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.params))
	b = append(b, c.hash[:]...)
	b = append(b, h.Run...)
	b = append(b, h.Parent...)
	return append(b, h.Peer[:]...), nil
}

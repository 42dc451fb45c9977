package toploc

import (
	"fmt"
	"math/bits"
)

// Ties says which of the activations tied with the k-th magnitude are taken.
// Proofs made under one rule pass under the other with about one mismatch.
type Ties int

// TiesLowest takes the lowest positions, as CUDA's topk does. TiesLibstdcxx
// takes those that torch on a Linux CPU takes, for byte tests against it.
const (
	TiesLowest Ties = iota
	TiesLibstdcxx
)

func (t Ties) String() string {
	if t == TiesLibstdcxx {
		return "libstdcxx"
	}
	return "lowest"
}

// MarshalText implements encoding.TextMarshaler.
func (t Ties) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler: lowest or libstdcxx.
func (t *Ties) UnmarshalText(b []byte) error {
	for _, v := range []Ties{TiesLowest, TiesLibstdcxx} {
		if string(b) == v.String() {
			*t = v
			return nil
		}
	}
	return fmt.Errorf("tie rule %.20q: want lowest or libstdcxx", b)
}

// keyNaN is the key of every NaN: above infinity's 0x7f80, and tied.
const keyNaN = 0x7f81

// key orders magnitudes: NaNs tie above infinity, +0 and -0 tie.
func key(b uint16) uint16 { return min(b&0x7fff, keyNaN) }

// maxChunk is the most activations in a chunk: the reference's positions are int32.
const maxChunk = 1<<31 - 1

// A selection takes the k largest magnitudes of a stream.
type selection interface {
	// scan takes the next elements of the stream.
	scan(a []uint16)
	// take ends the stream and returns the positions and bits of its k largest,
	// in no useful order. They are valid until the next scan.
	take() (pos []uint32, bits []uint16, err error)
}

func newSelection(k int, ties Ties) selection {
	if ties == TiesLibstdcxx {
		return &libstdcxx{k: k}
	}
	return &selector{k: k}
}

// topK returns positions and bits of the k largest magnitudes of a, in no
// useful order.
func topK(a []uint16, k int, ties Ties) ([]uint32, []uint16, error) {
	if ties == TiesLibstdcxx {
		s := libstdcxx{k: k}
		s.scan(a)
		return s.take()
	}
	s := selector{k: k}
	s.scan(a)
	return s.take()
}

// checkChunk refuses chunks of n activations that cannot have a top k.
func checkChunk(n uint64, k int) error {
	switch {
	case n > maxChunk:
		return fmt.Errorf("a chunk of %d activations is over the limit of %d", n, maxChunk)
	case n < uint64(k):
		return fmt.Errorf("a chunk of %d activations has no top %d: choose k at most the hidden size", n, k)
	}
	return nil
}

// A selector keeps the k largest magnitudes of a stream, ties to the earliest,
// in memory of the order of k.
//
// It collects what is above the k-th magnitude so far, the floor, and when its
// buffer is full raises the floor and drops what is below it. A tie with the
// floor comes later than k others, so only larger keys enter; and candidates stay
// in the stream's order, so that of those tied at the end the first are kept.
type selector struct {
	k     int
	seen  uint64
	n     int      // candidates
	bits  []uint16 // of the candidates, then room
	pos   []uint32 // theirs
	floor int      // -1 until k candidates were chosen from
}

// block divides a selector's room; kernels may read and write it in blocks.
const block = 128

func (s *selector) scan(a []uint16) {
	if s.bits == nil {
		room := (max(4*s.k, 1024) + 2*block - 1) &^ (block - 1)
		s.bits, s.pos, s.floor = make([]uint16, room), make([]uint32, room), -1
	}
	at := uint32(s.seen)
	s.seen += uint64(len(a))
	if s.floor < 0 {
		n := copy(s.bits[s.n:], a)
		for i := range uint32(n) {
			s.pos[s.n+int(i)] = at + i
		}
		s.n += n
		if s.n < len(s.bits) {
			return
		}
		s.refine()
		a, at = a[n:], at+uint32(n)
	}
	for len(a) > 0 {
		read, wrote := gather(a, uint16(s.floor), at, s.bits[s.n:], s.pos[s.n:])
		a, at = a[read:], at+uint32(read)
		if s.n += wrote; len(a) > 0 {
			s.refine()
		}
	}
}

func (s *selector) take() ([]uint32, []uint16, error) {
	seen := s.seen
	if seen >= uint64(s.k) && s.n > s.k {
		s.refine()
	}
	s.n, s.seen, s.floor = 0, 0, -1
	if err := checkChunk(seen, s.k); err != nil {
		return nil, nil, err
	}
	return s.pos[:s.k], s.bits[:s.k], nil
}

// refine keeps the k best of the candidates, of which there are k or more, and
// makes the k-th key the floor.
func (s *selector) refine() {
	const lanes = 64 // count's block; it divides the room
	padded := (s.n + lanes - 1) &^ (lanes - 1)
	clear(s.bits[s.n:padded]) // zeros are above no floor
	all := s.bits[:padded]
	// The k-th key is the largest t with k candidates at or above it. It is at
	// or a little above the floor: gallop, then halve.
	lo, hi := max(s.floor, 0), keyNaN
	for step := 8; lo < hi; step *= 4 {
		t := min(lo+step, hi)
		if count(all, uint16(t-1)) < s.k {
			hi = t - 1
			break
		}
		lo = t
	}
	for lo < hi {
		t := (lo + hi + 1) / 2
		if count(all, uint16(t-1)) >= s.k {
			lo = t
		} else {
			hi = t - 1
		}
	}
	if lo > 0 {
		s.n = compact(s.bits, s.pos, s.n, uint16(lo-1))
	}
	// Of those tied at the k-th key the last go.
	if extra := s.n - s.k; extra > 0 {
		i := s.n
		for extra > 0 {
			if i--; key(s.bits[i]) == uint16(lo) {
				extra--
			}
		}
		w := i
		for ; i < s.n; i++ {
			if key(s.bits[i]) != uint16(lo) {
				s.bits[w], s.pos[w] = s.bits[i], s.pos[i]
				w++
			}
		}
		s.n = w
	}
	s.floor = lo
}

// above returns the index of the first element of a whose key is above floor,
// len(a) if there is none.
func above(a []uint16, floor uint16) int {
	if floor >= keyNaN { // nothing is above a NaN
		return len(a)
	}
	i := 0
	// Four lanes of 15 bits in a word: adding 0x7fff-floor carries into the
	// lane's top bit just where the magnitude is above floor. Under a floor
	// below NaN the order of NaNs among themselves does not matter.
	add := uint64(0x7fff-floor) * 0x0001000100010001
	for ; i+8 <= len(a); i += 8 {
		b := a[i : i+8 : i+8]
		mx, my := lanes(b[0], b[1], b[2], b[3], add), lanes(b[4], b[5], b[6], b[7], add)
		if mx|my != 0 {
			if mx != 0 {
				return i + bits.TrailingZeros64(mx)/16
			}
			return i + 4 + bits.TrailingZeros64(my)/16
		}
	}
	for ; i < len(a); i++ {
		if a[i]&0x7fff > floor {
			return i
		}
	}
	return i
}

// lanes has the top bit of each lane of 16 set where the magnitude plus add
// carries into it.
func lanes(b0, b1, b2, b3 uint16, add uint64) uint64 {
	x := uint64(b0) | uint64(b1)<<16 | uint64(b2)<<32 | uint64(b3)<<48
	return (x&0x7fff7fff7fff7fff + add) & 0x8000800080008000
}

// gatherGeneric, countGeneric and compactGeneric are what the kernels in
// assembly must agree with.

// gatherGeneric appends to bits and pos the elements of a whose key is above
// floor and their positions, a[0] being at position at, until there is no room.
func gatherGeneric(a []uint16, floor uint16, at uint32, bits []uint16, pos []uint32) (read, wrote int) {
	for read < len(a) {
		read += above(a[read:], floor)
		if read == len(a) || wrote == len(bits) {
			break
		}
		bits[wrote], pos[wrote] = a[read], at+uint32(read)
		read++
		wrote++
	}
	return read, wrote
}

// countGeneric counts the elements whose key is above floor. len(a) is a
// multiple of 64, and below 2^18.
func countGeneric(a []uint16, floor uint16) int {
	if floor >= keyNaN {
		return 0
	}
	add := uint64(0x7fff-floor) * 0x0001000100010001
	n := 0
	for len(a) >= 64 {
		var sum uint64 // four counts of at most 16
		for i := 0; i < 64; i += 8 {
			b := a[i : i+8 : i+8]
			sum += lanes(b[0], b[1], b[2], b[3], add)>>15 + lanes(b[4], b[5], b[6], b[7], add)>>15
		}
		n += int(sum * 0x0001000100010001 >> 48)
		a = a[64:]
	}
	return n
}

// compactGeneric keeps, of the first n candidates, those whose key is above
// floor, in their order, and returns how many they are.
func compactGeneric(bits []uint16, pos []uint32, n int, floor uint16) int {
	w := 0
	bits, pos = bits[:n], pos[:n]
	for i, b := range bits {
		bits[w], pos[w] = b, pos[i]
		w += int((uint32(floor) - uint32(key(b))) >> 31)
	}
	return w
}

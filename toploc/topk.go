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

// key orders magnitudes: NaNs tie above infinity, +0 and -0 tie.
func key(b uint16) uint16 {
	if k := b & 0x7fff; k <= 0x7f80 {
		return k
	}
	return 0x7f81
}

// topK returns the positions of the k largest magnitudes of a, in no useful order.
func topK(a []uint16, k int, ties Ties) ([]uint32, error) {
	if k < 1 || k > Prime {
		return nil, fmt.Errorf("top-k of %d is outside 1..%d", k, Prime)
	}
	if len(a) < k {
		return nil, fmt.Errorf("a chunk of %d activations has no top %d: choose k at most the hidden size", len(a), k)
	}
	if int64(len(a)) > 1<<31-1 {
		return nil, fmt.Errorf("a chunk of %d activations is over the limit of 2^31-1", len(a))
	}
	if ties == TiesLibstdcxx {
		return topKLibstdcxx(a, k), nil
	}
	h := selector{k: k}
	h.scan(a, 0)
	return h.positions(), nil
}

// A selector keeps the k largest magnitudes of a stream, ties to the earliest.
// Its heap holds key<<48 | ^position<<16 | bits: the smallest, at the root, is the
// next to go, and the rows themselves need not be kept.
type selector struct {
	k    int
	heap []uint64
}

func (s *selector) reset() { s.heap = s.heap[:0] }

// scan takes a, whose first element has the given position in the stream.
// Positions must rise from call to call.
func (s *selector) scan(a []uint16, pos uint32) {
	if s.heap == nil {
		s.heap = make([]uint64, 0, s.k)
	}
	i := 0
	for ; i < len(a) && len(s.heap) < s.k; i++ {
		s.heap = append(s.heap, word(a[i], pos+uint32(i)))
		if len(s.heap) == s.k {
			for j := s.k/2 - 1; j >= 0; j-- {
				s.sift(j)
			}
		}
	}
	for i < len(a) {
		// A tie with the root comes later than it, so only a larger key enters.
		floor := uint16(s.heap[0] >> 48)
		n := above(a[i:], floor)
		i += n
		if i == len(a) {
			return
		}
		s.heap[0] = word(a[i], pos+uint32(i))
		s.sift(0)
		i++
	}
}

func (s *selector) sift(i int) {
	h := s.heap
	v := h[i]
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1] < h[c] {
			c++
		}
		if h[c] >= v {
			break
		}
		h[i] = h[c]
		i = c
	}
	h[i] = v
}

func word(b uint16, pos uint32) uint64 {
	return uint64(key(b))<<48 | uint64(^pos)<<16 | uint64(b)
}

// points returns the positions and the bits there.
func (s *selector) points() (pos []uint32, bits []uint16) {
	pos, bits = s.positions(), make([]uint16, len(s.heap))
	for i, v := range s.heap {
		bits[i] = uint16(v)
	}
	return pos, bits
}

func (s *selector) positions() []uint32 {
	p := make([]uint32, len(s.heap))
	for i, v := range s.heap {
		p[i] = ^uint32(v >> 16)
	}
	return p
}

// aboveGeneric returns the index of the first element of a whose key is above
// floor, len(a) if there is none.
func aboveGeneric(a []uint16, floor uint16) int {
	if floor >= 0x7f81 { // nothing is above a NaN
		return len(a)
	}
	i := 0
	// Four lanes of 15 bits in a word: adding 0x7fff-floor carries into the
	// lane's top bit just where the magnitude is above floor. Under a floor
	// below NaN the order of NaNs among themselves does not matter.
	add := uint64(0x7fff-floor) * 0x0001000100010001
	const mag, top = 0x7fff7fff7fff7fff, 0x8000800080008000
	for ; i+8 <= len(a); i += 8 {
		b := a[i : i+8 : i+8]
		x := uint64(b[0]) | uint64(b[1])<<16 | uint64(b[2])<<32 | uint64(b[3])<<48
		y := uint64(b[4]) | uint64(b[5])<<16 | uint64(b[6])<<32 | uint64(b[7])<<48
		mx, my := (x&mag+add)&top, (y&mag+add)&top
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

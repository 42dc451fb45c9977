package codec

import (
	"cmp"
	"errors"
	"math"
	"math/bits"
	"slices"
)

var (
	errCodebook = errors.New("its codebook is not canonical")
	errZero     = errors.New("it has a zero that is negative or not at the lowest free index")
	errIndices  = errors.New("its indices are out of range or order")
)

// A selector is the scratch space of encodeTopK.
type selector struct {
	keys  [MaxChunk]uint64
	codes [MaxChunk]byte
}

// choose returns the k of v with the largest absolute values, largest first and
// among equals the lower index first, as keys: the value's absolute bits above
// 4095−index.
func (s *selector) choose(v []float32, k int) []uint64 {
	keys := s.keys[:len(v)]
	for i, x := range v {
		keys[i] = uint64(math.Float32bits(x)&0x7fffffff)<<12 | uint64(MaxChunk-1-i)
	}
	// Quickselect (Hoare 1961): keys are distinct. Afterwards keys[:k] are the largest.
	lo, hi := 0, len(keys)
	for hi-lo > 16 {
		a, b, c := keys[lo], keys[lo+(hi-lo)/2], keys[hi-1]
		p := max(min(a, b), min(max(a, b), c)) // their median
		i, j := lo, hi-1
		for i <= j {
			for keys[i] > p {
				i++
			}
			for keys[j] < p {
				j--
			}
			if i <= j {
				keys[i], keys[j] = keys[j], keys[i]
				i++
				j--
			}
		}
		switch {
		case k <= j:
			hi = j + 1
		case k >= i:
			lo = i
		default:
			lo, hi = k, k
		}
	}
	descending := func(a, b uint64) int { return cmp.Compare(b, a) }
	slices.SortFunc(keys[lo:hi], descending)
	slices.SortFunc(keys[:k], descending)
	return keys[:k]
}

func keyIndex(key uint64) int { return MaxChunk - 1 - int(key&(MaxChunk-1)) }

func keyAbs(key uint64) float64 { return float64(math.Float32frombits(uint32(key >> 12))) }

// encodeTopK writes the record of one chunk: the k largest of v, and the two
// magnitudes that stand for them with the least squared error.
func encodeTopK(dst []byte, v []float32, k int, sel *selector) {
	keys := sel.choose(v, k)
	e, a, b, split := codebook(keys)
	dst[0], dst[1], dst[2] = e, byte(a), byte(b)

	// codes[x] is 1 + the code of the entry at index x, 0 where there is none.
	codes := sel.codes[:len(v)]
	clear(codes)
	for i, key := range keys {
		x := keyIndex(key)
		code := byte(1)
		if i < split {
			code += 2
		} else if a == 0 {
			break // values of zero have indices of their own, below
		}
		if v[x] < 0 {
			code++
		}
		codes[x] = code
	}
	if a == 0 {
		for x, missing := 0, k-split; missing > 0; x++ {
			if codes[x] == 0 {
				codes[x] = 1
				missing--
			}
		}
	}

	n := len(v)
	l := lowBits(n, k)
	high := bitWriter{dst[3:], 0}
	low := bitWriter{dst[3:], k + (n-1)>>l}
	code := bitWriter{dst[3:], low.at + k*l}
	i := 0
	for x, c := range codes {
		if c == 0 {
			continue
		}
		high.at = x>>l + i
		high.put(1, 1)
		low.put(uint64(x)&(1<<l-1), l)
		code.put(uint64(c-1), 2)
		i++
	}
}

// codebook splits magnitudes (of keys, largest first) into keys[:split] and the rest
// such that the two means leave the least squared error, and returns the means
// as integers b and a times 2^s, with the exponent byte e. b is 0 where all
// round to zero, and then split is 0; a is 0 where the rest is empty or rounds to zero.
func codebook(keys []uint64) (e byte, a, b, split int) {
	total := 0.0
	for _, key := range keys {
		total += keyAbs(key)
	}
	// Minimal error is maximal Σ (sum of a part)²/(size of the part).
	k := len(keys)
	best, sum, high := -1.0, 0.0, 0.0
	for j, key := range keys {
		sum += keyAbs(key)
		n := float64(j + 1)
		score := float64(sum*sum) / n
		if j+1 < k {
			rest := total - sum
			score += float64(rest*rest) / float64(k-j-1)
		}
		if score > best {
			best, split, high = score, j+1, sum
		}
	}
	mean := high / float64(split)
	e = exponent(mean, MaxCode)
	inv := scale(e)
	b = int(min(math.RoundToEven(float64(mean*inv)), MaxCode))
	if split < k {
		mean = (total - high) / float64(k-split)
		a = int(min(math.RoundToEven(float64(mean*inv)), MaxCode))
	}
	switch {
	case b == 0:
		return 0, 0, 0, 0
	case a >= b: // the window's end clamped both, or rounding made them equal
		return e, 0, b, k
	}
	return e, a, b, split
}

// checkTopK returns Σ q² of one chunk's record, or why it is not canonical.
func checkTopK(rec []byte, n, k int) (uint64, error) {
	e, a, b := rec[0], rec[1], rec[2]
	switch {
	case e > window:
		return 0, errExponent
	case b > MaxCode:
		return 0, errCode
	case b == 0 && (a != 0 || e != 0), b != 0 && a >= b:
		return 0, errCodebook
	case e > 0 && b < (MaxCode+1)/2:
		return 0, errLoose
	}
	r := rec[3:]
	l := lowBits(n, k)
	high := k + (n-1)>>l
	if ones(r, high) != k {
		return 0, errIndices
	}
	used := high + k*l + 2*k
	if used&7 != 0 && r[used>>3]>>(used&7) != 0 {
		return 0, errPadding
	}
	lows, codes := bitReader{r, high}, bitReader{r, high + k*l}
	last, lowCount, highCount := -1, 0, 0
	pos := 0
	for i := range k {
		pos = nextOne(r, pos)
		x := (pos-i)<<l | int(lows.take(l))
		pos++
		if x <= last || x >= n {
			return 0, errIndices
		}
		last = x
		code := codes.take(2)
		if code&2 != 0 {
			highCount++
		} else {
			lowCount++
			if a == 0 && (code != 0 || x != i) {
				return 0, errZero
			}
		}
	}
	switch {
	case (b != 0) != (highCount != 0), a != 0 && lowCount == 0:
		return 0, errCodebook
	}
	return uint64(highCount)*uint64(b)*uint64(b) + uint64(lowCount)*uint64(a)*uint64(a), nil
}

// eachTopK calls f with the index and the code of each entry of a checked record.
func eachTopK(rec []byte, n, k int, f func(index, q int)) {
	a, b := int(rec[1]), int(rec[2])
	values := [4]int{a, -a, b, -b}
	r := rec[3:]
	l := lowBits(n, k)
	high := k + (n-1)>>l
	lows, codes := bitReader{r, high}, bitReader{r, high + k*l}
	pos := 0
	for i := range k {
		pos = nextOne(r, pos)
		f((pos-i)<<l|int(lows.take(l)), values[codes.take(2)])
		pos++
	}
}

// ones counts the set bits among the first n of b.
func ones(b []byte, n int) int {
	c := 0
	for _, x := range b[:n>>3] {
		c += bits.OnesCount8(x)
	}
	if n&7 != 0 {
		c += bits.OnesCount8(b[n>>3] << (8 - n&7))
	}
	return c
}

// nextOne returns the first set bit of b at or after pos. There is one.
func nextOne(b []byte, pos int) int {
	i := pos >> 3
	x := b[i] >> (pos & 7)
	if x != 0 {
		return pos + bits.TrailingZeros8(x)
	}
	for i++; b[i] == 0; i++ {
	}
	return i<<3 + bits.TrailingZeros8(b[i])
}

// A bitWriter sets bits of b, all zero before, from the least significant on.
type bitWriter struct {
	b  []byte
	at int // the next bit
}

// put appends the n ≤ 12 low bits of x.
func (w *bitWriter) put(x uint64, n int) {
	x <<= w.at & 7
	for i := w.at >> 3; x != 0; i++ {
		w.b[i] |= byte(x)
		x >>= 8
	}
	w.at += n
}

// A bitReader is a bitWriter's counterpart.
type bitReader struct {
	b  []byte
	at int // the next bit
}

// take returns the next n ≤ 12 bits.
func (r *bitReader) take(n int) uint64 {
	if n == 0 {
		return 0
	}
	var x uint64
	i, end := r.at>>3, (r.at+n-1)>>3
	for j := i; j <= end; j++ {
		x |= uint64(r.b[j]) << (8 * (j - i))
	}
	x >>= r.at & 7
	r.at += n
	return x & (1<<n - 1)
}

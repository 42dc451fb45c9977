package codec

import (
	"bytes"
	"fmt"
	"math"
	"math/bits"
)

// A Delta is one valid payload. It keeps the payload's bytes and reads
// codes out of them as they are needed. It is immutable.
type Delta struct {
	codec  *Codec
	header Header
	block  []byte
	normHi uint64 // Σ q²·4^(s−MinExponent) = normHi·2^64 + normLo
	normLo uint64
}

// Encode rounds u to a payload under the header h. u has one value a parameter;
// a value that is not finite is an error. The payload's values are what
// AddTo adds; Feedback keeps the rest.
func (c *Codec) Encode(h Header, u []float32) (*Delta, error) {
	if len(u) != c.params {
		return nil, fmt.Errorf("encode: %d values for %d parameters", len(u), c.params)
	}
	if i := nonFinite(u); i >= 0 {
		return nil, fmt.Errorf("encode: value %d of the pseudo-gradient is %v: the inner steps diverged", i, u[i])
	}
	head, err := c.header(h)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	block := make([]byte, c.size)
	copy(block, head)
	var sel selector
	for i, k := range c.chunks {
		v := u[k.start : k.start+k.n]
		switch c.spec.Kind {
		case Int8:
			block[headerSize+i] = encodeInt8(block[k.at:], v)
		case Int4:
			block[headerSize+i] = encodeInt4(block[k.at:], v)
		case TopK:
			encodeTopK(block[k.at:k.at+c.chunkSize(k.n)], v, c.spec.kept(k.n), &sel)
		}
	}
	return c.Decode(h, block)
}

// Decode checks that block is the canonical payload of some codes under exactly the
// header want, and returns it. The Delta keeps block, which must not change any more.
// It allocates nothing that grows with block.
func (c *Codec) Decode(want Header, block []byte) (*Delta, error) {
	if len(block) != c.size {
		return nil, fmt.Errorf("%w: it has %d bytes, this run's have %d", ErrInvalid, len(block), c.size)
	}
	head, err := c.header(want)
	if err != nil {
		return nil, err
	}
	if err := compareHeader(block[:headerSize], head); err != nil {
		return nil, err
	}
	d := &Delta{codec: c, header: want, block: block}
	for i, k := range c.chunks {
		var sum uint64 // Σ q² ≤ 4096·127² < 2^26
		var e byte
		var err error
		switch c.spec.Kind {
		case Int8:
			e = block[headerSize+i]
			sum, err = checkInt8(block[k.at:k.at+k.n], e)
		case Int4:
			e = block[headerSize+i]
			sum, err = checkInt4(block[k.at:k.at+(k.n+1)/2], k.n, e)
		case TopK:
			e = block[k.at]
			sum, err = checkTopK(block[k.at:k.at+c.chunkSize(k.n)], k.n, c.spec.kept(k.n))
		}
		if err != nil {
			return nil, fmt.Errorf("%w: chunk %d: %w", ErrInvalid, i, err)
		}
		lo, hi := sum<<(2*e), sum>>(64-2*e) // a shift by 64 gives 0
		var carry uint64
		d.normLo, carry = bits.Add64(d.normLo, lo, 0)
		d.normHi, _ = bits.Add64(d.normHi, hi, carry)
	}
	return d, nil
}

// compareHeader names the first field in which got differs from want.
func compareHeader(got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	for _, f := range []struct {
		name     string
		from, to int
	}{
		{"magic", 0, 4}, {"version", 4, 5}, {"kind", 5, 6}, {"chunk", 6, 8}, {"density", 8, 10},
		{"parameters", 10, 18}, {"layout", 18, 50}, {"run", 50, 86}, {"parent", 86, 122}, {"peer", 122, 155},
	} {
		if !bytes.Equal(got[f.from:f.to], want[f.from:f.to]) {
			return fmt.Errorf("%w: its %s is not the expected one", ErrInvalid, f.name)
		}
	}
	return nil
}

// Codec returns the codec that d was made by.
func (d *Delta) Codec() *Codec { return d.codec }

// Header returns whose payload d is.
func (d *Delta) Header() Header { return d.header }

// Block returns the payload's bytes; they must not be changed.
func (d *Delta) Block() []byte { return d.block }

// Under returns the same values as a payload of another header.
func (d *Delta) Under(h Header) (*Delta, error) {
	head, err := d.codec.header(h)
	if err != nil {
		return nil, err
	}
	e := *d
	e.header, e.block = h, append(head, d.block[headerSize:]...)
	return &e, nil
}

// Norm returns the squared Euclidean norm of d in units of 4^MinExponent, exactly:
// hi·2^64 + lo.
func (d *Delta) Norm() (hi, lo uint64) { return d.normHi, d.normLo }

// Accumulate adds factor times the values of chunk i, in units of 2^MinExponent, to acc,
// which has one element a value of the chunk. A value is at most
// MaxCode·2^24 < 2^31 in these units; the caller sees that sums fit.
func (d *Delta) Accumulate(i int, factor int64, acc []int64) {
	c := d.codec
	k := c.chunks[i]
	acc = acc[:k.n]
	switch c.spec.Kind {
	case Int8:
		f := factor << d.block[headerSize+i]
		for j, q := range d.block[k.at : k.at+k.n] {
			acc[j] += f * int64(int8(q))
		}
	case Int4:
		f := factor << d.block[headerSize+i]
		codes := d.block[k.at : k.at+(k.n+1)/2]
		for j := range acc {
			acc[j] += f * int64(nibble(codes, j))
		}
	case TopK:
		e := d.block[k.at]
		eachTopK(d.block[k.at:k.at+c.chunkSize(k.n)], k.n, c.spec.kept(k.n), func(j, q int) {
			acc[j] += factor << e * int64(q)
		})
	}
}

// AddTo adds the values of d to dst, one a parameter, in float32.
func (d *Delta) AddTo(dst []float32) error { return d.addTo(dst, 1) }

// SubtractFrom subtracts the values of d from dst, one a parameter, in float32.
func (d *Delta) SubtractFrom(dst []float32) error { return d.addTo(dst, -1) }

func (d *Delta) addTo(dst []float32, sign int64) error {
	c := d.codec
	if len(dst) != c.params {
		return fmt.Errorf("payload of %d parameters does not fit a vector of %d", c.params, len(dst))
	}
	unit := math.Ldexp(1, MinExponent)
	var acc [MaxChunk]int64
	for i, k := range c.chunks {
		a := acc[:k.n]
		clear(a)
		d.Accumulate(i, sign, a)
		v := dst[k.start : k.start+k.n]
		for j, q := range a {
			if q != 0 {
				x := float32(float64(q) * unit) // exact: 7 bits times a power of two
				v[j] = v[j] + x
			}
		}
	}
	return nil
}

// nonFinite returns the index of the first NaN or infinity in v, or −1.
func nonFinite(v []float32) int {
	for i, x := range v {
		if math.Float32bits(x)&0x7f800000 == 0x7f800000 {
			return i
		}
	}
	return -1
}

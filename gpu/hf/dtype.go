package hf

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"sync"
)

// dtypeSize holds the element types of safetensors that are whole bytes, with
// their sizes.
var dtypeSize = map[string]int{
	"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
	"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}

// real says whether the elements are numbers with a fraction: whole ones are
// indices, masks or codes, not weights.
func (s *Stored) real() bool {
	return strings.HasPrefix(s.Dtype, "F") || s.Dtype == "BF16"
}

// scratch is for what is read at a time.
var scratch = sync.Pool{New: func() any { b := make([]byte, 1<<18); return &b }}

// read sets out to the elements from number on, row-major, as float32: exactly, but for F64
// and integers beyond 2^24, which are rounded to nearest.
func (s *Stored) read(out []float32, number int) error {
	width := dtypeSize[s.Dtype]
	whole := scratch.Get().(*[]byte)
	defer scratch.Put(whole)
	buf := *whole
	for at := s.at + int64(width)*int64(number); len(out) > 0; at += int64(len(buf)) {
		n := min(len(out), len(buf)/width)
		buf = buf[:n*width]
		if err := readAt(s.from, buf, at); err != nil {
			return fmt.Errorf("safetensors: tensor %.80q: %w", s.Name, err)
		}
		widen(out[:n], buf, s.Dtype)
		out = out[n:]
	}
	return nil
}

// widen sets out to the elements in b.
func widen(out []float32, b []byte, dtype string) {
	le := binary.LittleEndian
	switch dtype {
	case "F64":
		for i := range out {
			out[i] = float32(math.Float64frombits(le.Uint64(b[8*i:])))
		}
	case "F32":
		for i := range out {
			out[i] = math.Float32frombits(le.Uint32(b[4*i:]))
		}
	case "BF16":
		b = b[:2*len(out)]
		for i := range out {
			out[i] = math.Float32frombits(uint32(b[2*i])<<16 | uint32(b[2*i+1])<<24)
		}
	case "F16":
		for i := range out {
			out[i] = halfToFloat(le.Uint16(b[2*i:]))
		}
	case "F8_E5M2": // the upper half of a binary16
		for i := range out {
			out[i] = halfToFloat(uint16(b[i]) << 8)
		}
	case "F8_E4M3":
		for i := range out {
			out[i] = e4m3ToFloat(b[i])
		}
	case "I64":
		for i := range out {
			out[i] = float32(int64(le.Uint64(b[8*i:])))
		}
	case "U64":
		for i := range out {
			out[i] = float32(le.Uint64(b[8*i:]))
		}
	case "I32":
		for i := range out {
			out[i] = float32(int32(le.Uint32(b[4*i:])))
		}
	case "U32":
		for i := range out {
			out[i] = float32(le.Uint32(b[4*i:]))
		}
	case "I16":
		for i := range out {
			out[i] = float32(int16(le.Uint16(b[2*i:])))
		}
	case "U16":
		for i := range out {
			out[i] = float32(le.Uint16(b[2*i:]))
		}
	case "I8":
		for i := range out {
			out[i] = float32(int8(b[i]))
		}
	case "U8", "BOOL":
		for i := range out {
			out[i] = float32(b[i])
		}
	}
}

// halfToFloat widens an IEEE 754 binary16, exactly.
func halfToFloat(h uint16) float32 {
	sign, exp, man := uint32(h>>15)<<31, uint32(h>>10&31), uint32(h&1023)
	switch exp {
	case 0: // zero and subnormals: man · 2^-24, exact in float32
		v := float32(man) * 0x1p-24
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 31: // infinity and NaN
		return math.Float32frombits(sign | 255<<23 | man<<13)
	}
	return math.Float32frombits(sign | (exp+127-15)<<23 | man<<13)
}

// e4m3ToFloat widens an 8-bit number of 4 exponent and 3 mantissa bits
// (Micikevicius et al. 2022, table 1): no infinities, NaN where all are set.
func e4m3ToFloat(b byte) float32 {
	sign, exp, man := uint32(b>>7)<<31, uint32(b>>3&15), uint32(b&7)
	switch {
	case exp == 0:
		return math.Float32frombits(math.Float32bits(float32(man)*0x1p-9) | sign)
	case b&0x7f == 0x7f:
		return math.Float32frombits(sign | 0x7fc00000)
	}
	return math.Float32frombits(sign | (exp+127-7)<<23 | man<<20)
}

package worker

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// writeFloats writes v as float32, little-endian.
func writeFloats(w io.Writer, v []float32) error {
	buf := make([]byte, 0, 1<<16)
	for len(v) > 0 {
		n := min(len(v), cap(buf)/4)
		for _, x := range v[:n] {
			buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(x))
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
		v, buf = v[n:], buf[:0]
	}
	return nil
}

// readFloats fills v and wants the end of r.
func readFloats(r io.Reader, v []float32) error {
	buf := make([]byte, 1<<16)
	for i := 0; i < len(v); {
		part := buf[:min(len(buf), 4*(len(v)-i))]
		if _, err := io.ReadFull(r, part); err != nil {
			return fmt.Errorf("%d values, the body ends after %d: %w", len(v), i, noEOF(err))
		}
		for ; len(part) > 0; part, i = part[4:], i+1 {
			v[i] = math.Float32frombits(binary.LittleEndian.Uint32(part))
		}
	}
	return atEnd(r)
}

// readNewFloats reads n values, and allocates as they come.
func readNewFloats(r io.Reader, n int) ([]float32, error) {
	out := make([]float32, min(n, 1<<20))
	for at := 0; ; {
		part := out[at:]
		buf := make([]byte, min(1<<16, 4*len(part)))
		for len(part) > 0 {
			b := buf[:min(len(buf), 4*len(part))]
			if _, err := io.ReadFull(r, b); err != nil {
				return nil, fmt.Errorf("%d values, the body ends before: %w", n, noEOF(err))
			}
			for ; len(b) > 0; b, part = b[4:], part[1:] {
				part[0] = math.Float32frombits(binary.LittleEndian.Uint32(b))
			}
		}
		if at = len(out); at == n {
			return out, atEnd(r)
		}
		out = append(out, make([]float32, min(len(out), n-len(out)))...)
	}
}

// atEnd wants nothing more of r.
func atEnd(r io.Reader) error {
	var one [1]byte
	if _, err := io.ReadFull(r, one[:]); err != io.EOF {
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: the body is longer than it should be", ErrProtocol)
	}
	return nil
}

// writeIDs writes rows of ids as int32.
func writeIDs(w io.Writer, rows [][]int32) error {
	buf := make([]byte, 0, 1<<12)
	for _, r := range rows {
		for _, id := range r {
			if buf = binary.LittleEndian.AppendUint32(buf, uint32(id)); len(buf) == cap(buf) {
				if _, err := w.Write(buf); err != nil {
					return err
				}
				buf = buf[:0]
			}
		}
	}
	_, err := w.Write(buf)
	return err
}

// writeTokens writes ids and, with logProbs, their log-probabilities.
func writeTokens(w io.Writer, tokens []Token, logProbs bool) error {
	b := make([]byte, 0, 12*len(tokens))
	for _, t := range tokens {
		b = binary.LittleEndian.AppendUint32(b, uint32(t.ID))
	}
	if logProbs {
		for _, t := range tokens {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(t.LogProb))
		}
	}
	_, err := w.Write(b)
	return err
}

// readTokens reads n of them, which the caller has bounded.
func readTokens(r io.Reader, n int, logProbs bool) ([]Token, error) {
	size := 4
	if logProbs {
		size = 12
	}
	b := make([]byte, size*n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("%d tokens, the body ends before: %w", n, noEOF(err))
	}
	out := make([]Token, n)
	for i := range out {
		out[i].ID = int32(binary.LittleEndian.Uint32(b[4*i:]))
		if logProbs {
			out[i].LogProb = math.Float64frombits(binary.LittleEndian.Uint64(b[4*n+8*i:]))
		}
	}
	return out, atEnd(r)
}

// readIDs reads rows of cols ids into one array, which it makes as they come.
func readIDs(r io.Reader, rows, cols int) ([][]int32, error) {
	if rows < 1 || cols < 1 || rows > MaxTokens/cols {
		return nil, fmt.Errorf("%d rows of %d tokens, want 1 to %d in all", rows, cols, MaxTokens)
	}
	var ids []int32
	var b [4]byte
	for range rows * cols {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, fmt.Errorf("%d tokens, the body ends after %d: %w", rows*cols, len(ids), noEOF(err))
		}
		ids = append(ids, int32(binary.LittleEndian.Uint32(b[:])))
	}
	out := make([][]int32, rows)
	for i := range out {
		out[i] = ids[i*cols : (i+1)*cols : (i+1)*cols]
	}
	return out, atEnd(r)
}

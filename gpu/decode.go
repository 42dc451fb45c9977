package gpu

import "math"

// PageSize is how many positions a page of a Cache holds.
const PageSize = 64

// Packed are the weights of a linear layer, W (Rows, Cols), in the order in
// which a device reads them fastest. Only the device that made it reads it.
type Packed struct {
	Buffer          // float32 values; empty where Half is not
	Half   []uint16 // bfloat16
	Rows   int      // outputs
	Cols   int      // inputs
}

// A Cache holds the keys and values of one layer for many sequences, in pages
// of PageSize positions. A page is its keys, transposed (KVHeads·HeadDim,
// PageSize), and then its values (PageSize, KVHeads·HeadDim).
type Cache struct {
	Buffer
	Pages, KVHeads, HeadDim int
	Window                  int // as AttentionShape's
}

// CacheLen is the number of values of such a cache.
func CacheLen(pages, kvHeads, headDim int) int { return 2 * pages * PageSize * kvHeads * headDim }

// Page is the views of page p: keys and values.
func (c Cache) Page(p int) (k, v Matrix) {
	cols := c.KVHeads * c.HeadDim
	n := cols * PageSize
	b := c.Slice(2*p*n, 2*(p+1)*n)
	return b.Slice(0, n).Matrix(cols, PageSize), b.Slice(n, 2*n).Matrix(PageSize, cols)
}

// A Span is a stretch of one sequence in a pass over several.
type Span struct {
	Rows  int     // rows of the pass, those of the next span follow
	Start int     // position of the first in its sequence
	Pages []int32 // the sequence's pages in order, enough for Start+Rows positions
}

// A Decoder has the kernels of reading and writing text, where a Device of
// training has to do with many equal sequences and these with few rows of
// many different ones. Each element of its results depends on its own row or
// sequence only, never on what else is in the pass, and is what the Device's
// MatMul and Attention make of it, bit for bit.
type Decoder interface {
	// NewPacked is memory for W (rows, cols) in the device's order, all zero; half makes it
	// bfloat16.
	NewPacked(half bool, rows, cols int) Packed
	// PackRows sets the rows of p from row at on to those of w, in bfloat16 to the nearest,
	// ties to even.
	PackRows(p Packed, at int, w Matrix)
	// Unpack sets row t of out to row ids[t] of w.
	Unpack(out Matrix, w Packed, ids []int32)
	// Linear is C = A·Wᵀ, or C += where accumulate is set.
	Linear(c, a Matrix, w Packed, accumulate bool)
	// CacheWrite puts the keys and values of the rows of spans into their pages.
	CacheWrite(c Cache, spans []Span, k, v Matrix)
	// CacheAttention is Attention of the rows of spans, q and out being (rows,
	// heads·HeadDim), over the keys and values of their sequences, up to each
	// row's own position and within the cache's window.
	CacheAttention(c Cache, spans []Span, heads int, out, q Matrix)
	// Greatest sets best[t] to the column of the greatest value in row t of z, the first of
	// equals, and to -1 where one is not finite. It waits for the result.
	Greatest(best []int32, z Matrix)
}

// CheckGreatest panics on shapes that do not fit Greatest's.
func CheckGreatest(best []int32, z Matrix) {
	CheckShape("greatest", z, len(best), z.Cols)
	if z.Cols < 1 {
		fail("greatest", "no columns")
	}
}

// CheckLinear panics on shapes that do not fit Linear's.
func CheckLinear(c, a Matrix, w Packed) {
	CheckMatrix("linear", a)
	CheckShape("linear", a, a.Rows, w.Cols)
	CheckShape("linear", c, a.Rows, w.Rows)
}

// CheckPackRows panics on shapes that do not fit PackRows's.
func CheckPackRows(p Packed, at int, w Matrix) {
	CheckMatrix("pack", w)
	if w.Cols != p.Cols || at < 0 || at+w.Rows > p.Rows {
		fail("pack", "rows %d to %d of %d columns into (%d, %d)", at, at+w.Rows, w.Cols, p.Rows, p.Cols)
	}
}

// CheckUnpack panics on shapes and rows that do not fit Unpack's.
func CheckUnpack(out Matrix, w Packed, ids []int32) {
	CheckShape("unpack", out, len(ids), w.Cols)
	for _, id := range ids {
		if id < 0 || int(id) >= w.Rows {
			fail("unpack", "row %d of %d", id, w.Rows)
		}
	}
}

// Pack packs matrices of as many columns, one below the other.
func Pack(dev Decoder, half bool, w ...Matrix) Packed {
	rows, cols := 0, 0
	for _, m := range w {
		rows, cols = rows+m.Rows, m.Cols
	}
	p, at := dev.NewPacked(half, rows, cols), 0
	for _, m := range w {
		dev.PackRows(p, at, m)
		at += m.Rows
	}
	return p
}

// Check panics unless the spans are of c and have rows rows together.
func (c Cache) Check(op string, spans []Span, rows int) {
	if c.Pages < 0 || c.KVHeads < 1 || c.HeadDim < 1 || c.Window < 0 || c.N != CacheLen(c.Pages, c.KVHeads, c.HeadDim) {
		fail(op, "cache of %d pages of %d heads of %d in %d values", c.Pages, c.KVHeads, c.HeadDim, c.N)
	}
	for i, s := range spans {
		if s.Rows < 0 || s.Start < 0 || s.Start+s.Rows > len(s.Pages)*PageSize {
			fail(op, "span %d: %d rows from %d in %d pages", i, s.Rows, s.Start, len(s.Pages))
		}
		for _, p := range s.Pages {
			if p < 0 || int(p) >= c.Pages {
				fail(op, "span %d: page %d of %d", i, p, c.Pages)
			}
		}
		rows -= s.Rows
	}
	if rows != 0 {
		fail(op, "the spans and the matrix differ by %d rows", rows)
	}
}

// CheckAttention panics on shapes that do not fit CacheAttention's.
func (c Cache) CheckAttention(spans []Span, heads int, out, q Matrix) {
	const op = "cache attention"
	c.Check(op, spans, q.Rows)
	if heads < 1 || heads%c.KVHeads != 0 {
		fail(op, "%d heads on %d", heads, c.KVHeads)
	}
	CheckShape(op, q, q.Rows, heads*c.HeadDim)
	CheckShape(op, out, q.Rows, heads*c.HeadDim)
}

// RoundBF16 is the bfloat16 nearest to x, ties to even, as its bits.
func RoundBF16(x float32) uint16 {
	b := math.Float32bits(x)
	if x != x {
		return uint16(b>>16) | 0x40 // a NaN stays one
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// FromBF16 widens the bits of a bfloat16.
func FromBF16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

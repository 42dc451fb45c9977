package gpu

import "fmt"

func fail(op, format string, args ...any) {
	panic("gpu: " + op + ": " + fmt.Sprintf(format, args...))
}

// CheckMatrix panics unless m's memory holds its rows. Devices call the Check
// functions before they hand addresses to code that checks no bounds.
func CheckMatrix(op string, m Matrix) {
	if m.Rows < 0 || m.Cols < 0 || m.Stride < m.Cols || (m.Rows > 0 && (m.Rows-1)*m.Stride+m.Cols > m.N) {
		fail(op, "%dx%d matrix with stride %d in %d values", m.Rows, m.Cols, m.Stride, m.N)
	}
}

// CheckShape panics unless m is rows by cols and its memory holds it.
func CheckShape(op string, m Matrix, rows, cols int) {
	CheckMatrix(op, m)
	if m.Rows != rows || m.Cols != cols {
		fail(op, "matrix is %dx%d, want %dx%d", m.Rows, m.Cols, rows, cols)
	}
}

// CheckLen panics unless b holds n values.
func CheckLen(op string, b Buffer, n int) {
	if b.N != n {
		fail(op, "buffer of %d values, want %d", b.N, n)
	}
}

// CheckMatMul panics on shapes that cannot be multiplied and returns those
// of the product: C is m by n, the sum runs over k.
func CheckMatMul(l Layout, c, a, b Matrix) (m, n, k int) {
	op := "matmul " + l.String()
	CheckMatrix(op, a)
	CheckMatrix(op, b)
	m, k, n = a.Rows, a.Cols, b.Cols
	kb := b.Rows
	switch l {
	case NT:
		n, kb = b.Rows, b.Cols
	case TN:
		m, k = a.Cols, a.Rows
	}
	if k != kb {
		fail(op, "%dx%d by %dx%d", a.Rows, a.Cols, b.Rows, b.Cols)
	}
	CheckShape(op, c, m, n)
	return m, n, k
}

// CheckIDs panics unless every id names one of n rows; negative ids are
// allowed where none is set.
func CheckIDs(op string, ids []int32, n int, none bool) {
	for t, id := range ids {
		if int(id) >= n || (id < 0 && !none) {
			fail(op, "id %d at %d, want below %d", id, t, n)
		}
	}
}

// CheckRMSNorm panics on shapes that do not fit RMSNorm's.
func CheckRMSNorm(op string, out, x Matrix, gain, inv Buffer) {
	CheckMatrix(op, x)
	CheckShape(op, out, x.Rows, x.Cols)
	CheckLen(op, gain, x.Cols)
	CheckLen(op, inv, x.Rows)
}

// CheckRoPE panics on shapes that do not fit RoPE's.
func CheckRoPE(x, cos, sin Matrix, r Rotation) {
	CheckMatrix("rope", x)
	if r.HeadDim%2 != 0 || r.HeadDim <= 0 || r.Heads < 0 || r.Heads*r.HeadDim > x.Cols {
		fail("rope", "%d heads of %d in %d columns", r.Heads, r.HeadDim, x.Cols)
	}
	if r.Period <= 0 || r.Start < 0 || r.Row < 0 || r.Start+min(r.Period, r.Row+x.Rows) > cos.Rows {
		fail("rope", "positions from %d, period %d, row %d, table of %d", r.Start, r.Period, r.Row, cos.Rows)
	}
	CheckShape("rope", cos, cos.Rows, r.HeadDim/2)
	CheckShape("rope", sin, cos.Rows, r.HeadDim/2)
}

// Check panics on sizes that make no attention, or on matrices of other sizes.
func (s AttentionShape) Check(op string, out, stats, q, k, v Matrix) {
	if s.Seqs < 0 || s.Queries < 0 || s.Keys < s.Queries || s.KVHeads <= 0 || s.Heads <= 0 ||
		s.Heads%s.KVHeads != 0 || s.HeadDim <= 0 || s.Window < 0 {
		s.From = nil
		fail(op, "shape %+v", s)
	}
	if s.From != nil && len(s.From) != s.Seqs*s.Queries {
		fail(op, "%d first keys for %d queries", len(s.From), s.Seqs*s.Queries)
	}
	for t, from := range s.From {
		if last := s.Keys - s.Queries + t%s.Queries; from < 0 || int(from) > last {
			fail(op, "query %d sees keys %d to %d", t, from, last)
		}
	}
	CheckShape(op, out, s.Seqs*s.Queries, s.Heads*s.HeadDim)
	CheckShape(op, q, s.Seqs*s.Queries, s.Heads*s.HeadDim)
	CheckShape(op, stats, s.Seqs*s.Queries, 2*s.Heads)
	CheckShape(op, k, s.Seqs*s.Keys, s.KVHeads*s.HeadDim)
	CheckShape(op, v, s.Seqs*s.Keys, s.KVHeads*s.HeadDim)
}

// CheckBackward panics as Check does, for AttentionBackward.
func (s AttentionShape) CheckBackward(dq, dk, dv, dout, out, stats, q, k, v Matrix) {
	const op = "attention backward"
	s.Check(op, out, stats, q, k, v)
	if s.Queries != s.Keys {
		fail(op, "%d queries of %d keys", s.Queries, s.Keys)
	}
	CheckShape(op, dout, out.Rows, out.Cols)
	CheckShape(op, dq, q.Rows, q.Cols)
	CheckShape(op, dk, k.Rows, k.Cols)
	CheckShape(op, dv, v.Rows, v.Cols)
}

// CheckSwiGLU panics on shapes that do not fit SwiGLU's.
func CheckSwiGLU(op string, out, gateUp Matrix) {
	CheckMatrix(op, out)
	CheckShape(op, gateUp, out.Rows, 2*out.Cols)
}

// CheckCrossEntropy panics on shapes or targets that do not fit.
func CheckCrossEntropy(loss Buffer, logits Matrix, targets []int32) {
	CheckMatrix("cross-entropy", logits)
	CheckLen("cross-entropy", loss, logits.Rows)
	if len(targets) != logits.Rows {
		fail("cross-entropy", "%d targets for %d rows", len(targets), logits.Rows)
	}
	CheckIDs("cross-entropy", targets, logits.Cols, true)
}

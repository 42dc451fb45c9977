// Package gpu names what a model asks of the machine that computes it: memory
// for float32 values and the kernels of a Llama training step and of decoding,
// and no more.
//
// gpu/ref is the definition, in plain loops; gpu/cpu is tuned. Both pass the
// suite of gpu/gputest. The interface is shaped so that an accelerator with
// memory of its own can stand behind it: kernels take Buffers, only token ids
// and scalars cross from the host in a call, and the only results that a
// kernel returns at once are the two sums that a step needs on the host.
//
// All matrices are row-major. Shapes are given as (rows, columns). A kernel
// panics on shapes that do not fit one another, as an index out of range
// does: shapes come from a model's configuration, which its loader checks,
// never from the network.
package gpu

import "fmt"

// A Buffer is a run of float32 values in a device's memory. Buffers are views:
// copying one, or slicing it, copies no values. The zero Buffer is empty.
type Buffer struct {
	// Host is the memory itself, on devices that share the host's.
	Host []float32
	// Addr is the address on devices that do not; their Host is nil.
	Addr uintptr
	// N is the number of values.
	N int
}

// Slice is the view of values i to j, j excluded.
func (b Buffer) Slice(i, j int) Buffer {
	if i < 0 || j < i || j > b.N {
		panic(fmt.Sprintf("gpu: slice [%d:%d] of a buffer of %d", i, j, b.N))
	}
	s := Buffer{N: j - i}
	if b.Host != nil {
		s.Host = b.Host[i:j:j]
	} else {
		s.Addr = b.Addr + uintptr(i)*4
	}
	return s
}

// Matrix is the view of b's first rows*cols values as a dense matrix.
func (b Buffer) Matrix(rows, cols int) Matrix {
	return Matrix{Buffer: b.Slice(0, rows*cols), Rows: rows, Cols: cols, Stride: cols}
}

// A Matrix is a Buffer seen as rows of Cols values, Stride values apart.
type Matrix struct {
	Buffer
	Rows, Cols, Stride int
}

// Columns is the view of n columns from column i on.
func (m Matrix) Columns(i, n int) Matrix {
	if i < 0 || n < 0 || i+n > m.Cols {
		panic(fmt.Sprintf("gpu: columns [%d:%d] of a matrix of %d", i, i+n, m.Cols))
	}
	if m.Rows == 0 {
		return Matrix{Buffer: m.Slice(0, 0), Cols: n, Stride: m.Stride}
	}
	return Matrix{Buffer: m.Slice(i, (m.Rows-1)*m.Stride+i+n), Rows: m.Rows, Cols: n, Stride: m.Stride}
}

// Row is the view of n rows from row i on.
func (m Matrix) Row(i, n int) Matrix {
	if i < 0 || n < 0 || i+n > m.Rows {
		panic(fmt.Sprintf("gpu: rows [%d:%d] of a matrix of %d", i, i+n, m.Rows))
	}
	if n == 0 {
		return Matrix{Buffer: m.Slice(0, 0), Cols: m.Cols, Stride: m.Stride}
	}
	return Matrix{Buffer: m.Slice(i*m.Stride, (i+n-1)*m.Stride+m.Cols), Rows: n, Cols: m.Cols, Stride: m.Stride}
}

// A Layout says which operand of a matrix product is read transposed.
type Layout int

// The three layouts of a linear layer with weights W (out, in): its forward
// pass Y = X·Wᵀ, its input's gradient dX = dY·W, and its weights' dW = dYᵀ·X.
const (
	NN Layout = iota // C = A·B
	NT               // C = A·Bᵀ
	TN               // C = Aᵀ·B
)

func (l Layout) String() string { return [...]string{"NN", "NT", "TN"}[l] }

// A Rotation says how RoPE turns a matrix's rows.
type Rotation struct {
	Heads   int // heads in a row, one after another from column 0 on
	HeadDim int // columns of a head; even
	// Start, Period and Row give the position of a matrix's row i: Start + (Row + i) mod Period.
	Start, Period, Row int
	Inverse            bool // turn back: the backward pass
}

// An AttentionShape gives the sizes of causal, grouped-query attention. The
// queries of one sequence are the last of its keys' positions: query i sees
// keys 0 to Keys-Queries+i.
type AttentionShape struct {
	Seqs    int // sequences; rows of q and k are grouped by them
	Queries int // query rows of a sequence
	Keys    int // key and value rows of a sequence; at least Queries
	Heads   int // query heads
	KVHeads int // key and value heads; divides Heads
	HeadDim int // columns of one head
	// From, where not nil, has the first key that each query row sees, counted
	// within its sequence: where its document begins in a packed sequence.
	From []int32
	// Window, where not 0, is how many keys a query sees at most, its own position's being the last.
	Window int
}

// First is the first key that query row t sees, counted within its sequence.
func (s *AttentionShape) First(t int) int {
	first := 0
	if s.From != nil {
		first = int(s.From[t])
	}
	if s.Window > 0 {
		first = max(first, s.Keys-s.Queries+t%s.Queries-s.Window+1)
	}
	return first
}

// An AdamW holds the numbers of one step of AdamW (Loshchilov and Hutter
// 2019, algorithm 2) with the bias corrections folded in:
//
//	g' = Scale·g
//	m  = Beta1·m + (1-Beta1)·g'
//	v  = Beta2·v + (1-Beta2)·g'²
//	p  = Keep·p - Rate·m / (sqrt(Correct2·v) + Eps)
type AdamW struct {
	Scale    float32 // global-norm clipping; 1 where nothing is clipped
	Beta1    float32
	Beta2    float32
	Rate     float32 // learning rate / (1 - β1^t)
	Correct2 float32 // 1 / (1 - β2^t)
	Eps      float32
	Keep     float32 // 1 - learning rate · weight decay
}

// A Device computes. Its methods are called by one goroutine at a time. No
// method uses a slice that it was given after it returns. Results do not depend on how many
// threads a device uses.
//
// Destination arguments come first. "Adds to" means that the destination's
// old values count; elsewhere they are overwritten and may be anything.
type Device interface {
	// Name says what computes, for people.
	Name() string
	// Alloc gives n zeroed values that live as long as they are referenced.
	Alloc(n int) Buffer
	// Import gives the values of host as a Buffer: the same memory where the
	// device shares the host's, a copy elsewhere.
	Import(host []float32) Buffer
	// Upload copies src to dst, Download back; both have equal lengths.
	Upload(dst Buffer, src []float32)
	Download(dst []float32, src Buffer)
	// Sync waits for what was asked so far and reports the first failure.
	Sync() error

	// Zero clears dst.
	Zero(dst Buffer)
	// Copy copies a matrix of the same shape; strides may differ.
	Copy(dst, src Matrix)

	// MatMul is C = op(A)·op(B), or C += where accumulate is set.
	MatMul(l Layout, c, a, b Matrix, accumulate bool)

	// Embed sets row t of out (len(ids), d) to row ids[t] of table (vocab, d).
	Embed(out, table Matrix, ids []int32)
	// EmbedBackward adds row t of dout to row ids[t] of dtable, t ascending.
	EmbedBackward(dtable, dout Matrix, ids []int32)

	// RMSNorm sets inv[t] = 1/sqrt(mean(x_t²)+eps) and out_t = x_t·inv[t]·gain
	// (Zhang and Sennrich 2019, equation 4). x and out are (rows, d), gain (d),
	// inv (rows).
	RMSNorm(out Matrix, inv Buffer, x Matrix, gain Buffer, eps float32)
	// RMSNormBackward adds to dx and dgain, from what RMSNorm read and wrote.
	RMSNormBackward(dx Matrix, dgain Buffer, dout, x Matrix, gain, inv Buffer)

	// RoPE turns x in place (Su et al. 2021) in the layout of Hugging Face's
	// rotate_half: element i of a head pairs with i+HeadDim/2. cos and sin are
	// (positions, HeadDim/2).
	RoPE(x, cos, sin Matrix, r Rotation)

	// Attention is softmax(q·kᵀ/sqrt(HeadDim))·v for each query head. q and
	// out are (Seqs·Queries, Heads·HeadDim), k and v (Seqs·Keys,
	// KVHeads·HeadDim); stats (Seqs·Queries, 2·Heads) receives the softmax's
	// largest argument and the inverse of its sum for the backward pass. What
	// is not finite in k or v may spread to all queries of its sequence.
	Attention(s AttentionShape, out, stats, q, k, v Matrix)
	// AttentionBackward overwrites dq, dk and dv. Queries equals Keys.
	AttentionBackward(s AttentionShape, dq, dk, dv, dout, out, stats, q, k, v Matrix)

	// SwiGLU sets out (rows, f) to silu(gate)·up, where gateUp (rows, 2f)
	// holds gate in its left and up in its right half (Shazeer 2020, eq. 6).
	SwiGLU(out, gateUp Matrix)
	// SwiGLUBackward overwrites dgateUp, which may be gateUp itself.
	SwiGLUBackward(dgateUp, dout, gateUp Matrix)

	// CrossEntropy sets loss[t] = log(sum(exp(logits_t))) - logits_t[targets[t]],
	// in nats, and replaces logits_t by scale·(softmax(logits_t) - onehot). A
	// negative target has no loss and no gradient.
	CrossEntropy(loss Buffer, logits Matrix, targets []int32, scale float32)

	// Sum and SumSquares add in an order that depends on the length only.
	Sum(x Buffer) float64
	SumSquares(x Buffer) float64

	// AdamW makes one step on p, its gradient g, and its moments m and v, all
	// of one length, and clears g. Subnormal moments may become 0.
	AdamW(p, g, m, v Buffer, o AdamW)

	Decoder
}

// A RowJob is work on matrices whose rows have nothing to do with one another. Rows does it for rows
// from to to, calling methods of dev that write to those rows alone, and not Alloc; what MatMul
// multiplies them by stays as it is until all rows are done.
type RowJob interface {
	Rows(dev Device, from, to int)
}

// EachRow does job for rows 0 to n. A device that can takes stretches of rows, each through all of
// job while it is in a cache; results are those of job.Rows(dev, 0, n). weights is how many
// values a row is multiplied by.
func EachRow(dev Device, n, weights int, job RowJob) {
	if d, ok := dev.(interface {
		EachRow(n, weights int, job RowJob)
	}); ok {
		d.EachRow(n, weights, job)
		return
	}
	job.Rows(dev, 0, n)
}

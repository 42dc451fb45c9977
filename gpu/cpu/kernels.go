package cpu

import "github.com/shoalnet/shoal/gpu"

// kernels are the inner loops of one instruction set. Slices of one call have
// the length of the first, or more.
type kernels struct {
	name         string
	pack, strips int  // values of scratch that product needs
	slack        int  // see product
	keeps        bool // products have all of B in pack, where it fits, and take what is there if worker.packed

	class  string   // of product's bits, see Device.Class
	paired bool     // half adds pairs of products, see dots
	exact  *kernels // like these with the bits of all others; nil where these have them

	// product computes C (m, n) = op(A)·op(B), or C += with acc. lda, ldb and
	// ldc are the distances of rows.
	//
	// seen above 0 says that one of the matrices is a causal triangle, of whose row i only
	// the first seen+i elements count, and lets product leave the others out: with NT they are
	// C's, which may become anything; with NN and TN those of A as it lies, of which the first
	// slack of each row are 0; TN with seen needs m < k + seen.
	product func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool, seen int)

	// half is product with A and B rounded to bfloat16 first; sums are float32's.
	half func(w *worker, l gpu.Layout, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool)

	// few is product, NN, for few rows: B is read where it lies. nil where product does as well.
	few func(m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool)

	// ask has the second-level cache fetch n bytes of each of some rows, stride bytes apart; may be nil.
	ask func(rows, n int, p *float32, stride int)

	dot  func(x, y []float32) float32    // Σ x·y
	dot3 func(x, y, z []float32) float32 // Σ x·y·z
	add  func(y, x []float32)            // y += x

	greatest func(x []float32) float32 // of x, NaN where a value is not finite

	normalize func(out, x, gain []float32, a float32)              // out = a·x·gain
	normBack  func(dx, dgain, dy, x, gain []float32, a, b float32) // dx += a·gain·dy - b·x, dgain += a·dy·x

	// softmax sets y = b·exp(a·y-m)/sum with m = max(a·y) and sum = Σ exp(a·y-m);
	// a is above 0. A NaN makes everything NaN.
	softmax func(y []float32, a, b float32) (m, sum float32)
	// softmaxBack sets p = inv·exp(a·p-m), dp = a·p·(dp-d).
	softmaxBack func(dp, p []float32, a, m, inv, d float32)

	// rope turns each of the heads in x, pairs len(c) apart, by angles of
	// cosine c and sine a·s; a is 1 or -1.
	rope func(x, c, s []float32, heads int, a float32)

	swiglu     func(out, gate, up []float32)              // out = silu(gate)·up
	swigluBack func(dgate, dup, dout, gate, up []float32) // dgate may be gate, dup up

	adamw func(p, g, m, v []float32, o *gpu.AdamW)
}

// Package toploc proves and checks model activations: which model, prompt and
// precision a sequence was generated with, without generating it again
// (TOPLOC, Ong et al. 2025, arXiv 2501.16007).
//
// A prover keeps, for each chunk of tokens, the k activations of largest
// magnitude of the last hidden states, and sends the polynomial over GF(65497)
// that maps their positions to their bfloat16 bits: 2+2k bytes a chunk. A
// verifier recomputes the activations in one prefill, takes its own top-k,
// evaluates the polynomial there and compares exponents and mantissas: the same
// model on other hardware drifts a little, another model does not come close.
//
// # What there is
//
//   - [Build], [Prover] and [Proof]: version 1 records, byte-compatible with toploc
//     0.1.6, of a sequence at once or while it is generated.
//   - [CompareChunk]: the reference's metrics. The reference's verifier, which passes
//     what they allow, accepts forgeries; [Strict] is the judge to use.
//   - [Projector]: version 2 records beside them, which commit to all activations and
//     are bound to a job.
//   - [Sampler], [TokenRule]: draws that anyone can repeat, and the check that tokens
//     were so drawn, or at least from the right distribution.
//   - [Policy]: a model's limits, which toploc/calibrate measures.
//
// SPEC.md gives every byte and rule, README.md what passes which limits.
//
// The package is pure Go with kernels in assembly for amd64 (build tag purego
// leaves them out), imports nothing of Shoal and may be used by itself. Nothing in it
// panics on what a prover sends; types are for one goroutine.
//
// Activations are bfloat16 bits in uint16, row-major: one row of Hidden values
// a token. [RoundBF16] makes them of float32.
package toploc

import "math"

// Prime is the order of the field: the largest prime below 2^16.
const Prime = 65497

// RoundBF16 writes src to dst as bfloat16 bits, rounding to nearest, ties to
// even; every NaN becomes 0x7FC0. It panics if dst is shorter than src.
func RoundBF16(dst []uint16, src []float32) {
	dst = dst[:len(src)]
	for i, f := range src {
		u := math.Float32bits(f)
		if u&0x7fffffff > 0x7f800000 {
			dst[i] = 0x7fc0
			continue
		}
		dst[i] = uint16((u + 0x7fff + (u>>16)&1) >> 16)
	}
}

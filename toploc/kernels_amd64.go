//go:build amd64 && !purego

package toploc

import "golang.org/x/sys/cpu"

//go:generate sh -c "cd asm && go run . -out ../kernels_amd64.s -stubs ../stubs_amd64.go -pkg toploc"

// isa is the best instruction set that this machine has. Tests set it.
var isa = detect()

const (
	isaGeneric = iota
	isaAVX2
	isaAVX512 // with BW and VBMI2
)

func detect() int {
	x := cpu.X86
	switch {
	case !x.HasAVX2 || !x.HasBMI1 || !x.HasPOPCNT:
		return isaGeneric
	case !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512VBMI2:
		return isaAVX2
	}
	return isaAVX512
}

// The kernels, in both widths unless said otherwise; asm writes them.
//
// Scans read bfloat16 bits. gather and compact are gatherGeneric and
// compactGeneric, but read and write whole blocks: gather wants len(a) of a block
// (128) and more, and stops before one that has no room; compact512 wants a
// multiple of 32. count is countGeneric; project is projectGeneric on a multiple of
// 16 channels.
//
// Field elements are 16-bit lanes below p. A factor x comes as xm = x·2^16 mod p
// and xp = xm/p mod 2^16, an addend c as Prime - c.
//
//	horner(out, xm, xp, neg)  out[i] = Σ_k (p - neg[k]) x_i^k
//	master(m, xm, xp)         m[32:] = the coefficients of Π(t - x_i), lowest first,
//	                          in a zeroed m with 32 elements of padding at both ends
//	combine(sum, xm, xp, am, ap, neg)
//	                          sum[k] += Σ_i a_i b_ik mod p, where b_i is
//	                          the polynomial of coefficients p - neg divided by
//	                          t - x_i: b_ik = x_i b_i(k+1) + p - neg[k+1]

func gather(a []uint16, floor uint16, at uint32, bits []uint16, pos []uint32) (read, wrote int) {
	if isa == isaGeneric || floor >= keyNaN || len(a) < block {
		return gatherGeneric(a, floor, at, bits, pos)
	}
	if isa == isaAVX512 {
		read, wrote = gather512(a, floor, at, bits, pos)
	} else {
		read, wrote = gather256(a, floor, at, bits, pos)
	}
	if len(a)-read < block { // the tail
		r, w := gatherGeneric(a[read:], floor, at+uint32(read), bits[wrote:], pos[wrote:])
		return read + r, wrote + w
	}
	return read, wrote
}

func count(a []uint16, floor uint16) int {
	switch {
	case floor >= keyNaN:
		return 0
	case isa == isaAVX512:
		return count512(a, floor)
	case isa == isaAVX2:
		return count256(a, floor)
	}
	return countGeneric(a, floor)
}

// compact leaves junk in what it does not keep of the first n, rounded up to 32.
func compact(bits []uint16, pos []uint32, n int, floor uint16) int {
	if isa == isaAVX512 {
		// What refine cleared beyond n is above no floor.
		return compact512(bits[:(n+31)&^31], pos, floor)
	}
	return compactGeneric(bits, pos, n, floor)
}

// minNative is the least number of points that is worth a kernel's set-up.
const minNative = 12

func interpolate(c []uint16, x, y []uint32) {
	if isa == isaGeneric || len(x) < minNative {
		newton(c, x, y)
		return
	}
	lagrange(c, x, y)
}

// lagrange is newton's twin in vectors: with M(t) = Π(t - x_i), of degree n,
//
//	P(t) = Σ a_i M(t)/(t - x_i),  a_i = y_i/M'(x_i)
//
// and Horner's rule divides: the quotient's coefficient k is
// b_k = x_i·b_(k+1) + M_(k+1), so that c_k = Σ a_i b_k.
func lagrange(c []uint16, x, y []uint32) {
	n := len(x)
	size := (n + block - 1) &^ (block - 1)
	const most = 128
	var stack [5*most + 3*64 + 2*most]uint16
	buf := stack[:]
	if n > most {
		buf = make([]uint16, 5*size+3*64+2*size)
	}
	next := func(n int) []uint16 {
		s := buf[:n:n]
		buf = buf[n:]
		return s
	}
	xm, xp, am, ap, w := next(size), next(size), next(size), next(size), next(size)
	m, neg := next(32+n+1+32), next(n+1)
	for i, v := range x {
		xm[i], xp[i] = montgomery(v)
	}
	if isa == isaAVX512 {
		master512(m, xm[:n], xp[:n])
	} else {
		master256(m, xm[:n], xp[:n])
	}
	m = m[32 : 32+n+1]
	for k := range uint32(n) { // the derivative
		neg[k] = uint16(Prime - mulmod(k+1, uint32(m[k+1])))
	}
	horner(w, xm, xp, neg[:n])
	inv := inverses()
	for i, v := range y {
		am[i], ap[i] = montgomery(mulmod(v, uint32(inv[w[i]])))
	}
	for k, v := range m {
		neg[k] = Prime - v
	}
	var sums [most]uint32
	sum := sums[:]
	if n > most {
		sum = make([]uint32, n)
	}
	sum = sum[:n]
	if isa == isaAVX512 {
		combine512(sum, xm, xp, am, ap, neg)
	} else {
		combine256(sum, xm, xp, am, ap, neg)
	}
	for k, s := range sum {
		c[k] = uint16(s % Prime)
	}
}

// montgomery returns xm and xp of x.
func montgomery(x uint32) (xm, xp uint16) {
	const inverse = 0x9069 // of p, mod 2^16: see TestMontgomery
	m := x * (1 << 16 % Prime) % Prime
	return uint16(m), uint16(m * inverse)
}

// horner sets out to the values at x of the polynomial whose coefficients,
// lowest degree first, are Prime - neg.
func horner(out, xm, xp, neg []uint16) {
	if isa == isaAVX512 {
		horner512(out, xm, xp, neg)
	} else {
		horner256(out, xm, xp, neg)
	}
}

func evaluate(out []uint32, c []uint16, at []uint32) {
	if isa == isaGeneric || len(at) < minNative || len(c) < 2 {
		evaluateGeneric(out, c, at)
		return
	}
	const most = 128
	var stack [most]uint16
	neg := stack[:]
	if len(c) > most {
		neg = make([]uint16, len(c))
	}
	neg = neg[:len(c)]
	for k, v := range c {
		neg[k] = Prime - v
	}
	var xm, xp, w [block]uint16
	for len(at) > 0 {
		n := min(len(at), block)
		for i, x := range at[:n] {
			xm[i], xp[i] = montgomery(x)
		}
		horner(w[:], xm[:], xp[:], neg)
		for i := range n {
			out[i] = uint32(w[i])
		}
		out, at = out[n:], at[n:]
	}
}

func project(lanes *[projLanes]int32, row []uint16, gain []float32) {
	n := len(row) &^ (projLanes - 1)
	if isa == isaGeneric {
		n = 0
	}
	if n > 0 && isa == isaAVX512 {
		project512(lanes, row[:n], gain)
	} else if n > 0 {
		project256(lanes, row[:n], gain)
	}
	projectGeneric(lanes, row[n:], gain[n:])
}

package toploc

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The obvious version: proofs and metrics as section 1 of the paper's reference makes
// them, with its data structures (16-byte pairs, lists that are searched, one extended
// Euclid a division, Newton's form expanded term by term). It shares nothing with the
// package but the constants. Tests compare with it, benchmarks are timed against it.

type pair struct {
	mag float32 // NaN for all NaNs
	pos int64
}

func (a pair) before(b pair) bool {
	na, nb := a.mag != a.mag, b.mag != b.mag
	return na && !nb || a.mag > b.mag
}

// first is before, with ties to the lowest position.
func (a pair) first(b pair) bool { return a.before(b) || !b.before(a) && a.pos < b.pos }

// plainTop selects with a heap of k, its root the last of them.
func plainTop(a []uint16, k int) []pair {
	q := make([]pair, len(a))
	for i, b := range a {
		q[i] = pair{math.Float32frombits(uint32(b&0x7fff) << 16), int64(i)}
	}
	down := func(i int) {
		for c := 2*i + 1; c < k; c = 2*i + 1 {
			if c+1 < k && q[c].first(q[c+1]) {
				c++
			}
			if !q[i].first(q[c]) {
				return
			}
			q[i], q[c] = q[c], q[i]
			i = c
		}
	}
	for i := k/2 - 1; i >= 0; i-- {
		down(i)
	}
	for i := k; i < len(q); i++ {
		if q[i].first(q[0]) {
			q[0], q[i] = q[i], q[0]
			down(0)
		}
	}
	return q[:k]
}

func plainModulus(x []int) int {
	for m := 65497; m > 0; m-- {
		var seen []int
		ok := true
		for _, v := range x {
			if slices.Contains(seen, v%m) {
				ok = false
				break
			}
			seen = append(seen, v%m)
		}
		if ok {
			return m
		}
	}
	return 0
}

func plainMod(v int) int {
	if v %= 65497; v < 0 {
		v += 65497
	}
	return v
}

func plainInverse(a int) int {
	r0, r, s0, s := plainMod(a), 65497, 1, 0
	for r != 0 {
		q := r0 / r
		r0, r = r, r0-q*r
		s0, s = s, s0-q*s
	}
	return plainMod(s0)
}

func plainInterpolate(x, y []int) []int {
	n := len(x)
	d, c, f := make([]int, n), make([]int, n), make([]int, n)
	for i, v := range y {
		d[i] = plainMod(v)
	}
	for k := 1; k < n; k++ {
		for i := n - 1; i >= k; i-- {
			d[i] = plainMod(plainMod(d[i]-d[i-1]) * plainInverse(x[i]-x[i-k]))
		}
	}
	f[0] = 1 // Π(t - x[j]) so far
	for i := range n {
		for j := 0; j <= i; j++ {
			c[j] = plainMod(c[j] + d[i]*f[j])
		}
		for j := i + 1; j > 0 && i+1 < n; j-- {
			f[j] = plainMod(f[j-1] - f[j]*x[i])
		}
		f[0] = plainMod(-f[0] * x[i])
	}
	return c
}

func plainEvaluate(c []int, x int) int {
	v := 0
	for i := len(c) - 1; i >= 0; i-- {
		v = (v*x + c[i]) % 65497
	}
	return v
}

func plainBuild(a []uint16, k int) []byte {
	var pos, bits []int
	for _, p := range plainTop(a, k) {
		pos, bits = append(pos, int(p.pos)), append(bits, int(a[p.pos]))
	}
	m := plainModulus(pos)
	for i := range pos {
		pos[i] %= m
	}
	rec := []byte{byte(m >> 8), byte(m)}
	for _, c := range plainInterpolate(pos, bits) {
		rec = append(rec, byte(c>>8), byte(c))
	}
	return rec
}

func plainVerify(rec []byte, a []uint16, k int, list bool) (r Result) {
	m := int(rec[0])<<8 | int(rec[1])
	var c []int
	for i := 2; i < len(rec); i += 2 {
		c = append(c, int(rec[i])<<8|int(rec[i+1]))
	}
	var errs []float64
	for _, p := range plainTop(a, k) {
		x := int(p.pos)
		if !list {
			x %= m
		}
		got, own := uint16(plainEvaluate(c, x)), a[p.pos]
		if got>>7&0xff != own>>7&0xff {
			r.ExpMismatches++
			continue
		}
		errs = append(errs, math.Abs(float64(got%128)-float64(own%128)))
		if got>>15 != own>>15 {
			r.SignMismatches++
		}
	}
	if len(errs) == 0 {
		r.MantErrMean, r.MantErrMedian = math.Exp2(64), math.Exp2(64)
		return r
	}
	for _, e := range errs {
		r.MantErrMean += e
	}
	r.MantErrMean /= float64(len(errs))
	slices.Sort(errs)
	n := len(errs)
	r.MantErrMedian = errs[n/2]
	if list && n%2 == 0 {
		r.MantErrMedian = (errs[n/2-1] + errs[n/2]) / 2
	}
	return r
}

// odd makes activations of one of many kinds; what are their names.
func odd(r *rand.Rand, n int) (what string, a []uint16) {
	a = make([]uint16, n)
	kinds := []string{"gauss", "ties", "any bits", "denormal", "zeros of both signs", "infinities and NaN", "outlier channels", "equal", "negative NaN"}
	what = kinds[r.IntN(len(kinds))]
	one := uint16(r.Uint32())
	for i := range a {
		f := []float32{float32(r.NormFloat64())}
		RoundBF16(a[i:], f)
		switch what {
		case "ties":
			a[i] = uint16(r.IntN(2))<<15 | uint16(0x3f7e+r.IntN(4))
		case "any bits":
			a[i] = uint16(r.Uint32())
		case "denormal":
			a[i] = uint16(r.IntN(2))<<15 | uint16(r.IntN(0x90))
		case "zeros of both signs":
			if r.IntN(20) > 0 {
				a[i] = uint16(r.IntN(2)) << 15
			}
		case "infinities and NaN":
			if r.IntN(30) == 0 {
				a[i] = uint16(r.IntN(2))<<15 | uint16(0x7f7f+r.IntN(4))
			}
		case "outlier channels":
			if i%64 < 3 {
				RoundBF16(a[i:], []float32{f[0]*0.1 + 30})
			}
		case "equal":
			a[i] = one
		case "negative NaN": // bits beyond the field
			if r.IntN(10) == 0 {
				a[i] = uint16(0xff81 + r.IntN(127))
			}
		}
	}
	return what, a
}

// altered is another machine's version of a, or something else.
func altered(r *rand.Rand, a []uint16) []uint16 {
	b := slices.Clone(a)
	how := r.IntN(5)
	for i := range b {
		switch how {
		case 1: // drift, ties and signs included
			b[i] = b[i]&0x8000 | uint16(min(max(int(b[i]&0x7fff)+r.IntN(9)-4, 0), 0x7fff))
		case 2:
			b[i] ^= 0x8000
		case 3:
			if r.IntN(4) == 0 {
				b[i] = uint16(r.Uint32())
			}
		case 4:
			b[i] = uint16(r.Uint32())
		}
	}
	return b
}

// TestAgainstReference compares random sequences with the obvious version: proofs
// byte by byte, and metrics under both semantics.
func TestAgainstReference(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	each(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(seed, 6))
		moduli := map[uint16]int{}
		for trial := range 250 {
			p := Params{Hidden: 1 + r.IntN(700), Batch: 1 + r.IntN(33)}
			tokens := 1 + r.IntN(40)
			prompt := r.IntN(tokens + 1)
			if trial%10 == 0 { // a prompt of more than the field
				p.Hidden, prompt = 1000+r.IntN(3000), 66+r.IntN(30)
				tokens = prompt + r.IntN(4)
			}
			p.TopK = 1 + r.IntN(min(p.Hidden, 160))
			what, a := odd(r, tokens*p.Hidden)
			if n := prompt * p.Hidden; n > Prime { // some of the largest collide
				for range r.IntN(8) {
					at := r.IntN(n - Prime)
					a[at], a[at+Prime-r.IntN(min(3, at+1))] = 0x7f7f, 0xff7e
				}
			}
			got, err := Build(p, a, prompt)
			if err != nil {
				t.Fatalf("trial %d, %s, %+v: %v", trial, what, p, err)
			}
			b := altered(r, a)
			for i, c := range p.Chunks(prompt, tokens-prompt) {
				part := func(a []uint16) []uint16 { return a[c.Start*p.Hidden : (c.Start+c.Tokens)*p.Hidden] }
				rec := got[i].AppendBinary(nil)
				if want := plainBuild(part(a), p.TopK); !slices.Equal(rec, want) {
					t.Fatalf("trial %d, %s, %+v, chunk %+v: the proof differs", trial, what, p, c)
				}
				moduli[got[i].Modulus]++
				for _, sem := range []Semantics{Tensor, List} {
					res, err := CompareChunk(p, sem, got[i], part(b))
					if want := plainVerify(rec, part(b), p.TopK, sem == List); err != nil || res != want {
						t.Fatalf("trial %d, %s, %+v, chunk %+v, semantics %d: %+v, %v, want %+v", trial, what, p, c, sem, res, err, want)
					}
				}
			}
		}
		if len(moduli) < 3 || moduli[Prime] < 500 {
			t.Errorf("moduli %v: too few collisions were tried", moduli)
		}
	})
}

// TestLibstdcxxAgainstLibstdcxx compares the tie rule with the library that it is
// named for: testdata/topk.cc selects as torch's CPU kernel does.
func TestLibstdcxxAgainstLibstdcxx(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "topk")
	if out, err := exec.Command("g++", "-O2", "-o", bin, filepath.Join("testdata", "topk.cc")).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no g++ with its library here: %v %s", err, out)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 7))
	var in []byte
	var wants []string
	for range 3000 {
		n := 1 + r.IntN(900)
		if r.IntN(10) == 0 {
			n = 1 + r.IntN(20000)
		}
		k := 1 + r.IntN(min(n, 300))
		if r.IntN(3) == 0 { // where one algorithm gives way to the other
			n = 64*k + r.IntN(3) - 1
		}
		_, a := odd(r, n)
		if r.IntN(8) == 0 { // already in order, or a few steps of it
			slices.Sort(a)
		}
		in = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(in, uint32(n)), uint32(k))
		for _, b := range a {
			in = binary.LittleEndian.AppendUint16(in, b)
		}
		pos, _, err := topK(a, k, TiesLibstdcxx)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(pos)
		wants = append(wants, strings.Trim(fmt.Sprint(pos), "[]"))
	}
	file := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(file, in, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(bin, file).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(wants) {
		t.Fatalf("%d lines, want %d", len(lines), len(wants))
	}
	for i, want := range wants {
		if lines[i] != want {
			t.Fatalf("array %d: libstdc++ takes %.200s, this package %.200s", i, lines[i], want)
		}
	}
}

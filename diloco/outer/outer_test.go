package outer

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/p2p/wire"
)

var testConfig = Config{LR: 0.7, Momentum: 0.6}

// header is that of peer n's payload for a parent.
func header(n, parent int) codec.Header {
	h := codec.Header{Run: wire.SumCID(wire.CodecDagCBOR, []byte("run")), Parent: wire.SumCID(wire.CodecDagCBOR, fmt.Append(nil, parent))}
	h.Peer[0], h.Peer[1], h.Peer[2] = 2, byte(n>>8), byte(n+1) // payloads do not look into keys
	return h
}

func newCodec(t testing.TB, s codec.Spec, l codec.Layout) *codec.Codec {
	t.Helper()
	c, err := codec.New(s, l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// vector returns n values of about the given size, made of integers only.
func vector(seed uint64, n int, exp int) []float32 {
	r := rand.New(rand.NewPCG(seed, 77))
	v := make([]float32, n)
	unit := math.Ldexp(1, exp-32)
	for i := range v {
		v[i] = float32(float64(int64(r.Uint64()>>31)-1<<32) * unit)
	}
	return v
}

func encode(t testing.TB, c *codec.Codec, h codec.Header, u []float32) *codec.Delta {
	t.Helper()
	d, err := c.Encode(h, u)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func values(t testing.TB, d *codec.Delta) []float32 {
	t.Helper()
	v := make([]float32, d.Codec().Params())
	if err := d.AddTo(v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestAgainstExact compares a step with the definition in rational arithmetic.
func TestAgainstExact(t *testing.T) {
	for trial := range 30 {
		r := rand.New(rand.NewPCG(uint64(trial), 9))
		spec := []codec.Spec{{Kind: codec.Int8, Chunk: 64}, {Kind: codec.Int4, Chunk: 64}, {Kind: codec.TopK, Chunk: 64, Density: 2000}}[trial%3]
		c := newCodec(t, spec, codec.Layout{100, 1, 60})
		n := c.Params()
		theta, mom := vector(1, n, 0), vector(2, n, -6)
		var in []Input
		for i := range 1 + r.IntN(9) {
			scale := r.IntN(10)
			in = append(in, Input{encode(t, c, header(i, 0), vector(r.Uint64(), n, -3-scale)), 1 + uint64(r.IntN(100000))})
		}
		want := exactMean(t, in)
		gotT, gotM := slices.Clone(theta), slices.Clone(mom)
		if err := Step(gotT, gotM, in, testConfig); err != nil {
			t.Fatal(err)
		}
		largest := 0.0
		for _, g := range want {
			largest = max(largest, math.Abs(g))
		}
		tol := largest * 0x1p-13 // 16-bit factors
		for j, g := range want {
			m := 0.6*float64(mom[j]) + g
			th := float64(theta[j]) - 0.7*(g+0.6*m)
			if math.Abs(float64(gotM[j])-m) > tol+1e-6 || math.Abs(float64(gotT[j])-th) > tol+1e-6 {
				t.Fatalf("trial %d, parameter %d: θ %v m %v, want %v %v", trial, j, gotT[j], gotM[j], th, m)
			}
		}
	}
}

// exactMean is the weighted mean of clipped payloads, from their values.
func exactMean(t *testing.T, in []Input) []float64 {
	type item struct {
		v      []float32
		norm   *big.Rat
		weight uint64
	}
	var items []item
	total := uint64(0)
	for _, x := range in {
		v := values(t, x.Delta)
		norm := new(big.Rat)
		for _, y := range v {
			f := new(big.Rat).SetFloat64(float64(y))
			norm.Add(norm, f.Mul(f, f))
		}
		items = append(items, item{v, norm, x.Weight})
		total += x.Weight
	}
	slices.SortFunc(items, func(a, b item) int { return a.norm.Cmp(b.norm) })
	tau, sum := new(big.Rat), uint64(0)
	for _, x := range items {
		sum += x.weight
		if 2*sum >= total {
			tau = x.norm
			break
		}
	}
	mean := make([]float64, len(items[0].v))
	for _, x := range items {
		clip := 1.0
		if x.norm.Cmp(tau) > 0 {
			q, _ := new(big.Rat).Quo(tau, x.norm).Float64()
			clip = math.Sqrt(q)
		}
		for j, y := range x.v {
			mean[j] += float64(y) * clip * float64(x.weight) / float64(total)
		}
	}
	return mean
}

func TestOrderAndPartsDoNotMatter(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	c := newCodec(t, codec.Spec{Kind: codec.Int4, Chunk: 64}, codec.Layout{500, 300})
	theta, mom := vector(1, 800, 0), vector(2, 800, -5)
	var in []Input
	for i := range 12 {
		in = append(in, Input{encode(t, c, header(i/2, i%2), vector(uint64(i), 800, -4-i%3)), uint64(1 + i*i)})
	}
	in[3].Delta = encode(t, c, header(77, 0), values(t, in[4].Delta)) // equal norms
	wantT, wantM := slices.Clone(theta), slices.Clone(mom)
	if err := Step(wantT, wantM, in, testConfig); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		r.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		p, err := NewPlan(in, testConfig)
		if err != nil {
			t.Fatal(err)
		}
		gotT, gotM := slices.Clone(theta), slices.Clone(mom)
		for _, chunk := range r.Perm(p.Chunks()) {
			if err := p.Apply(gotT, gotM, chunk, chunk+1); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(gotT, wantT) || !slices.Equal(gotM, wantM) {
			t.Fatal("another order or partition gives other bits")
		}
	}
}

// TestAttackerIsClipped: one of five sends ten times its update backwards.
func TestAttackerIsClipped(t *testing.T) {
	const n = 1000
	c := newCodec(t, codec.Spec{Kind: codec.Int8}, codec.Layout{n})
	base := vector(1, n, -6)
	var in []Input
	for i := range 5 {
		u, noise := slices.Clone(base), vector(uint64(10+i), n, -7)
		for j := range u {
			u[j] += noise[j]
			if i == 4 {
				u[j] *= -10
			}
		}
		in = append(in, Input{encode(t, c, header(i, 0), u), 1000})
	}
	step := func(in []Input) []float32 {
		theta, mom := make([]float32, n), make([]float32, n)
		if err := Step(theta, mom, in, testConfig); err != nil {
			t.Fatal(err)
		}
		return theta
	}
	honest, attacked := step(in[:4]), step(in)
	along := func(v []float32) float64 { // how far v goes the honest way
		dot, nn := 0.0, 0.0
		for j := range v {
			dot += float64(v[j]) * float64(honest[j])
			nn += float64(honest[j]) * float64(honest[j])
		}
		return dot / nn
	}
	// Four honest steps and one of the same length backwards: 3/5.
	if a := along(attacked); a < 0.5 || a > 0.7 {
		t.Errorf("with a clipped attacker the step goes %.2f of the honest way, want about 0.6", a)
	}
	p, err := NewPlan(in, testConfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range p.Contributions() {
		if bad := x.Header.Peer == header(4, 0).Peer; bad != (x.Clip < 0.2) || x.Share != 0.2 {
			t.Errorf("%+v", x)
		}
	}
	// Without a clip it would go backwards: the test can fail.
	in[4].Delta = encode(t, c, header(4, 0), vector(9, n, -6))
	if a := along(step(in)); a < 0.75 {
		t.Errorf("a fifth peer of another direction: %.2f", a)
	}
}

// TestSlowPeersDoNotShortenFastOnes: three of five did a tenth of the tokens and went a tenth as far.
func TestSlowPeersDoNotShortenFastOnes(t *testing.T) {
	c := newCodec(t, codec.Spec{Kind: codec.Int8}, codec.Layout{200})
	var in []Input
	for i := range 5 {
		weight, exp := uint64(1000), -5
		if i < 3 {
			weight, exp = 100, -8
		}
		in = append(in, Input{encode(t, c, header(i, 0), vector(uint64(i), 200, exp)), weight})
	}
	p, err := NewPlan(in, testConfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range p.Contributions() {
		if x.Clip < 0.9 {
			t.Errorf("%v is shortened to %.2f", x.Header.Peer[2], x.Clip)
		}
	}
}

func TestNothingToMerge(t *testing.T) {
	c := newCodec(t, codec.Spec{Kind: codec.Int8}, codec.Layout{50})
	d := encode(t, c, header(0, 0), vector(1, 50, -4))
	zero := encode(t, c, header(1, 0), make([]float32, 50))
	theta, mom := vector(2, 50, 0), vector(3, 50, -4)
	for name, in := range map[string][]Input{"none": nil, "weight 0": {{d, 0}}, "zeros": {{zero, 9}}} {
		gotT, gotM := slices.Clone(theta), slices.Clone(mom)
		if err := Step(gotT, gotM, in, testConfig); err != nil || !slices.Equal(gotT, theta) || !slices.Equal(gotM, mom) {
			t.Errorf("%s: changed, or %v", name, err)
		}
	}
	one, both := slices.Clone(theta), slices.Clone(theta)
	if err := Step(one, slices.Clone(mom), []Input{{d, 5}}, testConfig); err != nil {
		t.Fatal(err)
	}
	if err := Step(both, slices.Clone(mom), []Input{{d, 5}, {zero, 1 << 60}}, testConfig); err != nil || !slices.Equal(one, both) {
		t.Errorf("a payload of zeros counts: %v", err)
	}
}

func TestRefused(t *testing.T) {
	c := newCodec(t, codec.Spec{Kind: codec.Int8}, codec.Layout{50})
	d := encode(t, c, header(0, 0), vector(1, 50, -4))
	other := encode(t, newCodec(t, codec.Spec{Kind: codec.Int8}, codec.Layout{20, 30}), header(1, 0), vector(1, 50, -4))
	nan, inf := vector(1, 50, 0), vector(1, 50, 0)
	nan[7], inf[8] = float32(math.NaN()), float32(math.Inf(1))
	good := func() []float32 { return vector(2, 50, 0) }
	for _, x := range []struct {
		name       string
		theta, mom []float32
		in         []Input
		cfg        Config
		want       string
	}{
		{"layout", good(), good(), []Input{{d, 1}, {other, 1}}, testConfig, "layout"},
		{"twice", good(), good(), []Input{{d, 1}, {d, 1}}, testConfig, "two payloads"},
		{"missing", good(), good(), []Input{{nil, 1}}, testConfig, "missing"},
		{"short θ", good()[:49], good(), []Input{{d, 1}}, testConfig, "49 parameters"},
		{"short m", good(), good()[:49], []Input{{d, 1}}, testConfig, "49 of momentum"},
		{"NaN θ", nan, good(), []Input{{d, 1}}, testConfig, "parameter 7"},
		{"Inf m", good(), inf, []Input{{d, 1}}, testConfig, "momentum 8"},
		{"rate", good(), good(), []Input{{d, 1}}, Config{0, 0.5}, "learning rate"},
		{"NaN rate", good(), good(), []Input{{d, 1}}, Config{float32(math.NaN()), 0.5}, "learning rate"},
		{"momentum", good(), good(), []Input{{d, 1}}, Config{0.5, 1}, "momentum"},
		{"many", good(), good(), make([]Input, MaxDeltas+1), testConfig, "limit"},
	} {
		th, m := slices.Clone(x.theta), slices.Clone(x.mom)
		err := Step(th, m, x.in, x.cfg)
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", x.name, err)
		}
		for j := range th {
			if math.Float32bits(th[j]) != math.Float32bits(x.theta[j]) {
				t.Errorf("%s: refused, but changed", x.name)
				break
			}
		}
	}
}

// TestSumsFit: the largest payloads, as many as a step may have, stay within int64.
func TestSumsFit(t *testing.T) {
	largest := new(big.Int).Lsh(big.NewInt(codec.MaxCode), uint(codec.MaxExponent-codec.MinExponent))
	largest.Mul(largest, big.NewInt(1<<16*MaxDeltas))
	if largest.Cmp(new(big.Int).Lsh(big.NewInt(1), 62)) >= 0 {
		t.Errorf("sums reach %v", largest)
	}
	c := newCodec(t, codec.Spec{Kind: codec.Int8}, codec.Layout{64})
	u := make([]float32, 64)
	for i := range u {
		u[i] = math.MaxFloat32
	}
	var in []Input
	for i := range 300 {
		in = append(in, Input{encode(t, c, header(i, 0), u), math.MaxUint64})
	}
	theta, mom := make([]float32, 64), make([]float32, 64)
	if err := Step(theta, mom, in, Config{1, 0}); err != nil {
		t.Fatal(err)
	}
	if want := float32(127 * 0x1p-4); mom[5] != want || theta[5] != -want {
		t.Errorf("mean of equal payloads is %v, want %v", mom[5], want)
	}
}

func TestFactors(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		a := u128{r.Uint64() >> (1 + r.IntN(64)), r.Uint64() >> r.IntN(64)}
		b := u128{r.Uint64() >> (1 + r.IntN(64)), r.Uint64() >> r.IntN(64)}
		if r.IntN(2) == 0 {
			b.hi = a.hi
		}
		want := big.NewInt(1 << 16)
		if x, y := toBig(a), toBig(b); x.Cmp(y) < 0 {
			x.Lsh(x, 32).Quo(x, y)
			want = x.Sqrt(x)
		}
		if got := clipFactor(a, b); int64(got) != want.Int64() {
			t.Fatalf("clip factor of %v and %v is %d, want %v", a, b, got, want)
		}
	}
	for x := uint64(0); x < 1<<32; x += 1 + x>>7 {
		for _, y := range []uint64{x, x * x % (1 << 32)} {
			if got := uint64(isqrt(y)); got*got > y || (got+1)*(got+1) <= y {
				t.Fatalf("isqrt(%d) = %d", y, got)
			}
		}
	}
	// With equal weights it is the lower median.
	for n := 1; n < 10; n++ {
		terms := make([]term, n)
		for i := range terms {
			terms[i].weight = 7
		}
		if got := lowerMedian(terms, uint64(7*n)); got != (n-1)/2 {
			t.Errorf("lower median of %d is number %d", n, got)
		}
	}
}

func toBig(a u128) *big.Int {
	x := new(big.Int).SetUint64(a.hi)
	return x.Lsh(x, 64).Or(x, new(big.Int).SetUint64(a.lo))
}

func BenchmarkStep(b *testing.B) {
	for _, s := range []codec.Spec{{Kind: codec.Int8}, {Kind: codec.Int4}, {Kind: codec.TopK, Density: 156}} {
		c := newCodec(b, s, codec.Layout{1 << 21})
		n := c.Params()
		theta, mom := vector(1, n, 0), vector(2, n, -6)
		var in []Input
		for i := range 8 {
			in = append(in, Input{encode(b, c, header(i, 0), vector(uint64(i), n, -6)), 1})
		}
		b.Run(fmt.Sprintf("%v/8peers", s.Kind), func(b *testing.B) {
			b.SetBytes(int64(4 * n))
			for b.Loop() {
				if err := Step(theta, mom, in, testConfig); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

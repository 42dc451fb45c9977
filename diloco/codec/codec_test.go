package codec

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
)

// testHeader is a header whose parent depends on n.
func testHeader(t testing.TB, n byte) Header {
	t.Helper()
	k, err := wire.NewKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return Header{wire.SumCID(wire.CodecDagCBOR, []byte("run")), wire.SumCID(wire.CodecDagCBOR, []byte{n}), k.Peer()}
}

func testCodec(t testing.TB, s Spec, l Layout) *Codec {
	t.Helper()
	c, err := New(s, l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// gradient returns n values of a heavy-tailed distribution whose scale changes along the way.
func gradient(seed uint64, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	u := make([]float32, n)
	for i := range u {
		x := r.NormFloat64()
		u[i] = float32(x * x * x * 1e-3 * math.Exp2(float64(i/500%9)))
	}
	return u
}

// values returns what d adds.
func values(t testing.TB, d *Delta) []float32 {
	t.Helper()
	v := make([]float32, d.Codec().Params())
	if err := d.AddTo(v); err != nil {
		t.Fatal(err)
	}
	return v
}

var testSpecs = []Spec{
	{Kind: Int8}, {Kind: Int4}, {Kind: Int8, Chunk: 64}, {Kind: Int4, Chunk: 128},
	{Kind: TopK, Density: 156}, {Kind: TopK, Density: 1250}, {Kind: TopK, Chunk: 64, Density: 1}, {Kind: TopK, Chunk: 256, Density: 10000},
}

var testLayout = Layout{1, 64, 4097, 3, 8192, 255}

func TestDenseRoundsToNearest(t *testing.T) {
	for _, s := range []Spec{{Kind: Int8}, {Kind: Int4}, {Kind: Int4, Chunk: 64}} {
		q := map[Kind]float64{Int8: 127, Int4: 7}[s.Kind]
		c := testCodec(t, s, testLayout)
		u := gradient(3, c.Params())
		d, err := c.Encode(testHeader(t, 1), u)
		if err != nil {
			t.Fatal(err)
		}
		v := values(t, d)
		for i := range c.Chunks() {
			from, to := c.Chunk(i)
			top := 0.0
			for _, x := range u[from:to] {
				top = max(top, math.Abs(float64(x)))
			}
			// The smallest exponent that fits, found by trying.
			exp := MinExponent
			for exp < MaxExponent && top > q*math.Exp2(float64(exp)) {
				exp++
			}
			step := math.Exp2(float64(exp))
			for j := from; j < to; j++ {
				if want := float32(max(-q, min(q, math.RoundToEven(float64(u[j])/step))) * step); v[j] != want {
					t.Fatalf("%v: value %d: %v became %v, want %v", s.Kind, j, u[j], v[j], want)
				}
			}
		}
	}
}

func TestExponentWindow(t *testing.T) {
	c := testCodec(t, Spec{Kind: Int8, Chunk: 64}, Layout{64})
	for _, x := range []struct{ in, out float64 }{
		{1e30, 127 * 0x1p-4}, {math.MaxFloat32, 127 * 0x1p-4}, {127 * 0x1p-4, 127 * 0x1p-4},
		{0x1p-28, 0x1p-28}, {0x1.8p-29, 0x1p-28}, {0x1p-29, 0}, {math.SmallestNonzeroFloat32, 0}, {127 * 0x1p-28, 127 * 0x1p-28}, {128 * 0x1p-28, 128 * 0x1p-28},
	} {
		for _, sign := range []float64{1, -1} {
			u := make([]float32, 64)
			u[9] = float32(sign * x.in)
			d, err := c.Encode(testHeader(t, 1), u)
			if err != nil {
				t.Fatal(err)
			}
			if got := float64(values(t, d)[9]); got != sign*x.out {
				t.Errorf("%g became %g, want %g", sign*x.in, got, sign*x.out)
			}
		}
	}
}

// TestTopK compares selection and codebook with the obvious way to do both.
func TestTopK(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for range 300 {
		n := 1 + r.IntN(600)
		s := Spec{Kind: TopK, Chunk: 1024, Density: 1 + r.IntN(3000)}
		c := testCodec(t, s, Layout{n})
		u := gradient(r.Uint64(), n)
		for i := range u { // ties and zeros
			switch r.IntN(4) {
			case 0:
				u[i] = float32(r.IntN(5)-2) * 0x1p-10
			case 1:
				u[i] = 0
			}
		}
		d, err := c.Encode(testHeader(t, 1), u)
		if err != nil {
			t.Fatal(err)
		}
		v := values(t, d)
		k := s.kept(n)
		order := make([]int, n)
		for i := range order {
			order[i] = i
		}
		size := func(i int) float64 { return math.Abs(float64(u[i])) }
		slices.SortStableFunc(order, func(a, b int) int {
			if size(a) != size(b) {
				if size(a) > size(b) {
					return -1
				}
				return 1
			}
			return 0
		})
		nonzero := 0
		for i, x := range v {
			if x == 0 {
				continue
			}
			nonzero++
			if x < 0 != (u[i] < 0) {
				t.Fatalf("sign of value %d is wrong", i)
			}
			if !slices.Contains(order[:k], i) {
				t.Fatalf("value %d is not among the %d largest of %d", i, k, n)
			}
		}
		// The squared error over the chosen is that of the best split in two, up to
		// rounding of the two magnitudes.
		best := math.Inf(1)
		for split := 1; split <= k; split++ {
			e := 0.0
			for _, part := range [][]int{order[:split], order[split:k]} {
				mean := 0.0
				for _, i := range part {
					mean += size(i) / float64(len(part))
				}
				for _, i := range part {
					e += (size(i) - mean) * (size(i) - mean)
				}
			}
			best = min(best, e)
		}
		got := 0.0
		for _, i := range order[:k] {
			e := float64(u[i]) - float64(v[i])
			got += e * e
		}
		step := size(order[0]) / 64
		if got > best*1.0001+float64(k)*step*step {
			t.Fatalf("squared error %g, the best is %g", got, best)
		}
		if nonzero == 0 && size(order[0]) > 0x1p-20 {
			t.Fatal("nothing was kept")
		}
	}
}

// TestOneEncoding: the values of a payload encode to that very payload.
func TestOneEncoding(t *testing.T) {
	for i, s := range testSpecs {
		c := testCodec(t, s, testLayout)
		h := testHeader(t, 1)
		for _, u := range [][]float32{gradient(uint64(i), c.Params()), make([]float32, c.Params())} {
			d, err := c.Encode(h, u)
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Block()) != c.Size() {
				t.Errorf("%v: %d bytes, Size is %d", s, len(d.Block()), c.Size())
			}
			again, err := c.Encode(h, values(t, d))
			if err != nil || !bytes.Equal(again.Block(), d.Block()) {
				t.Errorf("%v: values encode to another payload: %v", s, err)
			}
		}
	}
}

// TestNormAndAccumulate compares the integer view of a payload with its values.
func TestNormAndAccumulate(t *testing.T) {
	for _, s := range testSpecs {
		c := testCodec(t, s, testLayout)
		u := gradient(8, c.Params())
		u[0] = 3 // high exponents as well
		d, err := c.Encode(testHeader(t, 1), u)
		if err != nil {
			t.Fatal(err)
		}
		v := values(t, d)
		var norm float64
		for i := range c.Chunks() {
			from, to := c.Chunk(i)
			acc := make([]int64, to-from)
			acc[0] = 5
			d.Accumulate(i, -3, acc)
			acc[0] -= 5
			for j, a := range acc {
				if want := -3 * float64(v[from+j]) * 0x1p28; float64(a) != want {
					t.Fatalf("%v: value %d: %d, want %g", s, from+j, a, want)
				}
				norm += float64(v[from+j]) * float64(v[from+j])
			}
		}
		hi, lo := d.Norm()
		if got := (float64(hi)*0x1p64 + float64(lo)) * 0x1p-56; math.Abs(got-norm) > 1e-9*norm {
			t.Errorf("%v: norm %g, want %g", s, got, norm)
		}
	}
}

func TestEncodeRefusesDivergence(t *testing.T) {
	c := testCodec(t, Spec{Kind: Int4}, Layout{100})
	for _, x := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		u := make([]float32, 100)
		u[77] = float32(x)
		if _, err := c.Encode(testHeader(t, 1), u); err == nil || !strings.Contains(err.Error(), "value 77") {
			t.Errorf("%v: %v", x, err)
		}
	}
	if _, err := c.Encode(testHeader(t, 1), make([]float32, 99)); err == nil {
		t.Error("99 values for 100 parameters accepted")
	}
	if _, err := c.Encode(Header{}, make([]float32, 100)); err == nil {
		t.Error("empty header accepted")
	}
}

// TestCopyUnderAnotherName: a payload is valid for one run, parent, peer, codec and layout.
func TestCopyUnderAnotherName(t *testing.T) {
	c := testCodec(t, Spec{Kind: Int8}, Layout{10, 20})
	h := testHeader(t, 1)
	d, err := c.Encode(h, gradient(1, 30))
	if err != nil {
		t.Fatal(err)
	}
	other := h.Peer
	other[5] ^= 1
	for name, want := range map[string]Header{
		"run": {h.Parent, h.Parent, h.Peer}, "parent": {h.Run, h.Run, h.Peer}, "peer": {h.Run, h.Parent, other},
	} {
		if _, err := c.Decode(want, d.Block()); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	for name, c := range map[string]*Codec{
		"layout": testCodec(t, Spec{Kind: Int8}, Layout{20, 10}), "chunk": testCodec(t, Spec{Kind: Int8, Chunk: 64}, Layout{10, 20}),
	} {
		if _, err := c.Decode(h, d.Block()); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	for n := range d.Block() {
		if _, err := c.Decode(h, d.Block()[:n]); !errors.Is(err, ErrInvalid) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := c.Decode(h, append(bytes.Clone(d.Block()), 0)); !errors.Is(err, ErrInvalid) {
		t.Errorf("trailing byte: %v", err)
	}
}

// TestEveryBitFlip: a changed payload is refused or has other values; both happen.
func TestEveryBitFlip(t *testing.T) {
	for _, s := range []Spec{{Kind: Int8, Chunk: 64}, {Kind: Int4, Chunk: 64}, {Kind: TopK, Chunk: 64, Density: 1500}} {
		c := testCodec(t, s, Layout{64, 33})
		h := testHeader(t, 1)
		d, err := c.Encode(h, gradient(4, 97))
		if err != nil {
			t.Fatal(err)
		}
		v := values(t, d)
		refused, changed := 0, 0
		for bit := range 8 * len(d.Block()) {
			b := bytes.Clone(d.Block())
			b[bit/8] ^= 1 << (bit % 8)
			e, err := c.Decode(h, b)
			switch {
			case err != nil && !errors.Is(err, ErrInvalid):
				t.Fatal(err)
			case err != nil:
				refused++
			case bit/8 < headerSize:
				t.Fatalf("%v: bit %d of the header was changed", s.Kind, bit)
			case slices.Equal(values(t, e), v):
				t.Fatalf("%v: bit %d was changed, and the values are the same", s.Kind, bit)
			default:
				changed++
			}
		}
		if refused <= 8*headerSize || changed == 0 {
			t.Errorf("%v: %d refused, %d changed", s.Kind, refused, changed)
		}
	}
}

func TestSpecAndLayoutBounds(t *testing.T) {
	for _, s := range []Spec{
		{}, {Kind: 4}, {Kind: Int8, Chunk: 100}, {Kind: Int8, Chunk: 32}, {Kind: Int8, Chunk: 8192}, {Kind: Int8, Chunk: -64},
		{Kind: Int8, Density: 5}, {Kind: TopK}, {Kind: TopK, Density: 10001}, {Kind: TopK, Density: -1},
	} {
		if _, err := New(s, Layout{1}); err == nil {
			t.Errorf("%+v accepted", s)
		}
	}
	for _, l := range []Layout{nil, {0}, {5, -1}, {MaxParams, 1}, {math.MaxInt, math.MaxInt}, make(Layout, MaxTensors+1)} {
		if _, err := New(Spec{Kind: Int8}, l); err == nil {
			t.Errorf("layout of %d tensors accepted", len(l))
		}
	}
	for _, name := range []string{"int8", "int4", "topk"} {
		if k, err := ParseKind(name); err != nil || k.String() != name {
			t.Errorf("%s: %v %v", name, k, err)
		}
	}
	if _, err := ParseKind("invalid"); err == nil {
		t.Error("kind invalid accepted")
	}
}

// FuzzDecode: accepted bytes are what their values encode to.
func FuzzDecode(f *testing.F) {
	layout := Layout{3, 70, 129}
	h := testHeader(f, 1)
	var codecs []*Codec
	for i, s := range []Spec{{Kind: Int8, Chunk: 64}, {Kind: Int4, Chunk: 64}, {Kind: TopK, Chunk: 64, Density: 1500}, {Kind: TopK, Chunk: 64, Density: 400}} {
		c := testCodec(f, s, layout)
		codecs = append(codecs, c)
		d, err := c.Encode(h, gradient(uint64(i), c.Params()))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), d.Block()[headerSize:], true)
		f.Add(byte(i), d.Block(), false)
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte, body bool) {
		c := codecs[int(which)%len(codecs)]
		if body { // spare the fuzzer the header and the length
			head, err := c.header(h)
			if err != nil {
				t.Fatal(err)
			}
			b = append(append(head, b...), make([]byte, c.Size())...)[:c.Size()]
		}
		d, err := c.Decode(h, b)
		if err != nil {
			return
		}
		again, err := c.Encode(h, values(t, d))
		if err != nil || !bytes.Equal(again.Block(), b) {
			t.Fatalf("accepted bytes are not canonical: %v", err)
		}
	})
}

// FuzzEncode: whatever the values, the payload is valid and no value moves further than it must.
func FuzzEncode(f *testing.F) {
	f.Add([]byte{0, 0, 128, 63, 0, 0, 0, 128})
	h := testHeader(f, 1)
	var codecs []*Codec
	for _, s := range []Spec{{Kind: Int8, Chunk: 64}, {Kind: Int4, Chunk: 64}, {Kind: TopK, Chunk: 64, Density: 1500}} {
		codecs = append(codecs, testCodec(f, s, Layout{100, 30}))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		u := make([]float32, 130)
		for i := range min(len(raw)/4, len(u)) {
			u[i] = math.Float32frombits(uint32(raw[4*i]) | uint32(raw[4*i+1])<<8 | uint32(raw[4*i+2])<<16 | uint32(raw[4*i+3])<<24)
		}
		bad := nonFinite(u) >= 0
		for _, c := range codecs {
			d, err := c.Encode(h, u)
			if bad != (err != nil) {
				t.Fatal(err)
			}
			if err != nil {
				continue
			}
			for i, v := range values(t, d) {
				if v != 0 && v < 0 != (u[i] < 0) {
					t.Fatalf("%v: value %d: %v became %v", c.spec.Kind, i, u[i], v)
				}
			}
		}
	})
}

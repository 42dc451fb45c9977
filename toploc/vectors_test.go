package toploc

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"
)

// The vectors were made by running toploc 0.1.6 (commit 7ab7bcd); see their meta.
type vectors struct {
	Cases []struct {
		Name        string
		TopK        int  `json:"topk"`
		Batch       int  `json:"decode_batching_size"`
		SkipPrefill bool `json:"skip_prefill"`
		Shapes      [][]int
		Activations string   `json:"activations_b64"`
		Null        bool     `json:"is_null"`
		Proofs      []string `json:"proofs_base64"`
		Lowest      []string `json:"proofs_lowest_index_base64"`
		Chunks      []struct {
			Start, N, Modulus int
			TopK              []uint32 `json:"topk_indices"`
		}
		Verify []struct {
			Op         op
			SHA256     string
			ListPath   [][3]float64 `json:"list_path"`
			TensorPath [][3]float64 `json:"tensor_path"`
		}
	}
	Poly []struct {
		X, Y, Coeffs []uint32
		Modulus      uint16
		Base64       string
		EvalAt       []uint32 `json:"eval_at"`
		Unreduced    []uint32 `json:"eval_unreduced"`
		Reduced      []uint32 `json:"eval_mod_modulus"`
	}
	Anchors []struct {
		TopK        int  `json:"topk"`
		Batch       int  `json:"decode_batching_size"`
		SkipPrefill bool `json:"skip_prefill"`
		Shapes      [][]int
		Activations string       `json:"activations_b64"`
		Proofs      []string     `json:"proofs_base64"`
		Scaled      [][3]float64 `json:"verify_scale_f32_1_01"`
	}
	Adversarial struct {
		Case   string
		Chunk  int
		Proofs []struct{ Name, Base64, Why string }
	}
}

// An op perturbs activations as the vectors' meta describes.
type op struct {
	Type     string
	Seed     uint64
	MaxDelta int `json:"max_delta"`
	Factor   float64
	By       int
}

func loadVectors(t testing.TB) *vectors {
	t.Helper()
	b, err := os.ReadFile("testdata/toploc.json")
	if err != nil {
		t.Fatal(err)
	}
	v := new(vectors)
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
	if len(v.Cases) < 30 || len(v.Poly) < 10 {
		t.Fatal("the vectors are not whole")
	}
	return v
}

func bf16(t testing.TB, s string) []uint16 {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	a := make([]uint16, len(b)/2)
	for i := range a {
		a[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return a
}

func sizes(shapes [][]int) (n []int) {
	for _, s := range shapes {
		p := 1
		for _, d := range s {
			p *= d
		}
		n = append(n, p)
	}
	return n
}

func splitmixAt(seed, i uint64) uint64 {
	s := seed + i*0x9e3779b97f4a7c15
	return splitmix(&s)
}

func (o op) apply(t *testing.T, a []uint16, shapes [][]int) []uint16 {
	t.Helper()
	out := slices.Clone(a)
	switch o.Type {
	case "identity":
	case "negate":
		for i := range out {
			out[i] ^= 0x8000
		}
	case "jitter":
		for i, b := range a {
			m := int(b&0x7fff) + int(splitmixAt(o.Seed, uint64(i))%uint64(2*o.MaxDelta+1)) - o.MaxDelta
			out[i] = b&0x8000 | uint16(min(max(m, 0), 0x7f7f))
		}
	case "scale_f32":
		f := make([]float32, len(a))
		for i, b := range a {
			f[i] = math.Float32frombits(uint32(b)<<16) * float32(o.Factor)
		}
		RoundBF16(out, f)
	case "reverse_each":
		at := 0
		for _, n := range sizes(shapes) {
			slices.Reverse(out[at : at+n])
			at += n
		}
	case "roll_flat":
		for j := range out {
			out[j] = a[((j-o.By)%len(a)+len(a))%len(a)]
		}
	case "other":
		for i := range out {
			r := splitmixAt(o.Seed, uint64(i))
			out[i] = uint16(r&1)<<15 | uint16(124+r>>1%6)<<7 | uint16(r>>8&0x7f)
		}
	default:
		t.Fatalf("unknown op %q", o.Type)
	}
	return out
}

func check(t *testing.T, name string, sem Semantics, got Result, want [3]float64) {
	t.Helper()
	if float64(got.ExpMismatches) != want[0] || got.MantErrMean != want[1] || got.MantErrMedian != want[2] {
		t.Errorf("%s, semantics %d: %+v, want %v", name, sem, got, want)
	}
}

func TestVectors(t *testing.T) {
	chunks, results := 0, 0
	for _, c := range loadVectors(t).Cases {
		a := bf16(t, c.Activations)
		p := Params{Hidden: 1, TopK: c.TopK, Batch: 1, Ties: TiesLibstdcxx}
		if c.Null {
			if _, err := BuildChunk(p, a[:sizes(c.Shapes)[0]]); err == nil {
				t.Errorf("%s: built, the reference fails", c.Name)
			}
			continue
		}
		var proofs []*Proof
		for i, ch := range c.Chunks {
			part := a[ch.Start : ch.Start+ch.N]
			p.Ties = TiesLibstdcxx
			pos, _, err := topK(part, c.TopK, p.Ties)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(pos)
			if !slices.Equal(pos, ch.TopK) {
				t.Errorf("%s chunk %d: top-k differs", c.Name, i)
			}
			pf, err := BuildChunk(p, part)
			if err != nil {
				t.Fatal(err)
			}
			if pf.Base64() != c.Proofs[i] || int(pf.Modulus) != ch.Modulus {
				t.Errorf("%s chunk %d: proof differs (modulus %d, want %d)", c.Name, i, pf.Modulus, ch.Modulus)
			}
			p.Ties = TiesLowest
			low, err := BuildChunk(p, part)
			if err != nil {
				t.Fatal(err)
			}
			if low.Base64() != c.Lowest[i] {
				t.Errorf("%s chunk %d: proof with lowest ties differs", c.Name, i)
			}
			back, err := ParseBase64(c.Proofs[i], c.TopK)
			if err != nil {
				t.Fatalf("%s chunk %d: %v", c.Name, i, err)
			}
			proofs = append(proofs, back)
			chunks++
		}
		p.Ties = TiesLibstdcxx
		for _, v := range c.Verify {
			b := v.Op.apply(t, a, c.Shapes)
			raw := make([]byte, 0, 2*len(b))
			for _, w := range b {
				raw = binary.LittleEndian.AppendUint16(raw, w)
			}
			if h := sha256.Sum256(raw); hex.EncodeToString(h[:]) != v.SHA256 {
				t.Fatalf("%s: op %+v makes other activations", c.Name, v.Op)
			}
			for sem, want := range [][][3]float64{Tensor: v.TensorPath, List: v.ListPath} {
				for i, w := range want {
					ch := c.Chunks[i]
					r, err := CompareChunk(p, Semantics(sem), proofs[i], b[ch.Start:ch.Start+ch.N])
					if err != nil {
						t.Fatal(err)
					}
					check(t, c.Name+" "+v.Op.Type, Semantics(sem), r, w)
					results++
				}
			}
		}
	}
	if chunks < 80 || results < 500 {
		t.Errorf("only %d chunks and %d results were compared", chunks, results)
	}
	t.Logf("%d chunks, %d results", chunks, results)
}

func TestSequencesOfVectors(t *testing.T) {
	v := loadVectors(t)
	for _, c := range v.Cases {
		uniform := !c.Null
		hidden := c.Shapes[len(c.Shapes)-1]
		h := hidden[len(hidden)-1]
		prompt := 0
		for i, s := range c.Shapes {
			uniform = uniform && s[len(s)-1] == h && (len(s) == 1 || i == 0)
		}
		if !c.SkipPrefill {
			prompt = sizes(c.Shapes[:1])[0] / h
		}
		if !uniform || c.SkipPrefill && len(c.Shapes[0]) > 1 && len(c.Shapes) > 1 {
			continue
		}
		p := Params{Hidden: h, TopK: c.TopK, Batch: c.Batch, Ties: TiesLibstdcxx}
		got, err := Build(p, bf16(t, c.Activations), prompt)
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		var text []string
		for _, pf := range got {
			text = append(text, pf.Base64())
		}
		if !slices.Equal(text, c.Proofs) {
			t.Errorf("%s: %d proofs differ from the reference's %d", c.Name, len(text), len(c.Proofs))
		}
	}
	for i, a := range v.Anchors {
		h := a.Shapes[len(a.Shapes)-1]
		p := Params{Hidden: h[len(h)-1], TopK: a.TopK, Batch: a.Batch, Ties: TiesLibstdcxx}
		prompt := 0
		if !a.SkipPrefill {
			prompt = a.Shapes[0][0]
		}
		act := bf16(t, a.Activations)
		got, err := Build(p, act, prompt)
		if err != nil {
			t.Fatal(err)
		}
		scaled := op{Type: "scale_f32", Factor: 1.01}.apply(t, act, a.Shapes)
		cs := p.Chunks(prompt, len(act)/p.Hidden-prompt)
		for j, pf := range got {
			if pf.Base64() != a.Proofs[j] {
				t.Errorf("anchor %d, proof %d differs from what upstream publishes", i, j)
			}
			if a.Scaled != nil {
				r, err := CompareChunk(p, List, pf, scaled[cs[j].Start*p.Hidden:(cs[j].Start+cs[j].Tokens)*p.Hidden])
				if err != nil {
					t.Fatal(err)
				}
				check(t, "anchor", List, r, a.Scaled[j])
			}
		}
	}
}

func TestPolynomialVectors(t *testing.T) {
	for i, v := range loadVectors(t).Poly {
		pos, bits := v.X, make([]uint16, len(v.Y))
		for j, y := range v.Y {
			bits[j] = uint16(y)
		}
		pf, err := fromPoints(pos, bits)
		if err != nil {
			t.Fatal(err)
		}
		if pf.Base64() != v.Base64 || pf.Modulus != v.Modulus {
			t.Errorf("polynomial %d differs (modulus %d, want %d)", i, pf.Modulus, v.Modulus)
		}
		for j, at := range v.EvalAt {
			x := []uint32{at % Prime, at % uint32(v.Modulus)}
			var w [2]uint32
			evaluate(w[:], pf.Coeffs, x)
			if w[0] != v.Unreduced[j] || w[1] != v.Reduced[j] {
				t.Errorf("polynomial %d at %d: %v, want %d and %d", i, at, w, v.Unreduced[j], v.Reduced[j])
			}
		}
	}
}

func TestStrictRefusesTheAdversarial(t *testing.T) {
	v := loadVectors(t)
	for _, c := range v.Cases {
		if c.Name != v.Adversarial.Case {
			continue
		}
		h := c.Shapes[len(c.Shapes)-1]
		a := bf16(t, c.Activations)
		s := Strict{
			Params:  Params{Hidden: h[len(h)-1], TopK: c.TopK, Batch: c.Batch, Ties: TiesLibstdcxx},
			Prefill: Published, Decode: Published, Seed: 1,
		}
		honest, err := base64.StdEncoding.DecodeString(c.Proofs[v.Adversarial.Chunk])
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Verify([][]byte{honest}, a, 0)
		if err != nil || !got[0].OK {
			t.Fatalf("honest proof: %+v, %v", got, err)
		}
		for _, bad := range v.Adversarial.Proofs {
			rec, err := base64.StdEncoding.DecodeString(bad.Base64)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Verify([][]byte{rec}, a, 0)
			if err == nil && got[0].OK {
				t.Errorf("%s passes (%s): %+v", bad.Name, bad.Why, got[0])
			} else if err == nil && got[0].Reason == "" {
				t.Errorf("%s fails without a reason", bad.Name)
			}
		}
		for _, recs := range [][][]byte{nil, {honest, honest}, {nil}} {
			if got, err := s.Verify(recs, a, 0); err == nil && got[0].OK {
				t.Errorf("%d records for one chunk pass", len(recs))
			}
		}
		return
	}
	t.Fatal("the case of the adversarial vectors is missing")
}

package hf

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
)

func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

// all are the elements of s.
func all(t testing.TB, s *Stored) []float32 {
	t.Helper()
	out := make([]float32, s.Len())
	if err := s.read(out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSafetensorsRoundTrip(t *testing.T) {
	c := tiny()
	flat := make([]float32, c.NumParams())
	for i := range flat {
		flat[i] = float32(i) * 0.25
	}
	b, err := WriteSafetensors(c.Tensors(), flat)
	if err != nil {
		t.Fatal(err)
	}
	if n := binary.LittleEndian.Uint64(b); n%8 != 0 {
		t.Errorf("header of %d bytes is not padded", n)
	}
	f, err := ReadSafetensors(b)
	if err != nil {
		t.Fatal(err)
	}
	if f.Metadata["format"] != "pt" {
		t.Errorf("metadata %v: transformers wants format pt", f.Metadata)
	}
	got, err := f.Flat(c.Tensors())
	if err != nil || !slices.Equal(got, flat) {
		t.Errorf("values differ: %v", err)
	}
	o, err := WriteOuter(c.Tensors(), flat)
	if err != nil || bytes.Equal(o, b) {
		t.Errorf("outer.safetensors looks like a model: %v", err)
	}
	if _, err := WriteSafetensors(c.Tensors(), flat[1:]); err == nil {
		t.Error("a short vector was written")
	}
	ts := c.Tensors()
	ts[0], ts[1] = ts[1], ts[0]
	if _, err := WriteSafetensors(ts, flat); err == nil {
		t.Error("unsorted tensors were written")
	}
}

// The state's CID hangs on these bytes.
func TestSafetensorsGolden(t *testing.T) {
	b, err := WriteSafetensors([]Tensor{{"a", []int{2}}, {"b", []int{1, 1}}}, []float32{1, -2, 0.5})
	if err != nil {
		t.Fatal(err)
	}
	head := `{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1,1],"data_offsets":[8,12]}}`
	head += strings.Repeat(" ", 7-(len(head)+7)%8)
	want := append(file(head, 0), 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 0, 0, 0, 0x3f)
	if !bytes.Equal(b, want) {
		t.Errorf("got  %q\nwant %q", b, want)
	}
}

func TestReadSafetensorsRefuses(t *testing.T) {
	good := `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]}}   `
	if _, err := ReadSafetensors(file(good, 12)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, old, new string
		data           int
	}{
		{"trailing byte", "", "", 13},
		{"short data", "", "", 11},
		{"overlap", `[8,12]`, `[4,8]`, 12},
		{"gap", `[8,12]`, `[9,13]`, 13},
		{"reversed", `[8,12]`, `[12,8]`, 12},
		{"size against shape", `"shape":[2],"data_offsets":[0,8]`, `"shape":[3],"data_offsets":[0,8]`, 12},
		{"overflowing shape", `"shape":[2],"data_offsets":[0,8]`, `"shape":[4294967296,4294967296],"data_offsets":[0,8]`, 12},
		{"negative", `[0,8]`, `[-1,8]`, 12},
		{"fraction", `[0,8]`, `[0.5,8]`, 12},
		{"three offsets", `[0,8]`, `[0,4,8]`, 12},
		{"dtype", `"F32"`, `"F4"`, 12},
		{"no dtype", `"dtype":"F32",`, ``, 12},
		{"dtype in capitals", `"dtype":"F32"`, `"DTYPE":"F32"`, 12},
		{"no shape", `"shape":[2],`, ``, 12},
		{"null shape", `"shape":[2]`, `"shape":null`, 12},
		{"many dimensions", `"shape":[2]`, `"shape":[1,1,1,1,1,1,1,1,2]`, 12},
		{"duplicate name", `"b"`, `"a"`, 12},
		{"duplicate key", `"shape":[2]`, `"shape":[2],"shape":[2]`, 12},
		{"unknown key", `"shape":[2]`, `"shape":[2],"x":1`, 12},
		{"entry is a list", `{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`, `[]`, 12},
		{"metadata of numbers", `{"a"`, `{"__metadata__":{"x":1},"a"`, 12},
		{"leading space", `{"a"`, ` {"a"`, 12},
		{"text after", `   `, `  x`, 12},
		{"unfinished", `}}`, `}`, 12},
		{"deep", `[2]`, strings.Repeat("[", 20000), 12},
	} {
		b := file(strings.Replace(good, c.old, c.new, 1), c.data)
		if _, err := ReadSafetensors(b); err == nil {
			t.Errorf("%s: accepted", c.name)
		}
	}
	for _, b := range [][]byte{nil, {1, 2, 3}, file("", 0), {255, 255, 255, 255, 255, 255, 255, 255, '{', '}'}, {200, 0, 0, 0, 0, 0, 0, 0, '{', '}'}} {
		if _, err := ReadSafetensors(b); err == nil {
			t.Errorf("%x: accepted", b)
		}
	}
}

func TestFlatRefuses(t *testing.T) {
	ts := []Tensor{{"a", []int{2}}}
	nan := float32(math.NaN())
	for _, c := range []struct {
		name string
		ts   []Tensor
		v    []float32
		want string
	}{
		{"missing", []Tensor{{"b", []int{2}}}, []float32{1, 2}, "missing"},
		{"shape", []Tensor{{"a", []int{1, 2}}}, []float32{1, 2}, "shape"},
		{"extra", []Tensor{{"a", []int{2}}, {"c", []int{1}}}, []float32{1, 2, 3}, "not part"},
		{"NaN", ts, []float32{1, nan}, "finite"},
		{"infinite", ts, []float32{float32(math.Inf(-1)), 1}, "finite"},
	} {
		b, err := WriteSafetensors(c.ts, c.v)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ReadSafetensors(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Flat(ts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Files say the same in more than one way.
func TestFlatTakes(t *testing.T) {
	ts := []Tensor{{"model.embed_tokens.weight", []int{2, 1}}, {"model.norm.weight", []int{1}}}
	for _, c := range []struct {
		name string
		ts   []Tensor
		v    []float32
		want string // of the error
	}{
		{"plain", ts, []float32{1, 2, 3}, ""},
		{"a tied head written out", append([]Tensor{{"lm_head.weight", []int{2, 1}}}, ts...), []float32{1, 2, 1, 2, 3}, ""},
		{"a head that is not tied", append([]Tensor{{"lm_head.weight", []int{2, 1}}}, ts...), []float32{1, 4, 1, 2, 3}, "tie_word_embeddings"},
		{"a head of another shape", append([]Tensor{{"lm_head.weight", []int{1, 2}}}, ts...), []float32{1, 2, 1, 2, 3}, "tie_word_embeddings"},
		{"a model without a head", []Tensor{{"embed_tokens.weight", []int{2, 1}}, {"norm.weight", []int{1}}}, []float32{1, 2, 3}, ""},
		{"a tied head instead of the embedding", []Tensor{{"lm_head.weight", []int{2, 1}}, ts[1]}, []float32{1, 2, 3}, ""},
		{"half a prefix", []Tensor{{"embed_tokens.weight", []int{2, 1}}, {"model.norm.weight", []int{1}}}, []float32{1, 2, 3}, "embed_tokens.weight"},
		{"frequencies of RoPE", []Tensor{ts[0], {"model.layers.0.self_attn.rotary_emb.inv_freq", []int{2}}, ts[1]}, []float32{1, 2, 9, 9, 3}, ""},
	} {
		b, err := WriteSafetensors(c.ts, c.v)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ReadSafetensors(b)
		if err != nil {
			t.Fatal(err)
		}
		v, err := f.Flat(ts)
		if c.want == "" && (err != nil || !slices.Equal(v, []float32{1, 2, 3})) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %g, %v", c.name, v, err)
		}
	}
}

func TestHalfPrecision(t *testing.T) {
	for h, want := range map[uint16]float32{0x3c00: 1, 0xc000: -2, 0x7bff: 65504, 0x0001: 0x1p-24, 0x03ff: 1023 * 0x1p-24, 0x0400: 0x1p-14, 0x8000: 0, 0x3555: 0.333251953125} {
		if got := halfToFloat(h); got != want {
			t.Errorf("%04x: %g, want %g", h, got, want)
		}
	}
	if v := halfToFloat(0x7c00); !math.IsInf(float64(v), 1) {
		t.Errorf("infinity: %g", v)
	}
	if v := halfToFloat(0x7e00); v == v {
		t.Errorf("NaN: %g", v)
	}
	b := append(file(`{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[2,4]}}`, 0), 0x00, 0x3c, 0x20, 0xc0)
	f, err := ReadSafetensors(b)
	if err != nil {
		t.Fatal(err)
	}
	if x, y := all(t, &f.Tensors[0])[0], all(t, &f.Tensors[1])[0]; x != 1 || y != -2.5 {
		t.Errorf("F16 %g, BF16 %g", x, y)
	}
}

func FuzzReadSafetensors(f *testing.F) {
	b, err := WriteSafetensors([]Tensor{{"a", []int{2}}, {"b", []int{1, 1}}}, []float32{1, -2, 0.5})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(file(`{"a":{"dtype":"F16","shape":[0,9],"data_offsets":[0,0]},"__metadata__":{"x":"y"}}`, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ReadSafetensors(b)
		if err != nil {
			return
		}
		total := 0
		for _, x := range s.Tensors {
			total += len(all(t, &x)) * dtypeSize[x.Dtype]
		}
		if n := binary.LittleEndian.Uint64(b); uint64(total)+n+8 != uint64(len(b)) {
			t.Fatalf("tensors hold %d bytes of a file of %d", total, len(b))
		}
	})
}

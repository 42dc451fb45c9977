package hf

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestShards(t *testing.T) {
	part := func(ts []Tensor, v ...float32) *File {
		b, err := WriteSafetensors(ts, v)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ReadSafetensors(b)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	x, err := ParseShardIndex([]byte(`{"metadata":{"total_size":20},"weight_map":{"c":"m-1.safetensors","a":"m-1.safetensors","b":"m-2.safetensors"}}`))
	if err != nil || !slices.Equal(x.Files, []string{"m-1.safetensors", "m-2.safetensors"}) {
		t.Fatal(x, err)
	}
	ac, b := part([]Tensor{{"a", []int{2}}, {"c", []int{1}}}, 1, 2, 5), part([]Tensor{{"b", []int{2}}}, 3, 4)
	f, err := x.Join(map[string]*File{"m-1.safetensors": ac, "m-2.safetensors": b})
	if err != nil {
		t.Fatal(err)
	}
	flat, err := f.Flat([]Tensor{{"a", []int{2}}, {"b", []int{2}}, {"c", []int{1}}})
	if err != nil || fmt.Sprint(flat) != "[1 2 3 4 5]" {
		t.Errorf("%g, %v", flat, err)
	}
	for want, files := range map[string]map[string]*File{
		"is missing":   {"m-1.safetensors": ac},
		"the index":    {"m-1.safetensors": b, "m-2.safetensors": ac},
		"hold 2 tenso": {"m-1.safetensors": part([]Tensor{{"a", []int{1}}}, 1), "m-2.safetensors": b},
	} {
		if _, err := x.Join(files); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func FuzzParseShardIndex(f *testing.F) {
	for _, s := range []string{`{"weight_map":{"a":"../x.safetensors"}}`, `{"weight_map":{"a":"/x.safetensors"}}`, `{"weight_map":{"a":"x.bin"}}`, `{"weight_map":{}}`, `[]`,
		`{"weight_map":{"a":"c:x.safetensors"}}`, `{"weight_map":{"a":"..\\x.safetensors"}}`, `{"weight_map":{"a":"x.safetensors"}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ParseShardIndex(b)
		if err != nil {
			return
		}
		for _, n := range x.Files {
			if strings.ContainsAny(n, `/\:`) || n == ".." || !strings.HasSuffix(n, ".safetensors") {
				t.Fatalf("file %q", n)
			}
		}
		if len(x.Files) == 0 || string(b) == `{"weight_map":{"a":"../x.safetensors"}}` {
			t.Fatal("nothing, or a way out")
		}
	})
}

func TestGeneration(t *testing.T) {
	g, err := ParseGeneration([]byte(`{"bos_token_id":151643,"do_sample":true,"eos_token_id":[151645,151643],"temperature":0.6,"top_k":20,"top_p":0.95,"transformers_version":"4.51.0"}`))
	if err != nil || len(g.EOS) != 2 || !*g.Sample || *g.Temperature != 0.6 || *g.TopK != 20 || *g.TopP != 0.95 || g.MinP != nil || g.Repetition != nil {
		t.Errorf("%+v, %v", g, err)
	}
	for _, name := range []string{"stories260K-hf", "opendiloco-llama-2m-fresh", "verl-digit-llama-0.8m"} {
		t.Run(name, func(t *testing.T) {
			if g, err := ParseGeneration(shared(t, "data/models/"+name+"/generation_config.json")); err != nil || len(g.EOS) != 1 {
				t.Errorf("%+v, %v", g, err)
			}
		})
	}
}

func FuzzParseGeneration(f *testing.F) {
	for _, s := range []string{`{"top_p":2}`, `{"top_k":-1}`, `{"temperature":-1}`, `{"eos_token_id":-1}`, `{"repetition_penalty":1e9}`, `{"repetition_penalty":0}`, `{"eos_token_id":2,"do_sample":false}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ParseGeneration(b)
		if err != nil {
			return
		}
		if g.TopP != nil && !(*g.TopP >= 0 && *g.TopP <= 1) || g.TopK != nil && *g.TopK < 0 || len(g.EOS) > 16 {
			t.Fatalf("%+v", g)
		}
	})
}

// Every element type that weights are published in, bit patterns against values
// of their definitions.
func TestDtypes(t *testing.T) {
	u64 := func(v float64) []byte { return binary.LittleEndian.AppendUint64(nil, math.Float64bits(v)) }
	for _, c := range []struct {
		dtype string
		bytes []byte
		want  float32
	}{
		{"F64", u64(-1.5), -1.5}, {"F64", u64(1 + 0x1p-24), 1},
		{"F8_E4M3", []byte{0x38}, 1}, {"F8_E4M3", []byte{0x7e}, 448}, {"F8_E4M3", []byte{0x01}, 0x1p-9}, {"F8_E4M3", []byte{0xc1}, -2.25},
		{"F8_E5M2", []byte{0x3c}, 1}, {"F8_E5M2", []byte{0x7b}, 57344}, {"F8_E5M2", []byte{0x01}, 0x1p-16}, {"F8_E5M2", []byte{0xc1}, -2.5},
		{"I8", []byte{0xff}, -1}, {"U8", []byte{0xff}, 255}, {"BOOL", []byte{1}, 1},
		{"I16", []byte{0xfe, 0xff}, -2}, {"U16", []byte{0xfe, 0xff}, 65534},
		{"I32", []byte{0xfe, 0xff, 0xff, 0xff}, -2}, {"U32", []byte{0, 0, 0, 0x80}, 1 << 31},
		{"I64", []byte{0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, -3}, {"U64", []byte{0, 0, 0, 0, 1, 0, 0, 0}, 1 << 32},
	} {
		b := append(file(fmt.Sprintf(`{"a":{"dtype":%q,"shape":[1],"data_offsets":[0,%d]}}`, c.dtype, len(c.bytes)), 0), c.bytes...)
		f, err := ReadSafetensors(b)
		if err != nil {
			t.Errorf("%s: %v", c.dtype, err)
			continue
		}
		if got := all(t, &f.Tensors[0])[0]; got != c.want {
			t.Errorf("%s %x: %g, want %g", c.dtype, c.bytes, got, c.want)
		}
	}
	for dtype, bits := range map[string]byte{"F8_E4M3": 0x7f, "F8_E5M2": 0x7e} {
		f, err := ReadSafetensors(append(file(fmt.Sprintf(`{"a":{"dtype":%q,"shape":[1],"data_offsets":[0,1]}}`, dtype), 0), bits))
		if err != nil || all(t, &f.Tensors[0])[0] == all(t, &f.Tensors[0])[0] {
			t.Errorf("%s: NaN is a number, %v", dtype, err)
		}
	}
}

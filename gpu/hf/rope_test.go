package hf

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// withRope is a small model's config.json with what s says.
func withRope(s string) string {
	return `{"model_type":"llama","hidden_size":64,"intermediate_size":172,"num_hidden_layers":1,"num_attention_heads":8,"vocab_size":512,` + s + `}`
}

// Every kind of RoPE, as PyTorch computes it (testdata/rope.py), and in the same bits
// on every architecture. To try:
//
//	GOAMD64=v3 go test ./gpu/hf -run Rotary
//	GOARCH=arm64 go test -exec qemu-aarch64 ./gpu/hf -run Rotary
func TestRotary(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "rope.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Config      json.RawMessage
		Tokens      int
		Scale       float64
		Frequencies []float64
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	sum := crc32.NewIEEE()
	for _, c := range cases {
		name := fmt.Sprintf("%s, %d tokens", c.Config, c.Tokens)
		for _, key := range []string{"rope_scaling", "rope_parameters"} {
			s := strings.Replace(string(c.Config), "rope_scaling", key, 1)
			cfg, err := ParseConfig([]byte(withRope(s[1 : len(s)-1])))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			freqs, scale := cfg.Rotary(c.Tokens)
			if math.Abs(scale-c.Scale) > 1e-15*c.Scale {
				t.Errorf("%s: factor %v, want %v", name, scale, c.Scale)
			}
			for i, want := range c.Frequencies {
				if math.Abs(freqs[i]-want) > 1e-12*want {
					t.Errorf("%s: frequency %d is %v, want %v", name, i, freqs[i], want)
				}
			}
			for _, f := range append(freqs, scale) {
				fmt.Fprintf(sum, "%x ", math.Float64bits(f))
			}
			if n := cfg.RopeLength(c.Tokens); n != cfg.RopeLength(1) {
				short, _ := cfg.Rotary(1)
				if fmt.Sprint(short) == fmt.Sprint(freqs) {
					t.Errorf("%s: a text of other frequencies has the same", name)
				}
			}
		}
	}
	if got := sum.Sum32(); got != 0x8b3143c9 {
		t.Errorf("the bits have checksum %#x", got)
	}
}

func TestRopeLengths(t *testing.T) {
	parse := func(s string) Config {
		c, err := ParseConfig([]byte(withRope(`"max_position_embeddings":100,` + s)))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	eight := "[1,1,1,1]"
	for _, x := range []struct {
		c       Config
		context int
		lengths [4]int // of 1, 50, 51 and 120 tokens
	}{
		{parse(`"rope_scaling":null`), 100, [4]int{}},
		{parse(`"rope_scaling":{"type":"linear","factor":2}`), 100, [4]int{}},
		{parse(`"rope_scaling":{"type":"dynamic","factor":1.5}`), 150, [4]int{0, 0, 0, 120}},
		{parse(`"rope_scaling":{"type":"yarn","factor":4,"original_max_position_embeddings":50}`), 200, [4]int{}},
		{parse(`"rope_scaling":{"type":"yarn","factor":4,"original_max_position_embeddings":10}`), 100, [4]int{}},
		{parse(`"rope_scaling":{"type":"longrope","short_factor":` + eight + `,"long_factor":` + eight + `,"original_max_position_embeddings":50}`), 100, [4]int{0, 0, 51, 51}},
	} {
		for i, n := range []int{1, 50, 51, 120} {
			if got := x.c.RopeLength(n); got != x.lengths[i] {
				t.Errorf("%+v: RopeLength of %d is %d, want %d", x.c.RopeScaling, n, got, x.lengths[i])
			}
		}
		if got := x.c.Context(); got != x.context {
			t.Errorf("%+v: a context of %d, want %d", x.c.RopeScaling, got, x.context)
		}
	}
}

func TestRopeRefuses(t *testing.T) {
	long := func(s string) string {
		return `"rope_scaling":{"type":"longrope","factor":2,` + s + `}`
	}
	for s, want := range map[string]string{
		`"rope_scaling":{"type":"su","factor":2}`:                                                                               "rope_scaling: rope_type: \"su\"",
		`"rope_parameters":{"rope_type":"proportional","factor":2}`:                                                             "rope_parameters: rope_type",
		`"rope_scaling":{"type":"dynamic"}`:                                                                                     "rope_scaling: factor: 0",
		`"rope_scaling":{"type":"yarn","factor":0.5}`:                                                                           "rope_scaling: factor: 0.5",
		`"rope_scaling":{"type":"yarn","original_max_position_embeddings":4096}`:                                                "rope_scaling: factor: 0.5",
		`"rope_scaling":{"type":"yarn","factor":2,"original_max_position_embeddings":-1}`:                                       "original_max_position_embeddings: -1",
		`"original_max_position_embeddings":64,"rope_scaling":{"type":"yarn","factor":2,"original_max_position_embeddings":32}`: "rope_scaling: original_max_position_embeddings: 64",
		`"rope_scaling":{"type":"yarn","factor":2,"attention_factor":0}`:                                                        "attention_factor",
		`"rope_scaling":{"type":"yarn","factor":2,"attention_factor":-1}`:                                                       "attention_factor",
		`"rope_scaling":{"type":"yarn","factor":2,"beta_fast":1e9}`:                                                             "beta_fast",
		`"rope_scaling":{"type":"yarn","factor":2,"mscale":-1}`:                                                                 "mscale",
		`"rope_theta":1,"rope_scaling":{"type":"yarn","factor":2}`:                                                              "rope_theta 1",
		`"head_dim":2,"rope_scaling":{"type":"dynamic","factor":2}`:                                                             "head_dim 2",
		long(`"short_factor":[1,1,1,1]`):                                                                                        "long_factor: 0 numbers",
		long(`"short_factor":[1,1,1,1],"long_factor":[1,1,1]`):                                                                  "long_factor: 3 numbers",
		long(`"short_factor":[1,1,1,1],"long_factor":[1,1,1,0]`):                                                                "long_factor: 0 is not in [0.05",
		long(`"short_factor":[1,1,1,1],"long_factor":[1,1,1,"2"]`):                                                              "long_factor",
		long(`"short_factor":[1,1,1,1],"long_factor":[1,1,1,1],"original_max_position_embeddings":1`):                           "longrope wants 2",
		`"rope_scaling":{"type":"yarn","factor":2},"rope_parameters":{"rope_type":"yarn","factor":2,"beta_fast":16}`:            "contradict",
		`"rope_scaling":{"type":"yarn","factor":2,"full_attention":{"rope_type":"default"}}`:                                    "full_attention",
	} {
		if _, err := ParseConfig([]byte(withRope(s))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error about %q", s, err, want)
		}
	}
}

func TestRootsAndLogarithms(t *testing.T) {
	for _, theta := range []float64{1, 1.5, 2, 100, 1e4, 5e5, 1e12} {
		for _, n := range []int{1, 2, 3, 8, 32, 64, 2048} {
			want := math.Pow(theta, 1/float64(n))
			if got := nthRoot(theta, n); math.Abs(got-want) > 1e-15*want {
				t.Errorf("root %d of %g is %v, want %v", n, theta, got, want)
			}
		}
	}
	for x := 1e-9; x < 1e13; x *= 1.0037 {
		if got, want := ln(x), math.Log(x); math.Abs(got-want) > 3e-16*max(1, math.Abs(want)) {
			t.Errorf("ln %v is %v, want %v", x, got, want)
		}
	}
	if ln(1) != 0 {
		t.Error("ln 1 is not 0")
	}
}

package codec

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
)

var update = flag.Bool("update", false, "rewrite testdata/vectors: only commit the changes if you understand what caused them")

// A vector is one file of testdata/vectors; testdata/README.md describes the form.
type vector struct {
	Comment        string
	Spec           Spec
	Layout         Layout
	Header         Header
	Valid          bool
	Input, Values  []float32
	Payload        []byte
	hasIn, hasVals bool
}

func floatBytes(v []float32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

func (v *vector) format() []byte {
	var b bytes.Buffer
	b64 := base64.StdEncoding.EncodeToString
	fmt.Fprintf(&b, "shoal payload vector 1\ncomment: %s\nkind: %v\nchunk: %d\ndensity: %d\nlayout:", v.Comment, v.Spec.Kind, v.Spec.Chunk, v.Spec.Density)
	for _, n := range v.Layout {
		fmt.Fprintf(&b, " %d", n)
	}
	expect := "invalid"
	if v.Valid {
		expect = "valid"
	}
	fmt.Fprintf(&b, "\nrun: %s\nparent: %s\npeer: %s\nexpect: %s\n", v.Header.Run, v.Header.Parent, v.Header.Peer, expect)
	if v.hasIn {
		fmt.Fprintf(&b, "input: %s\n", b64(floatBytes(v.Input)))
	}
	if v.hasVals {
		fmt.Fprintf(&b, "values: %s\n", b64(floatBytes(v.Values)))
	}
	fmt.Fprintf(&b, "payload: %s\n", b64(v.Payload))
	return b.Bytes()
}

func parseVector(t *testing.T, b []byte) *vector {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if lines[0] != "shoal payload vector 1" {
		t.Fatalf("first line %q", lines[0])
	}
	v := &vector{}
	var err error
	check := func(e error) { err = errors.Join(err, e) }
	for _, line := range lines[1:] {
		key, val, _ := strings.Cut(line, ":")
		val = strings.TrimSpace(val)
		var e error
		var raw []byte
		switch key {
		case "comment":
			v.Comment = val
		case "kind":
			v.Spec.Kind, e = ParseKind(val)
		case "chunk":
			v.Spec.Chunk, e = strconv.Atoi(val)
		case "density":
			v.Spec.Density, e = strconv.Atoi(val)
		case "layout":
			for _, f := range strings.Fields(val) {
				n, e := strconv.Atoi(f)
				check(e)
				v.Layout = append(v.Layout, n)
			}
		case "run":
			v.Header.Run, e = wire.ParseCID(val)
		case "parent":
			v.Header.Parent, e = wire.ParseCID(val)
		case "peer":
			v.Header.Peer, e = wire.ParsePeer(val)
		case "expect":
			v.Valid = val == "valid"
		case "input", "values", "payload":
			raw, e = base64.StdEncoding.DecodeString(val)
			if key == "payload" {
				v.Payload = raw
				break
			}
			var x []float32
			for ; len(raw) >= 4; raw = raw[4:] {
				x = append(x, math.Float32frombits(binary.LittleEndian.Uint32(raw)))
			}
			if key == "input" {
				v.Input, v.hasIn = x, true
			} else {
				v.Values, v.hasVals = x, true
			}
		default:
			e = fmt.Errorf("unknown header %q", key)
		}
		check(e)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestVectors holds the format: decoding gives the values, encoding the input gives the payload.
func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	files, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d vectors: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			v := parseVector(t, b)
			if !bytes.Equal(v.format(), b) {
				t.Error("the file is not in the form that testdata/README.md describes")
			}
			c := testCodec(t, v.Spec, v.Layout)
			d, err := c.Decode(v.Header, v.Payload)
			if v.Valid != (err == nil) {
				t.Fatalf("valid %v, error %v", v.Valid, err)
			}
			if err != nil {
				return
			}
			if got := values(t, d); !bytes.Equal(floatBytes(got), floatBytes(v.Values)) {
				t.Errorf("values %v, want %v", got, v.Values)
			}
			if v.hasIn {
				d, err := c.Encode(v.Header, v.Input)
				if err != nil || !bytes.Equal(d.Block(), v.Payload) {
					t.Errorf("the input encodes to another payload: %v", err)
				}
			}
		})
	}
}

// writeVectors makes the files anew.
func writeVectors(t *testing.T) {
	dir := "testdata/vectors"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := testHeader(t, 1)
	layout := Layout{3, 70, 64}
	write := func(name string, v *vector) {
		if err := os.WriteFile(filepath.Join(dir, name+".txt"), v.format(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	inputs := map[string][]float32{"normal": gradient(1, 137), "zero": make([]float32, 137), "window": gradient(2, 137), "sparse": make([]float32, 137)}
	for i := range inputs["window"] {
		inputs["window"][i] *= float32(math.Exp2(float64(i%140 - 70)))
	}
	inputs["sparse"][5], inputs["sparse"][80], inputs["sparse"][136] = 0.25, -1, 3e-9
	for kind, s := range map[string]Spec{"int8": {Kind: Int8, Chunk: 64}, "int4": {Kind: Int4, Chunk: 64}, "topk": {Kind: TopK, Chunk: 64, Density: 1250}} {
		c := testCodec(t, s, layout)
		for name, u := range inputs {
			d, err := c.Encode(h, u)
			if err != nil {
				t.Fatal(err)
			}
			write(kind+"-"+name, &vector{Comment: "an input, its payload and what that adds", Spec: s, Layout: layout, Header: h, Valid: true, Input: u, Values: values(t, d), Payload: d.Block(), hasIn: true, hasVals: true})
		}
		d, err := c.Encode(h, inputs["normal"])
		if err != nil {
			t.Fatal(err)
		}
		bad := func(name, comment string, change func(b []byte) []byte) {
			b := change(bytes.Clone(d.Block()))
			if _, err := c.Decode(h, b); err == nil {
				t.Fatalf("%s-%s is valid", kind, name)
			}
			write(kind+"-bad-"+name, &vector{Comment: comment, Spec: s, Layout: layout, Header: h, Payload: b})
		}
		set := func(at int, x byte) func(b []byte) []byte {
			return func(b []byte) []byte { b[at] = x; return b }
		}
		exp := headerSize
		if kind == "topk" {
			exp = c.chunks[0].at
		}
		bad("version", "version 2", set(4, 2))
		bad("exponent", "an exponent beyond the window", set(exp, 25))
		bad("loose", "an exponent one higher than its codes need", func(b []byte) []byte {
			b[exp]++
			at := c.chunks[0].at
			switch kind {
			case "int8":
				for i := range 3 {
					b[at+i] = byte(int8(b[at+i]) / 2)
				}
			case "int4":
				clear(b[at : at+2])
				b[at] = 3
			case "topk":
				b[at+2] = 63
				b[at+1] = min(b[at+1], 62)
			}
			return b
		})
		bad("short", "the last byte is missing", func(b []byte) []byte { return b[:len(b)-1] })
		bad("long", "a byte follows", func(b []byte) []byte { return append(b, 0) })
		bad("peer", "another peer's payload", set(headerSize-1, d.block[headerSize-1]^1))
		at := c.chunks[1].at // 64 values
		switch kind {
		case "int8":
			bad("code", "the code −128", set(at+9, 0x80))
		case "int4":
			bad("code", "the code −8", set(at+9, 0x81))
			bad("padding", "the unused nibble is not zero", set(c.chunks[0].at+1, d.block[c.chunks[0].at+1]|0x10))
		case "topk":
			bad("codebook", "the low magnitude is not below the high one", set(at+1, d.block[at+2]))
			bad("indices", "an index that the high bits do not have", set(at+3, d.block[at+3]^0x40))
		}
	}
}

func BenchmarkCodec(b *testing.B) {
	layout := Layout{512 * 1024, 300, 1024 * 1024, 4096 * 100}
	for _, s := range []Spec{{Kind: Int8}, {Kind: Int4}, {Kind: TopK, Density: 156}, {Kind: TopK, Density: 1250}} {
		c := testCodec(b, s, layout)
		u := gradient(1, c.Params())
		h := testHeader(b, 1)
		name := s.Kind.String()
		if s.Kind == TopK {
			name = fmt.Sprintf("%s-%.2f%%", name, float64(s.Density)/100)
		}
		d, err := c.Encode(h, u)
		if err != nil {
			b.Fatal(err)
		}
		perParam := float64(c.Size()) / float64(c.Params())
		b.Run(name+"/encode", func(b *testing.B) {
			b.SetBytes(int64(4 * c.Params()))
			for b.Loop() {
				if _, err := c.Encode(h, u); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(perParam, "B/param")
			b.ReportMetric(4/perParam, "x_fp32")
		})
		b.Run(name+"/decode", func(b *testing.B) {
			b.SetBytes(int64(4 * c.Params()))
			for b.Loop() {
				if _, err := c.Decode(h, d.Block()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/add", func(b *testing.B) {
			b.SetBytes(int64(4 * c.Params()))
			for b.Loop() {
				if err := d.AddTo(u); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

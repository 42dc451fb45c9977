package codec

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"
	"slices"
	"strings"
	"testing"
)

// TestNothingIsLost: what was put in equals what payloads carried plus what is owed,
// whether payloads were merged or folded back.
func TestNothingIsLost(t *testing.T) {
	for _, s := range []Spec{{Kind: Int4, Chunk: 64}, {Kind: Int8, Chunk: 64}, {Kind: TopK, Chunk: 64, Density: 1250}} {
		c := testCodec(t, s, Layout{200, 57})
		f := NewFeedback(c)
		in, merged := make([]float64, c.Params()), make([]float64, c.Params())
		for round := range byte(20) {
			delta := gradient(uint64(round), c.Params())
			for i, x := range delta {
				in[i] += float64(x)
			}
			h := testHeader(t, round)
			u := slices.Clone(delta)
			d, err := f.Encode(h, u)
			if err != nil {
				t.Fatal(err)
			}
			v := values(t, d)
			for i := range u { // what β gives up
				in[i] -= (1 - float64(f.codec.beta())) * (float64(u[i]) - float64(v[i]))
			}
			if round%3 == 1 {
				if ok, err := f.Fold(d); !ok || err != nil {
					t.Fatal(ok, err)
				}
				if ok, _ := f.Fold(d); ok {
					t.Fatal("folded twice")
				}
			} else {
				for i, x := range v {
					merged[i] += float64(x)
				}
				if !f.Merged(h.Parent) || f.Merged(h.Parent) {
					t.Fatal("not merged exactly once")
				}
				if ok, _ := f.Fold(d); ok {
					t.Fatal("folded after it was merged")
				}
			}
		}
		owed := f.e
		if owed == nil {
			owed = make([]float32, c.Params())
		}
		for i := range in {
			if diff := math.Abs(in[i] - merged[i] - float64(owed[i])); diff > 1e-4 {
				t.Fatalf("%v: value %d: %g went in, %g was merged, %g is owed", s.Kind, i, in[i], merged[i], owed[i])
			}
		}
		if len(f.Outstanding()) != 0 {
			t.Error("payloads are outstanding")
		}
	}
}

func TestFeedbackSurvivesRestart(t *testing.T) {
	for _, s := range []Spec{{Kind: Int8}, {Kind: Int4}, {Kind: TopK, Density: 500}} {
		c := testCodec(t, s, Layout{300})
		a := NewFeedback(c)
		for n := range byte(3) {
			if _, err := a.Encode(testHeader(t, n), gradient(uint64(n), 300)); err != nil {
				t.Fatal(err)
			}
		}
		a.Merged(testHeader(t, 1).Parent)
		b, err := a.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		z := NewFeedback(c)
		if err := z.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		if again, err := z.MarshalBinary(); err != nil || !bytes.Equal(again, b) || len(z.Outstanding()) != 2 || z.Norm() != a.Norm() {
			t.Errorf("%v: another feedback after the restart", s.Kind)
		}
		x, err := a.Encode(testHeader(t, 9), gradient(9, 300))
		if err != nil {
			t.Fatal(err)
		}
		y, err := z.Encode(testHeader(t, 9), gradient(9, 300))
		if err != nil || !bytes.Equal(x.Block(), y.Block()) {
			t.Errorf("%v: another payload after the restart: %v", s.Kind, err)
		}

		before, _ := z.MarshalBinary()
		for i := range b {
			bad := bytes.Clone(b)
			bad[i] ^= 4
			if err := z.UnmarshalBinary(bad); err == nil || !strings.HasPrefix(err.Error(), "feedback:") {
				t.Fatalf("byte %d changed: %v", i, err)
			}
			if err := z.UnmarshalBinary(b[:i]); err == nil {
				t.Fatalf("cut to %d bytes: accepted", i)
			}
		}
		if err := NewFeedback(testCodec(t, s, Layout{100, 200})).UnmarshalBinary(b); err == nil || !strings.Contains(err.Error(), "another") {
			t.Errorf("another layout: %v", err)
		}
		if after, _ := z.MarshalBinary(); !bytes.Equal(after, before) {
			t.Error("a refused UnmarshalBinary changed the feedback")
		}
	}
}

func TestFeedbackRefuses(t *testing.T) {
	c := testCodec(t, Spec{Kind: Int4}, Layout{10})
	f := NewFeedback(c)
	if _, err := f.Encode(testHeader(t, 1), gradient(1, 10)); err != nil {
		t.Fatal(err)
	}
	before, _ := f.MarshalBinary()
	nan := gradient(1, 10)
	nan[3] = float32(math.NaN())
	if _, err := f.Encode(testHeader(t, 2), nan); err == nil {
		t.Error("NaN accepted")
	}
	if _, err := f.Encode(testHeader(t, 1), gradient(1, 10)); err == nil || !strings.Contains(err.Error(), "outstanding") {
		t.Errorf("second payload for one parent: %v", err)
	}
	if _, err := f.Encode(testHeader(t, 2), gradient(1, 11)); err == nil {
		t.Error("wrong length accepted")
	}
	other, err := testCodec(t, Spec{Kind: Int8}, Layout{10}).Encode(testHeader(t, 1), gradient(1, 10))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Fold(other); err == nil {
		t.Error("payload of another codec folded")
	}
	if after, _ := f.MarshalBinary(); !bytes.Equal(after, before) {
		t.Error("a refused call changed the feedback")
	}
	for n := byte(2); ; n++ {
		_, err := f.Encode(testHeader(t, n), gradient(1, 10))
		if err != nil {
			if n != MaxOutstanding+1 {
				t.Errorf("payload %d: %v", n, err)
			}
			break
		}
	}
}

func FuzzFeedback(f *testing.F) {
	c := testCodec(f, Spec{Kind: Int4, Chunk: 64}, Layout{5})
	fb := NewFeedback(c)
	b, _ := fb.MarshalBinary()
	f.Add(b[:len(b)-4])
	if _, err := fb.Encode(testHeader(f, 1), gradient(1, 5)); err != nil {
		f.Fatal(err)
	}
	b, _ = fb.MarshalBinary()
	f.Add(b[:len(b)-4])
	f.Fuzz(func(t *testing.T, b []byte) {
		b = sealed(b)
		z := NewFeedback(c)
		if err := z.UnmarshalBinary(b); err != nil {
			return
		}
		if again, err := z.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("accepted bytes are not canonical: %v", err)
		}
	})
}

// sealed appends the checksum, which no fuzzer would guess.
func sealed(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(b), crc32.Checksum(b, castagnoli))
}

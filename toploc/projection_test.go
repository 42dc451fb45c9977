package toploc

import (
	"bytes"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func gains(n int, g float32) []float32 { return slices.Repeat([]float32{g}, n) }

func projector(t testing.TB, p Projection, params Params, prompt int, job string) *Projector {
	t.Helper()
	pr, err := NewProjector(p, params, prompt, []byte(job))
	if err != nil {
		t.Fatal(err)
	}
	return pr
}

// records makes all version 2 records of a.
func records(t testing.TB, pr *Projector, a []uint16) (out [][]byte) {
	t.Helper()
	d := len(pr.gain)
	for i := 0; i < len(a); i += d {
		whole, err := pr.Push(a[i : i+d])
		if err != nil {
			t.Fatal(err)
		}
		if whole {
			out = append(out, pr.Record())
		}
	}
	if r := pr.Record(); r != nil {
		out = append(out, r)
	}
	return out
}

func TestProjectionRecordGolden(t *testing.T) {
	p := Projection{Values: 4, Bits: 4, Gain: gains(40, 3)}
	a := make([]uint16, 80)
	for i := range a {
		a[i] = uint16(0x3f80 + 5*i)
	}
	got := records(t, projector(t, p, Params{Hidden: 40, TopK: 1, Batch: 2}, 0, "job 1"), a)
	if len(got) != 1 || len(got[0]) != p.RecordSize(2) || hex.EncodeToString(got[0]) != goldenProjection {
		t.Errorf("record %x", got)
	}
}

func TestProjectionOfHonestAndOthers(t *testing.T) {
	params := Params{Hidden: 200, TopK: 1, Batch: 8}
	for _, bits := range []int{2, 3, 4, 7, 8} {
		for _, values := range []int{1, 2, 4, 8, 16} {
			p := Projection{Values: values, Bits: bits, Gain: gains(200, 40)}
			a, b := gauss(1, 200*43), gauss(2, 200*43)
			recs := records(t, projector(t, p, params, 11, "job"), a)
			if len(recs) != 5 {
				t.Fatalf("%d records", len(recs))
			}
			check := func(rows []uint16, job string) (out []ProjectionResult, errs int) {
				pr := projector(t, p, params, 11, job)
				i := 0
				for n := 0; n < len(rows); n += 200 {
					whole, err := pr.Push(rows[n : n+200])
					if err != nil {
						t.Fatal(err)
					}
					if whole {
						r, err := pr.Check(recs[i])
						if err != nil {
							errs++
						}
						out = append(out, r)
						i++
					}
				}
				return out, errs
			}
			same, errs := check(a, "job")
			for _, r := range same {
				if errs > 0 || r.Mean > 0.5 || r.WorstToken > 0.5 {
					t.Errorf("%d×%d: own rows are %+v off", values, bits, r)
				}
			}
			guess := math.Exp2(float64(bits - 2))
			others, _ := check(b, "job")
			for _, r := range others {
				if n := float64(8 * values); math.Abs(r.Mean-guess) > 6*guess/math.Sqrt(n) {
					t.Errorf("%d×%d: other rows are %.2f off, guessing is %.2f", values, bits, r.Mean, guess)
				}
			}
			if _, errs := check(a, "another job"); errs != 5 {
				t.Errorf("%d records of another job are taken", 5-errs)
			}
		}
	}
}

// A model with outlier channels: what a version 1 record commits to hardly
// depends on the text, so that the record of another text passes. Version 2 and
// the deployed limits part here.
func TestReplayInAModelWithOutliers(t *testing.T) {
	const hidden, tokens = 512, 32
	rows := func(seed uint64) []uint16 {
		r := rand.New(rand.NewPCG(seed, 3))
		f := make([]float32, hidden*tokens)
		for i := range f {
			f[i] = float32(r.NormFloat64())
			if c := i % hidden; c%128 == 5 { // four channels that shout
				f[i] = float32(float64(1-2*(c/128%2)) * (60 + r.NormFloat64()))
			}
		}
		a := make([]uint16, len(f))
		RoundBF16(a, f)
		return a
	}
	p := Default(hidden)
	own, other := rows(1), rows(2)
	pf, err := BuildChunk(p, other)
	if err != nil {
		t.Fatal(err)
	}
	s := Strict{Params: p, Prefill: Published, Decode: Published, Seed: 1}
	v, err := s.Verify([][]byte{pf.AppendBinary(nil)}, own, 0)
	if err != nil || !v[0].OK {
		t.Fatalf("the replay is refused under the paper's limits: %+v %v; the attack has changed", v, err)
	}
	gain := gains(hidden, 0.5/(8*0.003)) // a drift of 0.3 % at a size of 1
	for c := 5; c < hidden; c += 128 {
		gain[c] /= 60
	}
	proj := Projection{Values: 8, Bits: 4, Gain: gain}
	rec := records(t, projector(t, proj, p, 0, "job"), other)[0]
	pr := projector(t, proj, p, 0, "job")
	for i := 0; i < len(own); i += hidden {
		if _, err := pr.Push(own[i : i+hidden]); err != nil {
			t.Fatal(err)
		}
	}
	r, err := pr.Check(rec)
	if err != nil || r.Mean < 3 {
		t.Errorf("the replay is %+v off under version 2, %v", r, err)
	}
}

func TestProjectorRefuses(t *testing.T) {
	params := Params{Hidden: 4, TopK: 1, Batch: 2}
	good := Projection{Values: 4, Bits: 4, Gain: gains(4, 1)}
	for name, p := range map[string]Projection{
		"values": {3, 4, gains(4, 1)}, "bits": {4, 9, gains(4, 1)}, "one bit": {4, 1, gains(4, 1)}, "no gains": {4, 4, nil},
		"other gains": {4, 4, gains(5, 1)}, "negative": {4, 4, gains(4, -1)}, "NaN": {4, 4, gains(4, float32(math.NaN()))},
		"infinite": {4, 4, gains(4, float32(math.Inf(1)))},
	} {
		if _, err := NewProjector(p, params, 0, nil); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := NewProjector(good, params, 1<<20, nil); err == nil {
		t.Error("a prompt longer than a record can say is taken")
	}
	pr := projector(t, good, params, 0, "x")
	if _, err := pr.Push(make([]uint16, 3)); err == nil {
		t.Error("a short row is taken")
	}
	for _, b := range []uint16{0x7f80, 0xff80, 0x7fc0, 0xffff} {
		if _, err := pr.Push([]uint16{0, 0, b, 0}); err == nil {
			t.Errorf("%04x is taken", b)
		}
	}
	if _, err := pr.Check(nil); err == nil {
		t.Error("a chunk of no tokens passes")
	}
	rec := records(t, projector(t, good, params, 0, "x"), make([]uint16, 8))[0]
	for i := range rec {
		for bit := range 8 {
			bad := bytes.Clone(rec)
			bad[i] ^= 1 << bit
			pr := projector(t, good, params, 0, "x")
			for range 2 {
				if _, err := pr.Push(make([]uint16, 4)); err != nil {
					t.Fatal(err)
				}
			}
			if r, err := pr.Check(bad); i < projHeader && err == nil || i >= projHeader && (err != nil || r.Mean <= 0.5) {
				t.Errorf("bit %d of byte %d flipped: %+v %v", bit, i, r, err)
			}
		}
	}
}

func TestProjectKernelsAreTheirPortableTwin(t *testing.T) {
	each(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(4, 4))
		for range 2000 {
			n := 1 + r.IntN(200)
			row, gain := make([]uint16, n), make([]float32, n)
			for i := range row {
				row[i] = uint16(r.Uint32())
				if row[i]&0x7f80 == 0x7f80 {
					row[i] &= 0x807f
				}
				gain[i] = float32(math.Exp2(float64(r.IntN(60)-30)) * (r.Float64() - 0.5))
				if r.IntN(4) == 0 { // halves, to be rounded to even
					row[i], gain[i] = 0x3f80, float32(r.IntN(9))+0.5
				}
			}
			var got, want [projLanes]int32
			got[3], want[3] = 7, 7
			project(&got, row, gain)
			projectGeneric(&want, row, gain)
			if got != want {
				t.Fatalf("%d channels: %v, its twin %v", n, got, want)
			}
		}
	})
}

func TestParseProjectionHeader(t *testing.T) {
	p := Projection{Values: 8, Bits: 4, Gain: gains(6, 9)}
	rec := records(t, projector(t, p, Params{Hidden: 6, TopK: 1, Batch: 3}, 0, "job"), gauss(3, 18))[0]
	h, ok, err := ParseProjectionHeader(rec)
	if !ok || err != nil || h.Values != 8 || h.Bits != 4 || h.Tokens != 3 || h.Tag != [8]byte(rec[8:]) {
		t.Errorf("%+v %t %v", h, ok, err)
	}
	if _, ok, err := ParseProjectionHeader((&Proof{Modulus: Prime, Coeffs: make([]uint16, 16)}).AppendBinary(nil)); ok || err != nil {
		t.Errorf("a version 1 record is taken for one of version 2: %v", err)
	}
	for i, v := range map[int]byte{2: 3, 3: 1, 4: 3, 5: 1, 7: 4} {
		bad := bytes.Clone(rec)
		bad[i] = v
		if _, ok, err := ParseProjectionHeader(bad); !ok || err == nil {
			t.Errorf("byte %d set to %d: %t %v", i, v, ok, err)
		}
	}
	if _, ok, err := ParseProjectionHeader(rec[:9]); !ok || err == nil {
		t.Errorf("a short one: %t %v", ok, err)
	}
}

func FuzzProjectionCheck(f *testing.F) {
	p := Projection{Values: 2, Bits: 3, Gain: gains(6, 9)}
	params := Params{Hidden: 6, TopK: 1, Batch: 3}
	a := gauss(3, 18)
	f.Add(records(f, projector(f, p, params, 0, "job"), a)[0])
	f.Fuzz(func(t *testing.T, rec []byte) {
		if h, ok, err := ParseProjectionHeader(rec); ok && err == nil && (h.Tokens < 1 || len(rec) < 17) {
			t.Fatalf("%+v", h)
		}
		pr := projector(t, p, params, 0, "job")
		for i := 0; i < len(a); i += 6 {
			if _, err := pr.Push(a[i : i+6]); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := pr.Check(rec); err == nil && !(r.Mean >= 0 && r.Mean <= r.WorstToken && r.WorstToken <= 4) {
			t.Fatalf("%+v", r)
		}
	})
}

func BenchmarkProject32x4096(b *testing.B) {
	a := gauss(1, 32*4096)
	pr := projector(b, Projection{Values: 8, Bits: 4, Gain: gains(4096, 20)}, Default(4096), 0, "job")
	bench(b, nil, func() {
		for i := 0; i < len(a); i += 4096 {
			if _, err := pr.Push(a[i : i+4096]); err != nil {
				b.Fatal(err)
			}
		}
		pr.Record()
	})
}

package toploc

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Rows one by one, under both tie rules and with or without a prompt, give the
// tops and proofs of the whole.
func TestSelectorIsBuild(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	for range 300 {
		p := Params{Hidden: 1 + r.IntN(90), TopK: 1, Batch: 1 + r.IntN(40), Ties: Ties(r.IntN(2))}
		p.TopK = 1 + r.IntN(p.Hidden)
		tokens := 1 + r.IntN(120)
		prompt := r.IntN(tokens + 1)
		a := make([]uint16, tokens*p.Hidden)
		for i := range a {
			a[i] = uint16(r.IntN(2))<<15 | uint16(0x3f80+r.IntN(60)) // many ties
		}
		want, err := Build(p, a, prompt)
		if err != nil {
			t.Fatal(err)
		}
		pr, err := NewProver(p, prompt)
		if err != nil {
			t.Fatal(err)
		}
		var got []*Proof
		for i := 0; i < len(a); i += p.Hidden {
			pf, err := pr.Push(a[i : i+p.Hidden])
			if err != nil {
				t.Fatal(err)
			}
			if pf != nil {
				got = append(got, pf)
			}
		}
		if pf, err := pr.Flush(); err != nil {
			t.Fatal(err)
		} else if pf != nil {
			got = append(got, pf)
		}
		if len(got) != len(want) {
			t.Fatalf("%+v, %d tokens, prompt %d: %d proofs, want %d", p, tokens, prompt, len(got), len(want))
		}
		for i := range got {
			if got[i].Base64() != want[i].Base64() {
				t.Fatalf("%+v, %d tokens, prompt %d: proof %d differs", p, tokens, prompt, i)
			}
		}
	}
}

func TestSelectorMemory(t *testing.T) {
	for _, ties := range []Ties{TiesLowest, TiesLibstdcxx} {
		p := Params{Hidden: 512, TopK: 32, Batch: 2000, Ties: ties}
		s, err := NewSelector(p, 0)
		if err != nil {
			t.Fatal(err)
		}
		row := gauss(1, 512)
		for range 1999 {
			if _, err := s.Push(row); err != nil {
				t.Fatal(err)
			}
		}
		held := 0
		switch sel := s.sel.(type) {
		case *selector:
			held = cap(sel.bits) + cap(sel.pos)
		case *libstdcxx:
			held = cap(sel.q)
		}
		if held > 100*p.TopK {
			t.Errorf("%v holds %d numbers for a top %d", ties, held, p.TopK)
		}
	}
}

func TestSelectorRefuses(t *testing.T) {
	for _, c := range []struct {
		p      Params
		prompt int
	}{
		{Params{0, 1, 1, 0}, 0}, {Params{1, 0, 1, 0}, 0}, {Params{1, 1, 0, 0}, 0}, {Params{1, 1, 1, 7}, 0},
		{Params{1, 5000, 1, 0}, 0}, {Params{4, 1, 1, 0}, -1}, {Params{1 << 20, 1, 1, 0}, 1 << 20}, {Params{1 << 20, 1, 1 << 20, 0}, 0},
	} {
		if _, err := NewSelector(c.p, c.prompt); err == nil {
			t.Errorf("%+v with a prompt of %d is taken", c.p, c.prompt)
		}
	}
	s, err := NewSelector(Params{Hidden: 4, TopK: 8, Batch: 4}, 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Push(make([]uint16, 5)); err == nil {
		t.Error("a long row is taken")
	}
	if _, err := s.Push(make([]uint16, 4)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Flush(); err == nil || !strings.Contains(err.Error(), "prompt ends") {
		t.Errorf("a prompt cut short: %v", err)
	}
	for range 2 {
		if _, err = s.Push(make([]uint16, 4)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Push(make([]uint16, 4)); err != nil { // a chunk of one token
		t.Fatal(err)
	}
	if _, err := s.Flush(); err == nil || !strings.Contains(err.Error(), "no top 8") {
		t.Errorf("a chunk that is too small: %v", err)
	}
	if top, err := s.Flush(); top != nil || err != nil {
		t.Errorf("an empty chunk: %v %v", top, err)
	}
}

func TestStrictSeen(t *testing.T) {
	p := Params{Hidden: 64, TopK: 8, Batch: 4}
	a := gauss(21, 64*12)
	pfs, err := Build(p, a, 4)
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	s := Strict{Params: p, Prefill: Published, Decode: Published, Seen: func(r []byte) bool {
		asked = append(asked, string(r))
		return false
	}}
	var recs [][]byte
	for _, pf := range pfs {
		recs = append(recs, pf.AppendBinary(nil))
	}
	recs[2] = slices.Clone(recs[2])
	recs[2][5] ^= 1
	if _, err := s.Verify(recs, a, 4); err != nil {
		t.Fatal(err)
	}
	// The prompt's record repeats with the prompt, the last one is none.
	if len(asked) != 1 || asked[0] != string(recs[1]) {
		t.Errorf("asked about %d records", len(asked))
	}
}

func TestProofOutsideTheField(t *testing.T) {
	p := Params{Hidden: 64, TopK: 16, Batch: 4}
	a := gauss(2, 64*4)
	each(t, func(t *testing.T) {
		pf, err := BuildChunk(p, a)
		if err != nil {
			t.Fatal(err)
		}
		pf.Coeffs[3] = 0xffff // no parser makes it
		if _, err := CompareChunk(p, Tensor, pf, a); err == nil {
			t.Error("a coefficient outside the field is compared")
		}
	})
}

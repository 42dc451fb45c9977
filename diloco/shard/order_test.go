package shard

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
)

var run = wire.SumCID(wire.CodecDagCBOR, []byte("a run"))

// Within an epoch every window comes exactly once, for sizes around the
// borders of the network's halves.
func TestWindowIsAPermutation(t *testing.T) {
	for _, n := range []uint64{1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1000, 4095, 4096, 4097} {
		for epoch := range uint64(3) {
			seen := make([]bool, n)
			for x := range n {
				w, err := Window(run, n, epoch*n+x)
				if err != nil || w >= n || seen[w] {
					t.Fatalf("n %d, epoch %d: position %d gives window %d (taken: %v), %v", n, epoch, x, w, w < n && seen[w], err)
				}
				seen[w] = true
			}
		}
	}
}

func TestWindowDependsOnRunAndEpoch(t *testing.T) {
	const n = 5000
	other := wire.SumCID(wire.CodecDagCBOR, []byte("another run"))
	same := func(a, b wire.CID, shift uint64) (k int) {
		for x := range uint64(n) {
			v, _ := Window(a, n, x)
			w, _ := Window(b, n, x+shift)
			if v == w {
				k++
			}
		}
		return k
	}
	// Two random permutations agree in one place on average; 10 has odds of 1 in 10^7.
	if k := same(run, other, 0); k > 10 {
		t.Errorf("two runs share %d places of %d", k, n)
	}
	if k := same(run, run, n); k > 10 {
		t.Errorf("two epochs share %d places of %d", k, n)
	}
}

// The windows of consecutive positions are spread: a round's batch is no
// stretch of the text.
func TestWindowSpreads(t *testing.T) {
	const n, take = 100000, 2000
	var quarters [4]int
	near := 0
	last := uint64(n)
	for x := range uint64(take) {
		w, err := Window(run, n, x)
		if err != nil {
			t.Fatal(err)
		}
		quarters[w*4/n]++
		if last < n && (w-last+50)%n < 100 {
			near++
		}
		last = w
	}
	for i, k := range quarters { // 500 each, standard deviation 19
		if k < 400 || k > 600 {
			t.Errorf("quarter %d of the text has %d of %d windows", i, k, take)
		}
	}
	if near > 20 { // 2 expected
		t.Errorf("%d of %d windows lie beside the one before", near, take)
	}
}

// Whoever takes part, rounds of any size cover each epoch without overlap.
func TestAssignCoversEpochs(t *testing.T) {
	const windows = 997
	seen := map[uint64]int{}
	cursor := uint64(0)
	for round := 0; cursor < 3*windows; round++ {
		slots, each := 1+round%5, uint64(3+round%7)
		for slot := range slots {
			for i := range each {
				p, err := Assign(cursor, slot, slots, each, i)
				if err != nil {
					t.Fatal(err)
				}
				seen[p]++
			}
		}
		cursor += uint64(slots) * each
	}
	count := map[[2]uint64]int{}
	for p := range cursor {
		if seen[p] != 1 {
			t.Fatalf("position %d was handed out %d times", p, seen[p])
		}
		w, err := Window(run, windows, p)
		if err != nil {
			t.Fatal(err)
		}
		count[[2]uint64{p / windows, w}]++
	}
	for epoch := range uint64(3) {
		for w := range uint64(windows) {
			if k := count[[2]uint64{epoch, w}]; k != 1 {
				t.Fatalf("epoch %d has window %d %d times", epoch, w, k)
			}
		}
	}
}

func TestAssignRefuses(t *testing.T) {
	const top = 1<<64 - 1
	for _, c := range []struct {
		base        uint64
		slot, slots int
		each, i     uint64
	}{{0, 2, 2, 5, 0}, {0, -1, 2, 5, 0}, {0, 0, 2, 5, 5}, {0, 0, 0, 5, 0}, {top, 0, 1, 1, 0}, {top - 3, 0, 2, 2, 0}, {0, 0, 4, top / 2, 0}} {
		if p, err := Assign(c.base, c.slot, c.slots, c.each, c.i); err == nil {
			t.Errorf("%+v: position %d", c, p)
		}
	}
	if p, err := Assign(top-4, 1, 2, 2, 1); err != nil || p != top-1 {
		t.Errorf("the last position: %d, %v", p, err)
	}
	if _, err := Window(run, 0, 0); err == nil {
		t.Error("a window of no data")
	}
}

// testdata/order.json holds windows that a second implementation (Python, from
// the package comment alone) computed too. A change forks every run.
func TestWindowGolden(t *testing.T) {
	type vector struct{ Windows, Position, Window uint64 }
	var v struct {
		Run     string
		Vectors []vector
	}
	name := filepath.Join("testdata", "order.json")
	if os.Getenv("REWRITE") != "" {
		v.Run = run.String()
		for _, n := range []uint64{1, 2, 3, 7, 16, 16907, 1 << 20, 1<<32 + 1, 1<<62 + 1, 1<<64 - 1} {
			for _, p := range []uint64{0, 1, 2, n - 1, n, n + 1, 3*n + 5, 1<<64 - 1} {
				w, err := Window(run, n, p)
				if err != nil {
					t.Fatal(err)
				}
				v.Vectors = append(v.Vectors, vector{n, p, w})
			}
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.ReplaceAll(b, []byte(`{"Windows"`), []byte("\n"+`{"Windows"`))
		if err := os.WriteFile(name, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Vectors) < 80 {
		t.Fatalf("%d vectors", len(v.Vectors))
	}
	c, err := wire.ParseCID(v.Run)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range v.Vectors {
		if w, err := Window(c, x.Windows, x.Position); err != nil || w != x.Window {
			t.Errorf("%+v: got %d, %v", x, w, err)
		}
	}
}

func FuzzWindow(f *testing.F) {
	f.Add("r", uint64(10), uint64(3))
	f.Fuzz(func(t *testing.T, r string, windows, position uint64) {
		w, err := Window(wire.CID(r), windows, position)
		if (err != nil) != (windows == 0) || err == nil && w >= windows {
			t.Fatalf("window %d, %v", w, err)
		}
	})
}

func BenchmarkWindow(b *testing.B) {
	p := uint64(0)
	for b.Loop() {
		if _, err := Window(run, 16907, p); err != nil {
			b.Fatal(err)
		}
		p++
	}
}

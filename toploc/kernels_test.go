package toploc

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// random makes bits of every kind: a floor is exceeded seldom, or often, or
// only by NaNs.
func random(r *rand.Rand, n int, floor uint16) []uint16 {
	a := make([]uint16, n)
	often := r.IntN(200)
	for i := range a {
		a[i] = uint16(r.Uint32())&0x8000 | uint16(r.IntN(int(floor)+1))
		if r.IntN(200) < often/(1+r.IntN(8)) {
			a[i] = uint16(r.Uint32())
		}
	}
	return a
}

func TestScanKernelsAreTheirPortableTwins(t *testing.T) {
	each(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 3))
		for range 3000 {
			floor := uint16(r.IntN(keyNaN + 1))
			a := random(r, r.IntN(900), floor)
			at, room := r.Uint32(), block*(1+r.IntN(4))
			bits, pos := make([]uint16, room), make([]uint32, room)
			wb, wp := make([]uint16, len(a)), make([]uint32, len(a))
			_, want := gatherGeneric(a, floor, at, wb, wp)
			n := 0
			for i, b := range a {
				if key(b) > floor {
					if wb[n] != b || wp[n] != at+uint32(i) {
						t.Fatal("gatherGeneric misses an element")
					}
					n++
				}
			}
			if n != want {
				t.Fatalf("gatherGeneric finds %d of %d", want, n)
			}
			// In as many calls as the room makes necessary.
			n = 0
			for rest, from := a, at; len(rest) > 0; {
				read, wrote := gather(rest, floor, from, bits, pos)
				if read == 0 || !slices.Equal(bits[:wrote], wb[n:n+wrote]) || !slices.Equal(pos[:wrote], wp[n:n+wrote]) {
					t.Fatalf("gather(%d, floor %04x) read %d, wrote %d: not the twin's", len(rest), floor, read, wrote)
				}
				rest, from, n = rest[read:], from+uint32(read), n+wrote
			}
			if n != want {
				t.Fatalf("gather finds %d, its twin %d", n, want)
			}
			padded := append(slices.Clone(a), make([]uint16, 63-(len(a)+63)%64)...)
			if got, twin := count(padded, floor), countGeneric(padded, floor); got != want || twin != want {
				t.Fatalf("count of %d above %04x is %d, its twin's %d, want %d", len(a), floor, got, twin, want)
			}
			where := make([]uint32, len(padded))
			for i := range where {
				where[i] = r.Uint32()
			}
			gb, gp := slices.Clone(padded), slices.Clone(where)
			n = compact(gb, gp, len(a), min(floor, keyNaN-1))
			m := compactGeneric(padded, where, len(a), min(floor, keyNaN-1))
			if n != m || !slices.Equal(gb[:n], padded[:m]) || !slices.Equal(gp[:n], where[:m]) {
				t.Fatalf("compact keeps %d, its twin %d", n, m)
			}
		}
	})
}

func TestFieldKernelsAreTheirPortableTwins(t *testing.T) {
	each(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(9, 5))
		for _, n := range []int{1, 2, 11, 12, 13, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 300, 1000} {
			x, y := make([]uint32, n), make([]uint32, n)
			for i, v := range r.Perm(Prime)[:n] {
				x[i], y[i] = uint32(v), uint32(r.IntN(Prime))
			}
			if i := slices.Index(x, 0); i < 0 {
				x[0] = 0
			}
			if n > 2 {
				y[1], y[2] = 0, Prime-1
			}
			got, want := make([]uint16, n), make([]uint16, n)
			interpolate(got, x, y)
			newton(want, x, y)
			if !slices.Equal(got, want) {
				t.Fatalf("%d points: the polynomial is not the twin's", n)
			}
			w, v := make([]uint32, n), make([]uint32, n)
			evaluate(w, got, x)
			evaluateGeneric(v, got, x)
			if !slices.Equal(w, v) || !slices.Equal(w, y) {
				t.Fatalf("%d points: values are not the twin's", n)
			}
		}
		// The corners of the field, where lanes overflow.
		for _, c := range []uint16{0, 1, 38, 39, 40, Prime - 2, Prime - 1} {
			at := []uint32{0, 1, 2, 38, 39, 40, 1 << 15, Prime - 40, Prime - 39, Prime - 38, Prime - 2, Prime - 1, 5}
			coeffs := slices.Repeat([]uint16{c, Prime - 1, 0}, 5)
			w, v := make([]uint32, len(at)), make([]uint32, len(at))
			evaluate(w, coeffs, at)
			evaluateGeneric(v, coeffs, at)
			if !slices.Equal(w, v) {
				t.Fatalf("coefficient %d: values are not the twin's", c)
			}
		}
	})
}

func FuzzSelectorAgainstSort(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8}, uint8(2), uint8(3))
	f.Add(slices.Repeat([]byte{0x80, 0x7f, 0xc1, 0xff, 0, 0x80}, 400), uint8(77), uint8(200))
	f.Fuzz(func(t *testing.T, b []byte, k, cut uint8) {
		a := make([]uint16, len(b)/2)
		for i := range a {
			a[i] = uint16(b[2*i]) | uint16(b[2*i+1])<<8
		}
		if k == 0 || len(a) < int(k) {
			return
		}
		order := make([]uint32, len(a))
		for i := range order {
			order[i] = uint32(i)
		}
		slices.SortStableFunc(order, func(x, y uint32) int { return int(key(a[y])) - int(key(a[x])) })
		want := slices.Sorted(slices.Values(order[:k]))
		each(t, func(t *testing.T) {
			s := selector{k: int(k)}
			for rest := a; len(rest) > 0; {
				n := min(len(rest), int(cut)+1)
				s.scan(rest[:n])
				rest = rest[n:]
			}
			pos, bits, err := s.take()
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range pos {
				if a[p] != bits[i] {
					t.Fatal("bits are not those at the position")
				}
			}
			if !slices.Equal(slices.Sorted(slices.Values(pos)), want) {
				t.Fatalf("top %d of %d differs from a stable sort's", k, len(a))
			}
		})
	})
}

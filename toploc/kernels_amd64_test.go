//go:build amd64 && !purego

package toploc

import "testing"

var isaNames = [...]string{isaGeneric: "generic", isaAVX2: "avx2", isaAVX512: "avx512"}

// each runs f with every instruction set that this machine has.
func each(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	best := isa
	defer func() { isa = best }()
	for isa = best; isa >= isaGeneric; isa-- {
		if !t.Run(isaNames[isa], f) {
			return
		}
	}
}

func TestMontgomery(t *testing.T) {
	for x := range uint32(Prime) {
		xm, xp := montgomery(x)
		p := uint16(Prime)
		if uint32(xm) != x<<16%Prime && uint64(xm) != uint64(x)<<16%Prime || xp*p != xm {
			t.Fatalf("montgomery(%d) = %d, %d", x, xm, xp)
		}
	}
}

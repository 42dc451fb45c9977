//go:build amd64 && !purego

package toploc

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

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

// The committed assembly is what the generator beside it writes.
func TestGenerated(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("asm", "*.go"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no generator: %v", err)
	}
	h := sha256.New()
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(b)
	}
	sum, err := os.ReadFile("testdata/generator.sum")
	if err != nil || string(sum) != fmt.Sprintf("%x\n", h.Sum(nil)) {
		t.Errorf("toploc/asm has changed since kernels_amd64.s was written: run go generate in toploc (%v)", err)
	}
}

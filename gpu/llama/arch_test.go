package llama

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoalnet/shoal/gpu/cpu"
)

// TestGolden holds reproducible training to one checksum on every architecture,
// GOAMD64 level and instruction set, and the fast portable product, which has
// others, to the same everywhere. To try:
//
//	GOAMD64=v3 go test ./gpu/llama -run Golden
//	GOARCH=arm64 go test -exec qemu-aarch64 ./gpu/llama -run Golden
func TestGolden(t *testing.T) {
	cfg := small(true)
	sum := func(o cpu.Options) uint32 {
		tr := newTrainer(t, newCPU(t, o), cfg, Genesis(cfg, 8))
		train(t, tr, 0, 4)
		return crc(tr.Params())
	}
	for _, isa := range cpu.ISAs() {
		if got := sum(cpu.Options{Threads: 2, ISA: isa, Reproducible: true}); got != goldenExact {
			t.Errorf("%s: weights after four steps have checksum %#x", isa, got)
		}
	}
	if got := sum(cpu.Options{Threads: 2, ISA: "portable"}); got != 0xee2b68db {
		t.Errorf("fast portable: weights after four steps have checksum %#x", got)
	}
}

const goldenExact = 0xe60b07a5

func TestTrigonometry(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for i := range 200000 {
		x := rng.Float64() * math.Ldexp(1, i%29)
		s, c := sincos(x)
		// Of float64's 52 bits a float32 keeps 23.
		if math.Abs(s-math.Sin(x)) > 1e-12 || math.Abs(c-math.Cos(x)) > 1e-12 {
			t.Fatalf("sincos(%v) = %v, %v, want %v, %v", x, s, c, math.Sin(x), math.Cos(x))
		}
	}
}

package llama

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoalnet/shoal/gpu/cpu"
)

// TestPortableGolden holds the portable kernels to the same weights on every
// architecture and GOAMD64 level: no product may be fused with a sum. To try:
//
//	GOAMD64=v3 go test ./gpu/llama -run Golden
//	GOARCH=arm64 go test -exec qemu-aarch64 ./gpu/llama -run Golden
func TestPortableGolden(t *testing.T) {
	cfg := small(true)
	tr := newTrainer(t, newCPU(t, cpu.Options{Threads: 2, ISA: "portable"}), cfg, Genesis(cfg, 8))
	train(t, tr, 0, 4)
	if got := crc(tr.Params()); got != 0x4a041382 {
		t.Errorf("weights after four steps have checksum %#x", got)
	}
}

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
	for _, theta := range []float64{1, 1.5, 2, 100, 1e4, 5e5, 1e12} {
		for _, n := range []int{1, 2, 3, 8, 32, 64, 2048} {
			want := math.Pow(theta, 1/float64(n))
			if got := nthRoot(theta, n); math.Abs(got-want) > 1e-15*want {
				t.Errorf("root %d of %g is %v, want %v", n, theta, got, want)
			}
		}
	}
}

package cpu

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// oddFloat is a float32 whose bits make sums that fall between float32s.
func oddFloat(rng *rand.Rand) float32 {
	switch rng.IntN(4) {
	case 0:
		return math.Float32frombits(rng.Uint32())
	case 1: // few bits, so that sums are often half-way
		return float32(int(rng.Uint32N(1<<13))-1<<12) * float32(math.Pow(2, float64(rng.IntN(60)-30)))
	case 2: // subnormal, or nearly
		return math.Float32frombits(rng.Uint32() & 0x80ffffff)
	default:
		return float32(rng.NormFloat64())
	}
}

// TestFMA holds fma to exact arithmetic.
func TestFMA(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	slow := 0
	for range 300000 {
		x, y, z := oddFloat(rng), oddFloat(rng), oddFloat(rng)
		if rng.IntN(2) == 0 { // next to half of the product's last place
			z = float32(float64(x) * float64(y) * math.Pow(2, float64(rng.IntN(60)-30)))
		}
		if f := float64(x) + float64(y) + float64(z); math.IsNaN(f) || math.IsInf(f, 0) {
			continue
		}
		b := func(f float32) *big.Float { return new(big.Float).SetPrec(2000).SetFloat64(float64(f)) }
		exact := new(big.Float).SetPrec(2000).Mul(b(x), b(y))
		exact.Add(exact, b(z))
		want, _ := exact.Float32()
		if twice(float64(x)*float64(y) + float64(z)) {
			slow++
		}
		if got := fma(x, y, z); got != want {
			t.Fatalf("%g·%g + %g: got %g, want %g", x, y, z, got, want)
		}
	}
	if slow < 1000 {
		t.Errorf("only %d of the cases are hard", slow)
	}
}

func TestLog(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 5))
	for range 100000 {
		x := math.Exp(rng.Float64()*200 - 100)
		if got, want := log(x), math.Log(x); math.Abs(got-want) > 4e-16*math.Max(1, math.Abs(want)) {
			t.Fatalf("log %g: got %g, want %g", x, got, want)
		}
	}
	if log(1) != 0 || !math.IsInf(log(0), -1) || !math.IsNaN(log(math.NaN())) || !math.IsInf(log(math.Inf(1)), 1) {
		t.Error("log of 0, 1, NaN or Inf")
	}
}

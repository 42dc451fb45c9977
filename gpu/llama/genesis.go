package llama

import (
	"math"
	"strings"

	"github.com/shoalnet/shoal/gpu/hf"
)

// Genesis gives the weights that cfg and seed alone fix, equal bit for bit on
// every architecture. cfg must be valid.
//
// Norm gains are 1, biases 0. Matrix elements are drawn from a bell of standard
// deviation sqrt(2/(5D)) (SmallInit, Nguyen and Salazar 2019, section 2.2):
// 0.02 at a width of 1000, as GPT-2 and Hugging Face have it for every width,
// but four times that at a width of 64, without which a model so small spends
// most of a short run learning to attend at all. Those that end a residual
// branch (o_proj, down_proj) are 1/sqrt(2L) as wide (Radford et al. 2019,
// section 2.3). The bell is the Irwin-Hall sum of twelve uniform 16-bit
// numbers, which needs integers only; one multiplication in float32, rounded
// once, scales it. Randomness is a function of (seed, tensor's index in
// cfg.Tensors, element's index), so that any part can be computed alone.
func Genesis(cfg hf.Config, seed uint64) []float32 {
	flat := make([]float32, 0, cfg.NumParams())
	// Quotients and roots of whole numbers are rounded alike everywhere.
	std := math.Sqrt(2 / float64(5*cfg.HiddenSize))
	wide := float32(std / 65536)
	narrow := float32(std / 65536 / math.Sqrt(float64(2*cfg.NumHiddenLayers)))
	for i, t := range cfg.Tensors() {
		n := t.Len()
		if len(t.Shape) == 1 {
			one := float32(1)
			if strings.HasSuffix(t.Name, ".bias") {
				one = 0
			}
			for range n {
				flat = append(flat, one)
			}
			continue
		}
		scale := wide
		if strings.HasSuffix(t.Name, "o_proj.weight") || strings.HasSuffix(t.Name, "down_proj.weight") {
			scale = narrow
		}
		key := mix(mix(seed) + uint64(i))
		for e := range uint64(n) {
			flat = append(flat, float32(float32(bell(key, e))*scale))
		}
	}
	return flat
}

// bell is the sum of twelve numbers uniform in [0, 65535], less its mean
// 393,210: variance 65536²-1, at most 20 bits, so exact in a float32.
func bell(key, element uint64) int32 {
	sum := int32(-6 * 65535)
	for j := range uint64(3) {
		x := random(key, 3*element+j)
		sum += int32(x&0xffff) + int32(x>>16&0xffff) + int32(x>>32&0xffff) + int32(x>>48)
	}
	return sum
}

// random is output number i of a SplitMix64 generator in state key (Steele,
// Lea and Flood 2014, figure 16).
func random(key, i uint64) uint64 { return mix(key + (i+1)*0x9e3779b97f4a7c15) }

// mix is SplitMix64's finalizer.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

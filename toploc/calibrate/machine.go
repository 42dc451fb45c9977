package calibrate

import (
	"math"
	"strings"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/toploc"
)

// BF16 is a machine that keeps every activation in bfloat16, as accelerators do:
// what a kernel of dev writes is rounded to it, weights are not. Its memory must be
// the host's.
func BF16(dev gpu.Device) gpu.Device { return bf16{dev} }

type bf16 struct{ gpu.Device }

func (b bf16) Name() string { return b.Device.Name() + ", activations in bfloat16" }

// round rounds a matrix in the host's memory in place.
func round(m gpu.Matrix) {
	for i := range m.Rows {
		for j, f := range m.Host[i*m.Stride : i*m.Stride+m.Cols] {
			m.Host[i*m.Stride+j] = roundTo(f)
		}
	}
}

func roundTo(f float32) float32 {
	var b [1]uint16
	toploc.RoundBF16(b[:], []float32{f})
	return math.Float32frombits(uint32(b[0]) << 16)
}

func (b bf16) MatMul(l gpu.Layout, c, x, y gpu.Matrix, accumulate bool) {
	b.Device.MatMul(l, c, x, y, accumulate)
	round(c)
}

func (b bf16) Embed(out, table gpu.Matrix, ids []int32) {
	b.Device.Embed(out, table, ids)
	round(out)
}

func (b bf16) RMSNorm(out gpu.Matrix, inv gpu.Buffer, x gpu.Matrix, gain gpu.Buffer, eps float32) {
	b.Device.RMSNorm(out, inv, x, gain, eps)
	round(out)
}

func (b bf16) RoPE(x, cos, sin gpu.Matrix, r gpu.Rotation) {
	b.Device.RoPE(x, cos, sin, r)
	round(x)
}

func (b bf16) Attention(s gpu.AttentionShape, out, stats, q, k, v gpu.Matrix) {
	b.Device.Attention(s, out, stats, q, k, v)
	round(out)
}

func (b bf16) SwiGLU(out, gateUp gpu.Matrix) {
	b.Device.SwiGLU(out, gateUp)
	round(out)
}

// alter returns a copy of a model's weights with f applied to each row of its
// layers' matrices; embedding and head stay.
func (n Net) alter(f func(row []float32)) Net {
	w := append([]float32(nil), n.Weights...)
	off := 0
	for _, t := range n.Config.Tensors() {
		if strings.HasSuffix(t.Name, "_proj.weight") {
			for r := range t.Shape[0] {
				f(w[off+r*t.Shape[1] : off+(r+1)*t.Shape[1]])
			}
		}
		off += t.Len()
	}
	return Net{n.Config, w}
}

// Quantized rounds the layers' matrices to integers of so many bits, scaled by the
// largest of each group of columns (0: of each row).
func (n Net) Quantized(bits, group int) Net {
	most := float64(int(1)<<(bits-1) - 1)
	return n.alter(func(row []float32) {
		g := group
		if g == 0 {
			g = len(row)
		}
		for len(row) > 0 {
			part := row[:min(g, len(row))]
			row = row[len(part):]
			var top float64
			for _, v := range part {
				top = max(top, math.Abs(float64(v)))
			}
			if top == 0 {
				continue
			}
			for i, v := range part {
				part[i] = float32(math.RoundToEven(float64(v)/top*most) * top / most)
			}
		}
	})
}

// FP8 rounds the layers' matrices to float8 E4M3's precision of four bits, scaled so
// that the largest of a row is its largest number.
func (n Net) FP8() Net {
	return n.alter(func(row []float32) {
		var top float64
		for _, v := range row {
			top = max(top, math.Abs(float64(v)))
		}
		if top == 0 {
			return
		}
		scale := 448 / top
		for i, v := range row {
			f, e := math.Frexp(float64(v) * scale) // f in [1/2, 1)
			e = max(e, -5)                         // subnormals
			f = math.Ldexp(math.RoundToEven(math.Ldexp(float64(v)*scale, 4-e)), e-4)
			row[i] = float32(f / scale)
		}
	})
}

// Rounded rounds the layers' matrices to bfloat16.
func (n Net) Rounded() Net {
	return n.alter(func(row []float32) {
		for i, v := range row {
			row[i] = roundTo(v)
		}
	})
}

// Perturbed adds to each weight of the layers' matrices a share of its row's
// root mean square, times a random sign: a small fine-tuning.
func (n Net) Perturbed(share float64, seed uint64) Net {
	order := shuffled(seed, 1<<12)
	at := 0
	return n.alter(func(row []float32) {
		var sum float64
		for _, v := range row {
			sum += float64(v) * float64(v)
		}
		d := float32(share * math.Sqrt(sum/float64(len(row))))
		for i := range row {
			if at++; order[at%len(order)]&1 == 0 {
				row[i] += d
			} else {
				row[i] -= d
			}
		}
	})
}

// Shallow is the model without its last layers.
func (n Net) Shallow(layers int) Net {
	cfg := n.Config
	cfg.NumHiddenLayers = layers
	at := map[string][2]int{}
	off := 0
	for _, t := range n.Config.Tensors() {
		at[t.Name] = [2]int{off, off + t.Len()}
		off += t.Len()
	}
	w := make([]float32, 0, cfg.NumParams())
	for _, t := range cfg.Tensors() {
		s := at[t.Name]
		w = append(w, n.Weights[s[0]:s[1]]...)
	}
	return Net{cfg, w}
}

// Devices are what one machine offers to calibrate with.
type Devices struct {
	Best     gpu.Device // the verifier's
	Single   gpu.Device // the same kernels on one thread
	Portable gpu.Device // other kernels
}

// Usual fills in the verifier, honest machines, forgers and drafts that can be made
// of one model: other numbers of threads, batch shapes and kernels, and activations
// in bfloat16, are honest; other weights, prompts and temperatures are not.
// Sequences have up to length tokens.
func (c *Config) Usual(d Devices, length int) {
	net := c.Model
	c.Verifier = Machine{Name: "verifier", Device: d.Best, Stretch: length}
	c.Honest = []Machine{
		{"same kernels, 1 thread, one token at a time", d.Single, 1},
		{"portable kernels, 7 tokens at a time", d.Portable, 7},
		{"bfloat16 activations, one token at a time", BF16(d.Single), 1},
		{"bfloat16 activations, portable kernels, prefill", BF16(d.Portable), length},
	}
	int4 := net.Quantized(4, 32)
	c.Forgers = []Forger{
		{"half of the prompt dropped", net, func(p []int32) []int32 { return p[len(p)/2:] }},
		{"weights ± 5 %", net.Perturbed(0.05, 1), nil},
		{"weights ± 1 %", net.Perturbed(0.01, 1), nil},
		{"int4 weights", int4, nil},
		{"fp8 weights", net.FP8(), nil},
		{"int8 weights", net.Quantized(8, 0), nil},
		{"bfloat16 weights", net.Rounded(), nil},
	}
	c.Drafts = []Draft{
		{Name: "greedy", Model: net},
		{Name: "temperature × 0.7", Model: net, Temperature: 0.7 * c.Temperature},
		{Name: "temperature × 1.3", Model: net, Temperature: 1.3 * c.Temperature},
		{Name: "int4 weights", Model: int4, Temperature: c.Temperature},
	}
	if layers := net.Config.NumHiddenLayers; layers > 1 {
		shallow := net.Shallow(layers - 1)
		c.Forgers = append(c.Forgers, Forger{"last layer skipped", shallow, nil})
		c.Drafts = append(c.Drafts, Draft{Name: "last layer skipped", Model: shallow, Temperature: c.Temperature})
	}
}

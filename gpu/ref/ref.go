// Package ref is the definition of every gpu.Device kernel: plain loops, one
// after another as the papers write them, sums in float64, results rounded to
// float32 once. It is what other devices are held against and is as slow as
// it is simple.
package ref

import (
	"math"

	"github.com/shoalnet/shoal/gpu"
)

// Device computes on the calling goroutine, in the host's memory.
type Device struct{}

var _ gpu.Device = Device{}

// New gives a reference device.
func New() Device { return Device{} }

// Name implements gpu.Device.
func (Device) Name() string { return "reference" }

// Alloc implements gpu.Device.
func (Device) Alloc(n int) gpu.Buffer { return gpu.Buffer{Host: make([]float32, n), N: n} }

// Import implements gpu.Device.
func (Device) Import(host []float32) gpu.Buffer { return gpu.Buffer{Host: host, N: len(host)} }

// Upload implements gpu.Device.
func (Device) Upload(dst gpu.Buffer, src []float32) {
	gpu.CheckLen("upload", dst, len(src))
	copy(dst.Host, src)
}

// Download implements gpu.Device.
func (Device) Download(dst []float32, src gpu.Buffer) {
	gpu.CheckLen("download", src, len(dst))
	copy(dst, src.Host)
}

// Sync implements gpu.Device.
func (Device) Sync() error { return nil }

// Zero implements gpu.Device.
func (Device) Zero(dst gpu.Buffer) { clear(dst.Host) }

// row is row i of m.
func row(m gpu.Matrix, i int) []float32 { return m.Host[i*m.Stride : i*m.Stride+m.Cols] }

// Copy implements gpu.Device.
func (Device) Copy(dst, src gpu.Matrix) {
	gpu.CheckMatrix("copy", src)
	gpu.CheckShape("copy", dst, src.Rows, src.Cols)
	for i := range src.Rows {
		copy(row(dst, i), row(src, i))
	}
}

// MatMul implements gpu.Device.
func (Device) MatMul(l gpu.Layout, c, a, b gpu.Matrix, accumulate bool) {
	m, n, k := gpu.CheckMatMul(l, c, a, b)
	for i := range m {
		for j := range n {
			var s float64
			if accumulate {
				s = float64(c.Host[i*c.Stride+j])
			}
			for x := range k {
				ai, bi := i*a.Stride+x, x*b.Stride+j
				switch l {
				case gpu.NT:
					bi = j*b.Stride + x
				case gpu.TN:
					ai = x*a.Stride + i
				}
				s += float64(a.Host[ai]) * float64(b.Host[bi])
			}
			c.Host[i*c.Stride+j] = float32(s)
		}
	}
}

// Embed implements gpu.Device.
func (Device) Embed(out, table gpu.Matrix, ids []int32) {
	gpu.CheckMatrix("embed", table)
	gpu.CheckShape("embed", out, len(ids), table.Cols)
	gpu.CheckIDs("embed", ids, table.Rows, false)
	for t, id := range ids {
		copy(row(out, t), row(table, int(id)))
	}
}

// EmbedBackward implements gpu.Device.
func (Device) EmbedBackward(dtable, dout gpu.Matrix, ids []int32) {
	gpu.CheckMatrix("embed backward", dtable)
	gpu.CheckShape("embed backward", dout, len(ids), dtable.Cols)
	gpu.CheckIDs("embed backward", ids, dtable.Rows, false)
	for t, id := range ids {
		d := row(dtable, int(id))
		for i, x := range row(dout, t) {
			d[i] += x
		}
	}
}

// RMSNorm implements gpu.Device.
func (Device) RMSNorm(out gpu.Matrix, inv gpu.Buffer, x gpu.Matrix, gain gpu.Buffer, eps float32) {
	gpu.CheckRMSNorm("rmsnorm", out, x, gain, inv)
	for t := range x.Rows {
		var s float64
		for _, v := range row(x, t) {
			s += float64(v) * float64(v)
		}
		r := float32(1 / math.Sqrt(s/float64(x.Cols)+float64(eps)))
		inv.Host[t] = r
		o := row(out, t)
		for i, v := range row(x, t) {
			o[i] = float32(float64(v) * float64(r) * float64(gain.Host[i]))
		}
	}
}

// RMSNormBackward implements gpu.Device. With y_i = x_i·r·g_i and
// r = (mean(x²)+eps)^-1/2:
//
//	dx_i = r·g_i·dy_i - x_i·r³/d · sum_j(dy_j·g_j·x_j)
//	dg_i = sum_t dy_i·x_i·r
func (Device) RMSNormBackward(dx gpu.Matrix, dgain gpu.Buffer, dout, x gpu.Matrix, gain, inv gpu.Buffer) {
	gpu.CheckRMSNorm("rmsnorm backward", dout, x, gain, inv)
	gpu.CheckShape("rmsnorm backward", dx, x.Rows, x.Cols)
	gpu.CheckLen("rmsnorm backward", dgain, x.Cols)
	dg := make([]float64, x.Cols)
	for t := range x.Rows {
		xt, dy, d, r := row(x, t), row(dout, t), row(dx, t), float64(inv.Host[t])
		var s float64
		for i := range xt {
			s += float64(dy[i]) * float64(gain.Host[i]) * float64(xt[i])
		}
		c := r * r * r * s / float64(x.Cols)
		for i := range xt {
			d[i] = float32(float64(d[i]) + r*float64(gain.Host[i])*float64(dy[i]) - c*float64(xt[i]))
			dg[i] += float64(dy[i]) * float64(xt[i]) * r
		}
	}
	for i, v := range dg {
		dgain.Host[i] = float32(float64(dgain.Host[i]) + v)
	}
}

// RoPE implements gpu.Device.
func (Device) RoPE(x, cos, sin gpu.Matrix, r gpu.Rotation) {
	gpu.CheckRoPE(x, cos, sin, r)
	half := r.HeadDim / 2
	for t := range x.Rows {
		p := r.Start + (r.Row+t)%r.Period
		c, s, xt := row(cos, p), row(sin, p), row(x, t)
		for h := range r.Heads {
			for i := range half {
				a, b := h*r.HeadDim+i, h*r.HeadDim+i+half
				x0, x1, co, si := float64(xt[a]), float64(xt[b]), float64(c[i]), float64(s[i])
				if r.Inverse {
					si = -si
				}
				xt[a] = float32(x0*co - x1*si)
				xt[b] = float32(x1*co + x0*si)
			}
		}
	}
}

// SwiGLU implements gpu.Device.
func (Device) SwiGLU(out, gateUp gpu.Matrix) {
	gpu.CheckSwiGLU("swiglu", out, gateUp)
	f := out.Cols
	for t := range out.Rows {
		o, gu := row(out, t), row(gateUp, t)
		for i := range o {
			g, u := float64(gu[i]), float64(gu[f+i])
			o[i] = float32(g / (1 + math.Exp(-g)) * u)
		}
	}
}

// SwiGLUBackward implements gpu.Device.
func (Device) SwiGLUBackward(dgateUp, dout, gateUp gpu.Matrix) {
	gpu.CheckSwiGLU("swiglu backward", dout, gateUp)
	gpu.CheckShape("swiglu backward", dgateUp, gateUp.Rows, gateUp.Cols)
	f := dout.Cols
	for t := range dout.Rows {
		d, gu, dgu := row(dout, t), row(gateUp, t), row(dgateUp, t)
		for i := range d {
			g, u, dy := float64(gu[i]), float64(gu[f+i]), float64(d[i])
			sig := 1 / (1 + math.Exp(-g))
			dgu[i] = float32(dy * u * sig * (1 + g*(1-sig)))
			dgu[f+i] = float32(dy * g * sig)
		}
	}
}

// CrossEntropy implements gpu.Device.
func (Device) CrossEntropy(loss gpu.Buffer, logits gpu.Matrix, targets []int32, scale float32) {
	gpu.CheckCrossEntropy(loss, logits, targets)
	for t, target := range targets {
		z := row(logits, t)
		if target < 0 {
			clear(z)
			loss.Host[t] = 0
			continue
		}
		largest := math.Inf(-1)
		for _, v := range z {
			largest = math.Max(largest, float64(v))
		}
		var sum float64
		for _, v := range z {
			sum += math.Exp(float64(v) - largest)
		}
		loss.Host[t] = float32(largest + math.Log(sum) - float64(z[target]))
		for i, v := range z {
			p := math.Exp(float64(v)-largest) / sum
			if i == int(target) {
				p--
			}
			z[i] = float32(float64(scale) * p)
		}
	}
}

// Sum implements gpu.Device.
func (Device) Sum(x gpu.Buffer) float64 {
	var s float64
	for _, v := range x.Host {
		s += float64(v)
	}
	return s
}

// SumSquares implements gpu.Device.
func (Device) SumSquares(x gpu.Buffer) float64 {
	var s float64
	for _, v := range x.Host {
		s += float64(v) * float64(v)
	}
	return s
}

// AdamW implements gpu.Device.
func (Device) AdamW(p, g, m, v gpu.Buffer, o gpu.AdamW) {
	gpu.CheckLen("adamw", g, p.N)
	gpu.CheckLen("adamw", m, p.N)
	gpu.CheckLen("adamw", v, p.N)
	b1, b2 := float64(o.Beta1), float64(o.Beta2)
	for i := range p.Host {
		gi := float64(o.Scale) * float64(g.Host[i])
		mi := b1*float64(m.Host[i]) + (1-b1)*gi
		vi := b2*float64(v.Host[i]) + (1-b2)*gi*gi
		m.Host[i], v.Host[i], g.Host[i] = float32(mi), float32(vi), 0
		p.Host[i] = float32(float64(o.Keep)*float64(p.Host[i]) -
			float64(o.Rate)*mi/(math.Sqrt(float64(o.Correct2)*vi)+float64(o.Eps)))
	}
}

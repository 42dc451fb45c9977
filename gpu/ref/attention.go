package ref

import (
	"math"

	"github.com/shoalnet/shoal/gpu"
)

// head is the part of row i of m that belongs to head h.
func head(m gpu.Matrix, i, h, dim int) []float32 {
	return m.Host[i*m.Stride+h*dim : i*m.Stride+(h+1)*dim]
}

func dot(a, b []float32) float64 {
	var s float64
	for i := range a {
		s += float64(a[i]) * float64(b[i])
	}
	return s
}

// Attention implements gpu.Device.
func (Device) Attention(s gpu.AttentionShape, out, stats, q, k, v gpu.Matrix) {
	s.Check("attention", out, stats, q, k, v)
	scale := 1 / math.Sqrt(float64(s.HeadDim))
	p := make([]float64, s.Keys)
	acc := make([]float64, s.HeadDim)
	for b := range s.Seqs {
		for h := range s.Heads {
			kv := h / (s.Heads / s.KVHeads)
			for i := range s.Queries {
				t := b*s.Queries + i
				seen := s.Keys - s.Queries + i + 1
				from := s.First(t)
				largest := math.Inf(-1)
				for j := from; j < seen; j++ {
					p[j] = scale * dot(head(q, t, h, s.HeadDim), head(k, b*s.Keys+j, kv, s.HeadDim))
					largest = math.Max(largest, p[j])
				}
				var sum float64
				for j := from; j < seen; j++ {
					p[j] = math.Exp(p[j] - largest)
					sum += p[j]
				}
				clear(acc)
				for j := from; j < seen; j++ {
					for c, x := range head(v, b*s.Keys+j, kv, s.HeadDim) {
						acc[c] += p[j] / sum * float64(x)
					}
				}
				for c, x := range acc {
					head(out, t, h, s.HeadDim)[c] = float32(x)
				}
				stats.Host[t*stats.Stride+2*h] = float32(largest)
				stats.Host[t*stats.Stride+2*h+1] = float32(1 / sum)
			}
		}
	}
}

// AttentionBackward implements gpu.Device. With S = scale·q·kᵀ, P = softmax(S),
// O = P·v:
//
//	dv = Pᵀ·dO,  dP = dO·vᵀ,  dS_ij = P_ij·(dP_ij - sum_c dO_ic·O_ic)
//	dq = scale·dS·k,  dk = scale·dSᵀ·q
func (Device) AttentionBackward(s gpu.AttentionShape, dq, dk, dv, dout, out, stats, q, k, v gpu.Matrix) {
	s.CheckBackward(dq, dk, dv, dout, out, stats, q, k, v)
	scale := 1 / math.Sqrt(float64(s.HeadDim))
	dim, group := s.HeadDim, s.Heads/s.KVHeads
	gk, gv := make([]float64, s.Keys*dim), make([]float64, s.Keys*dim)
	gq := make([]float64, dim)
	for b := range s.Seqs {
		for kv := range s.KVHeads {
			clear(gk)
			clear(gv)
			for h := kv * group; h < (kv+1)*group; h++ {
				for i := range s.Queries {
					t := b*s.Queries + i
					qi, do := head(q, t, h, dim), head(dout, t, h, dim)
					largest, inv := float64(stats.Host[t*stats.Stride+2*h]), float64(stats.Host[t*stats.Stride+2*h+1])
					d := dot(do, head(out, t, h, dim))
					clear(gq)
					for j := s.First(t); j <= i; j++ {
						kj, vj := head(k, b*s.Keys+j, kv, dim), head(v, b*s.Keys+j, kv, dim)
						p := math.Exp(scale*dot(qi, kj)-largest) * inv
						ds := scale * p * (dot(do, vj) - d)
						for c := range dim {
							gv[j*dim+c] += p * float64(do[c])
							gq[c] += ds * float64(kj[c])
							gk[j*dim+c] += ds * float64(qi[c])
						}
					}
					for c := range dim {
						head(dq, t, h, dim)[c] = float32(gq[c])
					}
				}
			}
			for j := range s.Keys {
				for c := range dim {
					head(dk, b*s.Keys+j, kv, dim)[c] = float32(gk[j*dim+c])
					head(dv, b*s.Keys+j, kv, dim)[c] = float32(gv[j*dim+c])
				}
			}
		}
	}
}

package llama

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
)

// family is small with what a family adds.
func family(name string, bias bool) hf.Config {
	c := small(true)
	c.Family, c.AttentionBias = name, bias
	c.RopeScaling = &hf.RopeScaling{Kind: hf.RopeLlama3, Factor: 4, LowFreq: 1, HighFreq: 4, Original: 100}
	return c
}

// mlpBias is a Llama with every bias there is.
func mlpBias() hf.Config {
	c := family("", true)
	c.MLPBias = true
	return c
}

// plain is the mean loss of ids[1:] by the definition.
func plain(cfg hf.Config, params []float32, ids []int32) (loss float64) {
	definition(cfg, params, ids, func(pos int, z []float64) {
		if pos == len(ids)-1 {
			return
		}
		sum := 0.0
		for _, v := range z {
			sum += math.Exp(v)
		}
		loss += (math.Log(sum) - z[ids[pos+1]]) / float64(len(ids)-1)
	})
	return loss
}

// frequency is that of pair i in a text of n tokens, and factor that of cosines
// and sines, by the papers' formulas.
func frequency(cfg hf.Config, i, n int) (f, factor float64) {
	d, r := float64(cfg.HeadSize()), cfg.RopeScaling
	f = math.Pow(cfg.RopeTheta, -2*float64(i)/d)
	switch {
	case r == nil:
	case r.Kind == hf.RopeLinear:
		return f / r.Factor, 1
	case r.Kind == hf.RopeLlama3:
		length := 2 * math.Pi / f
		smooth := (float64(r.Original)/length - r.LowFreq) / (r.HighFreq - r.LowFreq)
		smooth = min(max(smooth, 0), 1)
		return (1-smooth)*f/r.Factor + smooth*f, 1
	case r.Kind == hf.RopeYarn: // with the betas that the tests have
		low := math.Floor(d * math.Log(float64(r.Original)/(r.BetaFast*2*math.Pi)) / (2 * math.Log(cfg.RopeTheta)))
		high := math.Ceil(d * math.Log(float64(r.Original)/(r.BetaSlow*2*math.Pi)) / (2 * math.Log(cfg.RopeTheta)))
		mix := min(max((float64(i)-max(low, 0))/(high-max(low, 0)), 0), 1)
		return mix*f/r.Factor + (1-mix)*f, 0.1*math.Log(r.Factor) + 1
	case r.Kind == hf.RopeDynamic && n > cfg.MaxPositionEmbeddings:
		base := cfg.RopeTheta * math.Pow(r.Factor*float64(n)/float64(cfg.MaxPositionEmbeddings)-(r.Factor-1), d/(d-2))
		return math.Pow(base, -2*float64(i)/d), 1
	case r.Kind == hf.RopeLong:
		factor = math.Sqrt(1 + math.Log(r.Factor)/math.Log(float64(r.Original)))
		if n > r.Original {
			return f / r.Long[i], factor
		}
		return f / r.Short[i], factor
	}
	return f, 1
}

// definition shows the logits after each of ids, in one pass over all: one token after
// another, in float64, from the names of the tensors, sharing nothing with the passes.
func definition(cfg hf.Config, params []float32, ids []int32, see func(pos int, z []float64)) {
	w := map[string][]float64{}
	for _, t := range cfg.Tensors() {
		v := make([]float64, t.Len())
		for i := range v {
			v[i] = float64(params[i])
		}
		w[t.Name], params = v, params[t.Len():]
	}
	D, d, H, K := cfg.HiddenSize, cfg.HeadSize(), cfg.NumAttentionHeads, cfg.KVHeads()
	linear := func(name string, x []float64) []float64 {
		m := w[name+".weight"]
		y := make([]float64, len(m)/len(x))
		copy(y, w[name+".bias"])
		for i := range y {
			for j := range x {
				y[i] += m[i*len(x)+j] * x[j]
			}
		}
		return y
	}
	norm := func(name string, x []float64) []float64 {
		sum := 0.0
		for _, v := range x {
			sum += v * v
		}
		y := make([]float64, len(x))
		for i := range x {
			y[i] = x[i] / math.Sqrt(sum/float64(len(x))+cfg.RMSNormEps) * w[name+".weight"][i]
		}
		return y
	}
	rope := func(x []float64, pos int) {
		for i := range d / 2 {
			f, factor := frequency(cfg, i, len(ids))
			s, c := math.Sincos(float64(pos) * f)
			a, b := factor*x[i], factor*x[i+d/2]
			x[i], x[i+d/2] = a*c-b*s, b*c+a*s
		}
	}
	keys, values := make([][][]float64, cfg.NumHiddenLayers), make([][][]float64, cfg.NumHiddenLayers)
	for pos, id := range ids {
		x := append([]float64{}, w["model.embed_tokens.weight"][int(id)*D:(int(id)+1)*D]...)
		for l := range cfg.NumHiddenLayers {
			p := fmt.Sprintf("model.layers.%d.", l)
			h := norm(p+"input_layernorm", x)
			q, k, v := linear(p+"self_attn.q_proj", h), linear(p+"self_attn.k_proj", h), linear(p+"self_attn.v_proj", h)
			heads := func(x []float64, n int, name string) {
				for h := range n {
					part := x[h*d : (h+1)*d]
					if cfg.QKNorm() {
						copy(part, norm(p+name, part))
					}
					rope(part, pos)
				}
			}
			heads(q, H, "self_attn.q_norm")
			heads(k, K, "self_attn.k_norm")
			keys[l], values[l] = append(keys[l], k), append(values[l], v)
			o := make([]float64, H*d)
			for h := range H {
				g := h / (H / K)
				e, sum := make([]float64, pos+1), 0.0
				for t := range e {
					if w := cfg.Window(l); w > 0 && t <= pos-w {
						continue
					}
					for i := range d {
						e[t] += q[h*d+i] * keys[l][t][g*d+i]
					}
					e[t] = math.Exp(e[t] / math.Sqrt(float64(d)))
					sum += e[t]
				}
				for t := range e {
					for i := range d {
						o[h*d+i] += e[t] / sum * values[l][t][g*d+i]
					}
				}
			}
			for i, v := range linear(p+"self_attn.o_proj", o) {
				x[i] += v
			}
			h = norm(p+"post_attention_layernorm", x)
			gate, up := linear(p+"mlp.gate_proj", h), linear(p+"mlp.up_proj", h)
			for i, g := range gate {
				up[i] *= g / (1 + math.Exp(-g))
			}
			for i, v := range linear(p+"mlp.down_proj", up) {
				x[i] += v
			}
		}
		h := norm("model.norm", x)
		if cfg.TieWordEmbeddings {
			w["lm_head.weight"] = w["model.embed_tokens.weight"]
		}
		see(pos, linear("lm_head", h))
	}
}

// stretched is a model of 40 tokens that was made for fewer.
func stretched(kind string) hf.Config {
	cfg := small(false)
	r := &hf.RopeScaling{Kind: kind, Factor: 2.5, Original: 16}
	cfg.RopeScaling = r
	switch kind {
	case hf.RopeYarn:
		r.BetaFast, r.BetaSlow = 2, 0.01
	case hf.RopeDynamic:
		r.Factor, r.Original, cfg.MaxPositionEmbeddings = 2, 0, 20
	case hf.RopeLong:
		r.Short, r.Long = []float64{1, 1.1, 1.5}, []float64{1.5, 3, 5}
	}
	return cfg
}

// windowed is a Qwen whose layers see so many tokens.
func windowed(name string, window int, layers ...bool) hf.Config {
	cfg := family(name, false)
	cfg.SlidingWindow, cfg.Sliding = window, layers
	return cfg
}

// families are small models of each kind that hf.Config tells apart.
func families() map[string]hf.Config {
	linear, llama3 := small(false), small(true)
	linear.RopeScaling = &hf.RopeScaling{Kind: hf.RopeLinear, Factor: 3}
	llama3.RopeScaling = &hf.RopeScaling{Kind: hf.RopeLlama3, Factor: 8, LowFreq: 1, HighFreq: 4, Original: 16}
	return map[string]hf.Config{
		"window": windowed(hf.Qwen2, 5, false, true), "windows": windowed(hf.Qwen3, 1, true, true), "first window": windowed(hf.Qwen3, 14, true, false),
		"yarn": stretched(hf.RopeYarn), "dynamic": stretched(hf.RopeDynamic), "longrope": stretched(hf.RopeLong),
		"mlp bias": mlpBias(), "llama": small(false), "linear": linear, "llama3": llama3, "bias": family("", true),
		"qwen2": family(hf.Qwen2, false), "qwen3": family(hf.Qwen3, false), "qwen3 bias": family(hf.Qwen3, true),
	}
}

func TestFamiliesEqualDefinition(t *testing.T) {
	for name, cfg := range families() {
		for _, dev := range devices(t) {
			t.Run(name+"/"+dev.Name(), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(3, 3))
				params := wild(cfg, rng)
				m, err := New(dev, cfg, params)
				if err != nil {
					t.Fatal(err)
				}
				ids := batch(rng, 1, 39, cfg.VocabSize)[0]
				got, err := m.Loss(ids)
				if want := plain(cfg, params, ids); err != nil || math.Abs(got-want) > 2e-5*want {
					t.Errorf("loss %.7f, by the definition %.7f, %v", got, want, err)
				}
				// Decoding with a cache is the same model: greedy tokens are the
				// likeliest of a pass over all that precedes them.
				var out []int32
				err = m.Generate(context.Background(), ids[:5], GenerateOptions{MaxTokens: 8}, func(x Token) bool { out = append(out, x.ID); return true })
				if err != nil {
					t.Fatal(err)
				}
				text := append(append([]int32{}, ids[:5]...), out...)
				r, err := m.NewReader(len(text), len(text))
				if err != nil {
					t.Fatal(err)
				}
				at := 0
				err = r.Read(context.Background(), text[:len(text)-1], func(_, z []float32) error {
					if at++; at >= 5 {
						best := 0
						for i := range z {
							if z[i] > z[best] {
								best = i
							}
						}
						if int32(best) != text[at] {
							t.Errorf("token %d is %d, the whole pass says %d", at, text[at], best)
						}
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

func TestGenesisBiases(t *testing.T) {
	cfg := family(hf.Qwen2, false)
	p, off := Genesis(cfg, 1), 0
	for _, x := range cfg.Tensors() {
		if len(x.Shape) == 1 {
			want := float32(1)
			if x.Name[len(x.Name)-4:] == "bias" {
				want = 0
			}
			if p[off] != want || p[off+x.Len()-1] != want {
				t.Errorf("%s begins with %g", x.Name, p[off])
			}
		}
		off += x.Len()
	}
}

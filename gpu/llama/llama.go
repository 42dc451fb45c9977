// Package llama is the Llama transformer (Touvron et al. 2023; the layout of
// Hugging Face's LlamaForCausalLM) on any gpu.Device: a block is
//
//	x2 = x  + Wo·attention(RoPE(Wq·n1), RoPE(Wk·n1), Wv·n1)   n1 = rmsnorm(x)
//	x' = x2 + Wdown·(silu(Wgate·n2) * (Wup·n2))               n2 = rmsnorm(x2)
//
// with grouped-query attention and a tied or untied head; the dense Qwen 2 and 3
// (family.go says what they add, hf.Config.Window what their layers hide) and the kinds of
// scaled RoPE (hf.Config.Rotary) are covered too. The backward pass is
// written by hand. Weights are one flat float32 vector in the order of
// hf.Config.Tensors; what the passes read are views of it.
//
// Names of sizes: N tokens in all sequences of a pass, D hidden, F
// intermediate, H query heads, K key and value heads, d a head's columns, V
// vocabulary, T tokens of a sequence.
package llama

import (
	"errors"
	"fmt"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/hf"
)

// A Model computes losses and generates text. It is for one goroutine.
type Model struct {
	dev    gpu.Device
	cfg    hf.Config
	params gpu.Buffer // flat
	w      weights
	packed *packed         // by Load: then w has vectors only, and params is empty
	rope   map[int]*tables // by hf.Config.RopeLength, grown on demand
	turn   *tables         // of the pass
	plan   *plan           // inference activations, grown on demand
	hidden []float32       // of the last Eval
}

// weights are the views of a flat vector, of parameters or of gradients.
type weights struct {
	embed  gpu.Matrix // (V, D)
	head   gpu.Matrix // (V, D); embed where tied
	norm   gpu.Buffer // (D)
	layers []layer
}

// layer holds a block's weights. hf sorts tensors by name, which puts gate and
// up, and q and v, side by side: each pair is one product.
type layer struct {
	norm1, norm2 gpu.Buffer // (D)
	down         gpu.Matrix // (D, F)
	gateUp       gpu.Matrix // (2F, D); empty where biases lie between
	gate, up     gpu.Matrix // (F, D) each instead
	k            gpu.Matrix // (K·d, D)
	o            gpu.Matrix // (D, H·d)
	qv           gpu.Matrix // (H·d + K·d, D); empty where biases lie between
	q, v         gpu.Matrix // (H·d, D), (K·d, D) instead

	// Empty where the family has none.
	kb, qb, vb, ob gpu.Matrix // (1, n) biases
	gb, ub, db     gpu.Matrix // (1, n) biases of gate, up and down
	kNorm, qNorm   gpu.Buffer // (d)
}

// New makes a model of params, which are in the order of cfg.Tensors. On
// devices that share the host's memory the model reads params themselves;
// they must not change while it computes.
func New(dev gpu.Device, cfg hf.Config, params []float32) (*Model, error) {
	if err := check(cfg, params); err != nil {
		return nil, err
	}
	return newModel(dev, cfg, dev.Import(params))
}

func check(cfg hf.Config, params []float32) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("llama: config: %w", err)
	}
	if n := cfg.NumParams(); int64(len(params)) != n {
		return fmt.Errorf("llama: %d parameters, the config asks for %d", len(params), n)
	}
	return nil
}

func newModel(dev gpu.Device, cfg hf.Config, params gpu.Buffer) (*Model, error) {
	w, err := views(cfg, params, true)
	if err != nil {
		return nil, err
	}
	return &Model{dev: dev, cfg: cfg, params: params, w: w}, nil
}

// Config is the model's configuration.
func (m *Model) Config() hf.Config { return m.cfg }

// views finds the tensors of cfg in a flat vector, which may have those of one dimension only.
func views(cfg hf.Config, flat gpu.Buffer, matrices bool) (weights, error) {
	type span struct{ from, to int }
	at := map[string]span{}
	off := 0
	for _, t := range cfg.Tensors() {
		if len(t.Shape) > 1 && !matrices {
			at[t.Name] = span{off, off}
			continue
		}
		at[t.Name] = span{off, off + t.Len()}
		off += t.Len()
	}
	if off != flat.N {
		return weights{}, fmt.Errorf("llama: %d values, the tensors hold %d", flat.N, off)
	}
	var err error
	// mat joins tensors that lie side by side into one matrix of cols columns.
	mat := func(cols int, names ...string) gpu.Matrix {
		first, last := at[names[0]], at[names[len(names)-1]]
		n := 0
		for _, name := range names {
			s, ok := at[name]
			if !ok {
				err = fmt.Errorf("llama: no tensor %s", name)
				return gpu.Matrix{}
			}
			n += s.to - s.from
		}
		if last.to-first.from != n {
			err = fmt.Errorf("llama: %v do not lie side by side", names)
			return gpu.Matrix{}
		}
		return flat.Slice(first.from, last.to).Matrix(n/cols, cols)
	}
	d, f, q := cfg.HiddenSize, cfg.IntermediateSize, cfg.NumAttentionHeads*cfg.HeadSize()
	kv := cfg.KVHeads() * cfg.HeadSize()
	w := weights{
		embed:  mat(d, "model.embed_tokens.weight"),
		norm:   mat(d, "model.norm.weight").Buffer,
		layers: make([]layer, cfg.NumHiddenLayers),
	}
	w.head = w.embed
	if !cfg.TieWordEmbeddings {
		w.head = mat(d, "lm_head.weight")
	}
	for i := range w.layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		w.layers[i] = layer{
			norm1: mat(d, p+"input_layernorm.weight").Buffer,
			norm2: mat(d, p+"post_attention_layernorm.weight").Buffer,
			down:  mat(f, p+"mlp.down_proj.weight"),
			k:     mat(d, p+"self_attn.k_proj.weight"),
			o:     mat(q, p+"self_attn.o_proj.weight"),
		}
		l := &w.layers[i]
		if cfg.MLPBias {
			l.gate, l.up = mat(d, p+"mlp.gate_proj.weight"), mat(d, p+"mlp.up_proj.weight")
			l.gb, l.ub, l.db = mat(f, p+"mlp.gate_proj.bias"), mat(f, p+"mlp.up_proj.bias"), mat(d, p+"mlp.down_proj.bias")
		} else {
			l.gateUp = mat(d, p+"mlp.gate_proj.weight", p+"mlp.up_proj.weight")
		}
		if cfg.QKVBias() {
			l.q, l.v = mat(d, p+"self_attn.q_proj.weight"), mat(d, p+"self_attn.v_proj.weight")
			l.kb, l.qb, l.vb = mat(kv, p+"self_attn.k_proj.bias"), mat(q, p+"self_attn.q_proj.bias"), mat(kv, p+"self_attn.v_proj.bias")
		} else {
			l.qv = mat(d, p+"self_attn.q_proj.weight", p+"self_attn.v_proj.weight")
		}
		if cfg.OBias() {
			l.ob = mat(d, p+"self_attn.o_proj.bias")
		}
		if cfg.QKNorm() {
			l.kNorm = mat(cfg.HeadSize(), p+"self_attn.k_norm.weight").Buffer
			l.qNorm = mat(cfg.HeadSize(), p+"self_attn.q_norm.weight").Buffer
		}
	}
	return w, err
}

// Loss is the mean cross-entropy, in nats per token, of tokens[1:] given what
// precedes each. RoPE that depends on a text's length takes that of all tokens, as
// transformers does where the labels are the tokens.
func (m *Model) Loss(tokens []int32) (float64, error) {
	return m.eval([][]int32{tokens}, new(Options), len(tokens))
}

// Eval is the mean cross-entropy, in nats per predicted token, over sequences
// of one length: of T inputs and the token after them, as a training step's. Nothing is learnt.
func (m *Model) Eval(tokens [][]int32) (float64, error) { return m.evalAs(tokens, new(Options)) }

// evalAs is Eval of sequences that are packed as o says; 0 where nothing is predicted.
func (m *Model) evalAs(tokens [][]int32, o *Options) (float64, error) {
	if len(tokens) == 0 {
		return m.eval(tokens, o, 0)
	}
	return m.eval(tokens, o, len(tokens[0])-1)
}

// eval is evalAs, with RoPE as in texts of length tokens.
func (m *Model) eval(tokens [][]int32, o *Options, length int) (float64, error) {
	t, err := m.checkTokens(tokens)
	if err != nil {
		return 0, err
	}
	if m.packed != nil {
		return 0, errors.New("llama: eval: a model that Load made only reads and writes: use a Scorer")
	}
	// As many sequences at a time as make a pass worth while.
	group := max(1, min(len(tokens), 1024/t))
	if m.plan == nil || m.plan.rows < group*t {
		m.plan = newPlan(m.dev, m.cfg, group*t, false)
	}
	if err := m.packable(o, length); err != nil {
		return 0, err
	}
	m.turn = m.tables(length, t)
	d := m.cfg.HiddenSize
	if n := len(tokens) * t * d; cap(m.hidden) < n {
		m.hidden = make([]float32, n)
	} else {
		m.hidden = m.hidden[:n]
	}
	predictions := max(1, o.predictions(tokens))
	var sum float64
	for i := 0; i < len(tokens); i += group {
		part := tokens[i:min(i+group, len(tokens))]
		p := m.plan
		p.load(part)
		o.separate(p, len(part), t)
		m.forward(p, len(part), t)
		m.dev.Download(m.hidden[i*t*d:(i+len(part))*t*d], p.h.Row(0, len(part)*t).Buffer)
		m.head(p, len(part)*t, len(part)*t, nil)
		sum += m.dev.Sum(p.loss.Slice(0, len(part)*t))
	}
	if err := m.dev.Sync(); err != nil {
		return 0, fmt.Errorf("llama: eval: %w", err)
	}
	return sum / float64(predictions), nil
}

// checkTokens refuses what cannot be a batch and returns T, the number of
// predictions of each sequence.
func (m *Model) checkTokens(tokens [][]int32) (int, error) {
	if len(tokens) == 0 || len(tokens[0]) < 2 {
		return 0, fmt.Errorf("llama: a batch needs a sequence of two tokens or more")
	}
	t := len(tokens[0]) - 1
	if most := m.cfg.Context(); t > most {
		return 0, fmt.Errorf("llama: sequences of %d tokens, the model takes %d", t, most)
	}
	for i, s := range tokens {
		if len(s) != t+1 {
			return 0, fmt.Errorf("llama: sequence %d has %d tokens, the first has %d; all must be equal", i, len(s), t+1)
		}
		if err := m.checkIDs(s); err != nil {
			return 0, fmt.Errorf("llama: sequence %d: %w", i, err)
		}
	}
	return t, nil
}

func (m *Model) checkIDs(ids []int32) error {
	for i, id := range ids {
		if id < 0 || int(id) >= m.cfg.VocabSize {
			return fmt.Errorf("token %d at %d is not in the vocabulary of %d", id, i, m.cfg.VocabSize)
		}
	}
	return nil
}

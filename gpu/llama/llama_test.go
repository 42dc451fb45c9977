package llama

import (
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/ref"
)

// small has every feature at odd sizes: grouped queries, a head wider than
// D/H, sizes that divide no vector.
func small(tied bool) hf.Config {
	return hf.Config{
		HiddenSize: 20, IntermediateSize: 37, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2,
		HeadDim: 6, VocabSize: 23, MaxPositionEmbeddings: 40, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: tied,
	}
}

// shortened is cfg whose texts of 11 tokens are long ones.
func shortened(cfg hf.Config) hf.Config {
	cfg.RopeScaling.Original = 4
	return cfg
}

func batch(rng *rand.Rand, seqs, length, vocab int) [][]int32 {
	b := make([][]int32, seqs)
	for i := range b {
		b[i] = make([]int32, length+1)
		for j := range b[i] {
			b[i][j] = int32(rng.IntN(vocab))
		}
	}
	return b
}

// wild gives weights well away from their initial smallness, so that no
// gradient is lost in rounding.
func wild(cfg hf.Config, rng *rand.Rand) []float32 {
	p := Genesis(cfg, rng.Uint64())
	for i := range p {
		p[i] += float32(rng.NormFloat64() * 0.2)
	}
	return p
}

func newTrainer(t testing.TB, dev gpu.Device, cfg hf.Config, params []float32) *Trainer {
	t.Helper()
	tr, err := NewTrainer(dev, cfg, params, DefaultOptions())
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// TestGradients holds the backward pass to central differences of the loss,
// tensor by tensor, along directions that touch every element.
func TestGradients(t *testing.T) {
	for _, dev := range devices(t) {
		for name, cfg := range map[string]hf.Config{"tied": small(true), "untied": small(false), "qwen2": family(hf.Qwen2, false), "qwen3": family(hf.Qwen3, true), "bias": family("", true), "mlp bias": mlpBias(),
			"window": windowed(hf.Qwen3, 4, true, true), "yarn": stretched(hf.RopeYarn), "longrope": shortened(stretched(hf.RopeLong))} {
			t.Run(dev.Name()+"/"+name, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(7, 1))
				params := wild(cfg, rng)
				tokens := batch(rng, 3, 11, cfg.VocabSize)
				tr := newTrainer(t, dev, cfg, params)
				if _, err := tr.gradient(tokens); err != nil {
					t.Fatal(err)
				}
				grad := slices.Clone(tr.grads.Host)
				off := 0
				for _, x := range cfg.Tensors() {
					g := grad[off : off+x.Len()]
					for try := range 3 {
						checkDirection(t, tr, tokens, params, x.Name, off, g, rng, try)
					}
					off += x.Len()
				}
			})
		}
	}
}

func checkDirection(t *testing.T, tr *Trainer, tokens [][]int32, params []float32, name string, off int, g []float32, rng *rand.Rand, try int) {
	t.Helper()
	var norm, mean float64
	for _, x := range g {
		norm += float64(x) * float64(x)
		mean += math.Abs(float64(x)) / float64(len(g))
	}
	norm = math.Sqrt(norm)
	if norm == 0 {
		t.Errorf("%s: the gradient is zero", name)
		return
	}
	dir := make([]float64, len(g))
	var want, length float64
	for i, x := range g {
		dir[i] = float64(x) / norm // try 0: along the gradient
		if try > 0 {
			dir[i] = (math.Abs(float64(x)) + mean) / norm * float64(2*rng.IntN(2)-1)
		}
		length += dir[i] * dir[i]
	}
	h := 4e-3 / (norm * math.Sqrt(length)) // moves the loss by about 4e-3
	h = min(h, 2e-2)
	at := func(h float64) float64 {
		moved := slices.Clone(params)
		for i := range g {
			moved[off+i] = float32(float64(params[off+i]) + h*dir[i])
		}
		if err := tr.SetParams(moved); err != nil {
			t.Fatal(err)
		}
		loss, err := tr.Eval(tokens)
		if err != nil {
			t.Fatal(err)
		}
		return loss
	}
	got := (at(h) - at(-h)) / (2 * h)
	for i, x := range g {
		want += dir[i] * float64(x)
	}
	if math.Abs(got-want) > 4e-3*norm*math.Sqrt(length) {
		t.Errorf("%s, direction %d: the loss changes by %.6g, the gradient says %.6g", name, try, got, want)
	}
}

// TestGenerateEqualsForward holds decoding with a cache to whole passes.
func TestGenerateEqualsForward(t *testing.T) {
	cfg := small(true)
	for _, dev := range devices(t) {
		rng := rand.New(rand.NewPCG(3, 9))
		m, err := New(dev, cfg, wild(cfg, rng))
		if err != nil {
			t.Fatal(err)
		}
		prompt := batch(rng, 1, 6, cfg.VocabSize)[0]
		text := slices.Clone(prompt)
		err = m.Generate(context.Background(), prompt, GenerateOptions{}, func(x Token) bool {
			id := x.ID
			// The greedy token is the likeliest by the losses of a whole pass.
			best, least := int32(-1), math.Inf(1)
			for c := range int32(cfg.VocabSize) {
				loss, err := m.Loss(append(slices.Clone(text), c))
				if err != nil {
					t.Fatal(err)
				}
				if loss < least {
					best, least = c, loss
				}
			}
			if best != id {
				t.Errorf("%s: token %d is %d, a whole pass gives %d", dev.Name(), len(text), id, best)
			}
			text = append(text, id)
			return len(text) < cfg.MaxPositionEmbeddings
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(text) != cfg.MaxPositionEmbeddings {
			t.Errorf("%s: %d tokens, want %d", dev.Name(), len(text), cfg.MaxPositionEmbeddings)
		}
	}
}

func TestLossFalls(t *testing.T) {
	cfg := small(true)
	for _, dev := range devices(t) {
		tr := newTrainer(t, dev, cfg, Genesis(cfg, 1))
		const text = "the shoal swims on and the shoal swims back and "
		tokens := [][]int32{make([]int32, 33), make([]int32, 33)}
		for i := range tokens {
			for j := range tokens[i] {
				tokens[i][j] = int32(text[(i*7+j)%len(text)]) % 23
			}
		}
		first, err := tr.Step(tokens, 1e-2)
		if err != nil {
			t.Fatal(err)
		}
		last := first
		for range 40 {
			if last, err = tr.Step(tokens, 1e-2); err != nil {
				t.Fatal(err)
			}
		}
		if math.Abs(first-math.Log(23)) > 0.5 || last > first/3 {
			t.Errorf("%s: loss went from %.3f (ln 23 = 3.135) to %.3f", dev.Name(), first, last)
		}
	}
}

func crc(x []float32) uint32 {
	return crc32.ChecksumIEEE(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x)))
}

func TestGenesisGolden(t *testing.T) {
	cfg := small(false)
	p := Genesis(cfg, 42)
	// Whoever changes this number changes the genesis of every run.
	if got := crc(p); got != 0x5b694acb {
		t.Errorf("digest %#x", got)
	}
	var n, s, ss float64
	for _, x := range Genesis(hf.Config{HiddenSize: 64, IntermediateSize: 64, NumHiddenLayers: 1, NumAttentionHeads: 1,
		VocabSize: 4096, MaxPositionEmbeddings: 8, RMSNormEps: 1e-5, RopeTheta: 1e4, TieWordEmbeddings: true}, 5)[:4096*64] {
		n, s, ss = n+1, s+float64(x), ss+float64(x)*float64(x)
	}
	if mean, std := s/n, math.Sqrt(ss/n); math.Abs(mean) > 8e-4 || math.Abs(std-math.Sqrt(2.0/320)) > 4e-4 {
		t.Errorf("embedding has mean %g and deviation %g", mean, std)
	}
	if crc(Genesis(cfg, 43)) == crc(p) {
		t.Error("two seeds give one model")
	}
}

func TestRefusals(t *testing.T) {
	cfg := small(true)
	dev := ref.New()
	params := Genesis(cfg, 1)
	if _, err := New(dev, cfg, params[1:]); err == nil {
		t.Error("a parameter too few was taken")
	}
	bad := cfg
	bad.NumKeyValueHeads = 3
	if _, err := New(dev, bad, params); err == nil {
		t.Error("3 key heads for 4 query heads were taken")
	}
	if _, err := NewTrainer(dev, cfg, params, Options{Beta1: 1, Eps: 1e-8}); err == nil {
		t.Error("beta1 = 1 was taken")
	}
	tr := newTrainer(t, dev, cfg, params)
	long := make([]int32, cfg.MaxPositionEmbeddings+2)
	for name, b := range map[string][][]int32{
		"empty": {}, "one token": {{1}}, "ragged": {{1, 2, 3}, {1, 2}}, "negative": {{1, -1}},
		"not in the vocabulary": {{1, 23}}, "too long": {long},
	} {
		if _, err := tr.Step(b, 1e-3); err == nil {
			t.Errorf("%s: batch was taken", name)
		}
	}
	if _, err := tr.Step([][]int32{{1, 2}}, math.NaN()); err == nil {
		t.Error("learning rate NaN was taken")
	}
	if tr.Steps() != 0 || crc(tr.Params()) != crc(params) {
		t.Error("a refused step changed the model")
	}
	tr.Params()[0] = float32(math.NaN())
	before := crc(tr.Params())
	_, err := tr.Step([][]int32{{0, 0, 1, 2}}, 1e-3)
	if !errors.Is(err, ErrNotFinite) || crc(tr.Params()) != before || tr.dev.SumSquares(tr.grads) != 0 {
		t.Errorf("NaN weights: %v", err)
	}
	m, _ := New(dev, cfg, params)
	for name, o := range map[string]GenerateOptions{
		"temperature": {Temperature: -1}, "NaN": {Temperature: math.NaN()}, "tokens": {MaxTokens: -1}, "top-k": {TopK: -1},
	} {
		if m.Generate(context.Background(), []int32{1}, o, func(Token) bool { return true }) == nil {
			t.Errorf("generate took %s", name)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Generate(ctx, []int32{1}, GenerateOptions{}, func(Token) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestStories260K holds the whole model to text that another program made
// with published weights.
func TestStories260K(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "data", "models")
	golden, err := os.ReadFile(filepath.Join(dir, "stories260K.greedy.json"))
	if err != nil {
		t.Skipf("SKIPPED: the published weights of stories260K are not here: %v", err)
	}
	var want struct{ Inp, Out []int32 }
	if err := json.Unmarshal(golden, &want); err != nil {
		t.Fatal(err)
	}
	conf, err := os.ReadFile(filepath.Join(dir, "stories260K-hf", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := hf.ParseConfig(conf)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "stories260K-hf", "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := hf.ReadSafetensors(raw)
	if err != nil {
		t.Fatal(err)
	}
	params, err := f.Flat(cfg.Tensors())
	if err != nil {
		t.Fatal(err)
	}
	for _, dev := range devices(t) {
		m, err := New(dev, cfg, params)
		if err != nil {
			t.Fatal(err)
		}
		var got []int32
		n := len(want.Out)
		if testing.Short() {
			n = 20
		}
		err = m.Generate(context.Background(), want.Inp, GenerateOptions{MaxTokens: n}, func(x Token) bool {
			got = append(got, x.ID)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want.Out[:n]) {
			t.Errorf("%s: got %v, want %v", dev.Name(), got, want.Out[:n])
		}
	}
}

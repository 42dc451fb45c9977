package calibrate_test

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/toploc/calibrate"
)

// shared is where the data lies that is not part of the project.
const shared = "../../../shared/data"

// tables is the directory to write the README's tables to: SHOAL_TOPLOC_TABLE. Empty
// asks for a small calibration.
func tables() string { return os.Getenv("SHOAL_TOPLOC_TABLE") }

// keep writes a report there, as tables and as JSON.
func keep(t testing.TB, name string, r *calibrate.Report) {
	t.Helper()
	if tables() == "" {
		return
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	for ext, b := range map[string][]byte{".md": []byte(r.Markdown()), ".json": append(b, '\n')} {
		if err := os.WriteFile(filepath.Join(tables(), name+ext), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func device(t testing.TB, threads int, isa string) gpu.Device {
	t.Helper()
	d, err := cpu.New(cpu.Options{Threads: threads, ISA: isa})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// corpus is some of Go's own source as bytes below 128: text that is at hand
// wherever tests run, and the same until Go's version changes.
func corpus(t testing.TB) []int32 {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skipf("SKIPPED: no text to train on without the go command: %v", err)
	}
	var text []int32
	for _, dir := range []string{"bufio", "bytes", "fmt", "sort", "strconv", "strings", "text/template"} {
		files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(root)), "src", filepath.FromSlash(dir), "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range b {
				if c < 128 && c != '\r' {
					text = append(text, int32(c))
				}
			}
		}
	}
	if len(text) < 1<<18 {
		t.Skipf("SKIPPED: only %d bytes of text in %s", len(text), root)
	}
	return text
}

func config(hidden, layers int) hf.Config {
	return hf.Config{
		HiddenSize: hidden, IntermediateSize: hidden * 8 / 3 / 8 * 8, NumHiddenLayers: layers, NumAttentionHeads: hidden / 32, NumKeyValueHeads: hidden / 32,
		VocabSize: 128, MaxPositionEmbeddings: 512, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true,
	}
}

// trained trains a model on text from nothing.
func trained(t testing.TB, cfg hf.Config, text []int32, steps int, seed uint64) calibrate.Net {
	t.Helper()
	const batch, length = 16, 96
	tr, err := llama.NewTrainer(device(t, 2, ""), cfg, llama.Genesis(cfg, seed), llama.DefaultOptions())
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(seed, 3))
	var loss float64
	for s := range steps {
		tokens := make([][]int32, batch)
		for i := range tokens {
			at := rng.IntN(len(text) - length - 1)
			tokens[i] = text[at : at+length+1]
		}
		lr := 3e-3 * min(1, float64(s+1)/20)
		if loss, err = tr.Step(tokens, lr); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("trained %d parameters for %d steps: loss %.3f", cfg.NumParams(), steps, loss)
	return calibrate.Net{Config: cfg, Weights: append([]float32(nil), tr.Params()...)}
}

// stories is the model stories260K, nil where the shared data is absent.
func stories(t testing.TB) (*calibrate.Net, []int32) {
	t.Helper()
	dir := filepath.Join(shared, "models", "stories260K-hf")
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Logf("SKIPPED: no stories260K here: %v", err)
			return nil
		}
		return b
	}
	conf, weights, tok, text := read(filepath.Join(dir, "config.json")), read(filepath.Join(dir, "model.safetensors")),
		read(filepath.Join(dir, "tokenizer.json")), read(filepath.Join(shared, "text", "tinystories_sample_2MiB.txt"))
	if conf == nil || weights == nil || tok == nil || text == nil {
		return nil, nil
	}
	cfg, err := hf.ParseConfig(conf)
	if err != nil {
		t.Fatal(err)
	}
	st, err := hf.ReadSafetensors(weights)
	if err != nil {
		t.Fatal(err)
	}
	flat, err := st.Flat(cfg.Tensors())
	if err != nil {
		t.Fatal(err)
	}
	tk, err := hf.LoadTokenizer(tok)
	if err != nil {
		t.Fatal(err)
	}
	return &calibrate.Net{Config: cfg, Weights: flat}, tk.Encode(string(text[:200_000]))
}

// prompts cuts n prompts out of text.
func prompts(text []int32, n, length int) (out [][]int32) {
	rng := rand.New(rand.NewPCG(uint64(n), 8))
	for range n {
		at := rng.IntN(len(text) - length)
		out = append(out, text[at:at+length])
	}
	return out
}

package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/testnet"
)

// A model that was trained here, written as GGUF, gives the same greedy tokens in
// llama.cpp. Needs npm and the network, hence only with SHOAL_INTEROP=1;
// SHOAL_INTEROP_DIR keeps what npm installs.
func TestInteropLlamaCpp(t *testing.T) {
	if os.Getenv("SHOAL_INTEROP") == "" {
		t.Skip("SKIPPED: set SHOAL_INTEROP=1 to compare with llama.cpp (make interop)")
	}
	js := t.TempDir()
	if d := os.Getenv("SHOAL_INTEROP_DIR"); d != "" {
		js = filepath.Join(d, "llamacpp")
	}
	if err := os.CopyFS(js, os.DirFS("testdata/llamacpp")); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(js, "node_modules", "node-llama-cpp")); err != nil {
		npm := exec.CommandContext(t.Context(), "npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--omit=optional")
		npm.Dir = js
		if out, err := npm.CombinedOutput(); err != nil {
			t.Fatalf("npm install: %v\n%s", err, out)
		}
	}
	text, err := fs.ReadFile(testnet.Demo(), "moby-dick.txt")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := hf.NewChar(string(text))
	if err != nil {
		t.Fatal(err)
	}
	ids := tok.Encode(string(text[:200_000]))
	yarn := &hf.RopeScaling{Kind: hf.RopeYarn, Factor: 4, Original: 64}
	for _, c := range []struct {
		family string
		rope   *hf.RopeScaling
	}{{"", nil}, {hf.Qwen2, nil}, {hf.Qwen3, nil}, {"", yarn}, {hf.Qwen3, yarn}} {
		family := c.family
		name := hf.Config{Family: family}.ModelType()
		if c.rope != nil {
			name += "/" + c.rope.Kind
		}
		t.Run(name, func(t *testing.T) {
			cfg := hf.Config{Family: family, HiddenSize: 64, IntermediateSize: 160, NumHiddenLayers: 3, NumAttentionHeads: 4, NumKeyValueHeads: 2, HeadDim: 16,
				VocabSize: tok.VocabSize(), MaxPositionEmbeddings: 256, RMSNormEps: 1e-5, RopeTheta: 10000, RopeScaling: c.rope, TieWordEmbeddings: family != hf.Qwen2}
			e := engine{cfg: cfg, seed: 3, opts: llama.DefaultOptions()}
			params, err := e.Genesis()
			if err != nil {
				t.Fatal(err)
			}
			tr, err := e.NewTrainer(params)
			if err != nil {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(1, 1))
			var loss float64
			for range 150 {
				batch := make([][]int32, 8)
				for i := range batch {
					at := rng.IntN(len(ids) - 65)
					batch[i] = ids[at : at+65]
				}
				if loss, err = tr.Step(batch, 3e-3); err != nil {
					t.Fatal(err)
				}
			}
			dir := filepath.Join(t.TempDir(), "model")
			if err := writeTrained(dir, cfg, tok.JSON(), slices.Clone(tr.Params()), nil); err != nil {
				t.Fatal(err)
			}
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
			var out, errw bytes.Buffer
			shoal := func(args ...string) []byte {
				out.Reset()
				if code := run(args, os.Stdin, &out, &errw); code != 0 {
					t.Fatalf("%v: %s", args, errw.String())
				}
				return out.Bytes()
			}
			gguf := filepath.Join(t.TempDir(), "model.gguf")
			shoal("convert", dir, gguf)
			const prompt, n = "Call me Ishmael. ", "200"
			var ours struct {
				Text   string
				Tokens []struct{ ID int32 }
			}
			if err := json.Unmarshal(shoal("generate", dir, "-p", prompt, "-n", n, "--temperature", "0", "--json", "--logprobs"), &ours); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "node", "greedy.js", gguf, prompt, n)
			cmd.Dir, cmd.Stderr = js, os.Stderr
			b, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var theirs struct{ Prompt, Tokens []int32 }
			if err := json.Unmarshal(b, &theirs); err != nil {
				t.Fatalf("%s: %v", b, err)
			}
			if !slices.Equal(theirs.Prompt, tok.Encode(prompt)) {
				t.Fatalf("llama.cpp reads the prompt as %d", theirs.Prompt)
			}
			same := 0
			for same < min(len(ours.Tokens), len(theirs.Tokens)) && ours.Tokens[same].ID == theirs.Tokens[same] {
				same++
			}
			if same != 200 || len(theirs.Tokens) != 200 {
				t.Errorf("%d of %d tokens are llama.cpp's, which wrote %q", same, len(ours.Tokens), tok.Decode(theirs.Tokens))
			}
			t.Logf("trained to %.3f nats, %d of 200 tokens: %.60q", loss, same, ours.Text)
		})
	}
}

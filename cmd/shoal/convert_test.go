package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
)

// A conversion that is interrupted leaves nothing, and no file is overwritten.
func TestConvertInterrupted(t *testing.T) {
	dir, err := localModel(longModel(t))
	if err != nil {
		t.Fatal(err)
	}
	a := &app{out: io.Discard, err: io.Discard}
	name := filepath.Join(t.TempDir(), "m.gguf")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.convert(ctx, dir, name, hf.GGUFOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(name)); err != nil || len(left) > 0 {
		t.Errorf("%v is left (%v)", left, err)
	}
	if err := a.convert(t.Context(), dir, name, hf.GGUFOptions{}); err != nil {
		t.Error(err)
	}
	if err := a.convert(t.Context(), dir, name, hf.GGUFOptions{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a file that is there: %v", err)
	}
}

// What a GGUF file says of a text's beginning and end is what the model's files say, each of
// which may leave it to another.
func TestConvertEnds(t *testing.T) {
	var tokenizer map[string]json.RawMessage // with <s> 256 and </s> 257
	if err := json.Unmarshal(bytesTokenizer(t), &tokenizer); err != nil {
		t.Fatal(err)
	}
	processor := string(tokenizer["post_processor"])
	none := `null`
	for name, c := range map[string]struct {
		processor, config, tokens, generation string
		want                                  string // bos eos eot eom add_bos add_eos
	}{
		"nothing":                 {none, `null null`, ``, ``, "- - - - false false"},
		"config.json":             {none, `256 257`, ``, ``, "256 257 - - false false"},
		"the template":            {processor, `null null`, ``, ``, "256 - - - true false"},
		"the template's is it":    {processor, `65 257`, `{"bos_token": "A"}`, ``, "256 257 - - true false"},
		"tokenizer_config.json":   {none, `null null`, `{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": true}`, ``, "256 257 - - true false"},
		"add_bos_token: false":    {processor, `65 66`, `{"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": false}`, ``, "256 257 66 - false false"},
		"null, as Qwen":           {none, `65 66`, `{"bos_token": null, "eos_token": "</s>", "add_bos_token": false}`, `{"eos_token_id": [257, 66]}`, "65 257 66 - false false"},
		"a class":                 {none, `null 66`, `{"tokenizer_class": "LlamaTokenizer"}`, ``, "256 66 - - true false"},
		"generation_config.json":  {none, `null null`, ``, `{"bos_token_id": 65, "eos_token_id": [66, 257, 67, 68]}`, "65 66 257 67 false false"},
		"generation before":       {none, `65 68`, `{"eos_token": "no such"}`, `{"eos_token_id": 66}`, "65 66 - - false false"},
		"add_eos_token":           {none, `null null`, `{"eos_token": "</s>", "add_eos_token": true}`, `{"eos_token_id": 66}`, "- 257 66 - false true"},
		"an end that is no EOS":   {strings.Replace(processor, `{"Sequence":{"id":"A"}}`, `{"Sequence":{"id":"A"}},{"SpecialToken":{"id":"<s>"}}`, 1), `null 257`, ``, ``, "after a text"},
		"two before a text":       {strings.Replace(processor, `"ids":[256]`, `"ids":[256,257]`, 1), `null null`, ``, ``, "before a text"},
		"a token beyond the rows": {none, `null null`, ``, `{"eos_token_id": 999}`, "eos_token_id: 999"},
		"add what is not there":   {none, `null null`, `{"bos_token": "no such", "add_bos_token": true}`, ``, "no such"},
	} {
		t.Run(name, func(t *testing.T) {
			tokenizer["post_processor"] = json.RawMessage(c.processor)
			tok, err := json.Marshal(tokenizer)
			if err != nil {
				t.Fatal(err)
			}
			cfg := hf.Config{HiddenSize: 4, IntermediateSize: 4, NumHiddenLayers: 1, NumAttentionHeads: 1, NumKeyValueHeads: 1, HeadDim: 4,
				VocabSize: 258, MaxPositionEmbeddings: 8, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true}
			dir := filepath.Join(t.TempDir(), "model")
			if err := writeTrained(dir, cfg, tok, llama.Genesis(cfg, 1)); err != nil {
				t.Fatal(err)
			}
			m, err := localModel(dir)
			if err != nil {
				t.Fatal(err)
			}
			bos, eos, _ := strings.Cut(c.config, " ")
			s := strings.NewReplacer(`"bos_token_id": null`, `"bos_token_id": `+bos, `"eos_token_id": null`, `"eos_token_id": `+eos).Replace(string(m.files["config.json"]))
			m.files["config.json"] = []byte(s)
			for file, s := range map[string]string{tokenizerConfigFile: c.tokens, generationFile: c.generation} {
				if m.files[file] = []byte(s); s == "" {
					m.files[file] = nil
				}
			}
			file := filepath.Join(t.TempDir(), "m.gguf")
			a := &app{out: io.Discard, err: io.Discard}
			if err := a.convert(t.Context(), m, file, hf.GGUFOptions{}); err != nil {
				if !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				return
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, k := range []string{"bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id"} {
				k = "tokenizer.ggml." + k
				at := bytes.Index(b, []byte(k))
				if at < 0 {
					got = append(got, "-")
					continue
				}
				got = append(got, fmt.Sprint(binary.LittleEndian.Uint32(b[at+len(k)+4:])))
			}
			for _, k := range []string{"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"} {
				got = append(got, fmt.Sprint(b[bytes.Index(b, []byte(k))+len(k)+4] == 1))
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%s, want %s", s, c.want)
			}
		})
	}
}

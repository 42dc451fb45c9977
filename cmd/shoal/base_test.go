package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// shardedBF16 are the weights of a model of cfg as a publisher has them: in bfloat16, in
// n files with an index. flat are their values.
func shardedBF16(t testing.TB, cfg hf.Config, n int) (files map[string][]byte, flat []float32) {
	t.Helper()
	flat = llama.Genesis(cfg, 7)
	for i := range flat {
		flat[i] = math.Float32frombits(math.Float32bits(flat[i]+float32(i%5)/64) &^ 0xffff)
	}
	type entry struct {
		Dtype   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	files, where := map[string][]byte{}, map[string]string{}
	heads, bodies := make([]map[string]entry, n), make([][]byte, n)
	at := 0
	for i, x := range cfg.Tensors() {
		k := i % n
		if heads[k] == nil {
			heads[k] = map[string]entry{}
		}
		from := len(bodies[k])
		for _, v := range flat[at : at+x.Len()] {
			bodies[k] = binary.LittleEndian.AppendUint16(bodies[k], uint16(math.Float32bits(v)>>16))
		}
		at += x.Len()
		heads[k][x.Name] = entry{"BF16", x.Shape, [2]int{from, len(bodies[k])}}
		where[x.Name] = fmt.Sprintf("model-%d.safetensors", k)
	}
	for k := range n {
		head, err := json.Marshal(heads[k])
		if err != nil {
			t.Fatal(err)
		}
		b := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
		files[fmt.Sprintf("model-%d.safetensors", k)] = slices.Concat(b, head, bodies[k])
	}
	index, err := json.Marshal(map[string]any{"weight_map": where})
	if err != nil {
		t.Fatal(err)
	}
	files[node.ShardIndexFile] = index
	return files, flat
}

// publishers are model directories as Hugging Face has them: fields that transformers
// writes and Shoal has no use for, names of its fifth version, everything in bfloat16.
var publishers = map[string]string{
	"Qwen2": `{"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2","attention_dropout":0.0,"bos_token_id":1,"eos_token_id":2,"hidden_act":"silu",
		"max_window_layers":24,"sliding_window":131072,"use_sliding_window":false,"use_mrope":false,"torch_dtype":"bfloat16","transformers_version":"4.40.1",
		"tie_word_embeddings":true,"rope_theta":1000000.0,"rms_norm_eps":1e-06,` + small,
	"Qwen3": `{"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","attention_bias":false,"head_dim":16,"use_sliding_window":true,"sliding_window":8,"max_window_layers":1,
		"rope_parameters":{"rope_type":"yarn","rope_theta":1000000,"factor":4.0,"original_max_position_embeddings":16},"dtype":"bfloat16",` + small,
	"Llama3": `{"architectures":["LlamaForCausalLM"],"model_type":"llama","eos_token_id":[1,2],"head_dim":8,"mlp_bias":true,"attention_bias":true,"rope_theta":500000.0,
		"rope_scaling":{"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,"original_max_position_embeddings":32,"rope_type":"llama3"},"tie_word_embeddings":true,` + small,
	"LongRoPE": `{"model_type":"llama","rope_scaling":{"type":"longrope","short_factor":[1,1,1,1],"long_factor":[1,2,3,4.5],"original_max_position_embeddings":32},` + small,
}

const small = `"hidden_size":32,"intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":16,"max_position_embeddings":64}`

// What `manifest init --from` makes of each is a manifest that says the same of the model, names
// its weights to the bit and its tokenizer, and whose run writes a config.json that says the same again.
func TestContinueAModel(t *testing.T) {
	tok, err := hf.NewChar("abcdefghijkl")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[wire.CID]string{}
	for name, config := range publishers {
		cfg, err := hf.ParseConfig([]byte(config))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		files, want := shardedBF16(t, cfg, 1+len(name)%3)
		files[node.ConfigFile], files[node.TokenizerFile] = []byte(config), tok.JSON()
		if len(name) == 6 { // one file without an index
			files[node.WeightsFile] = files["model-0.safetensors"]
			delete(files, node.ShardIndexFile)
		}
		dir := t.TempDir()
		for file, b := range files {
			if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		a := &app{dir: t.TempDir(), out: new(bytes.Buffer), err: new(bytes.Buffer)}
		text, err := a.continued(t.Context(), "on", dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		data := wire.SumCID(wire.CodecDagCBOR, []byte("index"))
		m, err := manifest.Parse([]byte(strings.Replace(string(text), `data: ""`, "data: "+data.String(), 1)))
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
			continue
		}
		if got := m.Model.Config.HF(); !reflect.DeepEqual(got, cfg) {
			t.Errorf("%s: the manifest says %+v, config.json %+v", name, got, cfg)
		}
		if other, ok := seen[m.Model.Base]; ok {
			t.Errorf("%s and %s have one base", name, other)
		}
		seen[m.Model.Base] = name
		s, err := a.offline()
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.blocks.GetFile(t.Context(), m.Tokenizer, maxTokenizer)
		if err != nil || !bytes.Equal(b, tok.JSON()) {
			t.Errorf("%s: another tokenizer: %v", name, err)
		}
		run, err := m.CID()
		if err != nil {
			t.Fatal(err)
		}
		model, err := node.NewModel(run, m, b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		first, err := node.MakeGenesis(t.Context(), s.blocks, model, m, newEngine(m, 1), nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		state, err := s.blocks.OpenDir(t.Context(), first.State, model.Limit())
		if err != nil {
			t.Fatal(err)
		}
		if read, _, err := model.ReadFiles(state); err != nil || !slices.Equal(read.Params, want) {
			t.Errorf("%s: the run begins with other weights: %v", name, err)
		}
		if read, err := hf.ParseConfig(sectionBytes(t, state[node.ConfigFile])); err != nil || !reflect.DeepEqual(read, cfg) {
			t.Errorf("%s: the run's config.json says %+v (%v), the publisher's %+v", name, read, err, cfg)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}
}

// What a run could not begin with is refused before anything is stored.
func TestContinueRefuses(t *testing.T) {
	tok, err := hf.NewChar("abcdefghijkl")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := hf.ParseConfig([]byte(publishers["Qwen2"]))
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(files map[string][]byte){
		"use_sliding_window": func(f map[string][]byte) {
			f[node.ConfigFile] = []byte(`{"model_type":"llama","use_sliding_window":true,` + small)
		},
		"model_type": func(f map[string][]byte) { f[node.ConfigFile] = []byte(`{"model_type":"mamba",` + small) },
		"not part": func(f map[string][]byte) {
			f[node.ConfigFile] = []byte(`{"model_type":"llama","tie_word_embeddings":true,` + small)
		},
		"lm_head":           func(f map[string][]byte) { f[node.ConfigFile] = []byte(`{"model_type":"qwen2",` + small) },
		"tokenizer.json":    func(f map[string][]byte) { delete(f, node.TokenizerFile) },
		"vocab_size":        func(f map[string][]byte) { f[node.TokenizerFile] = many(t).JSON() },
		"model-1":           func(f map[string][]byte) { delete(f, "model-1.safetensors") },
		"model.safetensors": func(f map[string][]byte) { delete(f, node.ShardIndexFile) },
	} {
		files, _ := shardedBF16(t, cfg, 2)
		files[node.ConfigFile], files[node.TokenizerFile] = []byte(publishers["Qwen2"]), tok.JSON()
		change(files)
		dir := t.TempDir()
		for file, b := range files {
			if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		a := &app{dir: filepath.Join(t.TempDir(), "data"), out: new(bytes.Buffer), err: new(bytes.Buffer)}
		if _, err := a.continued(context.Background(), "on", dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error about %q", err, want)
		}
		if _, err := os.Stat(a.dir); !os.IsNotExist(err) {
			t.Errorf("%s: something was stored: %v", want, err)
		}
	}
}

// putModel writes a model's directory: one that config describes, with the character tokenizer.
func putModel(t testing.TB, config string, tok *hf.Tokenizer) (dir string) {
	t.Helper()
	cfg, err := hf.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	files, _ := shardedBF16(t, cfg, 2)
	files[node.ConfigFile], files[node.TokenizerFile] = []byte(config), tok.JSON()
	dir = t.TempDir()
	for file, b := range files {
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A manifest that says of the base's model what config.json does not is not published, though
// every tensor has its shape.
func TestPublishRefusesAnotherModel(t *testing.T) {
	tok, err := hf.NewChar("abcdefghijkl")
	if err != nil {
		t.Fatal(err)
	}
	dir, home, file := putModel(t, publishers["Qwen3"], tok), t.TempDir(), filepath.Join(t.TempDir(), "run.yaml")
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("abcdefghijkl", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	yaml, said, code := shoal(t, home, "manifest", "init", "--from", dir)
	if code != 0 {
		t.Fatal(said)
	}
	for _, c := range []struct{ was, is, want string }{
		{"rope_theta: 1e+06", "rope_theta: 10000", "config.json: rope_theta is 1e+06, in the manifest's model.config it is 10000"},
		{"rms_norm_eps: 1e-06", "rms_norm_eps: 1e-05", "rms_norm_eps is 1e-06"},
		{"num_attention_heads: 4", "num_attention_heads: 2", "num_attention_heads is 4"},
		{"factor: 4", "factor: 8", "rope_scaling.factor is 4, in the manifest's model.config it is 8"},
		{"sliding_window: 8", "sliding_window: 9", "sliding_window is 8"},
	} {
		changed := strings.Replace(yaml, c.was, c.is, 1)
		if changed == yaml {
			t.Fatalf("no %q in\n%s", c.was, yaml)
		}
		if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, said, code := shoal(t, home, "data", "prepare", text, "--into", file); code != 0 {
			t.Fatal(said)
		}
		_, said, code := shoal(t, home, "publish", file, "--no-mdns", "--local", "--listen", "/ip4/127.0.0.1/tcp/0")
		if code != 1 || !strings.Contains(said, c.want) || !strings.Contains(said, "next: ") || strings.Contains(said, "published") {
			t.Errorf("%s: exit %d, %s", c.is, code, said)
		}
	}
}

// What a base has for talking to it goes to the model where its tokenizer is the run's, but
// for a stranger's file that is too large.
func TestBeside(t *testing.T) {
	var said bytes.Buffer
	a := &app{dir: t.TempDir(), out: new(bytes.Buffer), err: &said}
	s, err := a.offline()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	tok := many(t).JSON()
	files := map[string][]byte{node.TokenizerFile: tok, chatTemplateFile: []byte("{{ messages }}"), generationFile: make([]byte, maxCompanion+1), "other": nil}
	base, err := s.blocks.PutDir(t.Context(), readers(files))
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Model: manifest.Model{Base: base}}
	got, err := a.beside(t.Context(), s.blocks, m, tok)
	if err != nil || len(got) != 1 || !bytes.Equal(got[chatTemplateFile], files[chatTemplateFile]) || !strings.Contains(said.String(), generationFile) {
		t.Errorf("%v, %v, %s", got, err, said.String())
	}
	if got, err := a.beside(t.Context(), s.blocks, m, []byte("another")); err != nil || len(got) != 0 {
		t.Errorf("another tokenizer's: %v, %v", got, err)
	}
	if got, err := a.beside(t.Context(), s.blocks, &manifest.Manifest{}, tok); err != nil || len(got) != 0 {
		t.Errorf("of no base: %v, %v", got, err)
	}
}

func many(t testing.TB) *hf.Tokenizer {
	t.Helper()
	tok, err := hf.NewChar("abcdefghijklmnopqrstuvwxyz")
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// readers are the files as PutDir takes them.
func readers(files map[string][]byte) map[string]io.Reader {
	out := make(map[string]io.Reader, len(files))
	for name, data := range files {
		out[name] = bytes.NewReader(data)
	}
	return out
}

func sectionBytes(t *testing.T, r *io.SectionReader) []byte {
	t.Helper()
	b := make([]byte, r.Size())
	if _, err := r.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/p2p/wire"
)

// readers are the files as PutDir takes them.
func readers(files map[string][]byte) map[string]io.Reader {
	out := make(map[string]io.Reader, len(files))
	for name, data := range files {
		out[name] = bytes.NewReader(data)
	}
	return out
}

// A base that lacks something, that holds more than a model of its size can, or that is
// another model than the manifest's is bad content: nobody asks another peer for it.
func TestBaseWeightsRefused(t *testing.T) {
	cfg := hf.Config{HiddenSize: 4, IntermediateSize: 6, NumHiddenLayers: 1, NumAttentionHeads: 2, NumKeyValueHeads: 2, HeadDim: 2,
		VocabSize: 3, MaxPositionEmbeddings: 8, RMSNormEps: 1e-5, RopeTheta: 1e4}
	tensors := cfg.Tensors()
	flat := make([]float32, cfg.NumParams())
	for i := range flat {
		flat[i] = float32(i)
	}
	head := tensors[0].Len()
	part := func(x []hf.Tensor, flat []float32) []byte {
		b, err := hf.WriteSafetensors(x, flat)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	config := func(change func(*hf.Config)) []byte {
		c := cfg
		change(&c)
		b, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	where := map[string]string{tensors[0].Name: "1.safetensors"}
	for _, x := range tensors[1:] {
		where[x.Name] = "2.safetensors"
	}
	index, err := json.Marshal(map[string]any{"weight_map": where})
	if err != nil {
		t.Fatal(err)
	}
	good := map[string][]byte{ShardIndexFile: index, "1.safetensors": part(tensors[:1], flat[:head]), "2.safetensors": part(tensors[1:], flat[head:])}
	read := func(files map[string][]byte) ([]float32, error) {
		b := &crate{newShelf(), nil}
		c, err := b.PutDir(t.Context(), readers(files))
		if err != nil {
			t.Fatal(err)
		}
		return BaseWeights(t.Context(), b, c, cfg, nil, nil)
	}
	if got, err := read(good); err != nil || !slices.Equal(got, flat) {
		t.Fatalf("%v, %v", got, err)
	}
	good[ConfigFile] = config(func(c *hf.Config) { c.BOS, c.EOS, c.MaxPositionEmbeddings = new(int), []int{1}, 16 }) // it computes the same
	if got, err := read(good); err != nil || !slices.Equal(got, flat) {
		t.Fatalf("%v, %v", got, err)
	}
	for want, change := range map[string]func(map[string][]byte){
		"holds no model.safetensors": func(f map[string][]byte) { delete(f, ShardIndexFile) },
		"holds no 2.safetensors":     func(f map[string][]byte) { delete(f, "2.safetensors") },
		"index":                      func(f map[string][]byte) { f[ShardIndexFile] = []byte("{}") },
		"1.safetensors":              func(f map[string][]byte) { f["1.safetensors"] = f["1.safetensors"][:20] },
		"shape": func(f map[string][]byte) {
			f["1.safetensors"] = part([]hf.Tensor{{Name: tensors[0].Name, Shape: []int{2}}}, []float32{3, 4})
		},
		"limit": func(f map[string][]byte) { f["much"] = make([]byte, BaseLimit(tensors)) },
		"config.json: rope_theta is 500000, in the manifest's model.config it is 10000": func(f map[string][]byte) {
			f[ConfigFile] = config(func(c *hf.Config) { c.RopeTheta = 5e5 })
		},
		"config.json: rms_norm_eps is 1e-06, in the manifest's model.config it is 1e-05": func(f map[string][]byte) {
			f[ConfigFile] = config(func(c *hf.Config) { c.RMSNormEps = 1e-6 })
		},
		"config.json: num_attention_heads is 1, in the manifest's model.config it is 2": func(f map[string][]byte) {
			f[ConfigFile] = config(func(c *hf.Config) { c.NumAttentionHeads, c.NumKeyValueHeads, c.HeadDim = 1, 1, 4 })
		},
		"config.json: rope_scaling is linear, in the manifest's model.config it is none": func(f map[string][]byte) {
			f[ConfigFile] = config(func(c *hf.Config) { c.RopeScaling = &hf.RopeScaling{Kind: hf.RopeLinear, Factor: 2} })
		},
		"config.json: model_type": func(f map[string][]byte) { f[ConfigFile] = []byte(`{"model_type": "mamba"}`) },
	} {
		files := maps.Clone(good)
		change(files)
		if _, err := read(files); !errors.Is(err, ErrBadContent) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want bad content about %q", err, want)
		}
	}
}

// fetching counts what is fetched.
type fetching struct {
	*crate
	dirs int
}

func (f *fetching) FetchDir(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64, progress func(done, total int64)) error {
	f.dirs++
	return f.crate.FetchDir(ctx, c, from, limit, progress)
}

// A base whose config.json says that it is another model costs nobody its weights.
func TestBaseRefusedBeforeItIsFetched(t *testing.T) {
	cfg := hf.Config{HiddenSize: 4, IntermediateSize: 6, NumHiddenLayers: 1, NumAttentionHeads: 2, NumKeyValueHeads: 2, HeadDim: 2,
		VocabSize: 3, MaxPositionEmbeddings: 8, RMSNormEps: 1e-5, RopeTheta: 1e4}
	weights, err := hf.WriteSafetensors(cfg.Tensors(), make([]float32, cfg.NumParams()))
	if err != nil {
		t.Fatal(err)
	}
	other := cfg
	other.RopeTheta = 5e5
	for _, of := range []hf.Config{cfg, other} {
		config, err := of.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		b := &fetching{crate: &crate{newShelf(), nil}}
		c, err := b.PutDir(t.Context(), readers(map[string][]byte{ConfigFile: config, WeightsFile: weights}))
		if err != nil {
			t.Fatal(err)
		}
		_, err = BaseWeights(t.Context(), b, c, cfg, nil, nil)
		if good := of.RopeTheta == cfg.RopeTheta; (err == nil) != good || (b.dirs == 1) != good || !good && !errors.Is(err, ErrBadContent) {
			t.Errorf("rope_theta %g: %v after %d fetches", of.RopeTheta, err, b.dirs)
		}
	}
}

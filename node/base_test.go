package node

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
)

// A base that lacks something, or that holds more than a model of its size can, is
// bad content: nobody asks another peer for it.
func TestBaseWeightsRefused(t *testing.T) {
	tensors := []hf.Tensor{{Name: "a", Shape: []int{2}}, {Name: "b", Shape: []int{3}}}
	part := func(x hf.Tensor, flat ...float32) []byte {
		b, err := hf.WriteSafetensors([]hf.Tensor{x}, flat)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	index, err := json.Marshal(map[string]any{"weight_map": map[string]string{"a": "1.safetensors", "b": "2.safetensors"}})
	if err != nil {
		t.Fatal(err)
	}
	good := map[string][]byte{ShardIndexFile: index, "1.safetensors": part(tensors[0], 1, 2), "2.safetensors": part(tensors[1], 3, 4, 5)}
	read := func(files map[string][]byte) ([]float32, error) {
		b := &crate{newShelf(), nil}
		c, err := b.PutDir(t.Context(), files)
		if err != nil {
			t.Fatal(err)
		}
		return BaseWeights(t.Context(), b, c, tensors, nil)
	}
	if got, err := read(good); err != nil || len(got) != 5 || got[4] != 5 {
		t.Fatalf("%v, %v", got, err)
	}
	for want, change := range map[string]func(map[string][]byte){
		"holds no model.safetensors": func(f map[string][]byte) { delete(f, ShardIndexFile) },
		"holds no 2.safetensors":     func(f map[string][]byte) { delete(f, "2.safetensors") },
		"index":                      func(f map[string][]byte) { f[ShardIndexFile] = []byte("{}") },
		"1.safetensors":              func(f map[string][]byte) { f["1.safetensors"] = f["1.safetensors"][:20] },
		"shape":                      func(f map[string][]byte) { f["2.safetensors"] = part(hf.Tensor{Name: "b", Shape: []int{2}}, 3, 4) },
		"limit":                      func(f map[string][]byte) { f["much"] = make([]byte, BaseLimit(tensors)) },
	} {
		files := maps.Clone(good)
		change(files)
		if _, err := read(files); !errors.Is(err, ErrBadContent) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want bad content about %q", err, want)
		}
	}
}

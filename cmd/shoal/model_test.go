package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/node"
)

// bigModel writes a model of some 8 million parameters.
func bigModel(t testing.TB) (dir string, cfg hf.Config, params []float32) {
	t.Helper()
	tok, err := hf.NewChar("abc")
	if err != nil {
		t.Fatal(err)
	}
	cfg = hf.Config{HiddenSize: 512, IntermediateSize: 1536, NumHiddenLayers: 2, NumAttentionHeads: 8, VocabSize: 4096,
		MaxPositionEmbeddings: 16, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true}
	params = llama.Genesis(cfg, 1)
	dir = filepath.Join(t.TempDir(), "model")
	if err := writeTrained(dir, cfg, tok.JSON(), params, nil); err != nil {
		t.Fatal(err)
	}
	return dir, cfg, params
}

// Weights on disk are in memory once: nothing but the result is allocated.
func TestParamsAreMapped(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED, NOT TESTED: what loading allocates, which is known on Linux only")
	}
	path, cfg, want := bigModel(t)
	dir, err := localModel(path)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := dir.params(cfg)
	runtime.ReadMemStats(&after)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("other weights: %v", err)
	}
	flat := uint64(4 * len(want))
	if n := after.TotalAlloc - before.TotalAlloc; n > flat+flat/16 {
		t.Errorf("%d bytes were allocated for %d of weights", n, flat)
	}
	if b, err := os.ReadFile("/proc/self/maps"); err != nil || bytes.Contains(b, []byte(node.WeightsFile)) {
		t.Errorf("the file is still mapped: %v", err)
	}
}

// A file that becomes shorter while it is mapped is an error, not the end of the
// process.
func TestTruncatedWhileMapped(t *testing.T) {
	path, cfg, _ := bigModel(t)
	name := filepath.Join(path, node.WeightsFile)
	x, err := mapFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := x.close(); err != nil {
			t.Error(err)
		}
	}()
	st, err := hf.ReadSafetensors(x.data)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 1<<20); err != nil {
		t.Fatal(err)
	}
	var adv advice
	if err := faults(func() error { _, err := st.Flat(cfg.Tensors()); return err }); !errors.As(err, &adv) || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("truncated: %v", err)
	}
	// Nothing else is swallowed.
	defer func() {
		if r := recover(); r != "a bug" {
			t.Errorf("recovered %v", r)
		}
	}()
	if err := faults(func() error { panic("a bug") }); err != nil {
		t.Error(err)
	}
}

func TestModelFilesRefused(t *testing.T) {
	for what, change := range map[string]func(name string) error{
		"missing":     os.Remove,
		"empty":       func(n string) error { return os.Truncate(n, 0) },
		"cut short":   func(n string) error { return os.Truncate(n, 1<<20) },
		"longer":      func(n string) error { return os.Truncate(n, 1<<28) },
		"a directory": func(n string) error { return errors.Join(os.Remove(n), os.Mkdir(n, 0o700)) },
	} {
		path, cfg, _ := bigModel(t)
		if err := change(filepath.Join(path, node.WeightsFile)); err != nil {
			t.Fatal(err)
		}
		dir, err := localModel(path)
		if err == nil {
			_, err = dir.params(cfg)
		}
		if err == nil || !strings.Contains(err.Error(), node.WeightsFile) && !strings.Contains(err.Error(), "bytes") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A model that is larger than the memory is refused: it would end the process.
func TestModelWithoutRoom(t *testing.T) {
	cfg := hf.Config{HiddenSize: 1 << 16, IntermediateSize: 8, NumHiddenLayers: 1, NumAttentionHeads: 1024, HeadDim: 2, VocabSize: 1 << 20, TieWordEmbeddings: true}
	for free, want := range map[int64]bool{0: true, 1 << 30: false, 4*cfg.NumParams() - 1: false, 4 * cfg.NumParams(): true} {
		if err := room(cfg, free); (err == nil) != want {
			t.Errorf("with %d bytes free: %v", free, err)
		}
	}
}

func BenchmarkParams(b *testing.B) {
	path, cfg, params := bigModel(b)
	dir, err := localModel(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(4 * len(params)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := dir.params(cfg); err != nil {
			b.Fatal(err)
		}
	}
}

package main

import (
	"errors"
	"io"
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
	if err := writeTrained(dir, cfg, tok.JSON(), params); err != nil {
		t.Fatal(err)
	}
	return dir, cfg, params
}

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Weights on disk are in memory once, as float32 or packed: what is allocated to read, check, convert
// and store them hardly exceeds what stays.
func TestWeightsAreInMemoryOnce(t *testing.T) {
	path, cfg, want := bigModel(t)
	flat := uint64(4 * len(want))
	dir, err := localModel(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.close()
	a := &app{dir: t.TempDir(), out: io.Discard, err: io.Discard}
	for what, c := range map[string]struct {
		f    func() error
		most uint64
	}{
		"flat": {func() error {
			got, err := dir.params(cfg)
			if err == nil && !slices.Equal(got, want) {
				err = errors.New("other weights")
			}
			return err
		}, flat + flat/8},
		"loaded": {func() error {
			o := &opened{cfg: cfg}
			if err := a.load(t.Context(), o, dir, loading{threads: 1}); err != nil {
				return err
			}
			return o.close()
		}, flat + flat/2}, // 4 MiB of it is what is read at a time
		"loaded in bfloat16": {func() error {
			o := &opened{cfg: cfg}
			if err := a.load(t.Context(), o, dir, loading{threads: 1, bf16: true}); err != nil {
				return err
			}
			return o.close()
		}, flat/2 + flat/2},
		"checked": {func() error { return a.checkWeights(t.Context(), dir, cfg) }, flat / 4},
		"converted": {func() error {
			return a.convert(t.Context(), dir, filepath.Join(t.TempDir(), "x.gguf"), hf.GGUFOptions{})
		}, flat / 2},
	} {
		n := allocated(func() {
			if err := c.f(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
		if n > c.most {
			t.Errorf("%s: %d bytes were allocated for %d of weights", what, n, flat)
		}
	}
}

// A file that becomes shorter while it is read is an error that says so.
func TestTruncatedWhileRead(t *testing.T) {
	path, cfg, _ := bigModel(t)
	dir, err := localModel(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.close()
	w, err := dir.weights(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(path, node.WeightsFile), 1<<20); err != nil {
		t.Fatal(err)
	}
	var adv advice
	_, err = w.Flat()
	if err := unreadable(err); !errors.As(err, &adv) || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("truncated: %v", err)
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
	n := 4 * cfg.NumParams()
	for _, c := range []struct {
		others, free int64
		want         string // of the advice; empty is none
	}{
		{0, 0, ""}, {0, n, ""}, {10, n + 10, ""},
		{0, 1 << 30, "a smaller model"}, {0, n - 1, "--bf16"}, {10, n + 9, "--bf16"},
	} {
		err := room(cfg, n, "float32", c.others, c.free)
		var adv advice
		if ok := errors.As(err, &adv); ok != (c.want != "") || ok && !strings.Contains(adv.next, c.want) {
			t.Errorf("with %d bytes free: %v, want %q", c.free, err, c.want)
		}
	}
	if err := diskFits("x", "/", 11, 10); err == nil || !strings.Contains(err.Error(), "disk") || diskFits("x", "/", 10, 10) != nil || diskFits("x", "/", 10, 0) != nil {
		t.Errorf("a full disk: %v", err)
	}
	if free := freeDisk(filepath.Join(t.TempDir(), "not", "there")); free < 1 {
		t.Errorf("%d bytes of disk are free", free)
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

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
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

//go:build unix

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A pipe in a model's directory does not hold anybody up.
func TestPipeAsWeights(t *testing.T) {
	path, cfg, _ := bigModel(t)
	name := filepath.Join(path, "model.safetensors")
	if err := errors.Join(os.Remove(name), unix.Mkfifo(name, 0o600)); err != nil {
		t.Fatal(err)
	}
	dir, err := localModel(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.weights(cfg); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a pipe: %v", err)
	}
}

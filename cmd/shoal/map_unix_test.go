//go:build unix

package main

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A pipe in a model's directory does not hold anybody up.
func TestMapPipe(t *testing.T) {
	name := filepath.Join(t.TempDir(), "model.safetensors")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := mapFile(name); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a pipe: %v", err)
	}
}

//go:build !unix

package main

import (
	"fmt"
	"io"
	"os"
)

func mapBytes(f *os.File, n int) (*mapping, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return &mapping{b, func() error { return nil }}, nil
}

package control

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func serve(t *testing.T, dir string, h Handler) context.CancelFunc {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, dir, h.Mux()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	c := Dial(dir)
	for deadline := time.Now().Add(5 * time.Second); ; {
		var v any
		err := c.Get(t.Context(), "/status", &v)
		if err == nil {
			return cancel
		}
		if !errors.Is(err, ErrNotRunning) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestAsk(t *testing.T) {
	// Longer than a sockaddr_un holds.
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	left := make(chan struct{}, 1)
	serve(t, dir, Handler{
		Status: func() any { return map[string]int{"round": 7} },
		Leave:  func() { left <- struct{}{} },
	})
	c := Dial(dir)
	var st struct{ Round int }
	if err := c.Get(t.Context(), "/status", &st); err != nil || st.Round != 7 {
		t.Errorf("status %+v, %v", st, err)
	}
	if err := c.Get(t.Context(), "/runs", &st); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("no runs are served, got %v", err)
	}
	if err := c.Leave(t.Context()); err != nil {
		t.Error(err)
	}
	<-left
	fi, err := os.Stat(filepath.Join(dir, Socket))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", fi, err)
	}
}

func TestNobodyHome(t *testing.T) {
	dir := t.TempDir()
	var v any
	if err := Dial(dir).Get(t.Context(), "/status", &v); !errors.Is(err, ErrNotRunning) {
		t.Errorf("empty directory: %v", err)
	}
	cancel := serve(t, dir, Handler{Status: func() any { return 1 }})
	cancel()
	for deadline := time.Now().Add(5 * time.Second); ; {
		err := Dial(dir).Get(t.Context(), "/status", &v)
		if errors.Is(err, ErrNotRunning) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the node ended: %v", err)
		}
	}
}

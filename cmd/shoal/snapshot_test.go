package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/testnet"
)

// A training that ends after each round and goes on from its snapshot comes to the
// bits of one that does not; a snapshot that is not its own is refused.
func TestTrainingGoesOnFromSnapshot(t *testing.T) {
	dir := t.TempDir()
	yaml := tinyRun(t, dir, "3")
	conf, err := os.ReadFile(yaml)
	if err != nil {
		t.Fatal(err)
	}
	m, id, err := readManifest(yaml)
	if err != nil {
		t.Fatal(err)
	}
	a := &app{dir: dir, err: os.Stderr}
	s, err := a.offline()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	state := filepath.Join(dir, "run.state")
	var first float64 // seconds that the first round took
	train := func(ctx context.Context, snapshot string, bf16 bool, see func(testnet.Point)) ([]float32, []testnet.Point, error) {
		var points []testnet.Point
		b := baseline{m: m, run: id, peers: []int{1}, windows: 4, blocks: s.blocks, snapshot: snapshot, bf16: bf16}
		w, err := b.train(ctx, 1, func(p testnet.Point) {
			if len(points) == 0 {
				first = p.Seconds
			}
			p.Seconds = 0
			points = append(points, p)
			see(p)
		})
		return w, points, err
	}
	none := func(testnet.Point) {}
	want, points, err := train(t.Context(), "", false, none)
	if err != nil || len(points) != 3 {
		t.Fatalf("%v, %v", points, err)
	}
	var took float64
	for last := uint64(3); last < 9; last += 3 {
		ctx, cancel := context.WithCancel(t.Context())
		_, _, err := train(ctx, state, false, func(p testnet.Point) {
			if p.Step == last {
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted after step %d: %v", last, err)
		}
		if last == 3 {
			took = first
		} else if first != took {
			t.Errorf("the first round was trained again")
		}
	}
	for range 2 { // the second finds that all is done
		got, p, err := train(t.Context(), state, false, none)
		if err != nil || !slices.Equal(got, want) || !slices.Equal(p, points) {
			t.Errorf("gone on from a snapshot: other weights, or %v, want %v (%v)", p, points, err)
		}
	}
	got, p, err := train(t.Context(), "", true, none)
	if err != nil || slices.Equal(got, want) || p[2].TrainLoss-points[2].TrainLoss > 0.05 || points[2].TrainLoss-p[2].TrainLoss > 0.05 {
		t.Errorf("in bfloat16: %v, want nearly %v, and not the same (%v)", p, points, err)
	}
	if _, _, err := train(t.Context(), filepath.Join(dir, "no", "such"), false, none); err == nil || !strings.Contains(err.Error(), "--snapshot") {
		t.Errorf("a snapshot that cannot be written: %v", err)
	}
	wild := *m
	wild.Inner.LR, wild.Inner.Clip = 1e30, 0
	b := baseline{m: &wild, run: id, peers: []int{1}, windows: 4, blocks: s.blocks}
	if _, err := b.train(t.Context(), 1, none); err == nil || !strings.Contains(err.Error(), "not finite") {
		t.Errorf("a training that bursts: %v", err)
	}
	good, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(good)-100] ^= 1
	for name, b := range map[string][]byte{"empty": nil, "cut": good[:len(good)-1], "more": append(bytes.Clone(good), 0), "flipped": flipped,
		"text": conf, "another run": bytes.Replace(good, []byte(id.String()), []byte("bafy"), 1),
		"beyond": bytes.Replace(good, []byte(`"round":3`), []byte(`"round":4`), 1), "head only": good[:bytes.IndexByte(good, '\n')+1]} {
		if err := os.WriteFile(state, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := train(t.Context(), state, false, none); err == nil || !strings.Contains(err.Error(), "run.state") {
			t.Errorf("%s: %v", name, err)
		}
		if now, err := os.ReadFile(state); err != nil || !bytes.Equal(now, b) {
			t.Errorf("%s: a snapshot that was refused was overwritten (%v)", name, err)
		}
	}
}

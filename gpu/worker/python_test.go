package worker

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestPython speaks to a worker that was written in another language, with
// bodies of several frames.
func TestPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: no python3, the worker in Python was not tested")
	}
	c, err := Spawn(t.Context(), []string{python, "testdata/worker.py"}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config()
	cfg.VocabSize = 100_000 // 400,000 parameters, two frames
	params := make([]float32, cfg.NumParams())
	for i := range params {
		params[i] = float32(i) / 3
	}
	sep := int32(7)
	if _, err := c.Train(cfg, Optimizer{Beta1: 0.9}, &sep, params); err == nil || !strings.Contains(err.Error(), "documents apart") {
		t.Errorf("a separator: %v", err)
	}
	tr, err := c.Train(cfg, Optimizer{Beta1: 0.9}, nil, params)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}()
	own := &toy{w: slices.Clone(params)}
	batch := [][]int32{{1, 2, 3}, {4, 5, 6}}
	const lr = 0.1
	want, _ := own.Step(batch, lr)
	if got, err := tr.Step(batch, lr); err != nil || got != want {
		t.Errorf("step: %v, %v, want %v", got, err, want)
	}
	rows, width := tr.Hidden()
	if wantRows, wantWidth := own.Hidden(); width != wantWidth || !slices.Equal(rows, wantRows) {
		t.Errorf("hidden: %d values of width %d", len(rows), width)
	}
	if !slices.Equal(tr.Params(), own.w) {
		t.Error("other weights")
	}
	var saved bytes.Buffer
	if err := tr.Save(&saved); err != nil || saved.Len() != 4*len(params) {
		t.Errorf("save: %d bytes, %v", saved.Len(), err)
	}
	if err := tr.SetParams(params); err != nil || !slices.Equal(tr.Params(), params) {
		t.Errorf("set: %v", err)
	}
	if err := tr.Load(&saved); err != nil || !slices.Equal(tr.Params(), own.w) {
		t.Errorf("load: %v", err)
	}
	if err := tr.SetParams(params[1:]); err == nil || !strings.Contains(err.Error(), "values") {
		t.Errorf("too few weights: %v", err)
	}
	if _, err := c.ask(&head{Op: "frobnicate"}, nil, nil); err == nil || !strings.Contains(err.Error(), "unknown op") {
		t.Errorf("an unknown op: %v", err)
	}
}

// The worker in Python writes texts, too.
func TestPythonTexts(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: no python3, the worker in Python was not tested")
	}
	c, err := Spawn(t.Context(), []string{python, "testdata/worker.py"}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	x := write(t, c)
	var got []Token
	take := func(k Token) bool { got = append(got, k); return true }
	if err := x.Generate(t.Context(), []int32{0, 1}, Sampling{MaxTokens: 5, Stop: []int32{0}, LogProbs: true}, nil, take); err != nil ||
		!slices.Equal(got, []Token{{2, -2}, {3, -3}, {4, -4}}) {
		t.Errorf("%v, %v", got, err)
	}
	if err := x.Generate(t.Context(), []int32{1}, Sampling{MaxTokens: 5}, nil, func(Token) bool { return false }); err != nil {
		t.Error(err)
	}
	got = nil
	if err := x.Generate(t.Context(), []int32{3}, Sampling{MaxTokens: 2}, nil, take); err != nil || !slices.Equal(got, []Token{{ID: 4}, {ID: 0}}) {
		t.Errorf("%v, %v", got, err)
	}
}

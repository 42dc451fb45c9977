package main

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/gpu/worker"
	"github.com/shoalnet/shoal/node"
)

func engineConfig() hf.Config {
	return hf.Config{HiddenSize: 16, IntermediateSize: 24, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2, HeadDim: 4,
		VocabSize: 11, MaxPositionEmbeddings: 16, RMSNormEps: 1e-5, RopeTheta: 10000, Family: hf.Qwen3,
		RopeScaling: &hf.RopeScaling{Kind: hf.RopeLinear, Factor: 2}}
}

func testEngine(spawn func() (*worker.Client, error)) engine {
	return engine{cfg: engineConfig(), seed: 5, opts: llama.DefaultOptions(), threads: 1}.within(spawn)
}

func tokens(rng *rand.Rand, rows, cols int) [][]int32 {
	out := make([][]int32, rows)
	for i := range out {
		out[i] = make([]int32, cols)
		for j := range out[i] {
			out[i][j] = rng.Int32N(11)
		}
	}
	return out
}

// spawnSelf starts this test as "shoal worker".
func spawnSelf(t *testing.T) func() (*worker.Client, error) {
	t.Helper()
	exe, err := exec.LookPath("shoal") // testscript.Main puts it there
	if err != nil {
		t.Fatal(err)
	}
	return func() (*worker.Client, error) {
		return worker.Spawn(t.Context(), []string{exe, "worker", "--threads", "1"}, os.Stderr)
	}
}

// TestEngines is what node asks of an engine, wherever it runs: in this
// process, in a child's, and behind a socket. All must come to the same bits.
func TestEngines(t *testing.T) {
	self := spawnSelf(t)
	socket := filepath.Join(t.TempDir(), "w.sock")
	exe, err := exec.LookPath("shoal")
	if err != nil {
		t.Fatal(err)
	}
	served := exec.Command(exe, "worker", "--socket", socket, "--threads", "2")
	said, err := served.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := served.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := said.Read(make([]byte, 9)); err != nil { // "listening"
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(served.Process.Signal(os.Interrupt), served.Wait()); err != nil {
			t.Errorf("the worker on a socket: %v", err)
		}
	}()

	type result struct {
		weights []float32
		losses  []float64
	}
	var wants [2]result // of sequences that are one text, and of packed ones
	for _, c := range []struct {
		name  string
		spawn func() (*worker.Client, error)
	}{{"in process", nil}, {"worker", self}, {"worker that computes activations again", func() (*worker.Client, error) {
		return worker.Spawn(t.Context(), []string{exe, "worker", "--threads", "2", "--checkpoint"}, os.Stderr)
	}}, {"socket", func() (*worker.Client, error) { return worker.Dial(t.Context(), socket) }}} {
		t.Run(c.name, func(t *testing.T) {
			for i := range wants {
				e := testEngine(c.spawn)
				e.opts.Pack, e.opts.Separator = i == 1, 3
				got, l := conform(t, e)
				want := &wants[i]
				if want.weights == nil {
					*want = result{got, l}
				}
				if !slices.Equal(got, want.weights) || !slices.Equal(l, want.losses) {
					t.Errorf("packed %t: other weights or losses (%v, want %v)", i == 1, l, want.losses)
				}
			}
		})
	}
	if slices.Equal(wants[0].losses, wants[1].losses) {
		t.Errorf("the losses are those of sequences that are not packed: %v", wants[1].losses)
	}
}

// conform holds one engine to node.Engine and node.Trainer.
func conform(t *testing.T, e node.Engine) (weights []float32, losses []float64) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	genesis, err := e.Genesis()
	must(err)
	open := func() node.Trainer {
		tr, err := e.NewTrainer(genesis)
		must(err)
		t.Cleanup(func() { must(tr.Close()) })
		return tr
	}
	tr := open()
	if !slices.Equal(tr.Params(), genesis) {
		t.Fatal("a new trainer has other weights than it was given")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	batches := make([][][]int32, 6)
	for i := range batches {
		batches[i] = tokens(rng, 1+i%3, 2+i)
	}
	var saved bytes.Buffer
	for i, b := range batches {
		before, err := tr.Eval(b)
		must(err)
		loss, err := tr.Step(b, 0.01)
		must(err)
		if loss != before || !(loss > 0) {
			t.Errorf("step %d: loss %v, evaluated to %v", i, loss, before)
		}
		losses = append(losses, loss)
		if i == 2 {
			must(tr.Save(&saved))
		}
	}
	weights = slices.Clone(tr.Params())

	// What is refused changes nothing, and the trainer goes on.
	for name, try := range map[string]func() error{
		"a ragged batch": func() error { _, err := tr.Step([][]int32{{1, 2}, {1}}, 0.01); return err },
		"no batch":       func() error { _, err := tr.Step(nil, 0.01); return err },
		"a wrong token":  func() error { _, err := tr.Step([][]int32{{1, 11}}, 0.01); return err },
		"a wrong rate":   func() error { _, err := tr.Step(batches[0], math.NaN()); return err },
		"a long batch":   func() error { _, err := tr.Eval(tokens(rng, 1, 40)); return err },
		"few weights":    func() error { return tr.SetParams(genesis[1:]) },
		"many weights":   func() error { return tr.SetParams(append(slices.Clone(genesis), 0)) },
		"no state":       func() error { return tr.Load(bytes.NewReader(nil)) },
		"half a state":   func() error { return tr.Load(bytes.NewReader(saved.Bytes()[:saved.Len()/2])) },
		"a reader that fails": func() error {
			return tr.Load(readFails{bytes.NewReader(saved.Bytes()[:100])})
		},
		"a writer that fails": func() error { return tr.Save(writeFails{}) },
	} {
		if err := try(); err == nil || errors.Is(err, node.ErrEngineLost) {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Equal(tr.Params(), weights) {
			t.Fatalf("%s changed the weights", name)
		}
	}

	// Load goes on where Save was, in another trainer too.
	again := open()
	must(again.Load(bytes.NewReader(saved.Bytes())))
	for i, b := range batches[3:] {
		loss, err := again.Step(b, 0.01)
		must(err)
		if loss != losses[3+i] {
			t.Errorf("after Load, step %d: %v, want %v", 3+i, loss, losses[3+i])
		}
	}
	if !slices.Equal(again.Params(), weights) {
		t.Error("after Load, other weights")
	}

	// SetParams keeps the moments: the same step from the same weights leads
	// elsewhere than a fresh trainer's.
	fresh := open()
	must(again.SetParams(genesis))
	for _, tr := range []node.Trainer{again, fresh} {
		_, err := tr.Step(batches[0], 0.01)
		must(err)
	}
	if slices.Equal(again.Params(), fresh.Params()) {
		t.Error("SetParams forgot the moments")
	}
	weights = append(weights, again.Params()...)

	// Weights that are out of hand make a loss that is not a number, not an error.
	wild := slices.Clone(genesis)
	for i := range wild {
		wild[i] *= 1e30
	}
	must(fresh.SetParams(wild))
	if loss, err := fresh.Step(batches[1], 0.01); err != nil || !math.IsNaN(loss) {
		t.Errorf("out of hand: loss %v, %v", loss, err)
	}
	return weights, losses
}

type readFails struct{ r *bytes.Reader }

func (r readFails) Read(p []byte) (int, error) {
	if r.r.Len() == 0 {
		return 0, errors.New("the disk is broken")
	}
	return r.r.Read(p)
}

type writeFails struct{}

func (writeFails) Write([]byte) (int, error) { return 0, errors.New("the disk is full") }

// TestWorkerKilled kills a worker with SIGKILL: the next call says that the
// engine is lost, and a new trainer goes on from what was saved.
func TestWorkerKilled(t *testing.T) {
	e := testEngine(spawnSelf(t))
	genesis, err := e.Genesis()
	if err != nil {
		t.Fatal(err)
	}
	var c *worker.Client
	spawn := e.spawn
	e.spawn = func() (_ *worker.Client, err error) { c, err = spawn(); return c, err }
	tr, err := e.NewTrainer(genesis)
	if err != nil {
		t.Fatal(err)
	}
	batch := tokens(rand.New(rand.NewPCG(1, 2)), 2, 9)
	var saved bytes.Buffer
	if _, err := tr.Step(batch, 0.01); err != nil {
		t.Fatal(err)
	}
	if err := tr.Save(&saved); err != nil {
		t.Fatal(err)
	}
	want, err := tr.Step(batch, 0.01)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Step(batch, 0.01); !errors.Is(err, node.ErrEngineLost) {
		t.Errorf("a step of a killed worker: %v", err)
	}
	if p := tr.Params(); p != nil {
		t.Error("a killed worker has weights")
	}
	if err := tr.Load(bytes.NewReader(saved.Bytes())); !errors.Is(err, node.ErrEngineLost) {
		t.Errorf("a load of a killed worker: %v", err)
	}
	if err := tr.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if tr, err = e.NewTrainer(genesis); err != nil {
		t.Fatal(err)
	}
	if err := tr.Load(&saved); err != nil {
		t.Fatal(err)
	}
	if loss, err := tr.Step(batch, 0.01); err != nil || loss != want {
		t.Errorf("after a restart: %v, %v, want %v", loss, err, want)
	}
	if err := tr.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

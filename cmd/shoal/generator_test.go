package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/gpu/worker"
)

// spelled is what a generator writes after a prompt.
func spelled(t *testing.T, g generator, prompt []int32, o llama.GenerateOptions) (out []llama.Token) {
	t.Helper()
	if err := g.Generate(t.Context(), prompt, o, func(x llama.Token) bool { out = append(out, x); return true }); err != nil {
		t.Error(err)
	}
	return out
}

// A model writes the same in this process and in a worker, alone and among others,
// and however often the worker is killed.
func TestGenerators(t *testing.T) {
	cfg := engineConfig()
	params := llama.Genesis(cfg, 3)
	dev, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	m, err := llama.New(dev, cfg, params)
	if err != nil {
		t.Fatal(err)
	}
	spawn, spawned := spawnSelf(t), []*worker.Client(nil)
	r := &remoteModel{cfg: cfg, params: given(params), batch: worker.Batch{Streams: 2, Positions: 64}, spawn: func() (*worker.Client, error) {
		c, err := spawn()
		spawned = append(spawned, c) // under r's lock
		return c, err
	}}
	defer func() {
		if err := errors.Join(r.Close(), dev.Close()); err != nil {
			t.Error(err)
		}
	}()
	options := func(i int) llama.GenerateOptions {
		return llama.GenerateOptions{MaxTokens: 3 + i, Temperature: 0.9, TopK: 8, MinP: 0.01, Repetition: 1.1, Frequency: 0.1, Presence: 0.2,
			Seed: uint64(i) << 60, LogProbs: i%2 == 0, Stop: []int32{int32(i)}}
	}
	const texts = 7
	want := make([][]llama.Token, texts)
	for i := range want {
		want[i] = spelled(t, m, []int32{1, int32(i)}, options(i))
	}
	// What a proof of inference is made of is the same, too.
	proof := func(g generator, o llama.GenerateOptions) (out []float32) {
		o.Hidden = func(position int, h []float32) { out = append(append(out, float32(position)), h...) }
		spelled(t, g, []int32{1, 5}, o)
		return out
	}
	if a, b := proof(m, options(5)), proof(r, options(5)); len(a) < 3*(cfg.HiddenSize+1) || !slices.Equal(a, b) {
		t.Errorf("hidden states in a worker are %v, here %v", b, a)
	}
	got := make([][]llama.Token, texts)
	var work sync.WaitGroup
	for i := range got {
		work.Go(func() { got[i] = spelled(t, r, []int32{1, int32(i)}, options(i)) })
	}
	work.Wait()
	for i := range want {
		if !slices.Equal(got[i], want[i]) {
			t.Errorf("text %d in a worker is %v, here %v", i, got[i], want[i])
		}
	}
	if len(spawned) != 1 {
		t.Errorf("%d workers for all texts", len(spawned))
	}

	// SIGKILL between two texts.
	o := llama.GenerateOptions{MaxTokens: 12, Temperature: 1, Seed: 5, LogProbs: true}
	long := spelled(t, m, []int32{2}, o)
	if err := syscall.Kill(spawned[0].PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := spelled(t, r, []int32{2}, o); !slices.Equal(got, long) || len(spawned) != 2 {
		t.Errorf("after a kill: %v, want %v of 2 workers, not %d", got, long, len(spawned))
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := r.Generate(ctx, []int32{2}, o, func(llama.Token) bool { cancel(); return true }); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if got := spelled(t, r, []int32{2}, o); !slices.Equal(got, long) {
		t.Errorf("afterwards: %v, want %v", got, long)
	}

	// Workers that die in the middle of a text: three times it is written again.
	for after, fails := range map[int]bool{2: true, 3: false, 12: false} {
		began := 0
		r := &remoteModel{cfg: cfg, params: given(params), spawn: func() (*worker.Client, error) {
			began++
			return mortal(t, m, began*after) // each gets further than the one before
		}}
		var told []llama.Token
		states := 0
		o := o
		o.Hidden = func(position int, _ []float32) {
			if position != states {
				t.Errorf("the state of position %d after %d", position, states)
			}
			states++
		}
		err := r.Generate(t.Context(), []int32{2}, o, func(x llama.Token) bool { told = append(told, x); return true })
		if fails {
			if !errors.Is(err, worker.ErrLost) || !strings.Contains(err.Error(), "4 workers") || !slices.Equal(told, long[:4*after]) {
				t.Errorf("workers die every %d tokens: %v after %v", after, err, told)
			}
		} else if err != nil || !slices.Equal(told, long) || began != 12/after {
			t.Errorf("workers die every %d tokens: %v, %v of %d workers", after, told, err, began)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// mortal is a worker that writes m's texts and dies after some tokens.
func mortal(t *testing.T, m *llama.Model, after int) (*worker.Client, error) {
	here, there := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- worker.Serve(context.Background(), there, there, worker.Backend{Write: func(hf.Config, worker.Batch, []float32) (worker.Generator, error) {
			return dying{m, after, there}, nil
		}})
	}()
	t.Cleanup(func() {
		_ = there.Close() // it may be dead already
		<-done            // and died of that
	})
	return worker.Connect(here, here, here)
}

type dying struct {
	m     *llama.Model
	after int
	conn  io.Closer
}

func (d dying) Generate(ctx context.Context, prompt []int32, s worker.Sampling, tap func([]float32), yield func(worker.Token) bool) error {
	n, o := 0, generateOptions(s)
	if s.Hidden {
		o.Hidden = func(_ int, h []float32) { tap(h) }
	}
	err := d.m.Generate(ctx, prompt, o, func(x llama.Token) bool { n++; return yield(worker.Token(x)) && n < d.after })
	if n < s.MaxTokens {
		return errors.Join(err, d.conn.Close())
	}
	return err
}

func (dying) Close() error { return nil }

// A worker that writes something else than the one before is found out.
func TestRestartedWorkerDiffers(t *testing.T) {
	cfg, began := engineConfig(), uint64(0)
	dev, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	r := &remoteModel{cfg: cfg, params: given(llama.Genesis(cfg, 1)), spawn: func() (*worker.Client, error) {
		began++
		m, err := llama.New(dev, cfg, llama.Genesis(cfg, began)) // another model each time
		if err != nil {
			return nil, err
		}
		return mortal(t, m, 4)
	}}
	told := 0
	err = r.Generate(t.Context(), []int32{2}, llama.GenerateOptions{MaxTokens: 12, Temperature: 1, LogProbs: true}, func(llama.Token) bool { told++; return true })
	if err == nil || !strings.Contains(err.Error(), "another text") || told != 4 {
		t.Errorf("%v after %d tokens", err, told)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// The golden text of stories260K, by the command line, wherever the model runs.
func TestGenerateStories(t *testing.T) {
	model := reference(t, "data/models/stories260K-hf")
	b, err := os.ReadFile(reference(t, "data/models/stories260K.greedy.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Out  []int32
		Text string
	}
	if err := json.Unmarshal(b, &golden); err != nil {
		t.Fatal(err)
	}
	self, err := exec.LookPath("shoal")
	if err != nil {
		t.Fatal(err)
	}
	for _, engine := range []string{inProcess, "exec:" + self + " worker --threads 1"} {
		var out, errw bytes.Buffer
		if code := run([]string{"generate", model, "-p", "Once upon a time", "-n", fmt.Sprint(len(golden.Out)), "--temperature", "0", "--json", "--logprobs", "--engine", engine},
			os.Stdin, &out, &errw); code != 0 {
			t.Fatalf("%s: exit code %d: %s", engine, code, errw.String())
		}
		var got struct {
			Prompt, Text string
			Tokens       []spokenFor
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		ids := make([]int32, len(got.Tokens))
		for i, x := range got.Tokens {
			ids[i] = x.ID
		}
		if !slices.Equal(ids, golden.Out) || got.Prompt+got.Text != golden.Text {
			t.Errorf("%s: wrote %q", engine, got.Text)
		}
	}
}

func given(params []float32) func() ([]float32, error) {
	return func() ([]float32, error) { return params, nil }
}

package worker

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
)

// scribe counts on from the prompt's last token; its log-probabilities are
// minus the token. Without a number of tokens it writes until it is stopped.
type scribe struct{}

func (scribe) Close() error { return nil }

func (scribe) Generate(ctx context.Context, prompt []int32, s Sampling, tap func([]float32), yield func(Token) bool) error {
	if s.Temperature < 0 {
		return errors.New("it is too cold")
	}
	see := func(id int32) {
		if s.Hidden {
			tap(slices.Repeat([]float32{float32(id)}, config().HiddenSize))
		}
	}
	for _, id := range prompt {
		see(id)
	}
	at := prompt[len(prompt)-1]
	for n := 0; n < s.MaxTokens || s.MaxTokens == 0; n++ {
		if at = (at + 1) % int32(config().VocabSize); slices.Contains(s.Stop, at) {
			return nil
		}
		t := Token{ID: at}
		if s.LogProbs {
			t.LogProb = -float64(at)
		}
		if !yield(t) {
			return nil
		}
		if n+1 < s.MaxTokens {
			see(at)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func write(t *testing.T, c *Client) *Texts {
	t.Helper()
	x, err := c.Write(config(), Batch{Streams: 3}, make([]float32, config().NumParams()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

func TestTexts(t *testing.T) {
	c := pair(t, toys)
	if _, err := c.Write(config(), Batch{Streams: -1}, make([]float32, config().NumParams())); err == nil || !strings.Contains(err.Error(), "negative") {
		t.Errorf("a refused batch: %v", err)
	}
	x := write(t, c)
	texts := make([][]Token, 20)
	var work sync.WaitGroup
	for i := range texts {
		work.Go(func() {
			s := Sampling{MaxTokens: 1 + i%6, LogProbs: i%2 == 0, Seed: 1<<64 - 1}
			if err := x.Generate(t.Context(), []int32{0, int32(i % 5)}, s, nil, func(k Token) bool {
				texts[i] = append(texts[i], k)
				return true
			}); err != nil {
				t.Errorf("text %d: %v", i, err)
			}
		})
	}
	work.Wait()
	for i, got := range texts {
		if len(got) != 1+i%6 {
			t.Errorf("text %d has %d tokens", i, len(got))
		}
		for j, k := range got {
			want := Token{ID: int32(i+j+1) % 5}
			if i%2 == 0 {
				want.LogProb = -float64(want.ID)
			}
			if k != want {
				t.Errorf("text %d, token %d: %+v, want %+v", i, j, k, want)
			}
		}
	}
	var seen []float32
	if err := x.Generate(t.Context(), []int32{3, 1}, Sampling{MaxTokens: 3}, func(h []float32) {
		if len(h) != config().HiddenSize || h[1] != h[0] {
			t.Errorf("a state of %v", h)
		}
		seen = append(seen, h[0])
	}, func(k Token) bool { seen = append(seen, 100+float32(k.ID)); return true }); err != nil || !slices.Equal(seen, []float32{3, 1, 102, 2, 103, 3, 104}) {
		t.Errorf("hidden states and tokens: %v, %v", seen, err)
	}
	all := func(s Sampling) (n int, err error) {
		err = x.Generate(t.Context(), []int32{1}, s, nil, func(Token) bool { n++; return true })
		return n, err
	}
	if n, err := all(Sampling{MaxTokens: 7, Stop: []int32{4}}); n != 2 || err != nil {
		t.Errorf("a stop token: %d tokens, %v", n, err)
	}
	if _, err := all(Sampling{Temperature: -1}); err == nil || !strings.Contains(err.Error(), "too cold") || errors.Is(err, ErrLost) {
		t.Errorf("refused sampling: %v", err)
	}
	if _, err := all(Sampling{Stop: make([]int32, maxStop+1)}); err == nil || errors.Is(err, ErrLost) {
		t.Errorf("many stop tokens: %v", err)
	}
	if err := x.Generate(t.Context(), nil, Sampling{}, nil, nil); err == nil || errors.Is(err, ErrLost) {
		t.Errorf("no prompt: %v", err)
	}
	if n, err := all(Sampling{MaxTokens: 2}); n != 2 || err != nil {
		t.Errorf("after refusals: %d tokens, %v", n, err)
	}
}

// patient writes one token and then waits until it is told to end, but where the
// prompt says not to.
type patient struct{ ended chan error }

func (patient) Close() error { return nil }

func (p patient) Generate(ctx context.Context, prompt []int32, _ Sampling, _ func([]float32), yield func(Token) bool) error {
	if !yield(Token{ID: 1}) || prompt[0] == 3 {
		return nil
	}
	<-ctx.Done()
	p.ended <- ctx.Err()
	return ctx.Err()
}

// A text that nobody wants any more ends, and the others go on; and with the worker
// all end.
func TestTextsCancelled(t *testing.T) {
	ended := make(chan error, 9)
	x := write(t, pair(t, Backend{Write: func(hf.Config, Batch, []float32) (Generator, error) { return patient{ended}, nil }}))
	ctx, cancel := context.WithCancel(t.Context())
	err := x.Generate(ctx, []int32{1}, Sampling{}, nil, func(Token) bool { cancel(); return true })
	if !errors.Is(err, context.Canceled) || <-ended == nil {
		t.Errorf("its context ended: %v", err)
	}
	if err := x.Generate(t.Context(), []int32{1}, Sampling{}, nil, func(Token) bool { return false }); err != nil || <-ended == nil {
		t.Errorf("enough was written: %v", err)
	}
	n := 0
	if err := x.Generate(t.Context(), []int32{3}, Sampling{}, nil, func(Token) bool { n++; return true }); err != nil || n != 1 {
		t.Errorf("another: %d tokens, %v", n, err)
	}
	var work sync.WaitGroup
	begun := make(chan bool)
	for range 3 {
		work.Go(func() {
			err := x.Generate(t.Context(), []int32{1}, Sampling{}, nil, func(Token) bool { begun <- true; return true })
			if !errors.Is(err, ErrLost) {
				t.Errorf("the worker was closed: %v", err)
			}
		})
	}
	for range 3 {
		<-begun
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	work.Wait()
	for range 3 {
		if <-ended == nil {
			t.Error("a text outlived its worker")
		}
	}
	if err := x.Generate(t.Context(), []int32{3}, Sampling{}, nil, func(Token) bool { return true }); !errors.Is(err, ErrLost) {
		t.Errorf("a closed worker writes: %v", err)
	}
}

// late hands its tap out and ends.
type late struct{ taps chan func([]float32) }

func (late) Close() error { return nil }

func (l late) Generate(_ context.Context, _ []int32, _ Sampling, tap func([]float32), _ func(Token) bool) error {
	l.taps <- tap
	return nil
}

// What is told of a text after its end is not said.
func TestLateStates(t *testing.T) {
	taps := make(chan func([]float32), 1)
	x := write(t, pair(t, Backend{Write: func(hf.Config, Batch, []float32) (Generator, error) { return late{taps}, nil }}))
	for range 3 {
		if err := x.Generate(t.Context(), []int32{1}, Sampling{}, func([]float32) { t.Error("a state") }, nil); err != nil {
			t.Fatal(err)
		}
		(<-taps)(make([]float32, config().HiddenSize))
	}
}

// A worker that trains does not write, nor the other way round.
func TestWritersAndTrainers(t *testing.T) {
	params := make([]float32, config().NumParams())
	for name, c := range map[string]struct {
		b    Backend
		how  head
		op   string
		want string
	}{
		"no trainer":       {Backend{}, head{Optimizer: &Optimizer{}}, "", "trains nothing"},
		"no writer":        {Backend{}, head{Batch: &Batch{}}, "", "writes nothing"},
		"neither":          {toys, head{}, "", "either"},
		"both":             {toys, head{Optimizer: &Optimizer{}, Batch: &Batch{}}, "", "either"},
		"a writer's step":  {toys, head{Batch: &Batch{}}, "step", "opened to write"},
		"a trainer's text": {toys, head{Optimizer: &Optimizer{}}, "generate", "unknown op"},
		"a second model":   {toys, head{Batch: &Batch{}}, "open", "a model is open"},
	} {
		cl := pair(t, c.b)
		err := cl.open(config(), c.how, params)
		if err == nil && c.op != "" {
			_, err = cl.ask(&head{Op: c.op}, nil, nil)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrLost) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestTextsLost holds what is said of a worker that makes no sense while it writes.
func TestTextsLost(t *testing.T) {
	tokens := func(h, body string) []byte { return raw(magic, 0, h, body) }
	for name, c := range map[string]struct {
		says []byte
		want string
	}{
		"falls still":          {nil, "EOF"},
		"another text":         {tokens(`{"id":9,"more":true,"rows":1}`, "abcd"), "nobody asked"},
		"too many tokens":      {tokens(`{"id":2,"more":true,"rows":4}`, strings.Repeat("\x01\x00\x00\x00", 4)), "4 tokens of a text that may have 3"},
		"no tokens":            {tokens(`{"id":2,"more":true}`, ""), "0 tokens"},
		"a wrong token":        {tokens(`{"id":2,"more":true,"rows":1}`, "\x05\x00\x00\x00"), "token 5 of a vocabulary of 5"},
		"half a token":         {tokens(`{"id":2,"more":true,"rows":1}`, "\x01"), "body ends"},
		"more than it says":    {tokens(`{"id":2,"more":true,"rows":1}`, "\x01\x00\x00\x00\x01"), "longer"},
		"a text is broken off": {raw(magic, broken, `{"id":2,"more":true,"rows":1}`, "why"), "broken off"},
		"a hidden state":       {tokens(`{"id":2,"more":true,"rows":1,"cols":4}`, strings.Repeat("abcd", 4)), "at most 0"},
		"prose":                {[]byte("Segmentation fault (core dumped)\n"), "begins with"},
	} {
		here, there := net.Pipe()
		spoke := make(chan error, 1)
		go func() {
			l := newLink(there, there)
			var q head
			_, err := l.send(&head{Worker: Version}, nil)
			for _, a := range [][]byte{tokens(`{"id":1}`, ""), c.says} { // to open, and to generate
				err = errors.Join(err, l.receive(&q), l.drop())
				_, e := there.Write(a)
				err = errors.Join(err, e)
			}
			spoke <- errors.Join(err, there.Close())
		}()
		cl, err := Connect(here, here, here)
		if err != nil {
			t.Fatal(err)
		}
		x, err := cl.Write(config(), Batch{}, make([]float32, config().NumParams()))
		if err != nil {
			t.Fatal(err)
		}
		err = x.Generate(t.Context(), []int32{1}, Sampling{MaxTokens: 3}, nil, func(Token) bool { return true })
		if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err := x.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
		<-spoke // the end of the pipe may break what it says: that is not the question
	}
}

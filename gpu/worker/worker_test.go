package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/gpu/hf"
)

func config() hf.Config {
	return hf.Config{HiddenSize: 4, IntermediateSize: 3, NumHiddenLayers: 1, NumAttentionHeads: 1, VocabSize: 5,
		MaxPositionEmbeddings: 8, RMSNormEps: 1e-5, RopeTheta: 1e4, TieWordEmbeddings: true}
}

// toy adds the learning rate to each weight; its loss is the batch's sum.
type toy struct {
	w, hidden []float32
}

func (t *toy) Hidden() ([]float32, int) { return t.hidden, config().HiddenSize }

func (t *toy) Eval(b [][]int32) (float64, error) {
	sum := 0.0
	t.hidden = t.hidden[:0]
	for _, r := range b {
		for range (len(r) - 1) * config().HiddenSize {
			t.hidden = append(t.hidden, float32(r[0]))
		}
		for _, id := range r {
			if id < 0 {
				return math.Inf(1), nil
			}
			sum += float64(id)
		}
	}
	return sum / 7, nil
}

func (t *toy) Step(b [][]int32, lr float64) (float64, error) {
	for i := range t.w {
		t.w[i] += float32(lr)
	}
	return t.Eval(b)
}
func (t *toy) Params() []float32 { return t.w }
func (t *toy) SetParams(p []float32) error {
	if p[0] == 99 {
		return errors.New("99 is not to my taste")
	}
	copy(t.w, p)
	return nil
}

func (t *toy) Save(w io.Writer) error {
	if t.w[0] == 66 {
		if _, err := w.Write(make([]byte, maxPart+100)); err != nil {
			return err
		}
		return errors.New("no more")
	}
	return writeFloats(w, t.w)
}

func (t *toy) Load(r io.Reader) error {
	w := make([]float32, len(t.w))
	if err := readFloats(r, w); err != nil {
		return err
	}
	copy(t.w, w)
	return nil
}
func (t *toy) Close() error { return nil }

var toys = Backend{Name: "toy", Identity: "toy/1", Train: func(_ hf.Config, o Optimizer, _ *int32, p []float32) (Trainer, error) {
	if o.Beta1 < 0 {
		return nil, errors.New("beta1 is negative")
	}
	return &toy{w: p}, nil
}, Write: func(_ hf.Config, b Batch, _ []float32) (Generator, error) {
	if b.Streams < 0 {
		return nil, errors.New("streams are negative")
	}
	return scribe{}, nil
}}

// pair is a client and the end of the worker that it speaks to.
func pair(t *testing.T, b Backend) *Client {
	t.Helper()
	here, there := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- errors.Join(Serve(context.Background(), there, there, b), there.Close())
	}()
	c, err := Connect(here, here, here)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("serve: %v", err)
		}
	})
	return c
}

func TestConversation(t *testing.T) {
	cfg := config()
	params := make([]float32, cfg.NumParams())
	for i := range params {
		params[i] = float32(i) / 3
	}
	c := pair(t, toys)
	if c.Name() != "toy" || c.Identity() != "toy/1" {
		t.Errorf("it is called %q, %q", c.Name(), c.Identity())
	}
	if _, err := c.Train(cfg, Optimizer{Beta1: -1}, nil, params); err == nil || !strings.Contains(err.Error(), "beta1 is negative") {
		t.Errorf("a refused optimizer: %v", err)
	}
	for _, sep := range []int32{-1, int32(cfg.VocabSize)} {
		if _, err := c.Train(cfg, Optimizer{}, &sep, params); err == nil || !strings.Contains(err.Error(), "separator") {
			t.Errorf("separator %d: %v", sep, err)
		}
	}
	if _, err := c.Train(cfg, Optimizer{}, nil, params[1:]); err == nil || !strings.Contains(err.Error(), "ends before") {
		t.Errorf("too few parameters: %v", err)
	}
	tr, err := c.Train(cfg, Optimizer{}, nil, params)
	if err != nil {
		t.Fatal(err)
	}
	const lr = 0.1 + 1e-17
	if loss, err := tr.Step([][]int32{{1, 2}, {3, 4}}, lr); err != nil || loss != 10.0/7 {
		t.Errorf("step: %v, %v", loss, err)
	}
	if h, width := tr.Hidden(); width != cfg.HiddenSize || len(h) != 2*width || h[0] != 1 || h[width] != 3 {
		t.Errorf("hidden: %v of width %d", h, width)
	}
	if p := tr.Params(); len(p) != len(params) || p[3] != params[3]+float32(lr) {
		t.Error("the step did not reach the weights, or they did not come back")
	}
	if loss, err := tr.Eval([][]int32{{-1}}); err != nil || !math.IsNaN(loss) {
		t.Errorf("an infinite loss: %v, %v", loss, err)
	}
	if err := tr.SetParams(append([]float32{99}, params[1:]...)); err == nil || !strings.Contains(err.Error(), "taste") {
		t.Errorf("refused weights: %v", err)
	}
	if err := tr.SetParams(append([]float32{66}, params[1:]...)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tr.Save(&b); err == nil || !strings.Contains(err.Error(), "no more") || errors.Is(err, ErrLost) {
		t.Errorf("a save that is broken off: %v", err)
	}
	if err := tr.SetParams(params); err != nil {
		t.Fatal(err)
	}
	b.Reset()
	if err := tr.Save(&b); err != nil || b.Len() != 4*len(params) {
		t.Errorf("save: %d bytes, %v", b.Len(), err)
	}
	if err := tr.Load(io.MultiReader(&b, strings.NewReader("x"))); err == nil || errors.Is(err, ErrLost) {
		t.Errorf("a load of too much: %v", err)
	}
	for _, op := range []string{"open", "frobnicate", ""} {
		if _, err := c.ask(&head{Op: op}, nil, nil); err == nil || errors.Is(err, ErrLost) {
			t.Errorf("%q: %v", op, err)
		}
	}
}

// TestLongBodies sends bodies of all lengths around those of frames.
func TestLongBodies(t *testing.T) {
	for _, n := range []int{0, 1, maxPart - 1, maxPart, maxPart + 1, 3*maxPart - 1, 3 * maxPart} {
		var wire bytes.Buffer
		l := newLink(&wire, &wire)
		want := bytes.Repeat([]byte{1, 2, 3, 4, 5}, n/5+1)[:n]
		for range 2 {
			if own, err := l.send(&head{Op: "x"}, func(w io.Writer) error { _, err := w.Write(want); return err }); own != nil || err != nil {
				t.Fatal(own, err)
			}
		}
		for range 2 {
			var h head
			if err := l.receive(&h); err != nil || h.Op != "x" {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(l); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes: got %d, %v", n, len(got), err)
			}
		}
	}
}

func raw(magic string, flags uint32, head, part string) []byte {
	b := []byte(magic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(head)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(part)))
	b = binary.LittleEndian.AppendUint32(b, flags)
	return append(append(b, head...), part...)
}

func TestWrongBytes(t *testing.T) {
	big := raw(magic, 0, "{}", "")
	binary.LittleEndian.PutUint32(big[8:], maxPart+1)
	for name, b := range map[string][]byte{
		"other magic":        raw("HTTP", 0, "{}", ""),
		"other version":      raw("SHW1", 0, "{}", ""),
		"no head":            raw(magic, 0, "", "abc"),
		"not JSON":           raw(magic, 0, "{", ""),
		"another type":       raw(magic, 0, `{"id":"x"}`, ""),
		"unknown flags":      raw(magic, 4, "{}", ""),
		"both flags":         raw(magic, 3, "{}", "x"),
		"an empty frame":     raw(magic, more, "{}", ""),
		"a long part":        big,
		"a head in the body": append(raw(magic, more, "{}", "a"), raw(magic, 0, "{}", "b")...),
	} {
		l := newLink(bytes.NewReader(b), io.Discard)
		var h head
		err := l.receive(&h)
		if err == nil {
			err = l.drop()
		}
		if !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := range 30 {
		b := append(raw(magic, more, `{"op":"step"}`, "abcd"), raw(magic, 0, "", "efgh")...)
		l := newLink(bytes.NewReader(b[:n]), io.Discard)
		var h head
		err := l.receive(&h)
		if err == nil {
			err = l.drop()
		}
		if want := io.ErrUnexpectedEOF; n > 0 && !errors.Is(err, want) || n == 0 && err != io.EOF {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// TestLost holds what a client says of a worker that makes no sense.
func TestLost(t *testing.T) {
	greets := func(version int) string { return string(raw(magic, 0, fmt.Sprintf(`{"worker":%d}`, version), "")) }
	hello := greets(Version)
	for name, c := range map[string]struct{ says, want string }{
		"nothing":         {"", "greeting"},
		"another version": {greets(Version - 1), "version 2"},
		"prose":           {"Hello, I am PyTorch 2.14\n", "begins with"},
		"and falls still": {hello, "EOF"},
		"another answer":  {hello + string(raw(magic, 0, `{"id":7}`, "")), "answer 7 to question 1"},
		"half an answer":  {hello + string(raw(magic, more, `{"id":1}`, "abc")), "EOF"},
	} {
		cl, err := Connect(strings.NewReader(c.says), io.Discard, io.NopCloser(nil))
		if err == nil {
			_, err = cl.Train(config(), Optimizer{}, nil, make([]float32, config().NumParams()))
			if !errors.Is(err, ErrLost) {
				t.Errorf("%s: %v is not ErrLost", name, err)
			}
			if _, again := cl.ask(&head{Op: "params"}, nil, nil); !errors.Is(again, ErrLost) {
				t.Errorf("%s, again: %v", name, again)
			}
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := Spawn(t.Context(), []string{"/nonexistent/worker"}, io.Discard); err == nil {
		t.Error("a program that is not there was started")
	}
	if _, err := Spawn(t.Context(), nil, io.Discard); err == nil {
		t.Error("no program was started")
	}
	if _, err := Dial(t.Context(), "/nonexistent.sock"); err == nil {
		t.Error("a socket that is not there answered")
	}
}

func TestValues(t *testing.T) {
	for _, n := range []int{0, 1, 1 << 14, 1<<14 + 1, 1<<20 + 5} {
		want := make([]float32, n)
		for i := range want {
			want[i] = float32(i) - 7.5
		}
		var b bytes.Buffer
		if err := writeFloats(&b, want); err != nil {
			t.Fatal(err)
		}
		got := make([]float32, n)
		if err := readFloats(bytes.NewReader(b.Bytes()), got); err != nil || !slices.Equal(got, want) {
			t.Errorf("%d: %v", n, err)
		}
		if got, err := readNewFloats(bytes.NewReader(b.Bytes()), n); err != nil || !slices.Equal(got, want) {
			t.Errorf("%d, as they come: %v", n, err)
		}
		if _, err := readNewFloats(bytes.NewReader(b.Bytes()), n+1); err == nil {
			t.Errorf("%d values are %d", n, n+1)
		}
	}
	for _, c := range [][2]int{{0, 1}, {1, 0}, {-1, -1}, {MaxTokens, 2}, {1 << 62, 1 << 62}} {
		if _, err := readIDs(strings.NewReader("abcdefgh"), c[0], c[1]); err == nil {
			t.Errorf("%d rows of %d", c[0], c[1])
		}
	}
}

// FuzzServe gives a worker any bytes: it must answer or end, never panic, hang,
// or allocate what the bytes merely claim.
func FuzzServe(f *testing.F) {
	conf, err := config().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	open := raw(magic, 0, fmt.Sprintf(`{"id":1,"op":"open","config":%s,"optimizer":{}}`, conf), string(make([]byte, 4*config().NumParams())))
	f.Add(append(open, raw(magic, 0, `{"id":2,"op":"step","rows":1,"cols":2,"lr":0.1}`, "\x01\x00\x00\x00\x02\x00\x00\x00")...))
	f.Add(append(open, raw(magic, more, `{"id":2,"op":"load"}`, "abcd")...))
	f.Add(append(open, raw(magic, broken, `{"id":2,"op":"set"}`, "why")...))
	f.Add(append(open, raw(magic, 0, `{"id":2,"op":"save"}`, "")...))
	write := raw(magic, 0, fmt.Sprintf(`{"id":1,"op":"open","config":%s,"batch":{}}`, conf), string(make([]byte, 4*config().NumParams())))
	write = append(write, raw(magic, 0, `{"id":2,"op":"generate","cols":1,"sampling":{"max_tokens":3,"log_probs":true}}`, "\x01\x00\x00\x00")...)
	f.Add(write)
	f.Add(append(write, raw(magic, 0, `{"id":2,"op":"cancel"}`, "")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		_ = Serve(context.Background(), bytes.NewReader(b), &out, toys)
		l := newLink(&out, io.Discard)
		for {
			var h head
			if err := l.receive(&h); err == io.EOF {
				return
			} else if err != nil {
				t.Fatalf("what it says is not the protocol: %v", err)
			}
			if err := l.drop(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

package llama

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/hf"
)

// TestSchedule steps a schedule through thousands of random texts and holds it
// to its promises: no page belongs to two, no pass is too large, those that came
// first are admitted first, and everybody ends.
func TestSchedule(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		most, total := 1+rng.IntN(6), 4+rng.IntN(20)
		s := newSchedule(most+rng.IntN(60), most, total)
		left, admitted := 0, -1
		order := map[*stream]int{}
		add := func() {
			n := 1 + rng.IntN(gpu.PageSize*3)
			x := &stream{ids: make([]int32, n), limit: n + 1 + rng.IntN(100)}
			if err := s.add(x); err != nil {
				if x.need() <= total {
					t.Fatalf("seed %d: refused: %v", seed, err)
				}
				return
			}
			order[x] = len(order)
			left++
		}
		for passes := 0; left > 0 || len(order) < 100; passes++ {
			if len(order) < 100 && rng.IntN(2) == 0 {
				add()
			}
			parts := s.next()
			if len(parts) == 0 && left > 0 {
				t.Fatalf("seed %d: %d texts wait and nothing is done", seed, left)
			}
			owner := map[int32]*stream{}
			for _, x := range s.running {
				for _, p := range x.pages {
					if owner[p] != nil || p < 0 || int(p) >= total {
						t.Fatalf("seed %d: page %d has two owners", seed, p)
					}
					owner[p] = x
				}
				if order[x] > admitted+1 {
					t.Fatalf("seed %d: text %d came before %d", seed, order[x], admitted+1)
				}
				admitted = max(admitted, order[x])
			}
			if len(owner)+len(s.free) != total {
				t.Fatalf("seed %d: %d pages used, %d free, of %d", seed, len(owner), len(s.free), total)
			}
			rows := 0
			for _, p := range parts {
				rows += p.rows
				if sp := p.span(); sp.Start+sp.Rows > len(sp.Pages)*gpu.PageSize {
					t.Fatalf("seed %d: %d positions in %d pages", seed, sp.Start+sp.Rows, len(sp.Pages))
				}
				p.s.read += p.rows
				if p.s.read == len(p.s.ids) {
					p.s.ids = append(p.s.ids, 0)
				}
				if len(p.s.ids) == p.s.limit || rng.IntN(60) == 0 {
					s.remove(p.s)
					left--
				}
			}
			if rows > s.rows || len(s.running) > most {
				t.Fatalf("seed %d: %d rows of %d, %d texts of %d", seed, rows, s.rows, len(s.running), most)
			}
			if passes > 100000 {
				t.Fatalf("seed %d: no end", seed)
			}
		}
		if len(s.free) != total {
			t.Fatalf("seed %d: %d pages are free in the end, of %d", seed, len(s.free), total)
		}
	}
}

// TestScheduleReadingAgain has texts that are read anew for each token, which takes
// more than a pass, beside a prompt that comes later: it is not kept waiting, and they
// get tokens in turns.
func TestScheduleReadingAgain(t *testing.T) {
	s := newSchedule(10, 4, 100)
	s.know = func(x *stream) {
		if x.known = len(x.ids); x.turn != x.known {
			x.turn, x.read = x.known, 0
		}
	}
	add := func(n int) *stream {
		x := &stream{ids: make([]int32, n), limit: 1000}
		if err := s.add(x); err != nil {
			t.Fatal(err)
		}
		return x
	}
	old := []*stream{add(25), add(28)}
	var late *stream
	for pass := range 60 {
		if pass == 30 {
			late = add(12)
		}
		for i, p := range s.next() {
			if pass == 30 && i == 0 && p.s != late {
				t.Error("a prompt waits for who reads again")
			}
			if p.s.read += p.rows; p.s.read == len(p.s.ids) {
				p.s.ids = append(p.s.ids, 0)
				p.s.drawn++
			}
		}
	}
	if a, b := old[0].drawn, old[1].drawn; a < 5 || max(a, b)-min(a, b) > 1 || late.drawn == 0 {
		t.Errorf("%d, %d and %d tokens", a, b, late.drawn)
	}
}

// TestBatch has many goroutines write at once, with little memory and small
// passes: each gets what it would get alone, to the last bit of the
// log-probabilities and hidden states.
func TestBatch(t *testing.T) {
	for _, dev := range devices(t) {
		for name, cfg := range families() {
			t.Run(dev.Name()+"/"+name, func(t *testing.T) { testBatch(t, dev, cfg) })
		}
	}
}

func testBatch(t *testing.T, dev gpu.Device, cfg hf.Config) {
	rng := rand.New(rand.NewPCG(3, 9))
	m, err := New(dev, cfg, wild(cfg, rng))
	if err != nil {
		t.Fatal(err)
	}
	type text struct {
		prompt []int32
		o      GenerateOptions
		want   []Token
		hidden [][]float32
	}
	texts := make([]text, 12)
	for i := range texts {
		x := &texts[i]
		x.prompt = batch(rng, 1, 1+rng.IntN(12), cfg.VocabSize)[0]
		x.o = GenerateOptions{MaxTokens: 1 + rng.IntN(9), Seed: uint64(i), LogProbs: true}
		if i%3 > 0 {
			x.o.Temperature, x.o.TopK, x.o.Repetition, x.o.Frequency = 1, 5, 1.2, 0.1
		}
		x.o.Hidden = func(at int, h []float32) {
			if at != len(x.hidden) {
				t.Errorf("hidden state of %d after %d", at, len(x.hidden))
			}
			x.hidden = append(x.hidden, slices.Clone(h))
		}
		if err := m.Generate(context.Background(), x.prompt, x.o, func(k Token) bool { x.want = append(x.want, k); return true }); err != nil {
			t.Fatal(err)
		}
		// What Generate's tap shows is what a Reader shows.
		ids := slices.Clone(x.prompt)
		for _, k := range x.want[:len(x.want)-1] {
			ids = append(ids, k.ID)
		}
		r, err := m.NewReader(len(ids), 3)
		if err != nil {
			t.Fatal(err)
		}
		at := 0
		if err := r.Read(context.Background(), ids, func(h, _ []float32) error {
			if !slices.Equal(h, x.hidden[at]) {
				return fmt.Errorf("hidden state %d differs", at)
			}
			at++
			return nil
		}); err != nil || at != len(x.hidden) {
			t.Errorf("%d of %d hidden states, %v", at, len(x.hidden), err)
		}
	}
	b, err := m.NewBatch(BatchOptions{Streams: 4, Rows: 9, Positions: 3 * gpu.PageSize})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var over sync.WaitGroup
	over.Go(func() {
		if err := b.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
	var work sync.WaitGroup
	for i := range texts {
		x := &texts[i]
		work.Go(func() {
			var got []Token
			o, want := x.o, x.hidden
			at := 0
			o.Hidden = func(i int, h []float32) {
				if i != at || !slices.Equal(h, want[i]) {
					t.Errorf("hidden state %d differs in a batch", i)
				}
				at++
			}
			if err := b.Generate(ctx, x.prompt, o, func(k Token) bool { got = append(got, k); return true }); err != nil {
				t.Error(err)
			}
			if !slices.Equal(got, x.want) {
				t.Errorf("in a batch %v, alone %v", got, x.want)
			}
		})
	}
	work.Wait()
	// Who leaves early, or never could be served, disturbs nobody.
	if err := b.Generate(ctx, texts[0].prompt, GenerateOptions{}, func(Token) bool { return false }); err != nil {
		t.Errorf("left early: %v", err)
	}
	gone, leave := context.WithCancel(ctx)
	if err := b.Generate(gone, texts[0].prompt, GenerateOptions{}, func(Token) bool { leave(); return true }); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	leave()
	if err := b.Generate(ctx, nil, GenerateOptions{}, nil); err == nil {
		t.Error("an empty prompt was taken")
	}
	var got []Token
	again := texts[1].o
	again.Hidden = nil
	if err := b.Generate(ctx, texts[1].prompt, again, func(k Token) bool { got = append(got, k); return true }); err != nil || !slices.Equal(got, texts[1].want) {
		t.Errorf("after those: %v, %v", got, err)
	}
	cancel()
	over.Wait()
	if err := b.Generate(context.Background(), texts[0].prompt, GenerateOptions{}, nil); !errors.Is(err, ErrBatchClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestBatchRefuses(t *testing.T) {
	cfg := small(true)
	cfg.MaxPositionEmbeddings = 1000
	m, err := New(devices(t)[0], cfg, Genesis(cfg, 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []BatchOptions{{Streams: -1}, {Streams: 5, Rows: 4}, {Rows: 1 << 30}, {Positions: -1}} {
		if _, err := m.NewBatch(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	b, err := m.NewBatch(BatchOptions{Streams: 1, Rows: 8, Positions: 100})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var over sync.WaitGroup
	over.Go(func() { _ = b.Run(ctx) })
	if err := b.Generate(ctx, []int32{1}, GenerateOptions{MaxTokens: 500}, nil); err == nil {
		t.Error("a text longer than the cache was taken")
	}
	cancel()
	over.Wait()
}

// TestBF16 holds weights that are rounded to what a model of rounded weights
// writes.
func TestBF16(t *testing.T) {
	cfg := small(false)
	rng := rand.New(rand.NewPCG(3, 9))
	params := wild(cfg, rng)
	for i := range params {
		params[i] = gpu.FromBF16(gpu.RoundBF16(params[i]))
	}
	for _, dev := range devices(t) {
		m, err := New(dev, cfg, params)
		if err != nil {
			t.Fatal(err)
		}
		ids := batch(rng, 1, 20, cfg.VocabSize)[0]
		var all [2][]float32
		for i, half := range []bool{false, true} {
			d := m.newDecoder(len(ids), pages(len(ids)), 1, half)
			d.pass([]gpu.Span{{Rows: len(ids), Pages: sequential(pages(len(ids)))}}, []int{len(ids)}, ids)
			z := d.score([]int{len(ids) - 1})
			all[i] = make([]float32, z.N)
			dev.Download(all[i], z.Buffer)
		}
		if !slices.Equal(all[0], all[1]) {
			t.Errorf("%s: bfloat16 weights compute something else", dev.Name())
		}
	}
}

package shard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
)

var tokenizer = wire.SumCID(wire.CodecRaw, []byte("tokenizer"))

func someTokens(n int, vocab int32) []int32 {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	t := make([]int32, n)
	for i := range t {
		t[i] = rng.Int32N(vocab)
	}
	return t
}

// store serves the blocks of p and counts how often.
func store(p *Prepared, asked *int) func(wire.CID) ([]byte, error) {
	return func(c wire.CID) ([]byte, error) {
		*asked++
		for _, b := range p.Blocks {
			if b.CID == c {
				return b.Data, nil
			}
		}
		return nil, errors.New("not here")
	}
}

func TestPrepareAndRead(t *testing.T) {
	for _, c := range []struct {
		n, perShard, seq int
		vocab            uint64
	}{{10007, 500, 64, 85}, {10007, 13, 64, 85}, {5000, 0, 17, 70000}, {1000, 1, 9, 1 << 16}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			tokens := someTokens(c.n, int32(c.vocab))
			p, err := Prepare(tokens, tokenizer, c.vocab, Options{PerShard: c.perShard, Sequence: c.seq})
			if err != nil {
				t.Fatal(err)
			}
			cut := c.n * 9 / 10
			if a, b := Tokens(p.Index.Train), Tokens(p.Index.Val); a != uint64(cut) || b != uint64(c.n-cut) {
				t.Errorf("%d tokens to train, %d to validate, want %d and %d", a, b, cut, c.n-cut)
			}
			x, err := DecodeIndex(p.Block)
			if err != nil || !reflect.DeepEqual(x, p.Index) || wire.SumCID(wire.CodecDagCBOR, p.Block) != p.CID {
				t.Fatalf("index came back as %+v, %v", x, err)
			}
			for _, part := range []struct {
				shards []Shard
				tokens []int32
			}{{x.Train, tokens[:cut]}, {x.Val, tokens[cut:]}} {
				asked := 0
				r, err := NewReader(x, part.shards, c.seq, store(p, &asked))
				if err != nil {
					t.Fatal(err)
				}
				n := r.Windows()
				if n != uint64(len(part.tokens)-1)/uint64(c.seq) {
					t.Errorf("%d windows of %d tokens", n, len(part.tokens))
				}
				for w := range n {
					got, err := r.Window(w)
					if want := part.tokens[int(w)*c.seq:][:c.seq+1]; err != nil || !slices.Equal(got, want) {
						t.Fatalf("window %d: got %d, want %d, %v", w, got, want, err)
					}
				}
				if asked > len(part.shards) {
					t.Errorf("blocks were fetched %d times for %d, reading in order", asked, len(part.shards))
				}
				if _, err := r.Window(n); err == nil {
					t.Error("a window after the last")
				}
			}
		})
	}
}

func TestBatchesOfARoundAreDisjoint(t *testing.T) {
	tokens := make([]int32, 20000)
	for i := range tokens {
		tokens[i] = int32(i) // so that a window shows where it lies
	}
	p, err := Prepare(tokens, tokenizer, 20000, Options{PerShard: 777, Sequence: 16})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	seen := map[int32]string{}
	for slot := range 4 {
		r, err := NewReader(p.Index, p.Index.Train, 16, store(p, &asked))
		if err != nil {
			t.Fatal(err)
		}
		s := Share{Run: run, Base: 100, Slot: slot, Slots: 4, Each: 160, Batch: 8}
		for step := range uint64(20) {
			batch, err := r.Batch(s, step)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range batch {
				who := fmt.Sprintf("slot %d step %d", slot, step)
				if len(w) != 17 || w[0]%16 != 0 || seen[w[0]] != "" {
					t.Fatalf("%s has window of %d tokens at %d, which %q has", who, len(w), w[0], seen[w[0]])
				}
				seen[w[0]] = who
			}
		}
		if _, err := r.Batch(s, 20); err == nil {
			t.Error("a step beyond the share")
		}
	}
	if len(seen) != 640 {
		t.Errorf("%d windows, want 640", len(seen))
	}
}

func TestReaderNamesTheBadBlock(t *testing.T) {
	p, err := Prepare(someTokens(3000, 85), tokenizer, 85, Options{PerShard: 500})
	if err != nil {
		t.Fatal(err)
	}
	good := p.Blocks[1].Data
	for name, bad := range map[string][]byte{
		"of another shard": p.Blocks[len(p.Blocks)-1].Data,
		"cut":              good[:len(good)-2],
		"empty":            nil,
	} {
		asked := 0
		serve := store(p, &asked)
		r, err := NewReader(p.Index, p.Index.Train, 64, func(c wire.CID) ([]byte, error) {
			if c == p.Index.Train[1].CID {
				return bad, nil
			}
			return serve(c)
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Window(0); err != nil {
			t.Errorf("%s: window 0: %v", name, err)
		}
		if _, err := r.Window(8); err == nil || !strings.Contains(err.Error(), "shard 1") {
			t.Errorf("%s: %v", name, err)
		}
	}
	gone := errors.New("gone")
	r, err := NewReader(p.Index, p.Index.Train, 64, func(wire.CID) ([]byte, error) { return nil, gone })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Window(0); !errors.Is(err, gone) {
		t.Errorf("the cause is lost: %v", err)
	}
}

func TestReaderCacheIsBounded(t *testing.T) {
	p, err := Prepare(someTokens(9000, 85), tokenizer, 85, Options{PerShard: 100})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	r, err := NewReader(p.Index, p.Index.Train, 50, store(p, &asked))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for w := range r.Windows() {
			if _, err := r.Window(w); err != nil {
				t.Fatal(err)
			}
			if len(r.cache) > cacheShards {
				t.Fatalf("cache holds %d blocks", len(r.cache))
			}
		}
	}
	before := asked
	for range 5 {
		for w := range uint64(10) {
			if _, err := r.Window(w); err != nil {
				t.Fatal(err)
			}
		}
	}
	if asked-before > 6 {
		t.Errorf("ten windows in six blocks were fetched %d times", asked-before)
	}
}

func TestBlocksAreSmallEnough(t *testing.T) {
	for _, vocab := range []uint64{256, 1 << 16, 1<<16 + 1} {
		n := maxTokens(vocab)
		b, err := EncodeBlock(make([]int32, n), vocab)
		if err != nil || len(b) > MaxBlock || len(b) < MaxBlock-4 {
			t.Errorf("vocab %d: %d tokens take %d bytes, %v", vocab, n, len(b), err)
		}
		if _, err := EncodeBlock(make([]int32, n+1), vocab); err == nil {
			t.Errorf("vocab %d: %d tokens in a block", vocab, n+1)
		}
		if got, err := DecodeBlock(b, vocab); err != nil || len(got) != n {
			t.Errorf("vocab %d: %d tokens back, %v", vocab, len(got), err)
		}
	}
}

func TestBlockGolden(t *testing.T) {
	b, err := EncodeBlock([]int32{1, 255, 256}, 300)
	if want := "SHTK\x01\x02\x00\x00\x03\x00\x00\x00\x01\x00\xff\x00\x00\x01"; err != nil || string(b) != want {
		t.Errorf("got %q, want %q, %v", b, want, err)
	}
	p, err := Prepare([]int32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, tokenizer, 300, Options{PerShard: 5})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.CID.String(), "bafyreievzzvkoub77tqh52mgy445g73kufu7bq6w3lazqtiam7qafktqgu"; got != want {
		t.Errorf("index CID %s, want %s", got, want)
	}
}

func TestDecodeBlockRefuses(t *testing.T) {
	good, err := EncodeBlock([]int32{1, 2, 299}, 300)
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := DecodeBlock(good[:n], 300); err == nil {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
	set := func(at int, v byte) []byte { b := bytes.Clone(good); b[at] = v; return b }
	count := bytes.Clone(good)
	binary.LittleEndian.PutUint32(count[8:], 1<<31)
	for name, b := range map[string][]byte{
		"trailing":   append(bytes.Clone(good), 0),
		"magic":      set(0, 'X'),
		"version":    set(4, 2),
		"width":      set(5, 4),
		"width zero": set(5, 0),
		"reserved":   set(7, 1),
		"count":      set(8, 2),
		"huge count": count,
		"token":      set(17, 9),
		"none":       []byte("SHTK\x01\x02\x00\x00\x00\x00\x00\x00"),
		"large":      make([]byte, MaxBlock+1),
	} {
		if _, err := DecodeBlock(b, 300); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := DecodeBlock(good, 299); err == nil {
		t.Error("a token that the vocabulary lacks: accepted")
	}
	if _, err := EncodeBlock([]int32{300}, 300); err == nil {
		t.Error("a token that the vocabulary lacks: encoded")
	}
	if _, err := EncodeBlock([]int32{-1}, 300); err == nil {
		t.Error("token −1: encoded")
	}
}

func TestIndexRefuses(t *testing.T) {
	p, err := Prepare(someTokens(3000, 85), tokenizer, 85, Options{PerShard: 500})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func(*Index)
		want  string
	}{
		"version":   {func(x *Index) { x.Version = 2 }, "version"},
		"tokenizer": {func(x *Index) { x.Tokenizer = "" }, "tokenizer"},
		"vocab":     {func(x *Index) { x.Vocab = MaxVocab + 1 }, "vocab"},
		"no vocab":  {func(x *Index) { x.Vocab = 0 }, "vocab"},
		"no train":  {func(x *Index) { x.Train = nil }, "train"},
		"codec":     {func(x *Index) { x.Train[0].CID = wire.SumCID(wire.CodecDagCBOR, nil) }, "train[0]"},
		"no CID":    {func(x *Index) { x.Val[0].CID = "" }, "val[0]"},
		"empty":     {func(x *Index) { x.Val[0].Tokens = 0 }, "val[0]"},
		"too many":  {func(x *Index) { x.Train[1].Tokens = 1 << 20 }, "train[1]"},
		"shards":    {func(x *Index) { x.Train = make([]Shard, MaxShards+1) }, "shards"},
	} {
		x, err := DecodeIndex(p.Block)
		if err != nil {
			t.Fatal(err)
		}
		c.spoil(x)
		b, err := wire.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.Encode(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: encode: %v", name, err)
		}
		if _, err := DecodeIndex(b); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
	if _, err := DecodeIndex(p.Block[:len(p.Block)-1]); err == nil {
		t.Error("a cut index: decoded")
	}
	if _, err := DecodeIndex(make([]byte, MaxBlock+1)); err == nil {
		t.Error("a large index: decoded")
	}
}

func TestPrepareRefuses(t *testing.T) {
	tokens := someTokens(100, 85)
	for name, c := range map[string]struct {
		tokens []int32
		vocab  uint64
		o      Options
		want   string
	}{
		"nothing":      {nil, 85, Options{}, "too few"},
		"short":        {tokens, 85, Options{Sequence: 64}, "validation"},
		"very short":   {tokens[:20], 85, Options{Sequence: 64}, "training"},
		"all for val":  {tokens, 85, Options{Val: 10000}, "validation"},
		"no vocab":     {tokens, 0, Options{}, "vocabulary"},
		"vocab":        {tokens, 50, Options{}, "not below"},
		"shard":        {tokens, 85, Options{PerShard: 1 << 20}, "shard"},
		"no tokenizer": {tokens, 85, Options{}, "tokenizer"},
	} {
		tk := tokenizer
		if name == "no tokenizer" {
			tk = ""
		}
		if _, err := Prepare(c.tokens, tk, c.vocab, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error about %q", name, err, c.want)
		}
	}
	p, err := Prepare(tokens, tokenizer, 85, Options{Val: -1, Sequence: 64})
	if err != nil || len(p.Index.Val) != 0 || Tokens(p.Index.Train) != 100 {
		t.Errorf("without validation: %+v, %v", p, err)
	}
}

func FuzzDecodeBlock(f *testing.F) {
	for _, v := range []uint64{300, 1 << 17} {
		b, err := EncodeBlock([]int32{1, 2, 299}, v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, v)
	}
	f.Fuzz(func(t *testing.T, b []byte, vocab uint64) {
		tokens, err := DecodeBlock(b, vocab)
		if err != nil {
			return
		}
		again, err := EncodeBlock(tokens, vocab)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("a second form of one block: %v", err)
		}
	})
}

func FuzzDecodeIndex(f *testing.F) {
	p, err := Prepare([]int32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, tokenizer, 85, Options{PerShard: 4})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Block)
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := DecodeIndex(b)
		if err != nil {
			return
		}
		again, err := x.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("a second form of one index: %v", err)
		}
		r, err := NewReader(x, x.Train, 2, func(wire.CID) ([]byte, error) { return nil, errors.New("none") })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Window(0); err == nil {
			t.Fatal("a window of no blocks")
		}
	})
}

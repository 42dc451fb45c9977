package node

import (
	"context"
	"math"
	"testing"

	"github.com/shoalnet/shoal/diloco/shard"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// counting is a trainer whose loss is the sum of what predicts over its number.
type counting struct {
	Trainer
	in *manifest.Inner
}

func (c counting) Eval(batch [][]int32) (float64, error) {
	n, sum := c.in.Predictions(batch), 0.0
	for _, s := range batch {
		for _, id := range s[:len(s)-1] {
			if c.in.Separator == nil || int(id) != *c.in.Separator {
				sum += float64(id)
			}
		}
	}
	return sum / float64(max(n, 1)), nil
}

// A validation is the mean over all that is predicted, however many windows are in a
// batch and whatever separators take away.
func TestValidate(t *testing.T) {
	tokens := make([]int32, 4*31+1)
	for i := range tokens {
		tokens[i] = int32(i*i) % 11
		if i < 40 {
			tokens[i] = 7 // windows, and a batch, of separators alone
		}
	}
	tok := wire.SumCID(wire.CodecRaw, []byte("tokenizer"))
	p, err := shard.Prepare(append(make([]int32, 40), tokens...), tok, 11, shard.Options{Val: 7575})
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[wire.CID][]byte{}
	for _, b := range p.Blocks {
		blocks[b.CID] = b.Data
	}
	val, err := shard.NewReader(p.Index, p.Index.Val, 4, func(c wire.CID) ([]byte, error) { return blocks[c], nil })
	if err != nil || val.Windows() != 31 {
		t.Fatalf("%d windows, %v", val.Windows(), err)
	}
	sep := 7
	for _, separator := range []*int{nil, &sep} {
		sum, n := 0.0, 0
		for _, id := range tokens[:4*31] {
			if separator == nil || id != 7 {
				sum, n = sum+float64(id), n+1
			}
		}
		for _, batch := range []int{1, 3, 31, 50} {
			in := &manifest.Inner{Batch: batch, Sequence: 4, Separator: separator}
			got, err := Validate(context.Background(), counting{in: in}, val, 1000, in)
			if want := sum / float64(n); err != nil || math.Abs(got-want) > 1e-9 {
				t.Errorf("separator %v, batches of %d: %g, want %g (%v)", separator, batch, got, want, err)
			}
		}
		in := &manifest.Inner{Batch: 4, Sequence: 4, Separator: separator}
		if _, err := Validate(context.Background(), counting{in: in}, val, 1, in); (err != nil) != (separator != nil) {
			t.Errorf("separator %v, a window of separators alone: %v", separator, err)
		}
	}
}

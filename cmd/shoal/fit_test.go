package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node/manifest"
)

func TestArrange(t *testing.T) {
	// 100 bytes of weights; 10 a sequence, or 4 where activations are computed again.
	need := func(again bool, micro int) int64 {
		if micro == 0 {
			micro = 16
		}
		if again {
			return 100 + 4*int64(micro)
		}
		return 100 + 10*int64(micro)
	}
	for _, c := range []struct {
		room    int64
		audited bool
		again   bool
		micro   int
		bytes   int64
	}{
		{1000, true, false, 0, 260},
		{260, false, false, 0, 260},
		{259, false, true, 0, 164},
		{259, true, true, 0, 164},
		{163, false, true, 8, 132},
		{163, true, true, 0, 164}, // an audit would find another micro-batch
		{110, false, true, 2, 108},
		{1, false, true, 1, 104}, // the least there is
	} {
		again, micro, bytes := arrange(need, c.room, 16, c.audited)
		if again != c.again || micro != c.micro || bytes != c.bytes {
			t.Errorf("%d bytes, audited %v: %v, %d, %d bytes, want %+v", c.room, c.audited, again, micro, bytes, c)
		}
	}
}

func TestForecast(t *testing.T) {
	m := manifest.Default()
	m.Inner.Batch, m.Inner.Sequence, m.Round.InnerSteps, m.Round.Deadline = 4, 25, 50, 80*time.Second
	for rate, want := range map[float64]uint64{1: 0, 10: 7, 71: 49, 72: 50, 1e30: 50} {
		f := fit{TokensPerS: rate, How: "steps", Of: 50}
		if f.forecast(m); f.Steps != want {
			t.Errorf("%g tokens/s: %d steps, want %d", rate, f.Steps, want)
		}
		if warned := len(f.doubts()) > 0; warned != (want == 0) {
			t.Errorf("%g tokens/s: %v", rate, f.doubts())
		}
	}
	f := fit{How: "steps", Steps: 1, Memory: 2 << 30, Free: 1 << 30, Checkpoint: true}
	if d := f.doubts(); len(d) != 1 || !strings.Contains(d[0], "may end it") || !strings.Contains(f.String(), "computed again") {
		t.Errorf("%q, %q", d, f.String())
	}
}

func TestFitIsKept(t *testing.T) {
	a := &app{dir: t.TempDir()}
	m := manifest.Default()
	m.Model.Config.HiddenSize, m.Model.Config.IntermediateSize, m.Model.Config.NumHiddenLayers, m.Model.Config.NumAttentionHeads = 16, 24, 2, 2
	m.Model.Config.VocabSize, m.Model.Config.MaxPositionEmbeddings = 11, 32
	m.Inner.Batch, m.Inner.Sequence, m.Round.InnerSteps = 3, 32, 10
	first := a.fitTo(t.Context(), m, 1, false)
	if first.How != "steps" || first.TokensPerS <= 0 || first.Threads != 1 || first.Steps == 0 || first.Memory <= 0 || first.Checkpoint {
		t.Fatalf("%+v", first)
	}
	if runtime.GOOS == "linux" && first.Free <= 0 {
		t.Error("the memory of this machine is not known")
	}
	if again := a.fitTo(t.Context(), m, 1, false); !again.At.Equal(first.At) {
		t.Errorf("measured again: %+v", again)
	}
	m.Inner.Batch++
	other := a.fitTo(t.Context(), m, 1, false)
	if other.At.Equal(first.At) || other.Memory <= first.Memory {
		t.Errorf("another batch is not measured: %+v", other)
	}
	if err := os.WriteFile(filepath.Join(a.dir, fitFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if x := a.fitTo(t.Context(), m, 1, false); x.At.Equal(other.At) || x.How != "steps" {
		t.Errorf("after damage: %+v", x)
	}
	if x := a.fitTo(t.Context(), m, 1, true); x.How != "nothing" || len(x.doubts()) > 0 || !strings.Contains(x.String(), "not measured") {
		t.Errorf("of another program: %+v", x)
	}

	// A model too large to try is told by its products, in as little time.
	m.Model.Config.HiddenSize, m.Model.Config.IntermediateSize, m.Model.Config.NumHiddenLayers, m.Model.Config.NumAttentionHeads = 8192, 28672, 80, 64
	m.Model.Config.VocabSize, m.Inner.Sequence, m.Model.Config.MaxPositionEmbeddings = 128256, 4096, 8192
	large := a.fitTo(t.Context(), m, 1, false)
	if large.How != "products" || large.TokensPerS <= 0 || large.TokensPerS > 1e3 || large.Free > 0 && (!large.Checkpoint || large.MicroBatch != 1 || len(large.doubts()) != 2) {
		t.Errorf("70 billion parameters: %+v, %q", large, large.doubts())
	}
}

func TestAvailable(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED, NOT TESTED: memory is known on Linux only")
	}
	if n := freeMemory(); n < 1<<20 || n > 1<<50 {
		t.Errorf("%d bytes are free", n)
	}
}

// What fits this machine is the same step, bit for bit.
func TestFittedEngineEqualBits(t *testing.T) {
	plain, fitted := testEngine(nil), testEngine(nil)
	fitted.opts.Checkpoint, fitted.threads = true, 2
	want, losses := conform(t, plain)
	got, l := conform(t, fitted)
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("weight %d is %v, want %v", i, got[i], want[i])
		}
	}
	for i := range losses {
		if l[i] != losses[i] {
			t.Fatalf("loss %d is %v, want %v", i, l[i], losses[i])
		}
	}
}

// Who has no room for a run is told so before anything is fetched or computed, with numbers and with what
// there is room for.
func TestRefusal(t *testing.T) {
	m := manifest.Default()
	m.Model.Config = manifest.ConfigOf(hf.Config{HiddenSize: 2048, IntermediateSize: 8192, NumHiddenLayers: 16, NumAttentionHeads: 32, NumKeyValueHeads: 8, HeadDim: 64,
		VocabSize: 128256, MaxPositionEmbeddings: 131072, RMSNormEps: 1e-5, RopeTheta: 5e5, TieWordEmbeddings: true})
	n := m.Model.Config.HF().NumParams()
	for _, c := range []struct {
		observe bool
		free    int64
		want    string // of the advice; empty is none
	}{
		{false, 0, ""}, {false, 16*n + 24*n, ""}, {true, 16 * n, ""},
		{false, 40*n - 1, "--observe"}, {false, 16*n - 1, "machine with more memory"}, {true, 16*n - 1, "machine with more memory"},
	} {
		compute := 16 * n
		if c.observe {
			compute = 0
		}
		err := refusal(m, compute, c.observe, c.free)
		var adv advice
		if ok := errors.As(err, &adv); ok != (c.want != "") || ok && (!strings.Contains(adv.next, c.want) || !strings.Contains(err.Error(), "1.24G parameters")) {
			t.Errorf("with %d bytes free, observing %v: %v, want %q", c.free, c.observe, err, c.want)
		}
	}
	m.Inner.Batch, m.Inner.Sequence = 16, 512
	b := &baseline{m: m, peers: []int{1}}
	e := newEngine(m, 1)
	for free, want := range map[int64]string{0: "", 24 * n: "--checkpoint", 10 * n: "smaller model"} {
		err := b.room(&e, free)
		var adv advice
		if ok := errors.As(err, &adv); ok != (want != "") || ok && !strings.Contains(adv.next, want) {
			t.Errorf("training with %d bytes free: %v, want %q", free, err, want)
		}
	}
}

package llama

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/ref"
)

// train does steps on batches that follow from their number.
func train(t testing.TB, tr *Trainer, from, steps int) {
	t.Helper()
	for i := from; i < from+steps; i++ {
		tokens := batch(rand.New(rand.NewPCG(9, uint64(i))), 5, 33, tr.cfg.VocabSize)
		if _, err := tr.Step(tokens, 1e-2*min(1, float64(i+1)/5)); err != nil {
			t.Fatal(err)
		}
	}
}

// wide is large enough that its products are cut among threads.
func wide() hf.Config { return size(96, 200, 2, 6, 3, 101, 64) }

// TestThreadsAgree holds the weights after 50 steps to one checksum for any
// number of threads, and of reproducible devices for any instruction set.
func TestThreadsAgree(t *testing.T) {
	for name, cfg := range map[string]hf.Config{"llama": wide(), "qwen3": family(hf.Qwen3, true), "window": windowed(hf.Qwen3, 4, true, false)} {
		var want uint32
		sum := func(isa string, threads int, reproducible bool) uint32 {
			tr := newTrainer(t, newCPU(t, cpu.Options{Threads: threads, ISA: isa, Reproducible: reproducible}), cfg, Genesis(cfg, 3))
			train(t, tr, 0, 50)
			return crc(tr.Params())
		}
		for _, isa := range cpu.ISAs() {
			for _, threads := range []int{1, 2, 3, 8} {
				if isa == "portable" && threads != 3 && len(cpu.ISAs()) > 1 {
					continue // slow
				}
				got := sum(isa, threads, true)
				if want == 0 {
					want = got
				}
				if got != want {
					t.Errorf("%s, %s: %d threads give %#x, want %#x", name, isa, threads, got, want)
				}
			}
			if got := sum(isa, 2, false); (got == want) != (isa != "portable") {
				t.Errorf("%s, %s: not asked for reproducible results it gives %#x, with %#x", name, isa, got, want)
			}
		}
	}
}

// TestDevicesAgree bounds how far kernels may lead from the reference.
func TestDevicesAgree(t *testing.T) {
	cfg := small(false)
	rng := rand.New(rand.NewPCG(5, 5))
	params := wild(cfg, rng)
	tokens := batch(rng, 4, 17, cfg.VocabSize)
	want := newTrainer(t, ref.New(), cfg, params)
	loss, err := want.gradient(tokens)
	if err != nil {
		t.Fatal(err)
	}
	for _, dev := range devices(t)[1:] {
		got := newTrainer(t, dev, cfg, params)
		l, err := got.gradient(tokens)
		if err != nil {
			t.Fatal(err)
		}
		var diff, norm float64
		for i, g := range want.grads.Host {
			d := float64(g - got.grads.Host[i])
			diff, norm = diff+d*d, norm+float64(g)*float64(g)
		}
		if math.Abs(l-loss) > 1e-6*loss || math.Sqrt(diff/norm) > 1e-5 {
			t.Errorf("%s: loss %.9g, the reference has %.9g; the gradient is off by %.2g of its norm",
				dev.Name(), l, loss, math.Sqrt(diff/norm))
		}
	}
}

// TestStepsFollowReference holds every device to the reference step by step: from
// one start, how far its weights are from the reference's after each of many steps,
// measured by how far those have moved.
func TestStepsFollowReference(t *testing.T) {
	const steps, lossBound, bound = 30, 1e-6, 2e-5
	cfg := small(true)
	params := Genesis(cfg, 6)
	want := newTrainer(t, ref.New(), cfg, params)
	var got []*Trainer
	for _, dev := range devices(t)[1:] {
		got = append(got, newTrainer(t, dev, cfg, params))
	}
	for s := range steps {
		tokens := batch(rand.New(rand.NewPCG(6, uint64(s))), 5, 33, cfg.VocabSize)
		loss, err := want.Step(tokens, 3e-3)
		if err != nil {
			t.Fatal(err)
		}
		for _, tr := range got {
			l, err := tr.Step(tokens, 3e-3)
			if err != nil {
				t.Fatal(err)
			}
			var diff, moved float64
			for i, p := range want.Params() {
				d, m := float64(p-tr.Params()[i]), float64(p-params[i])
				diff, moved = diff+d*d, moved+m*m
			}
			if off := math.Sqrt(diff / moved); math.Abs(l-loss) > lossBound*loss || off > bound {
				t.Fatalf("%s, step %d: loss %.9g, the reference has %.9g; the weights are off by %.2g of how far they moved",
					tr.dev.Name(), s+1, l, loss, off)
			}
		}
	}
}

// TestStepAllocatesNothing holds a step of a known shape to no allocation, so
// that a trainer's memory is what it was after the first step.
func TestStepAllocatesNothing(t *testing.T) {
	cfg := wide()
	for _, threads := range []int{1, 2} {
		tr := newTrainer(t, newCPU(t, cpu.Options{Threads: threads}), cfg, Genesis(cfg, 3))
		tokens := batch(rand.New(rand.NewPCG(9, 9)), 5, 33, cfg.VocabSize)
		step := func() {
			if _, err := tr.Step(tokens, 1e-3); err != nil {
				t.Fatal(err)
			}
		}
		step()
		if n := testing.AllocsPerRun(10, step); n != 0 {
			t.Errorf("%d threads: %g allocations a step", threads, n)
		}
	}
}

// ownMemory is a device whose memory the host cannot see, as an accelerator's.
// Only what a trainer does between steps is there.
type ownMemory struct {
	gpu.Device
	memory map[uintptr][]float32
}

func (d *ownMemory) Alloc(n int) gpu.Buffer {
	a := uintptr(len(d.memory)+1) << 32
	d.memory[a] = make([]float32, n)
	return gpu.Buffer{Addr: a, N: n}
}

func (d *ownMemory) Upload(b gpu.Buffer, x []float32)   { copy(d.memory[b.Addr], x) }
func (d *ownMemory) Download(x []float32, b gpu.Buffer) { copy(x, d.memory[b.Addr]) }

func TestParamsOfDeviceWithOwnMemory(t *testing.T) {
	cfg := small(true)
	dev := &ownMemory{ref.New(), map[uintptr][]float32{}}
	params := Genesis(cfg, 1)
	tr := newTrainer(t, dev, cfg, params)
	if !slices.Equal(tr.Params(), params) {
		t.Error("Params are not what the trainer was given")
	}
	params[5] = 7
	if err := tr.SetParams(params); err != nil {
		t.Fatal(err)
	}
	if tr.Params()[5] != 7 {
		t.Error("SetParams did not reach the device")
	}
}

// TestResume holds save and load to going on bit for bit, and SetParams to
// keeping the moments.
func TestResume(t *testing.T) {
	cfg := small(true)
	dev := newCPU(t, cpu.Options{Threads: 1})
	whole := newTrainer(t, dev, cfg, Genesis(cfg, 2))
	train(t, whole, 0, 12)
	half := newTrainer(t, dev, cfg, Genesis(cfg, 2))
	train(t, half, 0, 5)
	var saved bytes.Buffer
	if err := half.Save(&saved); err != nil {
		t.Fatal(err)
	}
	again := newTrainer(t, dev, cfg, Genesis(cfg, 99))
	train(t, again, 0, 1)
	if err := again.Load(bytes.NewReader(saved.Bytes())); err != nil {
		t.Fatal(err)
	}
	if again.Steps() != 5 {
		t.Errorf("%d steps after load, want 5", again.Steps())
	}
	train(t, again, 5, 7)
	if crc(again.Params()) != crc(whole.Params()) {
		t.Error("a resumed trainer leads elsewhere")
	}
	m, v := crc(again.m.Host), crc(again.v.Host)
	if err := again.SetParams(Genesis(cfg, 4)); err != nil {
		t.Fatal(err)
	}
	if crc(again.m.Host) != m || crc(again.v.Host) != v || again.Steps() != 12 || crc(again.Params()) != crc(Genesis(cfg, 4)) {
		t.Error("SetParams changes more than the parameters")
	}
	if err := again.SetParams(make([]float32, 3)); err == nil {
		t.Error("three parameters were taken")
	}
}

// reseal gives a state that was changed on purpose a checksum that fits.
func reseal(b []byte) []byte {
	sum := sha256.Sum256(b[:len(b)-32])
	return append(slices.Clone(b[:len(b)-32]), sum[:]...)
}

func TestLoadRefuses(t *testing.T) {
	cfg := small(true)
	dev := ref.New()
	tr := newTrainer(t, dev, cfg, Genesis(cfg, 2))
	train(t, tr, 0, 1)
	var saved bytes.Buffer
	if err := tr.Save(&saved); err != nil {
		t.Fatal(err)
	}
	good := saved.Bytes()
	change := func(at int, b ...byte) []byte {
		c := slices.Clone(good)
		copy(c[at:], b)
		return reseal(c)
	}
	nan := binary.LittleEndian.AppendUint32(nil, 0x7fc00000)
	minus := binary.LittleEndian.AppendUint32(nil, math.Float32bits(-1))
	other := small(false)
	var foreign bytes.Buffer
	if err := newTrainer(t, dev, other, Genesis(other, 1)).Save(&foreign); err != nil {
		t.Fatal(err)
	}
	n := int(cfg.NumParams())
	before := crc(tr.Params())
	for name, b := range map[string][]byte{
		"nothing": {}, "half a header": good[:40], "header alone": good[:64], "one byte short": good[:len(good)-1],
		"one byte more": append(slices.Clone(good), 0), "another model": foreign.Bytes(),
		"magic": change(0, 'X'), "version": change(8, 2), "reserved": change(12, 1), "count": change(56, 1, 2, 3, 4, 5, 6, 7, 8),
		"steps": change(48, 255, 255, 255, 255, 255, 255, 255, 255), "NaN weight": change(64, nan...),
		"NaN moment": change(64+4*n, nan...), "negative second moment": change(64+8*n, minus...),
		"flipped bit": func() []byte { c := slices.Clone(good); c[100] ^= 1; return c }(),
	} {
		if err := tr.Load(bytes.NewReader(b)); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if crc(tr.Params()) != before || tr.Steps() != 1 {
		t.Error("a refused state changed the trainer")
	}
	for limit := range 5 {
		if err := tr.Save(&fullDisk{limit * n}); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("full disk: %v", err)
		}
	}
}

// fullDisk takes n bytes.
type fullDisk struct{ n int }

func (f *fullDisk) Write(b []byte) (int, error) {
	if f.n -= len(b); f.n < 0 {
		return 0, io.ErrShortWrite
	}
	return len(b), nil
}

func FuzzLoad(f *testing.F) {
	cfg := size(4, 3, 1, 1, 1, 5, 8)
	tr, err := NewTrainer(ref.New(), cfg, Genesis(cfg, 1), DefaultOptions())
	if err != nil {
		f.Fatal(err)
	}
	var saved bytes.Buffer
	if err := tr.Save(&saved); err != nil {
		f.Fatal(err)
	}
	f.Add(saved.Bytes())
	f.Add(saved.Bytes()[:70])
	f.Add([]byte(stateMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 32 {
			b = reseal(b) // or nothing but the checksum is ever tested
		}
		before := tr.Steps()
		if err := tr.Load(bytes.NewReader(b)); err != nil {
			if tr.Steps() != before {
				t.Fatal("a refused state changed the step count")
			}
			return
		}
		var out bytes.Buffer
		if err := tr.Save(&out); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), b) {
			t.Fatal("what Load took, Save writes otherwise")
		}
	})
}

func TestAdamWOfPaper(t *testing.T) {
	// Three steps of algorithm 2 by hand, in float64, on the norm's first gain
	// (which does not decay) and the embedding's first element (which does).
	cfg := small(true)
	tr := newTrainer(t, ref.New(), cfg, Genesis(cfg, 6))
	at := map[int]float64{0: tr.opts.WeightDecay, tr.params.N - 1: 0}
	type state struct{ p, m, v float64 }
	want := map[int]*state{}
	for i := range at {
		want[i] = &state{p: float64(tr.Params()[i])}
	}
	for step := 1; step <= 3; step++ {
		tokens := batch(rand.New(rand.NewPCG(1, uint64(step))), 2, 9, cfg.VocabSize)
		if _, err := tr.gradient(tokens); err != nil {
			t.Fatal(err)
		}
		norm := math.Sqrt(tr.dev.SumSquares(tr.grads))
		const lr = 0.02
		for i, decay := range at {
			s, g := want[i], float64(tr.grads.Host[i])*min(1, tr.opts.Clip/norm)
			s.m = tr.opts.Beta1*s.m + (1-tr.opts.Beta1)*g
			s.v = tr.opts.Beta2*s.v + (1-tr.opts.Beta2)*g*g
			mh, vh := s.m/(1-math.Pow(tr.opts.Beta1, float64(step))), s.v/(1-math.Pow(tr.opts.Beta2, float64(step)))
			s.p -= lr * (mh/(math.Sqrt(vh)+tr.opts.Eps) + decay*s.p)
		}
		if err := tr.update(lr); err != nil {
			t.Fatal(err)
		}
		for i, s := range want {
			if got := float64(tr.Params()[i]); math.Abs(got-s.p) > 1e-6 {
				t.Errorf("step %d, parameter %d: %.8f, want %.8f", step, i, got, s.p)
			}
		}
		if tr.GradNorm() != norm {
			t.Errorf("step %d: norm %g, want %g", step, tr.GradNorm(), norm)
		}
	}
}

// TestHidden: the hidden states of a step are those of its batch under the weights
// before it, and those of an evaluation too, in passes of any size.
func TestHidden(t *testing.T) {
	cfg := small(true)
	params := Genesis(cfg, 5)
	tokens := batch(rand.New(rand.NewPCG(3, 3)), 40, 33, cfg.VocabSize) // more than one pass of Eval
	for _, dev := range devices(t) {
		tr := newTrainer(t, dev, cfg, params)
		if rows, _ := tr.Hidden(); len(rows) != 0 {
			t.Errorf("%d values before anything was computed", len(rows))
		}
		if _, err := tr.Eval(tokens); err != nil {
			t.Fatal(err)
		}
		rows, width := tr.Hidden()
		if width != cfg.HiddenSize || len(rows) != 40*33*width {
			t.Fatalf("%d values, width %d", len(rows), width)
		}
		want := slices.Clone(rows)
		if _, err := tr.Step(tokens, 1e-2); err != nil {
			t.Fatal(err)
		}
		if rows, _ = tr.Hidden(); !slices.Equal(rows, want) {
			t.Error("a step has other hidden states than the evaluation before it")
		}
		if _, err := tr.Eval(tokens[:3]); err != nil {
			t.Fatal(err)
		}
		rows, _ = tr.Hidden()
		if len(rows) != 3*33*width || slices.Equal(rows, want[:len(rows)]) {
			t.Errorf("after the step: %d values, or those from before it", len(rows))
		}
		if _, err := tr.Step(tokens[:1], math.NaN()); err == nil {
			t.Error("a step at no rate")
		}
	}
}

// TestReadState: what Save wrote can be read without a trainer.
func TestReadState(t *testing.T) {
	tr := newTrainer(t, newCPU(t, cpu.Options{}), small(true), Genesis(small(true), 5))
	train(t, tr, 0, 3)
	var b bytes.Buffer
	if err := tr.Save(&b); err != nil {
		t.Fatal(err)
	}
	s, err := ReadState(small(true), bytes.NewReader(b.Bytes()))
	if err != nil || s.Steps != 3 || !slices.Equal(s.Params, tr.Params()) || len(s.First) != len(s.Params) || s.Second[0] < 0 {
		t.Errorf("%+v, %v", s.Steps, err)
	}
	if _, err := ReadState(small(false), bytes.NewReader(b.Bytes())); !errors.Is(err, ErrState) {
		t.Errorf("of another model: %v", err)
	}
}

package audit_test

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/gpu/ref"
	"github.com/shoalnet/shoal/toploc/audit"
)

// A setting is one model as it is trained in segments.
type setting struct {
	name          string
	cfg           hf.Config
	batch, length int
	steps         int // of a segment
	lr            float64
	warm          int // steps before the first segment: moments as they are early in a run, or late
}

func model(d, f, layers, heads int) hf.Config {
	return hf.Config{HiddenSize: d, IntermediateSize: f, NumHiddenLayers: layers, NumAttentionHeads: heads, NumKeyValueHeads: heads,
		VocabSize: 96, MaxPositionEmbeddings: 64, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true}
}

var settings = []setting{
	{"demo, first steps", model(64, 172, 2, 4), 8, 64, 5, 5e-3, 0},
	{"demo, later", model(64, 172, 2, 4), 8, 64, 5, 5e-3, 60},
	{"demo, long segments", model(64, 172, 2, 4), 8, 64, 25, 5e-3, 20},
	{"wide", model(192, 512, 2, 6), 4, 64, 5, 2e-3, 10},
	{"deep", model(64, 172, 8, 4), 4, 64, 5, 3e-3, 10},
	{"tiny", model(16, 44, 1, 2), 2, 16, 4, 1e-2, 10},
}

// text is a source with structure to learn: a Markov chain of order two.
type text struct{ rng *rand.Rand }

func (x text) batch(n, length int) [][]int32 {
	out := make([][]int32, n)
	for i := range out {
		a, b := int32(x.rng.IntN(96)), int32(x.rng.IntN(96))
		for range length + 1 {
			c := (a*7 + b*13 + int32(x.rng.IntN(5))) % 96
			out[i] = append(out[i], c)
			a, b = b, c
		}
	}
	return out
}

// an engine trains on one device.
type engine struct {
	name string
	dev  gpu.Device
}

func engines(t testing.TB, slow bool) (out []engine) {
	t.Helper()
	for _, isa := range cpu.ISAs() {
		d, err := cpu.New(cpu.Options{ISA: isa})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		out = append(out, engine{isa, d})
	}
	if slow {
		out = append(out, engine{"reference", ref.New()})
	}
	return out
}

// run does the steps of a segment from a saved state and returns its end, its
// weights before, and the hidden states of each step.
func (s *setting) run(t testing.TB, e engine, saved []byte, batches [][][]int32, lr float64) (end audit.Snapshot, start []float32, hidden [][]float32, state []byte) {
	t.Helper()
	tr, err := llama.NewTrainer(e.dev, s.cfg, llama.Genesis(s.cfg, 1), llama.DefaultOptions())
	if err == nil && saved != nil {
		err = tr.Load(bytes.NewReader(saved))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	start = slices.Clone(tr.Params())
	for _, b := range batches {
		if _, err := tr.Step(b, lr); err != nil {
			t.Fatal(err)
		}
		rows, _ := tr.Hidden()
		hidden = append(hidden, slices.Clone(rows))
	}
	var w bytes.Buffer
	if err := tr.Save(&w); err != nil {
		t.Fatal(err)
	}
	x, err := llama.ReadState(s.cfg, bytes.NewReader(w.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return audit.Snapshot{Steps: x.Steps, Params: x.Params, First: x.First, Second: x.Second}, start, hidden, w.Bytes()
}

// A tally gathers what comparisons measured.
type tally struct {
	n        int
	rejected int
	value    map[string]float64 // of each number, the largest, or of a forgery's the nearest
}

func newTally() *tally { return &tally{value: map[string]float64{}} }

func (y *tally) add(numbers []audit.Number, err error, nearest bool) {
	y.n++
	if err != nil {
		y.rejected++
	}
	for _, n := range numbers {
		old, ok := y.value[n.Name]
		switch {
		case !ok:
			y.value[n.Name] = n.Value
		case nearest:
			y.value[n.Name] = min(old, n.Value)
		default:
			y.value[n.Name] = max(old, n.Value)
		}
	}
}

func (y *tally) String() string {
	v := func(name string) string {
		if x, ok := y.value[name]; ok {
			return fmt.Sprintf("%.2g", x)
		}
		return "–"
	}
	return fmt.Sprintf("%d | %d | %s | %s | %s | %s | %s", y.n, y.rejected, v("distance of the weights"), v("distance of the first moments"),
		v("distance of the second moments"), v("exponents that differ"), v("mean mantissa error"))
}

// forgeries are ends of a segment that no honest trainer makes.
var forgeries = []struct {
	name string
	make func(t testing.TB, s *setting, e engine, saved []byte, batches [][][]int32, x text) audit.Snapshot
}{
	{"trains nothing", func(t testing.TB, s *setting, e engine, saved []byte, b [][][]int32, _ text) audit.Snapshot {
		end, _, _, _ := s.run(t, e, saved, nil, s.lr)
		end.Steps += uint64(len(b))
		return end
	}},
	{"leaves the last step out", func(t testing.TB, s *setting, e engine, saved []byte, b [][][]int32, _ text) audit.Snapshot {
		end, _, _, _ := s.run(t, e, saved, b[:len(b)-1], s.lr)
		end.Steps++
		return end
	}},
	{"other data in the last step", func(t testing.TB, s *setting, e engine, saved []byte, b [][][]int32, x text) audit.Snapshot {
		end, _, _, _ := s.run(t, e, saved, append(slices.Clone(b[:len(b)-1]), x.batch(s.batch, s.length)), s.lr)
		return end
	}},
	{"half of the last batch", func(t testing.TB, s *setting, e engine, saved []byte, b [][][]int32, _ text) audit.Snapshot {
		last := b[len(b)-1]
		end, _, _, _ := s.run(t, e, saved, append(slices.Clone(b[:len(b)-1]), last[:len(last)/2]), s.lr)
		return end
	}},
	{"a tenth faster", func(t testing.TB, s *setting, e engine, saved []byte, b [][][]int32, _ text) audit.Snapshot {
		end, _, _, _ := s.run(t, e, saved, b, 1.1*s.lr)
		return end
	}},
	{"weights shifted by a tenth of the way", func(t testing.TB, s *setting, e engine, saved []byte, b [][][]int32, x text) audit.Snapshot {
		end, start, _, _ := s.run(t, e, saved, b, s.lr)
		way := 0.0
		for i := range start {
			way += math.Pow(float64(end.Params[i]-start[i]), 2)
		}
		r := 0.1 * math.Sqrt(way/float64(len(start)))
		for i := range end.Params {
			end.Params[i] += float32(r * x.rng.NormFloat64())
		}
		return end
	}},
}

// measure compares segments between engines, and forgeries with the honest end.
func measure(t testing.TB, s *setting, es []engine, segments int, seed uint64, honest map[string]*tally, forged map[string]*tally) {
	t.Helper()
	l := audit.NewLimits(38, 10, 8)
	x := text{rand.New(rand.NewPCG(seed, 7))}
	draw := func(n int) (out [][][]int32) {
		for range n {
			out = append(out, x.batch(s.batch, s.length))
		}
		return out
	}
	_, _, _, saved := s.run(t, es[0], nil, draw(s.warm), s.lr)
	tallyOf := func(m map[string]*tally, name string) *tally {
		if m[name] == nil {
			m[name] = newTally()
		}
		return m[name]
	}
	var p audit.Prover
	for g := range segments {
		batches := draw(s.steps)
		ends := make([]audit.Snapshot, len(es))
		hidden := make([][][]float32, len(es))
		var start []float32
		var next []byte
		for i, e := range es {
			var state []byte
			ends[i], start, hidden[i], state = s.run(t, e, saved, batches, s.lr)
			if i == 0 {
				next = state
			}
		}
		for i, a := range es {
			for j, b := range es {
				if i == j || a.name == "avx2" && b.name == "avx512" || a.name == "avx512" && b.name == "avx2" {
					continue // one engine
				}
				name := a.name + " by " + b.name
				numbers, err := audit.CompareEnds(start, ends[j], ends[i], l)
				if err == nil {
					for k := range batches {
						record, e := p.Append(nil, hidden[i][k], s.cfg.HiddenSize)
						if e != nil {
							t.Fatal(e)
						}
						n, e := p.Judge(record, hidden[j][k], s.cfg.HiddenSize, seed^uint64(g*100+k), l)
						if e != nil && err == nil {
							err = e
						}
						tallyOf(honest, name).add(n, nil, false)
						tallyOf(honest, name).n--
					}
				}
				if err != nil {
					t.Errorf("%s, %s: an honest segment is refused: %v", s.name, name, err)
				}
				tallyOf(honest, name).add(numbers, err, false)
			}
		}
		last := es[len(es)-1]
		for _, f := range forgeries {
			numbers, err := audit.CompareEnds(start, ends[0], f.make(t, s, last, saved, batches, x), l)
			tallyOf(forged, f.name).add(numbers, err, true)
			if err == nil && testing.Verbose() {
				t.Logf("%s: %s passes: %v", s.name, f.name, numbers)
			}
		}
		saved = next
	}
}

const header = "| | segments | refused | weights | first | second | exponents | mantissa |\n|---|---|---|---|---|---|---|---|\n"

// TestDrift: engines that differ agree within the limits, with room, and forgeries do
// not. With SHOAL_AUDIT_TABLE=N it takes N segments of each setting and makes README.md's tables, which takes minutes.
func TestDrift(t *testing.T) {
	segments, err := strconv.Atoi(os.Getenv("SHOAL_AUDIT_TABLE"))
	table, list := err == nil, settings
	if !table {
		segments, list = 1, settings[:1]
	}
	forged, total := map[string]*tally{}, 0
	if table {
		fmt.Print("\n", header)
	}
	for i := range list {
		s := &list[i]
		honest := map[string]*tally{}
		es := engines(t, table && s.steps*s.cfg.HiddenSize*s.cfg.NumHiddenLayers <= 5*64*2)
		measure(t, s, es, segments, uint64(i+1), honest, forged)
		whole := newTally()
		for _, name := range slices.Sorted(maps.Keys(honest)) {
			y := honest[name]
			if table {
				fmt.Printf("| %s: %s | %s |\n", s.name, name, y)
			}
			total += y.n
			whole.n += y.n
			for k, v := range y.value {
				whole.value[k] = max(whole.value[k], v)
			}
		}
		for k, v := range whole.value {
			if limit := map[string]float64{"distance of the weights": 0.01, "distance of the first moments": 0.01, "distance of the second moments": 0.01}[k]; limit > 0 && v > limit {
				t.Errorf("%s: %s is %.3g: honest drift has less than a factor of two to the limit", s.name, k, v)
			}
		}
	}
	for name, y := range forged {
		if y.rejected != y.n {
			t.Errorf("%s: %d of %d pass", name, y.n-y.rejected, y.n)
		}
	}
	if !table {
		return
	}
	fmt.Printf("\n%d honest comparisons\n\n%s", total, header)
	for _, k := range slices.Sorted(maps.Keys(forged)) {
		fmt.Printf("| %s | %s |\n", k, forged[k])
	}
}

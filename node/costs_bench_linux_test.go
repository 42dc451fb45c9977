package node

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/toploc/audit"
)

// cpuTime is what this process has used of the processors.
func cpuTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// A scale is a model and an inner phase of it.
type scale struct {
	name                string
	d, f, layers, heads int
	batch, sequence     int
	steps, segments     uint64 // segments of 0 are the manifest's default
}

// scales are the template's run, the demo's, and others around them.
var scales = []scale{
	{"template", 64, 172, 2, 4, 8, 64, 20, 0},
	{"demo", 128, 344, 3, 4, 8, 128, 10, 4},
	{"0.8M/10k/1", 128, 352, 4, 4, 8, 64, 20, 1},
	{"0.8M/10k/4", 128, 352, 4, 4, 8, 64, 20, 4},
	{"0.8M/51k/4", 128, 352, 4, 4, 8, 64, 100, 4},
	{"6M/41k/4", 288, 768, 6, 6, 8, 256, 20, 4},
}

func (c *scale) manifest() *manifest.Manifest {
	m := manifest.Default()
	m.Name, m.Licence = "bench", "CC0-1.0"
	m.Model.Config = manifest.Config{
		Architectures: []string{"LlamaForCausalLM"}, HiddenSize: c.d, IntermediateSize: c.f, NumHiddenLayers: c.layers,
		NumAttentionHeads: c.heads, NumKeyValueHeads: c.heads, HeadDim: c.d / c.heads, VocabSize: 96, MaxPositionEmbeddings: c.sequence,
		RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true,
	}
	m.Inner.LR, m.Inner.Batch, m.Inner.Sequence = 1e-3, c.batch, c.sequence
	m.Round.InnerSteps, m.Stop.Rounds = c.steps, 100
	m.Verification.AuditRate = 1000
	m.Verification.Segments = c.segments
	if c.segments == 0 {
		m.Verification.Segments = m.DefaultSegments()
	}
	return m
}

// spent is what something took.
type spent struct{ wall, cpu time.Duration }

func measure(f func()) spent {
	w, p := time.Now(), cpuTime()
	f()
	return spent{time.Since(w), cpuTime() - p}
}

// BenchmarkTrace gives what audit material costs a trainer, in percent of its
// time and of its processor time: phases with and without it take turns, with a real
// model, store and disk, and the median of the ratios of neighbours counts. %snapshots
// is what snapshots alone take of the processors, each measured between two phases: it is
// steadier than the difference of two phases, and leaves out what they do to caches.
func BenchmarkTrace(b *testing.B) {
	for _, c := range scales {
		b.Run(c.name, func(b *testing.B) {
			m := c.manifest()
			pair := [2]*bench{newBench(b, m, false), newBench(b, m, true)}
			for range 2 {
				pair[0].phase(b)
				pair[1].phase(b)
			}
			var wall, cpu, alone []float64
			var plain time.Duration
			for i := 0; b.Loop(); i++ {
				var got [2]spent
				for j := range 2 { // who goes first takes turns, too
					got[(i+j)%2] = measure(func() { pair[(i+j)%2].phase(b) })
				}
				wall = append(wall, got[1].wall.Seconds()/got[0].wall.Seconds())
				cpu = append(cpu, got[1].cpu.Seconds()/got[0].cpu.Seconds())
				snapshot := measure(func() { pair[1].snapshot(b, i) })
				alone = append(alone, snapshot.cpu.Seconds()/got[0].cpu.Seconds())
				plain += got[0].cpu
			}
			b.ReportMetric(100*(median(wall)-1), "%time")
			b.ReportMetric(100*(median(cpu)-1), "%cpu")
			b.ReportMetric(100*median(alone)*float64(audit.Segments(c.steps, pair[1].t.trace.every)), "%snapshots")
			b.ReportMetric(plain.Seconds()/float64(b.N), "cpu-s/phase")
			b.ReportMetric(float64(m.Verification.Segments), "segments")
		})
	}
}

// snapshot stores one as a segment's end does, with blocks that are not there yet.
func (s *bench) snapshot(b *testing.B, i int) {
	tr := s.t.trace
	tr.buf.Reset()
	if err := s.t.live.Save(&tr.buf); err != nil {
		b.Fatal(err)
	}
	saved := tr.buf.Bytes()
	for at := 0; at+8 < len(saved); at += 1 << 20 {
		binary.LittleEndian.PutUint64(saved[at:], uint64(i))
	}
	c, err := tr.blocks.PutFile(b.Context(), saved)
	if err == nil {
		err = tr.keeper.trace(c, s.round)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAudit gives what replaying one segment costs, of the processor time of the
// inner phase that it is from: all of it, from reading the snapshot that it starts from
// to comparing its end, and for the last segment the payload. A validator of n
// trainers at the rate p spends p·n times that share of a trainer's work. And what
// measuring the gain of one of four deltas costs.
func BenchmarkAudit(b *testing.B) {
	for _, c := range scales {
		b.Run(c.name, func(b *testing.B) {
			m := c.manifest()
			s := newBench(b, m, true)
			r := s.replayer(b, m, "")
			a := &auditor{replayer: r, log: testLogger()}
			rng := rand.New(rand.NewPCG(1, 1))
			s.phase(b)
			var all, last, gains []float64
			for b.Loop() {
				phase := measure(func() { s.phase(b) }).cpu.Seconds()
				commit, err := localCommits(b.Context(), s.t.blocks)(s.head)
				if err != nil {
					b.Fatal(err)
				}
				msg, err := diloco.Open(&commit.Deltas[0])
				if err != nil {
					b.Fatal(err)
				}
				n := audit.Segments(c.steps, s.t.trace.every)
				sum := 0.0
				for i := range n {
					share := measure(func() {
						out, err := r.audit(b.Context(), msg, i, audit.OwnSeed(msg.ID, i, s.key.Peer()))
						if err != nil || out.Wrong {
							b.Fatalf("segment %d: %+v, %v", i, out, err)
						}
					}).cpu.Seconds() / phase
					sum += share
					if i == n-1 {
						last = append(last, share)
					}
				}
				all = append(all, sum/float64(n))
				parent, err := localCommits(b.Context(), s.t.blocks)(msg.Body.(*diloco.Delta).Parent)
				if err != nil {
					b.Fatal(err)
				}
				gains = append(gains, measure(func() {
					if g, _, err := a.gains(b.Context(), parent, []*diloco.Message{msg, msg, msg, msg}, rng); err != nil || len(g) != 4 {
						b.Fatalf("%v, %v", g, err)
					}
				}).cpu.Seconds()/4/phase)
			}
			b.ReportMetric(100*median(all), "%phase/segment")
			b.ReportMetric(100*median(last), "%phase/last")
			b.ReportMetric(100*median(gains), "%phase/gain")
			b.ReportMetric(float64(m.Verification.Segments), "segments")
			b.ReportMetric(0, "ns/op")
		})
	}
}

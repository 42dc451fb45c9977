//go:build unix

package llama

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
)

// BenchmarkDecode gives tokens/s of 1 and 16 texts, and of a prompt, of the sizes
// that others publish: llama2.c's 15M and 110M.
//
//	go test -run '^$' -bench Decode ./gpu/llama
func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct {
		name string
		cfg  hf.Config
	}{
		{"15M", size(288, 768, 6, 6, 6, 32000, 256)},
		{"110M", size(768, 2048, 12, 12, 12, 32000, 1024)},
	} {
		params := Genesis(c.cfg, 1)
		for _, threads := range []int{1, 2} {
			dev := newCPU(b, cpu.Options{Threads: threads})
			m, err := New(dev, c.cfg, params)
			if err != nil {
				b.Fatal(err)
			}
			for _, half := range []bool{false, true} {
				kind := "f32"
				if half {
					kind = "bf16"
				}
				base := 0.0
				for _, streams := range []int{1, 16} {
					b.Run(fmt.Sprintf("%s/%s/%d threads/%d texts", c.name, kind, threads, streams), func(b *testing.B) {
						rate := decodeRate(b, m, streams, half)
						if streams == 1 {
							base = rate
						}
						b.ReportMetric(rate, "tokens/s")
						b.ReportMetric(rate/base, "x-one")
					})
				}
				b.Run(fmt.Sprintf("%s/%s/%d threads/prompt", c.name, kind, threads), func(b *testing.B) {
					const n = 256
					w := m.newWriter(n, 1, pages(n), half)
					ids := make([]int32, n)
					spans := []gpu.Span{{Rows: n, Pages: sequential(pages(n))}}
					for b.Loop() {
						w.pass(spans, []int{n}, ids)
						w.score([]int{n - 1})
					}
					b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
				})
			}
		}
	}
}

// processor is the time that this process has computed.
func processor() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// decodeRate writes greedily with streams texts, from position 1 to 64 and
// again.
func decodeRate(b *testing.B, m *Model, streams int, half bool) float64 {
	const length = 64
	w := m.newWriter(max(streams, 16), streams, streams*pages(length), half)
	n, start := 0, processor()
	for b.Loop() {
		if n == 0 {
			start = processor()
		}
		if len(w.sched.running)+len(w.sched.waiting) == 0 {
			for i := range streams {
				s, err := m.newStream([]int32{int32(i)}, GenerateOptions{MaxTokens: length - 1})
				if err != nil {
					b.Fatal(err)
				}
				if err := w.sched.add(s); err != nil {
					b.Fatal(err)
				}
			}
		}
		if _, err := w.step(func(s *stream, t Token, err error) bool {
			n++
			_, with := s.ends(t.ID)
			return err == nil && !with
		}); err != nil {
			b.Fatal(err)
		}
	}
	// On a busy machine the processor's time says more than the clock's.
	b.ReportMetric(float64(n)/(processor()-start).Seconds(), "tokens/cpu-s")
	return float64(n) / b.Elapsed().Seconds()
}

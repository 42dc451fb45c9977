package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/ref"
)

// BenchmarkMatMul gives GFLOP/s of the products of small models, with the
// reference beside them.
func BenchmarkMatMul(b *testing.B) {
	for _, s := range []struct {
		l       gpu.Layout
		m, n, k int
	}{
		{gpu.NT, 512, 64, 64}, {gpu.NT, 512, 384, 64}, {gpu.NT, 512, 128, 128}, {gpu.NT, 512, 704, 128}, {gpu.NT, 512, 96, 128},
		{gpu.NN, 512, 128, 128}, {gpu.NN, 512, 128, 704}, {gpu.TN, 128, 128, 512}, {gpu.TN, 704, 128, 512}, {gpu.TN, 96, 128, 512},
		{gpu.NT, 2048, 768, 288}, {gpu.NN, 2048, 288, 768}, {gpu.TN, 768, 288, 2048}, {gpu.NN, 1024, 1024, 1024},
		{gpu.NT, 64, 64, 32}, {gpu.NN, 64, 32, 64}, {gpu.TN, 64, 32, 64}, {gpu.NT, 1, 704, 128},
	} {
		for _, dev := range benchDevices(b) {
			b.Run(fmt.Sprintf("%v_%dx%dx%d/%s", s.l, s.m, s.n, s.k, dev.Name()), func(b *testing.B) {
				rng := rand.New(rand.NewPCG(1, 1))
				mat := func(r, c int) gpu.Matrix {
					m := dev.Alloc(r*c).Matrix(r, c)
					for i := range m.Host {
						m.Host[i] = rng.Float32()
					}
					return m
				}
				x, y, z := mat(s.m, s.k), mat(s.k, s.n), mat(s.m, s.n)
				switch s.l {
				case gpu.NT:
					y = mat(s.n, s.k)
				case gpu.TN:
					x = mat(s.k, s.m)
				}
				for b.Loop() {
					dev.MatMul(s.l, z, x, y, false)
				}
				b.ReportMetric(2*float64(s.m)*float64(s.n)*float64(s.k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}

func benchDevices(b *testing.B) []gpu.Device {
	var all []gpu.Device
	for _, isa := range ISAs() {
		for _, threads := range []int{1, 2} {
			all = append(all, newDevice(b, Options{Threads: threads, ISA: isa}))
		}
	}
	return append(all, ref.New())
}

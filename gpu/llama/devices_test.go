package llama

import (
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/ref"
)

// devices are the reference and every kernel set that this machine has.
func devices(t testing.TB) []gpu.Device {
	all := []gpu.Device{ref.New()}
	for _, isa := range cpu.ISAs() {
		all = append(all, newCPU(t, cpu.Options{Threads: 2, ISA: isa}))
	}
	return all
}

func newCPU(t testing.TB, o cpu.Options) *cpu.Device {
	t.Helper()
	d, err := cpu.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

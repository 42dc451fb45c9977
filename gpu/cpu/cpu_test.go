package cpu

import (
	"strconv"
	"testing"

	"github.com/shoalnet/shoal/gpu/gputest"
)

func newDevice(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestConformance(t *testing.T) {
	for _, isa := range ISAs() {
		for _, threads := range []int{1, 3} {
			t.Run(isa+"/"+strconv.Itoa(threads), func(t *testing.T) {
				gputest.Run(t, newDevice(t, Options{Threads: threads, ISA: isa}))
			})
		}
	}
}

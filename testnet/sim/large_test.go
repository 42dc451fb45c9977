package sim

import (
	"testing"
	"time"
)

func TestLarge(t *testing.T) {
	start := time.Now()
	var faults []Fault
	for i := range 20 {
		faults = append(faults, Fault{Kind: Crash, At: 60*time.Second + time.Duration(i)*time.Second, Until: 100*time.Second + time.Duration(i)*time.Second, Peers: []int{i * 7}, Point: 1 + i%5})
	}
	r, err := Run(Config{Seed: 1, Peers: 200, Stop: 4, Pull: 40 * time.Second, Faults: faults, Loss: 0.001})
	t.Logf("%v: %.0f events/s, %+v", time.Since(start), float64(r.Events)/time.Since(start).Seconds(), *r)
	if err != nil {
		t.Fatal(err)
	}
}

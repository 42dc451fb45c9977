package node

import (
	"testing"
	"time"
)

// The rate is that of the last seconds: neither what a disk gave at once nor how fast it
// once was.
func TestPace(t *testing.T) {
	var p pace
	at := time.Unix(1000, 0)
	var got float64
	done := int64(0)
	pass := func(d time.Duration, bytes int64) {
		for range 10 {
			at, done = at.Add(d/10), done+bytes/10
			got = p.rate(done, at)
		}
	}
	if got = p.rate(0, at); got != 0 {
		t.Errorf("of nothing: %g", got)
	}
	pass(time.Second, 500e6) // from the disk
	if got < 400e6 {
		t.Errorf("%g", got)
	}
	pass(20*time.Second, 20e6)
	if got < 0.9e6 || got > 1.1e6 {
		t.Errorf("%g, want 1e6", got)
	}
	pass(20*time.Second, 100e6)
	if got < 4.5e6 || got > 5.5e6 {
		t.Errorf("%g, want 5e6", got)
	}
	if got = p.rate(1e6, at); got != 0 { // begun anew
		t.Errorf("anew: %g", got)
	}
}

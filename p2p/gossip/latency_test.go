package gossip

import (
	"encoding/binary"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/p2p/p2ptest"
)

// How long 1 KB and the largest message take to reach everybody, at 50 ms one
// way and 100 Mbit/s, in virtual time. SHOAL_BENCH=1 measures more hosts.
func TestLatency(t *testing.T) {
	sizes := []int{5}
	if os.Getenv("SHOAL_BENCH") != "" {
		sizes = []int{5, 20, 50}
	}
	t.Log("hosts  bytes   p50      p99      max      duplicates/message/host")
	for _, n := range sizes {
		for _, size := range []int{1 << 10, MaxData} {
			synctest.Test(t, func(t *testing.T) { measure(t, n, size) })
		}
	}
}

func measure(t *testing.T, n, size int) {
	const messages = 20
	net := p2ptest.Swarm(t, n, p2ptest.Options{})
	nodes := make([]*node, n)
	for i := range nodes {
		nodes[i] = join(t, net.Host(i), Config{}, acceptAll)
	}
	time.Sleep(20 * time.Second)
	for i := range messages {
		publish(t, nodes[i%n], string(stamp(size)))
		time.Sleep(3 * time.Second)
	}
	var lat []time.Duration
	var dup uint64
	for _, x := range nodes {
		dup += x.g.Counters().Duplicates
		for _, h := range x.all() {
			lat = append(lat, h.at.Sub(time.Unix(0, int64(binary.BigEndian.Uint64([]byte(h.data))))))
		}
	}
	if want := messages * (n - 1); len(lat) != want {
		t.Errorf("%d hosts: %d of %d messages arrived", n, len(lat), want)
	}
	slices.Sort(lat)
	at := func(p int) time.Duration { return lat[(len(lat)-1)*p/100].Round(100 * time.Microsecond) }
	t.Logf("%5d %6d %8v %8v %8v %5.1f", n, size, at(50), at(99), at(100), float64(dup)/messages/float64(n))
	if limit := 100 * time.Millisecond; size == 1<<10 && at(99) > limit {
		t.Errorf("%d hosts: 99 %% of small messages within %v, want %v", n, at(99), limit)
	}
}

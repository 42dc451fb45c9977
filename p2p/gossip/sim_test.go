package gossip

import (
	"context"
	"encoding/binary"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/p2ptest"
	"github.com/shoalnet/shoal/p2p/wire"
)

var quiet = slog.New(slog.DiscardHandler)

// run is the topic of most tests.
var run = RunTopic(wire.SumCID(wire.CodecDagCBOR, []byte("a run")))

func acceptAll(context.Context, wire.PeerID, []byte) wire.Judgement { return wire.Accept }

// node is a host with gossip on one topic, and what it heard.
type node struct {
	g *Gossip
	t *Topic

	mu    sync.Mutex // guards following
	heard []heard
}

type heard struct {
	from wire.PeerID
	data string
	at   time.Time
}

func join(t *testing.T, h *p2p.Host, c Config, judge Judge) *node {
	t.Helper()
	c.Log = quiet
	g, err := New(h, c)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{g: g}
	if n.t, err = g.Join(run, judge); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			data, from, err := n.t.Next(h.Context())
			if err != nil {
				return
			}
			n.mu.Lock()
			n.heard = append(n.heard, heard{from, string(data), time.Now()})
			n.mu.Unlock()
		}
	}()
	return n
}

func (n *node) got(data string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.heard, func(h heard) bool { return h.data == data })
}

func (n *node) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.heard)
}

func (n *node) all() []heard {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.heard)
}

// stamp is size bytes that begin with the time.
func stamp(size int) []byte {
	b := make([]byte, size)
	binary.BigEndian.PutUint64(b, uint64(time.Now().UnixNano()))
	return b
}

func publish(t *testing.T, n *node, data string) {
	t.Helper()
	if err := n.t.Publish(t.Context(), []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// Twenty hosts that know only the first find one another; every message
// reaches everybody in about one hop; the first one is killed and nothing
// changes; one that restarts with no bootstrap rejoins from its cache.
func TestSwarm(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		opts := p2ptest.Options{Config: func(i int, c *p2p.Config) {
			if i == 7 {
				c.CachePath = dir + "/peers.json"
			}
		}}
		net := p2ptest.Swarm(t, n, opts)
		nodes := make([]*node, n)
		for i := range nodes {
			nodes[i] = join(t, net.Host(i), Config{}, acceptAll)
		}
		start := time.Now()
		for {
			least := n
			for _, x := range nodes {
				least = min(least, len(x.t.Peers()))
			}
			if least >= 8 {
				break
			}
			if time.Since(start) > 20*time.Second {
				t.Fatalf("after %v a host knows only %d peers of its topic", time.Since(start), least)
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Logf("%d hosts: each knows 8 topic peers after %v", n, time.Since(start))
		time.Sleep(10 * time.Second)

		var want []string
		for i, x := range nodes {
			m := string(stamp(1024))
			want = append(want, m)
			publish(t, x, m)
			if i%4 == 3 {
				time.Sleep(50 * time.Millisecond)
			}
		}
		time.Sleep(3 * time.Second)
		var lat []time.Duration
		for _, x := range nodes {
			if x.count() != n-1 {
				t.Errorf("a host heard %d of %d messages", x.count(), n-1)
			}
			for _, h := range x.all() {
				if !slices.Contains(want, h.data) {
					t.Error("a host heard what nobody said")
				}
				lat = append(lat, h.at.Sub(time.Unix(0, int64(binary.BigEndian.Uint64([]byte(h.data))))))
			}
		}
		slices.Sort(lat)
		t.Logf("latency at 50 ms one way: p50 %v p99 %v max %v", lat[len(lat)/2], lat[len(lat)*99/100], lat[len(lat)-1])
		if p50 := lat[len(lat)/2]; p50 > 75*time.Millisecond {
			t.Errorf("median latency is %v, want about one hop of 50 ms", p50)
		}

		net.Stop(0)
		publish(t, nodes[5], "the first is dead")
		time.Sleep(time.Second)
		for i, x := range nodes {
			if i != 0 && i != 5 && !x.got("the first is dead") {
				t.Errorf("host %d does not hear after the bootstrap's death", i)
			}
		}

		net.Stop(7)
		time.Sleep(time.Minute)
		back := net.Start(7) // no bootstrap at all
		back.Rendezvous("test")
		nodes[7] = join(t, back, Config{}, acceptAll)
		start = time.Now()
		for len(nodes[7].t.Peers()) < 4 {
			if time.Since(start) > 20*time.Second {
				t.Fatal("a restarted host does not find the swarm from its cache")
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Logf("restarted host meets 4 topic peers after %v", time.Since(start))
		time.Sleep(2 * time.Second)
		publish(t, nodes[3], "welcome back")
		time.Sleep(time.Second)
		if !nodes[7].got("welcome back") {
			t.Error("the restarted host does not hear")
		}
	})
}

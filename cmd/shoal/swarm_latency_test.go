package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// oneWay is the delay between any two peers of the simulated network.
const oneWay = 50 * time.Millisecond

// How long after the last delta's publication the peers have the commit, in
// virtual time, at 50 ms one way and 100 Mbit/s. Ideally: one delay until the
// last delta is announced, its fetch, and one delay until the last vote is
// there. N=50 takes minutes: SHOAL_BENCH=1.
func BenchmarkCommitLatency(b *testing.B) {
	for _, n := range []int{5, 20, 50} {
		for _, last := range []bool{true, false} {
			name := fmt.Sprintf("peers=%d/all-at-once", n)
			if last {
				name = fmt.Sprintf("peers=%d/one-last", n)
			}
			b.Run(name, func(b *testing.B) {
				if n > 20 && os.Getenv("SHOAL_BENCH") == "" {
					b.Skip("set SHOAL_BENCH=1 to simulate 50 peers: it takes minutes")
				}
				for range b.N {
					var l latency
					if !testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{
						{Name: b.Name(), F: func(t *testing.T) { synctest.Test(t, func(t *testing.T) { l = commitLatency(t, n, 7, last) }) }},
					}) {
						b.Fatal("the simulation failed")
					}
					b.ReportMetric(l.total.Seconds()*1e3, "ms/commit")
					b.ReportMetric(l.fetch.Seconds()*1e3, "ms/fetch")
					b.ReportMetric(l.delays(), "delays+fetch")
					b.ReportMetric(0, "ns/op")
				}
			})
		}
	}
}

// The commit of five peers takes less than three delays plus the fetch.
func TestSimSwarmCommitLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := commitLatency(t, 5, 5, true)
		t.Logf("%v from the last delta to the commit, %v of it in its fetch: %.2f delays plus fetch; last peer %.2f", l.total, l.fetch, l.delays(), l.worst)
		if l.delays() >= 3 {
			t.Errorf("%.2f one-way delays plus fetch, want less than 3", l.delays())
		}
	})
}

// latency is a median over rounds and peers.
type latency struct {
	total time.Duration // from the publication of the last delta to the adoption of the commit
	fetch time.Duration // that this peer took to fetch what it had last, or its author's peers had
	worst float64       // of all, in delays
}

func (l latency) delays() float64 { return float64(l.total-l.fetch) / float64(oneWay) }

// commitLatency runs n peers for some rounds, and counts from the fourth on.
// With last, one of them ends its inner phase 300 ms after the others, so that
// its delta travels alone.
func commitLatency(t *testing.T, n int, rounds uint64, last bool) latency {
	s := newSimSwarm(t, simOptions{
		hidden: 64,
		speed: func(i int) time.Duration {
			if last && i == n-1 {
				return 530 * time.Millisecond
			}
			return 500 * time.Millisecond
		},
		change: func(m *manifest.Manifest) {
			m.Admission.MinPeers, m.Stop.Rounds, m.Round.Deadline = n, rounds, time.Minute
		},
	})
	s.start(n)
	s.until("done", 20*time.Minute, isDone)
	s.agree()

	lastSaid := map[uint64]time.Time{} // by round
	roundOf := map[wire.CID]uint64{}
	for _, p := range s.peers {
		for c, said := range p.watch.said {
			roundOf[c] = said.round
			if said.at.After(lastSaid[said.round]) {
				lastSaid[said.round] = said.at
			}
		}
	}
	// The fetch that ends last, of all peers, is what everybody waits for.
	fetched := map[uint64]interval{}
	for _, p := range s.peers {
		for c, f := range p.watch.fetched {
			if _, own := p.watch.said[c]; own {
				continue
			}
			if r := roundOf[c]; f.to.After(fetched[r].to) {
				fetched[r] = f
			}
		}
	}
	var all []latency
	for _, p := range s.peers {
		for r, rec := range p.history() {
			if r < 4 || r > rounds { // the first rounds are for finding one another
				continue
			}
			if rec.Deltas != n {
				t.Errorf("round %d has %d deltas of %d", r, rec.Deltas, n)
			}
			f := fetched[r-1]
			l := latency{total: rec.Time.Sub(lastSaid[r-1]), fetch: f.to.Sub(maxTime(f.from, lastSaid[r-1]))}
			if os.Getenv("SHOAL_TEST_LATENCY") != "" {
				t.Logf("peer %d round %d: said, fetch from %v to %v, adopted %v", p.i, r, f.from.Sub(lastSaid[r-1]), f.to.Sub(lastSaid[r-1]), l.total)
			}
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b latency) int { return cmp.Compare(a.delays(), b.delays()) })
	l := all[len(all)/2]
	l.worst = all[len(all)-1].delays()
	return l
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

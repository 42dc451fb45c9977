package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/p2ptest"
)

// What a round costs on the wire: ideally each peer fetches each other's delta
// once. Messages, sync and the DHT come on top; nothing is to come twice. A
// newcomer fetches the state and the lineage once, and is no burden to others
// besides.
func TestSimSwarmBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5
		s := newSimSwarm(t, simOptions{hidden: 128, change: func(m *manifest.Manifest) {
			m.Admission.MinPeers, m.Stop.Rounds = n, 10
		}})
		s.start(n)
		s.until("round 2", 5*time.Minute, atRound(2))
		before := s.traffic()
		s.until("round 7", 5*time.Minute, atRound(6))
		steady := s.traffic().less(before)
		delta := s.peers[0].history()[5].Bytes / n
		ideal := float64(4 * n * (n - 1) * delta) // four rounds
		t.Logf("deltas of %.0f kB: four rounds of %d peers took %.1f MB, %.3f times the ideal, blocks %.3f, of these twice %.3f",
			float64(delta)/1e3, n, steady.host/1e6, steady.host/ideal, steady.blocks/ideal, steady.dup/ideal)
		if r := steady.host / ideal; r > 1.1 {
			t.Errorf("peers received %.2f times what they need", r)
		}

		p := s.peer(n)
		p.start(p2ptest.Addr(3))
		s.until("a contribution of the newcomer", 5*time.Minute, func(st node.Status) bool { return st.RoundsContributed > 0 }, n)
		s.until("done", 5*time.Minute, isDone)
		needs := float64(p.node.Status().Checkpoint.Total)
		for r, h := range s.peers[0].history() {
			if r <= s.manifest.Stop.Rounds {
				needs += float64(h.Bytes)
			}
		}
		in, _ := p.host.Bandwidth()
		t.Logf("the newcomer needed %.1f MB, state and lineage, and received %.3f times that", needs/1e6, float64(in)/needs)
		if r := float64(in) / needs; r > 1.1 {
			t.Errorf("the newcomer received %.2f times what it needs", r)
		}
		if all := s.traffic(); all.dup > 0.02*all.host {
			t.Errorf("%.1f of %.1f MB came twice", all.dup/1e6, all.host/1e6)
		}
	})
}

// traffic is what the hosts of all peers have received, and what their
// exchanges have, in bytes.
type traffic struct{ host, blocks, dup float64 }

func (s *simSwarm) traffic() (sum traffic) {
	for _, i := range s.running() {
		in, _ := s.peers[i].host.Bandwidth()
		x := s.peers[i].ex.Stats()
		sum.host += float64(in)
		sum.blocks += float64(x.Bytes)
		sum.dup += float64(x.DupBytes)
	}
	return sum
}

func (t traffic) less(u traffic) traffic {
	return traffic{t.host - u.host, t.blocks - u.blocks, t.dup - u.dup}
}

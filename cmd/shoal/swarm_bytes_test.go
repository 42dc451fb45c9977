package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node/manifest"
)

// What a round costs on the wire: ideally each peer fetches each other's delta
// once. Gossip, sync and the DHT come on top; nothing is to come twice.
func TestSimSwarmBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5
		s := newSimSwarm(t, simOptions{hidden: 256, change: func(m *manifest.Manifest) {
			m.Admission.MinPeers, m.Stop.Rounds = n, 8
		}})
		s.start(n)
		s.until("round 2", 5*time.Minute, atRound(2))
		before := s.traffic()
		s.until("round 7", 5*time.Minute, atRound(7))
		after := s.traffic()
		t.Logf("%+v", before)
		t.Logf("%+v", after)
		for _, i := range s.running() {
			h := s.peers[i].history()
			for r := uint64(1); r <= 7; r++ {
				t.Logf("peer %d round %d: in %d out %d, delta bytes %d", i, r, h[r].BytesIn, h[r].BytesOut, h[r].Bytes)
			}
			t.Logf("%+v", s.peers[i].ex.Stats())
		}
	})
}

// traffic is what the hosts of all peers have received, and what their
// exchanges have, in bytes.
type traffic struct{ host, blocks, dup uint64 }

func (s *simSwarm) traffic() (sum traffic) {
	for _, i := range s.running() {
		in, _ := s.peers[i].host.Bandwidth()
		x := s.peers[i].ex.Stats()
		sum.host += in
		sum.blocks += x.Bytes
		sum.dup += x.DupBytes
	}
	return sum
}

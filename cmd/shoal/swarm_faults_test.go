package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/p2ptest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// The publisher, whom all bootstrapped from, and half of the peers with it are
// gone at one instant, without a goodbye. The rest train on: weak at first,
// final again once the roster has shrunk and the voters have leaked. Then one of
// the dead comes back knowing nothing but its cache, and a newcomer knowing one of the rest.
func TestSimSwarmLosesBootstrapAndHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimSwarm(t, simOptions{change: func(m *manifest.Manifest) {
			m.Admission.MinPeers, m.Stop.Rounds = 6, 20
			m.Round.DropAfter, m.Round.LeakAfter = 2, 3
		}})
		s.start(6)
		s.until("a final round 3", 5*time.Minute, func(st node.Status) bool { return st.FinalRound >= 3 })
		s.die(0, 1, 2)
		died, at := s.peers[3].node.Status(), time.Now()
		s.until("weak rounds", 2*time.Minute, func(st node.Status) bool { return st.Weak && st.Round > died.Round })
		weak := s.peers[3].node.Status()
		if weak.FinalRound > died.Round {
			t.Errorf("round %d is final on the word of half", weak.FinalRound)
		}
		s.until("final again", 5*time.Minute, func(st node.Status) bool {
			return st.Roster == 3 && !st.Weak && st.FinalRound > weak.Round
		})
		t.Logf("died at round %d; final again at round %d after %v", died.Round, s.peers[3].node.Status().Round, time.Since(at))

		s.part(0, 1)
		s.peers[1].start() // no bootstrap: the first is dead
		s.peer(6).start(p2ptest.Addr(4))
		s.until("five in the roster", 3*time.Minute, func(st node.Status) bool { return st.Roster == 5 })
		s.until("contributions of those who came", 3*time.Minute, func(st node.Status) bool { return st.RoundsContributed > 0 }, 1, 6)
		s.until("done", 10*time.Minute, isDone)
		st := s.agree()
		for r, rec := range s.peers[3].history() {
			if r > died.Round+1 && r <= s.manifest.Stop.Rounds && rec.Deltas < 3 {
				t.Errorf("round %d: %d deltas: training stopped", r, rec.Deltas)
			}
		}
		s.stopAll()
		s.peers[6].verify(st.Result)
	})
}

// Three peers and two lose sight of each other for several rounds. Each side
// goes on, weak; afterwards there is one chain within two rounds, the heavier
// side's, and what the lighter side trained last enters it late.
func TestSimSwarmPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimSwarm(t, simOptions{change: func(m *manifest.Manifest) {
			m.Admission.MinPeers, m.Stop.Rounds = 5, 12
			m.Round.DropAfter = 20
		}})
		s.start(5)
		s.until("a final round 3", 5*time.Minute, func(st node.Status) bool { return st.FinalRound >= 3 })
		s.part(1, 3, 4)
		before := s.peers[0].node.Status().Round
		s.until("three rounds apart", 5*time.Minute, atRound(before+4))
		a, b := s.peers[0].node.Status(), s.peers[3].node.Status()
		if a.Head == b.Head || a.FinalRound > before+1 || b.FinalRound > before+1 {
			t.Errorf("apart since round %d, the sides are at round %d (final %d) and %d (final %d)", before, a.Round, a.FinalRound, b.Round, b.FinalRound)
		}
		s.part(0, 3, 4)
		healed, at := max(a.Round, b.Round), time.Now()
		s.until("one head", 5*time.Minute, func(st node.Status) bool {
			return st.Round > healed && st.Head == s.peers[0].node.Status().Head
		})
		one := s.peers[0].node.Status().Round
		if one > healed+2 {
			t.Errorf("healed at round %d, one head at round %d only", healed, one)
		}
		t.Logf("apart from round %d to %d, one head at round %d after %v", before, healed, one, time.Since(at))
		s.until("done", 10*time.Minute, isDone)
		s.agree()
		light := map[wire.PeerID]bool{s.peers[3].key.Peer(): true, s.peers[4].key.Peer(): true}
		late, lights := 0, 0
		for r := healed + 1; r <= healed+2; r++ {
			rec := s.peers[0].history()[r]
			late += rec.Late
			for _, p := range rec.DeltaPeers {
				if light[p] {
					lights++
				}
			}
		}
		t.Logf("the two rounds after healing merge %d deltas of the lighter side, %d deltas are late", lights, late)
		if late == 0 || lights <= 2 {
			t.Error("what the lighter side trained while apart is lost")
		}
	})
}

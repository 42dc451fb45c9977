package diloco

import (
	"runtime"
	"testing"
	"weak"
)

// What is final and beyond what the rules look back to takes no memory.
func TestOldCommitsAreForgotten(t *testing.T) {
	s := newSwarm(t, 3, Config{StopRound: 1000})
	s.to(2)
	m := s.peers[0].m
	early := weak.Make(m.head)
	s.to(60)
	runtime.GC()
	if early.Value() != nil {
		t.Errorf("the commit of round 2 is in memory in round %d, of which the oldest that is looked at is %d", m.head.round, m.root.round)
	}
}

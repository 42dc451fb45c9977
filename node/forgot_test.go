package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Whose journal is lost or damaged does not know any more what it said. It says nothing
// about the rounds that it may have spoken of, tells its user so, and is back after them.
func TestForgotWhatItSaid(t *testing.T) {
	for name, harm := range map[string]func(wal string) error{
		"gone": os.Remove,
		"cut in half": func(wal string) error {
			fi, err := os.Stat(wal)
			if err != nil {
				return err
			}
			return os.Truncate(wal, fi.Size()/2)
		},
		"zeros in the middle": func(wal string) error {
			b, err := os.ReadFile(wal)
			if err != nil {
				return err
			}
			clear(b[len(b)/4:])
			copy(b[len(b)-1:], "x") // not the tail of an append
			return os.WriteFile(wal, b, 0o600)
		},
	} {
		for i := range 6 {
			t.Run(fmt.Sprintf("%s %d", name, i), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSwarm(t, func(m *manifest.Manifest) { m.Stop.Rounds = 12 })
					s.start(4)
					s.until("round 3", 10*time.Minute, round(3))
					time.Sleep(time.Duration(i) * 2700 * time.Millisecond)
					m := s.members[2]
					m.kill()
					if err := harm(filepath.Join(m.dir, journalDir, "wal")); err != nil {
						t.Fatal(err)
					}
					m.start()
					s.until("the user is told", time.Minute, func(st Status) bool { return strings.Contains(st.Trouble, "journal") }, 2)
					s.until("it works again", 10*time.Minute, func(st Status) bool { return st.RoundsContributed > 0 && st.Trouble == "" && st.Phase == Training }, 2)
					s.until("done", 10*time.Minute, done)
					s.agree()
					for n, m := range s.members {
						if st := m.node.Status(); len(st.Evicted) > 0 {
							t.Errorf("node %d has evicted %v", n, st.Evicted)
						}
					}
					s.stopAll()
				})
			})
		}
	}
}

// A history that a power cut left full of zeros is put aside.
func TestDamagedHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), historyFile)
	if err := os.WriteFile(path, []byte("{\"round\":1}\n\x00\x00\x00\n{\"round\":3}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := openHistory(path, testLogger())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.append(Record{Round: 4}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path + ".corrupt"); err != nil || !strings.Contains(string(b), `"round":3`) {
		t.Errorf("what was there is not kept: %q, %v", b, err)
	}
	if h, err = openHistory(path, testLogger()); err != nil || h.last.Round != 4 {
		t.Errorf("%+v, %v", h, err)
	}
}

// Who has been evicted is told so, why, and what can be done.
func TestEvictedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) { m.Stop.Rounds = 8 })
		s.start(4)
		s.until("round 2", 10*time.Minute, round(2))
		m, st := s.members[2], s.members[0].node.Status()
		for _, size := range []uint64{10, 11} { // as a second process with this key might
			b, err := wire.Marshal(&diloco.Delta{Parent: st.Head, Round: st.Round, State: st.State, Block: s.run, Bytes: size, Steps: 1, Tokens: 16})
			if err != nil {
				t.Fatal(err)
			}
			said := m.key.Sign(wire.KindDelta, s.run, b)
			data, err := said.Encode()
			if err != nil {
				t.Fatal(err)
			}
			s.members[0].host.topic(RunTopic(s.run)).deliver(m.peer(), data)
		}
		s.until("the user is told", 10*time.Minute, func(st Status) bool {
			return strings.Contains(st.Trouble, "evicted") && strings.Contains(st.Trouble, "--dir")
		}, 2)
		s.until("done", 10*time.Minute, done)
	})
}

// Who cannot follow because its disk is full is told so, also while it only fetches.
func TestFullDiskIsToldWhileSyncing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) { m.Stop.Rounds = 12 })
		s.start(4)
		s.until("round 2", 10*time.Minute, round(2))
		m := s.members[3]
		m.kill()
		m.shelf.setFull(true)
		s.until("round 6", 10*time.Minute, round(6), 0, 1, 2)
		m.opt = func(o *Options) { o.Observe = true } // who trains may have other words for it
		m.start()
		s.until("the user is told", 2*time.Minute, func(st Status) bool { return strings.Contains(st.Trouble, errFull.Error()) }, 3)
		m.shelf.setFull(false)
		s.until("it follows again", 10*time.Minute, func(st Status) bool { return st.Trouble == "" && st.Round > 6 }, 3)
		s.until("done", 15*time.Minute, done)
		s.agree()
	})
}

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/journal"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

func TestKilledNodeResumesItsInnerPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) { m.Round.InnerSteps = 20 })
		s.start(4)
		m := s.members[2]
		s.until("in the middle of round 2", 10*time.Minute, func(st Status) bool {
			return st.Round == 2 && st.InnerStep >= 12 && st.Phase == Training
		}, 2)
		before := m.node.Status()
		m.kill()
		said := m.said()
		m.start()
		s.until("training again", time.Minute, func(st Status) bool { // the machine's word alone comes before the first step
			return st.Phase == Training && st.Round == 2 && st.InnerStep > 0
		}, 2)
		st := m.node.Status()
		// Steps take 0.5 s, snapshots come every 2 s.
		if st.Resumed < before.InnerStep-5 || st.Resumed > before.InnerStep {
			t.Errorf("killed at step %d, resumed at %d", before.InnerStep, st.Resumed)
		}
		s.until("done", 10*time.Minute, done)
		st = s.agree()
		if want := s.manifest.Stop.Rounds - 1; m.node.Status().RoundsContributed != want {
			t.Errorf("contributed to %d rounds of %d: the crash cost a round", m.node.Status().RoundsContributed, want)
		}
		if r := m.verify(st.Result); !r.Verified {
			t.Errorf("lineage from the store of the killed: %s", r.Mismatch)
		}
		s.stopAll()
		for about, id := range m.said() {
			if old, ok := said[about]; ok && old != id {
				t.Errorf("after the crash it said otherwise: %s", about)
			}
		}
	})
}

// Killed at many instants, above all around the end of a phase: nothing is
// contradicted, no payload counted twice, and everybody agrees.
func TestKilledAtAnyInstant(t *testing.T) {
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSwarm(t, func(m *manifest.Manifest) { m.Stop.Rounds = 5; m.Codec.Kind = "int4" })
				s.start(3)
				s.until("round 1", 10*time.Minute, round(1))
				time.Sleep(4600*time.Millisecond + time.Duration(i)*61*time.Millisecond)
				m := s.members[i%3]
				m.kill()
				time.Sleep(time.Duration(i%4) * 300 * time.Millisecond)
				m.start()
				s.until("done", 10*time.Minute, done)
				st := s.agree()
				if r := m.verify(st.Result); !r.Verified {
					t.Error(r.Mismatch)
				}
				for n, m := range s.members {
					if c := m.node.Status().RoundsContributed; c < 3 {
						t.Errorf("node %d contributed to %d rounds", n, c)
					}
				}
				s.stopAll()
				m.said()
			})
		})
	}
}

func TestNewcomerContributesInTheNextRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) { m.Stop.Rounds = 11 })
		s.start(3)
		s.until("round 6", 10*time.Minute, round(6)) // too far to redo the outer steps
		m := s.member(7)
		m.start()
		came := s.members[0].node.Status().Round
		s.until("in a round", 5*time.Minute, func(st Status) bool { return st.RoundsContributed > 0 }, 7)
		s.until("done", 10*time.Minute, done)
		st := s.agree()
		first := uint64(0)
		for _, r := range s.members[0].history() {
			for _, p := range r.DeltaPeers {
				if p == m.peer() && first == 0 {
					first = r.Round
				}
			}
		}
		// It hears of round r, joins by r+1's roster, trains from it: in by r+2 or r+3.
		if first == 0 || first > came+3 {
			t.Errorf("came at round %d, its first delta is in round %d", came, first)
		}
		if m.node.Status().Checkpoint.Done == 0 {
			t.Error("no checkpoint was fetched")
		}
		// The archive reaches back to genesis, though it was not there.
		time.Sleep(30 * time.Second)
		if r := m.verify(st.Result); !r.Verified || r.Steps != int(s.manifest.Stop.Rounds) {
			t.Errorf("lineage from the newcomer's store: %+v", r)
		}
	})
}

func TestPartitionHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) {
			m.Stop.Rounds, m.Admission.MinPeers, m.Round.DropAfter = 14, 5, 20
			m.Round.Deadline = 8 * time.Second
		})
		s.start(5)
		s.until("round 3", 10*time.Minute, round(3))
		var a, b []wire.PeerID
		for n, m := range s.members {
			if n < 3 {
				a = append(a, m.peer())
			} else {
				b = append(b, m.peer())
			}
		}
		s.sea.split(a, b)
		time.Sleep(70 * time.Second)
		x, y := s.members[0].node.Status(), s.members[4].node.Status()
		if x.Round < 5 || y.Round < 5 || x.Head == y.Head {
			t.Errorf("apart, the sides are at rounds %d and %d", x.Round, y.Round)
		}
		if x.FinalRound > 4 || y.FinalRound > 4 {
			t.Errorf("final without two thirds: rounds %d and %d", x.FinalRound, y.FinalRound)
		}
		s.sea.split()
		healed := max(x.Round, y.Round)
		s.until("on one chain", 2*time.Minute, func(st Status) bool {
			return st.FinalRound > healed
		})
		s.until("done", 20*time.Minute, done)
		st := s.agree()
		if r := s.members[4].verify(st.Result); !r.Verified {
			t.Error(r.Mismatch)
		}
		late := 0
		for _, r := range s.members[0].history() {
			late += r.Late
		}
		t.Logf("late deltas after healing: %d", late)
	})
}

func TestLeaverIsMissedByNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) { m.Stop.Rounds = 8 })
		s.start(4)
		s.until("round 3", 10*time.Minute, round(3))
		m := s.members[3]
		m.node.Leave()
		m.node.Leave()
		if err := m.end(10 * time.Minute); err != nil {
			t.Fatal(err)
		}
		s.until("a roster of three", 2*time.Minute, func(st Status) bool { return st.Roster == 3 })
		s.until("done", 10*time.Minute, done)
		s.agree()
	})
}

func TestHostileMessagesAreCountedAndSurvived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) { m.Stop.Rounds = 8 })
		s.start(3)
		s.until("round 2", 10*time.Minute, round(2))
		st := s.members[0].node.Status()
		evil := testKey(t, 9)
		ear := s.members[0].host.topic(RunTopic(s.run))
		encode := func(m wire.Signed) []byte {
			b, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		body := func(v any) []byte {
			b, err := wire.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		delta := diloco.Delta{Parent: st.Head, Round: st.Round, State: st.State, Block: s.run, Bytes: 10, Steps: 1, Tokens: 16}
		good := evil.Sign(wire.KindDelta, s.run, body(&delta))
		forged := good
		forged.From = s.members[1].peer()
		other := wire.SumCID(wire.CodecDagCBOR, []byte("other"))
		wrongState := delta
		wrongState.State = other
		nan := body(&delta) // the loss, 64 bits, made NaN
		for i := 0; i+9 <= len(nan); i++ {
			if string(nan[i:i+5]) == "dloss" {
				copy(nan[i+5:], []byte{0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0})
			}
		}
		for _, c := range []struct {
			name string
			data []byte
			want string // the reason that is counted, "" for the machine's own
		}{
			{"truncated", encode(good)[:50], "malformed"},
			{"empty", nil, "malformed"},
			{"oversized", make([]byte, wire.MaxMessage+1), "oversized"},
			{"trailing", append(encode(good), 0), "malformed"},
			{"wrongly signed", encode(forged), "signature"},
			{"wrong run", encode(evil.Sign(wire.KindDelta, other, body(&delta))), "wrong run"},
			{"wrong kind", encode(evil.Sign(wire.KindAnnounce, s.run, body(&delta))), "kind"},
			{"not a number", encode(evil.Sign(wire.KindDelta, s.run, nan)), ""},
			{"wrong state", encode(evil.Sign(wire.KindDelta, s.run, body(&wrongState))), ""},
			{"body of another kind", encode(evil.Sign(wire.KindVote, s.run, body(&delta))), ""},
		} {
			before := s.members[0].node.Status().Rejections[c.want]
			if j := ear.deliver(evil.Peer(), c.data); j != wire.Reject {
				t.Errorf("%s: %v", c.name, j)
			}
			if c.want != "" && s.members[0].node.Status().Rejections[c.want] != before+1 {
				t.Errorf("%s: not counted as %q: %v", c.name, c.want, s.members[0].node.Status().Rejections)
			}
		}
		// A stranger's well-formed words about this run weigh nothing; a replay is not relayed.
		real := s.recorded(0)
		first := ear.deliver(evil.Peer(), encode(real))
		if again := ear.deliver(evil.Peer(), encode(real)); first == wire.Reject || again == wire.Reject {
			t.Errorf("a replayed message of a member was held against its bringer: %v, %v", first, again)
		}
		// Questions that are none.
		for _, q := range [][]byte{nil, []byte("rubbish"), body(&syncAsk{Run: other})} {
			if _, err := s.members[1].host.Ask(t.Context(), s.members[0].peer(), SyncProto, q, maxSyncReply); err == nil {
				t.Errorf("the question %q was answered", q)
			}
		}
		s.until("done", 10*time.Minute, done)
		s.agree()
	})
}

// recorded returns some message that member n has signed.
func (s *swarm) recorded(n int) wire.Signed {
	j, recs, err := journal.Open(filepath.Join(s.copied(n), journalDir))
	if err != nil {
		s.t.Fatal(err)
	}
	defer j.Close()
	for _, r := range recs {
		if r.Type == recSaid {
			m, err := wire.Decode(r.Data)
			if err != nil {
				s.t.Fatal(err)
			}
			return *m
		}
	}
	s.t.Fatal("nothing was said")
	return wire.Signed{}
}

func (s *swarm) copied(n int) string {
	synctest.Wait()
	dir := s.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(s.members[n].dir)); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// A member that offers blocks which are not what they should be is outvoted.
func TestBadPayloadsAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) { m.Admission.MinPeers = 4 })
		for i := range 4 {
			m := s.member(i)
			if i == 0 {
				m.seed()
			}
		}
		bad := s.members[3]
		n := 0
		spoil := func(b []byte) []byte {
			n++
			b = append([]byte{}, b...)
			switch n % 4 {
			case 0:
				b = b[:len(b)-1] // truncated
			case 1:
				b[130] ^= 1 // another's name
			case 2:
				b[90] ^= 1 // another parent
			case 3:
				b[len(b)-1] = 0x80 // a code that does not exist
			}
			return b
		}
		bad.opt = func(o *Options) { o.Blocks = spoiler{o.Blocks.(*crate), s.model.Codec.Size(), spoil} }
		for i := range 4 {
			s.members[i].start()
		}
		s.until("done", 10*time.Minute, done, 0, 1, 2)
		st := s.members[0].node.Status()
		if st.Rejections["bad delta"] == 0 {
			t.Errorf("not counted: %v", st.Rejections)
		}
		for _, r := range s.members[0].history() {
			for _, p := range r.DeltaPeers {
				if p == bad.peer() {
					t.Errorf("a spoilt delta is in round %d", r.Round)
				}
			}
		}
		if r := s.members[1].verify(st.Result); !r.Verified {
			t.Error(r.Mismatch)
		}
	})
}

// spoiler stores payloads other than it is given.
type spoiler struct {
	*crate
	size  int
	spoil func([]byte) []byte
}

func (x spoiler) PutFile(ctx context.Context, b []byte) (wire.CID, error) {
	if len(b) == x.size {
		b = x.spoil(b)
	}
	return x.crate.PutFile(ctx, b)
}

func TestFullDiskLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) { m.Stop.Rounds = 10 })
		var full bool
		var once error
		for i := range 4 {
			m := s.member(i)
			if i == 0 {
				m.seed()
			}
		}
		m := s.members[3]
		m.opt = func(o *Options) { o.openJournal = openerOf(m.dir, &full, &once) }
		steps := uint64(0)
		m.engine.before = func(uint64) error { steps++; return nil }
		for i := range 4 {
			s.members[i].start()
		}
		s.until("round 2", 10*time.Minute, round(2))
		synctest.Wait()
		full = true
		m.shelf.setFull(true)
		s.until("in trouble", 2*time.Minute, func(st Status) bool { return strings.Contains(st.Trouble, errFull.Error()) }, 3)
		said := len(m.said())
		s.until("round 4", 5*time.Minute, round(4), 0, 1, 2)
		if n := len(m.said()); n != said {
			t.Errorf("%d messages were journaled on a full disk", n-said)
		}
		synctest.Wait()
		full = false
		m.shelf.setFull(false)
		s.until("done", 15*time.Minute, done)
		s.agree()
		s.stopAll()
		m.said()
		if most := s.manifest.Stop.Rounds * s.manifest.Round.InnerSteps; steps > most {
			t.Errorf("%d inner steps for a run of %d: some were done again", steps, most)
		}
	})
}

func TestDamageIsToldApartAndMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) { m.Stop.Rounds = 9 })
		s.start(4)
		m := s.members[1]
		s.until("round 3", 10*time.Minute, round(3))
		time.Sleep(3 * time.Second)
		m.kill()
		for _, name := range []string{phaseFile, feedbackFile} {
			path := filepath.Join(m.dir, innerDir, name)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// Half of the store is gone as well.
		i := 0
		for c := range m.shelf.blocks {
			if i++; i%2 == 0 {
				m.shelf.drop(c)
			}
		}
		m.shelf.pins = map[string]wire.CID{}
		m.start()
		s.until("done", 15*time.Minute, done)
		s.agree()
		for _, name := range []string{phaseFile, feedbackFile} {
			if _, err := os.Stat(filepath.Join(m.dir, innerDir, name+".bad")); err != nil {
				t.Errorf("the damaged file was not kept: %v", err)
			}
		}
		m.stop()
		// A journal of another run is refused, not mixed in.
		other := s.member(8)
		other.dir = m.dir
		other.opt = func(o *Options) {
			mf := *s.manifest
			mf.Model.Seed++
			c, err := mf.CID()
			if err != nil {
				t.Fatal(err)
			}
			o.Run, o.Manifest = c, &mf
		}
		other.seed()
		other.start()
		err := other.end(time.Minute)
		if err == nil || !strings.Contains(err.Error(), "another run") {
			t.Errorf("directory of another run: %v", err)
		}
	})
}

func TestDivergedPhaseSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, nil)
		for i := range 4 {
			m := s.member(i)
			if i == 0 {
				m.seed()
			}
		}
		bad, sick := s.members[3], s.members[2]
		nan := float32(0)
		bad.engine.poison = nan / nan
		fails := 0
		sick.engine.before = func(uint64) error {
			if fails++; fails%7 == 0 {
				return errors.New("the device is lost")
			}
			return nil
		}
		for i := range 4 {
			s.members[i].start()
		}
		s.until("done", 15*time.Minute, done)
		for _, r := range s.members[0].history() {
			for _, p := range r.DeltaPeers {
				if p == bad.peer() {
					t.Errorf("a diverged delta is in round %d", r.Round)
				}
			}
		}
		if bad.node.Status().Rejections["own phase diverged"] == 0 {
			t.Error("divergence was not counted")
		}
		if sick.node.Status().RoundsContributed == 0 {
			t.Error("a device that fails now and then kept its peer out of every round")
		}
	})
}

package node

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

func TestOutageOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) { m.Stop.Rounds = 8 })
		s.start(4)
		s.until("round 3", 10*time.Minute, round(3))
		time.Sleep(3 * time.Second)
		for n := range 4 {
			s.members[n].kill()
		}
		time.Sleep(time.Hour)
		for n := range 4 {
			s.members[n].start()
		}
		s.until("done", 20*time.Minute, done)
		st := s.agree()
		for n := range 4 {
			if c := s.members[n].node.Status().RoundsContributed; c != 7 {
				t.Errorf("node %d contributed to %d rounds of 7", n, c)
			}
		}
		// What is done stays done, also for a peer that starts alone.
		s.stopAll()
		m := s.members[2]
		m.opt = func(o *Options) { o.ExitWhenDone = true }
		m.start()
		if err := m.end(10 * time.Minute); err != nil {
			t.Fatal(err)
		}
		if got := m.node.Status(); got.Result != st.Result || got.ResultState != st.ResultState {
			t.Errorf("after a restart the result is %s, it was %s", got.Result, st.Result)
		}
	})
}

func TestObserverAndPruner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) { m.Stop.Rounds = 24; m.Round.InnerSteps = 2 })
		s.start(3)
		watch, frugal := s.member(5), s.member(6)
		watch.opt = func(o *Options) { o.Observe = true }
		frugal.opt = func(o *Options) { o.Prune = true; o.ValEvery = 4 }
		watch.start()
		frugal.start()
		s.until("done", 20*time.Minute, done)
		st := s.agree()
		if w := watch.node.Status(); w.RoundsContributed != 0 || w.Roster != 4 || w.Tokens != 0 {
			t.Errorf("the observer took part: %+v", w)
		}
		time.Sleep(30 * time.Second)
		if r := watch.verify(st.Result); !r.Verified {
			t.Errorf("lineage from the observer's store: %s", r.Mismatch)
		}
		count := func(m *member, kind string) (n int) {
			for name := range m.shelf.pins {
				if strings.HasPrefix(name, kind+"/") {
					n++
				}
			}
			return n
		}
		synctest.Wait()
		if all, few := count(watch, "delta"), count(frugal, "delta"); few >= all {
			t.Errorf("the pruner keeps %d deltas, the archive %d", few, all)
		}
		for _, m := range s.members {
			if n := count(m, "state"); n > keepBranch+2 {
				t.Errorf("node %d keeps %d states", m.n, n)
			}
			if n := count(m, "own"); n > 4 {
				t.Errorf("node %d keeps %d own payloads", m.n, n)
			}
		}
	})
}

// A run that starts from a checkpoint begins with its weights.
func TestBaseCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		donor := newSwarm(t, nil)
		w := make([]float32, donor.model.Params())
		for i := range w {
			w[i] = 0.5
		}
		shelf := newShelf()
		base, err := donor.model.Put(t.Context(), &crate{shelf, nil}, &State{w, make([]float32, len(w))}, Position{Run: donor.run})
		if err != nil {
			t.Fatal(err)
		}
		s := newSwarm(t, func(m *manifest.Manifest) { m.Model.Base = base; m.Stop.Rounds = 3 })
		for c, b := range shelf.blocks {
			s.publish[c] = b
		}
		s.start(3)
		s.until("done", 10*time.Minute, done)
		s.agree()
		m := s.members[2]
		first, _, err := s.model.Load(t.Context(), &crate{m.shelf, m.host}, m.shelf.pins[genesisPin])
		if err != nil || first.Params[3] != 0.5 {
			t.Errorf("genesis weights %v, %v", first, err)
		}
		if got := m.shelf.pins[basePin]; got != base { // for those who come when the publisher is gone
			t.Errorf("the base is pinned as %q", got)
		}
	})
}

func TestEndsBeforeItBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, nil)
		a, b := s.member(1), s.member(2) // nobody has the manifest
		a.start()
		b.start()
		time.Sleep(time.Minute)
		if st := a.node.Status(); st.Phase != Syncing || st.Trouble == "" {
			t.Errorf("without a manifest: %+v", st)
		}
		a.node.Leave()
		if err := a.end(time.Minute); err != nil {
			t.Error(err)
		}
		b.stop()
	})
}

func TestOptionsAreChecked(t *testing.T) {
	s := newSwarm(t, nil)
	m := s.member(0)
	h := s.sea.join(context.Background(), m.peer(), m.shelf)
	good := Options{
		Dir: t.TempDir(), Key: m.key, Run: s.run, Net: h, Blocks: &crate{m.shelf, h},
		Engine: func(context.Context, *manifest.Manifest) (Engine, error) { return nil, errors.New("no device") },
	}
	for _, c := range []struct {
		want   string
		change func(*Options)
	}{
		{"Dir", func(o *Options) { o.Dir = "" }},
		{"must be set", func(o *Options) { o.Engine = nil }},
		{"the key is of", func(o *Options) { o.Key = testKey(t, 3) }},
		{"not the ID of a run", func(o *Options) { o.Run = wire.SumCID(wire.CodecRaw, nil) }},
		{"the manifest is", func(o *Options) { x := *s.manifest; x.Model.Seed++; o.Manifest = &x }},
	} {
		o := good
		c.change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.want, err)
		}
	}
	m.seed()
	n, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no device") {
		t.Errorf("an engine that cannot be made: %v", err)
	}
	if err := n.Run(t.Context()); err == nil {
		t.Error("Run ran twice")
	}
}

func TestLearningRate(t *testing.T) {
	m := manifest.Default()
	m.Inner.LR, m.Inner.MinLR, m.Inner.Warmup, m.Inner.Steps = 1, 0.1, 10, 110
	check := func(name string, step uint64, want float64) {
		t.Helper()
		m.Inner.Schedule = name
		if got := LearningRate(m, step); math.Abs(got-want) > 1e-12 {
			t.Errorf("%s at step %d: %g, want %g", name, step, got, want)
		}
	}
	for _, s := range []string{"constant", "cosine", "wsd"} {
		check(s, 0, 0.1)
		check(s, 9, 1)
		check(s, 10, 1)
	}
	check("constant", 500, 1)
	check("cosine", 60, 0.55)
	check("cosine", 110, 0.1)
	check("cosine", 500, 0.1)
	m.Inner.DecaySteps = 40
	check("wsd", 70, 1)
	check("wsd", 80, 0.1+0.9*(1-0.5))
	check("wsd", 110, 0.1)
	m.Inner.Warmup = 0
	check("cosine", 0, 1)
}

// A run that admits by stake has the trainers in it that have one, and nobody
// takes part who has no ledger to ask.
func TestAdmissionByStake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) {
			m.Admission.Kind, m.Admission.MinStake = "stake", "5"
			m.Stop.Rounds, m.Round.InnerSteps = 12, 2
		})
		poor := s.member(4)
		var late atomic.Bool                       // it has staked meanwhile
		answers := time.Now().Add(2 * time.Minute) // until then nothing is known of anybody
		asks := func(o *Options) {
			o.Stake = func(p wire.PeerID, validator bool) diloco.Standing {
				switch {
				case time.Now().Before(answers):
					return diloco.Unknown
				case !validator && (p != poor.peer() || late.Load()):
					return diloco.Staked
				}
				return diloco.Unstaked
			}
		}
		for i := range 3 {
			m := s.member(i)
			m.opt = asks
			if i == 0 {
				m.seed()
			}
			m.start()
		}
		poor.opt = asks
		poor.start()
		blind := s.member(5)
		blind.start()
		if err := blind.end(time.Minute); err == nil || !strings.Contains(err.Error(), "chain.json") {
			t.Errorf("without a ledger: %v", err)
		}
		s.until("in round 4", 10*time.Minute, round(4), 0, 1, 2, 4)
		if st := s.members[0].node.Status(); st.Roster != 3 || poor.node.Status().RoundsContributed != 0 {
			t.Errorf("roster of %d, and who has no stake gave %d rounds", st.Roster, poor.node.Status().RoundsContributed)
		}
		late.Store(true)
		s.until("done", 20*time.Minute, done, 0, 1, 2, 4)
		if st := s.members[0].node.Status(); st.Roster != 4 || poor.node.Status().RoundsContributed == 0 {
			t.Errorf("roster of %d, and who has staked meanwhile gave %d rounds", st.Roster, poor.node.Status().RoundsContributed)
		}
	})
}

// A member whose stake goes is removed, is told why and what to do, and is back by
// itself once it has staked again. A ledger that goes away removes nobody.
func TestStakeGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, func(m *manifest.Manifest) {
			m.Admission.Kind, m.Admission.MinStake = "stake", "5"
			m.Stop.Rounds, m.Round.InnerSteps = 24, 2
		})
		poor := testKey(t, 3).Peer()
		var says atomic.Uint32 // of the one that leaves; of the others it says that they have a stake
		says.Store(uint32(diloco.Staked))
		for i := range 4 {
			m := s.member(i)
			m.opt = func(o *Options) {
				o.Stake = func(p wire.PeerID, _ bool) diloco.Standing {
					if says := diloco.Standing(says.Load()); p == poor || says == diloco.Unknown {
						return says
					}
					return diloco.Staked
				}
			}
			if i == 0 {
				m.seed()
			}
			m.start()
		}
		leaver := s.members[3]
		roster := func(n int) func(Status) bool { return func(st Status) bool { return st.Roster == n } }
		s.until("together", 10*time.Minute, func(st Status) bool { return st.Roster == 4 && st.Round >= 3 }, 0, 1, 2, 3)
		says.Store(uint32(diloco.Unknown))
		r := s.members[0].node.Status().Round
		s.until("without the ledger", 10*time.Minute, round(r+3), 0, 1, 2, 3)
		if n := s.members[0].node.Status().Roster; n != 4 {
			t.Fatalf("roster of %d while the ledger is away", n)
		}
		says.Store(uint32(diloco.Unstaked))
		s.until("one less", 10*time.Minute, roster(3), 0, 1, 2, 3)
		if st := leaver.node.Status(); !strings.Contains(st.Trouble, "shoal stake") || st.Role != "" || len(st.Banned) > 0 {
			t.Errorf("who was removed: role %q, banned %v, trouble %q", st.Role, st.Banned, st.Trouble)
		}
		r = s.members[0].node.Status().Round
		s.until("apart", 10*time.Minute, round(r+2), 0, 1, 2, 3)
		says.Store(uint32(diloco.Staked))
		s.until("together again", 10*time.Minute, roster(4), 0, 1, 2, 3)
		if st := leaver.node.Status(); strings.Contains(st.Trouble, "shoal stake") {
			t.Errorf("who is back: trouble %q", st.Trouble)
		}
		s.until("done", 20*time.Minute, done, 0, 1, 2, 3)
	})
}

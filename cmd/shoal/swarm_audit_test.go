package main

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/block"
	"github.com/shoalnet/shoal/p2p/p2ptest"
)

// paced is the engine that trains in earnest, with steps that take a while; a
// cheat's do nothing but that.
type paced struct {
	node.Engine
	speed time.Duration
	cheat bool
}

type pacedTrainer struct {
	node.Trainer
	e *paced
}

func (e *paced) NewTrainer(p []float32) (node.Trainer, error) {
	t, err := e.Engine.NewTrainer(p)
	if err != nil {
		return nil, err
	}
	return pacedTrainer{t, e}, nil
}

func (t pacedTrainer) Step(batch [][]int32, lr float64) (float64, error) {
	time.Sleep(t.e.speed)
	if t.e.cheat {
		return t.Trainer.Step(batch, 1e-3*lr) // a plausible delta, and hidden states of the batch
	}
	return t.Trainer.Step(batch, lr)
}

// Three honest trainers and one that hardly trains, three validators: real
// models, hosts, stores and verdicts. The cheat is convicted, on evidence that
// whoever has the blocks can check; the honest are not.
func TestSimSwarmConvictsACheat(t *testing.T) {
	convictsOne(t, func(*manifest.Manifest) {}, func(e *paced, _ manifest.Manifest) { e.cheat = true })
}

// Where the manifest has a separator, trainers and replays keep documents apart, to the same
// bits; who trains across their borders, and is honest but for that, is convicted.
func TestSimSwarmPacked(t *testing.T) {
	sep := 5
	convictsOne(t, func(m *manifest.Manifest) { m.Inner.Separator = &sep }, func(e *paced, m manifest.Manifest) {
		m.Inner.Separator = nil
		e.Engine = newEngine(&m, 1)
	})
}

// convictsOne runs a swarm in which the engine of one trainer is not as it should be.
func convictsOne(t *testing.T, change func(*manifest.Manifest), spoil func(*paced, manifest.Manifest)) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimSwarm(t, simOptions{change: func(m *manifest.Manifest) {
			m.Verification.AuditRate, m.Verification.Segments = 5000, 3
			m.Admission.MinPeers, m.Stop.Rounds = 4, 8
			m.Round.InnerSteps = 6
			change(m)
		}})
		const trainers, peers, cheat = 4, 7, 2
		for i := range peers {
			p := s.peer(i)
			p.option = func(o *node.Options) {
				e := &paced{}
				if i < trainers {
					e.speed = 200 * time.Millisecond
				} else {
					o.Role = node.RoleValidator
				}
				o.Engine = func(_ context.Context, m *manifest.Manifest) (node.Engine, error) {
					e.Engine = newEngine(m, 1)
					if i == cheat {
						spoil(e, *m)
					}
					return e, nil
				}
			}
			if i == 0 {
				p.start()
			} else {
				p.start(p2ptest.Addr(0))
			}
		}
		guilty := s.peers[cheat].key.Peer()
		honest := slices.DeleteFunc(s.all(), func(i int) bool { return i == cheat })
		s.until("the cheat is banned", 10*time.Minute, func(st node.Status) bool { return slices.Contains(st.Banned, guilty) }, honest...)
		s.until("final", 10*time.Minute, isDone, honest...)
		st := s.peers[0].node.Status()
		l, err := node.ListAudits(t.Context(), blocks{s.peers[5].store, s.peers[5].ex}, st.Result, 0, nil)
		if err != nil || len(l.Convicted) != 1 || l.Convicted[0].Peer != guilty || l.Convicted[0].Why != diloco.WhyWork {
			t.Fatalf("convicted: %+v, %v", l, err)
		}
		passes := 0
		for _, v := range l.Verdicts {
			if v.Finding == "pass" {
				passes++
			} else if v.Peer != guilty {
				t.Errorf("an honest peer is accused: %+v", v)
			}
		}
		if passes < 5 {
			t.Errorf("%d verdicts pass somebody", passes)
		}
		t.Logf("banned by the commit of round %d; %d verdicts", l.Convicted[0].Round, len(l.Verdicts))
		evidence := l.Convicted[0].Evidence
		s.stopAll()
		// The accuser's store alone is enough to see it again.
		for _, i := range []int{4, 5, 6} {
			store, err := block.Open(s.peers[i].dir, block.Options{NoSync: true, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			if !store.Has(evidence) {
				continue
			}
			r, err := node.VerifyEvidence(context.Background(), node.EvidenceCheck{Blocks: blocks{store: store}, Evidence: evidence, Engine: engines(1)})
			if err != nil || !r.Agrees || r.Peer != guilty || r.Auditor != s.peers[i].key.Peer() {
				t.Errorf("evidence: %+v, %v", r, err)
			} else {
				t.Logf("%s", evidenceText(r))
			}
			return
		}
		t.Error("no validator has the evidence")
	})
}

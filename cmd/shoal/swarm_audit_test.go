package main

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/gpu/hf"
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
	convictsOne(t, simOptions{}, func(e *paced, _ manifest.Manifest) { e.cheat = true }, nil)
}

// Where the manifest has a separator, trainers and replays keep documents apart, to the same
// bits; who trains across their borders, and is honest but for that, is convicted.
func TestSimSwarmPacked(t *testing.T) {
	sep := 5
	convictsOne(t, simOptions{change: func(m *manifest.Manifest) { m.Inner.Separator = &sep }}, func(e *paced, m manifest.Manifest) {
		m.Inner.Separator = nil
		e.Engine = newEngine(&m, 1)
	}, nil)
}

// A run that goes on from a Qwen 3 with biases, a window and a stretched RoPE, whose weights
// are bfloat16 in shards: everybody begins with them, and honest phases and replays come
// to the same bits.
func TestSimSwarmContinuesAQwen(t *testing.T) {
	var want []float32
	convictsOne(t, simOptions{
		change: func(m *manifest.Manifest) {
			c := &m.Model.Config
			c.Architectures, c.NumHiddenLayers, c.AttentionBias = []string{"Qwen3ForCausalLM"}, 2, true
			c.SlidingWindow, c.LayerTypes = 3, []string{"full_attention", "sliding_attention"}
			c.RopeScaling = &manifest.RopeScaling{Kind: "yarn", Factor: 4, Original: 4}
		},
		base: func(cfg hf.Config) (files map[string][]byte) {
			files, want = shardedBF16(t, cfg, 3)
			return files
		},
	}, func(e *paced, _ manifest.Manifest) { e.cheat = true }, func(s *simSwarm) {
		t, p := s.t, s.peers[5]
		b := blocks{p.store, p.ex}
		_, model, err := node.LoadRun(t.Context(), b, s.run, nil)
		if err != nil {
			t.Fatal(err)
		}
		pins, err := b.Pins()
		if err != nil {
			t.Fatal(err)
		}
		first, _, err := model.Load(t.Context(), b, pins["run/genesis"])
		if err != nil || !slices.Equal(first.Params, want) {
			t.Errorf("the run begins with other weights: %v", err)
		}
		if pins["run/base"] != s.manifest.Model.Base {
			t.Error("the base is not pinned")
		}
	})
}

// convictsOne runs a swarm in which the engine of one trainer is not as it should be;
// see looks at it at the end.
func convictsOne(t *testing.T, o simOptions, spoil func(*paced, manifest.Manifest), see func(*simSwarm)) {
	synctest.Test(t, func(t *testing.T) {
		change := o.change
		o.change = func(m *manifest.Manifest) {
			m.Verification.AuditRate, m.Verification.Segments = 5000, 3
			m.Admission.MinPeers, m.Stop.Rounds = 4, 8
			m.Round.InnerSteps = 6
			if change != nil {
				change(m)
			}
		}
		s := newSimSwarm(t, o)
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
		if see != nil {
			see(s)
		}
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

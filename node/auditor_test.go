package node

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// A jury is a swarm of some trainers, members 0 and up, and validators after them.
type jury struct {
	*swarm
	trainers, validators int
}

// newJury makes a swarm that audits rate of its deltas; before, if set, changes a
// member before it starts.
func newJury(t *testing.T, trainers, validators int, change func(*manifest.Manifest), before func(*member)) *jury {
	t.Helper()
	j := &jury{newSwarm(t, func(m *manifest.Manifest) {
		audited(m)
		m.Admission.MinPeers, m.Stop.Rounds = trainers, 8
		m.Verification.AuditRate = 5000
		if change != nil {
			change(m)
		}
	}), trainers, validators}
	for n := range trainers + validators {
		m := j.member(n)
		if n == 0 {
			m.seed()
		}
		if n >= trainers {
			m.opt = func(o *Options) { o.Role = RoleValidator }
			m.engine.speed = time.Millisecond // time is for the trainers
		}
		if before != nil {
			before(m)
		}
		m.start()
	}
	return j
}

// chain returns a member's commits, the youngest first.
func (m *member) chain(head wire.CID) (out []*diloco.Commit) {
	for at := head; at.Defined(); {
		c, err := localCommits(context.Background(), &crate{m.shelf, m.host})(at)
		if err != nil {
			m.s.t.Fatal(err)
		}
		out = append(out, c)
		at = c.Parent
	}
	return out
}

// verdicts counts those in a chain by finding.
func verdicts(t *testing.T, chain []*diloco.Commit) (n [3]int, cross int) {
	t.Helper()
	subjects := map[wire.CID]bool{}
	for _, c := range chain {
		for i := range c.Verdicts {
			subjects[c.Verdicts[i].ID()] = true
		}
	}
	for _, c := range chain {
		for i := range c.Verdicts {
			m, err := diloco.Open(&c.Verdicts[i])
			if err != nil {
				t.Fatal(err)
			}
			v := m.Body.(*diloco.Verdict)
			n[v.Finding]++
			if subjects[v.Subject] {
				cross++
			}
		}
	}
	return n, cross
}

// convicted lists those in a chain with the round of it.
func convicted(chain []*diloco.Commit) map[wire.PeerID]diloco.Conviction {
	out := map[wire.PeerID]diloco.Conviction{}
	for _, c := range chain {
		for _, x := range c.Convicted {
			out[x.Peer] = x
		}
	}
	return out
}

// The honest are audited again and again, and nobody is accused.
func TestHonestSwarmIsAudited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJury(t, 3, 2, nil, nil)
		j.until("done", 20*time.Minute, done)
		st := j.agree()
		n, cross := verdicts(t, j.members[0].chain(st.Result))
		if n[diloco.Pass] < 10 || cross == 0 || n[diloco.Wrong]+n[diloco.Withheld] > 0 {
			t.Errorf("verdicts %v, %d about verdicts", n, cross)
		}
		v := j.members[4].node.Status()
		if v.Role != RoleValidator || v.Audits["passed"] == 0 || v.AuditShare <= 0 || v.Tokens != 0 || v.RoundsContributed != 0 {
			t.Errorf("a validator's status: %+v", v)
		}
	})
}

// lazy is an engine whose steps, from the one on that is given in each inner phase, do
// not train but shift the weights a little.
type lazy struct {
	Engine
	from, steps uint64
}

type lazyTrainer struct {
	*toyTrainer
	lazy *lazy
	n    uint64
}

func (e *lazy) NewTrainer(p []float32) (Trainer, error) {
	t, err := e.Engine.NewTrainer(p)
	if err != nil {
		return nil, err
	}
	return &lazyTrainer{t.(*toyTrainer), e, 0}, nil
}

func (t *lazyTrainer) SetParams(p []float32) error { t.n = 0; return t.toyTrainer.SetParams(p) }

func (t *lazyTrainer) Step(batch [][]int32, lr float64) (float64, error) {
	t.n++
	if t.n <= t.lazy.from {
		return t.toyTrainer.Step(batch, lr)
	}
	time.Sleep(t.engine.speed)
	loss, err := t.Eval(batch)
	for i := range t.w {
		t.w[i] += 0.01 * float32(lr)
	}
	t.steps++
	return loss, err
}

// forger proves activations that it never had.
type forger struct{ Engine }

type forgedTrainer struct{ *toyTrainer }

func (e *forger) NewTrainer(p []float32) (Trainer, error) {
	t, err := e.Engine.NewTrainer(p)
	if err != nil {
		return nil, err
	}
	return forgedTrainer{t.(*toyTrainer)}, nil
}

func (t forgedTrainer) Hidden() ([]float32, int) {
	out := make([]float32, len(t.hidden))
	for i := range out {
		out[i] = float32(i%5) - 2
	}
	return out, 8
}

// Each cheat is convicted, by evidence that anybody can check, and nobody else is.
func TestCheatsAreConvicted(t *testing.T) {
	for _, cheat := range []struct {
		name   string
		why    string
		rounds uint64
		make   func(*member)
	}{
		{"trains nothing", diloco.WhyWork, 0, func(m *member) { m.wrap(func(e Engine) Engine { return &lazy{Engine: e} }) }},
		{"right first segment", diloco.WhyWork, 0, func(m *member) { m.wrap(func(e Engine) Engine { return &lazy{Engine: e, from: 4} }) }},
		{"trains nothing, in a run of two rounds", diloco.WhyWork, 3, func(m *member) { m.wrap(func(e Engine) Engine { return &lazy{Engine: e} }) }},
		{"forged proofs", diloco.WhyWork, 0, func(m *member) { m.wrap(func(e Engine) Engine { return &forger{e} }) }},
		{"serves no material", diloco.WhyWithheld, 20, func(m *member) {
			size := 8 + 8*m.engine.n
			m.shelf.serves = func(_ wire.CID, b []byte) bool { return len(b) != size }
		}},
		{"serves no material, in a run of two rounds", diloco.WhyWithheld, 3, func(m *member) {
			size := 8 + 8*m.engine.n
			m.shelf.serves = func(_ wire.CID, b []byte) bool { return len(b) != size }
		}},
		{"keeps who asks waiting", diloco.WhyWithheld, 30, func(m *member) {
			size := 8 + 8*m.engine.n
			m.shelf.stalls = func(_ wire.CID, b []byte) bool { return len(b) == size }
		}},
	} {
		t.Run(cheat.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newJury(t, 4, 3, func(m *manifest.Manifest) {
					if cheat.rounds > 0 {
						m.Stop.Rounds = cheat.rounds
					}
				}, func(m *member) {
					if m.n == 2 {
						cheat.make(m)
					}
				})
				guilty := j.members[2].peer()
				caught := func(st Status) bool { return slices.Contains(st.Banned, guilty) }
				j.until("convicted", 20*time.Minute, caught, 0, 1, 3, 4, 5, 6)
				st := j.members[4].node.Status()
				got := convicted(j.members[4].chain(st.Head))
				c, ok := got[guilty]
				if !ok || c.Why != cheat.why || len(got) != 1 {
					t.Fatalf("convicted: %+v", got)
				}
				t.Logf("banned by round %d", st.Round)
				if cheat.rounds == 3 { // the run is over for all soon after it, and its last commit has that
					j.until("done", 20*time.Minute, done, 0, 1, 3, 4, 5, 6)
					st := j.members[0].node.Status()
					last, err := localCommits(t.Context(), &crate{j.members[0].shelf, j.members[0].host})(st.Result)
					if err != nil || !last.Ends(3, 8) || convicted(j.members[0].chain(st.Result))[guilty].Why != cheat.why {
						t.Errorf("ends in %+v, %v", last, err)
					}
					if cheat.why == diloco.WhyWithheld {
						return // what it did in the first round others have found by themselves since
					}
				}
				// What convicted it can be checked by a third party, from the accuser's blocks.
				m := j.members[0]
				r, err := VerifyEvidence(t.Context(), EvidenceCheck{
					Blocks: &crate{m.shelf, m.host}, Evidence: c.Evidence, Peers: m.host.Peers(),
					Engine: func(context.Context, *manifest.Manifest) (Engine, error) { return m.engine, nil },
				})
				if err != nil || !r.Agrees || r.Peer != guilty {
					t.Errorf("evidence: %+v, %v", r, err)
				}
			})
		})
	}
}

// wrap changes the engine that a member computes with.
func (m *member) wrap(f func(Engine) Engine) {
	old := m.opt
	m.opt = func(o *Options) {
		if old != nil {
			old(o)
		}
		o.Engine = func(context.Context, *manifest.Manifest) (Engine, error) { return f(m.engine), nil }
	}
}

// A validator that is killed again and again says nothing twice, and goes on auditing.
func TestValidatorSurvivesKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJury(t, 3, 2, nil, nil)
		v := j.members[4]
		for r := uint64(2); r < 8; r++ {
			j.until("in the next round", 5*time.Minute, round(r))
			v.kill()
			v.start()
		}
		j.until("done", 20*time.Minute, done)
		chain := j.members[0].chain(j.agree().Result)
		own := 0
		for _, c := range chain {
			for _, s := range c.Verdicts {
				if s.From == v.peer() {
					own++
				}
			}
		}
		if n, _ := verdicts(t, chain); own < 3 || n[diloco.Wrong]+n[diloco.Withheld] > 0 {
			t.Errorf("%d verdicts of the one that was killed; all: %v", own, n)
		}
		j.stopAll()
		v.said()
	})
}

// Validators that lie are found out by the others, and harm nobody honest.
func TestLyingValidatorsAreConvicted(t *testing.T) {
	junk := func() []byte { // a record of other activations: it never replayed
		rows := make([]float32, 128)
		for i := range rows {
			rows[i] = float32((i*37)%101) + 0.5
		}
		var p audit.Prover
		b, err := p.Append(nil, rows, 8)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}()
	type words struct {
		mu   sync.Mutex
		work map[wire.CID][]byte // what honest validators showed, by subject
	}
	const liar = 7
	for _, c := range []struct {
		name  string
		cheat bool // member 2 trains nothing
		lie   func(*words, audit.Task, *diloco.Verdict)
	}{
		{"passes everything", true, func(_ *words, _ audit.Task, v *diloco.Verdict) {
			v.Finding, v.Evidence, v.Work = diloco.Pass, "", junk
		}},
		{"fails everyone", false, func(_ *words, _ audit.Task, v *diloco.Verdict) {
			v.Finding, v.Evidence = diloco.Wrong, wire.SumCID(wire.CodecDagCBOR, []byte("no evidence"))
		}},
		{"copies verdicts", false, func(w *words, t audit.Task, v *diloco.Verdict) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if b := w.work[t.Subject]; b != nil {
				v.Work = b
			} else {
				v.Work = junk
			}
		}},
		{"says nothing", false, func(_ *words, _ audit.Task, v *diloco.Verdict) {
			*v = diloco.Verdict{} // the machine does not say that
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &words{work: map[wire.CID][]byte{}}
				silent := c.name == "says nothing"
				j := newJury(t, 4, 4, func(m *manifest.Manifest) {
					if m.Stop.Rounds = 14; silent { // ten audits missed take a while
						m.Stop.Rounds, m.Verification.AuditRate, m.Verification.Window = 20, 8000, 6
					}
				}, func(m *member) {
					if m.n == 2 && c.cheat {
						m.wrap(func(e Engine) Engine { return &lazy{Engine: e} })
					}
					old := m.opt
					m.opt = func(o *Options) {
						if old != nil {
							old(o)
						}
						o.Lie = func(t audit.Task, v *diloco.Verdict) {
							if m.n == liar {
								c.lie(w, t, v)
								return
							}
							w.mu.Lock()
							defer w.mu.Unlock()
							w.work[t.Subject] = v.Work
						}
					}
				})
				want := []wire.PeerID{j.members[liar].peer()}
				if c.cheat {
					want = append(want, j.members[2].peer())
				}
				j.until("convicted", 20*time.Minute, func(st Status) bool {
					return !slices.ContainsFunc(want, func(p wire.PeerID) bool { return !slices.Contains(st.Banned, p) })
				}, 0, 1, 3, 4, 5, 6)
				st := j.members[4].node.Status()
				got := convicted(j.members[4].chain(st.Head))
				if len(got) != len(want) || got[want[0]].Why == diloco.WhyWithheld || silent != (got[want[0]].Why == diloco.WhySilent) {
					t.Errorf("convicted: %+v", got)
				}
				t.Logf("by round %d: %s", st.Round, got[want[0]].Why)
			})
		})
	}
}

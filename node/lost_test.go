package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/toploc/audit"
)

// mortalEngine is a toyEngine whose trainers die with all that they hold, as
// worker processes do.
type mortalEngine struct {
	toy    *toyEngine
	kill   func(op string, step uint64) bool // the trainer dies before this
	deaths int
	steps  uint64 // done by all
}

func (e *mortalEngine) Identity() string                        { return e.toy.Identity() }
func (e *mortalEngine) Unpack(b []byte) (audit.Snapshot, error) { return e.toy.Unpack(b) }

func (e *mortalEngine) Genesis() ([]float32, error) { return e.toy.Genesis() }

func (e *mortalEngine) NewTrainer(params []float32) (Trainer, error) {
	t, err := e.toy.NewTrainer(params)
	return &mortal{Trainer: t, e: e}, err
}

type mortal struct {
	Trainer
	e    *mortalEngine
	dead bool
}

func (t *mortal) alive(op string) error {
	if !t.dead && t.e.kill(op, t.e.steps) {
		t.dead = true
		t.e.deaths++
	}
	if t.dead {
		return fmt.Errorf("%s: %w: signal: killed", op, ErrEngineLost)
	}
	return nil
}

func (t *mortal) Step(b [][]int32, lr float64) (float64, error) {
	if err := t.alive("step"); err != nil {
		return 0, err
	}
	t.e.steps++
	return t.Trainer.Step(b, lr)
}

func (t *mortal) Eval(b [][]int32) (float64, error) {
	if err := t.alive("eval"); err != nil {
		return 0, err
	}
	return t.Trainer.Eval(b)
}

func (t *mortal) Hidden() ([]float32, int) {
	if t.alive("hidden") != nil {
		return nil, 0
	}
	return t.Trainer.Hidden()
}

func (t *mortal) Params() []float32 {
	if t.alive("params") != nil {
		return nil
	}
	return t.Trainer.Params()
}

func (t *mortal) SetParams(p []float32) error {
	return errors.Join(t.alive("set"), t.Trainer.SetParams(p))
}

func (t *mortal) Save(w io.Writer) error {
	if err := t.alive("save"); err != nil {
		return err
	}
	return t.Trainer.Save(w)
}

func (t *mortal) Load(r io.Reader) error {
	if err := t.alive("load"); err != nil {
		return err
	}
	return t.Trainer.Load(r)
}

// A worker that dies costs what was done since the last snapshot, whatever it
// was doing, and never a round.
func TestLostEngineCostsASegment(t *testing.T) {
	for _, op := range []string{"step", "eval", "hidden", "params", "set", "save", "load"} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSwarm(t, func(m *manifest.Manifest) {
					m.Round.InnerSteps = 20
					m.Round.Deadline = time.Minute
					if op == "hidden" { // only traces ask for them
						audited(m)
					}
				})
				for i := range 4 {
					m := s.member(i)
					if i == 0 {
						m.seed()
					}
				}
				m := s.members[2]
				next := uint64(13)
				e := &mortalEngine{toy: m.engine}
				e.kill = func(at string, step uint64) bool {
					if op == "load" && at == "step" && step >= next && e.deaths%2 == 0 {
						return true // or nothing would be loaded
					}
					if at != op || step < next || op == "load" && e.deaths%2 == 0 {
						return false
					}
					next += 31
					return true
				}
				m.opt = func(o *Options) {
					o.Engine = func(context.Context, *manifest.Manifest) (Engine, error) { return e, nil }
				}
				for i := range 4 {
					s.members[i].start()
				}
				s.until("done", 20*time.Minute, done)
				s.agree()
				if e.deaths < 2 {
					t.Fatalf("it died %d times", e.deaths)
				}
				rounds := s.manifest.Stop.Rounds - 1
				if got := m.node.Status().RoundsContributed; got != rounds {
					t.Errorf("contributed to %d rounds of %d: a death cost a round", got, rounds)
				}
				// Steps take 0.5 s, snapshots come every 2 s.
				if most := rounds*20 + 5*uint64(e.deaths); e.steps > most {
					t.Errorf("%d steps after %d deaths, at most %d", e.steps, e.deaths, most)
				}
			})
		})
	}
}

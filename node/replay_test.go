package node

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// audited makes the manifest of a swarm one of a run that audits.
func audited(m *manifest.Manifest) { m.Verification.AuditRate, m.Verification.Segments = 1000, 3 }

// replayer makes one that reads a member's store, and asks the others.
func (m *member) replayer(engine Engine) *replayer {
	t, ctx := m.s.t, context.Background()
	t.Helper()
	b := &crate{m.shelf, m.host}
	k, err := newKeeper(b, true, testLogger())
	if err != nil {
		t.Fatal(err)
	}
	data, err := openDataset(ctx, b, k, m.s.run, m.s.manifest, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newReplayer(m.s.run, m.s.manifest, m.s.model, b, engine, data, testLogger())
	r.from = func(p wire.PeerID) []wire.PeerID { return append([]wire.PeerID{p}, m.host.Peers()...) }
	r.commit = func(ctx context.Context, c wire.CID) (*diloco.Commit, error) { return getCommit(ctx, b, c, nil) }
	return r
}

// deltas returns those that the chain below head has merged, with their number of segments.
func (m *member) deltas(head wire.CID) (out []*diloco.Message) {
	t := m.s.t
	t.Helper()
	for at := head; ; {
		c, err := localCommits(context.Background(), &crate{m.shelf, m.host})(at)
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.Deltas {
			d, err := diloco.Open(&c.Deltas[i])
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, d)
		}
		if c.Round == 0 {
			return out
		}
		at = c.Parent
	}
}

func (m *member) segments(d *diloco.Message) uint64 {
	return audit.Segments(d.Body.(*diloco.Delta).Steps, audit.Every(m.s.manifest.Round.InnerSteps, m.s.manifest.Verification.Segments))
}

// Whatever honest trainers send is found right by a replay of every segment, with every
// codec, through crashes and late deltas, and the probe shows that it was replayed.
func TestHonestTracesReplay(t *testing.T) {
	for _, kind := range []string{"int8", "int4", "topk"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSwarm(t, func(m *manifest.Manifest) {
					audited(m)
					m.Codec.Kind = kind
					if kind == "topk" {
						m.Codec.Density = 1000
					}
				})
				s.start(3)
				slow := s.member(3) // it is cut, and late
				slow.engine.speed = 3 * stepTime
				slow.start()
				s.until("in round 2", time.Minute, round(2))
				time.Sleep(7 * stepTime) // within the second segment
				s.members[1].kill()
				s.members[1].start()
				s.until("resumed", time.Minute, func(st Status) bool { return st.Resumed > 0 }, 1)
				if at := s.members[1].node.Status().Resumed; at%4 != 0 {
					t.Errorf("it went on at step %d, which ends no segment", at)
				}
				s.until("done", 10*time.Minute, done)
				head := s.agree().Result
				m := s.members[2]
				r, count, before := m.replayer(m.engine), 0, 0
				for _, d := range m.deltas(head) {
					if d.Body.(*diloco.Delta).Round < 2 {
						continue // its state is not kept for ever
					}
					for i := range m.segments(d) {
						seed := audit.OwnSeed(d.ID, i, m.peer())
						out, err := r.audit(t.Context(), d, i, seed)
						if err != nil || out.Wrong || len(out.Work) != audit.RecordSize(8) {
							t.Fatalf("round %d, %s, segment %d: %+v, %v", d.Body.(*diloco.Delta).Round, d.From.Short(), i, out, err)
						}
						if out, err := r.recheck(t.Context(), d, i, seed, out.Work); err != nil || out.Wrong {
							t.Errorf("recheck: %+v, %v", out, err)
						}
						count++
					}
					x, err := r.open(t.Context(), d)
					if err != nil {
						t.Fatal(err)
					}
					if x.trace.Before.Defined() {
						before++
					}
					if x.trace.Owed.Defined() != (kind != "int8" && x.trace.Before.Defined()) {
						t.Errorf("owed %v, before %v", x.trace.Owed, x.trace.Before)
					}
				}
				if count < 20 || before < 6 {
					t.Errorf("%d segments replayed, %d phases began where another ended", count, before)
				}
			})
		})
	}
}

// Each way of lying is found, by the segment that it is in.
func TestReplayFindsLies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwarm(t, audited)
		s.start(3)
		s.until("done", 10*time.Minute, done)
		m := s.members[2]
		ctx := t.Context()
		r := m.replayer(m.engine)
		var victim *diloco.Message
		for _, d := range m.deltas(s.agree().Result) {
			if d.From != m.peer() && d.Body.(*diloco.Delta).Round == 4 {
				victim = d
			}
		}
		author := s.members[0]
		for _, o := range s.members {
			if o.peer() == victim.From {
				author = o
			}
		}
		b := &crate{author.shelf, author.host}
		honest, err := r.open(ctx, victim)
		if err != nil {
			t.Fatal(err)
		}
		put := func(data []byte) wire.CID {
			c, err := b.PutFile(ctx, data)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		snapshot := func(segment int, change func(*toyTrainer)) wire.CID {
			data, err := b.GetFile(ctx, honest.trace.Segments[segment].End, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			x, err := m.engine.NewTrainer(make([]float32, m.engine.n))
			if err == nil {
				err = x.Load(bytes.NewReader(data))
			}
			if err != nil {
				t.Fatal(err)
			}
			change(x.(*toyTrainer))
			var w bytes.Buffer
			if err := x.Save(&w); err != nil {
				t.Fatal(err)
			}
			return put(w.Bytes())
		}
		forged := func() []byte { // a proof of other activations
			rows := make([]float32, 128)
			for i := range rows {
				rows[i] = float32(i%13) - 6
			}
			var p audit.Prover
			record, err := p.Append(nil, rows, 8)
			if err != nil {
				t.Fatal(err)
			}
			return record
		}
		for _, lie := range []struct {
			name   string
			change func(*audit.Trace, *diloco.Delta)
			want   [3]bool // wrong, by segment
		}{
			{"nothing", func(*audit.Trace, *diloco.Delta) {}, [3]bool{}},
			{"another weight at the end of segment 1", func(x *audit.Trace, _ *diloco.Delta) {
				x.Segments[1].End = snapshot(1, func(t *toyTrainer) { t.w[3] += 1e-6 })
			}, [3]bool{false, true, true}},
			{"other moments at the end of segment 1", func(x *audit.Trace, _ *diloco.Delta) {
				x.Segments[1].End = snapshot(1, func(t *toyTrainer) { t.m[3] *= 2 })
			}, [3]bool{false, true, true}},
			{"a faked rest", func(x *audit.Trace, _ *diloco.Delta) {
				x.Segments[2].End = snapshot(2, func(t *toyTrainer) { clear(t.w) })
			}, [3]bool{false, false, true}},
			{"a snapshot that is none", func(x *audit.Trace, _ *diloco.Delta) { x.Segments[0].End = put([]byte("x")) }, [3]bool{true, true, false}},
			{"a forged proof", func(x *audit.Trace, _ *diloco.Delta) { copy(x.Segments[1].Proofs, forged()) }, [3]bool{false, true, false}},
			{"more steps claimed", func(_ *audit.Trace, d *diloco.Delta) { d.Steps-- }, [3]bool{true, true, true}},
			{"other data", func(x *audit.Trace, _ *diloco.Delta) { x.Slot = (x.Slot + 1) % x.Slots }, [3]bool{true, true, true}},
			{"other segments", func(x *audit.Trace, _ *diloco.Delta) {
				x.Every, x.Segments = x.Steps, []audit.Segment{{End: x.Segments[2].End, Proofs: make([]byte, int(x.Steps)*audit.RecordSize(8))}}
			}, [3]bool{true, true, true}},
			{"an invented past", func(x *audit.Trace, _ *diloco.Delta) {
				c, err := b.Put(ctx, wire.CodecDagCBOR, mustEncode(t, honest.trace))
				if err != nil {
					t.Fatal(err)
				}
				x.Before = c
			}, [3]bool{true, true, true}},
			{"moments forgotten", func(x *audit.Trace, _ *diloco.Delta) { x.Before = "" }, [3]bool{true, false, false}},
			{"another payload", func(x *audit.Trace, d *diloco.Delta) {
				out, _, err := s.model.Codec.EncodeOwed(codec.Header{Run: s.run, Parent: d.Parent, Peer: victim.From}, make([]float32, s.model.Params()), nil)
				if err != nil {
					t.Fatal(err)
				}
				d.Block = put(out.Block())
				x.Payload = d.Block
			}, [3]bool{false, false, true}},
			{"no trace", func(_ *audit.Trace, d *diloco.Delta) { d.Trace = "" }, [3]bool{true, true, true}},
		} {
			trace, delta := *honest.trace, *honest.delta
			trace.Segments = nil
			for _, g := range honest.trace.Segments {
				trace.Segments = append(trace.Segments, audit.Segment{End: g.End, Proofs: append([]byte{}, g.Proofs...)})
			}
			delta.Trace = "x"
			lie.change(&trace, &delta)
			if delta.Trace.Defined() {
				if delta.Trace, err = b.Put(ctx, wire.CodecDagCBOR, mustEncode(t, &trace)); err != nil {
					t.Fatal(err)
				}
			}
			msg := &diloco.Message{Signed: victim.Signed, ID: victim.ID, Body: &delta}
			for i, want := range lie.want {
				out, err := r.audit(ctx, msg, uint64(i), [32]byte{})
				if err != nil || out.Wrong != want || want != (out.Reason != "") {
					t.Errorf("%s: segment %d: %+v, %v", lie.name, i, out, err)
				}
				if testing.Verbose() && want {
					t.Logf("%s, segment %d: %s", lie.name, i, out.Reason)
				}
			}
		}
		// What is not served is no error of anybody's work.
		for _, o := range s.members {
			o.shelf.drop(honest.trace.Segments[0].End)
		}
		_, err = r.audit(ctx, victim, 1, [32]byte{})
		var gone notServed
		if !errors.As(err, &gone) {
			t.Errorf("a snapshot that nobody has: %v", err)
		}
		for _, o := range s.members {
			o.shelf.drop(honest.delta.State)
		}
		if _, err = r.audit(ctx, victim, 0, [32]byte{}); err == nil || errors.As(err, &gone) {
			t.Errorf("a state that nobody has is laid to the trainer's charge: %v", err)
		}
	})
}

func mustEncode(t *testing.T, x *audit.Trace) []byte {
	t.Helper()
	b, err := x.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

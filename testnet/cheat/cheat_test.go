package cheat

import (
	"context"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc"
	"github.com/shoalnet/shoal/toploc/audit"
)

func TestParse(t *testing.T) {
	if k, from, err := Parse("idle:2"); k != Idle || from != 2 || err != nil {
		t.Errorf("%v, %d, %v", k, from, err)
	}
	if k, from, err := Parse("copy-verdicts"); k != CopyVerdicts || from != 0 || err != nil {
		t.Errorf("%v, %d, %v", k, from, err)
	}
	for s, want := range map[string]string{"": "no such kind", "nap": "want one of idle", "idle:": "no round", "idle:-1": "no round", "idle:1:2": "no round"} {
		if _, _, err := Parse(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", s, err, want)
		}
	}
}

// real is an engine whose steps move every weight by lr times the first token.
type real struct{ n int }

func (e real) Genesis() ([]float32, error)                 { return make([]float32, e.n), nil }
func (e real) Identity() string                            { return "real" }
func (e real) Unpack([]byte) (s audit.Snapshot, err error) { return s, nil }
func (e real) NewTrainer(p []float32) (node.Trainer, error) {
	return &realTrainer{w: slices.Clone(p)}, nil
}

type realTrainer struct {
	node.Trainer
	w     []float32
	steps int
}

func (t *realTrainer) Step(b [][]int32, lr float64) (float64, error) {
	t.steps++
	for i := range t.w {
		t.w[i] += float32(lr) * float32(b[0][0])
	}
	return 3, nil
}
func (t *realTrainer) Eval([][]int32) (float64, error) { return 2, nil }
func (t *realTrainer) Params() []float32               { return t.w }
func (t *realTrainer) SetParams(p []float32) error     { copy(t.w, p); return nil }
func (t *realTrainer) Hidden() ([]float32, int)        { return []float32{1, -2, float32(t.steps), 4}, 2 }
func (t *realTrainer) Save(io.Writer) error            { return nil }
func (t *realTrainer) Close() error                    { return nil }

const (
	steps = 4
	width = 64
)

// A stage is a liar whose lies begin in round 2, in round 1, with its trainer.
type stage struct {
	*Liar
	node.Trainer
	round uint64
	theta []float32
}

var head = wire.SumCID(wire.CodecDagCBOR, []byte("x"))

func tiny() *manifest.Manifest {
	m := manifest.Default()
	m.Round.InnerSteps, m.Verification.Segments = steps, 2
	c := &m.Model.Config
	c.HiddenSize, c.IntermediateSize, c.NumHiddenLayers, c.NumAttentionHeads, c.NumKeyValueHeads, c.HeadDim, c.VocabSize = 8, 8, 2, 2, 2, 4, 8
	c.TieWordEmbeddings = true
	return m
}

func start(t *testing.T, k Kind) *stage {
	t.Helper()
	key, err := wire.NewKey(slices.Repeat([]byte{5}, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{Liar: New(k, 2), round: 1}
	s.Follow(key, func() node.Status { return node.Status{Round: s.round, Head: head} })
	m := tiny()
	n := 0
	for _, x := range m.Model.Config.HF().Tensors() {
		n += x.Len()
	}
	e, err := s.Engine(func(context.Context, *manifest.Manifest) (node.Engine, error) { return real{n}, nil })(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	s.theta = make([]float32, n)
	if s.Trainer, err = e.NewTrainer(s.theta); err != nil {
		t.Fatal(err)
	}
	return s
}

// phase does the inner steps of a round and returns how far they led, and the last loss.
func (s *stage) phase(t *testing.T) (delta []float32, loss float64) {
	t.Helper()
	if err := s.SetParams(s.theta); err != nil {
		t.Fatal(err)
	}
	for i := range steps {
		var err error
		if loss, err = s.Step([][]int32{{int32(s.round), int32(i)}}, 0.5); err != nil {
			t.Fatal(err)
		}
	}
	delta = make([]float32, len(s.theta))
	for i, w := range s.Params() {
		delta[i] = w - s.theta[i]
		s.theta[i] += delta[i] / 2
	}
	s.round++
	return delta, loss
}

// did is how many steps were done in truth.
func (s *stage) did() int { return s.Trainer.(*trainer).Trainer.(*realTrainer).steps }

func norm(v []float32) float64 { return distance(v, make([]float32, len(v))) }

// Each kind of false training is what it is called, and the round before the
// lies begin is honest.
func TestFalseTraining(t *testing.T) {
	for _, c := range []struct {
		kind  Kind
		did   int                            // real steps in the two phases
		wrong func(honest, d []float32) bool // of the second phase, given what honest training would have sent
	}{
		{Idle, steps, func(h, d []float32) bool { return math.Abs(norm(d)/norm(h)-0.5) > 0.1 }}, // the norm of the first phase
		{Lazy, steps + steps/2, func(h, d []float32) bool { return math.Abs(norm(d)/norm(h)-0.5) > 1e-6 }},
		{OwnData, 2 * steps, func(h, d []float32) bool { return math.Abs(norm(d)/norm(h)-0.5) > 1e-6 }},
		{Scale, 2 * steps, func(h, d []float32) bool { return math.Abs(norm(d)/norm(h)-scaled) > 1e-3 }},
		{Flip, 2 * steps, func(h, d []float32) bool { return math.Abs(float64(d[0]+h[0])) > 1e-5 }},
		{Poison, 2 * steps, func(h, d []float32) bool { return math.Abs(distance(d, h)/norm(h)-poisoned) > 0.05 }},
		{First, steps + steps/2, func(h, d []float32) bool { return distance(d, h) < 0.01*norm(h) }},
		{Stale, 2 * steps, func(h, d []float32) bool { return math.Abs(float64(d[0]-(h[0]-1))) > 1e-5 }},
	} {
		s := start(t, c.kind)
		if d, loss := s.phase(t); d[0] != 2 || loss != 3 {
			t.Errorf("%s: the first phase is not honest: %v, %v", c.kind, d[0], loss)
		}
		d, loss := s.phase(t)
		honest := slices.Repeat([]float32{4}, len(d)) // steps · lr · token 2
		if s.did() != c.did || c.wrong(honest, d) || loss < 1 || loss > 4 {
			t.Errorf("%s: %d steps, want %d; delta of norm %.3g, first %.3g, honest %.3g; loss %.3g", c.kind, s.did(), c.did, norm(d), d[0], norm(honest), loss)
		}
	}
}

// Activations are shown as the kind says, and honest ones before.
func TestFalseActivations(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		ok   func(rows []float32) bool
		name string
	}{
		{Idle, func(r []float32) bool { return r[2] == steps }, "real"}, // of the one look
		{Signs, func(r []float32) bool { return r[0] == -1 && r[1] == 2 }, "real of another build"},
		{SmallModel, func(r []float32) bool { return r[2] == 0 }, "real of another build"}, // it has done no step
		{Lazy, func(r []float32) bool { return r[2] == steps+steps/2 }, "real"},
	} {
		s := start(t, c.kind)
		s.phase(t)
		if rows, width := s.Hidden(); rows[0] != 1 || rows[2] != steps || width != 2 {
			t.Errorf("%s: honest rows %v", c.kind, rows)
		}
		s.phase(t)
		if rows, _ := s.Hidden(); !c.ok(rows) {
			t.Errorf("%s: rows %v", c.kind, rows)
		}
		if got := s.Trainer.(*trainer).e.Identity(); got != c.name {
			t.Errorf("%s: the engine is called %q", c.kind, got)
		}
	}
}

// A copy is the other's delta up to noise.
func TestCopy(t *testing.T) {
	s := start(t, Copy)
	s.phase(t)
	c, err := codecOf(tiny())
	if err != nil {
		t.Fatal(err)
	}
	other := make([]float32, c.Params())
	for i := range other {
		other[i] = float32(i%7-3) / 8
	}
	key, err := wire.NewKey(slices.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Encode(codec.Header{Run: head, Parent: head, Peer: key.Peer()}, slices.Clone(other))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Blocks(fixed{data: p.Block()}).FetchFile(t.Context(), head, nil, 1<<20); err != nil {
		t.Fatal(err)
	}
	d, _ := s.phase(t)
	if s.did() != steps {
		t.Errorf("%d steps were done", s.did())
	}
	sum := make([]float32, len(other)) // Δ = θ − w: what was sent, and the negative of what the weights moved by
	for i := range sum {
		sum[i] = d[i] + other[i]
	}
	if r := norm(sum) / norm(other); r > 2*noised || r == 0 {
		t.Errorf("a copy differs by %.3g of the norm", r)
	}
}

// fixed answers every fetch alike, and keeps what is put.
type fixed struct {
	node.Blocks
	data []byte
	put  *[]byte
}

func (f fixed) FetchFile(context.Context, wire.CID, []wire.PeerID, int64) ([]byte, error) {
	return f.data, nil
}
func (f fixed) Put(_ context.Context, codec uint64, b []byte) (wire.CID, error) {
	*f.put = b
	return wire.SumCID(codec, b), nil
}

func TestForgedTraces(t *testing.T) {
	key, err := wire.NewKey(slices.Repeat([]byte{5}, 32))
	if err != nil {
		t.Fatal(err)
	}
	const k, each = 8, 2
	size := toploc.RecordSize(k)
	trace := func(seed uint16) *audit.Trace {
		cid := wire.SumCID(wire.CodecDagCBOR, []byte{byte(seed)})
		x := &audit.Trace{Version: 1, Run: cid, Peer: key.Peer(), State: cid, Steps: 2 * each, Every: each, Payload: cid}
		for range 2 {
			var recs []byte
			for j := range each {
				pf := toploc.Proof{Modulus: toploc.Prime, Coeffs: make([]uint16, k)}
				for c := range pf.Coeffs {
					pf.Coeffs[c] = seed + uint16(j*k+c)
				}
				recs = pf.AppendBinary(recs)
			}
			x.Segments = append(x.Segments, audit.Segment{End: cid, Proofs: recs})
		}
		return x
	}
	for _, kind := range []Kind{Constant, Modulus, Replay, Null, Short, Surplus, Withhold, Idle} {
		l := New(kind, 2)
		round := uint64(1)
		l.Follow(key, func() node.Status {
			return node.Status{Round: round, Head: wire.SumCID(wire.CodecDagCBOR, []byte("x"))}
		})
		var put []byte
		b := l.Blocks(fixed{put: &put})
		for ; round <= 2; round++ {
			honest := trace(uint16(100 * round))
			raw, err := wire.Marshal(honest)
			if err != nil {
				t.Fatal(err)
			}
			c, err := b.Put(t.Context(), wire.CodecDagCBOR, raw)
			if err != nil {
				t.Fatal(err)
			}
			var got audit.Trace
			if err := wire.Unmarshal(put, &got); err != nil {
				t.Fatal(err)
			}
			was, is := honest.Segments[1].Proofs, got.Segments[1].Proofs
			if same := string(was) == string(is); same != (round == 1 || kind == Withhold || kind == Idle) {
				t.Errorf("%s: round %d: proofs unchanged: %v", kind, round, same)
			}
			if hides := !l.Serves(c); hides != (round == 2 && kind == Withhold) {
				t.Errorf("%s: round %d: hides its trace: %v", kind, round, hides)
			}
			want := each * size
			if round == 2 {
				want += map[Kind]int{Short: -size, Surplus: size}[kind]
			}
			if len(is) != want {
				t.Errorf("%s: round %d: %d bytes of proofs, want %d", kind, round, len(is), want)
			}
		}
	}
}

// What each of these says of a delta, a verdict and a vote.
func TestTalk(t *testing.T) {
	key, err := wire.NewKey(slices.Repeat([]byte{5}, 32))
	if err != nil {
		t.Fatal(err)
	}
	cid := wire.SumCID(wire.CodecDagCBOR, []byte("x"))
	for _, kind := range []Kind{TwoDeltas, Silent, HideCoin} {
		l := New(kind, 1)
		l.Follow(key, func() node.Status { return node.Status{Round: 1} })
		var said []*wire.Signed
		tp, err := l.Net(fakeNet{said: &said}).Join("x", nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := wire.Marshal(&diloco.Delta{Parent: cid, Round: 1, State: cid, Block: cid, Loss: 2})
		if err != nil {
			t.Fatal(err)
		}
		vote, err := wire.Marshal(&diloco.Vote{Parent: cid, Final: cid, Round: 9, Coin: make([]byte, audit.RevealSize)})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range []wire.Kind{wire.KindDelta, wire.KindVerdict, wire.KindVote} {
			m := key.Sign(k, cid, map[bool][]byte{true: vote, false: body}[k == wire.KindVote])
			raw, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if err := tp.Publish(t.Context(), raw); err != nil {
				t.Fatal(err)
			}
		}
		kinds := map[wire.Kind]int{}
		for _, m := range said {
			if err := m.Verify(); err != nil {
				t.Error(err)
			}
			kinds[m.Kind]++
			var v diloco.Vote
			if m.Kind == wire.KindVote && (wire.Unmarshal(m.Body, &v) != nil || v.Round != 9 || (len(v.Coin) == 0) != (kind == HideCoin)) {
				t.Errorf("%s: votes %+v", kind, v)
			}
		}
		want := map[Kind][3]int{TwoDeltas: {2, 1, 1}, Silent: {1, 0, 1}, HideCoin: {1, 0, 1}}[kind]
		if got := [3]int{kinds[wire.KindDelta], kinds[wire.KindVerdict], kinds[wire.KindVote]}; got != want {
			t.Errorf("%s: said %v deltas, verdicts and votes, want %v", kind, got, want)
		}
		if kind == TwoDeltas && said[0].ID() == said[1].ID() {
			t.Error("both deltas are one")
		}
	}
}

// A newcomer that asks is told what all were told.
func TestTalkToNewcomers(t *testing.T) {
	key, err := wire.NewKey(slices.Repeat([]byte{5}, 32))
	if err != nil {
		t.Fatal(err)
	}
	cid := wire.SumCID(wire.CodecDagCBOR, []byte("x"))
	l := New(HideCoin, 1)
	l.Follow(key, func() node.Status { return node.Status{Round: 1} })
	type reply struct {
		Messages [][]byte `cbor:"messages"`
	}
	var r reply
	for kind, body := range map[wire.Kind]any{wire.KindVote: &diloco.Vote{Parent: cid, Final: cid, Coin: make([]byte, audit.RevealSize)}, wire.KindVerdict: &diloco.Verdict{Subject: cid}} {
		b, err := wire.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		m := key.Sign(kind, cid, b)
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		r.Messages = append(r.Messages, raw)
	}
	answer, err := wire.Marshal(&r)
	if err != nil {
		t.Fatal(err)
	}
	var asked node.Handler
	n := l.Net(fakeNet{handler: &asked})
	n.Handle(node.SyncProto, 100, func(context.Context, wire.PeerID, []byte) ([]byte, error) { return answer, nil })
	told, err := asked(t.Context(), wire.PeerID{}, nil)
	var got reply
	if err != nil || wire.Unmarshal(told, &got) != nil || len(got.Messages) != 1 {
		t.Fatalf("%d messages, %v", len(got.Messages), err)
	}
	var v diloco.Vote
	m, err := wire.Decode(got.Messages[0])
	if err != nil || m.Verify() != nil || wire.Unmarshal(m.Body, &v) != nil || len(v.Coin) != 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

type fakeNet struct {
	node.Net
	said    *[]*wire.Signed
	handler *node.Handler
}

func (n fakeNet) Handle(_ string, _ int, h node.Handler) { *n.handler = h }

func (n fakeNet) Join(string, node.Judge) (node.Topic, error) { return fakeTopic{said: n.said}, nil }

type fakeTopic struct {
	node.Topic
	said *[]*wire.Signed
}

func (t fakeTopic) Publish(_ context.Context, data []byte) error {
	m, err := wire.Decode(data)
	if err == nil {
		*t.said = append(*t.said, m)
	}
	return err
}

// Liars say what they are for, in a form that takes a replay to see through.
func TestFalseVerdicts(t *testing.T) {
	other, err := wire.NewKey(slices.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	work := []byte("somebody's work")
	told, err := wire.Marshal(&diloco.Verdict{Subject: head, Finding: diloco.Wrong, Evidence: head, Work: work})
	if err != nil {
		t.Fatal(err)
	}
	m := other.Sign(wire.KindVerdict, head, told)
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []Kind{PassAll, FailAll, CopyVerdicts, Silent} {
		s := start(t, kind)
		s.hear(raw)
		mine := []byte("my own work")
		say := func(f diloco.Finding) diloco.Verdict {
			v := diloco.Verdict{Subject: head, Finding: f, Work: mine}
			if f != diloco.Pass {
				v.Evidence = head
			}
			s.Verdict(audit.Task{}, &v)
			return v
		}
		if v := say(diloco.Pass); string(v.Work) != string(mine) || v.Finding != diloco.Pass {
			t.Errorf("%s: before its round it says %v", kind, v)
		}
		s.round = 2
		for _, f := range []diloco.Finding{diloco.Pass, diloco.Wrong} {
			v := say(f)
			want := map[Kind]diloco.Finding{PassAll: diloco.Pass, FailAll: diloco.Wrong, CopyVerdicts: diloco.Wrong, Silent: f}[kind]
			if v.Finding != want || (v.Finding == diloco.Pass) == v.Evidence.Defined() || len(v.Work) == 0 {
				t.Errorf("%s: found %v, says %+v", kind, f, v)
			}
			if copied := string(v.Work) == string(work); copied != (kind == CopyVerdicts) {
				t.Errorf("%s: work copied: %v", kind, copied)
			}
			if _, err := toploc.ParseProof(v.Work, 8); kind == PassAll && err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
}

package node

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/diloco/shard"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

func TestOutlier(t *testing.T) {
	honest := []gain{{0.11, 0.06, 20}, {0.10, 0.05, 20}, {0.12, 0.055, 20}, {0.105, 0.06, 20}}
	late := []gain{{0.02, -0.010, 20}, {0.019, -0.011, 20}, {0.021, -0.012, 20}, {0.02, -0.010, 20}} // the average alone helps
	for _, c := range []struct {
		name   string
		others []gain
		g      gain
		want   bool
	}{
		{"as the others", honest, gain{0.10, 0.05, 20}, false},
		{"better", honest, gain{0.3, 0.2, 20}, false},
		{"nothing", honest, gain{0, 0, 20}, true},
		{"harm", honest, gain{-0.2, -0.3, 20}, true},
		{"own data only", honest, gain{0.4, -0.01, 20}, true},
		{"own data by heart", honest, gain{0.4, 0.06, 20}, true},
		{"other data only", honest, gain{0.02, 0.055, 20}, true},
		{"half of the steps", honest, gain{0.055, 0.028, 10}, false},
		{"half of what its steps should", honest, gain{0.055, 0.028, 20}, false},
		{"a quarter of what its steps should", honest, gain{0.025, 0.014, 20}, true},
		{"not finite", honest, gain{math.NaN(), 0.1, 20}, true},
		{"infinite", honest, gain{math.Inf(-1), 0.1, 20}, true},
		{"late, as the others", late, gain{0.02, -0.011, 20}, false},
		{"late, nothing", late, gain{0, 0, 20}, true},
		{"too few to compare", honest[:1], gain{0, 0, 20}, false},
		{"not finite, alone", nil, gain{math.NaN(), 0, 20}, true},
		{"among hostile ones", []gain{{math.NaN(), math.NaN(), 1}, {math.Inf(1), math.Inf(-1), math.MaxUint64}, honest[0], honest[1], honest[2]}, honest[3], false},
	} {
		if why := outlier(append(slices.Clone(c.others), c.g), len(c.others)); (why != "") != c.want {
			t.Errorf("%s: %q", c.name, why)
		}
	}
}

// TestGainsTellWhoTrained measures gains with a real model: who sends noise, turns its
// delta round or learns its own data by heart is suspected, and of the honest few.
func TestGainsTellWhoTrained(t *testing.T) {
	const trainers, steps = 5, 20
	m := manifest.Default()
	m.Name, m.Licence = "gains", "CC0-1.0"
	m.Model.Config = manifest.Config{
		Architectures: []string{"LlamaForCausalLM"}, HiddenSize: 32, IntermediateSize: 88, NumHiddenLayers: 2,
		NumAttentionHeads: 2, NumKeyValueHeads: 2, HeadDim: 16, VocabSize: 32, MaxPositionEmbeddings: 32,
		RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true,
	}
	m.Inner.LR, m.Inner.Batch, m.Inner.Sequence = 3e-3, 8, 32
	m.Round.InnerSteps, m.Stop.Rounds, m.Codec.Chunk = steps, 100, 256
	m.Verification.AuditRate = 1000
	s := newBench(t, m, true)
	r := s.replayer(t, m, "")
	ctx := t.Context()
	r.data.ctx = ctx
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	params, err := r.engine.Genesis()
	must(err)
	live, err := r.engine.NewTrainer(params)
	must(err)
	defer live.Close()
	train := func(base uint64, slot int, lr float64, epochs int) {
		for range epochs {
			for h := range uint64(steps) {
				b, err := r.data.train.Batch(shard.Share{Run: r.run, Base: base, Slot: slot, Slots: trainers, Each: uint64(r.data.each), Batch: 8}, h)
				must(err)
				if _, err := live.Step(b, lr); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	train(1<<20, 0, 3e-3, 3) // past the first steps, where anything helps

	self := testKey(t, 50)
	a := &auditor{
		self: self.Peer(), run: r.run, coin: audit.NewCoin(coinSecret(self), r.run), every: audit.Every(steps, 1), replayer: r,
		blocks: s.t.blocks, meter: newMeter(time.Now()), log: testLogger(), patience: time.Minute, known: map[wire.CID]*diloco.Message{},
	}
	falsely, looked := 0, 0
	for round, cheat := range []string{"", "noise", "turned round", "by heart", "", "not finite"} {
		round := uint64(round + 1)
		start := slices.Clone(live.Params()) // S_r is where honest training has come
		g, err := r.model.Genesis(start)
		must(err)
		state, err := r.model.Put(ctx, s.t.blocks, g, Position{Run: r.run, Round: round})
		must(err)
		parent := &diloco.Commit{Version: 1, Run: r.run, Round: round, Parent: s.head, State: state, Cursor: 1000 * round}
		for i := range trainers {
			parent.Roster = append(parent.Roster, diloco.Member{Peer: testKey(t, 10+i).Peer(), Role: RoleTrainer, Weight: 1})
		}
		slices.SortFunc(parent.Roster, func(a, b diloco.Member) int { return slices.Compare(a.Peer[:], b.Peer[:]) })
		block, err := parent.Encode()
		must(err)
		head, err := s.t.blocks.Put(ctx, wire.CodecDagCBOR, block)
		must(err)
		next := &diloco.Commit{Version: 1, Run: r.run, Round: round + 1, Parent: head, State: state, Roster: parent.Roster}
		a.choice = audit.NewAuditor(audit.Config{Self: a.self, Coin: a.coin, Every: a.every})
		var guilty wire.PeerID
		norm := 0.0
		for i := range trainers {
			k := testKey(t, 10+i)
			slot, _ := seatIn(parent.Roster, k.Peer())
			must(live.SetParams(start))
			w := make([]float32, len(start))
			switch {
			case i < trainers-1 || cheat == "" || cheat == "turned round":
				train(parent.Cursor, slot, 3e-3, 1)
			case cheat == "by heart":
				train(parent.Cursor, slot, 1e-2, 25)
			}
			for j, x := range live.Params() {
				w[j] = start[j] - x
			}
			if i == trainers-1 && cheat != "" {
				guilty = k.Peer()
				rng := rand.New(rand.NewPCG(1, round))
				for j := range w {
					switch cheat {
					case "noise":
						w[j] = float32(rng.NormFloat64() * norm)
					case "turned round":
						w[j] = -w[j]
					case "not finite":
						w[j] = float32(1-2*(j%2)) * 100
					}
				}
			}
			norm = 0
			for _, x := range w {
				norm += float64(x) * float64(x)
			}
			norm = math.Sqrt(norm / float64(len(w)))
			d, _, err := r.model.Codec.EncodeOwed(codec.Header{Run: r.run, Parent: head, Peer: k.Peer()}, w, nil)
			must(err)
			c, err := s.t.blocks.PutFile(ctx, d.Block())
			must(err)
			body, err := wire.Marshal(&diloco.Delta{
				Parent: head, Round: round, State: state, Block: c, Bytes: uint64(len(d.Block())), Steps: steps, Tokens: steps * 256, Trace: c,
			})
			must(err)
			env := k.Sign(wire.KindDelta, r.run, body)
			msg, err := diloco.Open(&env)
			must(err)
			a.known[msg.ID] = msg
			next.Deltas = append(next.Deltas, env)
		}
		must(a.rank(ctx, next))
		caught := cheat == ""
		for _, task := range a.choice.Tasks() {
			if task.Reason != audit.BySuspicion {
				t.Errorf("round %d: a task for %v", round, task.Reason)
			}
			if task.Peer == guilty {
				caught = true
			} else {
				falsely++
			}
		}
		looked += trainers
		if !caught {
			t.Errorf("%q is not suspected", cheat)
		}
		must(live.SetParams(start)) // the honest go on
		train(parent.Cursor, 0, 3e-3, 1)
		s.head = head
	}
	t.Logf("%d of %d honest deltas suspected", falsely, looked)
	if falsely*8 > looked {
		t.Errorf("%d of %d honest deltas suspected", falsely, looked)
	}
}

// shuffled is an engine whose steps are as long as honest ones and lead nowhere.
type shuffled struct{ Engine }

type shuffledTrainer struct{ *toyTrainer }

func (e *shuffled) NewTrainer(p []float32) (Trainer, error) {
	t, err := e.Engine.NewTrainer(p)
	if err != nil {
		return nil, err
	}
	return shuffledTrainer{t.(*toyTrainer)}, nil
}

func (t shuffledTrainer) Step(batch [][]int32, lr float64) (float64, error) {
	was := slices.Clone(t.w)
	loss, err := t.toyTrainer.Step(batch, lr)
	for i := range t.w {
		if i*2654435761>>7&1 == 0 {
			t.w[i] = 2*was[i] - t.w[i]
		}
	}
	return loss, err
}

// In a run whose coins choose nothing, who gains nothing is looked at all the same,
// and convicted for what a replay finds; the honest are not.
func TestGainsSteerAudits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJury(t, 5, 3, func(m *manifest.Manifest) { m.Verification.AuditRate = 1 }, func(m *member) {
			if m.n == 2 {
				m.wrap(func(e Engine) Engine { return &shuffled{e} })
			}
		})
		guilty := j.members[2].peer()
		j.until("convicted", 20*time.Minute, func(st Status) bool { return slices.Contains(st.Banned, guilty) }, 0, 1, 3, 4, 5, 6, 7)
		st := j.members[5].node.Status()
		if got := convicted(j.members[5].chain(st.Head)); len(got) != 1 || got[guilty].Why != diloco.WhyWork {
			t.Errorf("convicted: %+v", got)
		}
		n, shown := uint64(0), false
		for i := range j.validators {
			st := j.members[j.trainers+i].node.Status()
			n += st.Audits["gained oddly"]
			for _, s := range st.Suspects {
				if s.Peer == guilty && s.Round+j.manifest.Verification.Window >= st.Round && strings.Contains(s.Why, "nats a token") {
					shown = true
				}
			}
		}
		if !shown {
			t.Error("no validator's status shows whom it suspects")
		}
		if n == 0 {
			t.Error("no gain was found odd")
		}
	})
}

package node

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// TestManyHonestAudits trains real models and audits every segment of every phase, on
// the trainer's engine and on others: none may be found wrong. With SHOAL_AUDITS=N it
// goes on for N audits, and says what follows for the rate of false verdicts by the
// rule of three.
func TestManyHonestAudits(t *testing.T) {
	want := 60
	if v := os.Getenv("SHOAL_AUDITS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		want = n
	}
	type kind struct {
		name           string
		d, f, layers   int
		codec          string
		steps, segment uint64
		change         func(*manifest.Config)
	}
	same := func(*manifest.Config) {}
	kinds := []kind{
		{"16 wide, int8", 16, 44, 1, "int8", 8, 2, same}, {"32 wide, int4", 32, 88, 2, "int4", 10, 3, same}, {"64 wide, topk", 64, 172, 2, "topk", 6, 3, same},
		{"Qwen 3 with a window", 16, 44, 2, "int8", 8, 2, func(c *manifest.Config) {
			c.Architectures = []string{"Qwen3ForCausalLM"}
			c.SlidingWindow, c.LayerTypes = 7, []string{"sliding_attention", "full_attention"}
		}},
		{"Qwen 2, YaRN", 16, 44, 1, "int4", 8, 3, func(c *manifest.Config) {
			c.Architectures, c.TieWordEmbeddings = []string{"Qwen2ForCausalLM"}, false
			c.RopeScaling = &manifest.RopeScaling{Kind: "yarn", Factor: 4, Original: 8}
		}},
		{"biases, Llama 3's RoPE", 16, 44, 1, "topk", 8, 2, func(c *manifest.Config) {
			c.AttentionBias, c.MLPBias = true, true
			c.RopeScaling = &manifest.RopeScaling{Kind: "llama3", Factor: 8, LowFreq: 1, HighFreq: 4, Original: 16}
		}},
	}
	count, other, wrong := 0, 0, 0
	for round := uint64(0); count < want; round++ {
		k := kinds[round%uint64(len(kinds))]
		m := manifest.Default()
		m.Name, m.Licence = "honest", "CC0-1.0"
		m.Model.Config = manifest.Config{
			Architectures: []string{"LlamaForCausalLM"}, HiddenSize: k.d, IntermediateSize: k.f, NumHiddenLayers: k.layers,
			NumAttentionHeads: 2, NumKeyValueHeads: 2, HeadDim: k.d / 2, VocabSize: 32, MaxPositionEmbeddings: 32,
			RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true,
		}
		k.change(&m.Model.Config)
		m.Inner.LR, m.Inner.Batch, m.Inner.Sequence = 3e-3, 4, 32
		m.Round.InnerSteps, m.Stop.Rounds, m.Codec.Chunk, m.Codec.Kind = k.steps, 100, 256, k.codec
		if k.codec == "topk" {
			m.Codec.Density = 500
		}
		m.Verification.AuditRate, m.Verification.Segments = 1000, k.segment
		m.Model.Seed = round
		s := newBench(t, m, true)
		var judges []*replayer
		for i, isa := range cpu.ISAs() {
			if i == 0 || isa == "portable" {
				judges = append(judges, s.replayer(t, m, isa))
			}
		}
		for range 4 {
			head, round := s.head, s.round
			d := s.phase(t)
			commit, err := localCommits(t.Context(), s.t.blocks)(s.head)
			if err != nil {
				t.Fatal(err)
			}
			msg, err := diloco.Open(&commit.Deltas[0])
			if err != nil || d.Parent != head || d.Round != round {
				t.Fatal(err)
			}
			for g := range audit.Segments(d.Steps, s.t.trace.every) {
				for i, r := range judges {
					seed := audit.OwnSeed(msg.ID, g, s.key.Peer())
					out, err := r.audit(t.Context(), msg, g, seed)
					if err != nil {
						t.Fatal(err)
					}
					count++
					if i > 0 {
						other++
					}
					if out.Wrong {
						wrong++
						t.Errorf("%s, round %d, segment %d, engine %d: %s", k.name, round, g, i, out.Reason)
					}
					// And what it shows is right for any other.
					for _, q := range judges {
						if want > 100 && count%16 != 0 {
							break // the audits are what is counted
						}
						if out, err := q.recheck(t.Context(), msg, g, seed, out.Work); err != nil || out.Wrong {
							t.Errorf("%s, round %d, segment %d: recheck: %+v, %v", k.name, round, g, out, err)
						}
					}
				}
			}
		}
	}
	fmt.Printf("%d honest audits, %d of them on another engine: %d found wrong; at 95 %% confidence fewer than %.2g of them are\n", count, other, wrong, 3/float64(count))
}

// replayer makes one that reads the bench's store and computes with other kernels.
func (s *bench) replayer(t testing.TB, m *manifest.Manifest, isa string) *replayer {
	t.Helper()
	k, err := newKeeper(s.t.blocks, true, testLogger())
	if err != nil {
		t.Fatal(err)
	}
	data, err := openDataset(context.Background(), s.t.blocks, k, s.t.run, m, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newReplayer(s.t.run, m, s.t.model, s.t.blocks, llamaEngine{m.Model.Config.HF(), isa}, data, testLogger())
	r.from = func(wire.PeerID) []wire.PeerID { return nil }
	r.commit = func(ctx context.Context, c wire.CID) (*diloco.Commit, error) { return localCommits(ctx, s.t.blocks)(c) }
	return r
}

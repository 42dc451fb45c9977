package sim

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/shoalnet/shoal/diloco"
)

// ended runs a universe to its end.
func ended(t *testing.T, c Config) *world {
	t.Helper()
	w := newWorld(c.withDefaults())
	w.loop()
	if w.failed != nil {
		t.Fatalf("%v\n%v", w.failed, c)
	}
	return w
}

// late is when the commit of a round so many before the stop rule's is there, in a universe where all are honest.
func late(t *testing.T, c Config, rounds uint64) time.Duration {
	t.Helper()
	w := ended(t, c)
	return w.check.madeAt[w.check.final[c.Stop-rounds]]
}

// convictions of the final chain.
func (w *world) convictions() (out []diloco.Conviction) {
	for _, k := range w.check.chain() {
		out = append(out, k.Convicted...)
	}
	return out
}

// Who has been honest all the run and is not in its last rounds, less than an audit window before the stop
// rule's, is convicted as at any other time, and earns nothing of what is not settled yet (an invariant): for work that is
// not what it says, or that nobody gets to see, and for verdicts without a replay. SIM_SEEDS says how many.
func TestLastRounds(t *testing.T) {
	seeds := uint64(number(t, "SIM_SEEDS", 1))
	type size struct {
		train  time.Duration
		window uint64
	}
	sizes := []size{{20 * time.Second, 6}, {400 * time.Millisecond, 8}, {10 * time.Minute, 8}} // of the last, a replay takes longer than a window of short rounds
	if os.Getenv("SIM_SEEDS") != "" {
		sizes = append(sizes, size{400 * time.Millisecond, 12}, size{400 * time.Millisecond, 20})
	} else if testing.Short() {
		sizes = sizes[:1]
	}
	for _, test := range []struct {
		name   string
		fault  Fault
		rounds uint64 // from its first lie to the stop rule's
		why    []string
	}{
		{"fakes", Fault{Kind: Cheat, Peers: []int{1}, Point: int(fakeAll)}, 2, []string{diloco.WhyWork}},
		{"withholds", Fault{Kind: Cheat, Peers: []int{1}, Point: int(unserved)}, 2, []string{diloco.WhyWithheld}},
		{"passes all", Fault{Kind: Lie, Peers: []int{6}, Point: int(passAll)}, 3, []string{diloco.WhyWork, diloco.WhyVerdict}},
		{"accuses", Fault{Kind: Lie, Peers: []int{6}, Point: int(failAll)}, 1, []string{diloco.WhyVerdict}},
	} {
		for _, x := range sizes {
			train, window := x.train, x.window
			t.Run(fmt.Sprintf("%s, phases of %v, window %d", test.name, train, window), func(t *testing.T) {
				caught, extra := 0, uint64(0)
				took := time.Duration(0)
				for seed := range seeds {
					c := Config{Seed: seed, Peers: 9, Validators: 4, AuditRate: 6_000, Window: window, Stop: 14, Train: train}
					switch {
					case train < time.Second:
						c.Latency, c.Deadline = 40*time.Millisecond, 20*time.Second
					case train > time.Minute:
						c.Deadline = 3 * train
					}
					f := test.fault
					f.At = late(t, c, test.rounds)
					c.Faults = []Fault{f}
					if train == 20*time.Second { // an epoch takes two minutes
						c.Ledger = newEpochs(c)
					}
					w := ended(t, c)
					last := w.check.chain()
					extra = max(extra, last[len(last)-1].Round-c.Stop)
					took = max(took, w.now-w.check.madeAt[w.check.final[c.Stop]])
					got := w.convictions()
					switch {
					case len(got) == 1 && got[0].Peer == w.peers[f.Peers[0]].id && slices.Contains(test.why, got[0].Why):
						caught++
					case len(got) > 0:
						t.Errorf("seed %d: convicted %+v", seed, got)
					}
				}
				t.Logf("%d of %d convicted; up to %d closing rounds in %v", caught, seeds, extra, took.Round(time.Second))
				if uint64(10*caught) < 9*seeds {
					t.Errorf("%d of %d convicted", caught, seeds)
				}
			})
		}
	}
}

// Whatever becomes of the validators in the end, the run ends for all others: soon where none is left; after the windows where
// none says anything. Who joins meanwhile is done with them.
func TestClosingEnds(t *testing.T) {
	base := Config{Seed: 3, Peers: 7, Validators: 3, AuditRate: 6_000, Window: 6, Stop: 14}
	validators := []int{4, 5, 6}
	at := late(t, base, 0)
	for _, test := range []struct {
		name        string
		faults      []Fault
		least, most uint64 // closing rounds
	}{
		{"nothing", nil, 6, 6},
		{"they die", []Fault{{Kind: Crash, At: at, Peers: validators, Point: int(crashNow)}}, 2, 4},
		{"they leave", []Fault{{Kind: Leave, At: at, Peers: validators}}, 1, 4},
		{"they are silent", []Fault{{Kind: Lie, At: at - time.Minute, Peers: validators, Point: int(saysNone)}}, 6, 6},
		{"one denies all", []Fault{{Kind: Lie, At: at - time.Minute, Peers: validators[:1], Point: int(denyAll)}}, 7, 13},
		{"they are down for a while", []Fault{{Kind: Crash, At: at, Until: at + 20*time.Second, Peers: validators[:2], Point: int(crashNow)}}, 6, 6},
		{"trainers leave", []Fault{{Kind: Leave, At: at, Peers: []int{0, 1}}}, 6, 6},
		{"newcomers", []Fault{{Kind: Enter, At: at + 5*time.Second, Peers: []int{7, 8}}}, 6, 6},
		{"apart", []Fault{{Kind: Partition, At: at - 5*time.Second, Until: at + 40*time.Second, Peers: []int{0, 5}}}, 6, 13},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := base
			c.Faults = test.faults
			w := ended(t, c)
			chain := w.check.chain()
			last := chain[len(chain)-1]
			t.Logf("ends in round %d, %v after the stop rule's", last.Round, (w.now - at).Round(time.Second))
			if n := last.Round - c.Stop; n < test.least || n > test.most {
				t.Errorf("%d closing rounds, want %d to %d", n, test.least, test.most)
			}
			for _, k := range chain[c.Stop+1:] {
				if len(k.Deltas) > 0 || k.Cursor != last.Cursor {
					t.Errorf("round %d has %d deltas", k.Round, len(k.Deltas))
				}
			}
		})
	}
	c := base
	c.AuditRate = 0
	if w := ended(t, c); w.check.commits[w.check.doneID].Round != c.Stop {
		t.Errorf("a run without audits ends in round %d", w.check.commits[w.check.doneID].Round)
	}
}

// closing is a short run whose faults, of all kinds that pass, cheats and lying validators among them, come in its last and
// its closing rounds.
func closing(seed uint64) Config {
	d := &draw{r: rand.New(rand.NewPCG(seed, 0xc105e)), n: 8, begin: 90 * time.Second}
	d.Config = Config{
		Seed: seed, Peers: 8, Validators: 3, AuditRate: 3_000, Window: 6, Stop: 6, Leak: 40,
		Loss: d.r.Float64() * 0.05, Fetch: d.r.Float64() * 0.2, Latency: time.Duration(20+d.r.IntN(300)) * time.Millisecond,
	}
	switch d.r.IntN(3) {
	case 0:
		d.fault(Fault{Kind: Cheat, At: d.begin, Peers: []int{d.r.IntN(5)}, Point: 1 + d.r.IntN(int(cheats)-1)})
	case 1:
		d.fault(Fault{Kind: Lie, At: d.begin, Peers: []int{5 + d.r.IntN(3)}, Point: 1 + d.r.IntN(int(lies)-1)})
	}
	for _, p := range d.r.Perm(8) {
		if !slices.ContainsFunc(d.Faults, func(f Fault) bool { return slices.Contains(f.Peers, p) }) {
			d.good = append(d.good, p)
		}
	}
	d.mixed(1 + d.r.IntN(4))
	return d.Config
}

// Nobody honest is convicted or removed for what happens in closing rounds, and every run ends for all
// with one commit (invariants of every run). SIM_SEEDS says how many.
func TestClosingSeeds(t *testing.T) {
	n := number(t, "SIM_SEEDS", 20)
	var sum Report
	extra := uint64(0)
	for seed := range uint64(n) {
		c := closing(seed)
		r, err := Run(c)
		if err != nil {
			t.Errorf("%v\n%v", err, c)
			continue
		}
		extra = max(extra, r.Rounds-c.Stop)
		sum.add(r)
	}
	t.Logf("%d runs, up to %d rounds after the stop rule's; %s", n, extra, sum.audits())
	if sum.Convicted == 0 {
		t.Error("nobody was convicted")
	}
}

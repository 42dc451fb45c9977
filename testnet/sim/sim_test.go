package sim

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalnet/shoal/toploc/audit"
)

// number reads an environment variable.
func number(t *testing.T, name string, none int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return none
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s is not a number", name, s)
	}
	return n
}

// add sums what universes came to.
func (r *Report) add(x *Report) {
	r.Events += x.Events
	r.Rounds += x.Rounds
	r.Weak += x.Weak
	r.Merged += x.Merged
	r.Late += x.Late
	r.Siblings += x.Siblings
	r.Heal = max(r.Heal, x.Heal)
	r.Audits += x.Audits
	r.Verdicts += x.Verdicts
	r.Convicted += x.Convicted
	r.Silenced += x.Silenced
	r.Owed += x.Owed
	r.Missed += x.Missed
	r.Removed += x.Removed
	r.Account = max(r.Account, x.Account)
	r.Caught = max(r.Caught, x.Caught)
}

// audits tells what came of the audits.
func (r *Report) audits() string {
	return fmt.Sprintf("%d segments replayed, %d verdicts in the chain, %d convictions, %d of them of silence; "+
		"at most %d rounds from the commit with a lie that a coin chose to the conviction; of %d audits owed the honest missed %d, and none had more than %d points of the %d that remove it",
		r.Audits, r.Verdicts, r.Convicted, r.Silenced, r.Caught, r.Owed, r.Missed, r.Account, audit.MissLimit)
}

// TestSeeds searches universes of mixed faults. SIM_SEEDS says how many,
// SIM_FROM the first; a violation is shrunk to the faults that matter.
func TestSeeds(t *testing.T) {
	n := 200
	if testing.Short() {
		n = 40
	}
	n = number(t, "SIM_SEEDS", n)
	from := number(t, "SIM_FROM", 0)
	start := time.Now()
	var next, bad atomic.Int64
	var mu sync.Mutex // guards sum
	var sum Report
	var work sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 16) {
		work.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(n) || bad.Load() >= 5 {
					return
				}
				seed := uint64(from) + uint64(i)
				r, err := Run(Random(seed))
				mu.Lock()
				sum.add(r)
				mu.Unlock()
				if err != nil {
					bad.Add(1)
					small, cause := Shrink(Random(seed))
					t.Errorf("%v\nshrunk: %v\n%v\nsee it with: SIM_SEED=%d go test ./testnet/sim -run OneSeed -v", err, cause, small, seed)
				}
			}
		})
	}
	work.Wait()
	wall := time.Since(start)
	t.Log(sum.audits())
	t.Logf("%d removed for want of stake", sum.Removed)
	t.Logf("%d seeds from %d: %d violations; %d events in %v, %.0f a second; %d rounds, %d of them weak, %d siblings; %d deltas merged, %d of them late; at most %d rounds until a healed partition had one chain",
		n, from, bad.Load(), sum.Events, wall.Round(time.Millisecond), float64(sum.Events)/wall.Seconds(), sum.Rounds, sum.Weak, sum.Siblings, sum.Merged, sum.Late, sum.Heal)
}

// TestOneSeed tells what happens in the universe of SIM_SEED.
func TestOneSeed(t *testing.T) {
	if os.Getenv("SIM_SEED") == "" {
		t.Skip("SIM_SEED names no seed to look at")
	}
	c := Random(uint64(number(t, "SIM_SEED", 0)))
	if _, err := Run(c); err != nil {
		c, _ = Shrink(c)
	}
	t.Logf("%v", c)
	c.Log = os.Stdout
	r, err := Run(c)
	t.Logf("%+v", *r)
	if err != nil {
		t.Error(err)
	}
}

// The same seed gives the same trace, another seed another one.
func TestReplay(t *testing.T) {
	traces := map[string]uint64{}
	for seed := range uint64(12) {
		a, errA := Run(Random(seed))
		b, errB := Run(Random(seed))
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if a.Trace != b.Trace || a.Events != b.Events {
			t.Errorf("seed %d: traces %s and %s", seed, a.Trace, b.Trace)
		}
		if other, ok := traces[a.Trace]; ok {
			t.Errorf("seeds %d and %d have the same trace", seed, other)
		}
		traces[a.Trace] = seed
	}
}

func run(t *testing.T, c Config) *Report {
	t.Helper()
	r, err := Run(c)
	t.Logf("%v%+v", c, *r)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// With nothing going wrong every trainer's delta of every round is merged, in
// time, and no round has two commits.
func TestCalm(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 30} {
		r := run(t, Config{Seed: 1, Peers: n, Stop: 10})
		if r.Merged != 9*n || r.Late != 0 || r.Weak != 0 || r.Siblings != 0 {
			t.Errorf("%d peers: %+v", n, *r)
		}
	}
}

// Three against two for several rounds: both sides go on, the lighter one in
// weak commits that lose; its work is offered late, and some of it is merged.
func TestPartition(t *testing.T) {
	r := run(t, Config{
		Seed: 3, Peers: 5, Stop: 24, Leak: 40,
		Faults: []Fault{{Kind: Partition, At: 100 * time.Second, Until: 400 * time.Second, Peers: []int{1, 4}}},
	})
	if r.Siblings == 0 || r.Late == 0 || r.Heal == 0 || r.Heal > 2 {
		t.Errorf("%d siblings, %d late deltas, one chain after %d rounds", r.Siblings, r.Late, r.Heal)
	}
}

// Half of the peers vanish at once: the others go on in weak commits, drop
// them, and the leak brings finality back.
func TestHalfGone(t *testing.T) {
	var faults []Fault
	for i := range 4 {
		faults = append(faults, Fault{Kind: Crash, At: 110 * time.Second, Peers: []int{2 * i}, Point: int(crashNow)})
	}
	r := run(t, Config{Seed: 4, Peers: 8, Stop: 40, Leak: 8, Deadline: 40 * time.Second, Faults: faults})
	if r.Weak == 0 || r.Weak > 4 {
		t.Errorf("%d weak commits, want as many as it takes to drop the dead", r.Weak)
	}
}

// Everybody dies in the same second, at each point of the shell's work, and
// comes back.
func TestAllCrash(t *testing.T) {
	for point := int(crashNow); point < int(crashPoints); point++ {
		var faults []Fault
		for i := range 6 {
			at := 100*time.Second + time.Duration(i)*150*time.Millisecond
			faults = append(faults, Fault{Kind: Crash, At: at, Until: at + 30*time.Second, Peers: []int{i}, Point: point})
		}
		run(t, Config{Seed: 5, Peers: 6, Stop: 8, Faults: faults})
	}
}

// A newcomer walks back over a long chain, further than it keeps whole commits
// of, and trains soon.
func TestLongWalk(t *testing.T) {
	r := run(t, Config{
		Seed: 6, Peers: 3, Stop: 150, Train: 2 * time.Second, Deadline: 8 * time.Second, Latency: 20 * time.Millisecond, Fetch: 0.05,
		Faults: []Fault{{Kind: Enter, At: 260 * time.Second, Peers: []int{3}}},
	})
	if with := r.Merged - 3*149; with < 15 {
		t.Errorf("the newcomer's deltas and the others' make %d more than the others' alone", with)
	}
}

// A straggler's deltas come in late; it is waited for no longer than the grace window.
func TestStraggler(t *testing.T) {
	r := run(t, Config{
		Seed: 7, Peers: 5, Stop: 12,
		Faults: []Fault{{Kind: Straggle, At: 60 * time.Second, Until: time.Hour, Peers: []int{2}, Factor: 4}},
	})
	if r.Virtual > 6*time.Minute {
		t.Errorf("12 rounds of 20 s took %v", r.Virtual)
	}
}

// An equivocator is banned by those whom it lied to.
func TestEquivocator(t *testing.T) {
	c := Config{
		Seed: 8, Peers: 7, Stop: 12,
		Faults: []Fault{{Kind: Equivocate, At: 60 * time.Second, Peers: []int{2}}},
	}
	w := newWorld(c.withDefaults())
	w.loop()
	if w.failed != nil {
		t.Fatal(w.failed)
	}
	if w.peers[2].lied == 0 {
		t.Fatal("it never lied")
	}
	last := w.check.commits[w.check.doneID]
	for _, m := range last.Roster {
		if m.Peer == w.peers[2].id && !m.Banned {
			t.Errorf("it lied %d times and is in the roster of round %d", w.peers[2].lied, last.Round)
		}
	}
}

// Peers apart from the beginning do not make two runs if MinPeers is more than
// half of them.
func TestApartAtFirst(t *testing.T) {
	run(t, Config{
		Seed: 9, Peers: 7, MinPeers: 4, Stop: 10,
		Faults: []Fault{{Kind: Partition, At: 0, Until: 120 * time.Second, Peers: []int{0, 1, 2}}},
	})
}

// Two hundred peers, some of whom die and return.
func TestLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("200 peers take 15 s of CPU")
	}
	start := time.Now()
	var faults []Fault
	for i := range 20 {
		at := 60*time.Second + time.Duration(i)*time.Second
		faults = append(faults, Fault{Kind: Crash, At: at, Until: at + 40*time.Second, Peers: []int{i * 7}, Point: 1 + i%5})
	}
	r := run(t, Config{Seed: 1, Peers: 200, Stop: 3, Pull: 40 * time.Second, Loss: 0.001, Faults: faults})
	wall := time.Since(start)
	t.Logf("%d events in %v: %.0f a second", r.Events, wall.Round(time.Millisecond), float64(r.Events)/wall.Seconds())
}

// A fault that breaks the rules on purpose is found, shrunk to itself, and
// named. The leak is set to hurry so that both sides of a partition end.
func TestShrink(t *testing.T) {
	c := Config{
		Seed: 11, Peers: 6, Stop: 40, Leak: 2,
		Faults: []Fault{
			{Kind: Straggle, At: 70 * time.Second, Until: 200 * time.Second, Peers: []int{1}, Factor: 3},
			{Kind: Partition, At: 100 * time.Second, Until: time.Hour, Peers: []int{0, 2, 4}},
			{Kind: Crash, At: 110 * time.Second, Until: 130 * time.Second, Peers: []int{3}, Point: 1},
		},
	}
	small, err := Shrink(c)
	var v *Violation
	if !errors.As(err, &v) {
		t.Fatalf("two sides that leak in an hour's partition: %v", err)
	}
	if len(small.Faults) != 1 || small.Faults[0].Kind != Partition {
		t.Errorf("shrunk to %v", small)
	}
	t.Log(err)
}

// found searches seeds until the run breaks an invariant whose message has
// these words, and shrinks that.
func found(t *testing.T, words string, universe func(seed uint64) Config) {
	t.Helper()
	for seed := range uint64(400) {
		_, err := Run(universe(seed))
		if err == nil || !strings.Contains(err.Error(), words) {
			continue
		}
		small, cause := Shrink(universe(seed))
		t.Logf("found after %d seeds: %v\nshrunk: %v\n%v", seed+1, err, cause, small)
		return
	}
	t.Errorf("400 seeds, and nothing found")
}

// The planted bug of the shell, a journal written after the message went out,
// is found. Those of the machine need the tag plantedbugs: see planted_test.go.
func TestPlantedJournal(t *testing.T) {
	found(t, "for one parent", func(seed uint64) Config {
		c := Random(seed)
		c.JournalLate = true
		return c
	})
}

// All but one die for good, at any moment of a round: also where the dead have
// voted for what only they held, and where they have gone on to a commit whose
// state nobody else has. The one goes on; unless it has heard 2/3 justify such a
// commit: these may as well live, beyond its reach, and have made it final, so that it
// waits for them (seeds 5 and 67).
func TestSurvivor(t *testing.T) {
	waits := 0
	for i := range 100 {
		at := 100*time.Second + time.Duration(i)*300*time.Millisecond
		faults := []Fault{{Kind: Mute, At: at - 2*time.Second, Until: at + time.Second, Peers: []int{0}}}
		for p := 1; p < 5; p++ {
			faults = append(faults, Fault{Kind: Crash, At: at, Peers: []int{p}, Point: int(crashNow)})
		}
		r, err := Run(Config{Seed: uint64(i), Peers: 5, Stop: 8, Leak: 4, Latency: time.Second, Fetch: float64(i%2) * 0.6, Faults: faults})
		switch {
		case err != nil && strings.Contains(err.Error(), "have justified"):
			waits++
		case err != nil:
			t.Errorf("death at %v: %v (%+v)", at, err, *r)
		}
	}
	if waits > 5 {
		t.Errorf("%d of 100 survivors wait for what the dead have justified: want few", waits)
	}
}

// A newcomer is told of a commit by a peer that then goes for good: others have
// it. (Seed 841 asked that peer alone, for ever.)
func TestSourceGone(t *testing.T) {
	if _, err := Run(Random(841)); err != nil {
		t.Error(err)
	}
}

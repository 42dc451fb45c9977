package sim

import (
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/toploc/audit"
)

// Each cheat and each lying validator, alone among honest ones, is convicted;
// nobody honest is (an invariant of every run).
func TestCheats(t *testing.T) {
	seeds := uint64(3)
	if testing.Short() {
		seeds = 1
	}
	base := Config{Peers: 9, Validators: 4, AuditRate: 3_000, Stop: 24}
	for kind := fakeAll; kind < cheats; kind++ {
		t.Run(cheatNames[kind], func(t *testing.T) {
			for seed := range seeds {
				c := base
				c.Seed = seed
				c.Faults = []Fault{{Kind: Cheat, At: 90 * time.Second, Peers: []int{1}, Point: int(kind)}}
				if r := run(t, c); r.Convicted != 1 {
					t.Errorf("seed %d: %d convicted", seed, r.Convicted)
				}
			}
		})
	}
	for how := passAll; how < lies; how++ {
		t.Run(lieNames[how], func(t *testing.T) {
			for seed := range seeds {
				c := base
				c.Seed = seed
				c.Faults = []Fault{{Kind: Lie, At: 90 * time.Second, Peers: []int{6}, Point: int(how)}}
				silent := 0
				if how == saysNone || how == saysLittle || how == hidesCoin || how == denyAll {
					silent, c.Stop = 1, 36 // at most one audit a round is owed, and ten missed are enough
				}
				if how == saysLittle { // two missed for one answered are three more on its account, seven times over
					c.AuditRate, c.Window, c.Stop = 6_000, 4, 52
				}
				r := run(t, c)
				if r.Convicted != 1 || r.Silenced != silent {
					t.Errorf("seed %d: %d convicted, %d of them of silence, want %d", seed, r.Convicted, r.Silenced, silent)
				}
			}
		})
	}
}

// A third of the trainers and a third of the validators collude: the validators
// pass what those trainers fake, and find the honest wrong. All four are convicted.
// With half of the validators lying nobody is, and with none of the honest harmed
// (an invariant) the cheats only lose the claim to have been checked. Silence protects
// them for a while only: it is counted without anybody's judgement, so that also half of
// the validators are removed for it, and the others are then enough to convict.
func TestCollusion(t *testing.T) {
	if testing.Short() {
		t.Skip("twelve universes")
	}
	for _, how := range []lie{shieldsBad, passAll, failAll, copyAll, denyAll, saysNone, hidesCoin} {
		for _, liars := range []int{2, 3} {
			c := Config{Seed: uint64(how), Peers: 12, Validators: 6, AuditRate: 2_500, Stop: 32} // one fakes but a quarter
			for i := range 2 {
				c.Faults = append(c.Faults, Fault{Kind: Cheat, At: 80 * time.Second, Peers: []int{i}, Point: int(fakeAll) + i})
			}
			for i := range liars {
				c.Faults = append(c.Faults, Fault{Kind: Lie, At: 80 * time.Second, Peers: []int{6 + i}, Point: int(how)})
			}
			quiet := how == denyAll || how == saysNone || how == hidesCoin
			if quiet {
				c.Stop = 44
			}
			r, err := Run(c)
			if err != nil {
				t.Errorf("%d that %s: %v", liars, lieNames[how], err)
				continue
			}
			t.Logf("%d of 6 %s: %d convicted, at most %d rounds after a coin chose", liars, lieNames[how], r.Convicted, r.Caught)
			want := 2 + liars                          // the trainers, too
			shield := how != failAll && how != denyAll // those two accuse the cheats as well
			switch {
			case liars == 2 || quiet && how != denyAll: // three do not overrule three who deny
				if r.Convicted != want {
					t.Errorf("%d that %s: %d convicted, want %d", liars, lieNames[how], r.Convicted, want)
				}
			case shield && r.Convicted != 0:
				t.Errorf("%d that %s: %d convicted", liars, lieNames[how], r.Convicted)
			}
		}
	}
}

// A trainer that serves nothing takes its stake back before anybody can convict it, at once or
// when it is accused, also after it has left or fallen silent: it is convicted all the
// same, and in time. One that serves, and does the same, is not.
func TestWithholderWithdraws(t *testing.T) {
	seeds := uint64(4)
	if testing.Short() {
		seeds = 1
	}
	const window = 6
	for name, test := range map[string]struct {
		how    cheat
		faults []Fault
	}{
		"at once":               {unserved, []Fault{{Kind: Unstake, At: 92 * time.Second}}},
		"when accused":          {unserved, []Fault{{Kind: Unstake, At: 150 * time.Second}}},
		"after leaving":         {unserved, []Fault{{Kind: Leave, At: 150 * time.Second}, {Kind: Unstake, At: 165 * time.Second}}},
		"after falling silent":  {unserved, []Fault{{Kind: Mute, At: 150 * time.Second}, {Kind: Unstake, At: 200 * time.Second}}},
		"killed":                {unserved, []Fault{{Kind: Crash, At: 150 * time.Second, Point: int(crashNow)}, {Kind: Unstake, At: 155 * time.Second}}},
		"honest":                {trains, []Fault{{Kind: Unstake, At: 150 * time.Second}}},
		"honest, after leaving": {trains, []Fault{{Kind: Leave, At: 150 * time.Second}, {Kind: Unstake, At: 165 * time.Second}}},
		"honest, then down":     {trains, []Fault{{Kind: Unstake, At: 150 * time.Second}, {Kind: Crash, At: 160 * time.Second, Until: 230 * time.Second, Point: int(crashNow)}}},
		"honest, only leaves":   {trains, []Fault{{Kind: Leave, At: 150 * time.Second}, {Kind: Unstake, At: time.Hour}}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range seeds {
				c := Config{Seed: seed, Peers: 9, Validators: 4, AuditRate: 6_000, Window: window, Stop: 30}
				w := befalls(t, c, test.how, 90*time.Second, test.faults)
				var convicted []diloco.Conviction
				last, when := uint64(0), uint64(0) // of its work, and its conviction
				for _, k := range w.check.chain() {
					for _, m := range k.Merged() {
						if m.Peer == w.peers[1].id {
							last = max(last, m.Round)
						}
					}
					if len(k.Convicted) > 0 {
						when = k.Round
					}
					convicted = append(convicted, k.Convicted...)
				}
				switch {
				case test.how == trains && len(convicted) > 0:
					t.Errorf("seed %d: %+v", seed, convicted)
				case test.how == trains:
				case len(convicted) != 1 || convicted[0].Peer != w.peers[1].id || convicted[0].Why != diloco.WhyWithheld:
					t.Errorf("seed %d: convicted %+v", seed, convicted)
				case when > last+audit.Memory(window)+1:
					t.Errorf("seed %d: convicted in round %d, its last work is of round %d", seed, when, last)
				default:
					t.Logf("seed %d: its last work is of round %d, convicted in round %d", seed, last, when)
				}
			}
		})
	}
}

// Where all could do a round in a second, and validators ask for some five of them before they say that
// nothing comes, a round lasts as long as it takes to convict (audit.Shortest): who serves nothing and takes
// its stake back at once is convicted whatever the window, for its first lies; who serves is not. SIM_SEEDS says how many.
func TestShortRounds(t *testing.T) {
	seeds := number(t, "SIM_SEEDS", 1)
	windows := []uint64{8, 20}
	if os.Getenv("SIM_SEEDS") != "" {
		windows = []uint64{6, 8, 12, 20}
	} else if testing.Short() {
		windows = windows[:1]
	}
	for _, window := range windows {
		for _, test := range []struct {
			name   string
			how    cheat
			faults []Fault
		}{
			{"unbonds at once", unserved, []Fault{{Kind: Unstake, At: 31 * time.Second}}},
			{"unbonds, is killed", unserved, []Fault{{Kind: Unstake, At: 31 * time.Second}, {Kind: Crash, At: 36 * time.Second, Point: int(crashNow)}}},
			{"unbonds later", unserved, []Fault{{Kind: Unstake, At: 45 * time.Second}}},
			{"stays", unserved, nil},
			{"honest, unbonds", trains, []Fault{{Kind: Unstake, At: 31 * time.Second}}},
			{"honest, slow line", trains, []Fault{{Kind: Lossy, At: 30 * time.Second, Until: 60 * time.Second, Factor: 0.3}}},
		} {
			t.Run(fmt.Sprintf("%s, window %d", test.name, window), func(t *testing.T) {
				least := uint64(math.MaxUint64)
				for seed := range uint64(seeds) {
					c := Config{
						Seed: seed, Peers: 9, Validators: 4, AuditRate: 6_000, Window: window, Stop: uint64(25*time.Second/audit.Shortest(window, 2)) + 2*window + 12,
						Train: 400 * time.Millisecond, Latency: 40 * time.Millisecond, Deadline: 20 * time.Second,
					}
					w := befalls(t, c, test.how, 30*time.Second, test.faults)
					got, works := []diloco.Conviction(nil), uint64(0)
					for _, k := range w.check.chain() {
						got = append(got, k.Convicted...)
						for _, m := range k.Merged() {
							if m.Peer == w.peers[1].id && w.check.madeAt[m.Parent] >= 30*time.Second {
								works++
							}
						}
					}
					least = min(least, works)
					if test.how == trains && len(got) > 0 || test.how != trains && (len(got) != 1 || got[0].Peer != w.peers[1].id || got[0].Why != diloco.WhyWithheld) {
						t.Errorf("seed %d: after %d pieces of work, convicted %+v", seed, works, got)
					}
				}
				t.Logf("%d seeds, at least %d pieces of its work merged since", seeds, least)
			})
		}
	}
}

// Validators that say more within a window than a machine keeps of one of them, in short rounds and over bad lines:
// what is given away is what nobody can name any more, or no set of votes made a commit.
func TestManyVerdicts(t *testing.T) {
	c := Config{
		Seed: 1, Peers: 9, Validators: 4, AuditRate: 6_000, Window: 20, Stop: 100, Train: 400 * time.Millisecond, Latency: 40 * time.Millisecond, Deadline: 20 * time.Second,
		Faults: []Fault{{Kind: Lossy, At: 30 * time.Second, Until: 60 * time.Second, Peers: []int{1}, Factor: 0.3}},
	}
	r := run(t, c)
	t.Logf("%d verdicts in %d rounds, %d of them refused somewhere", r.Verdicts, r.Rounds, r.Rejected["too many messages"])
	if r.Rejected["too many messages"] == 0 {
		t.Error("no machine had too many")
	}
}

// A third of the roster finds the honest without stake: nobody is removed for that. Those whose
// stake is really gone are, once a ledger that was away is back; who stakes again is
// back, too.
func TestStakeGone(t *testing.T) {
	c := Config{
		Seed: 12, Peers: 12, Validators: 4, AuditRate: 2_000, Stop: 24,
		Faults: []Fault{
			{Kind: Slander, At: 60 * time.Second, Peers: []int{4}},
			{Kind: Slander, At: 60 * time.Second, Peers: []int{5}},
			{Kind: Slander, At: 60 * time.Second, Peers: []int{10}},
			{Kind: Unstake, At: 100 * time.Second, Peers: []int{1}},
			{Kind: Unstake, At: 100 * time.Second, Peers: []int{9}},
			{Kind: Unstake, At: 120 * time.Second, Until: 300 * time.Second, Peers: []int{3}},
			{Kind: Away, At: 200 * time.Second, Until: 300 * time.Second},
			{Kind: Unstake, At: 220 * time.Second, Peers: []int{2}},
		},
	}
	w := newWorld(c.withDefaults())
	w.loop()
	if w.failed != nil {
		t.Fatal(w.failed)
	}
	removed := map[int]time.Duration{}
	chain := w.check.chain()
	for i, k := range chain {
		for _, p := range k.Unstaked {
			if at := w.check.madeAt[chain[i+1].Parent]; removed[w.index[p].n] == 0 {
				removed[w.index[p].n] = at
			}
		}
	}
	t.Logf("removed: %v", removed)
	if len(removed) != 4 || removed[1] > 160*time.Second || removed[9] > 160*time.Second || removed[3] > 180*time.Second || removed[2] < 300*time.Second {
		t.Errorf("removed: %v", removed)
	}
	last := chain[len(chain)-1]
	for n, in := range map[int]bool{1: false, 9: false, 2: false, 3: true, 0: true, 11: true} {
		if m := member(last.Roster, w.peers[n].id); (m != nil) != in {
			t.Errorf("peer %d is in the last roster: %v", n, m != nil)
		}
	}
	if w.peers[4].lied == 0 {
		t.Error("nobody lied")
	}
}

// befalls runs c in which peer 1 cheats from a time on, unless how is trains, and faults happen to it.
func befalls(t *testing.T, c Config, how cheat, from time.Duration, faults []Fault) *world {
	t.Helper()
	if how != trains {
		c.Faults = []Fault{{Kind: Cheat, At: from, Peers: []int{1}, Point: int(how)}}
	}
	for _, f := range faults {
		f.Peers = []int{1}
		c.Faults = append(c.Faults, f)
	}
	w := newWorld(c.withDefaults())
	w.loop()
	if w.failed != nil {
		t.Fatal(w.failed)
	}
	return w
}

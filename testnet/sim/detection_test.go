package sim

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// found returns, for each cheating trainer of a finished universe, how many lies of its the
// final chain merged, and which of them, from 1, was the first that an honest validator's
// replay exposed (0: none). Lies that came in so late that their audits could not end are left out.
func (w *world) found() (merged, exposed []int) {
	chain := w.check.chain()
	wrong := map[wire.CID]bool{}
	for _, k := range chain {
		for _, s := range k.Verdicts {
			if m, err := w.open(&s); err == nil && w.index[s.From].honest {
				if v := m.Body.(*diloco.Verdict); v.Finding == diloco.Wrong {
					wrong[v.Subject] = true
				}
			}
		}
	}
	for _, p := range w.peers {
		if p.cheat == trains {
			continue
		}
		n, first := 0, 0
		for _, k := range chain {
			if k.Round+4 > uint64(len(chain)) {
				break
			}
			for _, d := range k.Merged() {
				if d.Peer != p.id || w.faked[d.Block] == 0 {
					continue
				}
				if n++; wrong[d.ID] && first == 0 {
					first = n
				}
			}
		}
		merged, exposed = append(merged, n), append(exposed, first)
	}
	return merged, exposed
}

// wilson is the 95 % confidence interval of a share of n (Wilson 1927).
func wilson(hits, n int) (lo, hi float64) {
	const z = 1.96
	p, m := float64(hits)/float64(n), float64(n)
	mid, half := p+z*z/(2*m), z*math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	return (mid - half) / (1 + z*z/m), (mid + half) / (1 + z*z/m)
}

// TestDetection measures how many cheats are found by their n-th lie, in swarms of the real
// machines, and holds that against 1-(1-p·f)^(v·n). SIM_DETECTION says how many cheats
// for each line of the table (`make detection`: 200).
func TestDetection(t *testing.T) {
	const validators = 2
	type line struct {
		rate uint64
		how  cheat
	}
	lines := []line{{500, fakeAll}, {1_000, fakeRest}, {2_000, fakeOne}, {10_000, fakeAll}}
	want := number(t, "SIM_DETECTION", 10)
	if os.Getenv("SIM_DETECTION") != "" {
		lines = nil
		for _, rate := range []uint64{500, 1_000, 2_000, 5_000, 10_000} {
			for _, how := range []cheat{fakeAll, fakeRest, fakeOne} {
				lines = append(lines, line{rate, how})
			}
		}
	} else if testing.Short() {
		lines = lines[1:3]
	}
	share := map[cheat]float64{fakeAll: 1, fakeRest: 0.75, fakeOne: 0.25}
	var table strings.Builder
	fmt.Fprintf(&table, "%10s %15s %5s %7s %9s %15s %9s\n", "audit rate", "faked segments", "lies", "cheats", "found", "95 %", "formula")
	for i, l := range lines {
		// Where all is audited a validator has to look at as much as one trainer makes, at most.
		liars := min(8, max(2, int(20_000/l.rate)))
		var merged, exposed []int
		for seed := uint64(i) << 16; len(merged) < want; seed++ { // no two lines share their luck
			c := Config{Seed: seed, Peers: liars + 2 + validators, Validators: validators, AuditRate: l.rate, Stop: 26}
			for i := range liars {
				c.Faults = append(c.Faults, Fault{Kind: Cheat, Peers: []int{i}, Point: int(l.how), At: time.Second})
			}
			w := newWorld(c.withDefaults())
			w.loop()
			if w.failed != nil {
				t.Fatalf("%v\n%v", w.failed, c)
			}
			m, x := w.found()
			merged, exposed = append(merged, m...), append(exposed, x...)
		}
		for _, n := range []int{1, 3, 10, 20} {
			p := audit.Detection(l.rate, share[l.how], validators, n)
			if n > 1 && audit.Detection(l.rate, share[l.how], validators, n/2) > 0.999 {
				continue
			}
			cheats, hits := 0, 0
			for i := range merged {
				if merged[i] >= n || exposed[i] > 0 && exposed[i] <= n { // it lived to lie so often, or was found before
					cheats++
					if exposed[i] > 0 && exposed[i] <= n {
						hits++
					}
				}
			}
			if cheats < len(merged)*9/10 {
				continue // too few lied so often before the run was over
			}
			lo, hi := wilson(hits, cheats)
			fmt.Fprintf(&table, "%8.0f %% %10.0f of 4 %7d %7d %8.1f%% %6.1f–%5.1f %% %8.1f%%\n",
				float64(l.rate)/100, 4*share[l.how], n, cheats, 100*float64(hits)/float64(cheats), 100*lo, 100*hi, 100*p)
			if sd := math.Sqrt(p * (1 - p) / float64(cheats)); math.Abs(float64(hits)/float64(cheats)-p) > 4*sd+1/float64(cheats) {
				t.Errorf("rate %d, %s: %d of %d are found by their lie %d, the formula says %.3f ± %.3f", l.rate, cheatNames[l.how], hits, cheats, n, p, sd)
			}
		}
	}
	t.Logf("%d validators, found by so many lies:\n%s", validators, &table)
	if !slices.ContainsFunc(strings.Split(table.String(), "\n"), func(s string) bool { return strings.Contains(s, " of 4 ") }) {
		t.Error("nothing was measured")
	}
}

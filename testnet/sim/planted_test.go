//go:build plantedbugs

package sim

import (
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/diloco"
)

// Each planted bug of the machine is found, by the invariant that it breaks.
func TestPlanted(t *testing.T) {
	mixed := func(seed uint64) Config { return Random(2*seed + 1) } // the odd ones audit
	silent := func(seed uint64) Config {                            // ten audits owed, one a round, are more than most of those have
		return Config{
			Seed: seed, Peers: 9, Validators: 4, AuditRate: 3_000, Stop: 36,
			Faults: []Fault{{Kind: Lie, At: 90 * time.Second, Peers: []int{6}, Point: int(saysNone)}},
		}
	}
	for _, bug := range []struct {
		name, finds string
		universe    func(uint64) Config
	}{
		{"quorum", "two final commits", mixed},
		{"unsorted", "not what its deltas make", mixed},
		{"case", "convicts honest peer", mixed},
		{"miss", "convicts honest peer", mixed},
		{"spare", "audits in a row", silent},
		{"stake", "which has its stake", mixed},
	} {
		t.Run(bug.name, func(t *testing.T) {
			if err := diloco.Plant(bug.name); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := diloco.Plant(""); err != nil {
					t.Error(err)
				}
			}()
			found(t, bug.finds, bug.universe)
		})
	}
	if err := diloco.Plant("no such bug"); err == nil || !strings.Contains(err.Error(), "no such bug") {
		t.Error(err)
	}
}

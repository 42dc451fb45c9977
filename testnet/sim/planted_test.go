//go:build plantedbugs

package sim

import (
	"strings"
	"testing"

	"github.com/shoalnet/shoal/diloco"
)

// Each planted bug of the machine is found, by the invariant that it breaks.
func TestPlanted(t *testing.T) {
	for _, bug := range []struct{ name, finds string }{
		{"quorum", "two final commits"},
		{"unsorted", "not what its deltas make"},
		{"case", "convicts honest peer"},
		{"miss", "convicts honest peer"},
		{"spare", "audits in a row"},
		{"stake", "which has its stake"},
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
			found(t, bug.finds, func(seed uint64) Config { return Random(2*seed + 1) }) // the odd ones audit
		})
	}
	if err := diloco.Plant("no such bug"); err == nil || !strings.Contains(err.Error(), "no such bug") {
		t.Error(err)
	}
}

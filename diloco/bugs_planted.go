//go:build plantedbugs

package diloco

import "fmt"

// Faults that the simulator must find (testnet/sim, TestPlanted). They exist
// only in builds with the tag plantedbugs.
var (
	bugQuorum   bool // one member too few makes a quorum
	bugUnsorted bool // deltas are merged in the order in which they were heard
	bugCase     bool // half of the validators decide a case
	bugMiss     bool // an audit that was answered counts as missed
	bugSpare    bool // none does
	bugStake    bool // a third of the roster removes a member for want of stake
)

// Plant turns one bug on, or all off with "".
func Plant(bug string) error {
	bugQuorum, bugUnsorted, bugCase, bugMiss, bugSpare, bugStake = false, false, false, false, false, false
	switch bug {
	case "":
	case "quorum":
		bugQuorum = true
	case "unsorted":
		bugUnsorted = true
	case "case":
		bugCase = true
	case "miss":
		bugMiss = true
	case "spare":
		bugSpare = true
	case "stake":
		bugStake = true
	default:
		return fmt.Errorf("no bug is called %q", bug)
	}
	return nil
}

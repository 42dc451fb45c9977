//go:build !plantedbugs

package diloco

// The bugs that a test build can plant; see bugs_planted.go.
const (
	bugQuorum   = false
	bugUnsorted = false
	bugCase     = false
	bugMiss     = false
	bugSpare    = false
	bugStake    = false
)

package ref_test

import (
	"testing"

	"github.com/shoalnet/shoal/gpu/gputest"
	"github.com/shoalnet/shoal/gpu/ref"
)

// TestConformance holds the reference to the differences of its own passes,
// to its treatment of shapes, and to its name: comparisons with itself pass.
func TestConformance(t *testing.T) { gputest.Run(t, ref.New()) }

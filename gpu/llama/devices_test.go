package llama

import (
	"testing"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/ref"
)

func devices(t testing.TB) []gpu.Device {
	return []gpu.Device{ref.New()}
}

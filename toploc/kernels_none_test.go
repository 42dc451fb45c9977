//go:build !amd64 || purego

package toploc

import "testing"

var isaNames = [...]string{"generic"}

var isa = 0

func each(t *testing.T, f func(t *testing.T)) { t.Run("generic", f) }

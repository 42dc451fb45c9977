package audit

import "testing"

func BenchmarkNewCoin(b *testing.B) {
	for b.Loop() {
		NewCoin([]byte("x"), "run")
	}
}

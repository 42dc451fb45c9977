package sim

import (
	"testing"
	"time"
)

// Each cheat and each lying validator, alone among honest ones, is convicted;
// nobody honest is (an invariant of every run).
func TestCheats(t *testing.T) {
	base := Config{Peers: 9, Validators: 4, AuditRate: 3_000, Stop: 24}
	for kind := fakeAll; kind < cheats; kind++ {
		t.Run(cheatNames[kind], func(t *testing.T) {
			for seed := range uint64(6) {
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
			for seed := range uint64(6) {
				c := base
				c.Seed = seed
				c.Faults = []Fault{{Kind: Lie, At: 90 * time.Second, Peers: []int{6}, Point: int(how)}}
				want := 1
				if how == saysNone || how == denyAll {
					want = 0 // it earns nothing, and what was withheld from it nobody can know
				}
				if r := run(t, c); r.Convicted != want {
					t.Errorf("seed %d: %d convicted, want %d", seed, r.Convicted, want)
				}
			}
		})
	}
}

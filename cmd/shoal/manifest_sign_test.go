package main

import (
	"strings"
	"testing"
)

// What is written on one line is set as well as what is written on several.
func TestSetIn(t *testing.T) {
	values := map[string]string{"budget": "7", "trainers": "9000"}
	order := []string{"budget", "trainers"}
	for text, want := range map[string]string{
		"a: 1\nrewards: {trainers: 8000, validators: 2000}\nstop: {rounds: 3}": "a: 1\nrewards:\n  validators: 2000\n  budget: 7\n  trainers: 9000\nstop: {rounds: 3}",
		"rewards:   # who is paid\n  trainers: 8000\n  shares: true\nz: 1":     "rewards:   # who is paid\n  shares: true\n  budget: 7\n  trainers: 9000\nz: 1",
		"a: 1": "a: 1\n\nrewards:\n  budget: 7\n  trainers: 9000",
	} {
		if got := strings.Join(setIn(strings.Split(text, "\n"), "rewards", values, order), "\n"); got != want {
			t.Errorf("%q:\n%s\nwant\n%s", text, got, want)
		}
	}
}

package main

import (
	"errors"
	"strings"
	"testing"
)

func TestStopTexts(t *testing.T) {
	for _, c := range []struct {
		stop  []string
		parts []string
		want  string
		ends  bool
	}{
		{nil, []string{"ab", "c"}, "abc", false},
		{[]string{"bc"}, []string{"ab", "b", "b", "cd"}, "abb", true},
		{[]string{"bcd"}, []string{"ab", "c"}, "abc", false},
		{[]string{"xyz", "b"}, []string{"ax", "yb", "z"}, "axy", true},
		{[]string{"cd", "bcde"}, []string{"ab", "cde"}, "a", true},
		{[]string{"é"}, []string{"e", "é"}, "e", true},
		{[]string{"aab"}, []string{"a", "a", "a", "b"}, "a", true},
	} {
		var out strings.Builder
		w := &speaker{out: &out, stop: c.stop}
		var err error
		for _, p := range c.parts {
			if err = w.put(p); err != nil {
				break
			}
		}
		if err2 := w.flush(); err2 != nil || errors.Is(err, errStopText) != c.ends || out.String() != c.want {
			t.Errorf("%q of %q: %q, %v", c.stop, c.parts, out.String(), err)
		}
	}
}

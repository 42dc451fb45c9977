package hf

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

// randomPattern is one that both Go's regexp and regex take.
func randomPattern(rng *rand.Rand, depth int) string {
	if depth == 0 || rng.IntN(4) == 0 {
		return []string{"a", "b", "é", ".", "[ab]", "[^a]", `\n`, "(?i:B)", "(?m:$)"}[rng.IntN(9)]
	}
	p := func() string { return randomPattern(rng, depth-1) }
	switch rng.IntN(4) {
	case 0:
		return p() + p()
	case 1:
		return "(?:" + p() + "|" + p() + ")"
	case 2:
		return "(?:" + p() + ")" + []string{"*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{2,}", "{0,2}?"}[rng.IntN(10)]
	}
	return p() + p() + p()
}

// A regex finds what Go's regexp finds, with a memo from the first step on, with one
// later, and without one.
func TestRegexIsRegexp(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	kept := 0
	for range 4000 {
		pattern := randomPattern(rng, 4)
		if rng.IntN(2) == 0 {
			pattern += "|" + randomPattern(rng, 3)
		}
		x, err := newRegex(pattern)
		if err != nil || x.nullable() {
			continue
		}
		kept++
		want := regexp.MustCompile(pattern)
		text := make([]rune, rng.IntN(60))
		for i := range text {
			text[i] = []rune("aaaabbbé\n")[rng.IntN(9)]
		}
		for _, x.free = range []int{-1, 5, 40, freeSteps} {
			var m memo
			for s := string(text); ; {
				start, stop := x.find(s, &m)
				w := want.FindStringIndex(s)
				if w == nil {
					w = []int{len(s), len(s)}
				}
				if start != w[0] || stop != w[1] {
					t.Fatalf("%q in %q (of %q), memo after %d: %d to %d, want %d", pattern, s, string(text), x.free, start, stop, w)
				}
				if s = s[stop:]; s == "" {
					break
				}
			}
		}
	}
	if kept < 1000 {
		t.Errorf("only %d patterns", kept)
	}
}

// All matches of patterns that read far before they fail are found in time linear in
// the text: one that is quadratic in it would take hours here.
func TestRegexIsLinear(t *testing.T) {
	const n = 1 << 20
	for _, c := range []struct {
		pattern, text string
		pieces        int
	}{
		{`a.*z|a`, strings.Repeat("a", n), n},
		{`a.*z|a`, strings.Repeat("a", n) + "z" + strings.Repeat("a", n), 1 + n},
		{`(?:a|b)*c|[ab]`, strings.Repeat("ab", n/2), n},
		{`(?:a*)*z|a`, strings.Repeat("a", n), n},
		{`a+b`, strings.Repeat("a", n), 1},
		{`\s*\n|\s`, strings.Repeat(" ", n), n},
		{`.*?x.*?y|.`, strings.Repeat("x", n/4), n / 4},
		{`\s+(?!\S)|\S`, strings.Repeat(" ", n) + "a", 3},
		{`(?:é|a).*z|é`, strings.Repeat("é", n/4), n / 4},
	} {
		find, err := findRegex(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		next, err := splitBy(find, "Isolated", false)
		if err != nil {
			t.Fatal(err)
		}
		var m memo
		pieces := 0
		for s := c.text; s != ""; pieces++ {
			s = s[next(s, &m):]
		}
		if pieces != c.pieces {
			t.Errorf("%s: %d pieces, want %d", c.pattern, pieces, c.pieces)
		}
	}
	for _, pattern := range []string{`(?:a{500}b{500}){4}c`, strings.Repeat(`(?:a?b)`, 300)} {
		if _, err := findRegex(pattern); err == nil || !strings.Contains(err.Error(), "at most") && !strings.Contains(err.Error(), "repeat") {
			t.Errorf("%.40q: %v", pattern, err)
		}
	}
}

func BenchmarkRegex(b *testing.B) {
	const pattern = `[!-/:-~]?[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+`
	text := strings.Repeat("Call me Ishmael. Some years ago, never mind how long precisely, having little or no money.\n", 1000)
	x, err := newRegex(pattern)
	if err != nil {
		b.Fatal(err)
	}
	std := regexp.MustCompile(pattern)
	b.Run("regex", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			var m memo
			for s := text; s != ""; {
				_, stop := x.find(s, &m)
				s = s[stop:]
			}
		}
	})
	b.Run("regexp", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			for s := text; s != ""; {
				s = s[std.FindStringIndex(s)[1]:]
			}
		}
	})
}

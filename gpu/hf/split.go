package hf

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// The patterns of the pre-tokenizers that most models have, which scanners by
// hand do several times as fast as a regex.
const (
	patternGPT2      = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	patternGPT2Short = `'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	patternLlama3    = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternQwen      = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+` // 2, 2.5, 3
	patternO200k     = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	charPattern      = `[\s\S]`
)

var splits = map[string]func(string) int{
	patternGPT2:      splitGPT2,
	patternGPT2Short: splitGPT2,
	patternLlama3:    func(s string) int { return splitGPT4(s, 3) },
	patternQwen:      func(s string) int { return splitGPT4(s, 1) },
	patternO200k:     splitO200k,
	charPattern:      splitChar,
}

// class is what the patterns distinguish.
type class uint8

const (
	other  class = iota // [^\s\p{L}\p{N}]
	letter              // \p{L}
	number              // \p{N}
	space               // \s, Unicode's White_Space
)

var ascii = func() (t [utf8.RuneSelf]class) {
	for r := range rune(utf8.RuneSelf) {
		t[r] = classify(r)
	}
	return t
}()

func classify(r rune) class {
	switch {
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return number
	case unicode.IsSpace(r):
		return space
	}
	return other
}

// first returns the class and length of the first character of s, which is
// not empty.
func first(s string) (class, int) {
	if c := s[0]; c < utf8.RuneSelf {
		return ascii[c], 1
	}
	r, n := utf8.DecodeRuneInString(s)
	return classify(r), n
}

// run returns how many bytes of s, from byte at on, are of class c.
func run(s string, at int, c class) int {
	start := at
	for at < len(s) {
		k, n := first(s[at:])
		if k != c {
			break
		}
		at += n
	}
	return at - start
}

// splitChar takes one character.
func splitChar(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	return n
}

// splitGPT2 returns the length of the first piece under GPT-2's pattern.
func splitGPT2(s string) int {
	if s[0] == '\'' && len(s) > 1 {
		switch s[1] {
		case 's', 't', 'm', 'd':
			return 2
		}
		if len(s) > 2 {
			switch s[1:3] {
			case "re", "ve", "ll":
				return 3
			}
		}
	}
	c, n := first(s)
	if s[0] == ' ' && len(s) > 1 {
		if next, m := first(s[1:]); next != space {
			return 1 + m + run(s, 1+m, next)
		}
	}
	if c != space {
		return n + run(s, n, c)
	}
	return spaces(s)
}

// spaces is \s+(?!\S)|\s+ on text that begins with a space: the whole run at
// the end of the text, else all but its last, else the one there is.
func spaces(s string) int {
	n := run(s, 0, space)
	if n == len(s) {
		return n
	}
	if _, last := utf8.DecodeLastRuneInString(s[:n]); last < n {
		return n - last
	}
	return n
}

// splitGPT4 returns the length of the first piece under the pattern of
// cl100k_base and its kin, with runs of up to digits numbers.
func splitGPT4(s string, digits int) int {
	if s[0] == '\'' {
		if n := contraction(s); n > 0 {
			return n
		}
	}
	c, n := first(s)
	if c == letter {
		return n + run(s, n, letter)
	}
	if c != number && s[0] != '\r' && s[0] != '\n' { // [^\r\n\p{L}\p{N}]?\p{L}+
		if l := run(s, n, letter); l > 0 {
			return n + l
		}
	}
	if c == number {
		for k := 1; k < digits && n < len(s); k++ {
			d, m := first(s[n:])
			if d != number {
				break
			}
			n += m
		}
		return n
	}
	return restGPT4(s, "\r\n")
}

// restGPT4 is ` ?[^\s\p{L}\p{N}]+[tail]*|\s*[\r\n]+|\s+(?!\S)|\s+` on text that
// begins with neither a letter nor a number.
func restGPT4(s, tail string) int {
	at := 0
	if s[0] == ' ' {
		at = 1
	}
	if k := run(s, at, other); k > 0 {
		at += k
		for at < len(s) && strings.IndexByte(tail, s[at]) >= 0 {
			at++
		}
		return at
	}
	// Only spaces are left. \s*[\r\n]+ reaches to the last line end of the run.
	for i := run(s, 0, space) - 1; i >= 0; i-- {
		if s[i] == '\r' || s[i] == '\n' {
			return i + 1
		}
	}
	return spaces(s)
}

// contraction is (?i:'s|'t|'re|'ve|'m|'ll|'d) at the start of s; 0 is no match.
func contraction(s string) int {
	if len(s) < 2 {
		return 0
	}
	switch s[1] | 0x20 {
	case 's', 't', 'm', 'd':
		return 2
	}
	if len(s) > 2 {
		if s[1:3] == "ſ" { // folds to s
			return 3
		}
		switch string([]byte{s[1] | 0x20, s[2] | 0x20}) {
		case "re", "ve", "ll":
			return 3
		}
	}
	return 0
}

// upperly and lowerly are the two classes of letters of o200k_base, which share
// those without case, and marks.
func upperly(r rune) bool {
	return unicode.In(r, unicode.Lu, unicode.Lt, unicode.Lm, unicode.Lo, unicode.M)
}

func lowerly(r rune) bool {
	return unicode.In(r, unicode.Ll, unicode.Lm, unicode.Lo, unicode.M)
}

// splitO200k returns the length of the first piece under o200k_base's pattern.
func splitO200k(s string) int {
	c, n := first(s)
	before := 0
	if c != letter && c != number && s[0] != '\r' && s[0] != '\n' {
		before = n
	}
	for _, word := range []func(string) int{wordLower, wordUpper} {
		for _, at := range []int{before, 0} { // a mark may be what is before, or belong to the word
			if k := word(s[at:]); k > 0 {
				at += k
				if at < len(s) && s[at] == '\'' {
					at += contraction(s[at:])
				}
				return at
			}
			if before == 0 {
				break
			}
		}
	}
	if c == number {
		for k := 1; k < 3 && n < len(s); k++ {
			d, m := first(s[n:])
			if d != number {
				break
			}
			n += m
		}
		return n
	}
	return restGPT4(s, "\r\n/")
}

// wordLower is upperly*lowerly+, as it backtracks: where nothing lower follows,
// the last that is both ends it.
func wordLower(s string) int {
	both, at := 0, 0
	for at < len(s) {
		r, n := utf8.DecodeRuneInString(s[at:])
		if !upperly(r) {
			break
		}
		if at += n; lowerly(r) {
			both = at
		}
	}
	end := at
	for end < len(s) {
		r, n := utf8.DecodeRuneInString(s[end:])
		if !lowerly(r) {
			break
		}
		end += n
	}
	if end > at {
		return end
	}
	return both
}

// wordUpper is upperly+lowerly*.
func wordUpper(s string) int {
	at := 0
	for _, class := range []func(rune) bool{upperly, lowerly} {
		for at < len(s) {
			r, n := utf8.DecodeRuneInString(s[at:])
			if !class(r) {
				break
			}
			at += n
		}
		if at == 0 {
			return 0
		}
	}
	return at
}

package chat

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// wrapping adds wordwrap, which is textwrap.wrap of each line.
func wrapping() {
	filters["wordwrap"] = func(e *eval, v any, a args) (any, error) {
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("of %s", kindOf(v))
		}
		width, ok := whole(a.get(0, "width", int64(79)))
		if !ok || width < 1 {
			return nil, errors.New("want a width from 1 on")
		}
		with := "\n"
		if x := a.get(2, "wrapstring", nil); x != nil {
			if with, ok = x.(string); !ok {
				return nil, fmt.Errorf("wrapstring is %s", kindOf(x))
			}
		}
		long, hyphens := truth(a.get(1, "break_long_words", true)), truth(a.get(3, "break_on_hyphens", true))
		if err := e.step(len(s)); err != nil {
			return nil, err
		}
		var out []string
		for _, line := range lines(s, false) {
			w := wrapped(chunks([]rune(line), hyphens), int(min(width, maxBytes)), long, hyphens)
			if len(w) == 0 {
				w = []string{""}
			}
			for _, l := range w {
				if err := e.make(len(l) + len(with)); err != nil {
					return nil, err
				}
			}
			out = append(out, w...)
		}
		return strings.Join(out, with), nil
	}
}

// The classes of Python's textwrap.
func wrapSpace(r rune) bool { return strings.ContainsRune("\t\n\v\f\r ", r) }
func wrapLetter(r rune) bool {
	return unicode.IsLetter(r) || r == '_' || unicode.In(r, unicode.Nl, unicode.No)
}
func wrapWord(r rune) bool  { return wrapLetter(r) || unicode.IsDigit(r) }
func wrapPunct(r rune) bool { return wrapWord(r) || strings.ContainsRune(`!"'&.,?`, r) }

// chunks cuts a text where Python's textwrap may break it: at white space, and with
// hyphens behind those within words and around dashes.
func chunks(s []rune, hyphens bool) (out [][]rune) {
	is := func(i int, class func(rune) bool) bool { return i >= 0 && i < len(s) && class(s[i]) }
	hyphen := func(r rune) bool { return r == '-' }
	dash := func(i int) int { // where a dash between words ends that begins at i; 0 where none does
		j := i
		for is(j, hyphen) {
			j++
		}
		if j < i+2 || !is(i-1, wrapPunct) || !is(j, wrapWord) {
			return 0
		}
		return j
	}
	for i := 0; i < len(s); {
		j := i + 1
		if wrapSpace(s[i]) {
			for is(j, wrapSpace) {
				j++
			}
		} else if end := dash(i); hyphens && end > 0 {
			j = end
		} else {
			for j < len(s) && !wrapSpace(s[j]) {
				if hyphens {
					if s[j] == '-' && (is(j-1, wrapLetter) && is(j-2, wrapLetter) || is(j-1, wrapLetter) && is(j-2, hyphen) && is(j-3, wrapLetter)) &&
						is(j+1, wrapLetter) && (is(j+2, wrapLetter) || is(j+2, hyphen) && is(j+3, wrapLetter)) {
						j++
						break
					}
					if dash(j) > 0 {
						break
					}
				}
				j++
			}
		}
		out = append(out, s[i:j])
		i = j
	}
	return out
}

// wrapped puts chunks into lines of up to width characters.
func wrapped(chunks [][]rune, width int, long, hyphens bool) (out []string) {
	space := func(c []rune) bool { return strings.TrimFunc(string(c), blank) == "" }
	for len(chunks) > 0 {
		if len(out) > 0 && space(chunks[0]) {
			chunks = chunks[1:]
		}
		var line [][]rune
		n := 0
		for len(chunks) > 0 && n+len(chunks[0]) <= width {
			line, n, chunks = append(line, chunks[0]), n+len(chunks[0]), chunks[1:]
		}
		if len(chunks) > 0 && len(chunks[0]) > width {
			switch c := chunks[0]; {
			case long:
				end := width - n
				if hyphens {
					last := end - 1
					for last >= 0 && c[last] != '-' {
						last--
					}
					if last > 0 && slices.ContainsFunc(c[:last], func(r rune) bool { return r != '-' }) {
						end = last + 1
					}
				}
				line, chunks[0] = append(line, c[:end]), c[end:]
			case len(line) == 0:
				line, chunks = append(line, c), chunks[1:]
			}
		}
		if k := len(line) - 1; k >= 0 && space(line[k]) {
			line = line[:k]
		}
		if len(line) > 0 {
			out = append(out, string(slices.Concat(line...)))
		}
	}
	return out
}

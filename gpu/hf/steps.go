package hf

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// A step is one normalizer or decoder: it maps a list of strings to another.
type step func([]string) []string

// members are the stages of a Sequence, and of those in it; any other is its own.
func members(j *stageJSON) []stageJSON {
	if j.Type != "Sequence" {
		return []stageJSON{*j}
	}
	var out []stageJSON
	for _, list := range [][]stageJSON{j.Normalizers, j.Pretokenizers, j.Processors, j.Decoders} {
		for i := range list {
			out = append(out, members(&list[i])...)
		}
	}
	return out
}

// flatten turns a stage, which may be a Sequence of stages, into steps.
func flatten(j *stageJSON, what string, one func(*stageJSON) (step, error)) ([]step, error) {
	if j == nil {
		return nil, nil
	}
	list := members(j)
	if len(list) > maxSteps {
		return nil, fmt.Errorf("%s: %d steps, at most %d", what, len(list), maxSteps)
	}
	var out []step
	longer := 0 // steps that may make the text so
	for i := range list {
		s, err := one(&list[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if p := list[i].Pattern.String; list[i].Type == "Replace" && len(list[i].Content) > max(1, len(p)) {
			longer++
		}
		out = append(out, s)
	}
	if longer > 4 {
		return nil, fmt.Errorf("%s: %d replacements by what is longer, at most 4", what, longer)
	}
	return out, nil
}

// each applies f to every string.
func each(f func(string) string) step {
	return func(in []string) []string {
		out := make([]string, len(in))
		for i, s := range in {
			out[i] = f(s)
		}
		return out
	}
}

func normalizer(j *stageJSON) (step, error) {
	switch j.Type {
	case "NFC":
		return each(composed(norm.NFC)), nil
	case "NFD":
		return each(composed(norm.NFD)), nil
	case "NFKC":
		return each(composed(norm.NFKC)), nil
	case "NFKD":
		return each(composed(norm.NFKD)), nil
	case "Lowercase":
		return each(func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "İ", "i\u0307")) }), nil
	case "Strip":
		return each(func(s string) string {
			if j.Left {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if j.Right {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		}), nil
	case "StripAccents":
		return each(func(s string) string {
			return strings.Map(func(r rune) rune {
				if unicode.IsMark(r) {
					return -1
				}
				return r
			}, s)
		}), nil
	case "Prepend":
		if len(j.Prepend) > maxReplace {
			return nil, fmt.Errorf("Prepend %.40q is more than one character", j.Prepend)
		}
		return each(func(s string) string {
			if s == "" {
				return s
			}
			return j.Prepend + s
		}), nil
	case "Replace":
		return replace(j)
	}
	return nil, fmt.Errorf("%.40q is not supported", j.Type)
}

func replace(j *stageJSON) (step, error) {
	if len(j.Content) > maxReplace {
		return nil, fmt.Errorf("Replace of %.40q by %.40q: only by at most one character", j.Pattern.String+j.Pattern.Regex, j.Content)
	}
	if j.Pattern.String != "" {
		return each(func(s string) string { return strings.ReplaceAll(s, j.Pattern.String, j.Content) }), nil
	}
	find, err := findRegex(j.Pattern.Regex)
	if err != nil {
		return nil, fmt.Errorf("Replace of %.300q: %w", j.Pattern.Regex, err)
	}
	return each(func(s string) string {
		var b strings.Builder
		var m memo
		for len(s) > 0 {
			start, stop := find(s, &m)
			b.WriteString(s[:start])
			if start < stop {
				b.WriteString(j.Content)
			}
			s = s[stop:]
		}
		return b.String()
	}), nil
}

// composed is f.String without the joiners that package norm puts after 30 marks
// in a row (the stream-safe form of UAX 15), which Hugging Face's libraries do
// not know.
func composed(f norm.Form) func(string) string {
	const joiner = "\u034f"
	return func(s string) string {
		out := f.String(s)
		if strings.Count(out, joiner) == strings.Count(s, joiner) {
			return out
		}
		// Unicode 3.11: decompose, order the marks, compose.
		var rs []rune
		for _, r := range s {
			d := norm.NFD
			if f == norm.NFKC || f == norm.NFKD {
				d = norm.NFKD
			}
			rs = append(rs, []rune(d.String(string(r)))...)
		}
		classes := make([]uint8, len(rs))
		class := func(r rune) uint8 { return norm.NFC.PropertiesString(string(r)).CCC() }
		for i := 0; i < len(rs); {
			k := i
			for k < len(rs) && class(rs[k]) > 0 {
				k++
			}
			slices.SortStableFunc(rs[i:k], func(a, b rune) int { return cmp.Compare(class(a), class(b)) })
			i = k + 1
		}
		for i, r := range rs {
			classes[i] = class(r)
		}
		if f == norm.NFD || f == norm.NFKD {
			return string(rs)
		}
		n, starter, last := 0, -1, uint8(0) // last: the class of what is kept after starter
		for i, r := range rs {
			c := classes[i]
			if starter >= 0 && (n == starter+1 || last < c && last > 0) {
				if pair := []rune(norm.NFC.String(string(rs[starter]) + string(r))); len(pair) == 1 {
					rs[starter] = pair[0]
					continue
				}
			}
			if c == 0 {
				starter = n
			}
			rs[n], last = r, c
			n++
		}
		return string(rs[:n])
	}
}

func decoder(j *stageJSON) (step, error) {
	switch j.Type {
	case "ByteLevel":
		return decodeBytes, nil
	case "ByteFallback":
		return decodeFallback, nil
	case "Fuse":
		return func(in []string) []string { return []string{strings.Join(in, "")} }, nil
	case "Replace":
		return replace(j)
	case "Metaspace":
		if j.Replacement == "" || utf8.RuneCountInString(j.Replacement) != 1 {
			return nil, fmt.Errorf("Metaspace: replacement %.40q is not one character", j.Replacement)
		}
		prepends := j.PrependScheme != "never" && (j.PrependScheme != "" || j.AddPrefix == nil || *j.AddPrefix)
		return func(in []string) []string {
			out := make([]string, len(in))
			for i, s := range in {
				by := " "
				if i == 0 && prepends {
					by = ""
				}
				out[i] = strings.ReplaceAll(s, j.Replacement, by)
			}
			return out
		}, nil
	case "Strip":
		if utf8.RuneCountInString(j.Content) != 1 || j.Start < 0 || j.Stop < 0 {
			return nil, fmt.Errorf("Strip of %.40q: want one character", j.Content)
		}
		return each(func(s string) string {
			for range j.Start {
				var ok bool
				if s, ok = strings.CutPrefix(s, j.Content); !ok {
					break
				}
			}
			for range j.Stop {
				var ok bool
				if s, ok = strings.CutSuffix(s, j.Content); !ok {
					break
				}
			}
			return s
		}), nil
	}
	return nil, fmt.Errorf("%.40q is not supported", j.Type)
}

// decodeBytes undoes GPT-2's alphabet. A token with a character that is not in
// it, as an added token may have, stands for itself.
func decodeBytes(in []string) []string {
	var b []byte
	for _, s := range in {
		if raw, ok := unspell(s); ok {
			b = append(b, raw...)
		} else {
			b = append(b, s...)
		}
	}
	return []string{lossy(b)}
}

// decodeFallback turns runs of <0xXX> into characters, or into one U+FFFD a
// byte where a run is not UTF-8.
func decodeFallback(in []string) []string {
	out := make([]string, 0, len(in))
	var b []byte
	flush := func() {
		if len(b) == 0 {
			return
		}
		if utf8.Valid(b) {
			out = append(out, string(b))
		} else {
			out = append(out, strings.Repeat("\uFFFD", len(b)))
		}
		b = b[:0]
	}
	for _, s := range in {
		if c, ok := fallbackByte(s); ok {
			b = append(b, c)
			continue
		}
		flush()
		out = append(out, s)
	}
	flush()
	return out
}

func fallbackByte(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	hi, lo := hex(s[3]), hex(s[4])
	return hi<<4 | lo&15, hi < 16 && lo < 16
}

func hex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 16
}

// lossy decodes UTF-8 with one U+FFFD for each maximal subpart of an ill-formed
// sequence (Unicode 3.9, "U+FFFD Substitution of Maximal Subparts"), as Rust and
// the Web do; Go's own conversions put one for each byte.
func lossy(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			n = subpart(b)
		}
		out.WriteRune(r)
		b = b[n:]
	}
	return out.String()
}

// subpart returns the length of the longest start of b, which is ill-formed,
// that is also the start of some well-formed sequence; at least 1. The bounds
// of the second byte are those of Unicode's table 3-7.
func subpart(b []byte) int {
	lo, hi, want := byte(0x80), byte(0xbf), 0
	switch c := b[0]; {
	case c >= 0xc2 && c <= 0xdf:
		want = 2
	case c >= 0xe0 && c <= 0xef:
		want = 3
		if c == 0xe0 {
			lo = 0xa0
		}
		if c == 0xed {
			hi = 0x9f
		}
	case c >= 0xf0 && c <= 0xf4:
		want = 4
		if c == 0xf0 {
			lo = 0x90
		}
		if c == 0xf4 {
			hi = 0x8f
		}
	}
	n := 1
	for n < want && n < len(b) && b[n] >= lo && b[n] <= hi {
		n++
		lo, hi = 0x80, 0xbf
	}
	return n
}

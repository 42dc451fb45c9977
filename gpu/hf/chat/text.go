package chat

import (
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// blank is white space to Python: Unicode's, and four separators of ASCII.
func blank(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

func upper(s string) string    { return cases.Upper(language.Und).String(s) }
func lower(s string) string    { return cases.Lower(language.Und).String(s) }
func casefold(s string) string { return cases.Fold().String(s) }

// titled is r as the first letter of a word: more than one for some small
// letters that have no single capital.
func titled(r rune) string {
	if t := unicode.ToTitle(r); t != r || !unicode.IsLower(r) {
		return string(t)
	}
	return cases.Title(language.Und, cases.NoLower).String(string(r))
}

// inner is r within a word.
func inner(r rune) string {
	if r == 'İ' {
		return "i\u0307"
	}
	return string(unicode.ToLower(r))
}

// cased are the letters that have a case.
func cased(r rune) bool {
	return unicode.In(r, unicode.Lu, unicode.Ll, unicode.Lt, unicode.Other_Lowercase, unicode.Other_Uppercase)
}

// allCased says whether s has letters of the case want and none of the case not.
func allCased(s string, not, want func(rune) bool) bool {
	return strings.IndexFunc(s, func(r rune) bool { return not(r) || unicode.IsTitle(r) }) < 0 && strings.IndexFunc(s, want) >= 0
}

// title is Python's method: a letter after what is none is upper case, others lower.
func title(s string) string {
	var b strings.Builder
	inside := false
	for _, r := range s {
		if inside {
			b.WriteString(inner(r))
		} else {
			b.WriteString(titled(r))
		}
		inside = cased(r)
	}
	return b.String()
}

// titleWords is Jinja's filter: only what is after white space, a hyphen or a
// bracket begins a word.
func titleWords(s string) string {
	var b strings.Builder
	inside := false
	for _, r := range s {
		if inside {
			b.WriteString(inner(r))
		} else if r < utf8.RuneSelf {
			b.WriteRune(unicode.ToUpper(r))
		} else {
			b.WriteString(upper(string(r)))
		}
		inside = !blank(r) && !strings.ContainsRune("-({[<", r)
	}
	return b.String()
}

func capitalize(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return titled(r) + lower(s[n:])
}

func swapcase(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsUpper(r) {
			b.WriteString(inner(r))
		} else {
			b.WriteString(string(unicode.ToUpper(r)))
		}
	}
	return b.String()
}

// lines are Python's splitlines; keep leaves their ends on.
func lines(s string, keep bool) []string {
	var out []string
	for s != "" {
		i := strings.IndexAny(s, "\n\r\v\f\x1c\x1d\x1e\u0085\u2028\u2029")
		if i < 0 {
			return append(out, s)
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		if strings.HasPrefix(s[i:], "\r\n") {
			n = 2
		}
		if keep {
			out = append(out, s[:i+n])
		} else {
			out = append(out, s[:i])
		}
		s = s[i+n:]
	}
	return out
}

// decimal reads a whole number as Python's int does, but for white space; base 0
// is that of a literal.
func decimal(s string, base int) (*big.Int, bool) {
	if len(s) > maxBits/4 {
		return nil, false
	}
	s = strings.Map(func(r rune) rune { // decimal digits of any script
		if r >= utf8.RuneSelf && unicode.IsDigit(r) {
			zero := r
			for unicode.IsDigit(zero-1) && r-zero < 9 {
				zero--
			}
			return '0' + r - zero
		}
		return r
	}, s)
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 || digits == "" || digits[0] == '_' || digits[len(digits)-1] == '_' || strings.Contains(digits, "__") {
		return nil, false
	}
	if base == 16 || base == 8 || base == 2 {
		if mark := map[int]string{16: "0x", 8: "0o", 2: "0b"}[base]; strings.HasPrefix(strings.ToLower(digits), mark) {
			s = s[:len(s)-len(digits)] + strings.TrimPrefix(digits[2:], "_")
		}
	}
	if base != 0 {
		s = strings.ReplaceAll(s, "_", "")
	}
	return new(big.Int).SetString(s, base)
}

// strip cuts white space, or the characters of the argument, from the ends.
func strip(left, right bool) func(e *eval, s string, a args) (any, error) {
	return func(e *eval, s string, a args) (any, error) {
		drop := blank
		switch c := a.get(0, "chars", nil).(type) {
		case nil:
		case string:
			drop = func(r rune) bool { return strings.ContainsRune(c, r) }
			if err := e.step(len(c) * len(s) / 16); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("the characters are %s", kindOf(c))
		}
		if err := e.step(len(s) / 16); err != nil {
			return nil, err
		}
		if left {
			s = strings.TrimLeftFunc(s, drop)
		}
		if right {
			s = strings.TrimRightFunc(s, drop)
		}
		return s, nil
	}
}

func (e *eval) replace(s string, a args) (any, error) {
	from, ok := a.get(0, "old", nil).(string)
	to, ok2 := a.get(1, "new", nil).(string)
	n, ok3 := whole(a.get(2, "count", int64(-1)))
	if a.get(2, "count", nil) == nil {
		n, ok3 = -1, true
	}
	if !ok || !ok2 || !ok3 {
		return nil, errors.New("replace: want two strings")
	}
	times := int64(strings.Count(s, from))
	if n >= 0 {
		times = min(times, n)
	}
	size := int64(len(s)) + times*int64(len(to))
	if size > maxBytes {
		return nil, e.make(maxBytes + 1)
	}
	if err := e.make(int(size)); err != nil {
		return nil, err
	}
	return strings.Replace(s, from, to, int(times)), nil
}

// split is Python's: at white space where there is no separator.
func (e *eval) split(s string, a args, right bool) (any, error) {
	n, ok := whole(a.get(1, "maxsplit", int64(-1)))
	if !ok {
		return nil, errors.New("split: how often is no whole number")
	}
	if n < 0 {
		n = int64(len(s))
	}
	var parts []string
	// cut takes the next part off s; the last, or first, part is what it leaves.
	var cut func() (part string, found bool)
	last := true // the rest is a part even if empty
	switch sep := a.get(0, "sep", nil).(type) {
	case nil:
		trim := strings.TrimLeftFunc
		if right {
			trim = strings.TrimRightFunc
		}
		s, last = trim(s, blank), false
		cut = func() (string, bool) {
			i := strings.IndexFunc(s, blank)
			if right {
				i = strings.LastIndexFunc(s, blank)
			}
			if i < 0 {
				return "", false
			}
			_, w := utf8.DecodeRuneInString(s[i:])
			part, rest := s[:i], s[i+w:]
			if right {
				part, rest = rest, part
			}
			s = trim(rest, blank)
			return part, true
		}
	case string:
		if sep == "" {
			return nil, errors.New("split: an empty separator")
		}
		cut = func() (string, bool) {
			i := strings.Index(s, sep)
			if right {
				i = strings.LastIndex(s, sep)
			}
			if i < 0 {
				return "", false
			}
			part, rest := s[:i], s[i+len(sep):]
			if right {
				part, rest = rest, part
			}
			s = rest
			return part, true
		}
	default:
		return nil, fmt.Errorf("split: the separator is %s", kindOf(sep))
	}
	if err := e.step(len(s) / 16); err != nil {
		return nil, err
	}
	for ; n > 0; n-- {
		part, found := cut()
		if !found {
			break
		}
		parts = append(parts, part)
	}
	if last || s != "" {
		parts = append(parts, s)
	}
	l := &list{}
	for i, p := range parts {
		if right {
			p = parts[len(parts)-1-i]
		}
		l.items = append(l.items, p)
	}
	return l, e.step(len(parts))
}

// within is the part of s that Python's optional arguments start and end, from
// argument i on, leave, and how many characters are before it; ok is false where
// start is beyond s.
func (e *eval) within(s string, a args, i int) (part string, before int64, ok bool, err error) {
	from, to := a.get(i, "start", nil), a.get(i+1, "end", nil)
	if from == nil && to == nil {
		return s, 0, true, nil
	}
	if err := e.step(len(s) / 4); err != nil {
		return "", 0, false, err
	}
	n := int64(utf8.RuneCountInString(s))
	at := [2]int64{0, n}
	for k, v := range []any{from, to} {
		if v == nil {
			continue
		}
		w, ok := whole(v)
		if !ok {
			return "", 0, false, fmt.Errorf("where to begin or end is %s", kindOf(v))
		}
		if w < 0 {
			w = max(0, w+n)
		}
		at[k] = w
	}
	if at[0] > n || at[0] > at[1] {
		return "", 0, false, nil
	}
	rs := []rune(s)
	return string(rs[at[0]:min(at[1], n)]), at[0], true, nil
}

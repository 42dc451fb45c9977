package hf

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const maxPattern = 4 << 10 // bytes of a regular expression

// A finder returns where the first match in s begins and ends; len(s) twice
// where there is none. What it finds is not empty. The memo is one for each text, of which s
// is the rest.
type finder func(s string, m *memo) (start, stop int)

// findRegex compiles a pattern of a Split, which Hugging Face's tokenizers gives
// to Oniguruma: matches are found in time linear in the text, whoever wrote the pattern.
// What it cannot say is an error. Of what looks ahead it knows what all byte-level
// tokenizers have, `(?!\S)`.
func findRegex(pattern string) (finder, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("a pattern of %d bytes, at most %d", len(pattern), maxPattern)
	}
	p, err := translate(pattern)
	if err != nil {
		return nil, err
	}
	x, err := newRegex(p)
	if err != nil {
		return nil, err
	}
	if x.nullable() {
		return nil, errors.New("it matches nothing, everywhere")
	}
	return x.find, nil
}

// Oniguruma's classes are Unicode's, as members of a class of Go's.
const (
	spaceSet    = `\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}`
	notSpaceSet = `\x00-\x08\x0e-\x1f!-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff}`
	wordSet     = `\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}`
	wordsOrNot  = `[` + wordSet + `\x{200c}\x{200d}]+|[^` + wordSet + `\x{200c}\x{200d}` + spaceSet + `]+`
)

// translate says in Go's syntax what p says in Oniguruma's Ruby syntax, as newRegex wants it.
func translate(p string) (string, error) {
	var b strings.Builder
	classes := 0
	for p != "" {
		_, n := utf8.DecodeRuneInString(p)
		c, next := p[0], byte(0)
		if len(p) > 1 {
			next = p[1]
		}
		switch {
		case c == '\\':
			s, m, err := escape(p, classes > 0)
			if err != nil {
				return "", err
			}
			b.WriteString(s)
			n = m
		case c == '[' && classes > 0 && (next == '^' || next == ':'):
			return "", fmt.Errorf("the class %.20q within a class is not supported", p)
		case c == '[':
			if classes++; classes == 1 { // a class within a class adds to it
				b.WriteByte('[')
			}
		case c == ']' && classes > 0:
			if classes--; classes == 0 {
				b.WriteByte(']')
			}
		case classes > 0 && c == '&' && next == '&':
			return "", errors.New("&& in a class is not supported")
		case classes > 0:
			b.WriteString(p[:n])
		case strings.HasPrefix(p, `(?!\S)`) && classes == 0:
			b.WriteString("()")
			n = len(`(?!\S)`)
		case c == '(' && next == '?' && !strings.HasPrefix(p, "(?:") && !strings.HasPrefix(p, "(?i:"):
			return "", fmt.Errorf("the group %.20q is not supported", p)
		case c == '(' && next != '?':
			b.WriteString("(?:")
		case c == '(': // so that its mark is not taken for an operator
			n = strings.IndexByte(p, ':') + 1
			b.WriteString(p[:n])
		case (c == '?' || c == '*' || c == '+' || c == '}') && next == '+':
			return "", fmt.Errorf("the operator %.2q is not supported", p)
		case c == '^', c == '{' && next == ',':
			return "", fmt.Errorf("%.20q is not supported", p)
		case c == '$': // Ruby's is the end of a line
			b.WriteString("(?m:$)")
		default:
			b.WriteString(p[:n])
		}
		p = p[n:]
	}
	return b.String(), nil
}

// escape translates the escape that p begins with, and returns its length.
func escape(p string, class bool) (string, int, error) {
	if len(p) < 2 {
		return "", 0, errors.New("a backslash at the end")
	}
	set := func(members string) (string, int, error) {
		if !class {
			members = "[" + members + "]"
		}
		return members, 2, nil
	}
	switch c := p[1]; c {
	case 's':
		return set(spaceSet)
	case 'S':
		return set(notSpaceSet)
	case 'd':
		return `\p{Nd}`, 2, nil
	case 'D':
		return `\P{Nd}`, 2, nil
	case 'w':
		return set(wordSet)
	case 'W':
		if class {
			break
		}
		return "[^" + wordSet + "]", 2, nil
	case 'n', 'r', 't', 'f', 'v', 'a':
		return p[:2], 2, nil
	case 'p', 'P':
		if end := strings.IndexByte(p, '}'); end > 0 && p[2] == '{' {
			return p[:end+1], end + 1, nil
		}
	case 'x':
		if end := strings.IndexByte(p, '}'); end > 0 && p[2] == '{' {
			return p[:end+1], end + 1, nil
		}
		if len(p) >= 4 && p[2] < '8' {
			return p[:4], 4, nil
		}
	case 'u':
		if len(p) >= 6 {
			return `\x{` + p[2:6] + `}`, 6, nil
		}
	default:
		switch _, n := utf8.DecodeRuneInString(p[1:]); {
		case c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z':
		case c <= ' ' || c == '_' || c >= utf8.RuneSelf: // Go wants these without the backslash
			return p[1 : 1+n], 1 + n, nil
		default:
			return p[:2], 2, nil
		}
	}
	return "", 0, fmt.Errorf("the escape %.3q is not supported", p)
}

package chat

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type kind int

const (
	tokText   kind = iota
	tokPrint       // {{
	tokBlock       // {%
	tokClose       // }} or %}
	tokName        // and keywords
	tokString      // unquoted
	tokInt
	tokFloat
	tokOp
	tokEnd
)

type token struct {
	kind kind
	text string
	line int
}

func (t token) String() string {
	switch t.kind {
	case tokEnd:
		return "the end"
	case tokClose:
		return "the end of the tag"
	case tokText:
		return "text"
	}
	return fmt.Sprintf("%.40q", t.text)
}

// operators, the longer first.
var operators = []string{"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "|", ".", ",", ":", "(", ")", "[", "]", "{", "}", "<", ">", "="}

// A lexer cuts a template into tokens.
type lexer struct {
	src  string
	at   int
	line int
	out  []token
}

func (l *lexer) errorf(format string, args ...any) error {
	return fmt.Errorf("line %d: %w", l.line, fmt.Errorf(format, args...))
}

func (l *lexer) emit(k kind, text string) { l.out = append(l.out, token{k, text, l.line}) }

// skip moves on by n bytes.
func (l *lexer) skip(n int) {
	l.line += strings.Count(l.src[l.at:l.at+n], "\n")
	l.at += n
}

func lex(src string) ([]token, error) {
	l := &lexer{src: src, line: 1}
	for l.at < len(src) {
		open := strings.IndexByte(src[l.at:], '{')
		for open >= 0 && (l.at+open+1 >= len(src) || !strings.ContainsRune("{%#", rune(src[l.at+open+1]))) {
			next := strings.IndexByte(src[l.at+open+1:], '{')
			if next < 0 {
				open = -1
				break
			}
			open += 1 + next
		}
		if open < 0 {
			l.text(src[l.at:])
			l.skip(len(src) - l.at)
			break
		}
		start := l.at + open
		mark := src[start+1]
		sign := byte(0)
		if start+2 < len(src) && (src[start+2] == '-' || src[start+2] == '+') {
			sign = src[start+2]
		}
		text := src[l.at:start]
		switch {
		case sign == '-':
			text = strings.TrimRightFunc(text, blank)
		case sign != '+' && mark != '{':
			text = l.lstrip(text)
		}
		l.text(text)
		l.skip(open + 2)
		if sign != 0 {
			l.skip(1)
		}
		var err error
		switch mark {
		case '#':
			end := strings.Index(src[l.at:], "#}")
			if end < 0 {
				return nil, l.errorf("a comment without an end")
			}
			sign := byte(0)
			if end > 0 {
				sign = src[l.at+end-1]
			}
			l.skip(end + 2)
			l.after(sign, true)
		case '{':
			l.emit(tokPrint, "{{")
			err = l.tag("}}")
		default:
			if n, sign := rawTag(src[l.at:], "raw"); n > 0 {
				l.skip(n)
				if sign == '-' {
					l.after(sign, true)
				}
				err = l.raw()
				break
			}
			l.emit(tokBlock, "{%")
			err = l.tag("%}")
		}
		if err != nil {
			return nil, err
		}
	}
	l.emit(tokEnd, "")
	return l.out, nil
}

func (l *lexer) text(s string) {
	if s != "" {
		l.emit(tokText, s)
	}
}

// lstrip is lstrip_blocks: it drops white space that stands alone before a tag on
// its line.
func (l *lexer) lstrip(text string) string {
	line := text[strings.LastIndexByte(text, '\n')+1:]
	begins := len(line) < len(text) || l.at == 0 || l.src[l.at-1] == '\n'
	if begins && strings.TrimLeftFunc(line, blank) == "" {
		return text[:len(text)-len(line)]
	}
	return text
}

// rawTag says how long the rest of a tag of the single word is, after its {% and
// sign, and the sign at its end; 0 if it is another.
func rawTag(s, word string) (int, byte) {
	rest, ok := strings.CutPrefix(strings.TrimLeftFunc(s, blank), word)
	if !ok {
		return 0, 0
	}
	rest = strings.TrimLeftFunc(rest, blank)
	sign := byte(0)
	if rest != "" && (rest[0] == '-' || rest[0] == '+' && word == "endraw") {
		sign, rest = rest[0], rest[1:]
	}
	if !strings.HasPrefix(rest, "%}") {
		return 0, 0
	}
	return len(s) - len(rest) + 2, sign
}

// after drops what a tag's end says of the text that follows.
func (l *lexer) after(sign byte, block bool) {
	rest := l.src[l.at:]
	switch {
	case sign == '-':
		l.skip(len(rest) - len(strings.TrimLeftFunc(rest, blank)))
	case block && sign != '+' && strings.HasPrefix(rest, "\n"): // trim_blocks
		l.skip(1)
	}
}

// raw takes what follows {% raw %} as text.
func (l *lexer) raw() error {
	for at := l.at; ; {
		i := strings.Index(l.src[at:], "{%")
		if i < 0 {
			return l.errorf("raw without endraw")
		}
		start := at + i
		at = start + 2
		before := byte(0)
		if at < len(l.src) && (l.src[at] == '-' || l.src[at] == '+') {
			before = l.src[at]
			at++
		}
		n, sign := rawTag(l.src[at:], "endraw")
		if n == 0 {
			continue
		}
		text := l.src[l.at:start]
		switch before {
		case '-':
			text = strings.TrimRightFunc(text, blank)
		case 0:
			text = l.lstrip(text)
		}
		l.text(text)
		l.skip(at + n - l.at)
		l.after(sign, true)
		return nil
	}
}

// tag reads tokens up to the end of a tag.
func (l *lexer) tag(end string) error {
	depth := 0 // of braces: "}}" may end two dictionaries
	for {
		rest := l.src[l.at:]
		trimmed := strings.TrimLeftFunc(rest, blank)
		l.skip(len(rest) - len(trimmed))
		rest = trimmed
		if rest == "" {
			return l.errorf("a tag without its %s", end)
		}
		for _, sign := range []string{"-", "+", ""} {
			if depth == 0 && strings.HasPrefix(rest, sign+end) {
				l.emit(tokClose, end)
				l.skip(len(sign) + len(end))
				s := byte(0)
				if sign != "" {
					s = sign[0]
				}
				l.after(s, end == "%}")
				return nil
			}
		}
		c := rest[0]
		r, _ := utf8.DecodeRuneInString(rest)
		switch {
		case c == '"' || c == '\'':
			if err := l.str(c); err != nil {
				return err
			}
		case c >= '0' && c <= '9':
			n, k := digits(rest), tokInt
			if m := based(rest); m > 0 {
				l.emit(k, rest[:m])
				l.skip(m)
				continue
			}
			if l.src[l.at-1] == '.' { // of an index: x.0.1
				l.emit(k, rest[:n])
				l.skip(n)
				continue
			}
			if n+1 < len(rest) && rest[n] == '.' && rest[n+1] >= '0' && rest[n+1] <= '9' {
				n += 1 + digits(rest[n+1:])
				k = tokFloat
			}
			if n < len(rest) && (rest[n] == 'e' || rest[n] == 'E') {
				m := n + 1
				if m < len(rest) && (rest[m] == '-' || rest[m] == '+') {
					m++
				}
				if d := digits(rest[m:]); d > 0 {
					n, k = m+d, tokFloat
				}
			}
			if k == tokInt && rest[0] == '0' && strings.Trim(rest[:n], "0_") != "" {
				return l.errorf("number %.20s begins with 0", rest[:n])
			}
			l.emit(k, rest[:n])
			l.skip(n)
		case r == '_' || unicode.IsLetter(r):
			n := strings.IndexFunc(rest, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
			if n < 0 {
				n = len(rest)
			}
			l.emit(tokName, rest[:n])
			l.skip(n)
		default:
			op := ""
			for _, o := range operators {
				if strings.HasPrefix(rest, o) {
					op = o
					break
				}
			}
			switch op {
			case "":
				return l.errorf("unexpected %q", r)
			case "{", "(", "[":
				depth++
			case "}", ")", "]":
				depth = max(0, depth-1)
			}
			l.emit(tokOp, op)
			l.skip(len(op))
		}
	}
}

// based is the length of a number like 0x1f at the start of s; 0 if there is none.
func based(s string) int {
	if len(s) < 3 || s[0] != '0' {
		return 0
	}
	set := map[byte]string{'x': "0123456789abcdefABCDEF_", 'o': "01234567_", 'b': "01_"}[s[1]|0x20]
	n := len(s) - len(strings.TrimLeft(s[2:], set))
	if n == 2 {
		return 0
	}
	return n
}

func digits(s string) int {
	n := 0
	for n < len(s) && (s[n] >= '0' && s[n] <= '9' || s[n] == '_' && n > 0) {
		n++
	}
	return n
}

// str reads a quoted string with Python's escapes.
func (l *lexer) str(quote byte) error {
	var b strings.Builder
	s := l.src[l.at:]
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == quote:
			l.emit(tokString, b.String())
			l.skip(i + 1)
			return nil
		case c != '\\':
			b.WriteByte(c)
		case i+1 < len(s):
			i++
			if k := strings.IndexByte(`ntrabfv\'"`, s[i]); k >= 0 {
				b.WriteByte("\n\t\r\a\b\f\v\\'\""[k])
				continue
			}
			if o := octal(s[i:]); o != "" {
				r, _ := strconv.ParseUint(o, 8, 16)
				b.WriteRune(rune(r))
				i += len(o) - 1
				continue
			}
			n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[i]]
			switch {
			case s[i] == '\n':
			case n == 0:
				b.WriteByte('\\')
				b.WriteByte(s[i])
			default:
				var r rune
				if i+n >= len(s) {
					return l.errorf("a string with half an escape")
				}
				for _, h := range []byte(s[i+1 : i+1+n]) {
					d := strings.IndexByte("0123456789abcdef", h|0x20)
					if h >= '0' && h <= '9' {
						d = int(h - '0')
					}
					if d < 0 || r > unicode.MaxRune {
						return l.errorf("escape \\%s is none", s[i:i+1+n])
					}
					r = r<<4 | rune(d)
				}
				b.WriteRune(r)
				i += n
			}
		}
	}
	return l.errorf("a string without an end")
}

// octal is the one to three octal digits that s begins with.
func octal(s string) string {
	n := 0
	for n < min(3, len(s)) && s[n] >= '0' && s[n] <= '7' {
		n++
	}
	return s[:n]
}

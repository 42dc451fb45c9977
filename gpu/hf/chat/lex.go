package chat

import (
	"fmt"
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
			text = strings.TrimRightFunc(text, unicode.IsSpace)
		case sign != '+' && mark != '{': // lstrip_blocks: white space alone before it on its line
			if bare := strings.TrimRight(text, " \t"); strings.HasSuffix(bare, "\n") || bare == "" && (l.at == 0 || src[l.at-1] == '\n') {
				text = bare
			}
		}
		l.text(text)
		l.skip(open + 2)
		if sign != 0 && (mark != '{' || sign == '-') {
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
			l.emit(tokBlock, "{%")
			err = l.tag("%}")
		}
		if err != nil {
			return nil, err
		}
		if n := len(l.out); mark == '%' && n >= 3 && l.out[n-2].text == "raw" && l.out[n-3].kind == tokBlock {
			if err := l.raw(); err != nil {
				return nil, err
			}
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

// after drops what a tag's end says of the text that follows.
func (l *lexer) after(sign byte, block bool) {
	rest := l.src[l.at:]
	switch {
	case sign == '-':
		l.skip(len(rest) - len(strings.TrimLeftFunc(rest, unicode.IsSpace)))
	case block && sign != '+' && strings.HasPrefix(rest, "\n"): // trim_blocks
		l.skip(1)
	}
}

// raw takes what follows {% raw %}, whose tokens it drops, as text.
func (l *lexer) raw() error {
	l.out = l.out[:len(l.out)-3]
	for at := l.at; ; {
		i := strings.Index(l.src[at:], "{%")
		if i < 0 {
			return l.errorf("raw without endraw")
		}
		start := at + i
		inner := l.src[start+2:]
		name := strings.TrimLeft(inner, "-+ \t\n")
		end := strings.TrimLeft(strings.TrimPrefix(name, "endraw"), " \t\n")
		sign := byte(0)
		if end != "" && (end[0] == '-' || end[0] == '+') {
			sign, end = end[0], end[1:]
		}
		if !strings.HasPrefix(name, "endraw") || !strings.HasPrefix(end, "%}") {
			at = start + 2
			continue
		}
		text := l.src[l.at:start]
		if strings.HasPrefix(inner, "-") {
			text = strings.TrimRightFunc(text, unicode.IsSpace)
		}
		l.text(text)
		l.skip(len(l.src) - l.at - len(end) + 2)
		l.after(sign, true)
		return nil
	}
}

// tag reads tokens up to the end of a tag.
func (l *lexer) tag(end string) error {
	depth := 0 // of braces: "}}" may end two dictionaries
	for {
		rest := l.src[l.at:]
		trimmed := strings.TrimLeftFunc(rest, unicode.IsSpace)
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
			if k := strings.IndexByte(`ntrabfv0\'"`, s[i]); k >= 0 {
				b.WriteByte("\n\t\r\a\b\f\v\x00\\'\""[k])
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

package chat

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

const maxWidth = 1 << 12 // of a formatted value

// A spec says how a value is written: [[fill]align][sign][#][0][width][,][.precision][verb].
type spec struct {
	fill             rune
	align            byte // < > ^ =, 0 where none is given
	sign             byte
	hash, commas     bool
	width, precision int // precision -1: none
	verb             byte
}

// parseSpec reads a format specification of Python's str.format.
func parseSpec(s string) (spec, error) {
	f := spec{fill: ' ', precision: -1}
	if r, n := utf8.DecodeRuneInString(s); n < len(s) && strings.IndexByte("<>^=", s[n]) >= 0 {
		f.fill, f.align, s = r, s[n], s[n+1:]
	} else if s != "" && strings.IndexByte("<>^=", s[0]) >= 0 {
		f.align, s = s[0], s[1:]
	}
	if s != "" && strings.IndexByte("+- ", s[0]) >= 0 {
		f.sign, s = s[0], s[1:]
	}
	if strings.HasPrefix(s, "#") {
		f.hash, s = true, s[1:]
	}
	if strings.HasPrefix(s, "0") {
		if s = s[1:]; f.align == 0 {
			f.fill, f.align = '0', '='
		}
	}
	s = f.number(s, &f.width)
	if strings.HasPrefix(s, ",") {
		f.commas, s = true, s[1:]
	}
	if strings.HasPrefix(s, ".") {
		s = f.number(s[1:], &f.precision)
	}
	if len(s) == 1 {
		f.verb, s = s[0], ""
	}
	if s != "" || f.width > maxWidth || f.precision > maxWidth {
		return f, fmt.Errorf("format %.40q is not supported", s)
	}
	return f, nil
}

// number reads the digits that s begins with, if any, and returns the rest.
func (f *spec) number(s string, to *int) string {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	if n > 0 {
		*to, _ = strconv.Atoi(s[:min(n, 6)])
	}
	return s[n:]
}

// write is v as f says.
func (e *eval) formatted(f spec, v any) (string, error) {
	var body, sign string
	var err error
	x, isFloat := float(v)
	whole := bigOf(v)
	_, isBool := v.(bool)
	if isBool && f.verb == 0 {
		whole, isFloat = nil, false
	}
	switch {
	case strings.IndexByte("dxXob", f.verb) >= 0 || f.verb == 0 && whole != nil:
		if whole == nil {
			return "", fmt.Errorf("format %q of %s", f.verb, kindOf(v))
		}
		base := map[byte]int{'x': 16, 'X': 16, 'o': 8, 'b': 2}[f.verb]
		if base == 0 {
			base = 10
		}
		body = new(big.Int).Abs(whole).Text(base)
		if f.hash && base != 10 {
			body = "0" + strings.ToLower(string(f.verb)) + body
		}
		if f.verb == 'X' {
			body = strings.ToUpper(body)
		}
		if whole.Sign() < 0 {
			sign = "-"
		}
	case strings.IndexByte("eEfFgG%", f.verb) >= 0 || f.verb == 0 && isFloat && f.precision >= 0:
		if !isFloat {
			return "", fmt.Errorf("format %q of %s", f.verb, kindOf(v))
		}
		precision, verb := f.precision, f.verb
		if precision < 0 {
			precision = 6
		}
		switch verb {
		case 'F':
			verb = 'f'
		case '%':
			x, verb = 100*x, 'f'
		case 0:
			verb = 'g'
		}
		if verb|0x20 == 'g' {
			precision = max(1, precision)
		}
		body = strconv.FormatFloat(x, verb, precision, 64)
		if f.verb == '%' {
			body += "%"
		}
	case f.verb == 0 && isFloat && !isBool:
		body, err = e.str(v)
	case f.verb == 0 || f.verb == 's':
		if body, err = e.str(v); err == nil && f.precision >= 0 {
			if rs := []rune(body); len(rs) > f.precision {
				body = string(rs[:f.precision])
			}
		}
		isFloat = false
	default:
		return "", fmt.Errorf("format %q is not supported", f.verb)
	}
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(body, "-") && isFloat {
		sign, body = "-", body[1:]
	}
	if isFloat && sign == "" && (f.sign == '+' || f.sign == ' ') {
		sign = string(f.sign)
	}
	if f.commas {
		n := 0
		for n < len(body) && body[n] >= '0' && body[n] <= '9' {
			n++
		}
		for i := n - 3; i > 0; i -= 3 {
			body = body[:i] + "," + body[i:]
		}
	}
	pad := f.width - utf8.RuneCountInString(sign+body)
	if pad <= 0 {
		return sign + body, e.make(len(body) + 1)
	}
	if err := e.make(len(body) + 1 + f.width*utf8.UTFMax); err != nil {
		return "", err
	}
	fill := func(n int) string { return strings.Repeat(string(f.fill), n) }
	switch {
	case f.align == '=' && isFloat:
		return sign + fill(pad) + body, nil
	case f.align == '^':
		return fill(pad/2) + sign + body + fill(pad-pad/2), nil
	case f.align == '>' || f.align == 0 && isFloat:
		return fill(pad) + sign + body, nil
	}
	return sign + body + fill(pad), nil
}

// percent is Python's f % v.
func (e *eval) percent(f string, v any) (any, error) {
	values, tuple := []any{v}, false
	if l, ok := v.(*list); ok && l.tuple {
		values, tuple = l.items, true
	}
	named, _ := v.(*dict)
	var b strings.Builder
	for i := 0; i < len(f); i++ {
		if f[i] != '%' {
			b.WriteByte(f[i])
			continue
		}
		i++
		var x any
		has := len(values) > 0
		if i < len(f) && f[i] == '(' {
			end := strings.IndexByte(f[i:], ')')
			if named == nil || end < 0 {
				return nil, errors.New("a format that names a value wants a mapping")
			}
			if x, has = named.get(f[i+1 : i+end]); !has {
				return nil, fmt.Errorf("no value %.40q for the format", f[i+1:i+end])
			}
			i += end + 1
			values = nil
		} else if has {
			x = values[0]
		}
		s := spec{fill: ' ', align: '>', precision: -1}
		for ; i < len(f) && strings.IndexByte("-+ #0", f[i]) >= 0; i++ {
			switch f[i] {
			case '-':
				s.fill, s.align = ' ', '<'
			case '0':
				if s.align != '<' {
					s.fill, s.align = '0', '='
				}
			case '#':
				s.hash = true
			default:
				s.sign = f[i]
			}
		}
		rest := s.number(f[i:], &s.width)
		if strings.HasPrefix(rest, ".") {
			s.precision = 0
			rest = s.number(rest[1:], &s.precision)
		}
		if rest == "" || s.width > maxWidth || s.precision > maxWidth {
			return nil, errors.New("a format without an end, or too wide")
		}
		i = len(f) - len(rest)
		s.verb = rest[0]
		if s.verb == '%' {
			b.WriteByte('%')
			continue
		}
		if !has {
			return nil, errors.New("a format with too few values")
		}
		if len(values) > 0 {
			values = values[1:]
		}
		t, err := e.conversion(s, x)
		if err != nil {
			return nil, err
		}
		b.WriteString(t)
	}
	if len(values) > 0 && (tuple || named == nil) {
		return nil, errors.New("a format with too many values")
	}
	return b.String(), e.make(b.Len())
}

// conversion writes one value of percent.
func (e *eval) conversion(s spec, x any) (string, error) {
	switch s.verb {
	case 'r', 'a':
		var w strings.Builder
		if err := e.repr(&w, x, 0); err != nil {
			return "", err
		}
		x, s.verb = w.String(), 's'
	case 'i', 'u', 'd':
		s.verb = 'd'
		if f, ok := x.(float64); ok {
			if !(math.Abs(f) < 1<<62) {
				return "", errRange
			}
			x = int64(f)
		}
	case 'c':
		if n, ok := whole(x); ok && n >= 0 && n <= utf8.MaxRune {
			x = string(rune(n))
		} else if c, ok := x.(string); !ok || utf8.RuneCountInString(c) != 1 {
			return "", errors.New("%c wants one character")
		}
		s.verb = 's'
	case 's':
		if b, ok := x.(bool); ok {
			x = map[bool]string{true: "True", false: "False"}[b]
		}
	}
	if s.verb == 's' && s.align == '=' {
		s.fill, s.align = ' ', '>'
	}
	return e.formatted(s, x)
}

// braces is Python's f.format(…).
func (e *eval) braces(f string, a args) (any, error) {
	var b strings.Builder
	next := int64(0)
	for i := 0; i < len(f); i++ {
		c := f[i]
		switch {
		case c != '{' && c != '}':
			b.WriteByte(c)
			continue
		case i+1 < len(f) && f[i+1] == c:
			b.WriteByte(c)
			i++
			continue
		case c == '}':
			return nil, errors.New("format: a } alone")
		}
		end := strings.IndexByte(f[i:], '}')
		if end < 0 {
			return nil, errors.New("format: a { without its }")
		}
		field, rest, _ := strings.Cut(f[i+1:i+end], ":")
		i += end
		if strings.ContainsAny(rest, "{") {
			return nil, errors.New("format: a field within a field is not supported")
		}
		field, how, _ := strings.Cut(field, "!")
		x, err := e.field(field, a, &next)
		if err != nil {
			return nil, err
		}
		s, err := parseSpec(rest)
		if err != nil {
			return nil, err
		}
		switch how {
		case "":
		case "r", "s":
			var w strings.Builder
			if how == "s" {
				var t string
				t, err = e.str(x)
				w.WriteString(t)
			} else {
				err = e.repr(&w, x, 0)
			}
			x = w.String()
		default:
			err = fmt.Errorf("format: !%.10s is not supported", how)
		}
		if err != nil {
			return nil, err
		}
		t, err := e.formatted(s, x)
		if err != nil {
			return nil, fmt.Errorf("format: %w", err)
		}
		b.WriteString(t)
	}
	return b.String(), e.make(b.Len())
}

// field is the argument that a replacement field names: "", 0, name, 0.key or 0[key].
func (e *eval) field(s string, a args, next *int64) (any, error) {
	head := s
	if i := strings.IndexAny(s, ".["); i >= 0 {
		head = s[:i]
	}
	var x any
	n, err := strconv.ParseInt(head, 10, 32)
	if head == "" {
		n, err = *next, nil
		*next++
	}
	switch {
	case err == nil && n >= 0 && n < int64(len(a.list)):
		x = a.list[n]
	case err == nil:
		return nil, fmt.Errorf("format: no argument %d", n)
	default:
		v, ok := a.named[head]
		if !ok {
			return nil, fmt.Errorf("format: no argument %.40q", head)
		}
		x = v
	}
	for s = s[len(head):]; s != ""; {
		var k any
		if s[0] == '.' {
			end := strings.IndexAny(s[1:], ".[") + 1
			if end == 0 {
				end = len(s)
			}
			k, s = s[1:end], s[end:]
		} else {
			end := strings.IndexByte(s, ']')
			if end < 0 {
				return nil, errors.New("format: a [ without its ]")
			}
			k, s = s[1:end], s[end+1:]
			if i, err := strconv.ParseInt(k.(string), 10, 64); err == nil {
				k = i
			}
		}
		if x, err = e.index(x, k); err != nil {
			return nil, err
		}
	}
	return x, nil
}

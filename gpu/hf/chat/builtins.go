package chat

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxRange = 1 << 20

// builtins defines the functions that templates call.
func (e *eval) builtins() {
	g := e.globals.vars
	g["range"] = function(span)
	g["namespace"] = function(func(e *eval, a args) (any, error) {
		d, err := e.makeDict(a)
		if err == nil {
			d.namespace = true
		}
		return d, err
	})
	g["dict"] = function(func(e *eval, a args) (any, error) { d, err := e.makeDict(a); return d, err })
	g["raise_exception"] = function(func(e *eval, a args) (any, error) {
		s, err := e.str(a.get(0, "message", "it does not say why"))
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("the template refuses the conversation: %.500s", s)
	})
	g["joiner"] = function(func(_ *eval, a args) (any, error) {
		sep, used := a.get(0, "sep", ", "), false
		return function(func(*eval, args) (any, error) {
			if !used {
				used = true
				return "", nil
			}
			return sep, nil
		}), nil
	})
	g["cycler"] = function(func(_ *eval, a args) (any, error) {
		if len(a.list) == 0 {
			return nil, errors.New("cycler: want what to go round")
		}
		d, at := newDict(), 0
		d.namespace = true
		d.set("current", a.list[0])
		step := func(next func() int) function {
			return func(*eval, args) (any, error) {
				v := a.list[at]
				at = next()
				d.set("current", a.list[at])
				return v, nil
			}
		}
		d.set("next", step(func() int { return (at + 1) % len(a.list) }))
		d.set("reset", step(func() int { return 0 }))
		return d, nil
	})
	if !e.now.IsZero() {
		g["strftime_now"] = function(func(e *eval, a args) (any, error) {
			f, ok := a.get(0, "format", nil).(string)
			if !ok {
				return nil, errors.New("strftime_now: want a format")
			}
			return e.strftime(f)
		})
	}
}

// makeDict is dict(other, name=value…).
func (e *eval) makeDict(a args) (*dict, error) {
	d := newDict()
	if len(a.list) > 0 {
		if len(a.list) > 1 {
			return d, errors.New("want a mapping, or pairs, and names")
		}
		switch o := a.list[0].(type) {
		case *dict:
			if err := e.step(len(o.keys)); err != nil {
				return d, err
			}
			for i, k := range o.keys {
				d.set(k, o.values[i])
			}
		case *list:
			if err := e.step(len(o.items)); err != nil {
				return d, err
			}
			for _, p := range o.items {
				p, ok := p.(*list)
				if !ok || len(p.items) != 2 {
					return d, errors.New("want pairs")
				}
				if _, err := key(p.items[0]); err != nil {
					return d, err
				}
				d.set(p.items[0], p.items[1])
			}
		default:
			return d, errors.New("want a mapping, or pairs, and names")
		}
	}
	for _, k := range a.names {
		d.set(k, a.named[k])
	}
	return d, nil
}

func span(e *eval, a args) (any, error) {
	at := [3]int64{0, 0, 1}
	if len(a.list) < 1 || len(a.list) > 3 {
		return nil, errors.New("range: want one to three numbers")
	}
	for i, v := range a.list {
		n, ok := whole(v)
		if !ok {
			return nil, fmt.Errorf("range: %s is no whole number", kindOf(v))
		}
		at[i] = n
	}
	if len(a.list) == 1 {
		at[0], at[1] = 0, at[0]
	}
	if at[2] == 0 {
		return nil, errors.New("range: a step of 0")
	}
	l := &list{}
	for i := at[0]; at[2] > 0 && i < at[1] || at[2] < 0 && i > at[1]; {
		if len(l.items) == maxRange {
			return nil, fmt.Errorf("range: more than %d numbers", maxRange)
		}
		l.items = append(l.items, i)
		v, err := integers("+", i, at[2])
		if err != nil {
			break
		}
		i = v.(int64)
	}
	return l, e.step(len(l.items))
}

// strftime is Python's, for the marks that templates use.
func (e *eval) strftime(f string) (any, error) {
	layouts := map[byte]string{'d': "02", 'b': "Jan", 'h': "Jan", 'B': "January", 'Y': "2006", 'y': "06", 'm': "01", 'H': "15", 'I': "03", 'M': "04", 'S': "05",
		'p': "PM", 'a': "Mon", 'A': "Monday", 'j': "002", 'e': "_2", 'F': "2006-01-02", 'D': "01/02/06", 'x': "01/02/06", 'T': "15:04:05", 'X': "15:04:05",
		'R': "15:04", 'r': "03:04:05 PM", 'c': "Mon Jan _2 15:04:05 2006", 'f': ".000000", 'Z': "", 'z': ""} // a time without a zone
	var b strings.Builder
	for i := 0; i < len(f); i++ {
		if f[i] != '%' || i+1 == len(f) {
			b.WriteByte(f[i])
			continue
		}
		i++
		switch l, ok := layouts[f[i]]; {
		case strings.IndexByte("%nt", f[i]) >= 0:
			b.WriteByte("%\n\t"[strings.IndexByte("%nt", f[i])])
		case ok:
			b.WriteString(strings.TrimPrefix(e.now.Format(l), "."))
		case f[i] == '-' && i+1 < len(f) && layouts[f[i+1]] != "":
			i++
			s := strings.TrimLeft(e.now.Format(layouts[f[i]]), "0")
			if s == "" {
				s = "0"
			}
			b.WriteString(s)
		default:
			return nil, fmt.Errorf("strftime_now: %%%c is not supported", f[i])
		}
	}
	return b.String(), e.make(b.Len())
}

// takesOne are the tests that take an argument.
var takesOne = map[string]bool{"divisibleby": true, "equalto": true, "eq": true, "ne": true, "gt": true, "lt": true, "ge": true, "le": true, "in": true, "sameas": true}

type testFunc func(e *eval, v any, a args) (bool, error)

var tests map[string]testFunc

func init() {
	simple := func(f func(v any) bool) testFunc {
		return func(_ *eval, v any, _ args) (bool, error) { return f(v), nil }
	}
	compare := func(op string) testFunc {
		return func(e *eval, v any, a args) (bool, error) {
			y := a.get(0, "other", undefined{"the argument"})
			switch op {
			case "==", "!=":
				same, err := e.equal(v, y)
				return same == (op == "=="), err
			case "<":
				return e.less(v, y)
			case ">":
				return e.less(y, v)
			case "<=":
				b, err := e.less(y, v)
				return !b, err
			}
			b, err := e.less(v, y)
			return !b, err
		}
	}
	kinds := func(kinds ...string) testFunc {
		return simple(func(v any) bool { return slices.Contains(kinds, kindOf(v)) })
	}
	parity := func(odd bool) testFunc {
		return func(_ *eval, v any, _ args) (bool, error) {
			f, ok := float(v)
			if !ok {
				return false, fmt.Errorf("%s is no number", kindOf(v))
			}
			if r := math.Mod(f, 2); odd {
				return r == 1 || r == -1, nil
			} else {
				return r == 0, nil
			}
		}
	}
	letters := func(not, want func(rune) bool) testFunc {
		return func(e *eval, v any, _ args) (bool, error) {
			s, err := e.str(v)
			return allCased(s, not, want), err
		}
	}
	number := simple(func(v any) bool { _, ok := float(v); return ok })
	defined := simple(func(v any) bool { _, ok := v.(undefined); return !ok })
	tests = map[string]testFunc{
		"defined":   defined,
		"undefined": func(e *eval, v any, a args) (bool, error) { ok, err := defined(e, v, a); return !ok, err },
		"none":      kinds("none"), "string": kinds("a string"), "boolean": kinds("a boolean"), "mapping": simple(func(v any) bool { d, ok := v.(*dict); return ok && !d.namespace }),
		"callable": kinds("a function"), "sequence": simple(func(v any) bool { return elementsOf(v, false) }), "iterable": simple(func(v any) bool { return elementsOf(v, true) }),
		"number": number, "float": simple(func(v any) bool { _, ok := v.(float64); return ok }),
		"integer": simple(func(v any) bool { _, isBool := v.(bool); return bigOf(v) != nil && !isBool }),
		"true":    simple(func(v any) bool { return v == true }), "false": simple(func(v any) bool { return v == false }),
		"odd": parity(true), "even": parity(false),
		"divisibleby": func(_ *eval, v any, a args) (bool, error) {
			x, ok := whole(v)
			y, okY := whole(a.get(0, "num", nil))
			if !ok || !okY || y == 0 {
				return false, errors.New("want whole numbers")
			}
			return x%y == 0, nil
		},
		"eq": compare("=="), "equalto": compare("=="), "sameas": func(_ *eval, v any, a args) (bool, error) { return same(v, a.get(0, "other", nil)), nil },
		"filter": simple(func(v any) bool { s, _ := v.(string); return filters[s] != nil }), "test": simple(func(v any) bool { s, _ := v.(string); return tests[s] != nil }), "ne": compare("!="),
		"lt": compare("<"), "le": compare("<="), "gt": compare(">"), "ge": compare(">="),
		"in": func(e *eval, v any, a args) (bool, error) {
			return e.contains(a.get(0, "seq", undefined{"the argument"}), v)
		},
		"==": compare("=="), "!=": compare("!="), "<": compare("<"), "lessthan": compare("<"), "<=": compare("<="), ">": compare(">"), "greaterthan": compare(">"), ">=": compare(">="),
		"lower": letters(unicode.IsUpper, unicode.IsLower), "upper": letters(unicode.IsLower, unicode.IsUpper),
	}
}

// same is Python's is, for what a template can tell apart.
func same(x, y any) bool {
	switch x.(type) {
	case nil, bool, int64, float64, string, *list, *dict, *loopState:
		return x == y
	}
	return false
}

// elementsOf says whether v has elements to go over, or to ask for by number or key.
func elementsOf(v any, lazy bool) bool {
	switch v := v.(type) {
	case string, undefined:
		return true
	case *list:
		return lazy || !v.lazy
	case *dict:
		return !v.namespace
	}
	return false
}

// length is that of Python's len.
func length(e *eval, v any) (int64, error) {
	switch v := v.(type) {
	case string:
		return int64(utf8.RuneCountInString(v)), e.step(len(v) / 64)
	case *list:
		if !v.lazy {
			return int64(len(v.items)), nil
		}
	case *dict:
		return int64(len(v.keys)), nil
	case undefined:
		return 0, nil
	}
	return 0, fmt.Errorf("%s has no length", kindOf(v))
}

// round is Python's: the decimal nearest to what f is exactly, ties to even.
func round(f float64, digits int64, how string) (float64, error) {
	digits = min(max(digits, -300), 300)
	p := math.Pow(10, float64(digits))
	switch how {
	case "common":
		if digits < 0 {
			q := math.Pow(10, float64(-digits))
			return math.RoundToEven(f/q) * q, nil
		}
		return strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(digits), 64), 64)
	case "ceil":
		return math.Ceil(f*p) / p, nil
	case "floor":
		return math.Floor(f*p) / p, nil
	}
	return 0, fmt.Errorf("method %.20q, want common, ceil or floor", how)
}

package chat

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Values are nil, bool, int64, *big.Int where that is too small, float64,
// string, *list, *dict, undefined, function and *loopState.
type (
	list struct {
		items []any
		tuple bool // written in round brackets
		lazy  bool // a generator of Python's: true even if empty, gone over once, nothing else
	}
	dict struct {
		keys, values []any
		at           map[any]int
		namespace    bool // its entries may be set
	}
	// undefined is what has no value; name is what was asked for.
	undefined struct{ name string }
	function  func(e *eval, a args) (any, error)
)

func newDict() *dict { return &dict{at: map[any]int{}} }

// key is what a value is in a map of keys: 1, 1.0 and true are one.
func key(v any) (any, error) {
	switch v := v.(type) {
	case nil, string, int64:
		return v, nil
	case bool:
		if v {
			return int64(1), nil
		}
		return int64(0), nil
	case *big.Int:
		return "big " + v.String(), nil
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<62 {
			return int64(v), nil
		}
		return v, nil
	}
	return nil, fmt.Errorf("%s is no key", kindOf(v))
}

func (d *dict) set(k, v any) {
	h, err := key(k)
	if err != nil {
		return // callers check
	}
	if i, ok := d.at[h]; ok {
		d.values[i] = v
		return
	}
	d.at[h] = len(d.keys)
	d.keys, d.values = append(d.keys, k), append(d.values, v)
}

func (d *dict) get(k any) (any, bool) {
	h, err := key(k)
	if err != nil {
		return nil, false
	}
	i, ok := d.at[h]
	if !ok {
		return nil, false
	}
	return d.values[i], true
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "none"
	case bool:
		return "a boolean"
	case int64, *big.Int, float64:
		return "a number"
	case string:
		return "a string"
	case *list:
		if v.lazy {
			return "a generator (put |list behind it)"
		}
		return "a list"
	case *dict, *loopState:
		return "a mapping"
	case undefined:
		return fmt.Sprintf("%.60q, which is not defined", v.name)
	}
	return "a function"
}

func truth(v any) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case *list:
		return v.lazy || len(v.items) > 0
	case *dict:
		return v.namespace || len(v.keys) > 0
	}
	return true
}

// float is v as a number.
func float(v any) (float64, bool) {
	if n, ok := whole(v); ok {
		return float64(n), true
	}
	if b, ok := v.(*big.Int); ok {
		f, _ := b.Float64()
		return f, true
	}
	f, ok := v.(float64)
	return f, ok
}

// whole is v as a whole number.
func whole(v any) (int64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return v, true
	}
	return 0, false
}

// bigOf is a whole number without bounds; nil if v is none.
func bigOf(v any) *big.Int {
	if n, ok := whole(v); ok {
		return big.NewInt(n)
	}
	b, _ := v.(*big.Int)
	return b
}

// small is b as an int64 where it fits.
func small(b *big.Int) (any, error) {
	switch {
	case b.IsInt64():
		return b.Int64(), nil
	case b.BitLen() > maxBits:
		return nil, errRange
	}
	return b, nil
}

func (e *eval) equal(a, b any) (bool, error) {
	if err := e.step(1); err != nil {
		return false, err
	}
	e.depth++
	defer func() { e.depth-- }()
	if e.depth > 2*maxDepth {
		return false, fmt.Errorf("deeper than %d", 2*maxDepth)
	}
	if x, ok := whole(a); ok {
		if y, ok := whole(b); ok {
			return x == y, nil
		}
	}
	if x, y := bigOf(a), bigOf(b); x != nil && y != nil {
		return x.Cmp(y) == 0, nil
	}
	if x, ok := float(a); ok {
		y, ok := float(b)
		return ok && x == y, nil
	}
	switch a := a.(type) {
	case nil:
		return b == nil, nil
	case string:
		b, ok := b.(string)
		return ok && a == b, e.read(a)
	case undefined:
		_, ok := b.(undefined)
		return ok, nil
	case *list:
		b, ok := b.(*list)
		if !ok || a.tuple != b.tuple || a.lazy || b.lazy || len(a.items) != len(b.items) {
			return ok && a == b, nil
		}
		for i := range a.items {
			if same, err := e.equal(a.items[i], b.items[i]); !same || err != nil {
				return false, err
			}
		}
		return true, nil
	case *dict:
		b, ok := b.(*dict)
		if !ok || len(a.keys) != len(b.keys) {
			return false, nil
		}
		for i, k := range a.keys {
			v, ok := b.get(k)
			if !ok {
				return false, nil
			}
			if same, err := e.equal(a.values[i], v); !same || err != nil {
				return false, err
			}
		}
		return true, nil
	}
	return false, nil
}

// less orders numbers, strings, and lists of them.
func (e *eval) less(a, b any) (bool, error) {
	if x, ok := whole(a); ok {
		if y, ok := whole(b); ok {
			return x < y, nil
		}
	}
	if x, y := bigOf(a), bigOf(b); x != nil && y != nil {
		return x.Cmp(y) < 0, nil
	}
	x, okX := float(a)
	y, okY := float(b)
	if okX && okY {
		return x < y, nil
	}
	if x, ok := a.(string); ok {
		if y, ok := b.(string); ok {
			return x < y, e.read(x)
		}
	}
	if x, ok := a.(*list); ok {
		if y, ok := b.(*list); ok && x.tuple == y.tuple && !x.lazy && !y.lazy {
			e.depth++
			defer func() { e.depth-- }()
			if e.depth > 2*maxDepth {
				return false, fmt.Errorf("deeper than %d", 2*maxDepth)
			}
			for i := range min(len(x.items), len(y.items)) {
				if same, err := e.equal(x.items[i], y.items[i]); err != nil {
					return false, err
				} else if !same {
					return e.less(x.items[i], y.items[i])
				}
			}
			return len(x.items) < len(y.items), nil
		}
	}
	return false, fmt.Errorf("%s and %s have no order", kindOf(a), kindOf(b))
}

// str is v as text, as Python's str writes it.
func (e *eval) str(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case undefined:
		return "", nil
	}
	var b strings.Builder
	err := e.repr(&b, v, 0)
	return b.String(), err
}

func number2(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case math.IsNaN(f):
		return "nan"
	case f == math.Trunc(f) && math.Abs(f) < 1e16:
		return strconv.FormatFloat(f, 'f', 1, 64)
	case math.Abs(f) >= 1e16 || math.Abs(f) < 1e-4:
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// number writes an int64, a big.Int or a float64.
func (e *eval) number(b *strings.Builder, v any) error {
	switch v := v.(type) {
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case *big.Int:
		b.WriteString(v.String())
		return e.step(v.BitLen() / 16)
	case float64:
		b.WriteString(number2(v))
	}
	return nil
}

func (e *eval) repr(b *strings.Builder, v any, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("a value deeper than %d", maxDepth)
	}
	if err := e.make(b.Len() / 64); err != nil { // what grows in steps is paid for in steps
		return err
	}
	if err := e.step(1); err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case undefined: // within a list
		b.WriteString("Undefined")
	case bool:
		b.WriteString(map[bool]string{true: "True", false: "False"}[v])
	case int64, *big.Int, float64:
		return e.number(b, v)
	case string:
		if err := e.make(len(v)); err != nil {
			return err
		}
		quote := byte('\'')
		if strings.Contains(v, "'") && !strings.Contains(v, `"`) {
			quote = '"'
		}
		b.WriteByte(quote)
		for _, r := range v {
			switch {
			case r == '\n':
				b.WriteString(`\n`)
			case r == '\t':
				b.WriteString(`\t`)
			case r == '\r':
				b.WriteString(`\r`)
			case r == rune(quote) || r == '\\':
				b.WriteByte('\\')
				b.WriteRune(r)
			case r < 0x20 || r == 0x7f:
				fmt.Fprintf(b, `\x%02x`, r)
			case r != ' ' && !unicode.IsPrint(r) && r <= 0xff:
				fmt.Fprintf(b, `\x%02x`, r)
			case r != ' ' && !unicode.IsPrint(r) && r <= 0xffff:
				fmt.Fprintf(b, `\u%04x`, r)
			case r != ' ' && !unicode.IsPrint(r):
				fmt.Fprintf(b, `\U%08x`, r)
			default:
				b.WriteRune(r)
			}
		}
		b.WriteByte(quote)
	case *list:
		open, end := "[", "]"
		if v.tuple {
			open, end = "(", ")"
			if len(v.items) == 1 {
				end = ",)"
			}
		}
		if v.lazy {
			return fmt.Errorf("%s cannot be written", kindOf(v))
		}
		return series(b, open, ", ", end, len(v.items), func(i int) error { return e.repr(b, v.items[i], depth+1) })
	case *dict:
		return series(b, "{", ", ", "}", len(v.keys), func(i int) error {
			if err := e.repr(b, v.keys[i], depth+1); err != nil {
				return err
			}
			b.WriteString(": ")
			return e.repr(b, v.values[i], depth+1)
		})
	default:
		return fmt.Errorf("%s cannot be written", kindOf(v))
	}
	return nil
}

// series writes n items, each by item, between open and end.
func series(b *strings.Builder, open, comma, end string, n int, item func(i int) error) error {
	b.WriteString(open)
	for i := range n {
		if i > 0 {
			b.WriteString(comma)
		}
		if err := item(i); err != nil {
			return err
		}
	}
	b.WriteString(end)
	return nil
}

// elements are what a loop goes over.
func (e *eval) elements(v any) ([]any, error) {
	switch v := v.(type) {
	case *list:
		items := v.items
		if v.lazy {
			v.items = nil
		}
		return items, e.step(len(items))
	case *dict:
		return v.keys, e.step(len(v.keys))
	case undefined:
		return nil, nil
	case string:
		if err := e.step(len(v)); err != nil {
			return nil, err
		}
		out := make([]any, 0, utf8.RuneCountInString(v))
		for _, r := range v {
			out = append(out, string(r))
		}
		return out, nil
	}
	return nil, fmt.Errorf("%s has no elements", kindOf(v))
}

package chat

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"
)

func (e *eval) unary(op string, v any) (any, error) {
	if op == "not" {
		return !truth(v), nil
	}
	if i, ok := whole(v); ok && i != math.MinInt64 {
		if op == "-" {
			i = -i
		}
		return i, nil
	}
	if f, ok := v.(float64); ok {
		if op == "-" {
			f = -f
		}
		return f, nil
	}
	if b := bigOf(v); b != nil {
		if op == "-" {
			b = new(big.Int).Neg(b)
		}
		return small(b)
	}
	return nil, fmt.Errorf("%s of %s", op, kindOf(v))
}

func (e *eval) binary(b binary, s *scope) (any, error) {
	x, err := e.value(b.x, s)
	if err != nil {
		return nil, err
	}
	if b.op == "and" && !truth(x) || b.op == "or" && truth(x) {
		return x, nil
	}
	y, err := e.value(b.y, s)
	if err != nil || b.op == "and" || b.op == "or" {
		return y, err
	}
	return e.arithmetic(b.op, x, y)
}

func (e *eval) arithmetic(op string, x, y any) (any, error) {
	if op == "~" {
		a, err := e.str(x)
		if err != nil {
			return nil, err
		}
		b, err := e.str(y)
		if err != nil {
			return nil, err
		}
		return a + b, e.make(len(a) + len(b))
	}
	a, sa := x.(string)
	b, sb := y.(string)
	la, isA := x.(*list)
	lb, isB := y.(*list)
	i, wi := whole(x)
	j, wj := whole(y)
	f, fi := float(x)
	g, fj := float(y)
	switch {
	case op == "+" && sa && sb:
		return a + b, e.make(len(a) + len(b))
	case op == "+" && isA && isB && la.tuple == lb.tuple && !la.lazy && !lb.lazy:
		return &list{items: slices.Concat(la.items, lb.items), tuple: la.tuple}, e.step(len(la.items) + len(lb.items))
	case op == "*" && isA && wj && !la.lazy:
		return e.repeatList(la, j)
	case op == "*" && wi && isB && !lb.lazy:
		return e.repeatList(lb, i)
	case op == "*" && sa && wj:
		return e.repeat(a, j)
	case op == "*" && wi && sb:
		return e.repeat(b, i)
	case op == "%" && sa:
		return e.percent(a, y)
	case wi && wj:
		if v, err := integers(op, i, j); err != errRange {
			return v, err
		}
		if err := e.step(maxBits / 64); err != nil { // what ** may take
			return nil, err
		}
		return bigIntegers(op, big.NewInt(i), big.NewInt(j))
	case bigOf(x) != nil && bigOf(y) != nil:
		p, q := bigOf(x), bigOf(y)
		if err := e.step((p.BitLen() + q.BitLen()) / 8); err != nil {
			return nil, err
		}
		return bigIntegers(op, p, q)
	case fi && fj:
		return reals(op, f, g)
	}
	return nil, fmt.Errorf("%s %s %s", kindOf(x), op, kindOf(y))
}

func (e *eval) repeatList(l *list, n int64) (any, error) {
	out := &list{tuple: l.tuple}
	for ; n > 0 && len(l.items) > 0; n-- {
		if err := e.step(len(l.items)); err != nil {
			return nil, err
		}
		out.items = append(out.items, l.items...)
	}
	return out, nil
}

func (e *eval) repeat(s string, n int64) (any, error) {
	if n <= 0 || s == "" {
		return "", nil
	}
	if n > maxBytes/int64(len(s)) {
		return nil, e.make(maxBytes + 1)
	}
	if err := e.make(len(s) * int(n)); err != nil {
		return nil, err
	}
	return strings.Repeat(s, int(n)), nil
}

const maxBits = 1 << 14 // of a whole number

var errRange = errors.New("a whole number is out of range")

// bigIntegers does what integers does, for any size.
func bigIntegers(op string, x, y *big.Int) (any, error) {
	z := new(big.Int)
	switch op {
	case "+":
		z.Add(x, y)
	case "-":
		z.Sub(x, y)
	case "*":
		z.Mul(x, y)
	case "//", "%":
		if y.Sign() == 0 {
			return nil, errors.New("division by 0")
		}
		m := new(big.Int)
		z.QuoRem(x, y, m) // towards 0; Python's goes down
		if m.Sign() != 0 && m.Sign() != y.Sign() {
			z.Sub(z, big.NewInt(1))
			m.Add(m, y)
		}
		if op == "%" {
			z = m
		}
	case "**":
		if y.Sign() < 0 {
			return reals(op, toFloat(x), toFloat(y))
		}
		if !y.IsInt64() || x.BitLen() > 1 && y.Int64() > int64(maxBits/(x.BitLen()-1)) {
			return nil, errRange
		}
		z.Exp(x, y, nil)
	default:
		return reals(op, toFloat(x), toFloat(y))
	}
	return small(z)
}

func toFloat(b *big.Int) float64 { f, _ := b.Float64(); return f }

func integers(op string, i, j int64) (any, error) {
	switch op {
	case "+":
		if s := i + j; (s > i) == (j > 0) {
			return s, nil
		}
		return nil, errRange
	case "-":
		if s := i - j; (s < i) == (j > 0) {
			return s, nil
		}
		return nil, errRange
	case "*":
		if i == 0 || j == 0 {
			return int64(0), nil
		}
		if p := i * j; p/j == i && !(i == -1 && j == math.MinInt64) && !(j == -1 && i == math.MinInt64) {
			return p, nil
		}
		return nil, errRange
	case "//", "%":
		if j == 0 {
			return nil, errors.New("division by 0")
		}
		if j == -1 { // the one quotient that may overflow
			if op == "%" {
				return int64(0), nil
			}
			return integers("-", 0, i)
		}
		q, r := i/j, i%j
		if r != 0 && (r < 0) != (j < 0) {
			q, r = q-1, r+j
		}
		if op == "%" {
			return r, nil
		}
		return q, nil
	case "**":
		if j >= 0 {
			p := int64(1)
			for range j {
				v, err := integers("*", p, i)
				if err != nil {
					return nil, err
				}
				if p = v.(int64); p == 0 || p == 1 && i == 1 || i == -1 && j > 64 {
					break
				}
			}
			if i == -1 {
				p = 1 - 2*(j&1)
			}
			return p, nil
		}
	}
	return reals(op, float64(i), float64(j))
}

func reals(op string, f, g float64) (any, error) {
	switch op {
	case "+":
		return f + g, nil
	case "-":
		return f - g, nil
	case "*":
		return f * g, nil
	case "**":
		return math.Pow(f, g), nil
	}
	if g == 0 {
		return nil, errors.New("division by 0")
	}
	switch op {
	case "/":
		return f / g, nil
	case "//":
		return math.Floor(f / g), nil
	}
	r := math.Mod(f, g)
	if r != 0 && (r < 0) != (g < 0) {
		r += g
	}
	return r, nil
}

func (e *eval) compare(c compare, s *scope) (any, error) {
	x, err := e.value(c.x, s)
	if err != nil {
		return nil, err
	}
	for i, op := range c.ops {
		y, err := e.value(c.ys[i], s)
		if err != nil {
			return nil, err
		}
		ok := false
		switch op {
		case "==", "!=":
			ok, err = e.equal(x, y)
			ok = ok == (op == "==")
		case "<":
			ok, err = e.less(x, y)
		case ">":
			ok, err = e.less(y, x)
		case "<=":
			ok, err = e.less(y, x)
			ok = !ok
		case ">=":
			ok, err = e.less(x, y)
			ok = !ok
		default:
			ok, err = e.contains(y, x)
			ok = ok == (op == "in")
		}
		if !ok || err != nil {
			return false, err
		}
		x = y
	}
	return true, nil
}

func (e *eval) contains(in, x any) (bool, error) {
	if err := e.read(x); err != nil {
		return false, err
	}
	switch in := in.(type) {
	case string:
		s, ok := x.(string)
		if !ok {
			return false, fmt.Errorf("%s in a string", kindOf(x))
		}
		return strings.Contains(in, s), e.step(1 + len(in)/64)
	case *dict:
		_, ok := in.get(x)
		return ok, nil
	}
	items, err := e.elements(in)
	for _, v := range items {
		same, err := e.equal(v, x)
		if same || err != nil {
			return same, err
		}
	}
	return false, err
}

func (e *eval) attr(v any, n string) (any, error) {
	switch v := v.(type) {
	case undefined:
		return nil, fmt.Errorf("%s of %s", n, kindOf(v))
	case *dict:
		if f := dictMethods[n]; f != nil && !v.namespace { // before a key of that name, as in Python
			return function(func(e *eval, a args) (any, error) { return f(e, v, a) }), nil
		}
		if x, ok := v.get(n); ok {
			return x, nil
		}
	case *loopState:
		if x, ok := v.attr(n); ok {
			return x, nil
		}
	case *list:
		if f := listMethods[n]; f != nil && !v.lazy {
			return function(func(e *eval, a args) (any, error) { return f(e, v, a) }), nil
		}
	case string:
		if f := stringMethods[n]; f != nil {
			return function(func(e *eval, a args) (any, error) {
				if err := e.read(v); err != nil {
					return nil, err
				}
				return f(e, v, a)
			}), nil
		}
	}
	return undefined{n}, nil
}

func (e *eval) index(v, i any) (any, error) {
	n, isInt := whole(i)
	if err := e.read(i); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case undefined:
		return nil, fmt.Errorf("an element of %s", kindOf(v))
	case *list:
		if isInt && !v.lazy {
			if n < 0 {
				n += int64(len(v.items))
			}
			if n >= 0 && n < int64(len(v.items)) {
				return v.items[n], nil
			}
		}
	case string:
		if isInt {
			if err := e.step(1 + len(v)/64); err != nil {
				return nil, err
			}
			if n < 0 {
				n += int64(utf8.RuneCountInString(v))
			}
			for _, r := range v {
				if n == 0 {
					return string(r), nil
				}
				n--
			}
			return undefined{"a character"}, nil
		}
	case *dict:
		if x, ok := v.get(i); ok {
			return x, nil
		}
	}
	if s, ok := i.(string); ok {
		return e.attr(v, s)
	}
	return undefined{"an element"}, nil
}

func (e *eval) slice(x slice, s *scope) (any, error) {
	v, err := e.value(x.x, s)
	if err != nil {
		return nil, err
	}
	var at [3]int64
	var given [3]bool
	for i, y := range []expr{x.from, x.to, x.step} {
		if y == nil {
			continue
		}
		n, err := e.value(y, s)
		if err != nil {
			return nil, err
		}
		if n == nil {
			continue
		}
		w, ok := whole(n)
		if !ok {
			return nil, fmt.Errorf("a slice from or to %s", kindOf(n))
		}
		at[i], given[i] = w, true
	}
	str, isString := v.(string)
	l, isList := v.(*list)
	if isList && l.lazy || !isList && !isString {
		return nil, fmt.Errorf("a slice of %s", kindOf(v))
	}
	items, err := e.elements(v)
	if err != nil {
		return nil, err
	}
	n, step := int64(len(items)), int64(1)
	if given[2] {
		step = at[2]
	}
	if step == 0 {
		return nil, errors.New("a slice with a step of 0")
	}
	lo, hi := int64(0), n // where counting begins, and what it does not reach
	if step < 0 {
		lo, hi = n-1, -1
	}
	clip := func(i int64) int64 {
		if i < 0 {
			i += n
		}
		if step < 0 {
			return min(max(i, -1), n-1)
		}
		return min(max(i, 0), n)
	}
	if given[0] {
		lo = clip(at[0])
	}
	if given[1] {
		hi = clip(at[1])
	}
	step = min(max(step, -n-1), n+1)
	var out []any
	for i := lo; step > 0 && i < hi || step < 0 && i > hi; i += step {
		out = append(out, items[i])
	}
	if !isString {
		return &list{items: out, tuple: l.tuple}, nil
	}
	var b strings.Builder
	for _, c := range out {
		b.WriteString(c.(string))
	}
	return b.String(), e.make(len(str))
}

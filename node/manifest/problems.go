package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Problem is one thing wrong with one field.
type Problem struct {
	Path string // of the field, as in "inner.lr"; "" is the whole document
	Line int    // in the YAML, 0 if unknown
	What string
}

func (p Problem) String() string {
	s := p.What
	if p.Path != "" {
		s = p.Path + ": " + s
	}
	if p.Line > 0 {
		s += fmt.Sprintf(" (line %d)", p.Line)
	}
	return s
}

// Problems is the error that Parse and Validate return: everything that is
// wrong, in the order of the YAML, one a line.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, x := range p {
		lines[i] = x.String()
	}
	return strings.Join(lines, "\n")
}

// maxProblems bounds what one manifest is told at once.
const maxProblems = 100

// add appends a problem, unless that field has one already.
func (p *Problems) add(path string, line int, format string, args ...any) {
	if len(*p) < maxProblems && !slices.ContainsFunc(*p, func(x Problem) bool { return x.Path == path }) {
		*p = append(*p, Problem{path, line, fmt.Sprintf(format, args...)})
	}
}

// err returns the problems as an error, nil if there are none.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	slices.SortStableFunc(p, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return p
}

// uint reports a count outside lo to hi.
func (p *Problems) uint(path string, v, lo, hi uint64) bool {
	switch {
	case v < lo:
		p.add(path, 0, "%d is below the limit of %d", v, lo)
	case v > hi:
		p.add(path, 0, "%d is above the limit of %d", v, hi)
	default:
		return true
	}
	return false
}

// int is uint for fields that become Go's int.
func (p *Problems) int(path string, v, lo, hi int) bool {
	switch {
	case v < lo:
		p.add(path, 0, "%d is below the limit of %d", v, lo)
	case v > hi:
		p.add(path, 0, "%d is above the limit of %d", v, hi)
	default:
		return true
	}
	return false
}

// A bound is one end of an interval.
type bound struct {
	v    float64
	open bool // v itself is out
}

func from(v float64) bound  { return bound{v, false} }
func above(v float64) bound { return bound{v, true} }

// float reports a number outside an interval. Negative zero is refused, as it
// has another encoding than zero.
func (p *Problems) float(path string, v float64, lo, hi bound) bool {
	switch {
	case v != v || v-v != 0:
		p.add(path, 0, "%g is not a finite number", v)
	case v == 0 && 1/v < 0:
		p.add(path, 0, "negative zero: write 0")
	case v < lo.v:
		p.add(path, 0, "%g is below the limit of %g", v, lo.v)
	case v == lo.v && lo.open:
		p.add(path, 0, "%g is not above %g", v, lo.v)
	case v > hi.v:
		p.add(path, 0, "%g is above the limit of %g", v, hi.v)
	case v == hi.v && hi.open:
		p.add(path, 0, "%g is not below %g", v, hi.v)
	default:
		return true
	}
	return false
}

// oneOf reports a word that is none of those given.
func (p *Problems) oneOf(path, v string, words ...string) bool {
	if slices.Contains(words, v) {
		return true
	}
	if v == "" {
		p.add(path, 0, "missing: it must be one of %s", strings.Join(words, ", "))
	} else {
		p.add(path, 0, "%.40q is not one of %s", v, strings.Join(words, ", "))
	}
	return false
}

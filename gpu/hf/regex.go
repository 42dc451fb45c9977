package hf

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"unicode/utf8"
)

// A regex finds matches as Perl and Oniguruma do, the first alternative that leads to one,
// in time linear in the text over all matches in it. Package regexp is linear for
// each: where an alternative reads far before it fails, as in `a.*z|a`, the next match
// begins a few characters on and all is read again.
//
// It goes back and tries again (backtracks) as those do. What has once failed at a place of the
// text fails there whatever comes before, so it is remembered (Davis, Servant and Lee 2021,
// "Using Selective Memoization to Defeat Regular Expression Denial of Service") where a
// match takes many steps.
type regex struct {
	insts []regexInst
	start int32
	alts  int // choices among insts
	free  int // freeSteps
}

type regexInst struct {
	*syntax.Inst
	ascii [2]uint64 // of a rune's instruction: which it takes
	alt   int32     // its number among choices
	loop  int32     // of a choice that prefers to take one more of a rune: that rune's instruction; 0: none
}

// Limits of a regex: its steps for each character, and its memory.
const (
	maxInsts = 4 << 10
	maxAlts  = 256
)

// newRegex compiles a pattern of package regexp's, in which a group stands for `(?!\S)`.
func newRegex(pattern string) (*regex, error) {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, err
	}
	p, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, err
	}
	x := &regex{free: freeSteps, start: int32(p.Start), insts: make([]regexInst, len(p.Inst))}
	for i := range p.Inst {
		in := &x.insts[i]
		in.Inst = &p.Inst[i]
		switch in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			in.alt = int32(x.alts)
			x.alts++
			if body := &p.Inst[in.Out]; isRune(body.Op) && int(body.Out) == i {
				in.loop = int32(in.Out)
			}
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(in.Arg) != syntax.EmptyEndLine {
				return nil, errors.New("an assertion that is not supported")
			}
		default:
			for r := range rune(utf8.RuneSelf) {
				if isRune(in.Op) && takes(in.Inst, r) {
					in.ascii[r>>6] |= 1 << (r & 63)
				}
			}
		}
	}
	if len(x.insts) > maxInsts || x.alts > maxAlts {
		return nil, fmt.Errorf("%d steps with %d choices for a character, at most %d with %d", len(x.insts), x.alts, maxInsts, maxAlts)
	}
	return x, nil
}

func isRune(op syntax.InstOp) bool {
	return op == syntax.InstRune || op == syntax.InstRune1 || op == syntax.InstRuneAny || op == syntax.InstRuneAnyNotNL
}

func takes(in *syntax.Inst, r rune) bool {
	switch in.Op {
	case syntax.InstRuneAny:
		return true
	case syntax.InstRuneAnyNotNL:
		return r != '\n'
	}
	return in.MatchRune(r)
}

// takes is the length of the character at s[at:] where in takes it, else 0.
func (in *regexInst) takes(s string, at int) int {
	if at == len(s) {
		return 0
	}
	if c := s[at]; c < utf8.RuneSelf {
		return int(in.ascii[c>>6] >> (c & 63) & 1)
	}
	if r, n := utf8.DecodeRuneInString(s[at:]); takes(in.Inst, r) {
		return n
	}
	return 0
}

// find returns where the first match in s begins and ends; len(s) twice where there is
// none. m is of the text that s is the rest of.
func (x *regex) find(s string, m *memo) (start, stop int) {
	for start < len(s) {
		stop, over := 0, false
		if place := len(s) - start; m.blocks == nil || place <= m.far {
			stop, over = x.match(s, start, nil)
		}
		if !over {
			stop, _ = x.match(s, start, m.at(x, len(s)-start))
		}
		if stop > start {
			return start, stop
		}
		_, n := utf8.DecodeRuneInString(s[start:])
		start += n
	}
	return len(s), len(s)
}

const freeSteps = 1 << 12 // of a match, before what fails is remembered

// A branch is where to go on when what is tried fails: at pc, from the last to the first of
// the places lo to hi between characters.
type branch struct{ pc, lo, hi int }

// match returns where the match ends that begins at start, 0 where there is none. Without a
// memo it gives up (over false) where that takes long.
func (x *regex) match(s string, start int, m *memo) (stop int, over bool) {
	var some [32]branch
	back := some[:0]
	pc, at := int(x.start), start
	for steps := 0; ; steps++ {
		if m == nil && steps > x.free {
			return 0, false
		}
		in := &x.insts[pc]
		ok := true
		switch in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			if m != nil && !m.enter(int(in.alt), len(s)-at) {
				ok = false
				break
			}
			if in.loop == 0 {
				back, pc = append(back, branch{int(in.Arg), at, at}), int(in.Out)
				continue
			}
			lo, body := at, &x.insts[in.loop]
			for n := body.takes(s, at); n > 0; n = body.takes(s, at) {
				if m != nil && !m.enter(int(in.alt), len(s)-at-n) {
					break // from there on all has failed
				}
				if at += n; m == nil {
					steps++
				}
			}
			back, ok = append(back, branch{int(in.Arg), lo, at}), false
		case syntax.InstEmptyWidth:
			ok = at == len(s) || s[at] == '\n'
			pc = int(in.Out)
		case syntax.InstCapture:
			ok = in.Arg%2 == 0 || at == len(s) || isSpace(s[at:])
			pc = int(in.Out)
		case syntax.InstNop:
			pc = int(in.Out)
		case syntax.InstMatch:
			return at, true
		case syntax.InstFail:
			ok = false
		default:
			n := in.takes(s, at)
			at, pc, ok = at+n, int(in.Out), n > 0
		}
		if ok {
			continue
		}
		if len(back) == 0 {
			return 0, true
		}
		b := &back[len(back)-1]
		if pc, at = b.pc, b.hi; b.hi == b.lo {
			back = back[:len(back)-1]
		} else {
			_, n := utf8.DecodeLastRuneInString(s[:b.hi])
			b.hi -= n
		}
	}
}

func isSpace(s string) bool {
	c, _ := first(s)
	return c == space
}

// A memo knows which choices of a regex have been entered at which places of a text. What was
// entered beyond the end of a match has failed. What led to the match from its end on needs no character more,
// and no other match comes to it there, since a regex does not match nothing (nullable). A
// place is how many bytes follow it.
type memo struct {
	alts   int
	blocks map[int][]uint64 // of memoBlock places, by alts bits each; nil before the first is kept
	top    int              // the first of them
	far    int              // the last place entered
	last   []uint64         // the block used last, and its number
	number int
}

const memoBlock = 1 << 10

// at makes m ready for a match that begins at place, and forgets what lies before.
func (m *memo) at(x *regex, place int) *memo {
	if m.blocks == nil {
		*m = memo{alts: x.alts, blocks: map[int][]uint64{}, top: place / memoBlock, far: place}
	}
	for ; m.top > place/memoBlock; m.top-- {
		delete(m.blocks, m.top)
	}
	m.far, m.last = min(m.far, place), nil
	return m
}

// block is that of a place.
func (m *memo) block(place int) []uint64 {
	n := place / memoBlock
	if m.last != nil && m.number == n {
		return m.last
	}
	b := m.blocks[n]
	if b == nil {
		b = make([]uint64, memoBlock*m.alts/64)
		m.blocks[n] = b
	}
	m.last, m.number = b, n
	return b
}

// enter notes that a choice is tried at a place, and reports whether it had not been.
func (m *memo) enter(alt, place int) bool {
	m.far = min(m.far, place)
	b, bit := m.block(place), place%memoBlock*m.alts+alt
	was := b[bit/64]&(1<<(bit%64)) != 0
	b[bit/64] |= 1 << (bit % 64)
	return !was
}

// nullable says that x could match nothing.
func (x *regex) nullable() bool {
	seen := map[uint32]bool{}
	todo := []uint32{uint32(x.start)}
	for len(todo) > 0 {
		pc := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[pc] {
			continue
		}
		seen[pc] = true
		switch in := &x.insts[pc]; in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			todo = append(todo, in.Out, in.Arg)
		case syntax.InstEmptyWidth, syntax.InstCapture, syntax.InstNop:
			todo = append(todo, in.Out)
		case syntax.InstMatch:
			return true
		}
	}
	return false
}

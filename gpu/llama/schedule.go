package llama

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/gpu"
)

// A stream is one sequence that is being written.
type stream struct {
	ids   []int32 // the prompt and what was written
	read  int     // how many of ids are in the cache
	known int     // how many are to be read as one text, see Model.know
	turn  int     // hf.Config.RopeLength of what is in the cache
	told  int     // how many have been read, however turned
	limit int     // the length at which it ends
	pages []int32

	opts    GenerateOptions
	sampler sampler
	marked  int // how many of ids the sampler has seen
	drawn   uint64
}

// need is how many pages s takes at its greatest length; its last token is not read.
func (s *stream) need() int { return pages(s.limit - 1) }

// A schedule says which rows of which streams a pass computes: continuous
// batching (Yu et al. 2022, section 3.1), in which a stream joins and leaves
// between any two passes. It is a value that decides; it computes nothing.
//
// A stream is admitted, in the order of coming, once pages for its greatest
// length are free, so that none that runs ever has to wait for memory. In a
// pass, streams that write come first, one row each; what is left of it goes to
// prompts, the oldest first.
type schedule struct {
	rows    int     // of a pass at most
	most    int     // streams at a time, at most rows
	total   int     // pages there are
	free    []int32 // those that nobody has
	waiting []*stream
	running []*stream
	know    func(*stream) // sets known, and what else depends on a stream's length
}

// A part is a stretch of a stream in a pass.
type part struct {
	s    *stream
	rows int
}

func newSchedule(rows, most, pages int) *schedule {
	return &schedule{rows: rows, most: min(most, rows), total: pages, free: sequential(pages),
		know: func(x *stream) { x.known = len(x.ids) }}
}

// add takes a stream in. One that can never run is refused.
func (s *schedule) add(x *stream) error {
	if n := x.need(); n > s.total {
		return fmt.Errorf("llama: generate: a text of up to %d tokens needs %d pages of the cache, there are %d", x.limit, n, s.total)
	}
	s.waiting = append(s.waiting, x)
	return nil
}

// next admits whom it can and plans a pass; nil where there is nothing to do.
func (s *schedule) next() []part {
	for len(s.waiting) > 0 && len(s.running) < s.most {
		x := s.waiting[0]
		n := x.need()
		if n > len(s.free) {
			break
		}
		x.pages = slices.Clone(s.free[len(s.free)-n:])
		s.free = s.free[:len(s.free)-n]
		s.waiting = s.waiting[1:]
		s.running = append(s.running, x)
	}
	for _, x := range s.running {
		s.know(x)
	}
	// A text that is read again, see Model.know, comes after prompts, and those by turns.
	again := func(x *stream) uint64 {
		if x.known-x.read > 1 {
			return x.drawn
		}
		return 0
	}
	slices.SortStableFunc(s.running, func(x, y *stream) int { return cmp.Compare(again(x), again(y)) })
	var out []part
	left := s.rows
	for _, x := range s.running {
		if x.known-x.read == 1 {
			out = append(out, part{x, 1})
			left--
		}
	}
	for _, x := range s.running {
		if n := x.known - x.read; n > 1 && left > 0 {
			n = min(n, left)
			out = append(out, part{x, n})
			left -= n
		}
	}
	return out
}

// remove lets a stream go, and its pages to others.
func (s *schedule) remove(x *stream) {
	s.free = append(s.free, x.pages...)
	x.pages = nil
	gone := func(y *stream) bool { return y == x }
	s.running = slices.DeleteFunc(s.running, gone)
	s.waiting = slices.DeleteFunc(s.waiting, gone)
}

// span is the stretch's place in the cache.
func (p part) span() gpu.Span {
	return gpu.Span{Rows: p.rows, Start: p.s.read, Pages: p.s.pages[:pages(p.s.read+p.rows)]}
}

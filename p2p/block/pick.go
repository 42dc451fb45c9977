package block

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// next returns what to ask for now, and its size: budget bytes or a little more.
func (s *sched) next(now time.Time, budget int64) (out []order, spent int64) {
	total, rest := 0.0, s.bytes
	for _, x := range s.order {
		if x.state == ready && now.After(x.penalty) {
			total += x.rate()
			rest += max(0, x.bytes-x.partial)
		}
	}
	if total == 0 {
		return nil, 0
	}
	end := float64(rest) / total
	// One block each in turn, the least busy first, until nobody takes more.
	busy := slices.Clone(s.order)
	for again := true; again; {
		again = false
		slices.SortStableFunc(busy, func(a, b *source) int { return cmp.Compare(a.left(0), b.left(0)) })
		for _, x := range busy {
			if spent >= budget || x.state != ready || now.Before(x.penalty) || !s.room(x) {
				continue
			}
			w := s.pick(x, end, now)
			if w == nil {
				w = s.late(x, now)
			}
			if w != nil {
				out = s.give(out, x, w, now)
				spent += w.size
				again = true
			}
		}
	}
	return out, spent
}

// room reports whether x should get more work.
func (s *sched) room(x *source) bool {
	if len(x.asks) == 0 {
		return true
	}
	if x.bytes >= maxInFlight || len(x.asks) >= maxAsks || x.strikes > 0 {
		return false
	}
	return x.left(0) < lead.Seconds()+2*x.rtts()
}

// pick returns the first queued block that x should fetch, if any; end is the
// time in seconds at which the fetch would end if all rates added up.
func (s *sched) pick(x *source, end float64, now time.Time) *want {
	for _, w := range s.queue[:min(len(s.queue), scanQueue)] {
		if !x.serves(w, now) {
			continue
		}
		mine := x.left(w.size)
		if mine <= end {
			return w
		}
		best := mine
		for _, y := range s.order {
			if y != x && y.serves(w, now) && !now.Before(y.penalty) {
				best = min(best, y.left(w.size))
			}
		}
		if mine <= 1.25*best+0.05 {
			return w
		}
		return nil // others have it sooner; so it is with all that follow
	}
	return nil
}

// late returns a block in flight at one other provider that x would have
// much sooner, or nil.
func (s *sched) late(x *source, now time.Time) *want {
	if len(x.asks) > 0 {
		return nil
	}
	var worst *want
	gain := 0.2
	for _, y := range s.order {
		if y == x || len(y.asks) == 0 {
			continue
		}
		ahead := -float64(y.partial)
		silent := now.Sub(y.last).Seconds() - y.rtts()
		for _, a := range y.asks {
			ahead += float64(a.w.size)
			if len(a.w.asks) > 1 || !x.serves(a.w, now) {
				continue
			}
			theirs := max(0, ahead) / y.rate()
			if silent > 0 {
				theirs += 2 * silent
			}
			mine := float64(a.w.size)/x.rate() + x.rtts()
			if g := theirs - mine; g > gain && mine < 0.6*theirs {
				worst, gain = a.w, g
			}
		}
	}
	return worst
}

// give puts w in flight at x.
func (s *sched) give(out []order, x *source, w *want, now time.Time) []order {
	if len(x.asks) == 0 {
		x.last = now
		x.at = now.Add(x.rtt) // the way there and back is not the line's rate
	}
	a := &ask{w: w, p: x, at: now, seen: x.seen, due: x.bytes + w.size}
	w.asks = append(w.asks, a)
	x.asks = append(x.asks, a)
	x.bytes += w.size
	s.dequeue(w)
	prio := int32(math.MaxInt32 - min(w.seq, math.MaxInt32-1))
	for i := range out {
		if out[i].to == x.id {
			out[i].ask = append(out[i].ask, w.cid)
			out[i].prio = append(out[i].prio, prio)
			return out
		}
	}
	return append(out, order{to: x.id, ask: []wire.CID{w.cid}, prio: []int32{prio}})
}

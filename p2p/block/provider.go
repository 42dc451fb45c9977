package block

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/wire"
)

// addSpare notes possible providers: in their order where one after the other
// is asked, else in random order so that those who fetch the same thing do not
// all begin with the same one.
func (f *fetch) addSpare(ps []wire.PeerID) {
	ps = slices.Clone(ps)
	if f.width == maxSources {
		rand.Shuffle(len(ps), func(i, j int) { ps[i], ps[j] = ps[j], ps[i] })
	}
	self := f.x.host.ID()
	for _, p := range ps {
		x := f.sched.peers[p]
		if p2p.FromWire(p) != self && !slices.Contains(f.spare, p) && (x == nil || x.state == gone) {
			f.spare = append(f.spare, p)
		}
	}
}

// widen lets another provider in where those in use are silent or slow, and as
// many as there are once there is work for them.
func (f *fetch) widen(now time.Time) {
	switch {
	case f.width == maxSources:
		return
	case len(f.sched.wants) > 1:
		f.width = maxSources
		return
	}
	last := f.widened
	for _, x := range f.sched.order {
		if x.state == ready && x.last.After(last) {
			last = x.last
		}
	}
	if now.Sub(last) >= hedge || now.Sub(f.widened) >= 3*hedge {
		f.width, f.widened = f.width+1, now
	}
}

// topUp makes spare providers active while there is room; those that misbehaved
// lately only if there are no others.
func (f *fetch) topUp(now time.Time) {
	if len(f.spare) == 0 {
		return
	}
	ok, shunned := []wire.PeerID{}, []wire.PeerID{}
	for _, p := range f.spare {
		if f.x.isShunned(p, now) {
			shunned = append(shunned, p)
		} else {
			ok = append(ok, p)
		}
	}
	connected := func(p wire.PeerID) int {
		if f.x.host.Network().Connectedness(p2p.FromWire(p)) == network.Connected {
			return 0
		}
		return 1
	}
	if f.width == maxSources {
		slices.SortStableFunc(ok, func(a, b wire.PeerID) int { return connected(a) - connected(b) })
	}
	for len(f.links) < f.width && len(ok) > 0 {
		f.activate(ok[0], now)
		ok = ok[1:]
	}
	if len(f.links) == 0 && len(shunned) > 0 {
		f.activate(shunned[0], now)
		shunned = shunned[1:]
	}
	f.spare = append(ok, shunned...)
}

func (f *fetch) activate(p wire.PeerID, now time.Time) {
	n := f.x.in.of(p2p.FromWire(p))
	if !f.sched.addSource(p, f.x.rateOf(p), n.Load(), now) {
		return
	}
	f.tried[p] = true
	f.counters[p] = n
	f.link(p)
}

// search looks for more providers of the root.
func (f *fetch) search(now time.Time) {
	f.looking, f.searched = true, now
	f.searches++
	f.wg.Go(func() {
		ctx, cancel := context.WithTimeout(f.ctx, searchTime)
		defer cancel()
		ps, err := f.x.find(ctx, f.root, maxSources)
		f.post(event{kind: evFound, found: ps, search: true, err: err})
	})
}

// outlook looks for more providers when those we have will not do, and from
// time to time. It gives up when a search brought nothing new and all that can
// be had is there.
func (f *fetch) outlook(now time.Time) error {
	c, some, all := f.sched.hopeless(now)
	recent := f.x.find == nil || f.searches > 0 && now.Sub(f.searched) < searchAgain
	switch {
	case f.looking:
	case some && len(f.spare) > 0 && f.width < maxSources: // the next in turn
		f.width, f.widened = f.width+1, now
		f.topUp(now)
	case some && len(f.spare) > 0: // make room for one that was not asked yet
		for _, x := range f.sched.order {
			if x.state == ready && len(x.asks) == 0 {
				f.sched.drop(x.id, gone)
				f.unlink(x.id)
				break
			}
		}
	case some && !recent:
		f.search(now)
	case all && f.unsaved == 0:
		return fmt.Errorf("%w: %s (%d peers asked, %d of them not reached)", ErrUnavailable, c, len(f.tried), f.failed)
	case f.x.find != nil && now.Sub(f.searched) >= searchAgain:
		f.search(now)
	}
	return nil
}

package block

import (
	"fmt"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p/p2ptest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// line is a provider in a model of the network: it sends what it was asked
// for, one block after the other, at a fixed rate.
type line struct {
	rate  float64 // bytes/s
	rtt   time.Duration
	dies  time.Duration // stops answering then; 0 never
	lacks func(i int) bool

	queue []sent
	free  time.Time // when the line has sent all so far
	bytes float64
}

type sent struct {
	c          wire.CID
	size       int64
	begin, end time.Time
}

// model runs a sched against lines until all blocks are there, in steps of
// 10 ms, and returns the time it took and the bytes that came in vain.
func model(t *testing.T, blocks []int64, lines []*line) (took time.Duration, wasted int64) {
	t.Helper()
	t0 := time.Unix(1_000_000, 0)
	now := t0
	s := newSched()
	sizes, index := map[wire.CID]int64{}, map[wire.CID]int{}
	for i, n := range blocks {
		c := wire.SumCID(wire.CodecRaw, fmt.Append(nil, i))
		sizes[c], index[c] = n, i
		s.add(c, n)
	}
	byPeer := map[wire.PeerID]*line{}
	for i, l := range lines {
		p := p2ptest.Key(i).Peer()
		byPeer[p] = l
		s.addSource(p, 0, 0, now)
		s.setReady(p, 0, now)
		s.peers[p].rtt = l.rtt
		l.free = now
	}
	obey := func(orders []order) {
		for _, o := range orders {
			l := byPeer[o.to]
			for _, c := range o.ask {
				if l.lacks != nil && l.lacks(index[c]) {
					s.lacks(o.to, c, now) // a round trip too soon: the model is kind
					continue
				}
				begin := now.Add(l.rtt)
				if l.free.After(begin) {
					begin = l.free
				}
				l.free = begin.Add(time.Duration(float64(sizes[c]) / l.rate * float64(time.Second)))
				l.queue = append(l.queue, sent{c, sizes[c], begin, l.free})
			}
			for _, c := range o.cancel {
				for i, q := range l.queue {
					if q.c == c && q.begin.After(now) {
						l.queue = append(l.queue[:i:i], l.queue[i+1:]...)
						break
					}
				}
			}
		}
	}
	for len(s.wants) > 0 {
		if now = now.Add(10 * time.Millisecond); now.Sub(t0) > 10*time.Minute {
			t.Fatalf("%d blocks are still wanted after %v", len(s.wants), now.Sub(t0))
		}
		for i := range lines {
			p := p2ptest.Key(i).Peer()
			l := byPeer[p]
			if l.dies > 0 && now.Sub(t0) >= l.dies {
				continue
			}
			if len(l.queue) > 0 && now.After(l.queue[0].begin) {
				l.bytes += l.rate * 0.01
			}
			s.progress(s.peers[p], uint64(l.bytes), now)
			for len(l.queue) > 0 && !l.queue[0].end.After(now) {
				q := l.queue[0]
				l.queue = l.queue[1:]
				wanted, cancels := s.received(p, q.c, q.size, now)
				if !wanted {
					wasted += q.size
				}
				obey(cancels)
			}
		}
		cancels, _ := s.stalls(now)
		obey(cancels)
		orders, _ := s.next(now, 1<<40)
		obey(orders)
		check(t, s)
	}
	return now.Sub(t0), wasted
}

// check holds the schedule's books to their invariants.
func check(t *testing.T, s *sched) {
	t.Helper()
	var queued int64
	for i, w := range s.queue {
		queued += w.size
		if !w.queued || s.wants[w.cid] != w || len(w.asks) > 0 {
			t.Fatalf("block %d is in the queue and should not be", w.seq)
		}
		if i > 0 && s.queue[i-1].seq >= w.seq {
			t.Fatal("the queue is out of order")
		}
	}
	if queued != s.bytes {
		t.Fatalf("%d bytes are queued, the books say %d", queued, s.bytes)
	}
	inFlight := 0
	for _, w := range s.wants {
		inFlight += len(w.asks)
		if !w.queued && len(w.asks) == 0 {
			t.Fatalf("block %d is neither queued nor in flight", w.seq)
		}
	}
	for _, x := range s.order {
		var n int64
		for _, a := range x.asks {
			n += a.w.size
		}
		inFlight -= len(x.asks)
		if n != x.bytes || len(x.asks) > 0 && x.state != ready {
			t.Fatalf("%s: %d bytes in flight, the books say %d", x.id.Short(), n, x.bytes)
		}
	}
	if inFlight != 0 {
		t.Fatal("requests of blocks and of providers disagree")
	}
}

func evenBlocks(n int, size int64) []int64 {
	b := make([]int64, n)
	for i := range b {
		b[i] = size
	}
	return b
}

func TestSchedule(t *testing.T) {
	const mib = 1 << 20
	rtt := 100 * time.Millisecond
	for name, c := range map[string]struct {
		blocks []int64
		lines  []*line
		most   float64 // times the ideal
		wasted int64
	}{
		"one":                {evenBlocks(64, mib), []*line{{rate: 2.5e6, rtt: rtt}}, 1.05, 0},
		"five alike":         {evenBlocks(128, mib), []*line{{rate: 2.5e6, rtt: rtt}, {rate: 2.5e6, rtt: rtt}, {rate: 2.5e6, rtt: rtt}, {rate: 2.5e6, rtt: rtt}, {rate: 2.5e6, rtt: rtt}}, 1.1, 0},
		"fast and slow":      {evenBlocks(64, mib), []*line{{rate: 10e6, rtt: rtt}, {rate: 0.1e6, rtt: rtt}}, 1.4, 2 * mib},
		"a crawler":          {evenBlocks(32, mib), []*line{{rate: 10e6, rtt: rtt}, {rate: 10_000, rtt: rtt}}, 1.5, 0},
		"small blocks":       {evenBlocks(1000, 10_000), []*line{{rate: 2.5e6, rtt: rtt}, {rate: 2.5e6, rtt: rtt}}, 1.3, 0},
		"local network":      {evenBlocks(256, mib), []*line{{rate: 100e6, rtt: time.Millisecond}, {rate: 100e6, rtt: time.Millisecond}}, 1.3, 4 * mib},
		"satellite":          {evenBlocks(64, mib), []*line{{rate: 10e6, rtt: 700 * time.Millisecond}}, 1.3, 0},
		"one dies":           {evenBlocks(64, mib), []*line{{rate: 5e6, rtt: rtt}, {rate: 5e6, rtt: rtt, dies: time.Second}}, 2.2, 2 * mib},
		"one lacks half":     {evenBlocks(64, mib), []*line{{rate: 2.5e6, rtt: rtt}, {rate: 2.5e6, rtt: rtt, lacks: func(i int) bool { return i%2 == 0 }}}, 1.3, mib},
		"one block, one bad": {evenBlocks(1, mib), []*line{{rate: 1, rtt: rtt, dies: time.Nanosecond}, {rate: 5e6, rtt: rtt}}, 40, 0},
	} {
		t.Run(name, func(t *testing.T) {
			rate, sum := 0.0, 0.0
			for _, l := range c.lines {
				rate += l.rate
			}
			for _, b := range c.blocks {
				sum += float64(b)
			}
			took, wasted := model(t, c.blocks, c.lines)
			ideal := sum / rate
			t.Logf("%.2f s, ideally %.2f; %d KiB in vain", took.Seconds(), ideal, wasted>>10)
			if took.Seconds() > ideal*c.most+0.5 || wasted > c.wasted {
				t.Errorf("took %.2f of the ideal %.2f s, %d bytes in vain", took.Seconds(), ideal, wasted)
			}
		})
	}
}

// An answer that is lost on its way (a slow line, whose sender gave it up) is asked for
// again, although other transfers keep bytes coming from the same provider.
func TestLostAnswer(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := newSched()
	c := wire.SumCID(wire.CodecRaw, []byte("lost"))
	s.add(c, 40_000)
	a, b := p2ptest.Key(0).Peer(), p2ptest.Key(1).Peer()
	total := uint64(0)
	for _, p := range []wire.PeerID{a, b} {
		s.addSource(p, 0, 0, now)
		s.setReady(p, 0, now)
	}
	asked, cancelled := 0, 0
	for begin := now; now.Sub(begin) < time.Minute; now = now.Add(100 * time.Millisecond) {
		total += 3200 // at 256 kbit/s
		for _, x := range s.order {
			s.progress(x, total, now)
		}
		cancels, _ := s.stalls(now)
		for _, o := range cancels {
			cancelled += len(o.cancel)
		}
		orders, _ := s.next(now, 1<<20)
		for _, o := range orders {
			asked += len(o.ask)
		}
	}
	if asked < 3 || cancelled == 0 {
		t.Errorf("in a minute asked for %d times, given up %d times", asked, cancelled)
	}
	// But one that is merely slow is waited for: bytes come, and no more than it takes.
	s = newSched()
	s.add(c, 1<<20)
	s.addSource(a, 0, 0, now)
	s.setReady(a, 0, now)
	total = 0
	for begin := now; now.Sub(begin) < time.Minute; now = now.Add(100 * time.Millisecond) {
		total += 3200
		s.progress(s.order[0], total, now)
		if cancels, _ := s.stalls(now); len(cancels) > 0 {
			t.Fatalf("a slow answer was given up after %v", now.Sub(begin))
		}
		s.next(now, 1<<20)
	}
}

package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Random returns a universe of a few peers and the faults that the seed
// decides. Fewer than a third of the weight lies or keeps silent on purpose,
// except where peers go for good and finality must come back by the leak.
func Random(seed uint64) Config {
	d := &draw{r: rand.New(rand.NewPCG(seed, 0xfa017))}
	d.n = 3 + d.r.IntN(8)
	d.Config = Config{
		Seed: seed, Peers: d.n, Stop: uint64(8 + d.r.IntN(10)),
		Latency:  time.Duration(20+d.r.IntN(400)) * time.Millisecond,
		MinPeers: d.n/2 + 1,
	}
	if d.r.IntN(6) == 0 {
		d.Observers = 1
		d.Peers++
	}
	if d.r.IntN(2) == 0 {
		d.Loss = d.r.Float64() * 0.05
	}
	if d.r.IntN(2) == 0 {
		d.Twice = d.r.Float64() * 0.2
	}
	if d.r.IntN(2) == 0 {
		d.Fetch = d.r.Float64() * 0.2
	}
	if d.r.IntN(8) == 0 {
		d.Latency *= 6
	}
	d.begin = 3 * time.Minute // the run has begun, and something is final
	switch d.r.IntN(8) {
	case 0:
		d.departures()
	case 1:
		d.crowd()
	case 2:
		d.begin = 0
		d.mixed(1 + d.r.IntN(3))
	default:
		d.liars()
		d.mixed(d.r.IntN(6))
	}
	if d.Leak == 0 && d.n >= 5 && seed%2 == 1 {
		d.audits()
	}
	if d.Leak == 0 && seed%3 == 2 {
		d.stakes(rand.New(rand.NewPCG(seed, 0x57a4e)))
	}
	if d.Leak == 0 {
		// Two sides of a partition that lasts long enough both become final: the
		// leak is then to blame. It must stay out of what the sum of these can last, but come
		// in the end, since crashes can leave liars with a third of the voters.
		apart := time.Duration(0)
		for _, f := range d.Faults {
			if f.Kind == Partition || f.Kind == Scatter {
				apart += f.Until - f.At
			}
		}
		d.Leak = 40 + uint64(apart/(15*time.Second))
	}
	return d.Config
}

// draw is a universe being drawn.
type draw struct {
	Config
	r     *rand.Rand
	n     int
	begin time.Duration
	good  []int // who neither lies nor keeps silent on purpose
}

func (d *draw) moment() time.Duration {
	length := int64(d.Stop) * int64(25*time.Second)
	return d.begin + time.Duration(d.r.Int64N(length))
}

// spell is a time of lo to hi seconds.
func (d *draw) spell(lo, hi int) time.Duration {
	return time.Duration(lo+d.r.IntN(hi-lo)) * time.Second
}

func (d *draw) fault(f Fault) { d.Faults = append(d.Faults, f) }

func (d *draw) point() int { return 1 + d.r.IntN(int(crashPoints)-1) }

// liars makes fewer than a third of the peers work against the others.
func (d *draw) liars() {
	perm := d.r.Perm(d.n)
	bad := d.r.IntN((d.n-1)/3 + 1)
	for _, p := range perm[:bad] {
		kind := []Kind{Mute, Withhold, Equivocate, Equivocate}[d.r.IntN(4)]
		d.fault(Fault{Kind: kind, At: d.moment(), Peers: []int{p}})
	}
	d.good = perm[bad:]
}

// mixed adds faults of all kinds that pass.
func (d *draw) mixed(count int) {
	if d.good == nil {
		d.good = d.r.Perm(d.n)
	}
	for range count {
		at := d.moment()
		who := []int{d.good[d.r.IntN(len(d.good))]}
		switch d.r.IntN(9) {
		case 0, 1:
			d.fault(Fault{Kind: Crash, At: at, Until: at + d.spell(1, 180), Peers: who, Point: d.point()})
		case 2:
			some := d.r.Perm(d.Peers)[:1+d.r.IntN(d.n-1)]
			d.fault(Fault{Kind: Partition, At: at, Until: at + d.spell(10, 400), Peers: some})
		case 3:
			d.fault(Fault{Kind: Straggle, At: at, Until: at + d.spell(30, 300), Peers: who, Factor: 2 + 6*d.r.Float64()})
		case 4:
			d.fault(Fault{Kind: Lossy, At: at, Until: at + d.spell(5, 60), Factor: 0.1 + 0.4*d.r.Float64()})
		case 5: // many at once
			up := at + d.spell(5, 120)
			for _, p := range d.good[:1+d.r.IntN(len(d.good))] {
				d.fault(Fault{Kind: Crash, At: at, Until: up + d.spell(1, 20), Peers: []int{p}, Point: d.point()})
			}
		case 6:
			d.fault(Fault{Kind: Mute, At: at, Until: at + d.spell(20, 200), Peers: who})
		case 7:
			d.fault(Fault{Kind: Deaf, At: at, Until: at + d.spell(20, 200), Peers: who})
		case 8:
			d.fault(Fault{Kind: Scatter, At: at, Until: at + d.spell(5, 200)})
		}
	}
	if d.r.IntN(2) == 0 {
		d.fault(Fault{Kind: Enter, At: d.moment(), Peers: []int{d.Peers}})
	}
}

// audits makes some of the peers validators, and some of both roles cheats: up to
// a third of the trainers, and of the validators; or, with nothing else amiss, so many
// validators that honest ones can convict nobody, and lying ones cannot either.
func (d *draw) audits() {
	d.Validators = min(2+d.r.IntN(4), d.n-2)
	d.Stop = uint64(14 + d.r.IntN(8))
	d.AuditRate = uint64(1_000 + 500*d.r.IntN(5)) // more would be more than they can replay
	quiet := d.r.IntN(2) == 0
	if quiet {
		d.Faults = nil
	}
	trainers := d.n - d.Validators
	d.MinPeers = trainers/2 + 1
	start := func() time.Duration { return d.begin + d.spell(0, 120) }
	for _, p := range d.r.Perm(trainers)[:d.r.IntN(max(1, trainers/3)+1)] {
		d.fault(Fault{Kind: Cheat, At: start(), Peers: []int{p}, Point: 1 + d.r.IntN(int(unserved))})
	}
	liars := d.r.IntN(d.Validators/3 + 1)
	if quiet && d.r.IntN(2) == 0 {
		liars = (2*d.Validators+2)/3 - 1
	}
	how := 1 + d.r.IntN(int(lies)-1)
	for _, v := range d.r.Perm(d.Validators)[:liars] {
		if d.r.IntN(3) == 0 {
			how = 1 + d.r.IntN(int(lies)-1)
		}
		d.fault(Fault{Kind: Lie, At: start(), Peers: []int{trainers + v}, Point: how})
	}
	if d.r.IntN(2) == 0 { // long enough for who keeps silent to be removed
		d.Window = uint64(4 + d.r.IntN(3))
		d.Stop += 8
	}
}

// stakes lets some lose their stake, for good or for a while, others find the honest
// without any, and ledgers be away. The others of the faults stay fewer than a third of
// those who are left, and lying validators fewer than two thirds.
func (d *draw) stakes(r *rand.Rand) {
	bad, lying := map[int]bool{}, map[int]bool{}
	for _, f := range d.Faults {
		switch f.Kind {
		case Withhold, Equivocate, Cheat, Lie, Mute:
			for _, p := range f.Peers {
				bad[p] = bad[p] || f.Kind != Mute || f.Until == 0
				lying[p] = lying[p] || f.Kind == Lie
			}
		}
	}
	at := func() time.Duration { return d.begin + time.Duration(r.Int64N(int64(d.Stop)*int64(20*time.Second))) }
	trainers, left, validators := d.n-d.Validators, d.n, d.Validators
	gone := map[int]bool{}
	for _, p := range r.Perm(d.n)[:1+r.IntN(3)] {
		evil, liars := 0, 0
		for q := range d.n {
			if q != p && !gone[q] && bad[q] {
				evil++
			}
			if q != p && !gone[q] && lying[q] {
				liars++
			}
		}
		v := validators
		if p >= trainers {
			v--
		}
		if 3*evil >= left-1 || d.Validators > 0 && (v < 2 || 3*liars >= 2*v) {
			continue
		}
		gone[p], left, validators = true, left-1, v
		f := Fault{Kind: Unstake, At: at(), Peers: []int{p}}
		if r.IntN(2) == 0 {
			f.Until = f.At + time.Duration(20+r.IntN(200))*time.Second
		}
		d.fault(f)
	}
	if r.IntN(2) == 0 {
		f := Fault{Kind: Away, At: at(), Peers: r.Perm(d.n)[:r.IntN(d.n)]}
		f.Until = f.At + time.Duration(10+r.IntN(300))*time.Second
		d.fault(f)
	}
	for _, p := range r.Perm(d.n)[:r.IntN((left-1)/3+1)] {
		if !gone[p] {
			d.fault(Fault{Kind: Slander, At: at(), Peers: []int{p}})
		}
	}
}

// departures lets peers go for good, up to all but one, at once or one by one.
func (d *draw) departures() {
	d.Leak = uint64(3 + d.r.IntN(4))
	perm := d.r.Perm(d.n)
	together := d.moment()
	for _, p := range perm[:d.r.IntN(d.n)] {
		at := together
		if d.r.IntN(3) == 0 {
			at = d.moment()
		}
		if d.r.IntN(3) == 0 {
			d.fault(Fault{Kind: Leave, At: at, Peers: []int{p}})
		} else {
			d.fault(Fault{Kind: Crash, At: at, Peers: []int{p}, Point: int(crashNow)})
		}
	}
	if d.r.IntN(2) == 0 {
		d.fault(Fault{Kind: Enter, At: d.moment(), Peers: []int{d.Peers}})
	}
}

// crowd lets many newcomers in, together or spread, and some leave again.
func (d *draw) crowd() {
	together := d.moment()
	for i := range 1 + d.r.IntN(2*d.n) {
		at := together
		if d.r.IntN(2) == 0 {
			at = d.moment()
		}
		d.fault(Fault{Kind: Enter, At: at, Peers: []int{d.Peers + i}})
		if d.r.IntN(4) == 0 {
			d.fault(Fault{Kind: Leave, At: at + d.spell(1, 200), Peers: []int{d.Peers + i}})
		}
	}
	if d.r.IntN(2) == 0 {
		who := []int{d.r.IntN(d.n)}
		at := d.moment()
		d.fault(Fault{Kind: Crash, At: at, Until: at + d.spell(1, 180), Peers: who, Point: d.point()})
	}
}

// Shrink drops faults, one after another, for as long as the run still fails.
func Shrink(c Config) (Config, error) {
	_, err := Run(c)
	if err == nil {
		return c, nil
	}
	for again := true; again; {
		again = false
		for i := range c.Faults {
			less := c
			less.Faults = slices.Delete(slices.Clone(c.Faults), i, i+1)
			if _, e := Run(less); e != nil {
				c, err, again = less, e, true
				break
			}
		}
	}
	return c, err
}

// String describes the universe so that it can be run again.
func (c Config) String() string {
	var b strings.Builder
	if c.AuditRate > 0 {
		fmt.Fprintf(&b, "%d validators, each audits %.0f %%, window %d\n", c.Validators, float64(c.AuditRate)/100, c.Window)
	}
	fmt.Fprintf(&b, "seed %d: %d peers (%d to begin), %d rounds, latency %v, loss %.3f, twice %.3f, failing fetches %.3f, leak after %d\n",
		c.Seed, c.Peers, c.MinPeers, c.Stop, c.Latency, c.Loss, c.Twice, c.Fetch, c.Leak)
	for _, f := range c.Faults {
		fmt.Fprintf(&b, "  %v\n", f)
	}
	return b.String()
}

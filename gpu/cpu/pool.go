package cpu

import (
	"sync"
	"sync/atomic"
)

// A job is split into tasks that may run in any order, each once, on any
// worker.
type job interface {
	run(w *worker, task int)
}

// A pool runs jobs on persistent goroutines. The caller works too, and does
// not wait for a helper that has not started: on a busy machine a job costs no
// more than it would alone. Who waits looks on for some 50 microseconds before it
// sleeps, since a step is some hundred jobs one after another, and waking a
// goroutine takes as long as a small one.
//
// Tasks are shared out evenly and in order before anybody begins, and who is done with its own
// takes others': equal jobs find their rows in the caches of the core that wrote them, as
// long as nobody is late.
//
// gate says who may touch the job: bit 31 is set while it is open, bit 30 while the
// caller sleeps; of the others the upper half says how many helpers may be inside while it is open, the
// lower counts them. A helper enters only through an open gate, and one too many for a small job
// does not; the caller closes it when the tasks are out and waits for those inside.
type pool struct {
	workers []*worker
	wake    chan struct{}
	left    chan struct{} // the last helper to leave says so to a caller that sleeps
	gate    atomic.Uint32
	awake   atomic.Int32  // helpers that do not sleep
	jobs    atomic.Uint32 // counts them
	job     job
	shares  []share // a worker's each

	helpers sync.WaitGroup
	once    sync.Once
}

// A share is tasks from next to end, alone in what caches exchange.
type share struct {
	next atomic.Int64
	end  int64
	_    [112]byte
}

const (
	gateOpen  = 1 << 31
	gateSleep = 1 << 30
	gateBits  = 15
	gateCount = 1<<gateBits - 1
	// looks are before going to sleep: some 50 microseconds. A virtual machine's core takes as long to wake
	// up, and who looks for less than that after it was woken for a small job misses the next one, too.
	looks = 1 << 16
)

func newPool(workers []*worker) *pool {
	helpers := len(workers) - 1
	p := &pool{workers: workers, wake: make(chan struct{}, helpers), left: make(chan struct{}, 1), shares: make([]share, len(workers))}
	p.awake.Store(int32(helpers))
	for _, w := range workers[1:] {
		p.helpers.Go(func() { p.help(w) })
	}
	return p
}

// close ends the helpers and waits for them.
func (p *pool) close() {
	p.once.Do(func() { close(p.wake) })
	p.helpers.Wait()
}

func (p *pool) help(w *worker) {
	for seen := p.jobs.Load(); ; {
		for i := 0; i < looks && p.jobs.Load() == seen; i++ {
		}
		if p.jobs.Load() == seen {
			p.awake.Add(-1)
			if p.jobs.Load() == seen { // what came meanwhile may have counted on this helper
				if _, open := <-p.wake; !open {
					return
				}
			}
			p.awake.Add(1)
		}
		seen = p.jobs.Load()
		if !p.enter() {
			continue
		}
		p.work(w)
		if p.gate.Add(^uint32(0)) == gateSleep {
			p.left <- struct{}{}
		}
	}
}

func (p *pool) enter() bool {
	for {
		g := p.gate.Load()
		if g&gateOpen == 0 || g&gateCount >= g>>gateBits&gateCount {
			return false
		}
		if p.gate.CompareAndSwap(g, g+1) {
			return true
		}
	}
}

func (p *pool) work(w *worker) {
	for i := range p.shares {
		s := &p.shares[(w.id+i)%len(p.shares)]
		for s.next.Load() < s.end {
			if task := s.next.Add(1) - 1; task < s.end {
				p.job.run(w, int(task))
			}
		}
	}
}

// run does the tasks of j and returns when all are done. cost is about how
// many vector operations they take together: too few are not worth waking
// anybody, and still fewer not even who is awake.
func (p *pool) run(j job, tasks, cost int) {
	const (
		waking  = 64 << 10
		handing = 4 << 10
	)
	most, awake := min(len(p.workers)-1, tasks-1), int(p.awake.Load())
	helpers := min(most, max(cost/waking, min(awake, cost/handing)))
	if helpers <= 0 {
		for i := range tasks {
			j.run(p.workers[0], i)
		}
		return
	}
	p.job = j
	for i := range p.shares {
		p.shares[i].next.Store(int64(tasks * i / len(p.shares)))
		p.shares[i].end = int64(tasks * (i + 1) / len(p.shares))
	}
	p.gate.Store(gateOpen | uint32(helpers)<<gateBits)
	p.jobs.Add(1)
	for range helpers - int(p.awake.Load()) {
		select {
		case p.wake <- struct{}{}:
		default: // enough are being woken
		}
	}
	p.work(p.workers[0])
	for g := p.gate.Load(); !p.gate.CompareAndSwap(g, g&gateCount); g = p.gate.Load() {
	}
	for i := 0; i < looks && p.gate.Load() != 0; i++ {
	}
	for g := p.gate.Load(); g != 0; g = p.gate.Load() {
		if p.gate.CompareAndSwap(g, g|gateSleep) {
			<-p.left
			return
		}
	}
}

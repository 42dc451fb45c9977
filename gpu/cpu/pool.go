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
// more than it would alone. Nothing spins.
//
// gate says who may touch the job: bit 31 is set while it is open, the lower
// bits count the helpers inside. A helper enters only through an open gate;
// the caller closes it when the tasks are out and waits for those inside.
type pool struct {
	workers []*worker
	wake    chan struct{}
	left    chan struct{} // the last helper to leave a closed gate says so
	gate    atomic.Uint32
	next    atomic.Int64
	job     job
	tasks   int64

	helpers sync.WaitGroup
	once    sync.Once
}

const gateOpen = 1 << 31

func newPool(workers []*worker) *pool {
	helpers := len(workers) - 1
	p := &pool{workers: workers, wake: make(chan struct{}, helpers), left: make(chan struct{}, 1)}
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
	for range p.wake {
		if !p.enter() {
			continue
		}
		p.work(w)
		if p.gate.Add(^uint32(0)) == 0 {
			p.left <- struct{}{}
		}
	}
}

func (p *pool) enter() bool {
	for {
		g := p.gate.Load()
		if g&gateOpen == 0 {
			return false
		}
		if p.gate.CompareAndSwap(g, g+1) {
			return true
		}
	}
}

func (p *pool) work(w *worker) {
	for {
		i := p.next.Add(1) - 1
		if i >= p.tasks {
			return
		}
		p.job.run(w, int(i))
	}
}

// run does the tasks of j and returns when all are done. cost is about how
// many vector operations they take together: too few are not worth waking
// anybody.
func (p *pool) run(j job, tasks, cost int) {
	const worthwhile = 64 << 10
	helpers := min(len(p.workers)-1, tasks-1, cost/worthwhile)
	if helpers <= 0 {
		for i := range tasks {
			j.run(p.workers[0], i)
		}
		return
	}
	p.job, p.tasks = j, int64(tasks)
	p.next.Store(0)
	p.gate.Store(gateOpen)
	for range helpers {
		select {
		case p.wake <- struct{}{}:
		default: // enough are being woken
		}
	}
	p.work(p.workers[0])
	for {
		g := p.gate.Load()
		if !p.gate.CompareAndSwap(g, g&^gateOpen) {
			continue
		}
		if g != gateOpen {
			<-p.left
		}
		return
	}
}

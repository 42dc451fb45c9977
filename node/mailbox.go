package node

import (
	"context"
	"slices"
	"time"

	"github.com/shoalnet/shoal/diloco"
)

// post puts an order into the mailbox. A Train makes earlier ones that nobody
// has begun, and their Cuts, pointless.
func (t *trainer) post(o order) {
	t.mu.Lock()
	if o.train != nil {
		kept := t.orders[:0]
		begun := true // Cuts before the first queued Train are for the phase under way
		for _, q := range t.orders {
			if q.train != nil {
				begun = false
				continue
			}
			if q.cut != nil && !begun {
				continue
			}
			kept = append(kept, q)
		}
		t.orders = kept
	}
	t.orders = append(t.orders, o)
	t.mu.Unlock()
	t.ring()
}

// evaluate asks for a validation loss, in the trainer's idle time. A later
// request replaces one that was not begun, unless it must be; its done is then
// never called.
func (t *trainer) evaluate(e *evalOrder) {
	t.mu.Lock()
	t.evals = append(slices.DeleteFunc(t.evals, func(q *evalOrder) bool { return !q.must }), e)
	t.mu.Unlock()
	t.ring()
}

func (t *trainer) ring() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *trainer) nextEval() *evalOrder {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.evals) == 0 {
		return nil
	}
	e := t.evals[0]
	t.evals = t.evals[1:]
	return e
}

// nextJob settles what is before the next Train and returns that, or nil.
func (t *trainer) nextJob(ctx context.Context) *diloco.Train {
	for {
		t.mu.Lock()
		if len(t.orders) == 0 {
			t.mu.Unlock()
			return nil
		}
		o := t.orders[0]
		t.orders = t.orders[1:]
		t.mu.Unlock()
		if o.train != nil {
			return o.train
		}
		t.settle(ctx, o) // a Cut here is for a phase that is over
	}
}

// settle notes the fate of payloads.
func (t *trainer) settle(ctx context.Context, o order) {
	switch {
	case o.signed != nil:
		t.debts.signed(o.signed.block, o.signed.id)
	case o.included.Defined():
		t.debts.included(o.included)
		t.meter.setContributed(t.debts.counted)
	case o.expired.Defined():
		if err := t.debts.expired(ctx, o.expired); err != nil {
			t.log.Warn("take back an expired payload", "err", err)
		}
	}
}

// during looks at the mailbox between two inner steps. It reports that the
// phase is to end, or errReplaced; job follows a Train that goes on with it.
func (t *trainer) during(ctx context.Context, job *diloco.Train) (cut bool, err error) {
	for {
		t.mu.Lock()
		if len(t.orders) == 0 {
			t.mu.Unlock()
			return false, nil
		}
		o := t.orders[0]
		if n := o.train; n != nil {
			if n.Round != job.Round || n.State != job.State || t.trace != nil && !seatOf(n).same(seatOf(job)) {
				t.mu.Unlock()
				return false, errReplaced // and leave it for nextJob
			}
			*job = *n
		}
		t.orders = t.orders[1:]
		t.mu.Unlock()
		if o.cut != nil {
			if o.cut.Head == job.Head {
				return true, nil
			}
			continue
		}
		t.settle(ctx, o)
	}
}

// sleep waits before another try. It ends early where the round ends (cut),
// another comes, or ctx ends.
func (t *trainer) sleep(ctx context.Context, d time.Duration, job *diloco.Train) (again, cut bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, false
		case <-timer.C:
			return true, false
		case <-t.wake:
			cut, err := t.during(ctx, job)
			if cut || err != nil {
				t.ring() // there may be more in the mailbox
				return false, cut
			}
		}
	}
}

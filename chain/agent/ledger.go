package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// ask reads what the ledger says: time, run, events, final epochs, and who of
// those that Standing was asked about has stake.
func (a *Agent) ask(ctx context.Context) (err error) {
	l := a.opt.Ledger
	if a.now, err = l.Now(ctx); err != nil {
		return fmt.Errorf("the ledger is away: %w", err)
	}
	if a.run, err = l.Run(ctx, a.opt.Params.ID); err != nil {
		return fmt.Errorf("the run on the ledger: %w", err)
	}
	if a.params, err = l.Params(ctx); err != nil {
		return fmt.Errorf("the ledger's parameters: %w", err)
	}
	a.mu.Lock()
	a.polled, a.polledAt, a.polledRun = a.opt.Clock(), a.now, a.run
	a.mu.Unlock()
	if err := a.lookUp(ctx); err != nil { // before what may have to wait for others
		return err
	}
	if err := a.read(ctx); err != nil {
		return err
	}
	return a.workOut(ctx)
}

// read takes in the events since the last time.
func (a *Agent) read(ctx context.Context) error {
	es, c, err := a.opt.Ledger.Events(ctx, a.st.Cursor)
	if errors.Is(err, chain.ErrRewritten) {
		return a.rewritten(ctx)
	}
	if err != nil {
		return fmt.Errorf("the ledger's events: %w", err)
	}
	changed, key := false, ""
	for i := range es {
		switch e := &es[i]; {
		case e.Run == a.opt.Params.ID:
			a.event(e)
			changed = true
		case e.Name == "Equivocated": // of whatever run: what is slashed for it follows at once
			key = e.Key.String()
			a.st.Equivocated[key] = slashing{e.Account, true, num(a.st.Equivocated[key].Amount)}
			changed = true
			continue
		case e.Name == "Slashed" && key != "" && a.st.Equivocated[key].Account == e.Account:
			x := a.st.Equivocated[key]
			x.Amount = add(x.Amount, e.Amount)
			a.st.Equivocated[key] = x
			continue
		}
		key = ""
	}
	old := a.st.Cursor
	a.st.Cursor = c
	// A cursor alone is not worth a write at every poll.
	if changed || c.Block > old.Block+1000 {
		return a.save()
	}
	return nil
}

// rewritten begins with the ledger's events from the first. What was worked out stays, since
// it does not depend on the events' order but through the roots, which are compared; unless
// the ledger has lost an epoch that it had settled: that one has to be settled again, and
// what it needs is no longer here, but for the commits.
func (a *Agent) rewritten(ctx context.Context) error {
	f, err := a.opt.Ledger.Final(ctx, a.opt.Params.ID)
	if err != nil {
		return fmt.Errorf("final epoch: %w", err)
	}
	a.st.Cursor, a.st.Pool, a.st.Pools, a.st.Total, a.st.Proposed, a.st.Finals, a.st.Demands = chain.Cursor{}, chain.Int(0), nil, chain.Int(0), nil, nil, nil
	a.st.Slashed, a.st.Equivocated, a.tried = map[string]slashing{}, map[string]slashing{}, map[string]bool{}
	if f.Epoch < a.st.Final {
		a.opt.Log.Warn("the ledger was set back: its epochs are worked out again, from the first commit", "settled", a.st.Final, "now", f.Epoch)
		a.d, a.st.Closes, a.st.Final, a.st.Before = settle.New(a.opt.Params), nil, 0, nil
		a.next, a.opined, a.empty = nil, opined{}, map[uint64]bool{}
	}
	return a.save()
}

func (a *Agent) event(e *chain.Event) {
	switch e.Name {
	case "Funded":
		a.st.Pool = add(a.st.Pool, e.Amount)
		a.st.Pools = append(a.st.Pools, a.st.Pool)
	case "Proposed":
		a.st.Proposed = &proposed{Epoch: *e.Epoch, Serial: e.Serial, Proposer: e.Account, Pools: slices.Clone(a.pools())}
		a.st.Demands = nil
	case "Finalized":
		if p := a.st.Proposed; p != nil && p.Epoch.Number == e.Number && e.Number > a.st.Final {
			a.st.Finals = append(a.st.Finals, *p)
		}
		a.st.Pool = sub(a.st.Pool, sub(e.Amount, a.st.Total))
		a.st.Total, a.st.Pools, a.st.Proposed = e.Amount, []chain.Amount{a.st.Pool}, nil
	case "Rejected":
		a.st.Proposed = nil
	case "Demanded":
		a.st.Demands = append(a.st.Demands, demand{e.Side, e.Index})
	case "Answered":
		a.st.Demands = slices.DeleteFunc(a.st.Demands, func(d demand) bool { return d == demand{e.Side, e.Index} })
	case "ConvictionClosed":
		a.st.Slashed[e.Hash.String()] = slashing{e.Account, e.Guilty, e.Amount}
	}
}

// pools are those that the run may have had for the next epoch.
func (a *Agent) pools() []chain.Amount {
	if len(a.st.Pools) == 0 {
		return []chain.Amount{a.st.Pool}
	}
	return a.st.Pools
}

// words are the ledger's part of an epoch, which must be over there.
func (a *Agent) words(ctx context.Context, c *settle.Close) (settle.Words, error) {
	l := a.opt.Ledger
	w := settle.Words{Sponsor: a.run.Sponsor, Pool: a.run.Pool, Before: map[chain.Address]chain.Amount{}}
	var err error
	if w.Rate, err = l.RateAt(ctx, a.opt.Params.ID, c.Number); err != nil {
		return w, fmt.Errorf("rate of epoch %d: %w", c.Number, err)
	}
	for _, r := range a.st.Before {
		w.Before[r.Account] = r.Amount
	}
	begin, end := a.run.Span(c.Number)
	keys := map[chain.Address]chain.KeyInfo{}
	for i := range c.Works {
		k := c.Works[i].Entry.Receipt.Worker
		if _, ok := keys[k]; ok {
			continue
		}
		// A key that has served serves no earlier; one that is unknown may be registered any time.
		info, ok := a.keys[k]
		if !ok || info.Owner.IsZero() || info.Until == 0 {
			if info, err = l.Key(ctx, k); err != nil {
				return w, fmt.Errorf("key %s: %w", k, err)
			}
			a.keys[k] = info
		}
		keys[k] = info
	}
	w.Owner = func(k chain.Address) (chain.Address, bool) { return keys[k].Owner, keys[k].Served(begin, end) }
	return w, nil
}

// over reports whether what the ledger says of an epoch cannot change any more.
func (a *Agent) over(number uint64) bool {
	_, end := a.run.Span(number)
	return a.now >= end+a.opt.Margin
}

// A candidate is the next epoch to be settled.
type candidate struct {
	close   *settle.Close
	words   settle.Words
	outcome *settle.Outcome
	final   uint64 // the last epoch before it
}

// workOut computes what the ledger has finalized, and the next epoch.
func (a *Agent) workOut(ctx context.Context) error {
	if x := a.next; x != nil && x.final == a.st.Final && len(a.st.Finals) == 0 && num(x.words.Pool).Cmp(num(a.run.Pool)) == 0 {
		return nil // nothing else that it depends on can have changed
	}
	a.next, a.opined = nil, opined{}
	for len(a.st.Finals) > 0 {
		f := &a.st.Finals[0]
		if a.d.ClosedBelow() <= f.Epoch.Number && !a.d.Over() {
			return nil // the commits here are not as far
		}
		if err := a.finish(ctx, f); err != nil {
			return err
		}
	}
	for i := range a.st.Closes {
		c := &a.st.Closes[i]
		if c.Number <= a.st.Final || a.empty[c.Number] {
			continue
		}
		if !a.over(c.Number) {
			return nil
		}
		w, err := a.words(ctx, c)
		if err != nil {
			return err
		}
		o, err := c.Outcome(a.opt.Params, w)
		if err != nil {
			return err
		}
		if o.Settled != nil {
			begin, _ := a.run.Span(c.Number)
			_, total, err := a.opt.Ledger.Weight(ctx, a.me, begin)
			if err != nil {
				return fmt.Errorf("stake when epoch %d began: %w", c.Number, err)
			}
			if num(total).Sign() > 0 {
				a.next = &candidate{c, w, o, a.st.Final}
				return nil
			}
			// Who proposes and who signs must have had stake then: waiting for that would end all payment.
			unpaid(o.Lines, fmt.Sprintf("never settled: no validator had stake when epoch %d began", c.Number))
		}
		// Nobody can be paid for it, ever: its keys, and its beginning, are what they were.
		if err := a.saveEpoch(&EpochFile{c.Number, nil, o.Lines}); err != nil {
			return err
		}
		a.empty[c.Number] = true
	}
	return nil
}

// unpaid says why lines that would have been paid are not.
func unpaid(lines []settle.Line, why string) {
	for i := range lines {
		if l := &lines[i]; l.Why == "" || l.Amount.Sign() > 0 {
			l.Amount, l.Why = chain.Int(0), why
		}
	}
}

// finish takes over an epoch that the ledger finalized: what everybody earned,
// and why those before it that were passed over earned nothing.
func (a *Agent) finish(ctx context.Context, f *proposed) error {
	n := f.Epoch.Number
	for i := range a.st.Closes {
		c := &a.st.Closes[i]
		if c.Number > n || c.Number <= a.st.Final || a.empty[c.Number] {
			continue
		}
		w, err := a.words(ctx, c)
		if err != nil {
			return err
		}
		if c.Number == n {
			o, err := c.Match(a.opt.Params, w, f.Pools, &f.Epoch)
			if err != nil {
				return err
			}
			if o != nil {
				if err := a.saveEpoch(&EpochFile{n, o.Settled, o.Lines}); err != nil {
					return err
				}
				return a.settled(n, o.Settled.Rewards)
			}
			continue
		}
		o, err := c.Outcome(a.opt.Params, w)
		if err != nil {
			return err
		}
		unpaid(o.Lines, fmt.Sprintf("never settled: the ledger went on to epoch %d", n))
		if err := a.saveEpoch(&EpochFile{c.Number, nil, o.Lines}); err != nil {
			return err
		}
	}
	return a.adopt(ctx, f)
}

// adopt goes on from an epoch that came out otherwise here: two thirds of the
// validators, or time, have made it final, and the next one builds on it.
func (a *Agent) adopt(ctx context.Context, f *proposed) error {
	x, err := a.leaves(ctx, f)
	if err != nil {
		return fmt.Errorf("epoch %d was finalized otherwise than it came out here, and its leaves cannot be had: %w", f.Epoch.Number, err)
	}
	a.opt.Log.Error("the ledger finalized an epoch that came out otherwise here", "epoch", f.Epoch.Number)
	if err := a.saveEpoch(&EpochFile{Number: f.Epoch.Number, Settled: x}); err != nil {
		return err
	}
	return a.settled(f.Epoch.Number, x.Rewards)
}

func (a *Agent) settled(n uint64, rewards []chain.Reward) error {
	a.st.Final, a.st.Before, a.st.Finals = n, rewards, a.st.Finals[1:]
	a.st.Closes = slices.DeleteFunc(a.st.Closes, func(c settle.Close) bool { return c.Number <= n })
	return a.save()
}

// A candidacy is what Standing is asked about.
type candidacy struct {
	peer      wire.PeerID
	validator bool
}

// A look is what the ledger has said of a candidacy.
type look struct {
	staked bool
	at     time.Time // zero: it has not been asked
	wanted time.Time // when Standing was asked last
}

// maxLooks bounds of whom Standing remembers anything; each is asked about again
// every freshLook polls, and what is twice as old convinces nobody that stake is gone.
const (
	maxLooks  = 2048
	freshLook = 4
)

// Standing says whether a peer has the stake that its role asks for on the ledger.
// Who is asked about for the first time is Unknown until the next poll. While the
// ledger is away who was Staked stays so, and nobody is Unstaked.
func (a *Agent) Standing(p wire.PeerID, validator bool) diloco.Standing {
	now := a.opt.Clock()
	a.mu.Lock()
	defer a.mu.Unlock()
	c := candidacy{p, validator}
	l := a.looks[c]
	if l == nil {
		if len(a.looks) >= maxLooks {
			delete(a.looks, a.leastWanted())
		}
		l = new(look)
		a.looks[c] = l
	}
	l.wanted = now
	switch {
	case l.staked:
		return diloco.Staked
	case !l.at.IsZero() && now.Sub(l.at) <= 2*freshLook*a.opt.Poll:
		return diloco.Unstaked
	}
	return diloco.Unknown
}

// leastWanted is whom Standing was asked about the longest ago. a.mu is held.
func (a *Agent) leastWanted() (least candidacy) {
	var at time.Time
	for c, l := range a.looks {
		if at.IsZero() || l.wanted.Before(at) {
			least, at = c, l.wanted
		}
	}
	return least
}

// lookUp refreshes Standing's answers, and sees whether this peer itself has what others ask of it.
func (a *Agent) lookUp(ctx context.Context) error {
	was := a.short
	a.short = ""
	if role, least := a.stakeAsked(a.opt.Validate); num(least).Sign() > 0 {
		ok, err := a.hasStake(ctx, candidacy{a.opt.Key.Peer(), a.opt.Validate})
		if err != nil {
			return err
		}
		if !ok {
			name := map[uint8]string{chain.Trainer: "trainer", chain.Validator: "validator"}[role]
			a.short = fmt.Sprintf("others keep this peer out of the roster: less than %s is staked behind its key: `shoal stake %[1]s --role %s`", chain.FormatAmount(least), name)
			if was == "" {
				a.opt.Log.Warn("too little is staked", "least", chain.FormatAmount(least), "role", name)
			}
		}
	}
	now := a.opt.Clock()
	var due []candidacy
	a.mu.Lock()
	for c, l := range a.looks {
		if l.at.IsZero() || now.Sub(l.at) >= freshLook*a.opt.Poll {
			due = append(due, c)
		}
	}
	a.mu.Unlock()
	for _, c := range due {
		ok, err := a.hasStake(ctx, c)
		if err != nil {
			return err
		}
		a.mu.Lock()
		if l := a.looks[c]; l != nil {
			l.staked, l.at = ok, now
		}
		a.mu.Unlock()
	}
	return nil
}

// hasStake asks the ledger whether enough is at stake behind a peer's key.
func (a *Agent) hasStake(ctx context.Context, c candidacy) (bool, error) {
	who, err := c.peer.Address()
	if err != nil {
		return false, nil // no account has such a key
	}
	k, err := a.opt.Ledger.Key(ctx, who)
	if err != nil {
		return false, fmt.Errorf("key of %s: %w", c.peer, err)
	}
	if k.Owner.IsZero() || k.Until != 0 {
		return false, nil
	}
	role, least := a.stakeAsked(c.validator)
	s, err := a.opt.Ledger.StakeOf(ctx, k.Owner, role)
	if err != nil {
		return false, fmt.Errorf("stake of %s: %w", k.Owner, err)
	}
	return num(s.Active).Sign() > 0 && num(s.Active).Cmp(num(least)) >= 0, nil
}

// stakeAsked is the least that somebody must have staked, and as what.
func (a *Agent) stakeAsked(validator bool) (role uint8, least chain.Amount) {
	if validator {
		return chain.Validator, a.opt.Minimum
	}
	return chain.Trainer, a.opt.MinTrainer
}

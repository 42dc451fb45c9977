// Package agent is one peer at the ledger of its run: what package settle derives
// from final commits becomes proposals, signatures, challenges and claims.
//
// Training never waits for it. It follows the final commits and asks the ledger
// now and then; while the ledger is away it keeps what is due and catches up.
// Nothing that it has done is remembered for its own sake: each step first asks
// the ledger what is there, so a kill -9 at any point costs nothing and no step
// happens twice.
//
// Every peer may run one: it then signs receipts (Sign) and knows what it has
// earned and why. A staked validator's agent also
//
//   - proposes the next epoch in its turn, with the leaves served in the swarm;
//   - recomputes the proposals of others, signs those that are right (wire.KindTally
//     on the settlement's topic) and finalizes with two thirds of the stake, or
//     once the challenge window is over;
//   - challenges those that are wrong: by a proof where one convicts, otherwise
//     before the committee of validators, where it votes by commit and reveal;
//   - signs and reports the convictions of final commits, and carries them out
//     after the time to appeal; but brings two messages that contradict each other
//     where they convict by themselves, and then signs nothing: the ledger would take
//     stake for either.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A Link is one final commit.
type Link struct {
	CID    wire.CID
	Commit *diloco.Commit
}

// Commits is this peer's archive of final commits.
type Commits interface {
	// After returns up to max final commits that follow after, oldest first;
	// genesis comes first where after is undefined. None: nothing is newer.
	After(ctx context.Context, after wire.CID, max int) ([]Link, error)
}

// A Topic is that of the run's settlement; Agent.Judge judges it.
type Topic interface {
	Publish(ctx context.Context, data []byte) error
	Next(ctx context.Context) (data []byte, from wire.PeerID, err error)
}

// Files are what peers publish beside the ledger: the leaves of an epoch.
type Files interface {
	PutFile(ctx context.Context, data []byte) (wire.CID, error)
	FetchFile(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64) ([]byte, error)
}

// Options is what an Agent is made of. Key, Ledger, Params, Commits and Dir must be set.
type Options struct {
	Key     *wire.Key // the peer's: it signs receipts, votes and transactions
	Ledger  chain.Ledger
	Params  settle.Params
	Commits Commits
	Dir     string // its own: state.json and epochs
	Topic   Topic  // nil: nothing is signed for others, and nothing heard
	Files   Files  // nil: leaves are neither published nor fetched

	// Evidence returns two messages by which a peer has contradicted itself, as far as
	// this peer has heard them; it may be nil.
	Evidence func(wire.PeerID) (diloco.Evidence, bool)

	Validate      bool         // act as a validator; otherwise it only follows
	Minimum       chain.Amount // a validator's least stake (chain.Config.Minimum), for Standing
	MinTrainer    chain.Amount // a trainer's (manifest admission.min_stake), for Standing
	Bond          chain.Amount // of a proposal (chain.Config.Bond): put in when none is free
	ChallengeBond chain.Amount // (chain.Config.ChallengeBond): approved before a challenge

	Poll   time.Duration // how often the ledger is asked; default 15 s
	Turn   time.Duration // how long each validator waits for the one whose turn is before its own; default four polls
	Margin uint64        // seconds after an epoch's end until what the ledger says of it is safe; default 0
	Again  time.Duration // after how long an unanswered signature is sent again; default four polls
	Log    *slog.Logger  // default silence
	Clock  func() time.Time
}

// An Agent follows and acts while Run runs. Its other methods may be called at
// any time, by any goroutine.
type Agent struct {
	opt Options
	me  chain.Address

	// Owned by Run's goroutine.
	d       *settle.Deriver
	st      state
	run     chain.Run
	params  chain.Params
	now     uint64 // the ledger's
	keys    map[chain.Address]chain.KeyInfo
	tallies map[chain.Hash]map[chain.Address]tally // by digest, then key
	first   map[string]time.Time                   // when something was first due
	told    map[string]bool                        // warnings given
	tried   map[string]bool                        // what the ledger has refused for good
	empty   map[uint64]bool                        // epochs that pay nobody, and are written down
	next    *candidate
	opined  opined
	short   string // why others keep this peer out; empty if they do not
	heard   chan heard

	mu         sync.Mutex // guards the following
	polled     time.Time  // of the last answer of the ledger
	polledAt   uint64     // the ledger's time then
	polledRun  chain.Run
	validators map[wire.PeerID]bool
	looks      map[candidacy]*look // who was asked about, and the answer
	status     Status
	totals     map[wire.PeerID]*Total
	lines      []settle.Line // this peer's
}

// New checks the options and reads what an earlier run of the agent left.
func New(opt Options) (*Agent, error) {
	if opt.Key == nil || opt.Ledger == nil || opt.Commits == nil || opt.Dir == "" {
		return nil, errors.New("agent: Options.Key, Ledger, Commits and Dir must be set")
	}
	opt.Poll = cmp.Or(opt.Poll, 15*time.Second)
	opt.Turn, opt.Again = cmp.Or(opt.Turn, 4*opt.Poll), cmp.Or(opt.Again, 4*opt.Poll)
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	a := &Agent{opt: opt, me: chain.AddressOf(opt.Key), keys: map[chain.Address]chain.KeyInfo{}, tallies: map[chain.Hash]map[chain.Address]tally{},
		first: map[string]time.Time{}, told: map[string]bool{}, tried: map[string]bool{}, empty: map[uint64]bool{}, heard: make(chan heard, 256),
		validators: map[wire.PeerID]bool{}, looks: map[candidacy]*look{}, totals: map[wire.PeerID]*Total{}}
	if err := a.load(); err != nil {
		return nil, err
	}
	fs, err := Epochs(opt.Dir)
	if err != nil {
		return nil, err
	}
	for i := range fs {
		a.note(&fs[i])
	}
	return a, nil
}

// Run follows and acts until ctx ends, and then returns nil. Only the disk can
// make it fail: whatever is wrong with the ledger, it asks again.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	if a.opt.Topic != nil {
		work.Go(func() { a.listen(ctx) })
	}
	tick := time.NewTicker(a.opt.Poll)
	defer tick.Stop()
	for {
		if err := a.step(ctx); err != nil {
			return err
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				waiting = false
			case h := <-a.heard:
				a.count(h)
			}
		}
	}
}

// step looks once at everything. Its error is the disk's.
func (a *Agent) step(ctx context.Context) error {
	err := a.follow(ctx)
	if err == nil {
		err = a.ask(ctx)
	}
	if err == nil && a.opt.Validate {
		err = a.act(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, errDisk):
		return err
	case err != nil:
		a.warn(err.Error(), "settlement waits", "err", err)
	default:
		a.told = map[string]bool{}
	}
	a.report(err)
	return nil
}

// warn logs once until a whole step has gone well.
func (a *Agent) warn(key, msg string, args ...any) {
	if !a.told[key] {
		a.told[key] = true
		a.opt.Log.Warn(msg, args...)
	}
}

// batch is how many commits are taken in before the state is saved.
const batch = 128

// follow takes in what has become final.
func (a *Agent) follow(ctx context.Context) error {
	for {
		at, _ := a.d.At()
		links, err := a.opt.Commits.After(ctx, at, batch)
		if err != nil {
			return fmt.Errorf("final commits: %w", err)
		}
		for _, l := range links {
			closed, err := a.d.Add(l.CID, l.Commit)
			if err != nil {
				return fmt.Errorf("final commits: %w", err)
			}
			a.st.Closes = append(a.st.Closes, closed...)
			for i := range closed {
				a.opt.Log.Info("an epoch is over by the commits", "epoch", closed[i].Number, "commit", l.CID, "round", l.Commit.Round, "works", len(closed[i].Works))
			}
		}
		if len(links) > 0 {
			a.know(links[len(links)-1].Commit)
			if err := a.save(); err != nil {
				return err
			}
		}
		if len(links) < batch {
			return nil
		}
	}
}

// know remembers whose signatures are worth hearing.
func (a *Agent) know(c *diloco.Commit) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.validators = map[wire.PeerID]bool{}
	for _, m := range c.Roster {
		if m.Role == "validator" && !m.Banned {
			a.validators[m.Peer] = true
		}
	}
}

// turn reports whether it is time to do what several would do: the first of the
// order at once, each other one Turn later, counted from when this peer first
// saw it due.
func (a *Agent) turn(what string, order []wire.PeerID) bool {
	rank := len(order)
	for i, p := range order {
		if p == a.opt.Key.Peer() {
			rank = i
		}
	}
	now := a.opt.Clock()
	if _, ok := a.first[what]; !ok {
		a.first[what] = now
	}
	return now.Sub(a.first[what]) >= time.Duration(rank)*a.opt.Turn
}

// do acts on the ledger. A refusal is not an error here: somebody else was
// first, or the ledger knows better; what is still due comes up again.
func (a *Agent) do(ctx context.Context, what string, x chain.Action) (bool, error) {
	r, err := a.opt.Ledger.Do(ctx, a.me, x)
	var no *chain.Refusal
	switch {
	case errors.As(err, &no):
		a.warn(what+no.Reason, "the ledger refuses", "what", what, "reason", err)
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%s: %w", what, err)
	}
	a.opt.Log.Info("done on the ledger", "what", what, "tx", r.Tx, "gas", r.Gas)
	return true, nil
}

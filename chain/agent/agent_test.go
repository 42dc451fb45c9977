package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/chain/settle/settletest"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A world is a run whose commits a script writes, a ledger in memory whose clock
// goes with the test's, and agents of its peers, on one topic.
type world struct {
	t       *testing.T
	ctx     context.Context
	ledger  chain.Ledger
	mem     *chain.Memory // the ledger, where it is one in memory
	cfg     chain.Config
	sponsor *wire.Key
	s       *settletest.Script
	mu      sync.Mutex // guards s, topics and files
	topics  []*topic
	blobs   map[wire.CID][]byte
	work    sync.WaitGroup
}

// firstEpoch begins so many seconds after the start.
const firstEpoch = 30

// newWorld makes a ledger in memory and publishes the run with 1,000 coins in its pool and 100 an epoch; all
// peers stake, and their keys are their accounts.
func newWorld(t *testing.T, trainers, validators int, epochLength uint64) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context(), sponsor: settletest.Key(t, 99), blobs: map[wire.CID][]byte{}}
	w.cfg = chain.DevConfig(chain.AddressOf(w.sponsor))
	w.cfg.Governor = chain.AddressOf(w.sponsor)
	var err error
	if w.mem, err = chain.NewMemory(w.cfg, chain.MemoryBook(1), uint64(time.Now().Unix())); err != nil {
		t.Fatal(err)
	}
	w.ledger = w.mem
	w.settleIn(trainers, validators, epochLength, firstEpoch)
	return w
}

// settleIn publishes the run on the ledger, whose first epoch begins in some
// seconds, and stakes for everybody.
func (w *world) settleIn(trainers, validators int, epochLength, first uint64) {
	w.t.Helper()
	boss := chain.AddressOf(w.sponsor)
	manifest, err := chain.Digest(settletest.CID("run"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.s = settletest.New(w.t, trainers, validators, func(p *settle.Params) {
		p.Book, p.ID = w.ledger.Book(), chain.RunID(manifest, boss)
	})
	w.do(w.sponsor, chain.Approve{Spender: chain.Runs, Amount: chain.Unlimited()})
	for i, k := range w.s.Keys {
		w.do(w.sponsor, chain.Transfer{To: chain.AddressOf(k), Amount: chain.Coins(5000)})
		w.do(k, chain.Approve{Spender: chain.Staking, Amount: chain.Unlimited()})
		role := chain.Trainer
		if w.s.Roles[i] == "validator" {
			role = chain.Validator
		}
		w.do(k, chain.Stake{Role: role, Amount: chain.Coins(1000)})
		self, deadline := chain.AddressOf(k), uint64(time.Now().Unix())+1000
		w.do(k, chain.RegisterKey{Key: self, Deadline: deadline, Sig: chain.SignDigest(k, w.ledger.Book().KeyDigest(self, self, 0, deadline))})
	}
	now, err := w.ledger.Now(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	w.do(w.sponsor, chain.Publish{Manifest: manifest, Start: now + first, Length: epochLength, Shares: true,
		Rate: chain.Rate{Budget: chain.Coins(100), Split: [4]uint16{8000, 0, 2000, 0}}})
	w.do(w.sponsor, chain.Fund{Run: w.s.Params.ID, Amount: chain.Coins(1000)})
}

func (w *world) do(k *wire.Key, a chain.Action) {
	w.t.Helper()
	if _, err := w.ledger.Do(w.ctx, chain.AddressOf(k), a); err != nil {
		w.t.Fatalf("%T: %v", a, err)
	}
	w.balanced()
}

func (w *world) balanced() {
	w.t.Helper()
	if w.s == nil {
		return
	}
	lines, err := w.ledger.Books(w.ctx, w.s.Params.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, l := range lines {
		if l.Has.Cmp(l.Owes) != 0 {
			w.t.Fatalf("%s has %s and owes %s", l.Contract, l.Has, l.Owes)
		}
	}
}

// seconds lets time pass: the ledger's clock goes on, and every fourth second
// the script writes a round.
func (w *world) seconds(n int, round func(epoch uint64)) {
	for i := range n {
		time.Sleep(time.Second)
		w.mem.Advance(1)
		if i%4 == 3 && round != nil {
			w.now(round)
		}
		w.balanced()
	}
}

// now calls round with the epoch that runs.
func (w *world) now(round func(epoch uint64)) {
	w.t.Helper()
	r, err := w.ledger.Run(w.ctx, w.s.Params.ID)
	now, err2 := w.ledger.Now(w.ctx)
	if err := errors.Join(err, err2); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	round(r.EpochAt(now))
}

// After makes the script an archive.
func (w *world) After(_ context.Context, after wire.CID, max int) ([]Link, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.Index(w.s.IDs, after) + 1
	var out []Link
	for ; i < len(w.s.IDs) && len(out) < max; i++ {
		out = append(out, Link{w.s.IDs[i], w.s.Commits[i]})
	}
	return out, nil
}

func (w *world) PutFile(_ context.Context, data []byte) (wire.CID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := wire.SumCID(wire.CodecRaw, data)
	w.blobs[c] = data
	return c, nil
}

func (w *world) FetchFile(_ context.Context, c wire.CID, _ []wire.PeerID, _ int64) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b, ok := w.blobs[c]; ok {
		return b, nil
	}
	return nil, errors.New("nobody has it")
}

// A topic is one peer's end of the settlement's topic.
type topic struct {
	w     *world
	in    chan []byte
	judge func(context.Context, wire.PeerID, []byte) wire.Judgement
}

func (w *world) topic() *topic {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := &topic{w: w, in: make(chan []byte, 1024)}
	w.topics = append(w.topics, p)
	return p
}

func (p *topic) Publish(ctx context.Context, data []byte) error {
	p.w.mu.Lock()
	all := slices.Clone(p.w.topics)
	p.w.mu.Unlock()
	for _, q := range all {
		if q.judge == nil || q.judge(ctx, wire.PeerID{}, data) == wire.Accept {
			select {
			case q.in <- data:
			default:
			}
		}
	}
	return nil
}

func (p *topic) Next(ctx context.Context) ([]byte, wire.PeerID, error) {
	select {
	case b := <-p.in:
		return b, wire.PeerID{}, nil
	case <-ctx.Done():
		return nil, wire.PeerID{}, ctx.Err()
	}
}

func (w *world) options(i int, dir string) Options {
	o := Options{Key: w.s.Keys[i], Ledger: w.ledger, Params: w.s.Params, Commits: w, Dir: dir, Files: w, Validate: w.s.Roles[i] == "validator",
		Minimum: w.cfg.Minimum, Bond: w.cfg.Bond, ChallengeBond: w.cfg.ChallengeBond, Poll: time.Second}
	if os.Getenv("AGENT_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("peer", i)
	}
	return o
}

// start runs an agent of peer i until the stop that it returns, or the test's end.
func (w *world) start(i int, dir string, change ...func(*Options)) (*Agent, func()) {
	w.t.Helper()
	o := w.options(i, dir)
	p := w.topic()
	o.Topic = p
	for _, f := range change {
		f(&o)
	}
	a, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	p.judge = a.Judge
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("agent of %d: %v", i, err)
		}
	})
	w.t.Cleanup(stop)
	return a, stop
}

func (w *world) at(i int) chain.Address { return chain.AddressOf(w.s.Keys[i]) }

func (w *world) final() chain.Final {
	w.t.Helper()
	f, err := w.ledger.Final(w.ctx, w.s.Params.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func (w *world) stake(i int) chain.Amount {
	w.t.Helper()
	role := chain.Trainer
	if w.s.Roles[i] == "validator" {
		role = chain.Validator
	}
	s, err := w.ledger.StakeOf(w.ctx, w.at(i), role)
	if err != nil {
		w.t.Fatal(err)
	}
	return s.Active
}

func (w *world) events(name string) []chain.Event {
	w.t.Helper()
	es, _, err := w.ledger.Events(w.ctx, chain.Cursor{})
	if err != nil {
		w.t.Fatal(err)
	}
	return slices.DeleteFunc(es, func(e chain.Event) bool { return e.Name != name })
}

// claimAll pays everybody from what one peer derived, and returns the receipts'
// amounts by account.
func (w *world) claimAll(dir string) map[chain.Address]chain.Amount {
	w.t.Helper()
	fs, err := Epochs(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	earned := map[chain.Address]chain.Amount{}
	var last *chain.Settled
	for _, f := range fs {
		for _, l := range f.Lines {
			earned[l.Account] = add(earned[l.Account], l.Amount)
		}
		if f.Settled != nil {
			last = f.Settled
		}
	}
	if last == nil {
		w.t.Fatal("no epoch was settled")
	}
	if err := last.Seal(w.s.Params.Book); err != nil {
		w.t.Fatal(err)
	}
	for i, r := range last.Rewards {
		was, err := w.ledger.Balance(w.ctx, r.Account)
		if err != nil {
			w.t.Fatal(err)
		}
		w.do(w.sponsor, chain.Claim{Run: w.s.Params.ID, Reward: r, Proof: last.RewardProof(i)})
		w.do(w.sponsor, chain.MintShares{Run: w.s.Params.ID, Account: r.Account})
		is, err := w.ledger.Balance(w.ctx, r.Account)
		if err != nil {
			w.t.Fatal(err)
		}
		if got := sub(is, was); got.Cmp(num(earned[r.Account])) != 0 {
			w.t.Errorf("%s was paid %s, its receipts say %s", r.Account, got, earned[r.Account])
		}
	}
	return earned
}

// round lets all trainers that are not banned work, and both validators audit
// the first trainer's delta of the round before.
func (w *world) round(epoch uint64) {
	s := w.s
	prev := s.Commits[len(s.Commits)-1]
	if len(prev.Deltas) > 0 && epoch > 0 {
		for i, r := range s.Roles {
			if r == "validator" && !s.Next.Roster[i].Banned {
				s.Verdict(i, prev.Deltas[0], prev.Round-1, epoch)
			}
		}
	}
	s.Round(epoch)
}

// The whole story: epochs are derived, proposed, signed and final by signatures;
// the convicted is slashed after the time to appeal; the honest are paid, shares
// minted, the books balanced at every second.
func TestEpochsSettleAndTheConvictedIsSlashed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 2, 20)
		dir := t.TempDir()
		a, _ := w.start(3, dir)
		w.start(4, t.TempDir())
		follower, _ := w.start(0, t.TempDir())
		cheated := false
		w.seconds(140, func(e uint64) {
			if e >= 2 && !cheated {
				w.s.Ban(2, "wrong work")
				cheated = true
			}
			w.round(e)
		})
		synctest.Wait()
		if f := w.final(); f.Epoch < 4 {
			t.Fatalf("epoch %d is final, want 4 at least; %+v", f.Epoch, a.Status())
		}
		for _, e := range w.events("Finalized") {
			if !e.Fast {
				t.Errorf("epoch %d became final by time, not by signatures", e.Number)
			}
		}
		if n := len(w.events("Rejected")) + len(w.events("CaseOpened")); n > 0 {
			t.Errorf("%d proposals of honest peers were contested", n)
		}
		if got := w.stake(2); got.Cmp(chain.Coins(700)) != 0 {
			t.Errorf("the convicted has %s at stake, want 700", chain.FormatAmount(got))
		}
		for _, i := range []int{0, 1, 3, 4} {
			if got := w.stake(i); got.Cmp(chain.Coins(1000)) != 0 {
				t.Errorf("honest peer %d has %s at stake", i, chain.FormatAmount(got))
			}
		}
		earned := w.claimAll(dir)
		if num(earned[w.at(2)]).Sign() != 0 {
			t.Errorf("the convicted earned %s", earned[w.at(2)])
		}
		if num(earned[w.at(0)]).Sign() == 0 || num(earned[w.at(0)]).Cmp(num(earned[w.at(1)])) != 0 || num(earned[w.at(3)]).Sign() == 0 {
			t.Errorf("earned: %v", earned)
		}
		// The same lines at a peer that only follows.
		fs, err := Epochs(dir)
		gs, err2 := Epochs(follower.opt.Dir)
		if err != nil || err2 != nil || fmt.Sprint(fs[0].Lines) != fmt.Sprint(gs[0].Lines) {
			t.Errorf("a follower derives other lines (%v, %v)", err, err2)
		}
		why := ""
		for _, l := range fs[0].Lines {
			if l.Account == w.at(2) {
				why = l.Why
			}
		}
		if want := "convicted in round "; len(why) < len(want) || why[:len(want)] != want {
			t.Errorf("why the convicted earns nothing: %q", why)
		}
		st := a.Status()
		if len(st.Slashed) != 1 || !st.Slashed[0].Slashed || st.Slashed[0].Amount.Cmp(chain.Coins(300)) != 0 {
			t.Errorf("status: %+v", st.Slashed)
		}
	})
}

// A wrong proposal is challenged and its proposer slashed; then the right one
// is proposed. Nobody types anything.
func TestWrongProposalsAreChallenged(t *testing.T) {
	for name, c := range map[string]struct {
		lie    func(x *chain.Settled, liar chain.Address)
		leaves bool // the liar publishes them
		event  string
	}{
		"wrong amounts, before the committee": {func(x *chain.Settled, liar chain.Address) {
			i := x.Find(liar)
			j := (i + 1) % len(x.Rewards)
			x.Rewards[i].Amount, x.Rewards[j].Amount = add(x.Rewards[i].Amount, chain.Int(1)), sub(x.Rewards[j].Amount, chain.Int(1))
			total := chain.Int(0)
			for k := range x.Rewards {
				x.Rewards[k].Before, total = total, add(total, x.Rewards[k].Amount)
			}
		}, true, "CaseOpened"},
		"leaves withheld": {func(x *chain.Settled, liar chain.Address) { x.Entries = x.Entries[1:] }, false, "CaseOpened"},
		"a receipt twice, by a proof": {func(x *chain.Settled, liar chain.Address) {
			x.Entries = append(x.Entries, x.Entries[0])
			x.Entries[len(x.Entries)-1].Index = uint64(len(x.Entries) - 1)
		}, true, "Rejected"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2, 3, 20)
				dir := t.TempDir()
				liar := w.s.Keys[4]
				me := chain.AddressOf(liar)
				w.do(liar, chain.Approve{Spender: chain.Settlement, Amount: chain.Unlimited()})
				w.do(liar, chain.DepositBond{Amount: w.cfg.Bond})
				follower, _ := w.start(0, dir)
				out := w.topic()
				elapsed := 0
				var lying *Agent
				var lie *chain.Settled
				var file wire.CID
				// The liar knows what is right before the others propose it.
				for w.final().Epoch == 0 && len(w.events("Proposed")) == 0 {
					if w.seconds(1, nil); elapsed%4 == 3 {
						w.now(w.round)
					}
					elapsed++
					o := w.options(4, t.TempDir())
					a, err := New(o)
					if err != nil {
						t.Fatal(err)
					}
					if err := errors.Join(a.follow(t.Context()), a.ask(t.Context())); err != nil {
						t.Fatal(err)
					}
					if a.next == nil || len(w.events("Proposed")) > 0 {
						continue
					}
					x := a.next.outcome.Settled
					total := x.Epoch.Total
					c.lie(x, me)
					if err := x.Seal(w.s.Params.Book); err != nil {
						t.Fatal(err)
					}
					x.Epoch.Total = total
					if c.leaves {
						file = a.publish(t.Context(), x)
						a.opt.Topic = out
					}
					lying, lie = a, x
					w.do(liar, chain.Propose{Epoch: x.Epoch})
				}
				w.start(2, t.TempDir())
				w.start(3, t.TempDir())
				if c.leaves { // they hear what was said before, as gossip repeats it
					time.Sleep(time.Second)
					lying.tallies = map[chain.Hash]map[chain.Address]tally{}
					if err := lying.sign(t.Context(), w.ledger.Book().EpochDigest(&lie.Epoch), file); err != nil {
						t.Fatal(err)
					}
				}
				w.seconds(120, func(e uint64) { w.round(e) })
				synctest.Wait()
				if len(w.events(c.event)) == 0 {
					t.Errorf("no %s", c.event)
				}
				if c.event == "Rejected" && len(w.events("CaseOpened")) > 0 {
					t.Error("a proof would have done, and the committee was asked")
				}
				r := w.events("Rejected")
				if len(r) != 1 || !r[0].Guilty || r[0].Account != me {
					t.Fatalf("rejected: %+v", r)
				}
				if got := w.stake(4); got.Cmp(chain.Coins(700)) != 0 {
					t.Errorf("the liar has %s at stake, want 700", chain.FormatAmount(got))
				}
				if w.final().Epoch == 0 {
					t.Errorf("nothing was settled after it: %+v", follower.Status())
				}
				w.claimAll(dir)
			})
		})
	}
}

// An epoch that is proposed before its commits are final cannot be judged yet.
// Nobody may use that to slip a wrong one through the window.
func TestAnEarlyProposalIsNotWavedThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 3, 20)
		liar := w.s.Keys[4]
		me := chain.AddressOf(liar)
		w.do(liar, chain.Approve{Spender: chain.Settlement, Amount: chain.Unlimited()})
		w.do(liar, chain.DepositBond{Amount: w.cfg.Bond})
		w.start(2, t.TempDir())
		w.start(3, t.TempDir())
		w.seconds(51, func(e uint64) { // into the second epoch; the first is not closed yet
			if e < 2 {
				w.round(e)
			}
		})
		x := &chain.Settled{Epoch: chain.Epoch{Run: w.s.Params.ID, Number: 1, Commit: chain.Hash{1}, Amounts: [4]chain.Amount{chain.Int(0), chain.Int(0), chain.Coins(20), chain.Int(0)}},
			Rewards: chain.Rewards(map[chain.Address]chain.Amount{me: chain.Coins(20)}),
			Entries: []chain.Entry{w.s.Params.Book.SignReceipt(liar, chain.Receipt{Run: w.s.Params.ID, Epoch: 1, Kind: chain.Validation, Units: 1})}}
		if err := x.Seal(w.s.Params.Book); err != nil {
			t.Fatal(err)
		}
		w.do(liar, chain.Propose{Epoch: x.Epoch})
		w.seconds(12, nil) // the whole window, without a commit
		if len(w.events("CaseOpened")) != 1 {
			t.Fatal("nobody has objected")
		}
		w.seconds(160, w.round)
		synctest.Wait()
		for _, e := range w.events("Finalized") {
			if e.Hash == x.Epoch.Rewards {
				t.Fatal("the wrong epoch became final")
			}
		}
		if w.final().Epoch < 2 {
			t.Errorf("epoch %d is settled", w.final().Epoch)
		}
		for _, i := range []int{2, 3} {
			if got := w.stake(i); got.Cmp(chain.Coins(1000)) != 0 {
				t.Errorf("honest validator %d has %s at stake", i, chain.FormatAmount(got))
			}
		}
	})
}

// away is a ledger that cannot be reached while down is set.
type away struct {
	chain.Ledger
	mu   sync.Mutex
	down bool // guarded by mu
}

var errAway = errors.New("connection refused")

func (l *away) gone() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return errAway
	}
	return nil
}

func (l *away) set(down bool) { l.mu.Lock(); l.down = down; l.mu.Unlock() }

func (l *away) Now(ctx context.Context) (uint64, error) {
	if err := l.gone(); err != nil {
		return 0, err
	}
	return l.Ledger.Now(ctx)
}

func (l *away) Do(ctx context.Context, from chain.Address, a chain.Action) (chain.Result, error) {
	if err := l.gone(); err != nil {
		return chain.Result{}, err
	}
	return l.Ledger.Do(ctx, from, a)
}

// The chain goes away for an hour: work goes on and is receipted, and afterwards
// every epoch is settled.
func TestAnHourWithoutTheChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 2, 120)
		w.do(w.sponsor, chain.Fund{Run: w.s.Params.ID, Amount: chain.Coins(100_000)})
		net := &away{Ledger: w.ledger}
		dir := t.TempDir()
		a, _ := w.start(2, dir, func(o *Options) { o.Ledger = net })
		w.start(3, t.TempDir(), func(o *Options) { o.Ledger = net })
		w.seconds(60, w.round)
		net.set(true)
		before := w.final().Epoch
		slow := func(f func(uint64)) func(uint64) { // a round in twelve seconds
			n := 0
			return func(e uint64) {
				if n++; n%3 == 0 {
					f(e)
				}
			}
		}
		w.seconds(3600, slow(func(e uint64) {
			if got, sig := a.Sign(0, settletest.CID("work"), 5); got != e || len(sig) != 65 {
				t.Errorf("while the chain is away a receipt is for epoch %d, want %d", got, e)
			}
			w.round(e)
		}))
		if a.Status().Trouble == "" {
			t.Error("the status does not say that the ledger is away")
		}
		if w.final().Epoch != before {
			t.Fatal("something was settled without a ledger")
		}
		net.set(false)
		w.seconds(1200, slow(w.round))
		synctest.Wait()
		if f, want := w.final().Epoch, uint64(4800/120-4); f < want {
			t.Errorf("epoch %d is settled after an hour away, want %d; %+v", f, want, a.Status())
		}
		w.claimAll(dir)
	})
}

// Killed at random, over and over: the same is settled, and nothing is paid twice.
func TestKilledAtAnyTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 2, 20)
		dirs := []string{t.TempDir(), t.TempDir()}
		stops := make([]func(), 2)
		for i := range 2 {
			_, stops[i] = w.start(2+i, dirs[i])
		}
		for n := range 40 {
			w.seconds(1+n%7, nil)
			w.now(func(e uint64) {
				if e == 3 && !slices.ContainsFunc(w.s.Next.Roster, func(m diloco.Member) bool { return m.Banned }) {
					w.s.Ban(1, "wrong work")
				}
				w.round(e)
			})
			i := n % 2
			stops[i]()
			w.mu.Lock()
			w.topics = slices.DeleteFunc(w.topics, func(p *topic) bool { return len(w.topics) > 2 && p == w.topics[0] })
			w.mu.Unlock()
			_, stops[i] = w.start(2+i, dirs[i])
		}
		w.seconds(60, w.round)
		synctest.Wait()
		if w.final().Epoch < 5 {
			t.Errorf("only epoch %d is settled", w.final().Epoch)
		}
		if n := len(w.events("Slashed")); n != 1 {
			t.Errorf("slashed %d times", n)
		}
		if n := len(w.events("Rejected")); n != 0 {
			t.Errorf("%d proposals were rejected", n)
		}
		w.claimAll(dirs[0])
		sum := new(big.Int)
		for _, i := range []int{2, 3} {
			b, err := w.ledger.Bonds(w.ctx, w.at(i))
			if err != nil {
				t.Fatal(err)
			}
			sum.Add(sum, b)
		}
		if sum.Cmp(new(big.Int).Mul(big.NewInt(2), w.cfg.Bond)) > 0 {
			t.Errorf("%s in bonds: put in more than once", sum)
		}
	})
}

func TestVouchIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 2, 20)
		a, _ := w.start(1, t.TempDir())
		v, tr, nobody := w.s.Keys[2].Peer(), w.s.Keys[0].Peer(), settletest.Key(t, 50).Peer()
		for _, p := range []wire.PeerID{v, tr, nobody} {
			if a.Vouch(p) {
				t.Errorf("%s is vouched for before anybody looked", p)
			}
		}
		w.seconds(3, nil)
		if !a.Vouch(v) || a.Vouch(tr) || a.Vouch(nobody) {
			t.Errorf("validator %v, trainer %v, nobody %v", a.Vouch(v), a.Vouch(tr), a.Vouch(nobody))
		}
	})
}

func TestJudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1, 20)
		a, _ := w.start(1, t.TempDir())
		w.s.Round(0)
		w.seconds(2, nil)
		say := func(i int, kind wire.Kind, run wire.CID, tl any) []byte {
			b, err := wire.Marshal(tl)
			if err != nil {
				t.Fatal(err)
			}
			m := w.s.Keys[i].Sign(kind, run, b)
			data, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		good := func(i int) *Tally {
			h := chain.Hash{1}
			return &Tally{What: h, Sig: chain.SignDigest(w.s.Keys[i], h)}
		}
		run := w.s.Params.Run
		for name, c := range map[string]struct {
			data []byte
			want wire.Judgement
		}{
			"a validator's":         {say(1, wire.KindTally, run, good(1)), wire.Accept},
			"a trainer's":           {say(0, wire.KindTally, run, good(0)), wire.Ignore},
			"another's signature":   {say(1, wire.KindTally, run, good(0)), wire.Reject},
			"of another kind":       {say(1, wire.KindVote, run, good(1)), wire.Reject},
			"about another run":     {say(1, wire.KindTally, settletest.CID("other"), good(1)), wire.Reject},
			"of another form":       {say(1, wire.KindTally, run, &diloco.Attest{}), wire.Reject},
			"a signature too short": {say(1, wire.KindTally, run, &Tally{Sig: []byte{1}}), wire.Reject},
			"garbage":               {[]byte("garbage"), wire.Reject},
			"too long":              {make([]byte, 5000), wire.Reject},
		} {
			if got := a.Judge(t.Context(), wire.PeerID{}, c.data); got != c.want {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
	})
}

func FuzzTally(f *testing.F) {
	k, err := wire.NewKey(slices.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	run := settletest.CID("run")
	b, err := wire.Marshal(&Tally{What: chain.Hash{1}, Sig: chain.SignDigest(k, chain.Hash{1})})
	if err != nil {
		f.Fatal(err)
	}
	m := k.Sign(wire.KindTally, run, b)
	data, err := m.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	a := &Agent{opt: Options{Params: settle.Params{Run: run}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := a.open(data)
		if err == nil && len(h.tally.Sig) != 65 {
			t.Fatal("a tally without a signature was taken")
		}
	})
}

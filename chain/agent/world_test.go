package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/chain/settle/settletest"
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

// settledInPeace checks what a run leaves on the ledger whose peer 2 was convicted: epochs
// final by signatures, nobody contested, and stake taken of that peer alone.
func (w *world) settledInPeace() {
	t := w.t
	t.Helper()
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
}

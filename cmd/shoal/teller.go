package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/evm"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/p2p/wire"
)

// chainFlags are those of every command that asks the chain.
type chainFlags struct {
	keyFlags
	acts    bool // it may send transactions
	dry     bool
	timeout time.Duration
}

func (f *chainFlags) add(c *cobra.Command, acts bool) {
	f.keyFlags.add(c)
	f.acts = acts
	c.Flags().DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait for the chain; what is sent stays sent")
	if acts {
		c.Flags().BoolVar(&f.dry, "dry-run", false, "say what it would do and cost, or why it would be refused; send nothing")
	}
}

// A teller is this peer at the ledger.
type teller struct {
	a      *app
	flags  *chainFlags
	ledger *evm.Ledger
	key    *wire.Key
	me     chain.Address
	where  deployment
	sent   []sentTx
	failed error  // of a question that a pure computation asked
	close  func() // lets others send
}

// clock writes a second of the chain for a person.
func clock(t uint64) string { return time.Unix(int64(t), 0).Format(time.RFC1123) }

type sentTx struct {
	Action string      `json:"action"`
	Tx     *chain.Hash `json:"tx,omitempty"`
	Gas    uint64      `json:"gas"`
	ID     *chain.Hash `json:"id,omitempty"`   // of the run or channel that it made
	Cost   string      `json:"cost,omitempty"` // ether, at the price of a dry run
}

// teller opens the key and the deployment of the data directory. The caller closes it: until then nobody else
// sends with this data directory, where the command may.
func (a *app) teller(ctx context.Context, f *chainFlags) (_ *teller, err error) {
	var d deployment
	b, err := readBounded(a.path(chainFile), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, advise(errors.New("this peer knows no ledger"), "start one with `shoal chain dev` and then `shoal chain deploy`, or copy a swarm's %s to %s", chainFile, a.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("deployment: %w", err)
	}
	if err := hf.Unmarshal(b, &d); err != nil {
		return nil, advise(fmt.Errorf("deployment: %s: %w", a.path(chainFile), err), "the file is damaged: copy the swarm's %s again", chainFile)
	}
	k, err := a.openKey(&f.keyFlags)
	if err != nil {
		return nil, err
	}
	c, err := dialChain(ctx, d.Preset, d.URL, d.Book.ChainID)
	if err != nil {
		return nil, err
	}
	unlock := func() {}
	if f.acts && !f.dry {
		if unlock, err = a.lockFlights(ctx); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	s, err := a.sender(c, k)
	if err != nil {
		return nil, err
	}
	l, err := evm.Open(ctx, c, d.Book, s)
	switch {
	case errors.Is(err, evm.ErrNotDeployed), errors.Is(err, evm.ErrWrongChain):
		return nil, advise(err, "%s is not of what runs at %s: copy the swarm's again, or move it away and deploy", a.path(chainFile), d.URL)
	case err != nil:
		return nil, unanswered(err, d.Preset)
	}
	return &teller{a: a, flags: f, ledger: l, key: k, me: chain.AddressOf(k), where: d, close: unlock}, nil
}

// lockFlights waits until no other command sends transactions with this data directory: two would take each
// other's for their own, and both say that it was done.
func (a *app) lockFlights(ctx context.Context) (unlock func(), err error) {
	for told := false; ; {
		unlock, who, err := flock(a.path(flightLock))
		if err != nil || who == "" {
			return unlock, err
		}
		if !told {
			told = true
			a.say("waiting for %s, which sends transactions with this data directory", who)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, advise(fmt.Errorf("%s still sends transactions with %s: %w", who, a.dir, ctx.Err()), "wait for it, or end it and run its command again")
		}
	}
}

func (a *app) sender(c *evm.Client, k *wire.Key) (*evm.Sender, error) {
	return evm.NewSender(c, k, evm.SenderOptions{
		File:  a.path(flightFile),
		Alarm: big.NewInt(1e15),
		OnLow: func(who common.Address, wei *big.Int) {
			a.say("note: %s has only %s ether left for gas", who, chain.FormatAmount(wei))
		},
		OnLoss: func(l evm.Loss) { a.say("note: %s", l) },
	})
}

func dialChain(ctx context.Context, preset, url string, id uint64) (*evm.Client, error) {
	p, ok := evm.Presets[preset]
	if !ok {
		p = evm.Custom(url, id)
	}
	p.URL = url
	c, err := evm.Dial(ctx, p)
	switch {
	case errors.Is(err, evm.ErrWrongChain):
		return nil, advise(err, "give the URL of a node of chain %d, or the right --chain-id; a deployment is of one chain", p.ChainID)
	case err != nil:
		return nil, unanswered(err, preset)
	}
	return c, nil
}

// unanswered says what to do where a chain's node does not answer.
func unanswered(err error, preset string) error {
	var dial *net.OpError
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return advise(err, "it does not answer in time: is the node up, and the URL right? --timeout waits longer")
	case !errors.As(err, &dial): // something answers, but not as a node
		return advise(err, "is the URL right, and the node in order? What is in flight is kept and goes on when it is back")
	}
	if preset == "dev" {
		return advise(err, "is `shoal chain dev` running, on that port?")
	}
	return advise(err, "is the node up, and the URL right? What is in flight is kept and goes on when it is back")
}

// actionName is an action's, for people.
func actionName(a chain.Action) string {
	_, name, _ := strings.Cut(fmt.Sprintf("%T", a), ".")
	return name
}

// do carries out an action, or with --dry-run says what it would cost.
func (t *teller) do(ctx context.Context, a chain.Action) (chain.Result, error) {
	name := actionName(a)
	if t.flags.dry {
		gas, price, err := t.ledger.Estimate(ctx, t.me, a)
		if err != nil {
			return chain.Result{}, fmt.Errorf("%s: %w", name, err)
		}
		t.tried(name, gas, price)
		return chain.Result{}, nil
	}
	r, err := t.ledger.Do(ctx, t.me, a)
	if err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	x := sentTx{Action: name, Tx: &r.Tx, Gas: r.Gas}
	if !r.ID.IsZero() {
		x.ID = &r.ID
	}
	t.sent = append(t.sent, x)
	return r, nil
}

// spend approves the contract for an amount and carries out what takes it. A dry
// run cannot estimate the second without the first.
func (t *teller) spend(ctx context.Context, amount chain.Amount, a chain.Action) error {
	_, err := t.spent(ctx, amount, a)
	return err
}

// tried notes what a dry run found out.
func (t *teller) tried(action string, gas uint64, price *big.Int) {
	cost := new(big.Int).Mul(price, new(big.Int).SetUint64(gas))
	t.sent = append(t.sent, sentTx{Action: action, Gas: gas, Cost: chain.FormatAmount(cost)})
}

// affords refuses an amount that this account does not have.
func (t *teller) affords(ctx context.Context, amount chain.Amount) error {
	has, err := t.ledger.Balance(ctx, t.me)
	if err == nil && has.Cmp(amount) < 0 {
		err = advise(fmt.Errorf("%s has %s SHOAL, %s are needed", t.me, chain.FormatAmount(has), chain.FormatAmount(amount)),
			"have some sent to it: who deployed holds the supply and sends with `shoal chain send %s AMOUNT`", t.me)
	}
	return err
}

// spent is spend that returns what the action left.
func (t *teller) spent(ctx context.Context, amount chain.Amount, a chain.Action) (chain.Result, error) {
	if err := t.affords(ctx, amount); err != nil {
		return chain.Result{}, err
	}
	if _, err := t.do(ctx, chain.Approve{Spender: a.Target(), Amount: amount}); err != nil {
		return chain.Result{}, err
	}
	res, err := t.do(ctx, a)
	var r *chain.Refusal
	if t.flags.dry && errors.As(err, &r) && r.Reason == "ERC20InsufficientAllowance" {
		t.sent = append(t.sent, sentTx{Action: actionName(a) + " (after the approval)"})
		return chain.Result{}, nil
	}
	return res, err
}

// done prints what was sent.
func (t *teller) done() error {
	var b strings.Builder
	for _, s := range t.sent {
		switch {
		case t.flags.dry && s.Gas == 0:
			fmt.Fprintf(&b, "would send %s; its gas shows once that is done\n", s.Action)
		case t.flags.dry:
			fmt.Fprintf(&b, "would send %s: %d gas, %s ether now\n", s.Action, s.Gas, s.Cost)
		default:
			fmt.Fprintf(&b, "%s: %s, %d gas\n", s.Action, s.Tx, s.Gas)
		}
	}
	return t.a.show(map[string]any{"dry_run": t.flags.dry, "transactions": t.sent}, b.String())
}

// all carries out actions in turn, the last thing that a command does.
func (t *teller) all(ctx context.Context, as ...chain.Action) error {
	for _, a := range as {
		if _, err := t.do(ctx, a); err != nil {
			return err
		}
	}
	return t.done()
}

// pay is spend and the last thing that a command does.
func (t *teller) pay(ctx context.Context, amount chain.Amount, a chain.Action) error {
	if err := t.spend(ctx, amount, a); err != nil {
		return err
	}
	return t.done()
}

// atLedger completes a command that asks the ledger, or that acts there.
func (a *app) atLedger(c *cobra.Command, acts bool, run func(context.Context, *teller, []string) error) *cobra.Command {
	f := new(chainFlags)
	f.add(c, acts)
	c.RunE = a.at(f, run)
	return c
}

// onRun is atLedger for a command whose first argument is a run.
func (a *app) onRun(c *cobra.Command, acts bool, f func(context.Context, *teller, chain.Hash, []string) error) *cobra.Command {
	var sponsor string
	c.Flags().StringVar(&sponsor, "sponsor", "", "address that published the run (default this account)")
	return a.atLedger(c, acts, func(ctx context.Context, t *teller, args []string) error {
		run, err := t.runOf(args[0], sponsor)
		if err != nil {
			return err
		}
		return f(ctx, t, run, args)
	})
}

// at runs f with a teller, within the timeout.
func (a *app) at(f *chainFlags, run func(context.Context, *teller, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
		defer cancel()
		t, err := a.teller(ctx, f)
		if err != nil {
			return whatNext(err)
		}
		defer t.close()
		return whatNext(run(ctx, t, args))
	}
}

// nexts is what to do about a refusal, where the command that met it knows no better.
var nexts = map[string]string{
	"AlreadyChallenging":       "wait for its answer or verdict: `shoal dispute status RUN`",
	"AlreadyDemanded":          "`shoal dispute status RUN` shows whether it is answered; ask for another --index",
	"AlreadyProposed":          "settle that one first: `shoal dispute status RUN` shows where it is",
	"AlreadyVoted":             "reveal it in time: `shoal dispute reveal RUN`",
	"BadIndex":                 "the epoch's file shows how many leaves there are; they count from 0",
	"BadProof":                 "use the file of the run's last final epoch",
	"CaseOpen":                 "`shoal dispute status RUN` shows where it is",
	"EnforcedPause":            "withdrawals and claims go on; governance takes it back: `shoal govern propose --unpause`",
	"ERC20InsufficientBalance": "`shoal balance` shows what there is",
	"Innocent":                 "what only recomputation shows goes before the validators: `shoal epoch challenge --evidence`",
	"KeyUnknown":               "`shoal chain key register FILE` registers one; a revoked key never serves again",
	"NoBond":                   "`shoal epoch propose` deposits one by itself; `shoal balance` shows what is free",
	"NotAccused":               "only the account that is convicted may appeal, with its own key or one registered for it",
	"NotEnoughStake":           "`shoal balance` shows what is staked",
	"NotProposed":              "`shoal dispute status RUN` shows what became of it; `shoal epoch propose` proposes",
	"NotValidator":             "stake what the deployment asks for (`shoal stake AMOUNT`); it counts from the next epoch on",
	"ZeroAmount":               "give an amount above 0",
	"NotVoter":                 "the stake of an epoch's validators is that of its beginning: `shoal stake` counts from the next on",
	"AlreadyConvicted":         "nothing is to be done; other messages may convict for another round or parent",
	"KeyTaken":                 "make another key, for example with `shoal --dir OTHER key new --light`",
	"BadTerms":                 "an epoch takes 10 s to 30 days, --royalty is at most 10000, and the split adds up to 10000",
	"NothingMatured":           "`shoal unbond` starts an unbonding, `shoal balance` shows when it is over",
	"NothingToCollect":         "revenue comes with `shoal voucher redeem --flush`",
	"NothingToMint":            "claim first: `shoal claim FILE`",
	"NoShares":                 "only a manifest with `shares: true` gives a run shares",
	"OverBudget":               "recompute the epoch with the run's present rate and pool: `shoal epoch propose`",
	"RunEnded":                 "`shoal chain status` shows when; what was earned can be claimed",
	"RunPaused":                "its sponsor resumes it: `shoal sponsor resume RUN`",
	"RunUnknown":               "`shoal chain status` lists the runs; one of another account needs its --sponsor, and --budget publishes a new one",
	"TooEarly":                 "`shoal dispute status RUN` shows until when; an epoch must be over before it is proposed",
	"TooFewVotes":              "more validators must sign, or wait for the end of the challenge window",
	"TooLate":                  "`shoal dispute status RUN` shows what is still possible",
	"TooManyUnbondings":        "wait for the next one to be over, then `shoal withdraw`",
	"WrongEpoch":               "`shoal chain status` shows the last final epoch: propose a later one with --number",
	"WrongHash":                "use the file that its proposer has published",
	"WrongStage":               "`shoal dispute status RUN` shows where the case is",
}

// whatNext adds advice to an error that has none.
func whatNext(err error) error {
	var adv advice
	var use usageError
	var r *chain.Refusal
	var path *fs.PathError
	switch {
	case err == nil || errors.As(err, &adv) || errors.As(err, &use):
		return err
	case errors.As(err, &r) && nexts[r.Reason] != "":
		return advise(err, "%s", nexts[r.Reason])
	case errors.As(err, &r):
		return advise(err, "`shoal chain status` and `shoal balance` show where things are")
	case errors.As(err, &path) && errors.Is(err, fs.ErrNotExist):
		return advise(err, "is the name right? Who makes the file passes it on")
	case errors.Is(err, context.DeadlineExceeded):
		return advise(err, "what was sent stays sent: run the same command again and it is waited for, not sent twice; --timeout waits longer")
	case errors.Is(err, evm.ErrReplaced):
		return advise(err, "look with `shoal balance` or `shoal chain status` whether it was done, before doing it again")
	case errors.Is(err, evm.ErrLyingNode):
		return advise(err, "change the url in %s to a node that you trust more", chainFile)
	}
	return err
}

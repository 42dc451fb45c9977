package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/devchain"
	"github.com/shoalnet/shoal/chain/evm"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Files of the chain in the data directory.
const (
	chainFile  = "chain.json"          // which deployment this peer settles on
	flightFile = "chain.inflight.json" // transactions that are sent and not yet safe
	chainData  = "devchain"            // of `shoal chain dev`
)

// A deployment says where this peer settles. Peers of one swarm share it.
type deployment struct {
	URL    string       `json:"url"`
	Preset string       `json:"preset"` // dev, base-sepolia or custom
	Book   chain.Book   `json:"book"`
	Config chain.Config `json:"config"`
}

// moneyCmds are the commands of the ledger.
func (a *app) moneyCmds() []*cobra.Command {
	return []*cobra.Command{a.chainCmd(), a.stakeCmd(), a.unbondCmd(), a.withdrawCmd(), a.fundCmd(), a.epochCmd(),
		a.claimCmd(), a.balanceCmd(), a.sharesCmd(), a.voucherCmd(), a.disputeCmd(), a.sponsorCmd(), a.governCmd()}
}

// chainFlags are those of every command that asks the chain.
type chainFlags struct {
	keyFlags
	dry     bool
	timeout time.Duration
}

func (f *chainFlags) add(c *cobra.Command, acts bool) {
	f.keyFlags.add(c)
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
	failed error // of a question that a pure computation asked
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

// teller opens the key and the deployment of the data directory.
func (a *app) teller(ctx context.Context, f *chainFlags) (*teller, error) {
	var d deployment
	b, err := readBounded(a.path(chainFile), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, advise(errors.New("this peer knows no ledger"), "start one with `shoal chain dev` and then `shoal chain deploy`, or copy a swarm's %s to %s", chainFile, a.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("deployment: %w", err)
	}
	if err := json.Unmarshal(b, &d); err != nil {
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
	s, err := a.sender(c, k)
	if err != nil {
		return nil, err
	}
	l, err := evm.Open(ctx, c, d.Book, s)
	if err != nil {
		return nil, advise(err, "%s is not of what runs at %s: copy the swarm's again, or move it away and deploy", a.path(chainFile), d.URL)
	}
	return &teller{a: a, flags: f, ledger: l, key: k, me: chain.AddressOf(k), where: d}, nil
}

func (a *app) sender(c *evm.Client, k *wire.Key) (*evm.Sender, error) {
	return evm.NewSender(c, k, evm.SenderOptions{
		File:  a.path(flightFile),
		Alarm: big.NewInt(1e15),
		OnLow: func(who common.Address, wei *big.Int) {
			a.say("note: %s has only %s ether left for gas", who, chain.FormatAmount(wei))
		},
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
	case err != nil && preset == "dev":
		return nil, advise(err, "is `shoal chain dev` running, on that port?")
	case err != nil:
		return nil, advise(err, "is the node up, and the URL right? What is in flight is kept and goes on when it is back")
	}
	return c, nil
}

// do carries out an action, or with --dry-run says what it would cost.
func (t *teller) do(ctx context.Context, a chain.Action) (chain.Result, error) {
	name := strings.TrimPrefix(fmt.Sprintf("%T", a), "chain.")
	if t.flags.dry {
		gas, price, err := t.ledger.Estimate(ctx, t.me, a)
		if err != nil {
			return chain.Result{}, fmt.Errorf("%s: %w", name, err)
		}
		cost := new(big.Int).Mul(price, new(big.Int).SetUint64(gas))
		t.sent = append(t.sent, sentTx{Action: name, Gas: gas, Cost: chain.FormatAmount(cost)})
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

// spent is spend that returns what the action left.
func (t *teller) spent(ctx context.Context, amount chain.Amount, a chain.Action) (chain.Result, error) {
	has, err := t.ledger.Balance(ctx, t.me)
	if err != nil {
		return chain.Result{}, err
	}
	if has.Cmp(amount) < 0 {
		return chain.Result{}, advise(fmt.Errorf("%s has %s SHOAL, %s are needed", t.me, chain.FormatAmount(has), chain.FormatAmount(amount)),
			"have some sent to it: who deployed holds the supply and sends with `shoal chain send %s AMOUNT`", t.me)
	}
	if _, err := t.do(ctx, chain.Approve{Spender: a.Target(), Amount: amount}); err != nil {
		return chain.Result{}, err
	}
	res, err := t.do(ctx, a)
	var r *chain.Refusal
	if t.flags.dry && errors.As(err, &r) && r.Reason == "ERC20InsufficientAllowance" {
		t.sent = append(t.sent, sentTx{Action: strings.TrimPrefix(fmt.Sprintf("%T", a), "chain.") + " (after the approval)"})
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

// at runs f with a teller, within the timeout.
func (a *app) at(f *chainFlags, run func(context.Context, *teller, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
		defer cancel()
		t, err := a.teller(ctx, f)
		if err != nil {
			return whatNext(err)
		}
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

func (a *app) chainCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "chain",
		Short: "Run, deploy to and look at the ledger",
		Long: `The ledger holds stakes, budgets, rewards and ownership shares. It is an EVM
chain: one in this program, for a newcomer (shoal chain dev), Base Sepolia, or
any other by URL. Training never waits for it.`,
		Example: `  shoal chain dev                       # in a terminal of its own
  shoal chain deploy
  shoal chain status`,
	}, a.chainDevCmd(), a.chainDeployCmd(), a.chainStatusCmd(), a.chainKeyCmd(), a.chainSendCmd())
}

func (a *app) chainDevCmd() *cobra.Command {
	var port int
	var data string
	var fund []string
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run a chain of one's own, on loopback, until interrupted",
		Long: `Runs an EVM chain in this process: persistent, JSON-RPC on 127.0.0.1 only, ready
for any Ethereum client. This peer's key, the addresses of --fund and a key that
everybody knows (b71c71a6…, go-ethereum's test key) have ether from the genesis
on. Where a chain runs on the port already, it says so and ends.`,
		Example: `  shoal chain dev
  shoal chain dev --port 18561 --data /var/lib/shoal-chain --fund 0x71562b71999873db5b286df957af199ec94617f7`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if data == "" {
				data = a.path(chainData)
			}
			if err := os.MkdirAll(data, 0o700); err != nil {
				return fmt.Errorf("chain: %w", err)
			}
			test, err := crypto.HexToECDSA("b71c71a67e1177ad4e901695e1b4b9ee17ae16c6668d313eac2f96dbcda3f291")
			if err != nil {
				return err
			}
			funded := []common.Address{crypto.PubkeyToAddress(test.PublicKey)}
			if own, ok := a.ownAddress(); ok {
				funded = append(funded, common.Address(own))
			}
			for _, s := range fund {
				x, err := chain.ParseAddress(s)
				if err != nil {
					return usagef("--fund: %v", err)
				}
				funded = append(funded, common.Address(x))
			}
			d, err := devchain.Start(cmd.Context(), devchain.Options{Dir: data, Port: port, ChainID: evm.DevChainID, Funded: funded})
			if err != nil {
				return err
			}
			if err := a.show(map[string]any{"url": d.URL, "chain_id": evm.DevChainID, "joined": d.Joined}, d.URL+"\n"); err != nil {
				return errors.Join(err, d.Close())
			}
			if d.Joined {
				a.say("a dev chain runs on that port already")
				return nil
			}
			a.say("chain %d; next: `shoal chain deploy` in another terminal; interrupt to end", evm.DevChainID)
			<-cmd.Context().Done()
			return d.Close()
		},
	}
	c.Flags().IntVar(&port, "port", evm.DevPort, "port on 127.0.0.1")
	c.Flags().StringVar(&data, "data", "", "the chain's directory (default "+chainData+" in the data directory)")
	c.Flags().StringSliceVar(&fund, "fund", nil, "more addresses with ether at the genesis; of no effect on a chain that exists")
	return c
}

// ownAddress is that of the keystore file, which is not opened for it.
func (a *app) ownAddress() (chain.Address, bool) {
	b, err := readBounded(a.path(keyFile), maxKeyFile)
	if err != nil {
		return chain.Address{}, false
	}
	var k struct{ Address string }
	if json.Unmarshal(b, &k) != nil {
		return chain.Address{}, false
	}
	x, err := chain.ParseAddress(k.Address)
	return x, err == nil
}

func (a *app) chainDeployCmd() *cobra.Command {
	var f chainFlags
	var where string
	var id uint64
	var slow bool
	c := &cobra.Command{
		Use:   "deploy",
		Short: "Create the contracts; this peer then settles there",
		Long: `Creates the contracts with this peer's key, which then holds the whole supply of
the token and may pause deposits. Governance is a council of token holders
behind a timelock. On the dev chain windows are ten to fifty seconds and unbonding takes
two minutes; elsewhere they are a day and three weeks. The deployment is written
to ` + chainFile + ` in the data directory: give it to the other peers of the swarm.`,
		Example: `  shoal chain deploy
  shoal chain deploy --chain base-sepolia
  shoal chain deploy --chain https://rpc.example.org --chain-id 10`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(a.path(chainFile)); err == nil {
				return advise(fmt.Errorf("this peer settles on a deployment already (%s)", a.path(chainFile)), "move the file away to deploy anew")
			}
			d := deployment{Preset: "custom", URL: where}
			if p, ok := evm.Presets[where]; ok {
				d.Preset, d.URL, id = where, p.URL, p.ChainID
			} else if strings.HasPrefix(where, "http://127.0.0.1:") && id == 0 {
				d.Preset, id = "dev", evm.DevChainID
			} else if id == 0 {
				return usageError{fmt.Errorf("--chain %q is no preset, and for a URL the chain ID is missing", where), "dev and base-sepolia are presets; a URL needs --chain-id, so that the right chain is written to"}
			}
			k, err := a.openKey(&f.keyFlags)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			cl, err := dialChain(ctx, d.Preset, d.URL, id)
			if err != nil {
				return err
			}
			d.Config = chain.DefaultConfig(chain.AddressOf(k))
			if d.Preset == "dev" && !slow {
				d.Config = chain.DevConfig(chain.AddressOf(k))
			}
			wei, err := cl.BalanceAt(ctx, common.Address(chain.AddressOf(k)), nil)
			if err != nil {
				return fmt.Errorf("balance: %w", err)
			}
			if wei.Sign() == 0 {
				return advise(fmt.Errorf("%s has no ether on chain %d to pay for gas", chain.AddressOf(k), id), "send it some; on a new dev chain start it with --fund %s", chain.AddressOf(k))
			}
			if f.dry {
				return a.show(map[string]any{"dry_run": true, "chain": id, "config": d.Config}, fmt.Sprintf("would create 11 contracts on chain %d with some 30,000,000 gas\n", id))
			}
			s, err := a.sender(cl, k)
			if err != nil {
				return err
			}
			if d.Book, err = evm.Deploy(ctx, s, d.Config); err != nil {
				return err
			}
			if d.Config.Governor.IsZero() {
				d.Config.Governor = d.Book.Contracts[chain.Timelock]
			}
			b, err := json.MarshalIndent(d, "", "  ")
			if err != nil {
				return err
			}
			if err := writeFile(a.path(chainFile), append(b, '\n'), 0o600); err != nil {
				return fmt.Errorf("deployment: %w", err)
			}
			var text strings.Builder
			for _, c := range []chain.Contract{chain.Token, chain.Staking, chain.Runs, chain.Settlement, chain.Disputes, chain.Equivocation, chain.Vouchers, chain.Convictions, chain.Council, chain.Timelock} {
				fmt.Fprintf(&text, "%-13s %s\n", c, d.Book.Contracts[c])
			}
			return a.show(d, text.String())
		},
	}
	f.add(c, true)
	c.Flags().StringVar(&where, "chain", "dev", "dev, base-sepolia or the URL of a JSON-RPC")
	c.Flags().Uint64Var(&id, "chain-id", 0, "the chain ID that the URL must have")
	c.Flags().BoolVar(&slow, "slow", false, "the windows of a public chain on the dev chain too")
	return c
}

func (a *app) chainStatusCmd() *cobra.Command {
	var f chainFlags
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show the deployment, its runs and whether its books balance",
		Example: "  shoal chain status --json",
		Args:    exactly(),
		RunE: a.at(&f, func(ctx context.Context, t *teller, _ []string) error {
			now, err := t.ledger.Now(ctx)
			if err != nil {
				return err
			}
			es, cur, err := t.ledger.Events(ctx, chain.Cursor{})
			if err != nil {
				return err
			}
			type line struct {
				ID       chain.Hash     `json:"id"`
				Run      chain.Run      `json:"run"`
				Final    chain.Final    `json:"final"`
				Proposal chain.Proposal `json:"proposal"`
				Epoch    uint64         `json:"epoch"` // that runs now
			}
			var runs []line
			var ids []chain.Hash
			for _, e := range es {
				if e.Name != "Published" {
					continue
				}
				x := line{ID: e.Run}
				if x.Run, err = t.ledger.Run(ctx, e.Run); err != nil {
					return err
				}
				if x.Final, err = t.ledger.Final(ctx, e.Run); err != nil {
					return err
				}
				if x.Proposal, err = t.ledger.Proposal(ctx, e.Run); err != nil {
					return err
				}
				x.Epoch = x.Run.EpochAt(now)
				runs, ids = append(runs, x), append(ids, e.Run)
			}
			books, err := t.ledger.Books(ctx, ids...)
			if err != nil {
				return err
			}
			params, err := t.ledger.Params(ctx)
			if err != nil {
				return err
			}
			balanced := true
			for _, l := range books {
				balanced = balanced && l.Has.Cmp(l.Owes) >= 0
			}
			var b strings.Builder
			fmt.Fprintf(&b, "chain %d at %s, safe block %d, %d events\n", t.where.Book.ChainID, t.where.URL, cur.Block, len(es))
			for _, x := range runs {
				fmt.Fprintf(&b, "run %s: pool %s, unclaimed %s, epoch %d now, %d final, proposal %d %s\n", x.ID, chain.FormatAmount(x.Run.Pool),
					chain.FormatAmount(x.Run.Unclaimed), x.Epoch, x.Final.Epoch, x.Proposal.Serial, x.Proposal.Status)
			}
			for _, l := range books {
				fmt.Fprintf(&b, "  %-18s has %s, owes %s\n", l.Contract, chain.FormatAmount(l.Has), chain.FormatAmount(l.Owes))
			}
			if balanced {
				b.WriteString("the books balance\n")
			} else {
				b.WriteString("THE BOOKS DO NOT BALANCE\n")
			}
			return a.show(map[string]any{"chain": t.where, "block": cur.Block, "time": now, "params": params, "runs": runs, "books": books, "balanced": balanced, "events": toldEvents(es)}, b.String())
		}),
	}
	f.add(c, false)
	return c
}

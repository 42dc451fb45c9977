package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/devchain"
	"github.com/shoalnet/shoal/chain/evm"
)

// Files of the chain in the data directory.
const (
	chainFile  = "chain.json"          // which deployment this peer settles on
	flightFile = "chain.inflight.json" // transactions that are sent and not yet safe
	flightLock = "chain.lock"          // of who sends them
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
			if port < 0 || port > 65535 {
				return usagef("--port %d: want 1 to 65535, or 0 for any that is free", port)
			}
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
			deploy := "shoal chain deploy"
			if port != evm.DevPort {
				deploy += fmt.Sprintf(" --chain %s --chain-id %d", d.URL, evm.DevChainID)
			}
			a.say("chain %d; next: `%s` in another terminal; interrupt to end", evm.DevChainID, deploy)
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
			unlock, err := a.lockFlights(ctx)
			if err != nil {
				return err
			}
			defer unlock()
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

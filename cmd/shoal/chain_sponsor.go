package main

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
)

// sponsorCmd holds what a run's sponsor decides after it has published it.
func (a *app) sponsorCmd() *cobra.Command {
	one := func(use, short, long string, act func(chain.Hash) chain.Action) *cobra.Command {
		var f chainFlags
		c := &cobra.Command{
			Use: use + " RUN", Short: short, Long: long, Example: "  shoal sponsor " + use + " run.yaml", Args: exactly("RUN"),
			RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
				run, err := t.runOf(args[0], "")
				if err != nil {
					return err
				}
				if _, err := t.do(ctx, act(run)); err != nil {
					return t.whyNotSponsor(ctx, run, err)
				}
				return t.done()
			}),
		}
		f.add(c, true)
		return c
	}
	return group(&cobra.Command{
		Use:   "sponsor",
		Short: "Pause, end, reprice or take back a run that this account pays for",
		Example: `  shoal sponsor rate run.yaml 20
  shoal sponsor end run.yaml
  shoal sponsor refund run.yaml`,
	},
		one("pause", "Stop deposits to a run and proposals of its epochs", "What was earned can still be claimed. A run's end ends its pause.", func(id chain.Hash) chain.Action { return chain.PauseRun{Run: id, Paused: true} }),
		one("resume", "Take a pause back", "", func(id chain.Hash) chain.Action { return chain.PauseRun{Run: id} }),
		one("end", "Let no further epoch begin", "The epochs that have begun can be settled for a while; what is left of the pool\ncan then be taken back with `shoal sponsor refund`.", func(id chain.Hash) chain.Action { return chain.EndRun{Run: id} }),
		one("refund", "Take back what an ended run has not spent", "Possible once no epoch can be settled any more. What was earned stays.", func(id chain.Hash) chain.Action { return chain.Refund{Run: id} }),
		a.sponsorRateCmd())
}

func (t *teller) whyNotSponsor(ctx context.Context, run chain.Hash, err error) error {
	var r *chain.Refusal
	if !errors.As(err, &r) {
		return err
	}
	x, e := t.ledger.Run(ctx, run)
	if e != nil {
		return advise(e, "`shoal chain status` lists the runs")
	}
	switch {
	case r.Reason == "NotSponsor":
		return advise(err, "the run's sponsor is %s", x.Sponsor)
	case r.Reason == "TooEarly" && x.Ended == 0:
		return advise(err, "end the run first: `shoal sponsor end`")
	case r.Reason == "TooEarly":
		return advise(err, "its epochs can be settled until %s", clock(x.Ended+x.Length+t.where.Config.ClaimWindow))
	case r.Reason == "RunLive":
		return advise(err, "an epoch is proposed and must be settled first")
	}
	return err
}

func (a *app) sponsorRateCmd() *cobra.Command {
	var f chainFlags
	var split string
	c := &cobra.Command{
		Use:     "rate RUN BUDGET",
		Short:   "Change what an epoch may cost, from the next epoch on",
		Example: "  shoal sponsor rate run.yaml 20 --split 7000,1000,1500,500",
		Args:    exactly("RUN", "BUDGET"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			run, err := t.runOf(args[0], "")
			if err != nil {
				return err
			}
			n, err := amountOf(args[1])
			if err != nil {
				return err
			}
			x, err := t.ledger.Run(ctx, run)
			if err != nil {
				return advise(err, "`shoal chain status` lists the runs")
			}
			now, err := t.ledger.Now(ctx)
			if err != nil {
				return err
			}
			r, err := t.ledger.RateAt(ctx, run, x.EpochAt(now)+1)
			if err != nil {
				return err
			}
			r.Budget = n
			if split != "" {
				if r.Split, err = splitOf(split); err != nil {
					return err
				}
			}
			if _, err := t.do(ctx, chain.SetRate{Run: run, Rate: r}); err != nil {
				return t.whyNotSponsor(ctx, run, err)
			}
			a.say("it holds from epoch %d on", x.EpochAt(now)+1)
			return t.done()
		}),
	}
	f.add(c, true)
	c.Flags().StringVar(&split, "split", "", "trainers,workers,validators,sponsor in parts per 10,000 (default as it is)")
	return c
}

func splitOf(s string) (split [4]uint16, err error) {
	parts := strings.Split(s, ",")
	sum := 0
	for i, p := range parts {
		n, err := strconv.ParseUint(strings.TrimSpace(p), 10, 16)
		if err != nil || i > 3 {
			return split, usagef("--split %q: want four numbers that add up to 10000", s)
		}
		split[i] = uint16(n)
		sum += int(n)
	}
	if len(parts) != 4 || sum != 10_000 {
		return split, usagef("--split %q: want four numbers that add up to 10000", s)
	}
	return split, nil
}

// chainKeyCmd holds what an account does about the keys that sign for it.
func (a *app) chainKeyCmd() *cobra.Command {
	var f, g chainFlags
	reg := &cobra.Command{
		Use:   "register FILE",
		Short: "Let the key in FILE sign for this account",
		Long: `FILE is a keystore or a text file with 64 hex digits. The key may sign receipts,
epochs and votes for this account, and propose; it can never move stake.`,
		Example: "  shoal chain key register node/key.json",
		Args:    exactly("FILE"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			if err := t.register(ctx, args[0]); err != nil {
				return err
			}
			return t.done()
		}),
	}
	f.add(reg, true)
	rev := &cobra.Command{
		Use:   "revoke ADDRESS",
		Short: "Let a key sign for this account no more",
		Long: `From then on the key signs nothing for this account. What it signed before counts,
and it can never be registered again.`,
		Example: "  shoal chain key revoke 0x71562b71999873db5b286df957af199ec94617f7",
		Args:    exactly("ADDRESS"),
		RunE: a.at(&g, func(ctx context.Context, t *teller, args []string) error {
			k, err := chain.ParseAddress(args[0])
			if err != nil {
				return usageError{err, "`shoal key show` prints a key's address"}
			}
			if _, err := t.do(ctx, chain.RevokeKey{Key: k}); err != nil {
				return err
			}
			return t.done()
		}),
	}
	g.add(rev, true)
	return group(&cobra.Command{
		Use:     "key",
		Short:   "Register and revoke keys that sign for this account",
		Example: "  shoal chain key register hot.hex\n  shoal chain key revoke 0x71562b71999873db5b286df957af199ec94617f7",
	}, reg, rev)
}

func (a *app) chainSendCmd() *cobra.Command {
	var f chainFlags
	var ether bool
	c := &cobra.Command{
		Use:   "send ADDRESS AMOUNT",
		Short: "Send tokens, or ether for gas, to an account",
		Example: `  shoal chain send 0x71562b71999873db5b286df957af199ec94617f7 5000
  shoal chain send 0x71562b71999873db5b286df957af199ec94617f7 0.1 --ether`,
		Args: exactly("ADDRESS", "AMOUNT"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			to, err := accountOf("ADDRESS", args[0])
			if err != nil {
				return err
			}
			n, err := spending(args[1])
			if err != nil {
				return err
			}
			read := t.ledger.Balance
			what := "SHOAL"
			if ether {
				read, what = t.ledger.Gas, "ether"
			}
			has, err := read(ctx, t.me)
			if err != nil {
				return err
			}
			if has.Cmp(n) < 0 {
				return advise(fmt.Errorf("%s has %s %s, %s are to be sent", t.me, chain.FormatAmount(has), what, chain.FormatAmount(n)), "send less, or from another account (--dir)")
			}
			switch {
			case !ether:
				_, err = t.do(ctx, chain.Transfer{To: to, Amount: n})
			case f.dry:
				var gas uint64
				var price *big.Int
				if gas, price, err = t.ledger.EstimatePay(ctx, t.me, to, n); err == nil {
					t.tried("Pay", gas, price)
				}
			default:
				var r chain.Result
				if r, err = t.ledger.Pay(ctx, t.me, to, n); err == nil {
					t.sent = append(t.sent, sentTx{Action: "Pay", Tx: &r.Tx, Gas: r.Gas})
				}
			}
			if err != nil {
				return err
			}
			return t.done()
		}),
	}
	f.add(c, true)
	c.Flags().BoolVar(&ether, "ether", false, "send ether and not tokens")
	return c
}

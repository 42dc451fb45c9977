package main

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
)

func (a *app) claimCmd() *cobra.Command {
	var f chainFlags
	var account string
	c := &cobra.Command{
		Use:   "claim FILE",
		Short: "Claim what the last final epoch owes",
		Long: `FILE is the file of the run's last final epoch. It says, receipt by receipt, what
was earned, what the claim will pay and what it costs; anyone may claim for
another account, and the money goes to that account.`,
		Example: `  shoal claim epoch3.json --dry-run
  shoal claim epoch3.json --account 0x71562b71999873db5b286df957af199ec94617f7`,
		Args: exactly("FILE"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			who := t.me
			if account != "" {
				var err error
				if who, err = chain.ParseAddress(account); err != nil {
					return usagef("--account: %v", err)
				}
			}
			x, err := readEpoch(args[0])
			if err != nil {
				return err
			}
			return t.claim(ctx, x, who)
		}),
	}
	f.add(c, true)
	c.Flags().StringVar(&account, "account", "", "claim for this account (default this peer's)")
	return c
}

func (t *teller) claim(ctx context.Context, x *chain.Settled, who chain.Address) error {
	if same, err := seal(x, t.where.Book); err != nil || !same {
		return errors.Join(errors.New("the file is not what the epoch's roots stand for"), err)
	}
	final, err := t.ledger.Final(ctx, x.Epoch.Run)
	if err != nil {
		return err
	}
	had, err := t.ledger.Claimed(ctx, x.Epoch.Run, who)
	if err != nil {
		return err
	}
	rate, err := t.ledger.RateAt(ctx, x.Epoch.Run, x.Epoch.Number)
	if err != nil {
		return err
	}
	units := [3]*big.Int{new(big.Int), new(big.Int), new(big.Int)}
	for _, e := range x.Entries {
		if e.Receipt.Kind <= chain.Validation {
			units[e.Receipt.Kind].Add(units[e.Receipt.Kind], new(big.Int).SetUint64(e.Receipt.Units))
		}
	}
	var b strings.Builder
	mine := 0
	for _, e := range x.Entries {
		k, err := t.ledger.Key(ctx, e.Receipt.Worker)
		if err != nil {
			return err
		}
		if k.Owner != who || e.Receipt.Kind > chain.Validation {
			continue
		}
		mine++
		part := rate.Split[e.Receipt.Kind]
		earned := new(big.Int).Mul(num(x.Epoch.Amounts[e.Receipt.Kind]), new(big.Int).SetUint64(e.Receipt.Units))
		if u := units[e.Receipt.Kind]; u.Sign() > 0 {
			earned.Quo(earned, u)
		}
		why := ""
		if earned.Sign() == 0 {
			why = ": the share of these units rounds to nothing"
			if part == 0 {
				why = fmt.Sprintf(": this run pays nothing for %s", e.Receipt.Kind)
			}
		}
		fmt.Fprintf(&b, "receipt %s: %d units of %s, about %s%s\n", e.Receipt.Subject.String()[:14], e.Receipt.Units, e.Receipt.Kind, chain.FormatAmount(earned), why)
	}
	i := x.Find(who)
	switch {
	case final.Rewards != x.Epoch.Rewards && final.Epoch < x.Epoch.Number:
		return advise(fmt.Errorf("epoch %d is not final yet, the last that is final is %d", x.Epoch.Number, final.Epoch), "wait for it, or `shoal epoch finalize` it")
	case final.Rewards != x.Epoch.Rewards:
		return advise(fmt.Errorf("epoch %d is not the last final one, which is %d", x.Epoch.Number, final.Epoch), "claim with the file of epoch %d: rewards are cumulative", final.Epoch)
	case i < 0 && mine == 0:
		return fmt.Errorf("%s has earned nothing: no receipt of its hot keys is in the epoch, and none was before", who)
	case i < 0 || x.Rewards[i].Amount.Cmp(had) <= 0:
		fmt.Fprintf(&b, "nothing to claim: %s was paid %s already, which is all that it has earned\n", who, chain.FormatAmount(had))
		return t.a.show(map[string]any{"account": who, "pays": "0", "claimed": chain.FormatAmount(had), "receipts": mine}, b.String())
	}
	due := new(big.Int).Sub(x.Rewards[i].Amount, had)
	fmt.Fprintf(&b, "pays %s to %s: %s in all, %s paid before\n", chain.FormatAmount(due), who, chain.FormatAmount(x.Rewards[i].Amount), chain.FormatAmount(had))
	if !t.a.json {
		if err := t.a.show(nil, b.String()); err != nil {
			return err
		}
	}
	if _, err := t.do(ctx, chain.Claim{Run: x.Epoch.Run, Reward: x.Rewards[i], Proof: x.RewardProof(i)}); err != nil {
		return err
	}
	if t.a.json {
		return t.a.show(map[string]any{"account": who, "pays": chain.FormatAmount(due), "claimed": chain.FormatAmount(had), "receipts": mine, "dry_run": t.flags.dry, "transactions": t.sent}, "")
	}
	return t.done()
}

func num(a chain.Amount) *big.Int {
	if a == nil {
		return new(big.Int)
	}
	return a
}

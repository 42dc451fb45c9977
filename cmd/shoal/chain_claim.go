package main

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
)

func (a *app) claimCmd() *cobra.Command {
	var f chainFlags
	var account string
	c := &cobra.Command{
		Use:   "claim [FILE]",
		Short: "Claim what the last final epoch owes",
		Long: `Pays what this peer's work has earned, by what the peer itself worked out from the
run's final commits, and says receipt by receipt what each earned or why it
earned nothing. With FILE it goes by the file of the run's last final epoch
instead. Anyone may claim for another account; the money goes to that account.`,
		Example: `  shoal claim
  shoal claim --dry-run
  shoal claim epoch3.json --dry-run
  shoal claim epoch3.json --account 0x71562b71999873db5b286df957af199ec94617f7`,
		Args: atMost("FILE"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			who, err := t.account(ctx)
			if err != nil {
				return err
			}
			if account != "" {
				if who, err = chain.ParseAddress(account); err != nil {
					return usagef("--account: %v", err)
				}
			}
			if len(args) == 0 {
				fs, x, err := t.derived(ctx)
				if err != nil {
					return err
				}
				var b strings.Builder
				lines := why(&b, fs, who, t.key.Peer())
				return t.claim(ctx, x, who, b.String(), lines)
			}
			x, err := readEpoch(args[0])
			if err != nil {
				return err
			}
			told, n, err := t.receipts(ctx, x, who)
			if err != nil {
				return err
			}
			return t.claim(ctx, x, who, told, n)
		}),
	}
	f.add(c, true)
	c.Flags().StringVar(&account, "account", "", "claim for this account (default this peer's)")
	return c
}

// account is whom this peer's key works for: its owner, or itself.
func (t *teller) account(ctx context.Context) (chain.Address, error) {
	k, err := t.ledger.Key(ctx, t.me)
	if err != nil || k.Owner.IsZero() {
		return t.me, err
	}
	return k.Owner, nil
}

// receipts says what an account's receipts in an epoch's file earned, about.
func (t *teller) receipts(ctx context.Context, x *chain.Settled, who chain.Address) (string, []settle.Line, error) {
	rate, err := t.ledger.RateAt(ctx, x.Epoch.Run, x.Epoch.Number)
	if err != nil {
		return "", nil, err
	}
	units := [3]*big.Int{new(big.Int), new(big.Int), new(big.Int)}
	for _, e := range x.Entries {
		if e.Receipt.Kind <= chain.Validation {
			units[e.Receipt.Kind].Add(units[e.Receipt.Kind], new(big.Int).SetUint64(e.Receipt.Units))
		}
	}
	var b strings.Builder
	var lines []settle.Line
	for _, e := range x.Entries {
		k, err := t.ledger.Key(ctx, e.Receipt.Worker)
		if err != nil {
			return "", nil, err
		}
		if k.Owner != who || e.Receipt.Kind > chain.Validation {
			continue
		}
		part := rate.Split[e.Receipt.Kind]
		earned := new(big.Int).Mul(num(x.Epoch.Amounts[e.Receipt.Kind]), new(big.Int).SetUint64(e.Receipt.Units))
		if u := units[e.Receipt.Kind]; u.Sign() > 0 {
			earned.Quo(earned, u)
		}
		l := settle.Line{Epoch: x.Epoch.Number, Account: who, Kind: e.Receipt.Kind.String(), Subject: e.Receipt.Subject, Units: e.Receipt.Units, Amount: earned}
		if earned.Sign() == 0 {
			l.Why = "the share of these units rounds to nothing"
			if part == 0 {
				l.Why = fmt.Sprintf("this run pays nothing for %s", e.Receipt.Kind)
			}
		}
		lines = append(lines, l)
		fmt.Fprintf(&b, "receipt %s: %d units of %s, about %s", e.Receipt.Subject.String()[:14], e.Receipt.Units, e.Receipt.Kind, chain.FormatAmount(earned))
		if l.Why != "" {
			b.WriteString(": " + l.Why)
		}
		b.WriteString("\n")
	}
	return b.String(), lines, nil
}

// claim pays what the last final epoch x owes an account; told says what for.
func (t *teller) claim(ctx context.Context, x *chain.Settled, who chain.Address, told string, lines []settle.Line) error {
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
	var b strings.Builder
	b.WriteString(told)
	say := func(pays chain.Amount) map[string]any {
		return map[string]any{"account": who, "run": x.Epoch.Run, "epoch": x.Epoch.Number, "pays": chain.FormatAmount(pays), "claimed": chain.FormatAmount(had),
			"receipts": len(lines), "lines": lines, "dry_run": t.flags.dry, "transactions": t.sent}
	}
	i := x.Find(who)
	switch {
	case final.Rewards != x.Epoch.Rewards && final.Epoch < x.Epoch.Number:
		return advise(fmt.Errorf("epoch %d is not final yet, the last that is final is %d", x.Epoch.Number, final.Epoch), "wait for it, or `shoal epoch finalize` it")
	case final.Rewards != x.Epoch.Rewards:
		return advise(fmt.Errorf("epoch %d is not the last final one, which is %d", x.Epoch.Number, final.Epoch), "claim with the file of epoch %d: rewards are cumulative", final.Epoch)
	case i < 0 && len(lines) == 0:
		return fmt.Errorf("%s has earned nothing: no receipt of its hot keys is in the epoch, and none was before", who)
	case i < 0 || x.Rewards[i].Amount.Cmp(had) <= 0:
		fmt.Fprintf(&b, "nothing to claim: %s was paid %s already, which is all that it has earned\n", who, chain.FormatAmount(had))
		return t.a.show(say(nil), b.String())
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
		return t.a.show(say(due), "")
	}
	return t.done()
}

func num(a chain.Amount) *big.Int {
	if a == nil {
		return new(big.Int)
	}
	return a
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/gpu/hf"
)

// A voucher is a payer's word for what it has spent in a channel in all.
type voucher struct {
	ChainID    uint64        `json:"chainId"`
	Contract   chain.Address `json:"contract"`
	Channel    chain.Hash    `json:"channel"`
	Cumulative string        `json:"cumulative"` // tokens
	Sig        []byte        `json:"sig"`
}

func (a *app) voucherCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "voucher",
		Short: "Pay for inference, or be paid for it",
		Long: `A payer opens a channel to a provider with one deposit, and then signs a voucher
for each answer: how much it has spent in the channel in all. Nothing of that
touches the chain. The provider redeems the last voucher when it likes; the
run's royalty of it goes to the holders of the run's shares. Either side closes
the channel, and what is left goes back to the payer.`,
		Example: `  shoal voucher open run.yaml 0x71562b71999873db5b286df957af199ec94617f7 20
  shoal voucher sign CHANNEL 0.5 --out voucher.json       # the payer, for each answer
  shoal voucher redeem voucher.json --flush               # the provider, now and then
  shoal voucher close CHANNEL`,
	}, a.voucherOpenCmd(), a.voucherDepositCmd(), a.voucherSignCmd(), a.voucherRedeemCmd(), a.voucherCloseCmd(), a.voucherStatusCmd())
}

func channelOf(s string) (chain.Hash, error) {
	h, err := chain.ParseHash(s)
	if err != nil {
		return h, usageError{fmt.Errorf("channel: %w", err), "`shoal voucher open` prints it"}
	}
	return h, nil
}

// onChannel is atLedger for a command whose first argument is an open channel.
func (a *app) onChannel(c *cobra.Command, acts bool, f func(context.Context, *teller, chain.Hash, chain.Channel, []string) error) *cobra.Command {
	return a.atLedger(c, acts, func(ctx context.Context, t *teller, args []string) error {
		id, err := channelOf(args[0])
		if err != nil {
			return err
		}
		c, err := t.channel(ctx, id)
		if err != nil {
			return err
		}
		return f(ctx, t, id, c, args)
	})
}

func (a *app) voucherOpenCmd() *cobra.Command {
	return a.onRun(&cobra.Command{
		Use:     "open RUN PROVIDER AMOUNT",
		Short:   "Open a channel to a provider with a deposit",
		Long:    "Opens a channel for paid inference of RUN's model. What is not spent comes back when the channel is closed.",
		Example: "  shoal voucher open run.yaml 0x71562b71999873db5b286df957af199ec94617f7 20",
		Args:    exactly("RUN", "PROVIDER", "AMOUNT"),
	}, true, func(ctx context.Context, t *teller, run chain.Hash, args []string) error {
		who, err := accountOf("PROVIDER", args[1])
		if err != nil {
			return err
		}
		n, err := spending(args[2])
		if err != nil {
			return err
		}
		if _, err := t.ledger.Run(ctx, run); err != nil {
			return advise(err, "`shoal chain status` lists the runs; a run that another account published needs its --sponsor")
		}
		r, err := t.spent(ctx, n, chain.OpenChannel{Run: run, Provider: who, Amount: n})
		if err != nil {
			return err
		}
		if err := t.done(); err != nil || t.flags.dry || a.json {
			return err
		}
		return a.show(nil, fmt.Sprintf("channel %s\n", r.ID))
	})
}

func (a *app) voucherDepositCmd() *cobra.Command {
	return a.onChannel(&cobra.Command{
		Use:     "deposit CHANNEL AMOUNT",
		Short:   "Put more into a channel",
		Example: "  shoal voucher deposit 0x5d0c… 10",
		Args:    exactly("CHANNEL", "AMOUNT"),
	}, true, func(ctx context.Context, t *teller, id chain.Hash, c chain.Channel, args []string) error {
		n, err := spending(args[1])
		if err != nil {
			return err
		}
		return t.pay(ctx, n, chain.TopUp{Channel: id, Amount: n})
	})
}

// channel reads a channel that must be open.
func (t *teller) channel(ctx context.Context, id chain.Hash) (chain.Channel, error) {
	c, err := t.ledger.Channel(ctx, id)
	var r *chain.Refusal
	if errors.As(err, &r) {
		return c, advise(fmt.Errorf("channel %s: %w", id, err), "`shoal voucher open` opens another")
	}
	return c, err
}

func (a *app) voucherSignCmd() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "sign CHANNEL TOTAL",
		Short: "Sign what was spent in a channel in all",
		Long: `TOTAL counts from the channel's opening, so each voucher contains those before it
and the provider keeps only the last. Nothing is sent to the chain.`,
		Example: "  shoal voucher sign 0x5d0c… 0.5 --out voucher.json",
		Args:    exactly("CHANNEL", "TOTAL"),
	}
	c.Flags().StringVar(&out, "out", "voucher.json", "file for the voucher; - is standard output")
	return a.onChannel(c, false, func(ctx context.Context, t *teller, id chain.Hash, c chain.Channel, args []string) error {
		n, err := spending(args[1])
		if err != nil {
			return err
		}
		switch {
		case c.Payer != t.me:
			return advise(fmt.Errorf("channel %s is paid by %s and not by this account, %s", id, c.Payer, t.me), "sign with the payer's key")
		case n.Cmp(c.Deposit) > 0:
			return advise(fmt.Errorf("%s is over the channel's deposit of %s", chain.FormatAmount(n), chain.FormatAmount(c.Deposit)), "put more in: `shoal voucher deposit %s AMOUNT`", id)
		case n.Cmp(c.Redeemed) <= 0:
			return advise(fmt.Errorf("%s were redeemed already: a voucher for %s adds nothing", chain.FormatAmount(c.Redeemed), chain.FormatAmount(n)), "TOTAL is everything that was spent since the channel's opening")
		}
		v := voucher{t.where.Book.ChainID, t.where.Book.Contracts[chain.Vouchers], id, chain.FormatAmount(n), chain.SignDigest(t.key, t.where.Book.VoucherDigest(id, n))}
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		if out == "-" {
			_, err = fmt.Fprintf(a.out, "%s\n", b)
			return err
		}
		if err := writeFile(out, append(b, '\n'), 0o600); err != nil {
			return fmt.Errorf("voucher: %w", err)
		}
		return a.show(v, fmt.Sprintf("%s: %s in all, %s more than was redeemed\n", out, v.Cumulative, chain.FormatAmount(new(big.Int).Sub(n, c.Redeemed))))
	})
}

func readVoucher(name string) (v voucher, n chain.Amount, err error) {
	b, err := readBounded(name, 1<<16)
	if err != nil {
		return v, nil, fmt.Errorf("voucher: %w", err)
	}
	if err := hf.Unmarshal(b, &v); err != nil {
		return v, nil, advise(fmt.Errorf("voucher: %s: %w", name, err), "give a file that `shoal voucher sign` has made")
	}
	if n, err = chain.ParseAmount(v.Cumulative); err != nil {
		return v, nil, advise(fmt.Errorf("voucher: %s: cumulative: %w", name, err), "give a file that `shoal voucher sign` has made")
	}
	return v, n, nil
}

func (a *app) voucherRedeemCmd() *cobra.Command {
	var flush bool
	c := &cobra.Command{
		Use:   "redeem FILE",
		Short: "Take what a voucher pays",
		Long: `Pays the provider what the voucher adds to those redeemed before, less the run's
royalty. --flush passes the royalty on to the holders of the run's shares at
once, who take it with "shoal shares RUN --collect".`,
		Example: "  shoal voucher redeem voucher.json --dry-run\n  shoal voucher redeem voucher.json --flush",
		Args:    exactly("FILE"),
	}
	c.Flags().BoolVar(&flush, "flush", false, "pass the royalty on to the holders of shares")
	return a.atLedger(c, true, func(ctx context.Context, t *teller, args []string) error {
		v, n, err := readVoucher(args[0])
		if err != nil {
			return err
		}
		if at := t.where.Book.Contracts[chain.Vouchers]; v.ChainID != t.where.Book.ChainID || v.Contract != at {
			return advise(fmt.Errorf("the voucher is for contract %s on chain %d, this peer settles at %s on chain %d", v.Contract, v.ChainID, at, t.where.Book.ChainID),
				"ask the payer to sign for the swarm's deployment")
		}
		c, err := t.channel(ctx, v.Channel)
		if err != nil {
			return err
		}
		who, err := chain.Recover(t.where.Book.VoucherDigest(v.Channel, n), v.Sig)
		switch {
		case err == nil && who != c.Payer:
			err = fmt.Errorf("it is signed by %s and not by the channel's payer %s", who, c.Payer)
			fallthrough
		case err != nil:
			return advise(fmt.Errorf("voucher %s: %w", args[0], err), "ask the payer for another one; serve nothing before")
		case n.Cmp(c.Redeemed) <= 0:
			return advise(fmt.Errorf("%s were redeemed already, the voucher says %s in all: it pays nothing more", chain.FormatAmount(c.Redeemed), v.Cumulative), "redeem the payer's newest voucher")
		case n.Cmp(c.Deposit) > 0:
			return advise(fmt.Errorf("the voucher says %s, the channel holds %s", v.Cumulative, chain.FormatAmount(c.Deposit)), "ask the payer for `shoal voucher deposit %s`", v.Channel)
		}
		adds := new(big.Int).Sub(n, c.Redeemed)
		royalty := new(big.Int).Mul(adds, big.NewInt(int64(c.Royalty)))
		royalty.Quo(royalty, big.NewInt(10_000))
		if _, err := t.do(ctx, chain.Redeem{Channel: v.Channel, Cumulative: n, Sig: v.Sig}); err != nil {
			return err
		}
		if flush && (royalty.Sign() > 0 || c.Due.Sign() > 0) && !t.flags.dry {
			if _, err := t.do(ctx, chain.Flush{Run: c.Run, Channels: []chain.Hash{v.Channel}}); err != nil {
				return err
			}
		}
		pays := new(big.Int).Sub(adds, royalty)
		if a.json {
			return a.show(map[string]any{"provider": c.Provider, "pays": chain.FormatAmount(pays), "royalty": chain.FormatAmount(royalty), "dry_run": t.flags.dry, "transactions": t.sent}, "")
		}
		if err := a.show(nil, fmt.Sprintf("pays %s to %s, and %s to the holders of the run's shares\n", chain.FormatAmount(pays), c.Provider, chain.FormatAmount(royalty))); err != nil {
			return err
		}
		return t.done()
	})
}

func (a *app) voucherCloseCmd() *cobra.Command {
	return a.onChannel(&cobra.Command{
		Use:   "close CHANNEL",
		Short: "Close a channel; what is left goes back to its payer",
		Long: `The provider closes at once: redeem first, vouchers are worth nothing afterwards.
The payer's first call announces it, so that the provider can still redeem; once
the delay is over the second call closes.`,
		Example: "  shoal voucher close 0x5d0c…",
		Args:    exactly("CHANNEL"),
	}, true, func(ctx context.Context, t *teller, id chain.Hash, c chain.Channel, _ []string) error {
		now, err := t.ledger.Now(ctx)
		if err != nil {
			return err
		}
		var act chain.Action = chain.CloseChannel{Channel: id}
		said := fmt.Sprintf("closed: %s go back to %s", chain.FormatAmount(new(big.Int).Sub(c.Deposit, c.Redeemed)), c.Payer)
		switch {
		case t.me == c.Provider || c.ClosesAt != 0 && now > c.ClosesAt:
		case c.ClosesAt != 0:
			return advise(fmt.Errorf("the channel can be closed after %s: until then its provider may redeem", clock(c.ClosesAt)), "try again then")
		case t.me == c.Payer:
			act, said = chain.RequestClose{Channel: id}, "announced; once the delay is over, run this again"
		default:
			return advise(fmt.Errorf("%s is neither the channel's payer nor its provider", t.me), "only they may close it")
		}
		if _, err := t.do(ctx, act); err != nil {
			return err
		}
		if t.flags.dry {
			said = "would be " + said
		}
		a.say("%s", said)
		return t.done()
	})
}

func (a *app) voucherStatusCmd() *cobra.Command {
	return a.onChannel(&cobra.Command{
		Use:     "status CHANNEL",
		Short:   "Show a channel's deposit, what was redeemed, and whether it is closing",
		Example: "  shoal voucher status 0x5d0c… --json",
		Args:    exactly("CHANNEL"),
	}, false, func(ctx context.Context, t *teller, id chain.Hash, c chain.Channel, _ []string) error {
		closing := "open"
		if c.ClosesAt != 0 {
			closing = "closing: its payer may close it after " + clock(c.ClosesAt) + "; redeem before, and serve nothing more"
		}
		left := chain.FormatAmount(new(big.Int).Sub(c.Deposit, c.Redeemed))
		v := map[string]any{"channel": id, "run": c.Run, "payer": c.Payer, "provider": c.Provider, "deposit": chain.FormatAmount(c.Deposit),
			"redeemed": chain.FormatAmount(c.Redeemed), "left": left, "royalty": c.Royalty, "due": chain.FormatAmount(c.Due), "closesAt": c.ClosesAt}
		return a.show(v, fmt.Sprintf("run       %s\npayer     %s\nprovider  %s\ndeposit   %s\nredeemed  %s\nleft      %s\nroyalty   %d.%02d %%, %s not passed on yet\n%s\n", c.Run, c.Payer, c.Provider,
			v["deposit"], v["redeemed"], left, c.Royalty/100, c.Royalty%100, v["due"], closing))
	})
}

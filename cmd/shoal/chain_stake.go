package main

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

func roleFlag(c *cobra.Command, role *string) {
	c.Flags().StringVar(role, "role", "validator", "validator or trainer")
}

func roleOf(s string) (uint8, error) {
	switch s {
	case "trainer":
		return chain.Trainer, nil
	case "validator":
		return chain.Validator, nil
	}
	return 0, usageError{fmt.Errorf("--role %q is none", s), "--role validator or --role trainer"}
}

// amountOf is a number of tokens, which may be none.
func amountOf(s string) (chain.Amount, error) {
	v, err := chain.ParseAmount(s)
	if err != nil {
		return nil, usageError{err, "for example 12.5"}
	}
	return v, nil
}

// spending is a number of tokens that are to be paid, staked or sent.
func spending(s string) (chain.Amount, error) {
	v, err := amountOf(s)
	if err == nil && v.Sign() == 0 {
		return nil, usageError{fmt.Errorf("the amount %q is zero", s), "give an amount above 0"}
	}
	return v, err
}

// accountOf is an account that is to have something, which the zero address is not: what is sent there is lost.
func accountOf(what, s string) (chain.Address, error) {
	x, err := chain.ParseAddress(s)
	switch {
	case err != nil && strings.Contains(s, "."):
		return x, usageError{fmt.Errorf("%s: %w", what, err), "names are not looked up: give the address that the name stands for"}
	case err != nil:
		return x, usageError{fmt.Errorf("%s: %w", what, err), "`shoal key show` prints an account's address"}
	case x.IsZero():
		return x, usageError{fmt.Errorf("%s: %s is nobody's address", what, x), "`shoal key show` prints an account's address"}
	}
	return x, nil
}

func (a *app) stakeCmd() *cobra.Command {
	var f chainFlags
	var role, hot string
	c := &cobra.Command{
		Use:   "stake AMOUNT",
		Short: "Stake tokens as a validator or trainer",
		Long: `Stakes AMOUNT tokens of this peer's account, and registers its key to sign for it:
receipts, epochs, votes. --hot registers another key instead, a keystore or a
file with 64 hex digits, that cannot move the stake: keep this one offline then.`,
		Example: `  shoal stake 1000
  shoal stake 50 --role trainer
  shoal stake 1000 --hot hot.hex --dry-run`,
		Args: exactly("AMOUNT"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			n, err := spending(args[0])
			if err != nil {
				return err
			}
			r, err := roleOf(role)
			if err != nil {
				return err
			}
			// What may be refused goes before the money.
			if err := t.affords(ctx, n); err != nil {
				return err
			}
			if hot != "" {
				err = t.register(ctx, hot)
			} else {
				err = t.registerSelf(ctx)
			}
			if err != nil {
				return err
			}
			return t.pay(ctx, n, chain.Stake{Role: r, Amount: n})
		}),
	}
	f.add(c, true)
	roleFlag(c, &role)
	c.Flags().StringVar(&hot, "hot", "", "file with the secret of a hot key to register instead of this one")
	return c
}

// stakeFirst sees that what --stake asks for is staked before a peer takes part.
func (a *app) stakeFirst(ctx context.Context, kf keyFlags, tf takeFlags) error {
	if tf.stake == "" {
		return nil
	}
	want, err := spending(tf.stake)
	if err != nil {
		return err
	}
	r, err := roleOf(tf.role)
	if err != nil {
		return err
	}
	if _, err := a.openOrMakeKey(&kf); err != nil {
		return err
	}
	f := &chainFlags{keyFlags: kf, acts: true, timeout: 5 * time.Minute}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	t, err := a.teller(ctx, f)
	if err != nil {
		return err
	}
	defer t.close()
	k, err := t.ledger.Key(ctx, t.me)
	if err != nil {
		return err
	}
	if !k.Owner.IsZero() && k.Owner != t.me {
		return advise(fmt.Errorf("--stake: this peer's key signs for the account %s, which holds the stake", k.Owner), "stake there, with `shoal stake`, and join without --stake")
	}
	has, err := t.ledger.StakeOf(ctx, t.me, r)
	if err != nil {
		return err
	}
	if has.Active == nil || has.Active.Cmp(want) < 0 {
		n := want
		if has.Active != nil {
			n = new(big.Int).Sub(want, has.Active)
		}
		if err := t.spend(ctx, n, chain.Stake{Role: r, Amount: n}); err != nil {
			return err
		}
		a.say("staked %s as a %s, %s in all", chain.FormatAmount(n), tf.role, tf.stake)
	}
	return t.registerSelf(ctx)
}

// register makes the key in a file sign for this account, unless it does already.
func (t *teller) register(ctx context.Context, name string) error {
	secret, err := t.a.readSecret(ctx, name, "")
	if err != nil {
		return err
	}
	k, err := wire.NewKey(secret)
	if err != nil {
		return fmt.Errorf("hot key: %w", err)
	}
	if i, err := t.ledger.Key(ctx, chain.AddressOf(k)); err != nil || i.Owner == t.me && i.Until == 0 {
		return err
	}
	return t.registerKey(ctx, k)
}

// registerSelf lets the account's own key sign for it, unless it does already.
func (t *teller) registerSelf(ctx context.Context) error {
	if i, err := t.ledger.Key(ctx, t.me); err != nil || !i.Owner.IsZero() {
		return err
	}
	return t.registerKey(ctx, t.key)
}

func (t *teller) registerKey(ctx context.Context, k *wire.Key) error {
	nonce, err := t.ledger.KeyNonce(ctx, t.me)
	if err != nil {
		return err
	}
	now, err := t.ledger.Now(ctx)
	if err != nil {
		return err
	}
	deadline := now + 3600
	_, err = t.do(ctx, chain.RegisterKey{Key: chain.AddressOf(k), Deadline: deadline,
		Sig: chain.SignDigest(k, t.where.Book.KeyDigest(t.me, chain.AddressOf(k), nonce, deadline))})
	return err
}

func (a *app) unbondCmd() *cobra.Command {
	var f chainFlags
	var role string
	c := &cobra.Command{
		Use:   "unbond AMOUNT",
		Short: "Start to take stake back",
		Long: `AMOUNT counts for nothing from now on, can still be slashed, and can be taken by
"shoal withdraw" once the unbonding delay is over. A trainer that may not be in the run
without it leaves its roster, and must go on serving what audits of its work ask for:
let "shoal join" run until twice the audit window has passed ("shoal status" says which
round that is), or be convicted of withholding.`,
		Example: "  shoal unbond 1000 --role validator",
		Args:    exactly("AMOUNT"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			n, err := spending(args[0])
			if err != nil {
				return err
			}
			r, err := roleOf(role)
			if err != nil {
				return err
			}
			if r == chain.Trainer {
				if _, err := a.running(ctx); err != nil {
					a.say("note: no `shoal join` runs here: if work of this peer may still be audited, start it again and let it serve, or it may be convicted of withholding")
				}
			}
			if _, err := t.do(ctx, chain.Unbond{Role: r, Amount: n}); err != nil {
				return err
			}
			return t.done()
		}),
	}
	f.add(c, true)
	roleFlag(c, &role)
	return c
}

func (a *app) withdrawCmd() *cobra.Command {
	var f chainFlags
	var role string
	var bonds bool
	c := &cobra.Command{
		Use:   "withdraw",
		Short: "Take what has finished unbonding, or free bonds",
		Example: `  shoal withdraw --role trainer
  shoal withdraw --bonds`,
		Args: exactly(),
		RunE: a.at(&f, func(ctx context.Context, t *teller, _ []string) error {
			r, err := roleOf(role)
			if err != nil {
				return err
			}
			var act chain.Action = chain.Withdraw{Role: r}
			if bonds {
				free, err := t.ledger.Bonds(ctx, t.me)
				if err != nil {
					return err
				}
				if free.Sign() == 0 {
					return advise(errors.New("no bond is free"), "bonds of a live proposal come back when it is final: `shoal dispute status RUN`")
				}
				act = chain.WithdrawBond{Amount: free}
			}
			if _, err := t.do(ctx, act); err != nil {
				var no *chain.Refusal
				if errors.As(err, &no) && no.Reason == "NothingMatured" {
					if when := t.matures(ctx, r); when > 0 {
						return advise(err, "the next part is free %s", time.Unix(int64(when), 0).Format(time.RFC1123))
					}
				}
				return err
			}
			return t.done()
		}),
	}
	f.add(c, true)
	roleFlag(c, &role)
	c.Flags().BoolVar(&bonds, "bonds", false, "take the bonds of no live proposal instead")
	return c
}

// matures is when the next unbonding is over, 0 if there is none.
func (t *teller) matures(ctx context.Context, role uint8) (first uint64) {
	s, err := t.ledger.StakeOf(ctx, t.me, role)
	if err != nil {
		return 0
	}
	for _, u := range s.Leaving {
		if first == 0 || u.Matures < first {
			first = u.Matures
		}
	}
	return first
}

// runOf finds a run's ID: 64 hex digits, or a manifest's CID or file with the
// account that published it, by default the one that signed the manifest, or this one.
func (t *teller) runOf(s, sponsor string) (chain.Hash, error) {
	who := t.me
	if sponsor != "" {
		var err error
		if who, err = chain.ParseAddress(sponsor); err != nil {
			return chain.Hash{}, usagef("--sponsor: %v", err)
		}
	}
	if h, err := chain.ParseHash(s); err == nil {
		return h, nil
	}
	c, err := wire.ParseCID(s)
	if err != nil {
		var m *manifest.Manifest
		if m, c, err = readManifest(s); err == nil && m.Sponsor != nil && sponsor == "" {
			who = chain.Address(m.Sponsor.Address)
		}
		if err != nil {
			return chain.Hash{}, advise(fmt.Errorf("%q is no run: %w", s, err), "give the ID on the ledger (0x…), the manifest's CID, or its file")
		}
	}
	d, err := chain.Digest(c)
	return chain.RunID(d, who), err
}

func (a *app) balanceCmd() *cobra.Command {
	var f chainFlags
	c := &cobra.Command{
		Use:     "balance [ADDRESS]",
		Short:   "Show tokens, stakes, bonds and ether for gas",
		Example: "  shoal balance\n  shoal balance 0x71562b71999873db5b286df957af199ec94617f7 --json",
		Args:    atMost("ADDRESS"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			who := t.me
			if len(args) == 1 {
				var err error
				if who, err = chain.ParseAddress(args[0]); err != nil {
					return usageError{err, "`shoal key show` prints an account's address"}
				}
			}
			tokens, err := t.ledger.Balance(ctx, who)
			if err != nil {
				return err
			}
			wei, err := t.ledger.Gas(ctx, who)
			if err != nil {
				return err
			}
			bonds, err := t.ledger.Bonds(ctx, who)
			if err != nil {
				return err
			}
			v := map[string]any{"address": who, "tokens": chain.FormatAmount(tokens), "ether": chain.FormatAmount(wei), "bonds": chain.FormatAmount(bonds)}
			var b strings.Builder
			fmt.Fprintf(&b, "%s\n  tokens  %s\n  ether   %s\n  bonds   %s\n", who, v["tokens"], v["ether"], v["bonds"])
			for role, name := range []string{"trainer", "validator"} {
				s, err := t.ledger.StakeOf(ctx, who, uint8(role))
				if err != nil {
					return err
				}
				v[name] = map[string]any{"active": chain.FormatAmount(s.Active), "leaving": s.Leaving}
				fmt.Fprintf(&b, "  staked  %s as %s\n", chain.FormatAmount(s.Active), name)
				for _, u := range s.Leaving {
					fmt.Fprintf(&b, "          %s leaves, free %s\n", chain.FormatAmount(u.Amount), time.Unix(int64(u.Matures), 0).Format(time.RFC1123))
				}
			}
			return a.show(v, b.String())
		}),
	}
	f.add(c, false)
	return c
}

func (a *app) sharesCmd() *cobra.Command {
	var f chainFlags
	var sponsor string
	var mint, collect bool
	c := &cobra.Command{
		Use:   "shares RUN",
		Short: "Show, mint and collect on the ownership shares of a run",
		Long: `A share of a run's model is minted for each unit of reward that was claimed.
--mint mints those of this account; --collect pays out what its shares have
earned from paid inference.`,
		Example: "  shoal shares run.yaml --mint --collect",
		Args:    exactly("RUN"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			id, err := t.runOf(args[0], sponsor)
			if err != nil {
				return err
			}
			if mint {
				if _, err := t.do(ctx, chain.MintShares{Run: id, Account: t.me}); err != nil {
					return err
				}
			}
			if collect {
				if _, err := t.do(ctx, chain.Collect{Run: id, Holder: t.me}); err != nil {
					return err
				}
			}
			if mint || collect {
				if err := t.done(); err != nil || f.dry || a.json {
					return err
				}
			}
			s, err := t.ledger.SharesOf(ctx, id, t.me)
			if err != nil {
				return err
			}
			v := map[string]any{"run": id, "shares": chain.FormatAmount(s.Balance), "supply": chain.FormatAmount(s.Supply), "owed": chain.FormatAmount(s.Owed)}
			return a.show(v, fmt.Sprintf("%s of %s shares, %s to collect\n", v["shares"], v["supply"], v["owed"]))
		}),
	}
	f.add(c, true)
	c.Flags().BoolVar(&mint, "mint", false, "mint the shares of what was claimed")
	c.Flags().BoolVar(&collect, "collect", false, "collect what the shares have earned")
	c.Flags().StringVar(&sponsor, "sponsor", "", "address that published the run (default this account)")
	return c
}

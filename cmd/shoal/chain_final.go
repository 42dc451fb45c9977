package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/p2p/wire"
)

// maxApprovals bounds a file of approvals, in bytes.
const maxApprovals = 16 << 20

// hotKey is the key that signs for an account: the one in a file, or this
// peer's own where it is registered as one.
func (t *teller) hotKey(ctx context.Context, name string) (*wire.Key, chain.Address, error) {
	k := t.key
	if name != "" {
		secret, err := t.a.readSecret(ctx, name, "")
		if err != nil {
			return nil, chain.Address{}, err
		}
		if k, err = wire.NewKey(secret); err != nil {
			return nil, chain.Address{}, fmt.Errorf("hot key %s: %w", name, err)
		}
	}
	i, err := t.ledger.Key(ctx, chain.AddressOf(k))
	if err != nil {
		return nil, chain.Address{}, err
	}
	if i.Owner.IsZero() || i.Until != 0 {
		return nil, i.Owner, advise(fmt.Errorf("%s is not a registered hot key, or not any more", chain.AddressOf(k)),
			"name the file of one with --hot; `shoal chain key register FILE` registers one")
	}
	return k, i.Owner, nil
}

// recompute says why x is not what follows from its own receipts and the
// ledger, nil if it is.
func (t *teller) recompute(ctx context.Context, x *chain.Settled, previous string) error {
	if same, err := seal(x, t.where.Book); err != nil || !same {
		return errors.Join(errors.New("the file is not what the epoch's roots stand for"), err)
	}
	b, err := t.basis(ctx, x.Epoch.Run, x.Epoch.Number, x.Epoch.Commit, previous)
	if err != nil {
		return err
	}
	y, _, err := chain.Settle(b, x.Entries)
	if t.failed != nil {
		return t.failed
	}
	if err != nil {
		return fmt.Errorf("epoch %d: %w", x.Epoch.Number, err)
	}
	if y.Epoch.Hash() != x.Epoch.Hash() {
		return fmt.Errorf("epoch %d: recomputed from its receipts it has rewards %s and total %s, the file says %s and %s", x.Epoch.Number,
			y.Epoch.Rewards, chain.FormatAmount(y.Epoch.Total), x.Epoch.Rewards, chain.FormatAmount(x.Epoch.Total))
	}
	return nil
}

func (a *app) epochSignCmd() *cobra.Command {
	var f chainFlags
	var hot, previous, into string
	c := &cobra.Command{
		Use:   "sign FILE",
		Short: "Recompute an epoch and sign it, so that it can be finalized at once",
		Long: `Recomputes FILE from its receipts and the ledger, and signs it with a validator's
hot key. The signature is added to --into, which validators pass on or each make
for themselves: "shoal epoch finalize FILE --approvals" takes several. Those of
two thirds of the validators' stake finalize the epoch without waiting. Nothing
is sent to the chain. What cannot be recomputed here, the training itself, is
yours to have audited before you sign.`,
		Example: `  shoal epoch sign epoch3.json --previous epoch2.json --hot hot.hex --into approvals3.json
  shoal epoch finalize epoch3.json --approvals approvals3.json`,
		Args: exactly("FILE"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			x, err := readEpoch(args[0])
			if err != nil {
				return err
			}
			k, owner, err := t.hotKey(ctx, hot)
			if err != nil {
				return err
			}
			if err := t.recompute(ctx, x, previous); err != nil {
				var use usageError
				if errors.As(err, &use) {
					return err
				}
				return advise(fmt.Errorf("not signed: %w", err), "if it is proposed, `shoal epoch challenge %s`", args[0])
			}
			as, err := readApprovals(into)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			ap := t.where.Book.Approve(k, &x.Epoch)
			if !slices.ContainsFunc(as, func(b chain.Approval) bool { return b.Key == ap.Key && b.Epoch == ap.Epoch }) {
				as = append(as, ap)
			}
			q, err := chain.Count(ctx, t.ledger, &x.Epoch, as)
			if err != nil {
				return err
			}
			enc, err := json.MarshalIndent(as, "", "  ")
			if err != nil {
				return err
			}
			if !f.dry {
				if err := writeFile(into, append(enc, '\n'), 0o644); err != nil {
					return fmt.Errorf("approvals: %w", err)
				}
			}
			for _, e := range q.Refused {
				a.say("does not count: %v", e)
			}
			text := fmt.Sprintf("signed epoch %d for %s with %s\n%s holds %s of %s stake", x.Epoch.Number, owner, ap.Key, into, chain.FormatAmount(q.Weight), chain.FormatAmount(q.Total))
			if q.Enough {
				text += fmt.Sprintf(": enough; next: `shoal epoch finalize %s --approvals %s`\n", args[0], into)
			} else {
				text += ", two thirds are needed\n"
			}
			return a.show(map[string]any{"approval": ap, "owner": owner, "quorum": q, "file": into, "dry_run": f.dry}, text)
		}),
	}
	f.add(c, true)
	c.Flags().StringVar(&hot, "hot", "", "file with the secret of the hot key (default this peer's key)")
	c.Flags().StringVar(&previous, "previous", "", "file of the last final epoch")
	c.Flags().StringVar(&into, "into", "approvals.json", "file to add the signature to")
	return c
}

func readApprovals(name string) ([]chain.Approval, error) {
	b, err := readBounded(name, maxApprovals)
	if err != nil {
		return nil, fmt.Errorf("approvals: %w", err)
	}
	var as []chain.Approval
	if err := hf.Unmarshal(b, &as); err != nil {
		return nil, advise(fmt.Errorf("approvals: %s: %w", name, err), "give a file that `shoal epoch sign` has made")
	}
	return as, nil
}

func (a *app) epochFinalizeCmd() *cobra.Command {
	var f chainFlags
	var approvals []string
	c := &cobra.Command{
		Use:   "finalize FILE",
		Short: "Finalize a proposed epoch, by validators' signatures or by nobody's objection",
		Long: `With --approvals, files that "shoal epoch sign" has made, the epoch is final at
once if they hold the signatures of two thirds of the validators' stake. Without,
it is final once the time for challenges is over.`,
		Example: `  shoal epoch finalize epoch3.json
  shoal epoch finalize epoch3.json --approvals alice.json,bob.json`,
		Args: exactly("FILE"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			x, err := readEpoch(args[0])
			if err != nil {
				return err
			}
			var act chain.Action = chain.Finalize{Epoch: x.Epoch}
			if len(approvals) > 0 {
				var as []chain.Approval
				for _, name := range approvals {
					more, err := readApprovals(name)
					if err != nil {
						return err
					}
					as = append(as, more...)
				}
				q, err := chain.Count(ctx, t.ledger, &x.Epoch, as)
				if err != nil {
					return err
				}
				for _, e := range q.Refused {
					a.say("does not count: %v", e)
				}
				if !q.Enough {
					return advise(fmt.Errorf("the signatures are of %s of %s stake, two thirds are needed", chain.FormatAmount(q.Weight), chain.FormatAmount(q.Total)),
						"ask more validators to `shoal epoch sign` it, or wait for the end of the challenge window and finalize without --approvals")
				}
				act = chain.FinalizeFast{Epoch: x.Epoch, Sigs: q.Sigs}
			}
			if _, err := t.do(ctx, act); err != nil {
				return t.whyNotFinal(ctx, x, err)
			}
			return t.done()
		}),
	}
	f.add(c, true)
	c.Flags().StringSliceVar(&approvals, "approvals", nil, "files of signatures, to finalize at once")
	return c
}

// whyNotFinal says what a refused finalization waits for.
func (t *teller) whyNotFinal(ctx context.Context, x *chain.Settled, err error) error {
	var r *chain.Refusal
	if !errors.As(err, &r) {
		return err
	}
	p, e := t.ledger.Proposal(ctx, x.Epoch.Run)
	if e != nil {
		return err
	}
	switch r.Reason {
	case "TooEarly":
		return advise(err, "challenges are possible until %s: try again then, or give the validators' signatures with --approvals", clock(p.Deadline))
	case "Challenged":
		return advise(err, "%d challenges are open: `shoal dispute status %s`", p.Open, x.Epoch.Run)
	case "NotProposed":
		if f, e := t.ledger.Final(ctx, x.Epoch.Run); e == nil && f.Rewards == x.Epoch.Rewards {
			return advise(err, "epoch %d is final already: `shoal claim` it", x.Epoch.Number)
		}
		return advise(err, "propose it with `shoal epoch propose`; the run's last proposal is %s", p.Status)
	}
	return err
}

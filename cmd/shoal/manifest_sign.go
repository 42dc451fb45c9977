package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/node/manifest"
)

func (a *app) manifestSignCmd() *cobra.Command {
	var kf keyFlags
	var budget string
	c := &cobra.Command{
		Use:   "sign FILE",
		Short: "Sign a manifest as the run's sponsor",
		Long: `Makes this peer's account the sponsor of the run, who stands for its budget, and
writes the manifest back with every field spelled out and without comments. The
run's ID changes. --budget promises so many tokens of the ledger that this peer
settles on (` + chainFile + `).`,
		Example: `  shoal manifest sign run.yaml --budget 5000
  shoal fund run.yaml 5000 --budget 100 --epoch 1h`,
		Args: exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			m, _, err := readManifest(args[0])
			if err != nil {
				return err
			}
			k, err := a.openKey(&kf)
			if err != nil {
				return err
			}
			if budget != "" {
				if err := a.promise(m, budget); err != nil {
					return err
				}
			}
			if err := m.Sign(k); err != nil {
				return err
			}
			text, err := m.YAML()
			if err != nil {
				return err
			}
			run, err := m.CID()
			if err != nil {
				return err
			}
			if err := writeFile(args[0], text, 0o644); err != nil {
				return fmt.Errorf("manifest: %w", err)
			}
			return a.show(map[string]any{"run": run, "sponsor": m.Sponsor.Address}, fmt.Sprintf("run %s, sponsored by %s\n", run, m.Sponsor.Address))
		},
	}
	kf.add(c)
	c.Flags().StringVar(&budget, "budget", "", "tokens that the sponsor promises for the whole run")
	return c
}

// promise writes a budget into the manifest, in the token of the data directory's ledger.
func (a *app) promise(m *manifest.Manifest, budget string) error {
	n, err := amountOf(budget)
	if err != nil {
		return err
	}
	var d deployment
	b, err := readBounded(a.path(chainFile), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return advise(errors.New("this peer knows no ledger, whose token would the budget be in?"), "`shoal chain deploy`, or copy a swarm's %s to %s", chainFile, a.dir)
	} else if err != nil {
		return fmt.Errorf("deployment: %w", err)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return fmt.Errorf("deployment: %s: %w", a.path(chainFile), err)
	}
	m.Rewards.Budget, m.Rewards.Token = n.String(), manifest.Address(d.Book.Contracts[chain.Token])
	return nil
}

func (a *app) sendCmd() *cobra.Command {
	var f chainFlags
	c := &cobra.Command{
		Use:     "send AMOUNT ADDRESS...",
		Short:   "Send tokens to other accounts, the same amount to each",
		Example: "  shoal send 100 0x71562b71999873db5b286df957af199ec94617f7",
		Args:    cobra.MinimumNArgs(2),
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		n, err := amountOf(args[0])
		if err != nil {
			return err
		}
		var to []chain.Address
		for _, s := range args[1:] {
			x, err := chain.ParseAddress(s)
			if err != nil {
				return usageError{err, ""}
			}
			to = append(to, x)
		}
		return a.at(&f, func(ctx context.Context, t *teller, _ []string) error {
			if f.dry {
				for _, x := range to {
					if _, err := t.do(ctx, chain.Transfer{To: x, Amount: n}); err != nil {
						return fmt.Errorf("to %s: %w", x, err)
					}
				}
				return t.done()
			}
			// All at once: each waits for the chain, none for another.
			errs := make([]error, len(to))
			sent := make([]sentTx, len(to))
			var work sync.WaitGroup
			for i, x := range to {
				work.Go(func() {
					r, err := t.ledger.Do(ctx, t.me, chain.Transfer{To: x, Amount: n})
					if err != nil {
						errs[i] = fmt.Errorf("to %s: %w", x, err)
						return
					}
					sent[i] = sentTx{Action: "Transfer", Tx: &r.Tx, Gas: r.Gas}
				})
			}
			work.Wait()
			if err := errors.Join(errs...); err != nil {
				return err
			}
			t.sent = sent
			return t.done()
		})(cmd, args)
	}
	f.add(c, true)
	return c
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/big"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
)

// convicted is one whom two thirds of the validators have brought before the ledger.
type convicted struct {
	ID  chain.Hash    `json:"id"`
	Key chain.Address `json:"key"` // the peer's
	chain.Sentence
}

// open says that the stake is there still, and in question.
func (x *convicted) open() bool { return x.Phase == chain.Reported || x.Phase == chain.UnderAppeal }

func (x *convicted) describe(now uint64) string {
	what := fmt.Sprintf("conviction %s of %s: ", x.ID, x.Account)
	switch {
	case x.open() && now > x.Deadline:
		return what + "`shoal dispute resolve` carries it out\n"
	case x.Phase == chain.Reported:
		return fmt.Sprintf("%s%d.%02d %% of its stakes; it may appeal until %s: `shoal dispute appeal %s %s`\n", what, x.Bps/100, x.Bps%100, clock(x.Deadline), x.Run, x.ID)
	case x.Phase == chain.UnderAppeal:
		return fmt.Sprintf("%sbefore governance until %s: `shoal govern propose --rule %s=…`\n", what, clock(x.Deadline), x.ID)
	}
	return what + x.Phase.String() + "\n"
}

func (a *app) disputeAppealCmd() *cobra.Command {
	return a.onRun(&cobra.Command{
		Use:   "appeal RUN [CONVICTION]",
		Short: "Take the validators' verdict to governance",
		Long: `Without CONVICTION, the verdict on the run's challenged epoch; with it, what the
validators have convicted this account of: "shoal dispute status RUN" shows it and
until when. Either costs twice a challenger's bond, which comes back if governance
decides otherwise. Holders of the token then rule: "shoal govern propose --rule".`,
		Example: `  shoal dispute appeal run.yaml
  shoal dispute appeal run.yaml 0x9c41… --dry-run`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactly("RUN", "CONVICTION")(cmd, args)
			}
			return exactly("RUN")(cmd, args)
		},
	}, true, func(ctx context.Context, t *teller, run chain.Hash, args []string) error {
		twice := new(big.Int).Lsh(num(t.where.Config.ChallengeBond), 1)
		if len(args) == 1 {
			return t.pay(ctx, twice, chain.Appeal{Run: run})
		}
		id, err := chain.ParseHash(args[1])
		if err != nil {
			return usageError{fmt.Errorf("CONVICTION: %w", err), "`shoal dispute status RUN` shows it"}
		}
		x, err := t.ledger.Sentence(ctx, id)
		switch {
		case err != nil:
			return err
		case x.Phase == chain.NotReported || x.Run != run:
			return advise(fmt.Errorf("no conviction %s of run %s is on the ledger", id, run), "`shoal dispute status %s` shows those that are", run)
		case x.Phase != chain.Reported:
			return advise(fmt.Errorf("the conviction is %s", x.Phase), "`shoal dispute status %s` shows what is still possible", run)
		}
		return t.pay(ctx, twice, chain.AppealConviction{ID: id})
	})
}

func (a *app) disputeReportCmd() *cobra.Command {
	return a.atLedger(&cobra.Command{
		Use:   "report PEER|FILE",
		Short: "Have a peer slashed that has signed two messages against each other",
		Long: `A node keeps what convicts a PEER in its data directory, evidence/PEER.json, and shows
the peer in "shoal status". Any other FILE holds the two messages as peers have
exchanged them: JSON {"a": …, "b": …}, each with kind, run, from, body and sig. Two
deltas or votes for one parent, two attestations for one round, or one attestation
around another convict by themselves; a part of what is slashed is the reporter's.
The validators of a run do this of themselves for whom its final commits have evicted.`,
		Example: `  shoal dispute report 16Uiu2… --dry-run
  shoal dispute report evidence.json`,
		Args: exactly("PEER|FILE"),
	}, true, func(ctx context.Context, t *teller, args []string) error {
		name := args[0]
		if p, err := wire.ParsePeer(name); err == nil {
			name = node.EvidenceFile(a.dir, p)
		}
		e, err := readEvidence(name)
		if errors.Is(err, fs.ErrNotExist) && name != args[0] {
			return advise(fmt.Errorf("this node has seen no contradiction of %s", args[0]), "ask a peer that lists it as evicted for its %s", name)
		}
		if err != nil {
			return err
		}
		for _, s := range []wire.Signed{e.A, e.B} {
			if err := s.Verify(); err != nil {
				return fmt.Errorf("evidence: %s: %w", name, err)
			}
			if _, err := diloco.Open(&s); err != nil {
				a.say("note: no honest peer would have taken this message: %v", err)
			}
		}
		if e.A.Run != e.B.Run || e.A.Kind != e.B.Kind || e.A.From != e.B.From {
			return advise(errors.New("evidence: the two messages are not of one peer, kind and run"), "give two that contradict each other")
		}
		return t.all(ctx, chain.NewReport(e.A, e.B))
	})
}

// readEvidence reads what node.EvidenceFile names.
func readEvidence(name string) (e diloco.Evidence, err error) {
	b, err := readBounded(name, 4*wire.MaxMessage)
	if err != nil {
		return e, fmt.Errorf("evidence: %w", err)
	}
	if err := hf.Unmarshal(b, &e); err != nil {
		return e, advise(fmt.Errorf("evidence: %s: %w", name, err), "give a file that a node has written")
	}
	return e, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// exitUnknown is the exit code of a check that could not be made.
const exitUnknown = 3

func (a *app) auditCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "audit",
		Short: "See who audited whom, and check an accusation",
		Long: `Validators (shoal join RUN --role validator) replay parts of what trainers did. Their verdicts
are in the run's chain; one that accuses names evidence, which anybody can check.`,
		Example: `  shoal audit list moby
  shoal audit verify bafyreib3…`,
	}, a.auditListCmd(), a.auditVerifyCmd())
}

func (a *app) auditVerifyCmd() *cobra.Command {
	var kf keyFlags
	var nf netFlags
	var patience time.Duration
	c := &cobra.Command{
		Use:   "verify EVIDENCE",
		Short: "Replay the accused work and see for yourself",
		Long: `Fetches the evidence of a verdict and all that it names, from this data directory or the
swarm, trains the segment again and compares. Nothing that the accuser measured is
believed. Exit code 0 says that this replay finds the same, 1 that it does not, 3
that something which the replay needs could not be had.`,
		Example: `  shoal audit verify bafyreib3…
  shoal audit verify bafyreib3… --json | jq .agrees
  shoal audit verify bafyreib3… --bootstrap /ip4/203.0.113.7/udp/4747/quic-v1/p2p/16Uiu2…`,
		Args: exactly("EVIDENCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := wire.ParseCID(args[0])
			if err != nil {
				return usageError{fmt.Errorf("EVIDENCE: %w", err), "`shoal audit list RUN` shows the evidence of each accusation"}
			}
			s, running, err := a.visit(cmd.Context(), &kf, &nf)
			if err != nil {
				return exitError{err, exitUnknown}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), patience)
			defer cancel()
			return errors.Join(s.verifyEvidence(ctx, id, running), s.close())
		},
	}
	kf.add(c)
	nf.add(c)
	c.Flags().DurationVar(&patience, "timeout", 10*time.Minute, "how long the material is looked for and replayed")
	return c
}

func (s *session) verifyEvidence(ctx context.Context, id wire.CID, running *status) error {
	if running != nil || !s.store.Has(id) {
		if err := s.meet(ctx); err != nil {
			return exitError{err, exitUnknown}
		}
	}
	r, err := node.VerifyEvidence(ctx, node.EvidenceCheck{
		Blocks: s.blocks, Evidence: id, Peers: s.net.Peers(), Engine: engines(threads(0)), Log: slog.Default(),
	})
	if err != nil {
		return exitError{advise(err, "give the address of a peer that has it: shoal audit verify %s --bootstrap ADDRESS", id), exitUnknown}
	}
	if err := s.app.show(r, evidenceText(r)); err != nil || r.Agrees {
		return err
	}
	return advise(fmt.Errorf("the evidence %s is NOT borne out: it says %s, a replay finds %s", id, r.Claimed, r.Finding),
		"tell the run's validators; a false accusation costs its author the stake once they have looked")
}

func evidenceText(r *node.EvidenceReport) string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	numbers := func(list []audit.Number) {
		for _, n := range list {
			row("", "  %s %.4g, at most %.4g", n.Name, n.Value, n.Limit)
		}
	}
	row("run", "%s  %s", r.Name, r.Run)
	row("work", "%s %s of %s", r.Kind, r.Subject, r.Peer)
	row("", "round %d, segment %d", r.Round, r.Segment)
	row("accuser", "%s on %s", r.Auditor, r.Engine)
	row("says", "%s: %s", r.Claimed, r.Reason)
	numbers(r.Numbers)
	row("replay", "%s on %s", r.Finding, r.Own)
	if r.Found != "" {
		row("", "%s", r.Found)
	}
	numbers(r.FoundNums)
	row("agrees", "%v", r.Agrees)
	return b.String()
}

func (a *app) auditListCmd() *cobra.Command {
	var l lookFlags
	var from uint64
	c := &cobra.Command{
		Use:   "list RUN",
		Short: "List verdicts, open cases and convictions",
		Long:  "Reads the run's commits, from this data directory or the swarm: who audited what and found what.",
		Example: `  shoal audit list moby
  shoal audit list moby --from 40          # from that round on
  shoal audit list moby --json | jq '.convicted[].peer'`,
		Args: exactly("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.look(cmd.Context(), args[0], &l, func(s *session, at sight) error {
				return s.listAudits(cmd.Context(), at, from)
			})
		},
	}
	l.add(c)
	c.Flags().Uint64Var(&from, "from", 0, "the first round to look at")
	return c
}

func (s *session) listAudits(ctx context.Context, at sight, from uint64) error {
	tip := at.tip
	if r := at.running; r != nil && r.Run == at.run && r.Head.Defined() {
		tip = r.Head // what is not final yet is of interest here
	}
	l, err := node.ListAudits(ctx, s.blocks, tip, from, s.net.Peers())
	if err != nil {
		return err
	}
	return s.app.show(l, auditsText(l))
}

func auditsText(l *node.AuditList) string {
	var b strings.Builder
	fmt.Fprintf(&b, "rounds %d to %d: %d verdicts, %d open cases, %d convictions\n", l.From, l.Round, len(l.Verdicts), len(l.Cases), len(l.Convicted))
	for _, v := range l.Verdicts {
		fmt.Fprintf(&b, "%6d  %-8s  …%s on …%s, round %d, segment %d", v.Commit, v.Finding, v.By.Short(), v.Peer.Short(), v.Round, v.Segment)
		if v.Evidence.Defined() {
			fmt.Fprintf(&b, "  evidence %s", v.Evidence)
		}
		b.WriteString("\n")
	}
	for _, c := range l.Cases {
		fmt.Fprintf(&b, "open    …%s, round %d, segment %d: %d pass, %d wrong, %d withheld  evidence %s\n",
			c.Peer.Short(), c.Round, c.Segment, len(c.Pass), len(c.Wrong), len(c.Withheld), c.Evidence)
	}
	for _, x := range l.Convicted {
		fmt.Fprintf(&b, "%6d  convicted %s: %s", x.Round, x.Peer, x.Why)
		if x.Evidence.Defined() {
			fmt.Fprintf(&b, "  evidence %s", x.Evidence)
		}
		b.WriteString("\n")
	}
	return b.String()
}
